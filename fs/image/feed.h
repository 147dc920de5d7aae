/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_FEED_H
#define IMAGE_FEED_H

/*
 * The bytes of a layer or archive as they were before they were compressed: a range of a file, read,
 * unpacked (gzip, zstd or nothing, told by its first bytes) and hashed on both sides of that by a
 * thread of its own, so that the one who takes the pieces has a core for himself.
 *
 * gzip's CRC and zstd's checksum are checked; several members or frames are one stream, as the
 * formats say. What unpacks to more than INLAY_ARCHIVE_EXPAND times its size is refused.
 */

#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"

struct feed;

enum feed_flags {
	FEED_HASH = 1 << 0, /* the digests are wanted */
};

/* The file must stay open; it is read by position. */
int feed_open(int fd, uint64_t off, uint64_t size, enum feed_flags flags, struct feed **ret,
	      struct inlay_error *err) inlay_must_check;

/* The next bytes, borrowed until the next call. *ret_len 0: the end, and all checksums were right. */
int feed_next(struct feed *f, const void **ret_bytes, size_t *ret_len, struct inlay_error *err)
	inlay_must_check;

struct feed_sums {
	struct inlay_digest packed,
		plain; /* of the bytes in the file, and of what they unpack to */
	uint64_t plain_bytes;
};

/* Takes what is left until the end, then gives the sums. */
int feed_finish(struct feed *f, struct feed_sums *ret, struct inlay_error *err) inlay_must_check;

void feed_close(struct feed *f); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct feed, feed_close)

/* True when the file's range begins as gzip or zstd data do. */
int feed_is_packed(int fd, uint64_t off, uint64_t size, bool *ret, struct inlay_error *err)
	inlay_must_check;

#endif
