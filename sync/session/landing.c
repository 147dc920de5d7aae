/* SPDX-License-Identifier: Apache-2.0 */
#include "session/landing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/tree.h"

#define RECORD_MAGIC "iPUL"

enum { RECORD_VERSION = 1, RECORD_FILE_MAX = 1 << 30 };

struct landing_record {
	struct inlay_digest id;
	char *path;
};

/* ---- what was brought before ---- */

static int by_path(const void *a, const void *b)
{
	const struct landing_record *x = a, *y = b;

	return strcmp(x->path, y->path);
}

static struct landing_record *find_record(const struct landing *l, const char *path)
{
	struct landing_record key = {.path = (char *)(uintptr_t)path};

	for (size_t i = l->sorted; i < l->count; i++)
		if (strcmp(l->records[i].path, path) == 0)
			return &l->records[i];
	return l->sorted ? bsearch(&key, l->records, l->sorted, sizeof key, by_path) : NULL;
}

static int remember(struct landing *l, const char *path, const struct inlay_digest *id,
		    struct inlay_error *err)
{
	struct landing_record *r = find_record(l, path);

	if (r) {
		r->id = *id;
		return 0;
	}
	if (l->count == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		r = reallocarray(l->records, cap, sizeof *r);
		if (!r)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		l->records = r;
		l->cap = cap;
	}
	r = &l->records[l->count];
	*r = (struct landing_record){*id, strdup(path)};
	if (!r->path)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	l->count++;
	return 0;
}

void landing_encode(const struct landing *l, struct inlay_buf *b)
{
	inlay_buf_add(b, RECORD_MAGIC, 4);
	inlay_buf_u8(b, RECORD_VERSION);
	inlay_buf_varint(b, l->count);
	for (size_t i = 0; i < l->count; i++) {
		inlay_buf_add(b, l->records[i].id.b, INLAY_DIGEST_BYTES);
		inlay_buf_string(b, l->records[i].path, strlen(l->records[i].path));
	}
	inlay_buf_u64(b, inlay_xxh3(b->data, b->len));
}

int landing_decode(struct landing *l, const void *bytes, size_t len, struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	const uint8_t *magic = inlay_cursor_bytes(&c, 4);
	uint8_t version = inlay_cursor_u8(&c);
	uint64_t count = inlay_cursor_varint(&c);

	if (!magic || memcmp(magic, RECORD_MAGIC, 4) != 0 || version != RECORD_VERSION)
		return inlay_error_set(err, -EBADMSG, "not a list of what was pulled");
	for (uint64_t i = 0; i < count && !c.failed; i++) {
		struct inlay_digest id;
		size_t n;
		const uint8_t *b = inlay_cursor_bytes(&c, INLAY_DIGEST_BYTES);
		const char *path = (const char *)inlay_cursor_string(&c, INLAY_PATH_MAX, &n);
		c.failed |= !path || !landing_path_allowed(path, n);
		if (c.failed)
			break;
		memcpy(id.b, b, INLAY_DIGEST_BYTES);
		auto_free char *copy = strndup(path, n);
		if (!copy)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		int r = remember(l, copy, &id, err);
		if (r < 0)
			return r;
	}
	uint64_t sum = inlay_cursor_u64(&c);
	if (!inlay_cursor_done(&c) || sum != inlay_xxh3(bytes, len - 8))
		return inlay_error_set(err, -EBADMSG, "a damaged list of what was pulled");
	return 0;
}

static void forget_records(struct landing *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->records[i].path);
	l->count = l->sorted = 0;
}

/* A list that cannot be read only makes us ask more often. */
static int load_records(struct landing *l, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(l->state_fd, l->record, RECORD_FILE_MAX, &b, err);

	if (r == INLAY_IO_MISSING)
		return 0;
	if (r == 0)
		r = landing_decode(l, b.data, b.len, err);
	if (r == -EBADMSG || r == -E2BIG) {
		forget_records(l);
		return 0;
	}
	if (r == 0 && l->count) {
		qsort(l->records, l->count, sizeof *l->records, by_path);
		l->sorted = l->count;
	}
	return r;
}

int landing_save(struct landing *l, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	if (l->count == 0)
		return 0;
	landing_encode(l, &b);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : inlay_replace_file(l->state_fd, l->record, b.data, b.len, 0600, 0, err);
}

/* ---- the folder ---- */

int landing_open(struct landing *l, const char *folder, const char *state, bool force,
		 struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	*l = (struct landing){.root = -1, .state_fd = -1, .force = force};
	inlay_buf_printf(&path, "%s/pulled", state);
	int r = inlay_buf_check(&path, err);
	if (r == 0)
		r = inlay_open_dir(AT_FDCWD, inlay_buf_cstr(&path), 0700, &l->state_fd, err);
	if (r == 0)
		r = inlay_open_dir(AT_FDCWD, folder, 0777, &l->root, err);
	if (r < 0)
		return r;
	auto_free char *full = realpath(folder, NULL);
	if (!full)
		return inlay_error_sys(err, -errno, "resolve %s", folder);
	inlay_digest_of(full, strlen(full), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(l->record, sizeof l->record, "%.16s", hex);
	return load_records(l, err);
}

void landing_close(struct landing *l)
{
	forget_records(l);
	free(l->records);
	inlay_cleanup_close(&l->root);
	inlay_cleanup_close(&l->state_fd);
	*l = (struct landing){.root = -1, .state_fd = -1};
}

bool landing_path_allowed(const char *path, size_t len)
{
	size_t depth = 0;

	if (len == 0 || len > INLAY_PATH_MAX || memchr(path, 0, len))
		return false;
	for (size_t at = 0; at <= len; depth++) {
		const char *slash = at < len ? memchr(path + at, '/', len - at) : NULL;
		size_t n = slash ? (size_t)(slash - path) - at : len - at;
		if (!inlay_name_valid(path + at, n) || depth > INLAY_DEPTH_MAX)
			return false;
		if (n == 4 && strncasecmp(path + at, ".git", 4) == 0)
			return false;
		at += n + 1;
	}
	return true;
}

static int open_below(int dir, const char *name)
{
	struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					  RESOLVE_NO_MAGICLINKS};
	int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof how);

	/* Kernels before 5.6: one plain name at a time is as safe. */
	if (fd < 0 && errno == ENOSYS)
		fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd;
}

/* The directory of the last component, made with its parents. */
static int open_parent(struct landing *l, const char *path, int *ret_dir, const char **ret_name,
		       struct inlay_error *err)
{
	auto_close int dir = fcntl(l->root, F_DUPFD_CLOEXEC, 0);
	char name[INLAY_NAME_MAX + 1];

	if (dir < 0)
		return inlay_error_sys(err, -errno, "open the folder");
	for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
		(void)snprintf(name, sizeof name, "%.*s", (int)(slash - path), path);
		if (mkdirat(dir, name, 0777) < 0 && errno != EEXIST)
			return inlay_error_sys(err, -errno, "make the directory %s", name);
		int next = open_below(dir, name);
		if (next < 0)
			return inlay_error_sys(err, -errno, "enter %s (symlinks are not followed)",
					       name);
		(void)close(dir);
		dir = next;
	}
	*ret_dir = take_fd(dir);
	*ret_name = path;
	return 0;
}

int landing_dir(struct landing *l, const char *path, struct inlay_error *err)
{
	auto_close int dir = -1;
	const char *name;
	struct stat st;
	int r = open_parent(l, path, &dir, &name, err);

	if (r < 0)
		return r;
	if (mkdirat(dir, name, 0777) == 0)
		return LANDING_NEW;
	if (errno != EEXIST)
		return inlay_error_sys(err, -errno, "make the directory %s", path);
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return inlay_error_sys(err, -errno, "look at %s", path);
	return S_ISDIR(st.st_mode) ? LANDING_SAME : LANDING_CONFLICT;
}

static void temp_name(char ret[static 40])
{
	static unsigned count;

	(void)snprintf(ret, 40, ".inlay-pull-%d-%u", getpid(), count++);
}

int landing_symlink(struct landing *l, const char *path, const char *target,
		    struct inlay_error *err)
{
	auto_close int dir = -1;
	const char *name;
	char there[INLAY_LINK_MAX + 1], temp[40];
	struct stat st;
	int r = open_parent(l, path, &dir, &name, err);

	if (r < 0)
		return r;
	if (symlinkat(target, dir, name) == 0)
		return LANDING_NEW;
	if (errno != EEXIST)
		return inlay_error_sys(err, -errno, "make the symlink %s", path);
	ssize_t n = readlinkat(dir, name, there, sizeof there);
	if (n >= 0 && (size_t)n == strlen(target) && memcmp(there, target, (size_t)n) == 0)
		return LANDING_SAME;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode) || !l->force)
		return LANDING_CONFLICT;
	temp_name(temp);
	if (symlinkat(target, dir, temp) < 0)
		return inlay_error_sys(err, -errno, "make the symlink %s", path);
	if (renameat(dir, temp, dir, name) < 0) {
		r = inlay_error_sys(err, -errno, "make the symlink %s", path);
		(void)unlinkat(dir, temp, 0);
		return r;
	}
	return LANDING_CHANGED;
}

/* ---- files ---- */

int landing_begin(struct landing *l, const char *path, struct landing_file *ret,
		  struct inlay_error *err)
{
	*ret = (struct landing_file){.landing = l, .dir = -1, .fd = -1, .path = path};
	int r = open_parent(l, path, &ret->dir, &ret->name, err);
	if (r < 0)
		return r;
	temp_name(ret->temp);
	ret->fd = openat(ret->dir, ret->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			 0600);
	if (ret->fd < 0) {
		r = inlay_error_sys(err, -errno, "write beside %s", path);
		ret->temp[0] = 0;
		landing_drop(ret);
		return r;
	}
	inlay_hasher_init(&ret->hasher);
	return 0;
}

int landing_write(struct landing_file *f, const void *bytes, size_t len, struct inlay_error *err)
{
	inlay_hasher_add(&f->hasher, bytes, len);
	f->written += len;
	return inlay_write_all(f->fd, bytes, len, f->path, err);
}

void landing_drop(struct landing_file *f)
{
	if (f->dir >= 0 && f->temp[0])
		(void)unlinkat(f->dir, f->temp, 0);
	f->temp[0] = 0;
	inlay_cleanup_close(&f->fd);
	inlay_cleanup_close(&f->dir);
	f->fd = f->dir = -1;
}

/* Positive: there is no regular file. */
static int hash_local(int dir, const char *name, struct inlay_digest *ret, struct inlay_error *err)
{
	auto_close int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	auto_free uint8_t *buf = malloc(256 << 10);
	struct inlay_hasher h;
	struct stat st;
	size_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 1;
	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	inlay_hasher_init(&h);
	do {
		int r = inlay_read_full(fd, buf, 256 << 10, &n, name, err);
		if (r < 0)
			return r;
		inlay_hasher_add(&h, buf, n);
	} while (n > 0);
	inlay_hasher_end(&h, ret);
	return 0;
}

/* What is at the name by now, and may it go? */
static int judge(const struct landing_file *f, const struct inlay_digest *got,
		 const struct inlay_digest *synced, struct inlay_error *err)
{
	struct inlay_digest local;
	struct stat st;

	if (fstatat(f->dir, f->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? LANDING_NEW
				       : inlay_error_sys(err, -errno, "look at %s", f->path);
	if (S_ISDIR(st.st_mode))
		return LANDING_CONFLICT;
	int r = hash_local(f->dir, f->name, &local, err);
	if (r < 0)
		return r;
	if (r == 0 && inlay_digest_equal(&local, got))
		return LANDING_SAME;
	const struct landing_record *before = find_record(f->landing, f->path);
	if (f->landing->force || (r == 0 && before && inlay_digest_equal(&local, &before->id)) ||
	    (r == 0 && synced && inlay_digest_equal(&local, synced)))
		return LANDING_CHANGED;
	return LANDING_CONFLICT;
}

static int give_name(struct landing_file *f, uint32_t mode, int64_t mtime_ns, bool is_new,
		     struct inlay_error *err)
{
	mode_t mask = umask(0);
	struct timespec times[] = {{.tv_nsec = UTIME_OMIT},
				   {mtime_ns / 1000000000, mtime_ns % 1000000000}};

	(void)umask(mask);
	if (times[1].tv_nsec < 0) {
		times[1].tv_nsec += 1000000000;
		times[1].tv_sec--;
	}
	/* No set-id bits from a target. */
	if (fchmod(f->fd, mode & 0777 & ~mask) < 0 || futimens(f->fd, times) < 0)
		return inlay_error_sys(err, -errno, "set the attributes of %s", f->path);
	int fd = take_fd(f->fd);
	if (close(fd) < 0)
		return inlay_error_sys(err, -errno, "write %s", f->path);
	int r = renameat2(f->dir, f->temp, f->dir, f->name, is_new ? RENAME_NOREPLACE : 0);
	if (r < 0 && errno == EINVAL && is_new) /* a filesystem without the flag */
		r = renameat(f->dir, f->temp, f->dir, f->name);
	if (r < 0)
		return inlay_error_sys(err, -errno, "give %s its name", f->path);
	f->temp[0] = 0;
	return 0;
}

int landing_end(struct landing_file *f, uint32_t mode, int64_t mtime_ns,
		const struct inlay_digest *synced, struct inlay_error *err)
{
	struct inlay_digest got;

	inlay_hasher_end(&f->hasher, &got);
	int r = judge(f, &got, synced, err);
	int result = r;
	if (r == LANDING_NEW || r == LANDING_CHANGED)
		r = give_name(f, mode, mtime_ns, r == LANDING_NEW, err);
	if (r >= 0 && result != LANDING_CONFLICT)
		r = remember(f->landing, f->path, &got, err);
	landing_drop(f);
	return r < 0 ? r : result;
}
