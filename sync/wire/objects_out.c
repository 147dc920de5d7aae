/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/objects.h"

#include <errno.h>
#include <stdlib.h>

#include <zstd.h>

#include "inlay/limits.h"

enum {
	ITEM_BLOB = 1,
	ITEM_TREE = 2,
	ITEM_END = 3,
	ITEM_BASES = 4,
	ITEM_PATCH = 5,
	EMIT_BYTES = 64 << 10, /* a cut loses what of a frame has come */
	SMALL_WINDOW_LOG = 19, /* for a change set: both ends stay small */
	FIRST_WINDOW_LOG = 24, /* for a first sync: 16 MiB */
	LDM_BYTES = 4 << 20,   /* above this much, matches far back are worth looking for */
	MIN_WINDOW_LOG = 12,
	KEPT_WINDOW_LOG = 20,
	DELTA_LDM_BYTES = 256 << 10, /* the same, with a prefix */
	DELTA_TABLE_LOG = 20,
	FAR_MIN_MATCH = 32,
	FAR_HASH_RATE_LOG = 5,
	TREES_ROOM = 4096, /* directories come in the last frame */
};

int objects_out_init(struct objects_out *o,
		     int (*emit)(void *ctx, const void *bytes, size_t len, struct inlay_error *err),
		     void *ctx, struct inlay_error *err)
{
	*o = (struct objects_out){.emit = emit, .ctx = ctx};
	o->zstd = ZSTD_createCCtx();
	o->out = malloc(EMIT_BYTES);
	if (!o->zstd || !o->out) {
		objects_out_fini(o);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	return objects_out_frame(o, &(struct objects_frame){.level = 3}, err);
}

void objects_out_fini(struct objects_out *o)
{
	ZSTD_freeCCtx(o->zstd);
	free(o->out);
	inlay_idset_fini(&o->numbers);
	inlay_idset_fini(&o->ended);
	inlay_buf_fini(&o->item);
	inlay_buf_fini(&o->prefix);
	*o = (struct objects_out){0};
}

/* ---- compressed bytes ---- */

static int emit(struct objects_out *o, struct inlay_error *err)
{
	if (o->out_len == 0)
		return 0;
	int r = o->emit(o->ctx, o->out, o->out_len, err);
	o->out_len = 0;
	return r;
}

static int compress(struct objects_out *o, const void *bytes, size_t len, ZSTD_EndDirective mode,
		    struct inlay_error *err)
{
	ZSTD_inBuffer in = {bytes, len, 0};

	o->raw += len;
	for (;;) {
		ZSTD_outBuffer out = {o->out, EMIT_BYTES, o->out_len};
		size_t left = ZSTD_compressStream2(o->zstd, &out, &in, mode);
		if (ZSTD_isError(left))
			return inlay_error_set(err, -EIO, "zstd: %s", ZSTD_getErrorName(left));
		o->packed += out.pos - o->out_len;
		o->out_len = out.pos;
		if (mode == ZSTD_e_continue ? in.pos == in.size : left == 0)
			return 0;
		int r = o->out_len == EMIT_BYTES ? emit(o, err) : 0;
		if (r < 0)
			return r;
	}
}

/* ---- frames ---- */

static int log2_above(uint64_t v)
{
	return v > 1 ? 64 - __builtin_clzll(v - 1) : 0;
}

static int at_least(int v, int min)
{
	return v < min ? min : v;
}

static int at_most(int v, int max)
{
	return v > max ? max : v;
}

static void set(struct objects_out *o, ZSTD_cParameter what, int value)
{
	(void)ZSTD_CCtx_setParameter(o->zstd, what, value);
}

/* Ends the frame at hand. A context that had large tables keeps them; they go with it. */
static int close_frame(struct objects_out *o, struct inlay_error *err)
{
	int r = o->level ? compress(o, NULL, 0, ZSTD_e_end, err) : 0;

	inlay_buf_fini(&o->prefix);
	o->prefixed = false;
	if (r < 0)
		return r;
	if (o->window_log <= KEPT_WINDOW_LOG) {
		(void)ZSTD_CCtx_reset(o->zstd, ZSTD_reset_session_and_parameters);
		return 0;
	}
	ZSTD_freeCCtx(o->zstd);
	o->zstd = ZSTD_createCCtx();
	return o->zstd ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

static int put_bases(struct objects_out *o, const struct objects_frame *f, struct inlay_error *err)
{
	inlay_buf_clear(&o->item);
	inlay_buf_u8(&o->item, ITEM_BASES);
	inlay_buf_varint(&o->item, f->bases->count);
	for (size_t i = 0; i < f->bases->count; i++)
		inlay_buf_u64(&o->item, inlay_digest_prefix(&f->bases->members[i]));
	int r = inlay_buf_check(&o->item, err);
	return r < 0 ? r : compress(o, o->item.data, o->item.len, ZSTD_e_continue, err);
}

static int open_prefixed(struct objects_out *o, const struct objects_frame *f,
			 struct inlay_error *err)
{
	uint64_t bytes = f->prefix->len + f->bytes;
	int window = at_least(log2_above(bytes + TREES_ROOM), MIN_WINDOW_LOG);

	if (bytes > INLAY_DELTA_MAX || f->bases->count > INLAY_DELTA_BASES_MAX)
		return inlay_error_set(err, -EINVAL, "a prefix that is too large");
	int r = put_bases(o, f, err);
	if (r == 0)
		r = close_frame(o, err);
	if (r < 0)
		return r;
	o->level = f->level;
	o->window_log = at_most(window, INLAY_ZSTD_WINDOW_LOG);
	o->prefixed = true;
	o->prefix = *f->prefix;
	*f->prefix = (struct inlay_buf){0};
	set(o, ZSTD_c_compressionLevel, f->level);
	set(o, ZSTD_c_windowLog, o->window_log);
	set(o, ZSTD_c_checksumFlag, 1);
	set(o, ZSTD_c_enableLongDistanceMatching, bytes > DELTA_LDM_BYTES);
	/* zstd's own tables for a low level forget most of a large prefix; at a high one they are larger than
	 * this already. */
	if (f->level <= 3) {
		set(o, ZSTD_c_hashLog, at_most(o->window_log, DELTA_TABLE_LOG));
		set(o, ZSTD_c_chainLog, at_most(o->window_log, DELTA_TABLE_LOG));
	}
	size_t bad = ZSTD_CCtx_refPrefix(o->zstd, o->prefix.data, o->prefix.len);
	return ZSTD_isError(bad) ? inlay_error_set(err, -EIO, "zstd: %s", ZSTD_getErrorName(bad))
				 : 0;
}

static int open_plain(struct objects_out *o, const struct objects_frame *f, int window,
		      struct inlay_error *err)
{
	int r = close_frame(o, err);

	if (r < 0)
		return r;
	set(o, ZSTD_c_compressionLevel, f->level);
	set(o, ZSTD_c_windowLog, window);
	set(o, ZSTD_c_enableLongDistanceMatching, f->bytes > LDM_BYTES);
	/* Finds much more than zstd's own choice among libraries and their tables, for a fifth more time. */
	if (f->far && f->bytes > LDM_BYTES) {
		set(o, ZSTD_c_ldmMinMatch, FAR_MIN_MATCH);
		set(o, ZSTD_c_ldmHashRateLog, FAR_HASH_RATE_LOG);
	}
	o->level = f->level;
	o->window_log = window;
	return 0;
}

int objects_out_frame(struct objects_out *o, const struct objects_frame *f, struct inlay_error *err)
{
	if (f->prefix)
		return open_prefixed(o, f, err);
	int window = at_most(at_least(log2_above(f->bytes), SMALL_WINDOW_LOG),
			     f->far ? INLAY_ZSTD_WINDOW_LOG : FIRST_WINDOW_LOG);
	if (f->level == o->level && window == o->window_log && !o->prefixed && !f->far)
		return 0;
	return open_plain(o, f, window, err);
}

int objects_out_settle(struct objects_out *o, struct inlay_error *err)
{
	return compress(o, NULL, 0, ZSTD_e_flush, err);
}

int objects_out_end(struct objects_out *o, struct inlay_error *err)
{
	uint8_t item = ITEM_END;

	inlay_idset_fini(&o->ended);
	o->ended = o->numbers;
	o->numbers = (struct inlay_idset){0};
	/* A large window is not kept until the next change set, on neither side. */
	bool close = o->apart || o->prefixed || o->window_log > SMALL_WINDOW_LOG;
	int r = compress(o, &item, 1, close ? ZSTD_e_continue : ZSTD_e_flush, err);
	if (r == 0 && close)
		r = open_plain(o, &(struct objects_frame){.level = o->level}, SMALL_WINDOW_LOG,
			       err);
	return r < 0 ? r : emit(o, err);
}

static int number(struct objects_out *o, const struct inlay_digest *id, struct inlay_error *err)
{
	int r = inlay_idset_add(&o->numbers, id, err);

	if (r == INLAY_IDSET_THERE)
		return inlay_error_set(err, -EINVAL, "an object is sent twice");
	return r;
}

/* ---- items ---- */

int objects_out_blob_begin(struct objects_out *o, uint64_t size, struct inlay_error *err)
{
	inlay_buf_clear(&o->item);
	inlay_buf_u8(&o->item, ITEM_BLOB);
	inlay_buf_varint(&o->item, size);
	int r = inlay_buf_check(&o->item, err);
	return r < 0 ? r : compress(o, o->item.data, o->item.len, ZSTD_e_continue, err);
}

int objects_out_blob_bytes(struct objects_out *o, const void *bytes, size_t len,
			   struct inlay_error *err)
{
	return compress(o, bytes, len, ZSTD_e_continue, err);
}

int objects_out_blob_end(struct objects_out *o, const struct inlay_digest *id,
			 struct inlay_error *err)
{
	uint8_t drop = id ? 0 : 1;
	int r = compress(o, &drop, 1, ZSTD_e_continue, err);

	return r < 0 || !id ? r : number(o, id, err);
}

int objects_out_patch_begin(struct objects_out *o, const struct inlay_digest *basis,
			    const struct inlay_digest *id, uint64_t size, struct inlay_error *err)
{
	inlay_buf_clear(&o->item);
	inlay_buf_u8(&o->item, ITEM_PATCH);
	inlay_buf_add(&o->item, basis->b, INLAY_DIGEST_BYTES);
	inlay_buf_add(&o->item, id->b, INLAY_DIGEST_BYTES);
	inlay_buf_varint(&o->item, size);
	int r = inlay_buf_check(&o->item, err);
	return r < 0 ? r : compress(o, o->item.data, o->item.len, ZSTD_e_continue, err);
}

int objects_out_patch_bytes(struct objects_out *o, const void *bytes, size_t len,
			    struct inlay_error *err)
{
	const uint8_t *p = bytes;
	int r = 0;

	while (r == 0 && len > 0) {
		size_t n = len < INLAY_FRAME_MAX ? len : INLAY_FRAME_MAX;
		inlay_buf_clear(&o->item);
		inlay_buf_varint(&o->item, n);
		r = inlay_buf_check(&o->item, err);
		if (r == 0)
			r = compress(o, o->item.data, o->item.len, ZSTD_e_continue, err);
		if (r == 0)
			r = compress(o, p, n, ZSTD_e_continue, err);
		p += n;
		len -= n;
	}
	return r;
}

int objects_out_patch_end(struct objects_out *o, const struct inlay_digest *id,
			  struct inlay_error *err)
{
	uint8_t end[2] = {0, id ? 0 : 1};
	int r = compress(o, end, sizeof end, ZSTD_e_continue, err);

	return r < 0 || !id ? r : number(o, id, err);
}

static int by_name(const void *a, const void *b)
{
	const struct inlay_entry *x = &((const struct objects_op *)a)->entry;
	const struct inlay_entry *y = &((const struct objects_op *)b)->entry;
	size_t common = x->name_len < y->name_len ? x->name_len : y->name_len;
	int c = memcmp(x->name, y->name, common);

	return c ? c : (int)x->name_len - (int)y->name_len;
}

static uint64_t zigzag(int64_t v)
{
	return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

/* State that runs through the ops of one item, so that neighbours cost little. */
struct running {
	int64_t next_number;
	int64_t mtime_ns;
};

static void put_reference(struct objects_out *o, struct running *run, const struct inlay_digest *id)
{
	int64_t n = inlay_idset_number(&o->numbers, id);

	if (n < 0) {
		inlay_buf_varint(&o->item, 0);
		inlay_buf_add(&o->item, id->b, INLAY_DIGEST_BYTES);
		return;
	}
	inlay_buf_varint(&o->item, 1 + zigzag(n - run->next_number));
	run->next_number = n + 1;
}

static void put_op(struct objects_out *o, struct running *run, const struct objects_op *op)
{
	struct inlay_buf *b = &o->item;
	const struct inlay_entry *e = &op->entry;
	bool has_xattrs = !inlay_digest_is_zero(&e->xattrs);
	bool more = e->uid || e->gid || e->link_group || has_xattrs;
	unsigned kind = op->remove ? 0 : S_ISREG(e->mode) ? 1 : S_ISDIR(e->mode) ? 2 : 3;

	inlay_buf_u8(b, (uint8_t)(op->remove ? 0 : kind | op->inherit | (more ? 1u << 5 : 0)));
	inlay_buf_string(b, e->name, e->name_len);
	if (op->remove)
		return;
	if (!(op->inherit & OBJECTS_SAME_CONTENT)) {
		if (kind == 3)
			inlay_buf_string(b, e->target, e->target_len);
		else
			put_reference(o, run, &e->id);
		if (kind == 1)
			inlay_buf_varint(b, e->size);
	}
	if (!(op->inherit & OBJECTS_SAME_MTIME)) {
		inlay_buf_varint(
			b, zigzag((int64_t)((uint64_t)e->mtime_ns - (uint64_t)run->mtime_ns)));
		run->mtime_ns = e->mtime_ns;
	}
	if (!(op->inherit & OBJECTS_SAME_MODE))
		inlay_buf_varint(b, e->mode & 07777);
	if (!more)
		return;
	inlay_buf_varint(b, e->uid);
	inlay_buf_varint(b, e->gid);
	inlay_buf_varint(b, e->link_group);
	inlay_buf_u8(b, has_xattrs);
	if (has_xattrs)
		put_reference(o, run, &e->xattrs);
}

int objects_out_tree(struct objects_out *o, const struct inlay_digest *basis,
		     struct objects_op *ops, size_t count, const struct inlay_digest *id,
		     struct inlay_error *err)
{
	struct running run = {0};
	uint8_t head[11] = {ITEM_TREE};
	struct inlay_buf length = {0};

	if (count > 0)
		qsort(ops, count, sizeof *ops, by_name);
	inlay_buf_clear(&o->item);
	inlay_buf_u8(&o->item, basis ? 1 : 0);
	if (basis)
		inlay_buf_u64(&o->item, inlay_digest_prefix(basis));
	inlay_buf_varint(&o->item, count);
	for (size_t i = 0; i < count; i++)
		put_op(o, &run, &ops[i]);
	inlay_buf_varint(&length, o->item.len);
	int r = inlay_buf_check(&o->item, err);
	if (r == 0)
		r = inlay_buf_check(&length, err);
	if (r == 0 && o->item.len > INLAY_TREE_BYTES_MAX)
		r = inlay_error_set(err, -E2BIG, "a directory with too many changes");
	size_t head_len = 1 + length.len;
	if (r == 0)
		memcpy(head + 1, length.data, length.len);
	inlay_buf_fini(&length);
	if (r == 0)
		r = compress(o, head, head_len, ZSTD_e_continue, err);
	if (r == 0)
		r = compress(o, o->item.data, o->item.len, ZSTD_e_continue, err);
	return r < 0 ? r : number(o, id, err);
}
