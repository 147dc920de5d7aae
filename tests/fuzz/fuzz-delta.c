/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Differences from a peer. The first byte says which kind the rest is: librsync's delta (0), librsync's
 * signature (1), a zstd frame against an old content (2), sums of our own from the disk, which get the checksum that
 * belongs to them (3).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "delta/blocks.h"
#include "delta/rdiff.h"
#include "inlay/limits.h"
#include "wire/objects.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OLD_BYTES = 20000, RESULT_MAX = 60000 };

static uint8_t old[OLD_BYTES];
static uint64_t made;

static int read_old(void *ctx, void *buf, size_t len, uint64_t off, size_t *ret_n,
		    struct inlay_error *err)
{
	size_t left = off < OLD_BYTES ? OLD_BYTES - (size_t)off : 0;

	(void)ctx;
	(void)err;
	*ret_n = len < left ? len : left;
	memcpy(buf, old + OLD_BYTES - left, *ret_n);
	return 0;
}

static int take(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	(void)ctx;
	(void)bytes;
	(void)err;
	made += len;
	if (made > RESULT_MAX)
		abort();
	return 0;
}

static void patch(const uint8_t *data, size_t size)
{
	struct rdiff_patch *p;

	if (rdiff_patch_new(RESULT_MAX, read_old, take, NULL, &p, NULL) < 0)
		return;
	size_t half = size / 2;
	int r = rdiff_patch_feed(p, data, half, NULL);
	if (r == 0)
		r = rdiff_patch_feed(p, data + half, size - half, NULL);
	if (r == 0 && rdiff_patch_end(p, NULL) == 0 && made != RESULT_MAX)
		abort();
	rdiff_patch_free(p);
}

static void delta(const uint8_t *data, size_t size)
{
	struct rdiff_delta *d;

	if (rdiff_delta_new(data, size, OLD_BYTES, take, NULL, &d, NULL) < 0)
		return;
	if (rdiff_delta_feed(d, old, OLD_BYTES, NULL) == 0)
		(void)!rdiff_delta_end(d, NULL);
	rdiff_delta_free(d);
}

/* ---- a frame with a prefix ---- */

static int on_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	(void)ctx;
	(void)size;
	(void)err;
	return 0;
}

static int on_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	(void)ctx;
	(void)bytes;
	(void)len;
	(void)err;
	return 0;
}

static int on_end(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	if (keep)
		*ret = (struct inlay_digest){{1}};
	return 0;
}

static int on_basis(void *ctx, uint64_t prefix, size_t max, struct inlay_buf *to,
		    struct inlay_error *err)
{
	(void)ctx;
	(void)prefix;
	(void)err;
	if (max < OLD_BYTES)
		return -ESTALE;
	inlay_buf_add(to, old, OLD_BYTES);
	return 0;
}

static int on_tree(void *ctx, const uint64_t *basis, struct objects_op *ops, size_t count,
		   struct inlay_tree_built *ret, struct inlay_error *err)
{
	(void)ctx;
	(void)basis;
	(void)ops;
	(void)err;
	*ret = (struct inlay_tree_built){.id = {{(uint8_t)count}}};
	return 0;
}

static int no_patch(void *ctx, const struct inlay_digest *basis, const struct inlay_digest *id,
		    uint64_t size, struct inlay_error *err)
{
	(void)ctx;
	(void)basis;
	(void)id;
	(void)size;
	return inlay_error_set(err, -EPROTO, "no patches here");
}

static void prefixed(const uint8_t *data, size_t size)
{
	static const struct objects_sink sink = {.blob_begin = on_begin,
						 .blob_bytes = on_bytes,
						 .blob_end = on_end,
						 .basis = on_basis,
						 .patch_begin = no_patch,
						 .tree = on_tree};
	static const uint8_t bases[] = {4, 1, 1, 2, 3, 4, 5, 6, 7, 8};
	uint8_t packed[64];
	struct objects_in *in;

	if (objects_in_new(&sink, NULL, &in, NULL) < 0)
		return;
	size_t n = ZSTD_compress(packed, sizeof packed, bases, sizeof bases, 1);
	if (objects_in_feed(in, packed, n, NULL) < 0)
		abort();
	int r = objects_in_feed(in, data, size, NULL);
	if (r != 0 && r != -ESTALE && r != -EPROTO && r != -ENOMEM)
		abort();
	objects_in_free(in);
}

static void blocks(const uint8_t *data, size_t size)
{
	struct inlay_digest id = {{1}};
	struct inlay_buf bytes = {0};
	struct blocks_delta *d;
	struct blocks b;

	inlay_buf_add(&bytes, data, size);
	inlay_buf_u64(&bytes, inlay_xxh3(data, size));
	int r = blocks_decode(bytes.data, bytes.len, &id, &b, NULL);
	inlay_buf_fini(&bytes);
	if (r < 0)
		return;
	if (blocks_delta_new(&b, take, NULL, &d, NULL) == 0) {
		if (blocks_delta_feed(d, old, OLD_BYTES, NULL) == 0)
			(void)!blocks_delta_end(d, NULL);
		blocks_delta_free(d);
	}
	blocks_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 || size > 1 << 16)
		return 0;
	for (uint32_t i = 0, x = 1; i < OLD_BYTES; i++) {
		x = x * 1664525 + 1013904223;
		old[i] = (uint8_t)(x >> 24);
	}
	made = 0;
	switch (data[0]) {
	case 0:
		patch(data + 1, size - 1);
		break;
	case 1:
		delta(data + 1, size - 1);
		break;
	case 2:
		prefixed(data + 1, size - 1);
		break;
	case 3:
		blocks(data + 1, size - 1);
		break;
	}
	return 0;
}
