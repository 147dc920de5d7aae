/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DELTA_RDIFF_H
#define DELTA_RDIFF_H

/*
 * Differences to a content that only the other side has: it gives a signature, a delta is made from that, and
 * it makes the result of the delta. The only user of librsync; memory follows the signature, never the
 * contents. What comes out is whatever the peer's bytes say: the caller compares its SHA-256.
 *
 * All functions: -EPROTO for bytes that librsync refuses, else what a callback gave. One thread each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

/* Takes what comes out. */
typedef int rdiff_write_fn(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
/* Reads the old content; less than `len` only at its end. */
typedef int rdiff_read_fn(void *ctx, void *buf, size_t len, uint64_t off, size_t *ret_n,
			  struct inlay_error *err);

/* ---- where the old content is ---- */

/* The signature of a content of that size, with the smallest strong sums that are safe for it. */
int rdiff_signature(uint64_t size, rdiff_read_fn *read, rdiff_write_fn *write, void *ctx,
		    struct inlay_error *err) inlay_must_check;

struct rdiff_patch;

/* Makes the new content of a delta that comes in pieces; more than `max` bytes of it are refused (-EPROTO). */
int rdiff_patch_new(uint64_t max, rdiff_read_fn *read, rdiff_write_fn *write, void *ctx,
		    struct rdiff_patch **ret, struct inlay_error *err) inlay_must_check;
int rdiff_patch_feed(struct rdiff_patch *p, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
/* The delta ends here. -EPROTO when it is cut. */
int rdiff_patch_end(struct rdiff_patch *p, struct inlay_error *err) inlay_must_check;
void rdiff_patch_free(struct rdiff_patch *p); /* accepts NULL */

/* ---- where both are known ---- */

/* A delta, written by hand: begin, copies and literals in the order of the new content, end. */
void rdiff_put_begin(struct inlay_buf *b);
void rdiff_put_copy(struct inlay_buf *b, uint64_t from, uint64_t len);
void rdiff_put_literal(struct inlay_buf *b, const void *bytes, size_t len);
void rdiff_put_end(struct inlay_buf *b);

/* Where two contents are the same but for one place: a delta of a copy, that place, and a copy, at the price of
 * a comparison. False when the place is not small against the whole, or there is not much to gain. */
bool rdiff_trim(const void *old_bytes, size_t old_len, const void *new_bytes, size_t new_len,
		struct inlay_buf *ret_delta);

/* ---- where the new content is ---- */

struct rdiff_delta;

/* From the signature of a content of basis_size bytes. -EPROTO when it is not one: its counts must be those of
 * that size. */
int rdiff_delta_new(const void *signature, size_t len, uint64_t basis_size, rdiff_write_fn *write,
		    void *ctx, struct rdiff_delta **ret, struct inlay_error *err) inlay_must_check;
int rdiff_delta_feed(struct rdiff_delta *d, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
int rdiff_delta_end(struct rdiff_delta *d, struct inlay_error *err) inlay_must_check;
void rdiff_delta_free(struct rdiff_delta *d); /* accepts NULL */

#endif
