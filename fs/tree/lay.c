/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/lay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/xattrs.h"

enum {
	PIECE_BYTES = 256 << 10,
	HELD_LEVELS = 100, /* directories that are kept open on the way down */
};

/* The first name of each link group, relative to the root. */
struct group {
	uint64_t number; /* 0 = empty */
	size_t path;     /* offset in paths */
	struct inlay_digest id;
};

struct laying {
	struct inlay_trees *trees;
	struct inlay_store *store;
	const struct inlay_lay_options *o;
	struct inlay_lay_result *ret;
	int root;
	uint8_t *piece;
	struct inlay_buf path; /* of the entry at hand, for groups and errors */
	struct inlay_buf xattrs;
	struct inlay_buf paths;
	struct group *groups;
	size_t group_count, group_slots;
};

/* The directory of the old tree that has the same path. */
struct beside {
	struct inlay_dir dir;
	int fd; /* -1: there is none */
};

static void beside_close(struct beside *b)
{
	inlay_dir_close(&b->dir);
	inlay_cleanup_close(&b->fd);
}
INLAY_DEFINE_FINI(struct beside, beside_close)

/* A name as a C string; names have at most 255 bytes. */
struct cname {
	char s[INLAY_NAME_MAX + 1];
};

static struct cname cname_of(const struct inlay_entry *e)
{
	struct cname n;

	memcpy(n.s, e->name, e->name_len);
	n.s[e->name_len] = 0;
	return n;
}

static int fail(struct laying *l, const char *what, struct inlay_error *err)
{
	return inlay_error_sys(err, -errno, "%s '%.300s'", what, inlay_buf_cstr(&l->path));
}

static int lost(struct laying *l, struct inlay_error *err)
{
	return inlay_error_set(err, -EBADMSG, "what '%.300s' needs is not in the store",
			       inlay_buf_cstr(&l->path));
}

/* ---- attributes ---- */

struct setting {
	struct laying *l;
	int fd; /* -1: a symlink */
	int dir;
	const char *name;
};

static int set_xattr(void *ctx, const struct inlay_xattr *x, struct inlay_error *err)
{
	struct setting *s = ctx;
	char name[INLAY_XATTR_NAME_MAX + 1], path[64 + INLAY_NAME_MAX];
	int r;

	memcpy(name, x->name, x->name_len);
	name[x->name_len] = 0;
	if (s->fd >= 0) {
		r = fsetxattr(s->fd, name, x->value, x->value_len, 0);
	} else {
		(void)snprintf(path, sizeof path, "/proc/self/fd/%d/%s", s->dir, s->name);
		r = lsetxattr(path, name, x->value, x->value_len, 0);
	}
	if (r == 0)
		return 0;
	if (errno != EPERM && errno != EOPNOTSUPP && errno != EINVAL && errno != EACCES)
		return fail(s->l, "set an attribute of", err);
	s->l->ret->xattrs++;
	return 0;
}

static int set_xattrs(struct setting *s, const struct inlay_digest *id, struct inlay_error *err)
{
	struct inlay_buf *b = &s->l->xattrs;

	if (inlay_digest_is_zero(id))
		return 0;
	inlay_buf_clear(b);
	int r = inlay_store_get(s->l->store, id, INLAY_XATTRS_MAX, 0, b, err);
	if (r > 0)
		return lost(s->l, err);
	return r < 0 ? r : inlay_xattrs_each(b->data, b->len, set_xattr, s, err);
}

static struct timespec time_of(int64_t ns)
{
	struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	if (t.tv_nsec < 0) {
		t.tv_sec--;
		t.tv_nsec += 1000000000;
	}
	return t;
}

static int set_attributes(struct laying *l, const struct inlay_entry *e, int fd,
			  struct inlay_error *err)
{
	struct setting s = {.l = l, .fd = fd};
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(e->mtime_ns)};
	mode_t mode = e->mode & (l->o->owners ? 07777 : 01777);

	if (l->o->owners && fchown(fd, e->uid, e->gid) < 0)
		return fail(l, "set the owner of", err);
	if (fchmod(fd, mode) < 0)
		return fail(l, "set the mode of", err);
	int r = set_xattrs(&s, &e->xattrs, err);
	if (r == 0 && futimens(fd, times) < 0)
		return fail(l, "set the time of", err);
	return r;
}

/* ---- files ---- */

static int copy_content(struct laying *l, const struct inlay_entry *e, int fd,
			struct inlay_error *err)
{
	size_t n;

	for (uint64_t at = 0; at < e->size; at += n) {
		int r = inlay_store_pread(l->store, &e->id, l->piece, PIECE_BYTES, at, &n, err);
		if (r > 0 || (r == 0 && n == 0))
			return lost(l, err);
		if (r == 0)
			r = inlay_write_all(fd, l->piece, n, inlay_buf_cstr(&l->path), err);
		if (r < 0)
			return r;
	}
	l->ret->bytes += e->size;
	return 0;
}

static int make_file(struct laying *l, const struct inlay_entry *e, int dir, const char *name,
		     int *ret_fd, struct inlay_error *err)
{
	if (l->o->make) {
		int r = l->o->make(l->o->ctx, e, dir, name, ret_fd, err);
		l->ret->bytes += e->size;
		return r < 0 ? inlay_error_prefix(err, r, "'%.300s'", inlay_buf_cstr(&l->path)) : r;
	}
	*ret_fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? fail(l, "create", err) : copy_content(l, e, *ret_fd, err);
}

/* 0: it is a link of the old tree's file, which is the same in everything. 1: there is no such file. */
static int link_old(struct laying *l, const struct inlay_entry *e, struct beside *old, int dir,
		    const char *name, struct inlay_error *err)
{
	struct inlay_entry was;
	int r = old->fd < 0 ? 1 : inlay_dir_find(&old->dir, e->name, e->name_len, &was, err);

	if (r < 0)
		return r;
	if (r > 0 || !inlay_entry_equal(&was, e))
		return 1;
	if (linkat(old->fd, name, dir, name, 0) < 0)
		/* Somebody took it away, or it has as many names as can be: then it is made anew. */
		return errno == ENOENT || errno == EMLINK || errno == EPERM ? 1
									    : fail(l, "link", err);
	l->ret->shared++;
	return 0;
}

static int lay_file(struct laying *l, const struct inlay_entry *e, struct beside *old, int dir,
		    const char *name, struct inlay_error *err)
{
	auto_close int fd = -1;
	int r = link_old(l, e, old, dir, name, err);

	if (r <= 0)
		return r;
	r = make_file(l, e, dir, name, &fd, err);
	if (r == 0)
		r = set_attributes(l, e, fd, err);
	if (r == 0 && close(take_fd(fd)) < 0)
		r = fail(l, "close", err);
	return r;
}

static int lay_symlink(struct laying *l, const struct inlay_entry *e, int dir, const char *name,
		       struct inlay_error *err)
{
	char target[INLAY_LINK_MAX + 1];
	struct setting s = {.l = l, .fd = -1, .dir = dir, .name = name};
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(e->mtime_ns)};

	memcpy(target, e->target, e->target_len);
	target[e->target_len] = 0;
	if (symlinkat(target, dir, name) < 0)
		return fail(l, "create", err);
	if (l->o->owners && fchownat(dir, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(l, "set the owner of", err);
	int r = set_xattrs(&s, &e->xattrs, err);
	if (r == 0 && utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(l, "set the time of", err);
	return r;
}

/* ---- hard links ---- */

static struct group *find_group(struct laying *l, uint64_t number)
{
	size_t at = (size_t)number % l->group_slots;

	while (l->groups[at].number && l->groups[at].number != number)
		at = (at + 1) % l->group_slots;
	return &l->groups[at];
}

static int grow_groups(struct laying *l, struct inlay_error *err)
{
	struct group *old = l->groups;
	size_t slots = l->group_slots;

	l->group_slots = slots ? 2 * slots : 256;
	l->groups = calloc(l->group_slots, sizeof *l->groups);
	if (!l->groups) {
		l->groups = old;
		l->group_slots = slots;
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	for (size_t i = 0; i < slots; i++)
		if (old[i].number)
			*find_group(l, old[i].number) = old[i];
	free(old);
	return 0;
}

/* The directory of a path that was laid before, held open. */
static int reopen_parent(struct laying *l, const char *path, int *ret_fd, const char **ret_name,
			 struct inlay_error *err)
{
	auto_close int at = -1;
	const char *slash;

	while ((slash = strchr(path, '/'))) {
		char name[INLAY_NAME_MAX + 1];
		size_t n = (size_t)(slash - path);
		memcpy(name, path, n);
		name[n] = 0;
		int fd = openat(at < 0 ? l->root : at, name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return fail(l, "find the other name of", err);
		inlay_cleanup_close(&at);
		at = fd;
		path = slash + 1;
	}
	*ret_fd = take_fd(at);
	*ret_name = path;
	return 0;
}

static int lay_linked(struct laying *l, const struct inlay_entry *e, struct beside *old, int dir,
		      const char *name, struct inlay_error *err)
{
	auto_close int parent = -1;
	const char *first = "";
	int r = 0;

	if (2 * l->group_count >= l->group_slots)
		r = grow_groups(l, err);
	if (r < 0)
		return r;
	struct group *g = find_group(l, e->link_group);
	if (!g->number) {
		*g = (struct group){e->link_group, l->paths.len, e->id};
		l->group_count++;
		inlay_buf_add(&l->paths, l->path.data, l->path.len);
		inlay_buf_u8(&l->paths, 0);
		r = inlay_buf_check(&l->paths, err);
		return r < 0 ? r : lay_file(l, e, old, dir, name, err);
	}
	if (!inlay_digest_equal(&g->id, &e->id))
		return inlay_error_set(err, -EBADMSG,
				       "'%.300s' is a link of a file with other content",
				       inlay_buf_cstr(&l->path));
	r = reopen_parent(l, (const char *)l->paths.data + g->path, &parent, &first, err);
	if (r < 0)
		return r;
	if (linkat(parent < 0 ? l->root : parent, first, dir, name, 0) < 0)
		return fail(l, "link", err);
	l->ret->links++;
	return 0;
}

/* ---- directories ---- */

static int lay_dir(struct laying *l, const struct inlay_entry *e, struct beside *old, int *fd,
		   unsigned depth, struct inlay_error *err);

/* Its listing; without one there is nothing beside. */
static int list_beside(struct laying *l, const struct inlay_digest *id, struct beside *b,
		       struct inlay_error *err)
{
	int r = inlay_dir_open(l->trees, id, &b->dir, err);

	if (r <= 0)
		return r;
	inlay_cleanup_close(&b->fd);
	b->fd = -1;
	return 0;
}

/* What is too deep to be held open, or cannot be opened, is not there: its files are made anew. */
static int open_beside(struct laying *l, struct beside *old, const struct inlay_entry *e,
		       const char *name, unsigned depth, struct beside *ret,
		       struct inlay_error *err)
{
	struct inlay_entry was;
	int r = old->fd < 0 || depth > HELD_LEVELS
			? 1
			: inlay_dir_find(&old->dir, e->name, e->name_len, &was, err);

	if (r == 0 && S_ISDIR(was.mode))
		ret->fd = openat(old->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r != 0 || ret->fd < 0)
		return r < 0 ? r : 0;
	return list_beside(l, &was.id, ret, err);
}

/* Deep trees must not use up the descriptors: then the way back is "..", and it is checked that it
 * leads where it came from. */
static int go_back(struct laying *l, int child, const struct stat *was, int *fd,
		   struct inlay_error *err)
{
	struct stat st;

	*fd = openat(child, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &st) < 0)
		return fail(l, "go back from", err);
	if (st.st_dev != was->st_dev || st.st_ino != was->st_ino)
		return inlay_error_set(err, -ESTALE, "somebody moved '%.300s' meanwhile",
				       inlay_buf_cstr(&l->path));
	return 0;
}

static int lay_subdir(struct laying *l, const struct inlay_entry *e, struct beside *old, int *fd,
		      const char *name, unsigned depth, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_beside_close))) struct beside below = {.fd = -1};
	struct stat was;

	if (depth >= INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	if (mkdirat(*fd, name, 0700) < 0)
		return fail(l, "create", err);
	auto_close int child = openat(*fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (child < 0 || fstat(*fd, &was) < 0)
		return fail(l, "open", err);
	if (depth > HELD_LEVELS)
		(void)close(take_fd(*fd));
	int r = open_beside(l, old, e, name, depth, &below, err);
	if (r == 0)
		r = lay_dir(l, e, &below, &child, depth + 1, err);
	if (r == 0 && *fd < 0)
		r = go_back(l, child, &was, fd, err);
	return r;
}

static int lay_entry(struct laying *l, const struct inlay_entry *e, struct beside *old, int *fd,
		     unsigned depth, struct inlay_error *err)
{
	struct cname name = cname_of(e);

	l->ret->entries++;
	if (S_ISDIR(e->mode))
		return lay_subdir(l, e, old, fd, name.s, depth, err);
	if (S_ISLNK(e->mode))
		return lay_symlink(l, e, *fd, name.s, err);
	if (e->link_group)
		return lay_linked(l, e, old, *fd, name.s, err);
	return lay_file(l, e, old, *fd, name.s, err);
}

/* Its entries, then its own attributes. */
static int lay_dir(struct laying *l, const struct inlay_entry *e, struct beside *old, int *fd,
		   unsigned depth, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct inlay_entry self = *e, child;
	size_t len = l->path.len;
	int r = inlay_dir_open(l->trees, &e->id, &dir, err);

	if (r == 0)
		r = inlay_dir_seek(&dir, 0, err);
	while (r == 0) {
		r = inlay_dir_next(&dir, &child, err);
		if (r != 0)
			break;
		if (len > 0)
			inlay_buf_u8(&l->path, '/');
		inlay_buf_add(&l->path, child.name, child.name_len);
		r = inlay_buf_check(&l->path, err);
		if (r == 0)
			r = lay_entry(l, &child, old, fd, depth, err);
		if (r == 0)
			l->path.len = len;
	}
	if (r == INLAY_TREES_NONE)
		return set_attributes(l, &self, *fd, err);
	return r > 0 ? lost(l, err) : r;
}

int inlay_lay(struct inlay_trees *trees, struct inlay_store *store, const struct inlay_entry *root,
	      int fd, const struct inlay_lay_options *o, struct inlay_lay_result *ret,
	      struct inlay_error *err)
{
	struct laying l = {.trees = trees, .store = store, .o = o, .ret = ret, .root = fd};
	auto_close int at = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	__attribute__((cleanup(inlay_cleanup_beside_close))) struct beside old = {.fd = -1};

	*ret = (struct inlay_lay_result){0};
	l.piece = malloc(PIECE_BYTES);
	int r = !l.piece ? inlay_error_set(err, -ENOMEM, "out of memory")
		: at < 0 ? inlay_error_sys(err, -errno, "duplicate a descriptor")
			 : 0;
	if (r == 0 && o->old) {
		old.fd = fcntl(o->old_fd, F_DUPFD_CLOEXEC, 0);
		r = old.fd < 0 ? inlay_error_sys(err, -errno, "duplicate a descriptor")
			       : list_beside(&l, &o->old->id, &old, err);
	}
	if (r == 0)
		r = lay_dir(&l, root, &old, &at, 0, err);
	free(l.piece);
	free(l.groups);
	inlay_buf_fini(&l.path);
	inlay_buf_fini(&l.xattrs);
	inlay_buf_fini(&l.paths);
	return r;
}
