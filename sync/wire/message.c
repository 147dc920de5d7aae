/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/message.h"

#include "wire/payload.h"

void message_encode_hello(struct inlay_buf *b, const struct message_hello *m)
{
	inlay_buf_u16(b, m->version);
	inlay_buf_u16(b, m->version_min);
	inlay_buf_u32(b, m->features);
	put_text(b, m->program);
	put_text(b, m->machine);
	inlay_buf_u32(b, m->uid);
}

int message_decode_hello(const void *payload, size_t len, struct message_hello *ret,
			 struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_hello m;

	m.version = inlay_cursor_u16(&c);
	m.version_min = inlay_cursor_u16(&c);
	m.features = inlay_cursor_u32(&c);
	m.program = get_text(&c);
	m.machine = get_text(&c);
	m.uid = inlay_cursor_u32(&c);
	/* What a later version adds behind is not for us: HELLO alone may be longer. */
	c.left = 0;
	DECODED(c, "HELLO", m, ret, err);
}

void message_encode_channel(struct inlay_buf *b, const struct message_channel *m)
{
	inlay_buf_varint(b, m->id);
	inlay_buf_varint(b, m->count);
	put_text(b, m->bytes);
}

int message_decode_channel(const void *payload, size_t len, struct message_channel *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_channel m;

	m.id = inlay_cursor_varint(&c);
	m.count = inlay_cursor_varint(&c);
	m.bytes = get_text(&c);
	DECODED(c, "CHANNEL", m, ret, err);
}

void message_encode_open(struct inlay_buf *b, const struct message_open *m)
{
	inlay_buf_u8(b, m->flags);
	put_text(b, m->path);
	put_text(b, m->owner);
	put_text(b, m->origin);
	put_id(b, &m->root);
	inlay_buf_varint(b, m->lock_wait_ms);
	inlay_buf_u64(b, m->lease);
	put_config(b, &m->config);
	put_text(b, m->before);
}

int message_decode_open(const void *payload, size_t len, struct message_open *ret,
			struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_open m;

	m.flags = inlay_cursor_u8(&c);
	m.path = get_text(&c);
	m.owner = get_text(&c);
	m.origin = get_text(&c);
	get_id(&c, &m.root);
	m.lock_wait_ms = inlay_cursor_varint(&c);
	m.lease = inlay_cursor_u64(&c);
	get_config(&c, &m.config);
	m.before = get_text(&c);
	c.failed |= m.lock_wait_ms > 86400000 || (m.flags & 0x80);
	DECODED(c, "OPEN", m, ret, err);
}

void message_encode_opened(struct inlay_buf *b, const struct message_opened *m)
{
	put_generation(b, &m->live);
	inlay_buf_varint(b, m->durable);
	put_bool(b, m->has_root);
	put_bool(b, m->mounted);
	inlay_buf_varint(b, m->objects);
	put_text(b, m->path);
	put_text(b, m->mount_text);
	put_text(b, m->aside);
	inlay_buf_varint(b, m->wanted);
}

int message_decode_opened(const void *payload, size_t len, struct message_opened *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_opened m;

	get_generation(&c, &m.live);
	m.durable = inlay_cursor_varint(&c);
	m.has_root = get_bool(&c);
	m.mounted = get_bool(&c);
	m.objects = inlay_cursor_varint(&c);
	m.path = get_text(&c);
	m.mount_text = get_text(&c);
	m.aside = get_text(&c);
	m.wanted = inlay_cursor_varint(&c);
	DECODED(c, "OPENED", m, ret, err);
}

void message_encode_commit(struct inlay_buf *b, const struct message_commit *m)
{
	put_id(b, &m->expect);
	put_root(b, &m->root);
	inlay_buf_varint(b, m->changed);
	inlay_buf_varint(b, m->rollback_of);
}

int message_decode_commit(const void *payload, size_t len, struct message_commit *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_commit m;

	get_id(&c, &m.expect);
	get_root(&c, &m.root);
	m.changed = inlay_cursor_varint(&c);
	m.rollback_of = inlay_cursor_varint(&c);
	DECODED(c, "COMMIT", m, ret, err);
}

void message_encode_visible(struct inlay_buf *b, const struct message_visible *m)
{
	inlay_buf_varint(b, m->number);
	put_id(b, &m->root);
	inlay_buf_varint(b, m->took_ns);
	put_bool(b, m->mounted);
	put_text(b, m->mount_text);
}

int message_decode_visible(const void *payload, size_t len, struct message_visible *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_visible m;

	m.number = inlay_cursor_varint(&c);
	get_id(&c, &m.root);
	m.took_ns = inlay_cursor_varint(&c);
	m.mounted = get_bool(&c);
	m.mount_text = get_text(&c);
	DECODED(c, "VISIBLE", m, ret, err);
}

void message_encode_durable(struct inlay_buf *b, const struct message_durable *m)
{
	inlay_buf_varint(b, m->number);
}

int message_decode_durable(const void *payload, size_t len, struct message_durable *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_durable m = {.number = inlay_cursor_varint(&c)};

	DECODED(c, "DURABLE", m, ret, err);
}

void message_encode_request(struct inlay_buf *b, const struct message_request *m)
{
	inlay_buf_u8(b, m->verb);
	inlay_buf_u8(b, m->flags);
	inlay_buf_varint(b, m->args[0]);
	inlay_buf_varint(b, m->args[1]);
	put_text(b, m->body);
}

int message_decode_request(const void *payload, size_t len, struct message_request *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_request m;

	m.verb = inlay_cursor_u8(&c);
	m.flags = inlay_cursor_u8(&c);
	m.args[0] = inlay_cursor_varint(&c);
	m.args[1] = inlay_cursor_varint(&c);
	m.body = get_text(&c);
	DECODED(c, "REQUEST", m, ret, err);
}

void message_encode_failed(struct inlay_buf *b, const struct message_failed *m)
{
	inlay_buf_u32(b, (uint32_t)m->code);
	inlay_buf_u8(b, m->exit_code);
	inlay_buf_u8(b, m->reason);
	put_text(b, m->text);
}

int message_decode_failed(const void *payload, size_t len, struct message_failed *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_failed m;

	m.code = (int32_t)inlay_cursor_u32(&c);
	m.exit_code = inlay_cursor_u8(&c);
	m.reason = inlay_cursor_u8(&c);
	m.text = get_text(&c);
	c.failed |= m.code >= 0;
	DECODED(c, "FAILED", m, ret, err);
}

int message_decode_want(const void *payload, size_t len, struct inlay_idset *ret,
			struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);

	while (c.left > 0 && !c.failed) {
		struct inlay_digest id;
		get_id(&c, &id);
		int r = c.failed ? 0 : inlay_idset_add(ret, &id, err);
		if (r < 0)
			return r;
	}
	return finish(&c, "WANT", err);
}

void message_encode_nak(struct inlay_buf *b, const struct message_nak *m)
{
	inlay_buf_varint(b, m->taken);
	inlay_buf_add(b, m->prefixes, 8 * m->count);
}

int message_decode_nak(const void *payload, size_t len, struct message_nak *ret,
		       struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);

	*ret = (struct message_nak){.taken = inlay_cursor_varint(&c)};
	ret->count = c.left / 8;
	ret->prefixes = inlay_cursor_bytes(&c, ret->count * 8);
	return inlay_cursor_done(&c) ? 0 : inlay_error_set(err, -EPROTO, "a bad NAK message");
}
