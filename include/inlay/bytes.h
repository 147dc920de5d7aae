/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_BYTES_H
#define INLAY_BYTES_H

/*
 * Bytes we did not write, and bytes we write for others: little-endian loads and stores, a
 * bounds-checked reading cursor and a growing buffer. No I/O. Both cursor and buffer have a sticky
 * failure: after the first one every later call is a no-op that gives zeros, and the owner asks
 * once at the end.
 */

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "inlay/error.h"

static inline uint16_t inlay_get_le16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof v);
	return le16toh(v);
}

static inline uint32_t inlay_get_le32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return le32toh(v);
}

static inline uint64_t inlay_get_le64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof v);
	return le64toh(v);
}

static inline void inlay_put_le16(void *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof v);
}

static inline void inlay_put_le32(void *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof v);
}

static inline void inlay_put_le64(void *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof v);
}

/* A copy of the bytes with a NUL behind, for free(); NULL when memory is out. Unlike strndup's, they need not end
 * with one, nor be without. */
char *inlay_dup(const void *bytes, size_t len);

/* ---- reading ---- */

struct inlay_cursor {
	const uint8_t *at; /* next byte, borrowed from the caller's bytes */
	size_t left;       /* bytes from `at` on */
	bool failed;       /* sticky: something was short or out of range */
};

static inline struct inlay_cursor inlay_cursor_of(const void *bytes, size_t len)
{
	return (struct inlay_cursor){.at = bytes, .left = len};
}

/* The next `len` bytes, borrowed, or NULL (and failed) when there are fewer. len 0 gives a valid
 * pointer. */
const uint8_t *inlay_cursor_bytes(struct inlay_cursor *c, size_t len);
uint8_t inlay_cursor_u8(struct inlay_cursor *c);
uint16_t inlay_cursor_u16(struct inlay_cursor *c);
uint32_t inlay_cursor_u32(struct inlay_cursor *c);
uint64_t inlay_cursor_u64(struct inlay_cursor *c);
/* LEB128, at most 10 bytes, shortest form only (one value has one encoding). */
uint64_t inlay_cursor_varint(struct inlay_cursor *c);
/* A varint length of at most `max`, then that many bytes (borrowed). */
const uint8_t *inlay_cursor_string(struct inlay_cursor *c, size_t max, size_t *ret_len);
/* The same into a string of `size` bytes with the NUL behind it; one with a NUL inside fails. */
void inlay_cursor_cstring(struct inlay_cursor *c, char *ret, size_t size);
/* True when nothing failed and nothing is left. */
bool inlay_cursor_done(const struct inlay_cursor *c);

/* ---- writing ---- */

struct inlay_buf {
	uint8_t *data; /* owned; NULL while empty */
	size_t len;
	size_t cap;
	bool failed; /* sticky: memory was out */
};

void inlay_buf_fini(struct inlay_buf *b);
/* Forgets the content and a failure, keeps the memory. */
void inlay_buf_clear(struct inlay_buf *b);
/* Room for `len` more bytes at the end; the caller fills them and adds to b->len. NULL when memory
 * is out. */
uint8_t *inlay_buf_reserve(struct inlay_buf *b, size_t len);
void inlay_buf_add(struct inlay_buf *b, const void *bytes, size_t len);
void inlay_buf_u8(struct inlay_buf *b, uint8_t v);
void inlay_buf_u16(struct inlay_buf *b, uint16_t v);
void inlay_buf_u32(struct inlay_buf *b, uint32_t v);
void inlay_buf_u64(struct inlay_buf *b, uint64_t v);
void inlay_buf_varint(struct inlay_buf *b, uint64_t v);
/* varint length + bytes */
void inlay_buf_string(struct inlay_buf *b, const void *bytes, size_t len);
void inlay_buf_printf(struct inlay_buf *b, const char *fmt, ...) inlay_printf(2, 3);
/* A NUL that is not counted in len, so that data can be used as a C string. "" when memory is out.
 */
const char *inlay_buf_cstr(struct inlay_buf *b);
/* 0, or -ENOMEM in *err when a step failed. */
int inlay_buf_check(const struct inlay_buf *b, struct inlay_error *err) inlay_must_check;

static inline void inlay_cleanup_inlay_buf_fini(struct inlay_buf *b)
{
	inlay_buf_fini(b);
}
#define auto_buf __attribute__((cleanup(inlay_cleanup_inlay_buf_fini)))

#endif
