/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_PAYLOAD_H
#define WIRE_PAYLOAD_H

/*
 * What the payloads of several messages are made of: for message.c and rows.c alone. A get_ that meets what
 * cannot be sets the cursor's `failed`, which finish() reports.
 */

#include <errno.h>
#include <string.h>

#include "wire/message.h"

static inline void put_bool(struct inlay_buf *b, bool v)
{
	inlay_buf_u8(b, v);
}

static inline bool get_bool(struct inlay_cursor *c)
{
	uint8_t v = inlay_cursor_u8(c);

	c->failed |= v > 1;
	return v == 1;
}

static inline void put_text(struct inlay_buf *b, struct message_text t)
{
	inlay_buf_string(b, t.bytes ? t.bytes : "", t.bytes ? t.len : 0);
}

static inline struct message_text get_text(struct inlay_cursor *c)
{
	struct message_text t;

	t.bytes = (const char *)inlay_cursor_string(c, INLAY_MESSAGE_TEXT_MAX, &t.len);
	return t;
}

static inline void put_id(struct inlay_buf *b, const struct inlay_digest *id)
{
	inlay_buf_add(b, id->b, INLAY_DIGEST_BYTES);
}

static inline void get_id(struct inlay_cursor *c, struct inlay_digest *ret)
{
	const uint8_t *p = inlay_cursor_bytes(c, INLAY_DIGEST_BYTES);

	if (p)
		memcpy(ret->b, p, INLAY_DIGEST_BYTES);
	else
		*ret = (struct inlay_digest){0};
}

static inline void put_root(struct inlay_buf *b, const struct inlay_root *r)
{
	put_id(b, &r->tree);
	inlay_buf_u32(b, r->mode);
	inlay_buf_u64(b, (uint64_t)r->mtime_ns);
}

static inline void get_root(struct inlay_cursor *c, struct inlay_root *ret)
{
	get_id(c, &ret->tree);
	ret->mode = inlay_cursor_u32(c);
	ret->mtime_ns = (int64_t)inlay_cursor_u64(c);
	c->failed |= (ret->mode & ~(uint32_t)07777) != 0;
}

static inline void put_generation(struct inlay_buf *b, const struct inlay_generation *g)
{
	inlay_buf_varint(b, g->number);
	inlay_buf_varint(b, g->parent);
	inlay_buf_varint(b, g->rollback_of);
	inlay_buf_u64(b, (uint64_t)g->time_ns);
	inlay_buf_varint(b, g->entries);
	inlay_buf_varint(b, g->bytes);
	inlay_buf_varint(b, g->changed);
	put_root(b, &g->root);
}

static inline void get_generation(struct inlay_cursor *c, struct inlay_generation *ret)
{
	*ret = (struct inlay_generation){0};
	ret->number = inlay_cursor_varint(c);
	ret->parent = inlay_cursor_varint(c);
	ret->rollback_of = inlay_cursor_varint(c);
	ret->time_ns = (int64_t)inlay_cursor_u64(c);
	ret->entries = inlay_cursor_varint(c);
	ret->bytes = inlay_cursor_varint(c);
	ret->changed = inlay_cursor_varint(c);
	get_root(c, &ret->root);
}

static inline int finish(const struct inlay_cursor *c, const char *what, struct inlay_error *err)
{
	if (!inlay_cursor_done(c))
		return inlay_error_set(err, -EPROTO, "a bad %s message", what);
	return 0;
}

/* The tail of every decoder: *ret is set only by a whole message. */
#define DECODED(c, name, m, ret, err)                   \
	do {                                            \
		int decoded_ = finish(&(c), name, err); \
		if (decoded_ == 0)                      \
			*(ret) = (m);                   \
		return decoded_;                        \
	} while (0)

static inline void put_config(struct inlay_buf *b, const struct message_config *m)
{
	inlay_buf_u8(b,
		     (uint8_t)(m->upper | m->xattrs << 2 | m->owner << 4 | m->set_redirects << 6));
	put_text(b, m->redirects);
}

static inline void get_config(struct inlay_cursor *c, struct message_config *ret)
{
	uint8_t bits = inlay_cursor_u8(c);

	*ret = (struct message_config){.upper = bits & 3,
				       .xattrs = bits >> 2 & 3,
				       .owner = bits >> 4 & 3,
				       .set_redirects = bits >> 6 & 1,
				       .redirects = get_text(c)};
	c->failed |= bits >> 7 || ret->xattrs > 2 || ret->owner > 2 ||
		     (ret->redirects.len && ret->redirects.bytes[ret->redirects.len - 1] != 0);
}

#endif
