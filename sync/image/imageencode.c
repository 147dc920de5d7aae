/* SPDX-License-Identifier: Apache-2.0 */
#include "image/imageencode.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "inlay/limits.h"
#include "session/treesend.h"
#include "wire/objects.h"

enum {
	LEVEL = 3,
	FIRST_LEVEL =
		6, /* of an image that nothing of is there: some 4 % smaller, for twice the time */
	TREES_LEVEL = 12,
	PIECE_BYTES = 256 << 10,
	BATCH_BYTES = 1 << 20, /* old and new contents of small files that share a frame */
	BATCH_FILES = 64,
};

struct encoding {
	struct imageencode *e;
	struct objects_out out;
	uint8_t *piece;
	uint64_t packed_before;
};

const char *image_way_name(enum image_way way)
{
	static const char *const names[] = {"patched", "whole", "trees"};

	return names[way];
}

static bool is_wanted(const struct imageencode *e, size_t i, bool patched)
{
	return inlay_digest_is_zero(&e->plan->items[i].basis) != patched &&
	       !imageencode_skips(e->had, i);
}

/* What was put since the last time went that way. */
static int attribute(struct encoding *c, enum image_way way, struct inlay_error *err)
{
	int r = objects_out_settle(&c->out, err);

	c->e->figures.by[way].wire += c->out.packed - c->packed_before;
	c->packed_before = c->out.packed;
	return r;
}

static int lost(const struct imageplan_item *item, const struct imageplan *plan,
		struct inlay_error *err)
{
	return inlay_error_set(err, -EBADMSG,
			       "a content of the image is not here any more (%.300s); import or "
			       "build it again",
			       (const char *)plan->paths.data + item->path);
}

static int send_item(struct encoding *c, size_t i, enum image_way way, struct inlay_error *err)
{
	struct imageencode *e = c->e;
	const struct imageplan_item *item = &e->plan->items[i];
	size_t n;
	int r = objects_out_blob_begin(&c->out, item->size, err);

	for (uint64_t at = 0; r == 0 && at < item->size; at += n) {
		r = inlay_store_pread(e->store, &item->id, c->piece, PIECE_BYTES, at, &n, err);
		if (r > 0 || (r == 0 && n == 0))
			return lost(item, e->plan, err);
		if (r == 0)
			r = objects_out_blob_bytes(&c->out, c->piece, n, err);
		atomic_fetch_add_explicit(&e->done, n, memory_order_relaxed);
	}
	e->figures.by[way].objects++;
	e->figures.by[way].raw += item->size;
	return r < 0 ? r : objects_out_blob_end(&c->out, &item->id, err);
}

/* ---- with an old content ---- */

struct batch {
	struct inlay_idset bases;
	struct inlay_buf prefix;
	uint64_t bytes; /* of new contents */
	size_t items[BATCH_FILES], count;
};

static void batch_fini(struct batch *b)
{
	inlay_idset_fini(&b->bases);
	inlay_buf_fini(&b->prefix);
	*b = (struct batch){0};
}

static int send_batch(struct encoding *c, struct batch *b, struct inlay_error *err)
{
	const struct objects_frame f = {
		.level = LEVEL, .bytes = b->bytes, .prefix = &b->prefix, .bases = &b->bases};
	int r = b->count > 0 ? objects_out_frame(&c->out, &f, err) : 0;

	for (size_t i = 0; r == 0 && i < b->count; i++)
		r = send_item(c, b->items[i], IMAGE_PATCHED, err);
	batch_fini(b);
	return r;
}

static int add_to_batch(struct encoding *c, struct batch *b, size_t i, struct inlay_error *err)
{
	const struct imageplan_item *item = &c->e->plan->items[i];
	int r = 0;

	if (b->count == BATCH_FILES ||
	    (b->count > 0 &&
	     b->prefix.len + b->bytes + item->size + item->basis_size > BATCH_BYTES))
		r = send_batch(c, b, err);
	if (r == 0)
		r = inlay_idset_add(&b->bases, &item->basis, err);
	if (r == 0)
		r = inlay_store_get(c->e->store, &item->basis, INLAY_DELTA_MAX,
				    INLAY_STORE_CHECK_DIGEST, &b->prefix, err);
	else if (r == INLAY_IDSET_THERE)
		r = 0;
	if (r != 0)
		return r < 0 ? r : lost(item, c->e->plan, err);
	b->bytes += item->size;
	b->items[b->count++] = i;
	return 0;
}

static int send_patched(struct encoding *c, struct inlay_error *err)
{
	struct batch b = {0};
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->e->plan->count; i++)
		if (is_wanted(c->e, i, true))
			r = add_to_batch(c, &b, i, err);
	if (r == 0)
		r = send_batch(c, &b, err);
	batch_fini(&b);
	return r < 0 ? r : attribute(c, IMAGE_PATCHED, err);
}

/* ---- the rest ---- */

static int send_whole(struct encoding *c, struct inlay_error *err)
{
	const struct imageplan *plan = c->e->plan;
	bool first = inlay_digest_is_zero(&plan->basis) && !c->e->no_trees;
	struct objects_frame f = {.level = first ? FIRST_LEVEL : LEVEL, .far = true};

	for (size_t i = 0; i < plan->count; i++)
		f.bytes += is_wanted(c->e, i, false) ? plan->items[i].size : 0;
	int r = objects_out_frame(&c->out, &f, err);
	for (size_t i = 0; r == 0 && i < plan->count; i++)
		if (is_wanted(c->e, i, false))
			r = send_item(c, i, IMAGE_WHOLE, err);
	return r < 0 ? r : attribute(c, IMAGE_WHOLE, err);
}

/* ---- directories ---- */

static bool has_tree(void *ctx, const struct inlay_digest *id)
{
	struct encoding *c = ctx;

	return objects_out_has(&c->out, id);
}

static void count_tree(void *ctx, uint64_t raw)
{
	struct encoding *c = ctx;

	c->e->figures.by[IMAGE_TREES].objects++;
	c->e->figures.by[IMAGE_TREES].raw += raw;
}

static int send_trees(struct encoding *c, struct inlay_error *err)
{
	const struct imageplan *plan = c->e->plan;
	const struct treesend t = {.out = &c->out,
				   .trees = c->e->trees,
				   .has = has_tree,
				   .sent = count_tree,
				   .ctx = c};
	int r = objects_out_frame(
		&c->out, &(struct objects_frame){.level = TREES_LEVEL, .bytes = 8 << 20}, err);

	if (r == 0)
		r = treesend(&t, inlay_digest_is_zero(&plan->basis) ? NULL : &plan->basis,
			     &plan->manifest, err);
	return r < 0 ? r : attribute(c, IMAGE_TREES, err);
}

int imageencode(struct imageencode *e, struct inlay_error *err)
{
	struct encoding c = {.e = e, .piece = malloc(PIECE_BYTES)};
	int r = c.piece ? objects_out_init(&c.out, e->emit, e->ctx, err)
			: inlay_error_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = send_patched(&c, err);
	if (r == 0)
		r = send_whole(&c, err);
	if (r == 0 && !e->no_trees)
		r = send_trees(&c, err);
	if (r == 0)
		r = objects_out_end(&c.out, err);
	objects_out_fini(&c.out);
	free(c.piece);
	return r;
}
