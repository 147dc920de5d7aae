/* SPDX-License-Identifier: Apache-2.0 */
#include "upper/report.h"

#include <errno.h>
#include <stdlib.h>

#include "mount/worker_proto.h"

/* The directories from the root to the one at hand. */
struct level {
	const struct upper_node *dir;
	struct inlay_digest base;
	size_t path_len; /* with the slash behind it */
};

struct report {
	struct upper *upper;
	struct inlay_trees *trees;
	struct level *levels;
	size_t depth, cap;
	struct inlay_buf path;
	struct inlay_buf *out;
	uint64_t count;
};

static int push(struct report *r, const struct upper_node *dir, const struct inlay_digest *base,
		struct inlay_error *err)
{
	if (r->depth == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 32;
		struct level *more = reallocarray(r->levels, cap, sizeof *more);
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		r->levels = more;
		r->cap = cap;
	}
	r->levels[r->depth++] = (struct level){dir, *base, r->path.len};
	return 0;
}

static int look_below(struct report *r, const struct upper_dent *d, enum upper_below *ret,
		      struct inlay_digest *ret_tree, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	const struct inlay_digest *base = &r->levels[r->depth - 1].base;
	struct inlay_entry e;

	*ret = UPPER_BELOW_NOTHING;
	*ret_tree = (struct inlay_digest){{0}};
	if (inlay_digest_is_zero(base))
		return 0;
	int res = inlay_dir_open(r->trees, base, &dir, err);
	if (res == 0)
		res = inlay_dir_find(&dir, d->name, d->name_len, &e, err);
	if (res == INLAY_TREES_NONE)
		return 0;
	if (res == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	if (res < 0)
		return res;
	*ret = inlay_entry_is_dir(&e) ? UPPER_BELOW_DIR : UPPER_BELOW_OTHER;
	if (inlay_entry_is_dir(&e))
		*ret_tree = e.id;
	return 0;
}

/* 0 = nothing to tell: a synced directory in which something was changed. */
static uint32_t kind_of(const struct upper_node *node)
{
	if (!node)
		return WORKER_UPPER_WHITEOUT;
	switch (node->mode & S_IFMT) {
	case S_IFDIR:
		if (upper_is_merged(node))
			return node->own_attr || node->exact_time ? WORKER_UPPER_ATTR : 0;
		return node->from == UPPER_OBJECT ? WORKER_UPPER_MOVED : WORKER_UPPER_DIR;
	case S_IFREG:
		return WORKER_UPPER_FILE;
	case S_IFLNK:
		return WORKER_UPPER_SYMLINK;
	default:
		return WORKER_UPPER_SPECIAL;
	}
}

static void add_entry(struct report *r, const struct upper_dent *d, enum upper_below below)
{
	static const uint8_t zeros[8];
	struct upper_node *node = d->node;
	struct worker_upper e = {.kind = kind_of(node),
				 .shadows = below != UPPER_BELOW_NOTHING,
				 .path_len = (uint32_t)r->path.len};

	if (!e.kind)
		return;
	if (node) {
		upper_stat(r->upper, node);
		scope_lock(&r->upper->lock);
		e.mode = node->mode;
		e.uid = node->uid;
		e.gid = node->gid;
		e.mtime_ns = node->mtime_ns;
		e.size = S_ISDIR(node->mode) ? 0 : node->size;
		e.target_len = node->target ? (uint32_t)strlen(node->target) : 0;
		e.file = node->has_file ? node->n : 0;
		if (node->from == UPPER_OBJECT)
			e.id = node->id;
	}
	size_t len = sizeof e + e.path_len + e.target_len;
	e.bytes = (uint32_t)((len + 7) & ~(size_t)7);
	inlay_buf_add(r->out, &e, sizeof e);
	inlay_buf_add(r->out, r->path.data, r->path.len);
	if (e.target_len)
		inlay_buf_add(r->out, node->target, e.target_len);
	inlay_buf_add(r->out, zeros, e.bytes - len);
	r->count++;
}

static int report_dent(struct report *r, const struct upper_dent *d, struct inlay_error *err)
{
	struct inlay_digest tree;
	enum upper_below below;

	while (r->levels[r->depth - 1].dir != d->parent)
		r->depth--;
	r->path.len = r->levels[r->depth - 1].path_len;
	int res = look_below(r, d, &below, &tree, err);
	if (res < 0)
		return res;
	inlay_buf_add(&r->path, d->name, d->name_len);
	add_entry(r, d, below);
	if (!d->node || !S_ISDIR(d->node->mode))
		return 0;
	inlay_buf_add(&r->path, "/", 1);
	if (!upper_is_merged(d->node))
		tree = d->node->id; /* zeros, or the tree that it kept */
	return push(r, d->node, &tree, err);
}

int upper_report(struct upper *u, struct inlay_trees *trees, const struct inlay_digest *root,
		 struct inlay_buf *ret, uint64_t *ret_count, struct inlay_error *err)
{
	struct report r = {.upper = u, .trees = trees, .out = ret};
	int res = push(&r, u->root, root, err);

	for (struct upper_dent *d = upper_walk(u->root, NULL); d && res == 0;
	     d = upper_walk(u->root, d))
		res = report_dent(&r, d, err);
	if (res == 0)
		res = inlay_buf_check(&r.path, err);
	if (res == 0)
		res = inlay_buf_check(ret, err);
	*ret_count = r.count;
	inlay_buf_fini(&r.path);
	free(r.levels);
	return res;
}
