/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/bytes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void cursor_fail(struct inlay_cursor *c)
{
	c->failed = true;
	c->left = 0;
}

char *inlay_dup(const void *bytes, size_t len)
{
	char *copy = malloc(len + 1);

	if (copy) {
		if (len)
			memcpy(copy, bytes, len);
		copy[len] = 0;
	}
	return copy;
}

const uint8_t *inlay_cursor_bytes(struct inlay_cursor *c, size_t len)
{
	if (c->failed || len > c->left) {
		cursor_fail(c);
		return NULL;
	}
	const uint8_t *at = c->at;
	c->at += len;
	c->left -= len;
	return at;
}

uint8_t inlay_cursor_u8(struct inlay_cursor *c)
{
	const uint8_t *p = inlay_cursor_bytes(c, 1);
	return p ? *p : 0;
}

uint16_t inlay_cursor_u16(struct inlay_cursor *c)
{
	const uint8_t *p = inlay_cursor_bytes(c, 2);
	return p ? inlay_get_le16(p) : 0;
}

uint32_t inlay_cursor_u32(struct inlay_cursor *c)
{
	const uint8_t *p = inlay_cursor_bytes(c, 4);
	return p ? inlay_get_le32(p) : 0;
}

uint64_t inlay_cursor_u64(struct inlay_cursor *c)
{
	const uint8_t *p = inlay_cursor_bytes(c, 8);
	return p ? inlay_get_le64(p) : 0;
}

uint64_t inlay_cursor_varint(struct inlay_cursor *c)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte = inlay_cursor_u8(c);
		if (c->failed)
			return 0;
		/* The tenth byte holds one bit; a zero last byte would be a second encoding. */
		if ((shift == 63 && byte > 1) || (shift > 0 && byte == 0))
			break;
		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return v;
	}
	cursor_fail(c);
	return 0;
}

const uint8_t *inlay_cursor_string(struct inlay_cursor *c, size_t max, size_t *ret_len)
{
	uint64_t len = inlay_cursor_varint(c);

	if (len > max)
		cursor_fail(c);
	const uint8_t *p = inlay_cursor_bytes(c, c->failed ? 0 : (size_t)len);
	*ret_len = p ? (size_t)len : 0;
	return p;
}

void inlay_cursor_cstring(struct inlay_cursor *c, char *ret, size_t size)
{
	size_t len;
	const uint8_t *p = inlay_cursor_string(c, size - 1, &len);

	ret[0] = 0;
	if (p && !memchr(p, 0, len)) {
		memcpy(ret, p, len);
		ret[len] = 0;
	} else {
		c->failed = true;
	}
}

bool inlay_cursor_done(const struct inlay_cursor *c)
{
	return !c->failed && c->left == 0;
}

void inlay_buf_fini(struct inlay_buf *b)
{
	int saved = errno;
	free(b->data);
	errno = saved;
	*b = (struct inlay_buf){0};
}

void inlay_buf_clear(struct inlay_buf *b)
{
	b->len = 0;
	b->failed = false;
}

uint8_t *inlay_buf_reserve(struct inlay_buf *b, size_t len)
{
	size_t want;

	if (b->failed || __builtin_add_overflow(b->len, len, &want)) {
		b->failed = true;
		return NULL;
	}
	if (want > b->cap || !b->data) {
		size_t cap = b->cap ? b->cap : 64;
		while (cap < want) {
			if (__builtin_mul_overflow(cap, (size_t)2, &cap)) {
				b->failed = true;
				return NULL;
			}
		}
		uint8_t *data = realloc(b->data, cap);
		if (!data) {
			b->failed = true;
			return NULL;
		}
		b->data = data;
		b->cap = cap;
	}
	return b->data + b->len;
}

void inlay_buf_add(struct inlay_buf *b, const void *bytes, size_t len)
{
	uint8_t *p = inlay_buf_reserve(b, len);

	if (p && len) {
		memcpy(p, bytes, len);
		b->len += len;
	}
}

void inlay_buf_u8(struct inlay_buf *b, uint8_t v)
{
	inlay_buf_add(b, &v, 1);
}

void inlay_buf_u16(struct inlay_buf *b, uint16_t v)
{
	uint8_t le[2];
	inlay_put_le16(le, v);
	inlay_buf_add(b, le, sizeof le);
}

void inlay_buf_u32(struct inlay_buf *b, uint32_t v)
{
	uint8_t le[4];
	inlay_put_le32(le, v);
	inlay_buf_add(b, le, sizeof le);
}

void inlay_buf_u64(struct inlay_buf *b, uint64_t v)
{
	uint8_t le[8];
	inlay_put_le64(le, v);
	inlay_buf_add(b, le, sizeof le);
}

void inlay_buf_varint(struct inlay_buf *b, uint64_t v)
{
	uint8_t bytes[10];
	size_t n = 0;

	while (v >= 0x80) {
		bytes[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	bytes[n++] = (uint8_t)v;
	inlay_buf_add(b, bytes, n);
}

void inlay_buf_string(struct inlay_buf *b, const void *bytes, size_t len)
{
	inlay_buf_varint(b, len);
	inlay_buf_add(b, bytes, len);
}

void inlay_buf_printf(struct inlay_buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->failed = true;
		return;
	}
	uint8_t *p = inlay_buf_reserve(b, (size_t)n + 1);
	if (!p)
		return;
	va_start(ap, fmt);
	(void)vsnprintf((char *)p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

const char *inlay_buf_cstr(struct inlay_buf *b)
{
	uint8_t *p = inlay_buf_reserve(b, 1);

	if (!p)
		return "";
	*p = 0;
	return (const char *)b->data;
}

int inlay_buf_check(const struct inlay_buf *b, struct inlay_error *err)
{
	if (b->failed)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	return 0;
}
