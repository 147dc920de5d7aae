/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiving side is a state machine over decompressed bytes: items may be cut anywhere by frames.
 * Sizes are checked before anything is kept, and a blob goes to the sink as it comes.
 */
#include "wire/objects.h"

#include <errno.h>
#include <stdlib.h>

#include <zstd.h>

#include "inlay/cleanup.h"
#include "inlay/limits.h"

enum state {
	AT_ITEM,       /* the next byte is an item's kind */
	IN_SIZE,       /* the varint behind it */
	IN_BLOB,       /* its bytes */
	AT_BLOB_END,   /* the byte behind them */
	IN_TREE,       /* a tree's bytes are collected */
	IN_BASES,      /* prefixes of ids are collected */
	AT_FRAME_END,  /* the zstd frame must end here */
	IN_PATCH_IDS,  /* the two ids of a patch are collected */
	IN_PIECE_SIZE, /* the varint of a piece of a patch */
	IN_PIECE,      /* its bytes */
};

enum {
	ITEM_BLOB = 1,
	ITEM_TREE,
	ITEM_END,
	ITEM_BASES,
	ITEM_PATCH,
	PREFIX_KEPT = 4 << 20,
	ZSTD_KEPT = 2 << 20,
	NUMBERS_KEPT = 1 << 14
};

struct numbered {
	struct inlay_digest id;
	uint32_t tree; /* index into trees + 1; 0 = a blob */
};

struct objects_in {
	const struct objects_sink *sink;
	void *ctx;
	ZSTD_DCtx *zstd;
	uint8_t *out; /* decompressed bytes */
	size_t out_cap;
	enum state state;
	uint8_t kind;
	unsigned size_shift;
	uint64_t left; /* of the item at hand */
	struct inlay_buf item;
	struct numbered *numbers;
	size_t count, cap;
	struct inlay_tree_built *trees; /* of the numbers that are trees */
	size_t tree_count, tree_cap;
	struct objects_op *ops;
	size_t op_cap;
	/* prefixes */
	bool in_frame; /* inside a zstd frame */
	uint64_t *bases;
	size_t base_count;       /* of the frame at hand */
	size_t next_base_count;  /* of the next one; its bases are in item */
	struct inlay_buf prefix; /* their contents */
	struct inlay_digest patch_id;
};

static void free_numbers(struct objects_in *in)
{
	free(in->numbers);
	free(in->trees);
	in->numbers = NULL;
	in->trees = NULL;
	in->cap = in->tree_cap = 0;
}

static int new_zstd(struct objects_in *in, struct inlay_error *err)
{
	ZSTD_freeDCtx(in->zstd);
	in->zstd = ZSTD_createDCtx();
	if (!in->zstd)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)ZSTD_DCtx_setParameter(in->zstd, ZSTD_d_windowLogMax, INLAY_ZSTD_WINDOW_LOG);
	return 0;
}

int objects_in_new(const struct objects_sink *sink, void *ctx, struct objects_in **ret,
		   struct inlay_error *err)
{
	struct objects_in *in = calloc(1, sizeof *in);

	if (in) {
		in->out_cap = ZSTD_DStreamOutSize();
		in->out = malloc(in->out_cap);
	}
	if (!in || !in->out || new_zstd(in, NULL) < 0) {
		objects_in_free(in);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	in->sink = sink;
	in->ctx = ctx;
	*ret = in;
	return 0;
}

void objects_in_free(struct objects_in *in)
{
	if (!in)
		return;
	ZSTD_freeDCtx(in->zstd);
	free(in->out);
	inlay_buf_fini(&in->item);
	free_numbers(in);
	free(in->ops);
	free(in->bases);
	inlay_buf_fini(&in->prefix);
	free(in);
}

size_t objects_in_count(const struct objects_in *in)
{
	return in->count;
}

const uint64_t *objects_in_bases(const struct objects_in *in, size_t *ret_count)
{
	*ret_count = in->base_count;
	return in->bases;
}

bool objects_in_idle(const struct objects_in *in)
{
	return in->state == AT_ITEM;
}

static int bad(struct inlay_error *err, const char *what)
{
	return inlay_error_set(err, -EPROTO, "object stream: %s", what);
}

/* ---- numbers ---- */

static void *grown(void *array, size_t count, size_t *cap, size_t size)
{
	if (count < *cap)
		return array;
	size_t more = *cap ? *cap * 2 : 64;
	void *p = reallocarray(array, more, size);
	if (p)
		*cap = more;
	return p;
}

static int add_number(struct objects_in *in, const struct inlay_digest *id,
		      const struct inlay_tree_built *tree, struct inlay_error *err)
{
	uint32_t index = 0;

	if (in->count >= 2u * INLAY_ENTRIES_MAX)
		return bad(err, "too many objects");
	struct numbered *numbers = grown(in->numbers, in->count, &in->cap, sizeof *numbers);
	if (!numbers)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	in->numbers = numbers;
	if (tree) {
		struct inlay_tree_built *trees =
			grown(in->trees, in->tree_count, &in->tree_cap, sizeof *trees);
		if (!trees)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		in->trees = trees;
		trees[in->tree_count++] = *tree;
		index = (uint32_t)in->tree_count;
	}
	numbers[in->count++] = (struct numbered){*id, index};
	return 0;
}

/* ---- trees ---- */

struct running {
	int64_t next_number;
	int64_t mtime_ns;
};

static int64_t unzigzag(uint64_t v)
{
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* A reference; *ret_number is NULL for a literal id. */
static bool get_reference(struct objects_in *in, struct inlay_cursor *c, struct running *run,
			  struct inlay_digest *ret_id, const struct numbered **ret_number)
{
	uint64_t v = inlay_cursor_varint(c);

	*ret_number = NULL;
	if (c->failed)
		return false;
	if (v == 0) {
		const uint8_t *id = inlay_cursor_bytes(c, INLAY_DIGEST_BYTES);
		if (id)
			memcpy(ret_id->b, id, INLAY_DIGEST_BYTES);
		return id;
	}
	int64_t n;
	if (__builtin_add_overflow(run->next_number, unzigzag(v - 1), &n) || n < 0 ||
	    (uint64_t)n >= in->count)
		return false;
	run->next_number = n + 1;
	*ret_number = &in->numbers[n];
	*ret_id = in->numbers[n].id;
	return true;
}

static bool get_content(struct objects_in *in, struct inlay_cursor *c, struct running *run,
			unsigned kind, struct objects_op *op)
{
	struct inlay_entry *e = &op->entry;
	const struct numbered *n;
	size_t len;

	if (kind == 3) {
		e->target = (const char *)inlay_cursor_string(c, INLAY_LINK_MAX, &len);
		e->target_len = (uint16_t)len;
		e->size = len;
		return !c->failed && len > 0;
	}
	if (!get_reference(in, c, run, &e->id, &n))
		return false;
	if (kind == 1) {
		e->size = inlay_cursor_varint(c);
		return e->size <= INLAY_OBJECT_MAX;
	}
	/* A file may have the very bytes of a tree object; then the object came as a blob, and what is
	 * below it has to be looked up. */
	if (n && n->tree) {
		const struct inlay_tree_built *t = &in->trees[n->tree - 1];
		e->below = t->below;
		e->subdirs = t->subdirs;
		op->below_known = true;
	}
	return true;
}

static bool get_more(struct objects_in *in, struct inlay_cursor *c, struct running *run,
		     struct inlay_entry *e)
{
	const struct numbered *n;
	uint64_t uid = inlay_cursor_varint(c), gid = inlay_cursor_varint(c);

	e->link_group = inlay_cursor_varint(c);
	uint8_t has_xattrs = inlay_cursor_u8(c);
	if (c->failed || uid > UINT32_MAX || gid > UINT32_MAX || has_xattrs > 1)
		return false;
	e->uid = (uint32_t)uid;
	e->gid = (uint32_t)gid;
	return !has_xattrs || get_reference(in, c, run, &e->xattrs, &n);
}

static bool get_op(struct objects_in *in, struct inlay_cursor *c, struct running *run,
		   struct objects_op *op)
{
	static const uint32_t types[] = {0, S_IFREG, S_IFDIR, S_IFLNK};
	uint8_t flags = inlay_cursor_u8(c);
	unsigned kind = flags & 3;
	size_t len;

	*op = (struct objects_op){.remove = kind == 0};
	op->inherit = flags & (OBJECTS_SAME_CONTENT | OBJECTS_SAME_MTIME | OBJECTS_SAME_MODE);
	op->entry.name = (const char *)inlay_cursor_string(c, INLAY_NAME_MAX, &len);
	op->entry.name_len = (uint8_t)len;
	op->entry.mode = types[kind];
	if (c->failed || (flags & 0xc0) || !inlay_name_valid(op->entry.name, len))
		return false;
	if (kind == 0)
		return flags == 0;
	if (!(flags & OBJECTS_SAME_CONTENT) && !get_content(in, c, run, kind, op))
		return false;
	if (!(flags & OBJECTS_SAME_MTIME)) {
		uint64_t delta = (uint64_t)unzigzag(inlay_cursor_varint(c));
		run->mtime_ns = (int64_t)((uint64_t)run->mtime_ns + delta);
		op->entry.mtime_ns = run->mtime_ns;
	}
	if (!(flags & OBJECTS_SAME_MODE)) {
		uint64_t mode = inlay_cursor_varint(c);
		if (mode & ~07777ull)
			return false;
		op->entry.mode |= (uint32_t)mode;
	}
	return !(flags & 1 << 5) || get_more(in, c, run, &op->entry);
}

static bool names_ascend(const struct objects_op *ops, size_t i)
{
	if (i == 0)
		return true;
	const struct inlay_entry *a = &ops[i - 1].entry, *b = &ops[i].entry;
	size_t common = a->name_len < b->name_len ? a->name_len : b->name_len;
	int c = memcmp(a->name, b->name, common);
	return c < 0 || (c == 0 && a->name_len < b->name_len);
}

static int take_tree(struct objects_in *in, struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(in->item.data, in->item.len);
	struct running run = {0};
	uint64_t basis = 0;
	struct inlay_tree_built built;

	uint8_t has_basis = inlay_cursor_u8(&c);
	if (has_basis == 1)
		basis = inlay_cursor_u64(&c);
	uint64_t count = inlay_cursor_varint(&c);
	/* The smallest op has 3 bytes: flags, length, one byte of a name. */
	if (c.failed || has_basis > 1 || count > c.left / 3)
		return bad(err, "a bad tree");
	if (count > in->op_cap) {
		struct objects_op *ops = reallocarray(in->ops, count, sizeof *ops);
		if (!ops)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		in->ops = ops;
		in->op_cap = count;
	}
	for (size_t i = 0; i < count; i++)
		if (!get_op(in, &c, &run, &in->ops[i]) || !names_ascend(in->ops, i))
			return bad(err, "a bad change of a directory");
	if (!inlay_cursor_done(&c))
		return bad(err, "bytes behind a tree");
	int r = in->sink->tree(in->ctx, has_basis ? &basis : NULL, in->ops, count, &built, err);
	return r < 0 ? r : add_number(in, &built.id, &built, err);
}

/* ---- the state machine ---- */

static void begin_size(struct objects_in *in, enum state state)
{
	in->left = 0;
	in->size_shift = 0;
	in->state = state;
}

static int begin_item(struct objects_in *in, uint8_t kind, struct inlay_error *err)
{
	in->kind = kind;
	switch (kind) {
	case ITEM_BLOB:
	case ITEM_TREE:
	case ITEM_BASES:
		begin_size(in, IN_SIZE);
		return 0;
	case ITEM_PATCH:
		inlay_buf_clear(&in->item);
		in->left = 2 * INLAY_DIGEST_BYTES;
		in->state = IN_PATCH_IDS;
		return 0;
	case ITEM_END:
		in->count = 0;
		in->tree_count = 0;
		if (in->cap > NUMBERS_KEPT)
			free_numbers(in);
		return 0;
	default:
		return bad(err, "an unknown item");
	}
}

static int begin_patch(struct objects_in *in, struct inlay_error *err)
{
	struct inlay_digest basis;

	memcpy(basis.b, in->item.data, INLAY_DIGEST_BYTES);
	memcpy(in->patch_id.b, in->item.data + INLAY_DIGEST_BYTES, INLAY_DIGEST_BYTES);
	uint64_t size = in->left;
	begin_size(in, IN_PIECE_SIZE);
	return in->sink->patch_begin(in->ctx, &basis, &in->patch_id, size, err);
}

static int begin_body(struct objects_in *in, struct inlay_error *err)
{
	switch (in->kind) {
	case ITEM_TREE:
		if (in->left == 0 || in->left > INLAY_TREE_BYTES_MAX)
			return bad(err, "a tree of a bad size");
		inlay_buf_clear(&in->item);
		in->state = IN_TREE;
		return 0;
	case ITEM_BASES:
		if (in->left == 0 || in->left > INLAY_DELTA_BASES_MAX)
			return bad(err, "a bad number of bases");
		inlay_buf_clear(&in->item);
		in->next_base_count = (size_t)in->left;
		in->left *= sizeof(uint64_t);
		in->state = IN_BASES;
		return 0;
	default:
		if (in->left > INLAY_OBJECT_MAX)
			return bad(err, "an object that is too large");
		if (in->kind == ITEM_PATCH)
			return begin_patch(in, err);
		in->state = in->left ? IN_BLOB : AT_BLOB_END;
		return in->sink->blob_begin(in->ctx, in->left, err);
	}
}

static int begin_piece(struct objects_in *in, struct inlay_error *err)
{
	if (in->left > INLAY_FRAME_MAX)
		return bad(err, "a piece that is too large");
	if (in->left > 0) {
		in->state = IN_PIECE;
		return 0;
	}
	in->state = AT_BLOB_END;
	return 0;
}

/* A varint that comes byte by byte; the same rules as inlay_cursor_varint. */
static int size_byte(struct objects_in *in, uint8_t byte, struct inlay_error *err)
{
	if (in->size_shift > 63 || (in->size_shift == 63 && byte > 1) ||
	    (in->size_shift > 0 && byte == 0))
		return bad(err, "a bad size");
	in->left |= (uint64_t)(byte & 0x7f) << in->size_shift;
	in->size_shift += 7;
	if (byte & 0x80)
		return 0;
	return in->state == IN_SIZE ? begin_body(in, err) : begin_piece(in, err);
}

static int end_blob(struct objects_in *in, uint8_t drop, struct inlay_error *err)
{
	struct inlay_digest id;

	if (drop > 1)
		return bad(err, "a bad end of an object");
	in->state = AT_ITEM;
	int r;
	if (in->kind == ITEM_PATCH) {
		id = in->patch_id;
		r = in->sink->patch_end(in->ctx, !drop, err);
	} else {
		r = in->sink->blob_end(in->ctx, !drop, &id, err);
	}
	return r < 0 || drop ? r : add_number(in, &id, NULL, err);
}

/* The whole item was collected. */
static int end_item(struct objects_in *in, struct inlay_error *err)
{
	switch (in->state) {
	case IN_TREE:
		in->state = AT_ITEM;
		return take_tree(in, err);
	case IN_BASES:
		in->state = AT_FRAME_END;
		return 0;
	default:
		begin_size(in, IN_SIZE);
		return 0;
	}
}

static int collect(struct objects_in *in, const uint8_t *p, size_t n, struct inlay_error *err)
{
	in->left -= n;
	inlay_buf_add(&in->item, p, n);
	int r = inlay_buf_check(&in->item, err);
	return r < 0 || in->left > 0 ? r : end_item(in, err);
}

/* Takes some of the bytes; *ret_used > 0. */
static int take(struct objects_in *in, const uint8_t *p, size_t len, size_t *ret_used,
		struct inlay_error *err)
{
	size_t n = len < in->left ? len : (size_t)in->left;

	*ret_used = 1;
	switch (in->state) {
	case AT_ITEM:
		return begin_item(in, *p, err);
	case IN_SIZE:
	case IN_PIECE_SIZE:
		return size_byte(in, *p, err);
	case AT_BLOB_END:
		return end_blob(in, *p, err);
	case IN_BLOB:
		*ret_used = n;
		in->left -= n;
		if (in->left == 0)
			in->state = AT_BLOB_END;
		return in->sink->blob_bytes(in->ctx, p, n, err);
	case IN_PIECE:
		*ret_used = n;
		in->left -= n;
		if (in->left == 0)
			begin_size(in, IN_PIECE_SIZE);
		return in->sink->patch_bytes(in->ctx, p, n, err);
	case IN_TREE:
	case IN_BASES:
	case IN_PATCH_IDS:
		*ret_used = n;
		return collect(in, p, n, err);
	case AT_FRAME_END:
		break;
	}
	return bad(err, "bytes behind the bases");
}

static int parse(struct objects_in *in, const uint8_t *p, size_t len, struct inlay_error *err)
{
	while (len > 0) {
		size_t used;
		int r = take(in, p, len, &used, err);
		if (r < 0)
			return r;
		p += used;
		len -= used;
	}
	return 0;
}

/* ---- zstd frames ---- */

/* The bases that the frame before named become the prefix of the one that begins. */
static int load_bases(struct objects_in *in, struct inlay_error *err)
{
	int r = 0, first = 0;

	in->base_count = in->next_base_count;
	in->next_base_count = 0;
	free(in->bases);
	in->bases = calloc(in->base_count, sizeof *in->bases);
	if (!in->bases)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	/* All are tried, so that the sink learns of each one that is missing. */
	for (size_t i = 0; i < in->base_count && (r == 0 || r == -ESTALE); i++) {
		in->bases[i] = inlay_get_le64(in->item.data + 8 * i);
		r = in->sink->basis(in->ctx, in->bases[i], INLAY_DELTA_MAX - in->prefix.len,
				    &in->prefix, err);
		first = first ? first : r;
	}
	if (first < 0 || r < 0)
		return first < 0 ? first : r;
	r = inlay_buf_check(&in->prefix, err);
	if (r < 0)
		return r;
	in->state = AT_ITEM;
	(void)ZSTD_DCtx_refPrefix(in->zstd, in->prefix.data, in->prefix.len);
	return 0;
}

/* Memory for a large prefix, and the window that goes with it, are not kept. */
static int end_frame(struct objects_in *in, struct inlay_error *err)
{
	in->in_frame = false;
	in->base_count = 0;
	if (in->prefix.cap <= PREFIX_KEPT && ZSTD_sizeof_DCtx(in->zstd) <= ZSTD_KEPT) {
		inlay_buf_clear(&in->prefix);
		return 0;
	}
	inlay_buf_fini(&in->prefix);
	return new_zstd(in, err);
}

static int feed_some(struct objects_in *in, ZSTD_inBuffer *from, ZSTD_outBuffer *to,
		     struct inlay_error *err)
{
	if (!in->in_frame && in->next_base_count > 0) {
		int r = in->state == AT_FRAME_END ? load_bases(in, err)
						  : bad(err, "bases out of place");
		if (r < 0)
			return r;
	}
	in->in_frame = true;
	size_t left = ZSTD_decompressStream(in->zstd, to, from);
	if (ZSTD_isError(left))
		return inlay_error_set(err, -EPROTO, "object stream: %s", ZSTD_getErrorName(left));
	int r = parse(in, in->out, to->pos, err);
	return r == 0 && left == 0 ? end_frame(in, err) : r;
}

int objects_in_feed(struct objects_in *in, const void *bytes, size_t len, struct inlay_error *err)
{
	ZSTD_inBuffer from = {bytes, len, 0};
	ZSTD_outBuffer to;

	do {
		to = (ZSTD_outBuffer){in->out, in->out_cap, 0};
		size_t before = from.pos;
		int r = feed_some(in, &from, &to, err);
		/* What another basis gives is no stream at all; the peer is not to blame for it. */
		if (r == -EPROTO && in->base_count > 0)
			return inlay_error_set(err, -ESTALE,
					       "a difference does not fit to what is here");
		if (r < 0)
			return r;
		if (to.pos == 0 && from.pos == before)
			break;
	} while (from.pos < from.size || to.pos == to.size);
	return from.pos == from.size ? 0 : bad(err, "zstd makes no progress");
}
