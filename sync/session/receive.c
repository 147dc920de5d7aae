/* SPDX-License-Identifier: Apache-2.0 */
/* Objects that arrive go into the store as they come: what arrived whole stays, whatever happens next. */
#include <errno.h>

#include "session/serve.h"

static int blob_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	struct serve *s = ctx;

	inlay_buf_clear(&s->small);
	if (size < INLAY_STORE_LOOSE_MIN)
		return 0;
	return inlay_store_put_begin(inlay_host_store(s->host), size, &s->put, err);
}

static int blob_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct serve *s = ctx;

	if (s->put)
		return inlay_store_put_write(s->put, bytes, len, err);
	inlay_buf_add(&s->small, bytes, len);
	return inlay_buf_check(&s->small, err);
}

static int blob_end(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *err)
{
	struct serve *s = ctx;

	if (!keep) {
		inlay_store_put_abort(take_ptr(s->put));
		return 0;
	}
	if (s->put)
		return inlay_store_put_finish(take_ptr(s->put), ret, err);
	return inlay_store_put(inlay_host_store(s->host), s->small.data, s->small.len, ret, err);
}

/* ---- directories ---- */

static int basis_gone(struct serve *s, struct inlay_error *err)
{
	s->basis_gone = true;
	return inlay_error_set(err, -ESTALE, "the change set builds on what is not here any more");
}

/* What an op takes over from the basis. The entry's target lives as long as `dir` stands where it is, so it
 * is copied. */
static int inherit(struct serve *s, struct inlay_dir *dir, struct objects_op *op, char **ret_copy,
		   struct inlay_error *err)
{
	struct inlay_entry was;
	struct inlay_entry *e = &op->entry;

	if (!dir->top)
		return inlay_error_set(err, -EPROTO, "a change inherits, but there is no basis");
	int r = inlay_dir_find(dir, e->name, e->name_len, &was, err);
	if (r == INLAY_TREES_MISSING)
		return basis_gone(s, err);
	if (r == INLAY_TREES_NONE)
		return inlay_error_set(err, -EPROTO,
				       "a change inherits from a name that is not there");
	if (r < 0)
		return r;
	if (op->inherit & OBJECTS_SAME_MTIME)
		e->mtime_ns = was.mtime_ns;
	if (op->inherit & OBJECTS_SAME_MODE)
		e->mode |= was.mode & 07777;
	if (!(op->inherit & OBJECTS_SAME_CONTENT))
		return 0;
	if ((was.mode & S_IFMT) != (e->mode & S_IFMT))
		return inlay_error_set(err, -EPROTO, "a change inherits from another type");
	e->id = was.id;
	e->size = was.size;
	e->below = was.below;
	e->subdirs = was.subdirs;
	op->below_known = true;
	if (S_ISLNK(e->mode)) {
		*ret_copy = strndup(was.target, was.target_len);
		if (!*ret_copy)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		e->target = *ret_copy;
		e->target_len = was.target_len;
	}
	return 0;
}

/* A directory that is named by its id must be here: its sums go into the parent. */
static int learn_below(struct serve *s, struct inlay_entry *e, struct inlay_error *err)
{
	struct inlay_dir dir;
	int r = inlay_dir_open(inlay_host_trees(s->host), &e->id, &dir, err);

	if (r == INLAY_TREES_MISSING)
		return basis_gone(s, err);
	if (r < 0)
		return r;
	e->below = inlay_dir_tree(&dir)->below;
	e->subdirs = inlay_dir_tree(&dir)->subdirs;
	inlay_dir_close(&dir);
	return 0;
}

static int put_tree(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		    struct inlay_error *err)
{
	struct serve *s = ctx;

	(void)id;
	return inlay_store_put(inlay_host_store(s->host), bytes, len, NULL, err);
}

static int complete_ops(struct serve *s, struct inlay_dir *dir, struct objects_op *ops,
			struct inlay_tree_op *tree_ops, char **copies, size_t count,
			struct inlay_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		if (ops[i].inherit)
			r = inherit(s, dir, &ops[i], &copies[i], err);
		if (r == 0 && !ops[i].remove && S_ISDIR(ops[i].entry.mode) && !ops[i].below_known)
			r = learn_below(s, &ops[i].entry, err);
		tree_ops[i] = (struct inlay_tree_op){ops[i].entry, ops[i].remove};
	}
	return r;
}

static int build(struct serve *s, const struct inlay_digest *basis, struct objects_op *ops,
		 struct inlay_tree_op *tree_ops, char **copies, size_t count,
		 struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct inlay_dir dir = {0};
	int r = 0;

	if (basis)
		r = inlay_dir_open(inlay_host_trees(s->host), basis, &dir, err);
	if (r == INLAY_TREES_MISSING)
		return basis_gone(s, err);
	if (r == 0)
		r = complete_ops(s, &dir, ops, tree_ops, copies, count, err);
	inlay_dir_close(&dir);
	if (r == 0)
		r = inlay_tree_edit(inlay_host_trees(s->host), basis, tree_ops, count, put_tree, s,
				    ret, err);
	return r == INLAY_TREES_MISSING ? basis_gone(s, err) : r;
}

static int tree(void *ctx, const struct inlay_digest *basis, struct objects_op *ops, size_t count,
		struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct serve *s = ctx;
	auto_free struct inlay_tree_op *tree_ops = calloc(count + 1, sizeof *tree_ops);
	auto_free char **copies = calloc(count + 1, sizeof *copies);

	if (!tree_ops || !copies)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = build(s, basis, ops, tree_ops, copies, count, ret, err);
	for (size_t i = 0; i < count; i++)
		free(copies[i]);
	return r;
}

static const struct objects_sink sink = {
	.blob_begin = blob_begin,
	.blob_bytes = blob_bytes,
	.blob_end = blob_end,
	.tree = tree,
};

int serve_data(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	if (!s->locked)
		return inlay_error_set(err, -EPROTO, "DATA without an OPEN for writing");
	if (!s->receiving) {
		inlay_host_receive(s->host, true);
		s->receiving = true;
	}
	if (!s->objects) {
		int r = objects_in_new(&sink, s, &s->objects, err);
		if (r < 0)
			return r;
	}
	return objects_in_feed(s->objects, f->payload, f->len, err);
}

void serve_end_receiving(struct serve *s)
{
	if (s->receiving)
		inlay_host_receive(s->host, false);
	s->receiving = false;
}
