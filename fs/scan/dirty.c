/* SPDX-License-Identifier: Apache-2.0 */
/* The files whose content is not known: in which order, how they are opened, what reading them gave. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scan/snapshot.h"
#include "scan/walk.h"

/* ---- which ---- */

/* What the list is sorted by: extension, then the order in which a tour comes by. */
struct wanted {
	uint64_t head; /* the first bytes of the extension, which tell most of them apart */
	const char *ext, *name;
	uint32_t number;
	uint8_t ext_len, name_len;
	struct inlay_dirty dirty;
};

static void set_name(struct wanted *w, const char *name, uint8_t len)
{
	const char *dot = memrchr(name, '.', len);

	w->name = name;
	w->name_len = len;
	/* A dot in front makes a hidden file, not an extension. */
	if (!dot || dot == name)
		return;
	w->ext = dot + 1;
	w->ext_len = (uint8_t)(name + len - w->ext);
	for (size_t i = 0; i < sizeof w->head; i++)
		w->head = w->head << 8 | (i < w->ext_len ? (uint8_t)w->ext[i] : 0);
}

static int compare_bytes(const char *a, size_t na, const char *b, size_t nb)
{
	size_t len = na < nb ? na : nb;
	int c = len ? memcmp(a, b, len) : 0;

	return c ? c : (na > nb) - (na < nb);
}

static int by_extension(const void *a, const void *b)
{
	const struct wanted *x = a, *y = b;

	if (x->head != y->head)
		return x->head < y->head ? -1 : 1;
	int c = compare_bytes(x->ext, x->ext_len, y->ext, y->ext_len);
	return c ? c : (x->number > y->number) - (x->number < y->number);
}

static int by_name(const void *a, const void *b)
{
	const struct wanted *x = a, *y = b;

	return compare_bytes(x->name, x->name_len, y->name, y->name_len);
}

static bool has_dirty(const struct scan_dir *d)
{
	return d->sums.dirty > 0;
}

/* Appends the dirty files directly in the directory at hand, by name. */
static int add_directory(struct scan_tour *t, const struct scan_dir *d, struct inlay_buf *list,
			 struct inlay_error *err)
{
	size_t start = list->len / sizeof(struct wanted);
	struct scan_place *place = NULL;
	uint32_t first = 0;

	for (uint32_t n = 0; n < d->block_count; first += d->blocks[n++]->count) {
		const struct scan_block *b = d->blocks[n];
		for (uint32_t i = 0; i < b->count; i++) {
			const struct scan_entry *e = &b->entries[i];
			if (!(e->flags & SCAN_DIRTY))
				continue;
			place = place ? place : scan_tour_place(t);
			if (!place)
				return inlay_error_set(err, -ENOMEM, "out of memory");
			struct wanted w = {.dirty = {.snapshot = t->snapshot,
						     .size = e->size,
						     .place = place,
						     .entry = first + i}};
			set_name(&w, scan_name(b, e), e->name_len);
			inlay_buf_add(list, &w, sizeof w);
		}
	}
	int r = inlay_buf_check(list, err);
	if (r < 0)
		return r;
	size_t count = list->len / sizeof(struct wanted);
	struct wanted *w = (struct wanted *)list->data;
	if (count > start)
		qsort(w + start, count - start, sizeof *w, by_name);
	for (size_t i = start; i < count; i++)
		w[i].number = (uint32_t)i;
	return 0;
}

int inlay_snapshot_dirty(struct inlay_snapshot *s, struct inlay_dirty **ret, size_t *ret_count,
			 struct inlay_error *err)
{
	auto_of(scan_tour_fini) struct scan_tour t = {.snapshot = s, .into = has_dirty};
	auto_buf struct inlay_buf list = {0};
	struct scan_dir *d;
	int r;

	while ((r = scan_tour_next(&t, &d, err)) == 0) {
		r = add_directory(&t, d, &list, err);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	size_t count = list.len / sizeof(struct wanted);
	struct wanted *w = (struct wanted *)list.data;
	struct inlay_dirty *out = calloc(count + 1, sizeof *out);
	if (!out)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (count > 0)
		qsort(w, count, sizeof *w, by_extension);
	for (size_t i = 0; i < count; i++)
		out[i] = w[i].dirty;
	*ret = out;
	*ret_count = count;
	return 0;
}

/* The block and entry of a handle. */
static struct scan_entry *entry_of(const struct inlay_dirty *d, struct scan_block **ret_block,
				   uint32_t *ret_number)
{
	const struct scan_dir *dir = d->place->dir;
	uint32_t number = d->entry, b = 0;

	while (number >= dir->blocks[b]->count)
		number -= dir->blocks[b++]->count;
	*ret_block = dir->blocks[b];
	*ret_number = number;
	return &dir->blocks[b]->entries[number];
}

void inlay_dirty_path(const struct inlay_dirty *d, struct inlay_buf *buf)
{
	struct scan_block *b;
	uint32_t i;
	const struct scan_entry *e = entry_of(d, &b, &i);

	scan_place_path(d->place, buf);
	inlay_buf_add(buf, scan_name(b, e), e->name_len);
}

bool inlay_snapshot_find(struct inlay_snapshot *s, const struct inlay_digest *id,
			 struct inlay_dirty *ret)
{
	auto_of(scan_tour_fini) struct scan_tour t = {.snapshot = s};
	struct scan_dir *d;

	while (scan_tour_next(&t, &d, NULL) == 0) {
		uint32_t first = 0;
		for (uint32_t n = 0; n < d->block_count; first += d->blocks[n++]->count) {
			const struct scan_block *b = d->blocks[n];
			for (uint32_t i = 0; i < b->count; i++) {
				const struct scan_entry *e = &b->entries[i];
				if (!S_ISREG(e->mode) || (e->flags & SCAN_DIRTY) ||
				    !inlay_digest_equal(&e->id, id))
					continue;
				struct scan_place *place = scan_tour_place(&t);
				if (!place)
					return false;
				*ret = (struct inlay_dirty){.snapshot = s,
							    .size = e->size,
							    .place = place,
							    .entry = first + i};
				return true;
			}
		}
	}
	return false;
}

/* ---- reading ---- */

enum { FILE_FLAGS = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC };

/* The access time is nobody's business, but only the owner may leave it alone. */
static int open_quietly(int (*open_fn)(int fd, const char *path, int flags), int at,
			const char *path)
{
	int fd = open_fn(at, path, FILE_FLAGS | O_NOATIME);

	return fd < 0 && errno == EPERM ? open_fn(at, path, FILE_FLAGS) : fd;
}

static int open_beneath(int at, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)flags,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};

	return (int)syscall(SYS_openat2, at, path, &how, sizeof how);
}

static int open_name(int at, const char *path, int flags)
{
	return openat(at, path, flags);
}

/* One component after the other: for paths that no system call takes, and kernels (or filters) that
 * have no openat2. */
static int open_by_steps(int rootfd, char *path)
{
	auto_close int dir = -1;
	int at = rootfd;

	for (;;) {
		char *slash = strchr(path, '/');
		if (!slash)
			return open_quietly(open_name, at, path);
		*slash = 0;
		int next = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return -1;
		inlay_cleanup_close(&dir);
		at = dir = next;
		path = slash + 1;
	}
}

static int open_file(int rootfd, char *path, size_t len)
{
	if (len < PATH_MAX) {
		int fd = open_quietly(open_beneath, rootfd, path);
		if (fd >= 0 || errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
			return fd;
		/* What else it says can be its own matter (ENOSYS, EPERM, EAGAIN). */
	}
	return open_by_steps(rootfd, path);
}

static int64_t time_ns(struct timespec t)
{
	return scan_time_ns(t.tv_sec, (uint32_t)t.tv_nsec);
}

static struct inlay_stat stat_of(const struct stat *st)
{
	return (struct inlay_stat){
		.size = (uint64_t)st->st_size,
		.mtime_ns = time_ns(st->st_mtim),
		.ctime_ns = time_ns(st->st_ctim),
		.ino = st->st_ino,
		.dev = st->st_dev,
		.mode = st->st_mode,
	};
}

static int cannot_read(const char *path, size_t len, int code, struct inlay_error *err)
{
	auto_buf struct inlay_buf shown = {0};

	scan_show_path(&shown, path, len);
	return inlay_error_sys(err, code, "cannot read '%s'", inlay_buf_cstr(&shown));
}

/* The text may have been cut by open_by_steps, so it is made anew for the message. */
static int open_failed(const struct inlay_dirty *d, int code, struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};

	inlay_dirty_path(d, &path);
	return cannot_read((const char *)path.data, path.len, code, err);
}

int inlay_dirty_open(struct inlay_dirty *d, int rootfd, int *ret_fd, uint64_t *ret_size,
		     struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct stat st;

	inlay_dirty_path(d, &path);
	(void)inlay_buf_cstr(&path);
	int r = inlay_buf_check(&path, err);
	if (r < 0)
		return r;
	auto_close int fd = open_file(rootfd, (char *)path.data, path.len);
	if (fd < 0) {
		/* ENXIO: a socket. */
		if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENXIO)
			return INLAY_SCAN_GONE;
		return open_failed(d, -errno, err);
	}
	if (fstat(fd, &st) < 0)
		return open_failed(d, -errno, err);
	if (!S_ISREG(st.st_mode))
		return INLAY_SCAN_GONE;
	if ((uint64_t)st.st_size > INLAY_OBJECT_MAX)
		return open_failed(d, -EFBIG, err);
	d->opened = stat_of(&st);
	d->uid = st.st_uid;
	d->gid = st.st_gid;
	d->linked = st.st_nlink > 1;
	*ret_size = (uint64_t)st.st_size;
	*ret_fd = take_fd(fd);
	return 0;
}

static bool same_stat(const struct inlay_stat *a, const struct inlay_stat *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns &&
	       a->ino == b->ino && a->dev == b->dev && a->mode == b->mode;
}

int inlay_dirty_settle(struct inlay_dirty *d, int fd, const struct inlay_digest *id,
		       struct inlay_error *err)
{
	struct scan_block *b;
	struct stat st;
	uint32_t i;
	struct scan_entry *e = entry_of(d, &b, &i);

	if (fstat(fd, &st) < 0)
		return open_failed(d, -errno, err);
	struct inlay_stat now = stat_of(&st);
	if (!same_stat(&now, &d->opened))
		return INLAY_SCAN_CHANGED;
	/* A file that was found, not dirty: its entry may be shared, or in a mapping. */
	if (!(e->flags & SCAN_DIRTY))
		return inlay_digest_equal(&e->id, id) ? 0 : INLAY_SCAN_CHANGED;
	e->size = now.size;
	e->mtime_ns = now.mtime_ns;
	e->ctime_ns = now.ctime_ns;
	e->ino = now.ino;
	e->dev = now.dev;
	e->mode = (uint16_t)now.mode;
	e->id = *id;
	e->flags = d->linked ? SCAN_LINKED : 0;
	if (b->owners)
		((struct scan_owner *)b->owners)[i] = (struct scan_owner){d->uid, d->gid};
	return 0;
}
