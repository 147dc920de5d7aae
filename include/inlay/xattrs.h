/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_XATTRS_H
#define INLAY_XATTRS_H

/*
 * The extended attributes of one entry, as the bytes of an object: "iXAT", version, then for each
 * attribute, ordered by name, its name and value as varint-counted strings. One set has exactly one
 * encoding, and none at all is no object. Pure, any thread.
 */

#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "inlay/limits.h"

enum { INLAY_XATTRS_VERSION = 1 };

struct inlay_xattr {
	const char *name; /* name_len bytes, without NUL inside or at the end; borrowed */
	const uint8_t *value;
	size_t name_len, value_len;
};

/* Sorts the array and appends its encoding. -E2BIG above a limit, -EINVAL for a bad or a double
 * name. */
int inlay_xattrs_encode(struct inlay_xattr *list, size_t count, struct inlay_buf *b,
			struct inlay_error *err) inlay_must_check;

/* Calls fn for each attribute, in order; `x` borrows from the bytes. Stops when fn gives a value
 * other than 0 and returns that. Everything is checked before the first call: -EBADMSG. */
int inlay_xattrs_each(const uint8_t *bytes, size_t len,
		      int (*fn)(void *ctx, const struct inlay_xattr *x, struct inlay_error *err),
		      void *ctx, struct inlay_error *err) inlay_must_check;

#endif
