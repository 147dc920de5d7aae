/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The object stream. The first byte says how the rest is taken: as the compressed stream (0), or as items,
 * which are compressed here first (otherwise the fuzzer would hardly get past zstd); in pieces of
 * that many bytes.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include <zstd.h>

#include "inlay/limits.h"
#include "wire/objects.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t promised, got;

static int on_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	promised = size;
	got = 0;
	return 0;
}

static int on_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	(void)ctx;
	(void)bytes;
	(void)err;
	got += len;
	if (got > promised)
		abort();
	return 0;
}

static int on_end(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	if (got != promised)
		abort();
	if (keep)
		*ret = (struct inlay_digest){{(uint8_t)got}};
	return 0;
}

static int on_tree(void *ctx, const uint64_t *basis, struct objects_op *ops, size_t count,
		   struct inlay_tree_built *ret, struct inlay_error *err)
{
	(void)ctx;
	(void)basis;
	(void)err;
	for (size_t i = 0; i < count; i++) {
		const struct inlay_entry *e = &ops[i].entry;
		if (!inlay_name_valid(e->name, e->name_len) || e->target_len > INLAY_LINK_MAX)
			abort();
	}
	*ret = (struct inlay_tree_built){.id = {{(uint8_t)count}}};
	return 0;
}

static int on_basis(void *ctx, uint64_t prefix, size_t max, struct inlay_buf *to,
		    struct inlay_error *err)
{
	(void)ctx;
	if (prefix % 4 == 0 || max < 1000)
		return inlay_error_set(err, -ESTALE, "not here");
	for (size_t i = 0; i < 1000; i++)
		inlay_buf_u8(to, (uint8_t)(i * prefix));
	return 0;
}

static int on_patch_begin(void *ctx, const struct inlay_digest *basis,
			  const struct inlay_digest *id, uint64_t size, struct inlay_error *err)
{
	(void)ctx;
	(void)basis;
	(void)id;
	(void)err;
	if (size > INLAY_OBJECT_MAX)
		abort();
	return 0;
}

static int on_patch_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	(void)ctx;
	(void)bytes;
	(void)err;
	if (len > INLAY_FRAME_MAX)
		abort();
	return 0;
}

static int on_patch_end(void *ctx, bool keep, struct inlay_error *err)
{
	(void)ctx;
	(void)keep;
	(void)err;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct objects_sink sink = {on_begin,     on_bytes,       on_end,
						 on_basis,     on_patch_begin, on_patch_bytes,
						 on_patch_end, on_tree};
	struct objects_in *in;
	uint8_t packed[ZSTD_COMPRESSBOUND(4096)];

	if (size < 1 || size > 4096 || objects_in_new(&sink, NULL, &in, NULL) < 0)
		return 0;
	size_t piece = data[0] ? data[0] : 4096;
	const uint8_t *bytes = data + 1;
	size_t len = size - 1;
	if (data[0]) {
		len = ZSTD_compress(packed, sizeof packed, bytes, len, 1);
		bytes = packed;
	}
	for (size_t at = 0; at < len; at += piece)
		if (objects_in_feed(in, bytes + at, len - at < piece ? len - at : piece, NULL) < 0)
			break;
	objects_in_free(in);
	return 0;
}
