/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

/*
 * What goes over a connection: a magic once in each direction, then frames (docs/protocol.md).
 *
 *     magic, 16 bytes: found by a bounded search, so that what a login shell prints does no harm
 *
 *     frame:  0  4  length of the payload, at most INLAY_FRAME_MAX
 *             4  1  type
 *             5  1  flags (0 today; a receiver refuses others)
 *             6  2  0
 *             8  8  XXH3-64 of the payload, with bytes 0..7 as the seed
 *            16     payload
 *
 * Pure: bytes <-> structs, no I/O.
 */

#include <stddef.h>
#include <stdint.h>

#include "inlay/error.h"
#include "inlay/limits.h"

enum {
	FRAME_MAGIC_BYTES = 16,
	FRAME_HEADER_BYTES = 16,
};

extern const uint8_t frame_magic[FRAME_MAGIC_BYTES];

struct frame {
	uint8_t type;
	uint32_t len;
	const uint8_t *payload; /* borrowed */
};

/* Writes the header for a payload. */
void frame_seal(uint8_t header[static FRAME_HEADER_BYTES], uint8_t type, const void *payload,
		size_t len);

enum { FRAME_MORE = 1 }; /* positive result: the bytes hold no whole frame yet */

/*
 * Takes the frame at the start of the bytes: *ret borrows from them, *ret_used says how many to drop.
 * Positive: FRAME_MORE. -EPROTO: damaged, too long, unknown flags.
 */
int frame_open(const uint8_t *bytes, size_t len, struct frame *ret, size_t *ret_used,
	       struct inlay_error *err) inlay_must_check;

/*
 * Looks for the magic. *ret_used is what may be dropped: up to and with the magic (result 0), or what
 * cannot be part of it any more (FRAME_MORE).
 */
int frame_find_magic(const uint8_t *bytes, size_t len, size_t *ret_used);

#endif
