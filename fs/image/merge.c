/* SPDX-License-Identifier: Apache-2.0 */
#include "image/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inlay/limits.h"
#include "inlay/tree.h"

enum { FIRST_BUCKETS = 1 << 12, IMPLICIT_MODE = S_IFDIR | 0755 };

struct merge {
	struct merge_node *root;
	struct merge_node **table; /* by name and parent */
	size_t buckets, count;
	uint16_t layer;
};

/* ---- nodes ---- */

static void inode_unref(struct merge_inode *i)
{
	if (i && --i->names == 0)
		free(i);
}

struct merge_inode *merge_inode_new(const char *target, size_t target_len)
{
	struct merge_inode *i = calloc(1, sizeof *i + target_len + 1);

	if (i && target_len > 0)
		memcpy(i->target, target, target_len);
	if (i)
		i->target_len = (uint16_t)target_len;
	return i;
}

static uint64_t hash_of(const struct merge_node *parent, const char *name, size_t len)
{
	return inlay_xxh3_seeded(name, len, (uint64_t)(uintptr_t)parent);
}

static struct merge_node *find(const struct merge *m, const struct merge_node *dir,
			       const char *name, size_t len)
{
	uint64_t hash = hash_of(dir, name, len);
	struct merge_node *n = m->table[hash % m->buckets];

	while (n && !(n->hash == hash && n->parent == dir && n->name_len == len &&
		      memcmp(n->name, name, len) == 0))
		n = n->chain;
	return n;
}

static int grow(struct merge *m, struct inlay_error *err)
{
	size_t buckets = m->buckets * 2;
	struct merge_node **table = calloc(buckets, sizeof(struct merge_node *));

	if (!table)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < m->buckets; i++) {
		struct merge_node *n = m->table[i];
		while (n) {
			struct merge_node *next = n->chain;
			n->chain = table[n->hash % buckets];
			table[n->hash % buckets] = n;
			n = next;
		}
	}
	free(m->table);
	m->table = table;
	m->buckets = buckets;
	return 0;
}

static int add(struct merge *m, struct merge_node *dir, const char *name, size_t len,
	       struct merge_node **ret, struct inlay_error *err)
{
	if (dir->depth >= INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "it lies more than %d directories deep",
				       INLAY_DEPTH_MAX);
	if (m->count >= m->buckets) {
		int r = grow(m, err);
		if (r < 0)
			return r;
	}
	struct merge_node *n = calloc(1, sizeof *n + len);
	if (!n)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	n->parent = dir;
	n->depth = (uint16_t)(dir->depth + 1);
	n->name_len = (uint8_t)len;
	memcpy(n->name, name, len);
	n->hash = hash_of(dir, name, len);
	n->chain = m->table[n->hash % m->buckets];
	m->table[n->hash % m->buckets] = n;
	n->next = dir->children;
	if (n->next)
		n->next->prev = n;
	dir->children = n;
	dir->child_count++;
	m->count++;
	*ret = n;
	return 0;
}

/* Takes a node without children out. */
static void drop(struct merge *m, struct merge_node *n)
{
	struct merge_node **at = &m->table[n->hash % m->buckets];

	while (*at != n)
		at = &(*at)->chain;
	*at = n->chain;
	if (n->prev)
		n->prev->next = n->next;
	else
		n->parent->children = n->next;
	if (n->next)
		n->next->prev = n->prev;
	n->parent->child_count--;
	m->count--;
	inode_unref(n->inode);
	free(n);
}

/* Depth is limited by add(). */
static void drop_tree(struct merge *m, struct merge_node *n)
{
	while (n->children)
		drop_tree(m, n->children);
	drop(m, n);
}

static bool is_dir(const struct merge_node *n)
{
	return S_ISDIR(n->inode->mode);
}

static int make_implicit(struct merge *m, struct merge_node *n, struct inlay_error *err)
{
	struct merge_inode *i = merge_inode_new(NULL, 0);

	if (!i)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	i->mode = IMPLICIT_MODE;
	i->names = 1;
	inode_unref(n->inode);
	n->inode = i;
	n->implicit = true;
	n->layer = m->layer;
	return 0;
}

int merge_new(struct merge **ret, struct inlay_error *err)
{
	auto_of(merge_free) struct merge *m = calloc(1, sizeof *m);

	if (!m)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	m->layer = 1;
	m->buckets = FIRST_BUCKETS;
	m->table = calloc(m->buckets, sizeof(struct merge_node *));
	m->root = calloc(1, sizeof *m->root);
	if (!m->table || !m->root)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = make_implicit(m, m->root, err);
	if (r < 0)
		return r;
	*ret = take_ptr(m);
	return 0;
}

void merge_free(struct merge *m)
{
	if (!m)
		return;
	while (m->root && m->root->children)
		drop_tree(m, m->root->children);
	if (m->root)
		inode_unref(m->root->inode);
	free(m->root);
	free(m->table);
	free(m);
}

struct merge_node *merge_root(struct merge *m)
{
	return m->root;
}

void merge_next_layer(struct merge *m)
{
	m->layer++;
}

/* ---- paths ---- */

struct walk {
	struct merge *m;
	bool make;      /* missing directories */
	unsigned links; /* followed so far */
};

static int follow(struct walk *w, struct merge_node *at, const char *path, size_t len,
		  struct merge_node **ret, struct inlay_error *err);

/* The directory that a symlink on the way leads to. */
static int follow_link(struct walk *w, struct merge_node *dir, const struct merge_node *link,
		       struct merge_node **ret, struct inlay_error *err)
{
	const struct merge_inode *i = link->inode;

	if (++w->links > INLAY_ARCHIVE_SYMLINKS_MAX)
		return inlay_error_set(err, -EINVAL, "its path leads through more than %d symlinks",
				       INLAY_ARCHIVE_SYMLINKS_MAX);
	if (i->target[0] == '/')
		return inlay_error_set(err, -EINVAL,
				       "its path leads through a symlink to an absolute path");
	return follow(w, dir, i->target, i->target_len, ret, err);
}

/* One component of a path. *ret NULL: it is not there, and is not to be made. */
static int step(struct walk *w, struct merge_node *dir, const char *name, size_t len,
		struct merge_node **ret, struct inlay_error *err)
{
	if (len > INLAY_NAME_MAX)
		return inlay_error_set(err, -E2BIG, "its path has a name of more than %d bytes",
				       INLAY_NAME_MAX);
	struct merge_node *n = find(w->m, dir, name, len);
	if (n && is_dir(n)) {
		*ret = n;
		return 0;
	}
	if (n && S_ISLNK(n->inode->mode))
		return follow_link(w, dir, n, ret, err);
	if (!w->make) {
		*ret = NULL;
		return 0;
	}
	if (n && n->layer == w->m->layer)
		return inlay_error_set(err, -EINVAL, "its path leads through a file");
	if (n)
		drop(w->m, n);
	int r = add(w->m, dir, name, len, &n, err);
	if (r < 0)
		return r;
	r = make_implicit(w->m, n, err);
	if (r < 0)
		drop(w->m, n);
	else
		*ret = n;
	return r;
}

/* Every component has to be a directory. ".." is possible in targets of symlinks only. */
static int follow(struct walk *w, struct merge_node *at, const char *path, size_t len,
		  struct merge_node **ret, struct inlay_error *err)
{
	const char *end = path + len;
	int r = 0;

	while (r == 0 && at && path < end) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);
		if (n == 2 && path[0] == '.' && path[1] == '.') {
			at = at->parent;
			if (!at)
				return inlay_error_set(
					err, -EINVAL,
					"its path leads through a symlink out of the tree");
		} else if (n > 0 && !(n == 1 && path[0] == '.')) {
			r = step(w, at, path, n, &at, err);
		}
		path += n + (slash != NULL);
	}
	*ret = at;
	return r;
}

static bool is_dot(const char *name, size_t len)
{
	return len == 1 && name[0] == '.';
}

/* What the path itself must fulfil; gives its last name. */
static int split(const char *path, size_t *ret_dir_len, const char **ret_name, size_t *ret_len,
		 struct inlay_error *err)
{
	size_t len = strlen(path), at = 0;

	if (len > INLAY_PATH_MAX)
		return inlay_error_set(err, -E2BIG, "its path has more than %d bytes",
				       INLAY_PATH_MAX);
	if (len == 0)
		return inlay_error_set(err, -EINVAL, "its path is empty");
	*ret_len = 0;
	*ret_dir_len = 0;
	*ret_name = path;
	if (strspn(path, "/") == len)
		return 0;
	if (path[0] == '/')
		return inlay_error_set(err, -EINVAL, "its path is absolute");
	while (at < len) {
		size_t n = strcspn(path + at, "/");
		if (n == 2 && path[at] == '.' && path[at + 1] == '.')
			return inlay_error_set(err, -EINVAL, "its path contains ..");
		if (n > INLAY_NAME_MAX)
			return inlay_error_set(err, -E2BIG,
					       "its path has a name of more than %d bytes",
					       INLAY_NAME_MAX);
		if (n > 0 && !is_dot(path + at, n)) {
			*ret_dir_len = at;
			*ret_name = path + at;
			*ret_len = n;
		}
		at += n + 1;
	}
	return 0;
}

static int locate(struct walk *w, const char *path, struct merge_place *ret,
		  struct inlay_error *err)
{
	size_t dir_len;
	int r = split(path, &dir_len, &ret->name, &ret->name_len, err);

	return r < 0 ? r : follow(w, w->m->root, path, dir_len, &ret->dir, err);
}

int merge_locate(struct merge *m, const char *path, struct merge_place *ret,
		 struct inlay_error *err)
{
	struct walk w = {.m = m, .make = true};

	return locate(&w, path, ret, err);
}

int merge_lookup(struct merge *m, const char *path, struct merge_node **ret,
		 struct inlay_error *err)
{
	struct walk w = {.m = m};
	struct merge_place at;
	int r = locate(&w, path, &at, err);

	if (r < 0)
		return r;
	*ret = !at.dir ? NULL : at.name_len ? find(m, at.dir, at.name, at.name_len) : m->root;
	return 0;
}

/* ---- entries ---- */

static void give(struct merge *m, struct merge_node *n, struct merge_inode *inode)
{
	inode->names++;
	inode_unref(n->inode);
	n->inode = inode;
	n->layer = m->layer;
	n->implicit = false;
}

/* The node at that place, new and without an inode where nothing fits. */
static int node_for(struct merge *m, const struct merge_place *at, bool dir,
		    struct merge_node **ret, struct inlay_error *err)
{
	struct merge_node *n = at->name_len ? find(m, at->dir, at->name, at->name_len) : m->root;

	if (n && !(dir && is_dir(n))) {
		if (n == m->root)
			return inlay_error_set(err, -EINVAL, "the root is not a directory");
		drop_tree(m, n);
		n = NULL;
	}
	*ret = n;
	return n ? 0 : add(m, at->dir, at->name, at->name_len, ret, err);
}

int merge_set(struct merge *m, const struct merge_place *at, struct merge_inode *inode,
	      struct inlay_error *err)
{
	struct merge_node *n;
	int r = node_for(m, at, S_ISDIR(inode->mode), &n, err);

	if (r < 0) {
		free(inode);
		return r;
	}
	give(m, n, inode);
	return 0;
}

int merge_link(struct merge *m, const struct merge_place *at, struct merge_node *to,
	       struct inlay_error *err)
{
	struct merge_inode *inode = to->inode;
	struct merge_node *n;

	if (at->name_len && find(m, at->dir, at->name, at->name_len) == to) {
		to->layer = m->layer;
		return 0;
	}
	/* What it refers to may lie below what it replaces. */
	inode->names++;
	int r = node_for(m, at, false, &n, err);
	if (r == 0)
		give(m, n, inode);
	inode_unref(inode);
	return r;
}

void merge_clear(struct merge *m, const struct merge_place *at)
{
	struct merge_node *n = at->name_len ? find(m, at->dir, at->name, at->name_len) : NULL;

	if (n)
		drop_tree(m, n);
}

void merge_opaque(struct merge *m, struct merge_node *dir)
{
	struct merge_node *next;

	for (struct merge_node *n = dir->children; n; n = next) {
		struct merge_place at = {dir, n->name, n->name_len};
		next = n->next;
		merge_whiteout(m, &at);
	}
}

/*
 * A directory of this layer stays, without what lower layers had in it. One that only lower layers
 * described goes with it, unless something of this layer is in it: then nothing describes it.
 */
void merge_whiteout(struct merge *m, const struct merge_place *at)
{
	struct merge_node *n = at->name_len ? find(m, at->dir, at->name, at->name_len) : NULL;

	if (!n)
		return;
	if (is_dir(n))
		merge_opaque(m, n);
	if (n->layer == m->layer)
		return;
	if (!n->children) {
		drop(m, n);
		return;
	}
	n->inode->mode = IMPLICIT_MODE;
	n->inode->uid = n->inode->gid = 0;
	n->inode->mtime_ns = 0;
	n->inode->xattrs = (struct inlay_digest){0};
	n->implicit = true;
	n->layer = m->layer;
}
