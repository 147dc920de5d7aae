/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/imagemessage.h"

#include <errno.h>

#include "inlay/limits.h"

enum { NEWEST = 1 << 0, WHOLE = 1 << 1, IN_USE = 1 << 2 };
enum { SQUASH = 1 << 0, EMULATE = 1 << 1 };

static int bad(const char *what, struct inlay_error *err)
{
	return inlay_error_set(err, -EPROTO, "a bad %s message", what);
}

static void get_id(struct inlay_cursor *c, struct inlay_digest *ret)
{
	const uint8_t *p = inlay_cursor_bytes(c, INLAY_DIGEST_BYTES);

	*ret = (struct inlay_digest){0};
	if (p)
		memcpy(ret->b, p, INLAY_DIGEST_BYTES);
}

void message_encode_image(struct inlay_buf *b, const struct message_image *m)
{
	inlay_buf_u8(b, (uint8_t)((m->newest ? NEWEST : 0) | (m->whole ? WHOLE : 0) |
				  (m->in_use ? IN_USE : 0)));
	message_encode_generation(b, &m->generation);
}

int message_decode_image(const void *payload, size_t len, struct message_image *ret,
			 struct inlay_error *err)
{
	const uint8_t *p = payload;
	struct message_image m;

	if (len < 1 || p[0] > (NEWEST | WHOLE | IN_USE))
		return bad("image", err);
	m.newest = p[0] & NEWEST;
	m.whole = p[0] & WHOLE;
	m.in_use = p[0] & IN_USE;
	int r = message_decode_generation(p + 1, len - 1, &m.generation, err);
	if (r == 0)
		*ret = m;
	return r;
}

void message_encode_image_push(struct inlay_buf *b, const struct message_image_push *m)
{
	inlay_buf_add(b, m->manifest.b, INLAY_DIGEST_BYTES);
	inlay_buf_add(b, m->basis.b, INLAY_DIGEST_BYTES);
	inlay_buf_u8(b, (uint8_t)((m->squash ? SQUASH : 0) | (m->emulate ? EMULATE : 0)));
	inlay_buf_string(b, m->origin.bytes, m->origin.len);
	inlay_buf_string(b, m->owner.bytes, m->owner.len);
}

int message_decode_image_push(const void *payload, size_t len, struct message_image_push *ret,
			      struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_image_push m;

	get_id(&c, &m.manifest);
	get_id(&c, &m.basis);
	uint8_t flags = inlay_cursor_u8(&c);
	m.squash = flags & SQUASH;
	m.emulate = flags & EMULATE;
	m.origin.bytes = (const char *)inlay_cursor_string(&c, INLAY_ORIGIN_MAX, &m.origin.len);
	m.owner.bytes = (const char *)inlay_cursor_string(&c, INLAY_MESSAGE_TEXT_MAX, &m.owner.len);
	if (!inlay_cursor_done(&c) || flags > (SQUASH | EMULATE))
		return bad("image push", err);
	*ret = m;
	return 0;
}

void message_encode_image_done(struct inlay_buf *b, const struct message_image_done *m)
{
	inlay_buf_u8(b, m->end);
	if (m->end != MESSAGE_IMAGE_DONE) {
		inlay_buf_add(b, m->ids.bytes, m->ids.len);
		return;
	}
	inlay_buf_varint(b, m->number);
	inlay_buf_u8(b, m->changed);
	inlay_buf_varint(b, m->entries);
	inlay_buf_varint(b, m->shared);
	inlay_buf_varint(b, m->written_bytes);
	inlay_buf_varint(b, m->xattrs);
	inlay_buf_varint(b, m->laid_ns);
	inlay_buf_varint(b, m->sync_ns);
}

int message_decode_image_done(const void *payload, size_t len, struct message_image_done *ret,
			      struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_image_done m = {.end = inlay_cursor_u8(&c)};

	if (m.end == MESSAGE_IMAGE_DONE) {
		m.number = inlay_cursor_varint(&c);
		uint8_t changed = inlay_cursor_u8(&c);
		c.failed |= changed > 1;
		m.changed = changed == 1;
		m.entries = inlay_cursor_varint(&c);
		m.shared = inlay_cursor_varint(&c);
		m.written_bytes = inlay_cursor_varint(&c);
		m.xattrs = inlay_cursor_varint(&c);
		m.laid_ns = inlay_cursor_varint(&c);
		m.sync_ns = inlay_cursor_varint(&c);
	} else {
		size_t each = m.end == MESSAGE_IMAGE_LACKS ? INLAY_DIGEST_BYTES : sizeof(uint64_t);
		m.ids.len = c.left;
		c.failed |= c.left % each || m.end == 0 || m.end > MESSAGE_IMAGE_REFUSED;
		m.ids.bytes = (const char *)inlay_cursor_bytes(&c, c.left);
	}
	if (!inlay_cursor_done(&c))
		return bad("image done", err);
	*ret = m;
	return 0;
}
