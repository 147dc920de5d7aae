/* SPDX-License-Identifier: Apache-2.0 */
/* Objects that arrive go into the store as they come: what arrived whole stays, whatever happens next. */
#include <errno.h>

#include "inlay/bytes.h"
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

/* ---- old contents ---- */

int serve_content_gone(struct serve *s, uint64_t prefix, struct inlay_error *err)
{
	inlay_buf_u64(&s->lost, prefix);
	int r = inlay_buf_check(&s->lost, err);
	return r < 0 ? r : inlay_error_set(err, -ESTALE, "an old content is not here any more");
}

static int basis(void *ctx, uint64_t prefix, size_t max, struct inlay_buf *to,
		 struct inlay_error *err)
{
	struct serve *s = ctx;
	struct inlay_store *store = inlay_host_store(s->host);
	struct inlay_digest id;
	uint64_t size;

	if (inlay_store_find(store, prefix, &id) != 0 || inlay_store_stat(store, &id, &size) != 0 ||
	    size > max)
		return serve_content_gone(s, prefix, err);
	int r = inlay_store_get(store, &id, max, INLAY_STORE_CHECK_DIGEST, to, err);
	if (r == INLAY_STORE_MISSING || r == -EBADMSG)
		return serve_content_gone(s, prefix, err);
	return r;
}

/* ---- patches ---- */

static int read_basis(void *ctx, void *buf, size_t len, uint64_t off, size_t *ret_n,
		      struct inlay_error *err)
{
	struct serve *s = ctx;
	int r = inlay_store_pread(inlay_host_store(s->host), &s->patch_basis, buf, len, off, ret_n,
				  err);

	return r > 0 ? inlay_error_set(err, -ESTALE, "the old content is not here") : r;
}

static int write_result(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct serve *s = ctx;

	return inlay_store_put_write(s->put, bytes, len, err);
}

static void end_patch(struct serve *s)
{
	rdiff_patch_free(take_ptr(s->patch));
	inlay_store_put_abort(take_ptr(s->put));
}

static int patch_begin(void *ctx, const struct inlay_digest *basis_id,
		       const struct inlay_digest *id, uint64_t size, struct inlay_error *err)
{
	struct serve *s = ctx;
	struct inlay_store *store = inlay_host_store(s->host);

	s->patch_basis = *basis_id;
	s->patch_result = *id;
	if (!inlay_store_has(store, basis_id))
		return 0;
	int r = inlay_store_put_begin(store, size, &s->put, err);
	if (r == 0)
		r = rdiff_patch_new(size, read_basis, write_result, s, &s->patch, err);
	if (r < 0)
		end_patch(s);
	return r;
}

/* What does not fit to what is here, or is damaged here, makes an object that is missing; COMMIT asks for it. */
static int forgive(struct serve *s, int r)
{
	if (r != -EPROTO && r != -ESTALE && r != -EBADMSG)
		return r;
	end_patch(s);
	return 0;
}

static int patch_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct serve *s = ctx;

	return s->patch ? forgive(s, rdiff_patch_feed(s->patch, bytes, len, err)) : 0;
}

static int patch_end(void *ctx, bool keep, struct inlay_error *err)
{
	struct serve *s = ctx;
	struct inlay_digest got;
	int r = s->patch && keep ? forgive(s, rdiff_patch_end(s->patch, err)) : 0;

	/* Another result than was promised is an object like any other, and the promised one is missing. */
	if (r == 0 && s->patch && keep)
		r = inlay_store_put_finish(take_ptr(s->put), &got, err);
	end_patch(s);
	return r;
}

/* The stream cannot go on: what follows is dropped until the COMMIT. */
static void refuse(struct serve *s)
{
	size_t count;
	const uint64_t *bases = objects_in_bases(s->objects, &count);

	/* They are there, but what they gave was wrong. */
	for (size_t i = 0; s->lost.len == 0 && i < count; i++)
		inlay_buf_u64(&s->lost, bases[i]);
	s->refused = true;
	s->taken = objects_in_count(s->objects);
	objects_in_free(s->objects);
	s->objects = NULL;
	end_patch(s);
}

int serve_nak(struct serve *s, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct message_nak m = {
		.taken = s->taken, .count = s->lost.len / 8, .prefixes = s->lost.data};

	s->refused = false;
	message_encode_nak(&b, &m);
	int r = inlay_buf_check(&s->lost, err);
	inlay_buf_clear(&s->lost);
	return r < 0 ? r : serve_send(s, MESSAGE_NAK, &b, err);
}

/* ---- directories ---- */

static int basis_gone(struct serve *s, struct inlay_error *err)
{
	s->last_reason = MESSAGE_REASON_BASIS;
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
		*ret_copy = inlay_dup(was.target, was.target_len);
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
	int r = inlay_dir_open(s->trees, &e->id, &dir, err);

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
	return inlay_store_put(s->store, bytes, len, NULL, err);
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
		r = inlay_dir_open(s->trees, basis, &dir, err);
	if (r == INLAY_TREES_MISSING)
		return basis_gone(s, err);
	if (r == 0)
		r = complete_ops(s, &dir, ops, tree_ops, copies, count, err);
	inlay_dir_close(&dir);
	if (r == 0)
		r = inlay_tree_edit(s->trees, basis, tree_ops, count, put_tree, s, ret, err);
	return r == INLAY_TREES_MISSING ? basis_gone(s, err) : r;
}

int serve_tree(void *ctx, const uint64_t *basis, struct objects_op *ops, size_t count,
	       struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct serve *s = ctx;
	struct inlay_digest id;
	auto_free struct inlay_tree_op *tree_ops = calloc(count + 1, sizeof *tree_ops);
	auto_free char **copies = calloc(count + 1, sizeof *copies);

	if (!tree_ops || !copies)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (basis && inlay_store_find(s->store, *basis, &id) != 0)
		return basis_gone(s, err);
	int r = build(s, basis ? &id : NULL, ops, tree_ops, copies, count, ret, err);
	for (size_t i = 0; i < count; i++)
		free(copies[i]);
	return r;
}

static const struct objects_sink sink = {
	.blob_begin = blob_begin,
	.blob_bytes = blob_bytes,
	.blob_end = blob_end,
	.basis = basis,
	.patch_begin = patch_begin,
	.patch_bytes = patch_bytes,
	.patch_end = patch_end,
	.tree = serve_tree,
};

int serve_data(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	if (!s->locked && !s->image)
		return inlay_error_set(err, -EPROTO, "DATA without an OPEN for writing");
	if (s->refused)
		return 0;
	if (!s->receiving && !s->image) {
		inlay_host_receive(s->host, true);
		s->receiving = true;
	}
	if (!s->objects) {
		int r = objects_in_new(s->image ? &serve_image_sink : &sink, s, &s->objects, err);
		if (r < 0)
			return r;
	}
	int r = objects_in_feed(s->objects, f->payload, f->len, err);
	if (r != -ESTALE || s->last_reason == MESSAGE_REASON_BASIS)
		return r;
	refuse(s);
	return 0;
}

void serve_end_receiving(struct serve *s)
{
	if (s->receiving)
		inlay_host_receive(s->host, false);
	s->receiving = false;
}
