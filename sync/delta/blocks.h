/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DELTA_BLOCKS_H
#define DELTA_BLOCKS_H

/*
 * What a large content consisted of: sums of its blocks, made while it is hashed anyway. When its successor is to
 * be sent, they tell on this side alone what of it the old one has, wherever it moved: no content is kept, and
 * the target is not asked. As in rsync a weak sum rolls over what is new until a block is found; behind a block
 * that was found the next one is tried first, so what did not change costs an XXH3 and nothing more.
 *
 * Sums only propose. What comes out is librsync's delta (rdiff.h), and the target compares the SHA-256 of its result.
 *
 * On disk, little-endian:
 *
 *     0   8   "inlayblk"
 *     8   1   version, 1
 *     9   7   0
 *     16  32  id of the content
 *     48  8   its size
 *     56      for each block: u32 weak sum, u64 XXH3-64
 *     -8  8   XXH3-64 of all before
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "delta/rdiff.h"
#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/error.h"

enum {
	BLOCKS_LENGTH_MIN = 4 << 10, /* of a block; a power of two */
	BLOCKS_COUNT_MAX = 256 << 10,
	BLOCKS_BYTES_MAX = 64 + BLOCKS_COUNT_MAX * 12,
};

/* The sums of one content. */
struct blocks {
	uint64_t size;
	uint32_t length; /* of each block but the last */
	struct inlay_buf sums;
};

struct blocks_maker {
	struct blocks blocks;
	struct inlay_buf part; /* of the block at hand */
};

/* The content comes in any pieces, exactly `size` bytes. blocks_encode says whether memory was enough. */
void blocks_begin(struct blocks_maker *m, uint64_t size);
void blocks_feed(struct blocks_maker *m, const void *bytes, size_t len);
int blocks_encode(struct blocks_maker *m, const struct inlay_digest *id, struct inlay_buf *to,
		  struct inlay_error *err) inlay_must_check;
void blocks_maker_fini(struct blocks_maker *m);

/* -EPROTO when it is not whole, or of another content. */
int blocks_decode(const void *bytes, size_t len, const struct inlay_digest *id, struct blocks *ret,
		  struct inlay_error *err) inlay_must_check;
void blocks_fini(struct blocks *b);

/* Makes a delta from a content with these sums (borrowed) to another one, which comes in pieces. */
struct blocks_delta;
int blocks_delta_new(const struct blocks *b, rdiff_write_fn *write, void *ctx,
		     struct blocks_delta **ret, struct inlay_error *err) inlay_must_check;
int blocks_delta_feed(struct blocks_delta *d, const void *bytes, size_t len,
		      struct inlay_error *err) inlay_must_check;
int blocks_delta_end(struct blocks_delta *d, struct inlay_error *err) inlay_must_check;
void blocks_delta_free(struct blocks_delta *d); /* accepts NULL */

#endif
