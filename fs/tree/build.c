/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory becomes bytes. The shape (leaf, or split into 2^bits buckets) is a function of the number
 * of entries, and the order one of the names, so one listing has exactly one encoding.
 */
#include <errno.h>
#include <stdlib.h>

#include "inlay/tree.h"
#include "tree/encode.h"
#include "tree/layout.h"

bool tree_entry_can_stand(const struct inlay_entry *e)
{
	uint32_t type = e->mode & S_IFMT;

	if (!inlay_name_valid(e->name, e->name_len) || (e->mode & ~(uint32_t)(S_IFMT | 07777)))
		return false;
	switch (type) {
	case S_IFREG:
		return e->size <= INLAY_OBJECT_MAX;
	case S_IFDIR:
		return true;
	case S_IFLNK:
		return e->target_len > 0 && e->target_len <= INLAY_LINK_MAX &&
		       !memchr(e->target, 0, e->target_len);
	default:
		return false;
	}
}

int inlay_tree_builder_add(struct inlay_tree_builder *b, const struct inlay_entry *e,
			   struct inlay_error *err)
{
	if (!tree_entry_can_stand(e))
		return inlay_error_set(err, -EINVAL, "an entry that cannot stand in a tree");
	if (b->count == b->cap) {
		size_t cap = b->cap ? b->cap * 2 : 16;
		struct inlay_entry *entries = reallocarray(b->entries, cap, sizeof *entries);
		if (!entries)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		b->entries = entries;
		b->cap = cap;
	}
	b->entries[b->count++] = *e;
	return 0;
}

void inlay_tree_builder_fini(struct inlay_tree_builder *b)
{
	free(b->entries);
	*b = (struct inlay_tree_builder){0};
}

int tree_by_hash_and_name(const void *a, const void *b)
{
	const struct tree_sorted *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	size_t nx = x->entry->name_len, ny = y->entry->name_len;
	int c = memcmp(x->entry->name, y->entry->name, nx < ny ? nx : ny);
	return c ? c : (nx > ny) - (nx < ny);
}

static void put_extension(struct inlay_buf *heap, uint8_t tag, const void *body, size_t len)
{
	inlay_buf_u8(heap, tag);
	inlay_buf_u16(heap, (uint16_t)len);
	inlay_buf_add(heap, body, len);
}

static void put_extensions(struct inlay_buf *heap, const struct inlay_entry *e)
{
	uint8_t body[20];

	if (S_ISLNK(e->mode))
		put_extension(heap, TREE_EXT_TARGET, e->target, e->target_len);
	if (S_ISDIR(e->mode)) {
		inlay_put_le32(body, e->subdirs);
		inlay_put_le64(body + 4, e->below.entries);
		inlay_put_le64(body + 12, e->below.bytes);
		put_extension(heap, TREE_EXT_DIR, body, 20);
	}
	if (e->uid || e->gid) {
		inlay_put_le32(body, e->uid);
		inlay_put_le32(body + 4, e->gid);
		put_extension(heap, TREE_EXT_OWNER, body, 8);
	}
	if (!inlay_digest_is_zero(&e->xattrs))
		put_extension(heap, TREE_EXT_XATTRS, e->xattrs.b, INLAY_DIGEST_BYTES);
	if (e->link_group) {
		inlay_put_le64(body, e->link_group);
		put_extension(heap, TREE_EXT_LINK_GROUP, body, 8);
	}
}

static void put_record(uint8_t *rec, struct inlay_buf *heap, const struct tree_sorted *s)
{
	const struct inlay_entry *e = s->entry;
	size_t name_off = heap->len;

	inlay_buf_add(heap, e->name, e->name_len);
	put_extensions(heap, e);
	memset(rec, 0, INLAY_TREE_RECORD_BYTES);
	if (!S_ISLNK(e->mode))
		memcpy(rec, e->id.b, INLAY_DIGEST_BYTES);
	uint64_t size = S_ISREG(e->mode) ? e->size : S_ISLNK(e->mode) ? e->target_len : 0;
	inlay_put_le64(rec + 32, size);
	inlay_put_le64(rec + 40, (uint64_t)e->mtime_ns);
	inlay_put_le32(rec + 48, e->mode);
	inlay_put_le32(rec + 52, (uint32_t)name_off);
	inlay_put_le32(rec + 56, (uint32_t)(s->hash >> 32));
	inlay_put_le16(rec + 60, (uint16_t)(heap->len - name_off - e->name_len));
	rec[62] = e->name_len;
}

static void put_header(uint8_t *h, bool split, uint8_t bits, uint32_t count, uint32_t heap,
		       const struct inlay_tree_built *built, uint32_t own)
{
	memset(h, 0, INLAY_TREE_HEADER_BYTES);
	memcpy(h, TREE_MAGIC, 4);
	h[4] = INLAY_TREE_VERSION;
	h[5] = INLAY_DIGEST_SHA256;
	h[6] = split;
	h[7] = bits;
	inlay_put_le32(h + 8, count);
	inlay_put_le32(h + 12, heap);
	inlay_put_le64(h + 16, built->below.entries);
	inlay_put_le64(h + 24, built->below.bytes);
	inlay_put_le32(h + 32, own);
	inlay_put_le32(h + 36, built->subdirs);
}

void tree_encoder_fini(struct tree_encoder *enc)
{
	inlay_buf_fini(&enc->bytes);
	inlay_buf_fini(&enc->heap);
}

static int put_object(struct tree_encoder *enc, struct inlay_tree_built *built,
		      struct inlay_error *err)
{
	inlay_buf_add(&enc->bytes, enc->heap.data, enc->heap.len);
	enc->bytes.failed |= enc->heap.failed;
	int r = inlay_buf_check(&enc->bytes, err);
	if (r < 0)
		return r;
	if (enc->bytes.len > INLAY_TREE_BYTES_MAX)
		return inlay_error_set(err, -E2BIG, "a directory's listing has %zu bytes",
				       enc->bytes.len);
	inlay_digest_of(enc->bytes.data, enc->bytes.len, &built->id);
	return enc->put ? enc->put(enc->ctx, &built->id, enc->bytes.data, enc->bytes.len, err) : 0;
}

int tree_encode_leaf(struct tree_encoder *enc, const struct tree_sorted *s, size_t count,
		     struct inlay_tree_built *ret, struct inlay_error *err)
{
	size_t fixed = INLAY_TREE_HEADER_BYTES + count * INLAY_TREE_RECORD_BYTES;

	*ret = (struct inlay_tree_built){0};
	inlay_buf_clear(&enc->bytes);
	inlay_buf_clear(&enc->heap);
	uint8_t *out = inlay_buf_reserve(&enc->bytes, fixed);
	if (!out)
		return inlay_buf_check(&enc->bytes, err);
	enc->bytes.len = fixed;
	for (size_t i = 0; i < count; i++) {
		const struct inlay_entry *e = s[i].entry;
		put_record(out + INLAY_TREE_HEADER_BYTES + i * INLAY_TREE_RECORD_BYTES, &enc->heap,
			   &s[i]);
		ret->below.entries++;
		if (S_ISREG(e->mode)) {
			ret->below.bytes += e->size;
		} else if (S_ISDIR(e->mode)) {
			ret->below.entries += e->below.entries;
			ret->below.bytes += e->below.bytes;
			ret->subdirs++;
		}
	}
	if (ret->below.entries > INLAY_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d entries", INLAY_ENTRIES_MAX);
	put_header(out, false, 0, (uint32_t)count, (uint32_t)enc->heap.len, ret, (uint32_t)count);
	return put_object(enc, ret, err);
}

static uint8_t *bucket_in(uint8_t *node, uint32_t i)
{
	return node + INLAY_TREE_HEADER_BYTES + (size_t)i * INLAY_TREE_BUCKET_BYTES;
}

void tree_set_bucket(uint8_t *node, uint32_t i, const struct inlay_tree_built *leaf, size_t own)
{
	uint8_t *b = bucket_in(node, i);

	memset(b, 0, INLAY_TREE_BUCKET_BYTES);
	if (own == 0)
		return;
	memcpy(b, leaf->id.b, INLAY_DIGEST_BYTES);
	inlay_put_le32(b + 32, (uint32_t)own);
	inlay_put_le32(b + 36, leaf->subdirs);
	inlay_put_le64(b + 40, leaf->below.entries);
	inlay_put_le64(b + 48, leaf->below.bytes);
}

int tree_encode_split(struct tree_encoder *enc, uint8_t *node, uint8_t bits,
		      struct inlay_tree_built *ret, struct inlay_error *err)
{
	uint32_t buckets = 1u << bits;
	uint64_t own = 0;

	*ret = (struct inlay_tree_built){0};
	for (uint32_t i = 0; i < buckets; i++) {
		const uint8_t *b = bucket_in(node, i);
		own += inlay_get_le32(b + 32);
		ret->subdirs += inlay_get_le32(b + 36);
		ret->below.entries += inlay_get_le64(b + 40);
		ret->below.bytes += inlay_get_le64(b + 48);
	}
	if (ret->below.entries > INLAY_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d entries", INLAY_ENTRIES_MAX);
	put_header(node, true, bits, buckets, 0, ret, (uint32_t)own);
	inlay_buf_clear(&enc->bytes);
	inlay_buf_clear(&enc->heap);
	inlay_buf_add(&enc->bytes, node, tree_split_bytes(bits));
	return put_object(enc, ret, err);
}

static int encode_buckets(struct tree_encoder *enc, const struct tree_sorted *s, size_t count,
			  uint8_t bits, struct inlay_tree_built *ret, struct inlay_error *err)
{
	auto_free uint8_t *node = calloc(1, tree_split_bytes(bits));
	size_t at = 0;

	if (!node)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	while (at < count) {
		uint32_t i = (uint32_t)(s[at].hash >> (64 - bits));
		size_t end = at;
		while (end < count && s[end].hash >> (64 - bits) == i)
			end++;
		struct inlay_tree_built leaf;
		int r = tree_encode_leaf(enc, s + at, end - at, &leaf, err);
		if (r < 0)
			return r;
		tree_set_bucket(node, i, &leaf, end - at);
		at = end;
	}
	return tree_encode_split(enc, node, bits, ret, err);
}

static int encode(const struct inlay_tree_builder *b, struct tree_sorted *s,
		  struct tree_encoder *enc, struct inlay_tree_built *ret, struct inlay_error *err)
{
	for (size_t i = 0; i < b->count; i++) {
		const struct inlay_entry *e = &b->entries[i];
		s[i] = (struct tree_sorted){inlay_name_hash(e->name, e->name_len), e};
	}
	qsort(s, b->count, sizeof *s, tree_by_hash_and_name);
	for (size_t i = 1; i < b->count; i++)
		if (tree_by_hash_and_name(&s[i - 1], &s[i]) == 0)
			return inlay_error_set(err, -EEXIST, "a name stands twice in a directory");
	uint8_t bits = tree_split_bits(b->count);
	if (bits)
		return encode_buckets(enc, s, b->count, bits, ret, err);
	return tree_encode_leaf(enc, s, b->count, ret, err);
}

int inlay_tree_build(struct inlay_tree_builder *b, inlay_tree_put_fn *put, void *ctx,
		     struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct tree_encoder enc = {.put = put, .ctx = ctx};
	auto_free struct tree_sorted *s = NULL;
	struct inlay_tree_built built;

	if (b->count > INLAY_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d entries", INLAY_ENTRIES_MAX);
	s = reallocarray(NULL, b->count ? b->count : 1, sizeof *s);
	if (!s)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = encode(b, s, &enc, &built, err);
	tree_encoder_fini(&enc);
	if (r < 0)
		return r;
	b->count = 0;
	*ret = built;
	return 0;
}
