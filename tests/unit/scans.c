/* SPDX-License-Identifier: Apache-2.0 */
#include "scans.h"

#include <dirent.h>
#include <errno.h>

#include "inlay/text.h"

static struct inlay_error err;
int64_t scans_now = 1234567890123456789;

/* ---- tree objects ---- */

static const struct scans_object *get(const struct scans_objects *o, const struct inlay_digest *id)
{
	for (size_t i = o->count; i-- > 0;)
		if (inlay_digest_equal(&o->list[i].id, id))
			return &o->list[i];
	return NULL;
}

int scans_put(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
	      struct inlay_error *e)
{
	struct scans_objects *o = ctx;
	struct inlay_digest check;

	inlay_digest_of(bytes, len, &check);
	if (!inlay_digest_equal(&check, id))
		return inlay_error_set(e, -EINVAL, "the id is not that of the bytes");
	o->puts++;
	if (get(o, id))
		return 0;
	struct scans_object *list = reallocarray(o->list, o->count + 1, sizeof *list);
	if (!list)
		return inlay_error_set(e, -ENOMEM, "out of memory");
	o->list = list;
	o->list[o->count] = (struct scans_object){.id = *id};
	inlay_buf_add(&o->list[o->count].bytes, bytes, len);
	return inlay_buf_check(&o->list[o->count++].bytes, e);
}

void scans_objects_fini(struct scans_objects *o)
{
	for (size_t i = 0; i < o->count; i++)
		inlay_buf_fini(&o->list[i].bytes);
	free(o->list);
	*o = (struct scans_objects){0};
}

/* ---- scans ---- */

static void hash_fd(int fd, struct inlay_digest *ret)
{
	struct inlay_hasher h;
	uint8_t buf[8192];
	ssize_t n;

	inlay_hasher_init(&h);
	while ((n = read(fd, buf, sizeof buf)) > 0)
		inlay_hasher_add(&h, buf, (size_t)n);
	assert_int_equal(n, 0);
	inlay_hasher_end(&h, ret);
}

size_t scans_read(struct inlay_snapshot *s, int root)
{
	auto_free struct inlay_dirty *dirty = NULL;
	size_t count;

	assert_ok(inlay_snapshot_dirty(s, &dirty, &count, &err));
	for (size_t i = 0; i < count; i++) {
		struct inlay_digest id;
		uint64_t size;
		auto_close int fd = -1;
		assert_ok(inlay_dirty_open(&dirty[i], root, &fd, &size, &err));
		hash_fd(fd, &id);
		assert_ok(inlay_dirty_settle(&dirty[i], fd, &id, &err));
	}
	return count;
}

struct inlay_snapshot *scans_scan(int root, const struct inlay_scan_options *options,
				  struct inlay_snapshot *old, struct scans_objects *o,
				  struct inlay_root *ret_root)
{
	static const struct inlay_scan_options none;
	struct inlay_snapshot *s = NULL;
	struct inlay_root ignored;

	assert_ok(inlay_scan_walk(root, options ? options : &none, old, &s, &err));
	(void)scans_read(s, root);
	assert_ok(inlay_snapshot_build(s, scans_now, o ? scans_put : NULL, o,
				       ret_root ? ret_root : &ignored, &err));
	return s;
}

void scans_settle_down(void)
{
	(void)usleep(70000);
}

/* ---- texts ---- */

struct line {
	char *path;
	char *text;
};

struct lines {
	struct line *list;
	size_t count;
};

static void add_line(struct lines *l, const struct inlay_buf *path, struct inlay_buf *text)
{
	auto_buf struct inlay_buf shown = {0};

	inlay_text_escape(&shown, path->data, path->len);
	l->list = reallocarray(l->list, l->count + 1, sizeof *l->list);
	assert_non_null(l->list);
	l->list[l->count++] =
		(struct line){strdup(inlay_buf_cstr(&shown)), strdup(inlay_buf_cstr(text))};
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct line *)a)->path, ((const struct line *)b)->path);
}

static char *join(struct lines *l)
{
	struct inlay_buf out = {0};

	if (l->count > 0)
		qsort(l->list, l->count, sizeof *l->list, by_path);
	for (size_t i = 0; i < l->count; i++) {
		inlay_buf_printf(&out, "%s %s\n", l->list[i].path, l->list[i].text);
		free(l->list[i].path);
		free(l->list[i].text);
	}
	free(l->list);
	(void)inlay_buf_cstr(&out);
	return (char *)out.data;
}

static void show_id(struct inlay_buf *text, const struct inlay_digest *id)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(id, hex);
	inlay_buf_printf(text, " %.16s", hex);
}

static void show_entry(struct inlay_buf *text, const struct inlay_entry *e, enum scans_text what)
{
	inlay_buf_printf(text, "%06o", e->mode);
	if (S_ISDIR(e->mode))
		inlay_buf_printf(text, " below %llu %llu %u", (unsigned long long)e->below.entries,
				 (unsigned long long)e->below.bytes, e->subdirs);
	else
		inlay_buf_printf(text, " %llu", (unsigned long long)e->size);
	if (!S_ISDIR(e->mode) || (what & SCANS_DIR_TIMES))
		inlay_buf_printf(text, " @%lld", (long long)e->mtime_ns);
	if (what & SCANS_OWNERS)
		inlay_buf_printf(text, " %u:%u", e->uid, e->gid);
	if (S_ISREG(e->mode))
		show_id(text, &e->id);
	if (S_ISLNK(e->mode)) {
		inlay_buf_printf(text, " -> ");
		inlay_text_escape(text, e->target, e->target_len);
	}
}

static void tree_lines(const struct scans_objects *o, const struct inlay_digest *id,
		       struct inlay_buf *path, enum scans_text what, struct lines *out)
{
	const struct scans_object *object = get(o, id);
	struct inlay_tree t;

	if (!object)
		fail_msg("the tree object of '%.*s' was not put", (int)path->len, path->data);
	assert_ok(inlay_tree_decode(object->bytes.data, object->bytes.len, &t, &err));
	for (uint32_t i = 0; i < t.count; i++) {
		struct inlay_digest leaf;
		if (t.split && inlay_tree_bucket(&t, i, &leaf))
			tree_lines(o, &leaf, path, what, out);
	}
	for (uint32_t i = 0; i < t.count && !t.split; i++) {
		auto_buf struct inlay_buf text = {0};
		struct inlay_entry e;
		size_t len = path->len;
		inlay_tree_entry(&t, i, &e);
		show_entry(&text, &e, what);
		inlay_buf_add(path, e.name, e.name_len);
		add_line(out, path, &text);
		inlay_buf_u8(path, '/');
		if (S_ISDIR(e.mode))
			tree_lines(o, &e.id, path, what, out);
		path->len = len;
	}
}

char *scans_tree_text(const struct scans_objects *o, const struct inlay_digest *tree,
		      enum scans_text what)
{
	auto_buf struct inlay_buf path = {0};
	struct lines out = {0};

	tree_lines(o, tree, &path, what, &out);
	return join(&out);
}

static int64_t stat_ns(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static void folder_lines(int fd, struct inlay_buf *path, enum scans_text what, struct lines *out,
			 struct inlay_tree_built *ret);

static void folder_line(int dir, const char *name, struct inlay_buf *path, enum scans_text what,
			struct lines *out, struct inlay_tree_built *sum)
{
	auto_buf struct inlay_buf text = {0};
	struct inlay_tree_built below = {0};
	struct inlay_entry e = {0};
	char target[5000];
	struct stat st;

	assert_int_equal(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
		return;
	size_t len = path->len;
	inlay_buf_add(path, name, strlen(name));
	auto_close int fd =
		S_ISLNK(st.st_mode) ? -1 : openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	e.mode = st.st_mode;
	e.mtime_ns = stat_ns(&st);
	e.uid = st.st_uid;
	e.gid = st.st_gid;
	e.size = (uint64_t)st.st_size;
	if (S_ISLNK(st.st_mode)) {
		e.target = target;
		e.target_len = (uint16_t)readlinkat(dir, name, target, sizeof target);
	} else if (S_ISREG(st.st_mode)) {
		hash_fd(fd, &e.id);
		sum->below.bytes += e.size;
	} else {
		size_t here = path->len;
		inlay_buf_u8(path, '/');
		folder_lines(fd, path, what, out, &below);
		path->len = here;
		e.below = below.below;
		e.subdirs = below.subdirs;
		sum->below.entries += below.below.entries;
		sum->below.bytes += below.below.bytes;
		sum->subdirs++;
	}
	sum->below.entries++;
	show_entry(&text, &e, what);
	add_line(out, path, &text);
	path->len = len;
}

static void folder_lines(int fd, struct inlay_buf *path, enum scans_text what, struct lines *out,
			 struct inlay_tree_built *ret)
{
	DIR *dir = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *d;

	assert_non_null(dir);
	while ((d = readdir(dir)))
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			folder_line(fd, d->d_name, path, what, out, ret);
	(void)closedir(dir);
}

char *scans_folder_text(int root, enum scans_text what)
{
	auto_buf struct inlay_buf path = {0};
	struct inlay_tree_built sum = {0};
	struct lines out = {0};

	folder_lines(root, &path, what, &out, &sum);
	return join(&out);
}

void scans_assert_text(const char *got, const char *want)
{
	const char *g = got, *w = want;

	if (strcmp(got, want) == 0)
		return;
	while (*g && *g == *w) {
		g++;
		w++;
	}
	while (g > got && g[-1] != '\n') {
		g--;
		w--;
	}
	fail_msg("got:\n%.*s\nwant:\n%.*s", (int)strcspn(g, "\n"), g, (int)strcspn(w, "\n"), w);
}

void scans_assert_true(int root, const struct scans_objects *o, const struct inlay_root *tree)
{
	auto_free char *want = scans_folder_text(root, 0);
	auto_free char *got = scans_tree_text(o, &tree->tree, 0);

	scans_assert_text(got, want);
}

void scans_assert_same_root(const struct inlay_root *a, const struct inlay_root *b)
{
	assert_true(inlay_digest_equal(&a->tree, &b->tree));
	assert_int_equal(a->mode, b->mode);
	assert_true(a->mtime_ns == b->mtime_ns);
}
