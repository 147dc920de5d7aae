/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of REQUEST: what is in a body, and the rows of an answer. */
#include <errno.h>
#include <stdio.h>

#include "inlay/checkup.h"
#include "wire/message.h"
#include "wire/payload.h"

void message_encode_status(struct inlay_buf *b, const struct message_status *m)
{
	put_text(b, m->path);
	put_text(b, m->id);
	put_generation(b, &m->live);
	put_text(b, message_text_of(m->live.origin));
	inlay_buf_varint(b, m->durable);
	put_bool(b, m->durable_failed);
	put_bool(b, m->mount_wanted);
	put_bool(b, m->mounted);
	put_bool(b, m->everybody);
	inlay_buf_varint(b, m->worker_pid);
	inlay_buf_varint(b, m->worker_starts);
	inlay_buf_varint(b, m->damaged);
	put_text(b, m->durable_text);
	put_text(b, m->mount_text);
	put_text(b, m->owner);
	inlay_buf_varint(b, m->owner_since_ns);
	inlay_buf_varint(b, m->store_objects);
	inlay_buf_varint(b, m->store_bytes);
	put_config(b, &m->config);
	inlay_buf_varint(b, m->upper_entries);
	inlay_buf_varint(b, m->shadowed);
	put_text(b, m->shadowed_paths);
	put_text(b, m->hooks);
}

static void get_origin(struct inlay_cursor *c, struct inlay_generation *g)
{
	struct message_text t = get_text(c);

	c->failed |= t.len > INLAY_ORIGIN_MAX || (t.len && memchr(t.bytes, 0, t.len));
	if (!c->failed)
		(void)snprintf(g->origin, sizeof g->origin, "%.*s", (int)t.len, t.bytes);
}

int message_decode_status(const void *payload, size_t len, struct message_status *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_status m;

	m.path = get_text(&c);
	m.id = get_text(&c);
	get_generation(&c, &m.live);
	get_origin(&c, &m.live);
	m.durable = inlay_cursor_varint(&c);
	m.durable_failed = get_bool(&c);
	m.mount_wanted = get_bool(&c);
	m.mounted = get_bool(&c);
	m.everybody = get_bool(&c);
	m.worker_pid = inlay_cursor_varint(&c);
	m.worker_starts = inlay_cursor_varint(&c);
	m.damaged = inlay_cursor_varint(&c);
	m.durable_text = get_text(&c);
	m.mount_text = get_text(&c);
	m.owner = get_text(&c);
	m.owner_since_ns = inlay_cursor_varint(&c);
	m.store_objects = inlay_cursor_varint(&c);
	m.store_bytes = inlay_cursor_varint(&c);
	get_config(&c, &m.config);
	m.upper_entries = inlay_cursor_varint(&c);
	m.shadowed = inlay_cursor_varint(&c);
	m.shadowed_paths = get_text(&c);
	if (!c.failed && m.shadowed_paths.len)
		c.failed |= m.shadowed_paths.bytes[m.shadowed_paths.len - 1] != 0;
	m.hooks = get_text(&c);
	DECODED(c, "status", m, ret, err);
}

void message_encode_generation(struct inlay_buf *b, const struct inlay_generation *g)
{
	put_generation(b, g);
	put_text(b, message_text_of(g->origin));
}

int message_decode_generation(const void *payload, size_t len, struct inlay_generation *ret,
			      struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct inlay_generation m;

	get_generation(&c, &m);
	get_origin(&c, &m);
	DECODED(c, "generation", m, ret, err);
}

void message_encode_change(struct inlay_buf *b, const struct message_change *m)
{
	inlay_buf_u8(b, (uint8_t)(m->before_type | m->after_type << 2 | m->content << 4 |
				  m->mode << 5 | m->mtime << 6));
	inlay_buf_varint(b, m->before_size);
	inlay_buf_varint(b, m->after_size);
	put_text(b, m->path);
}

int message_decode_change(const void *payload, size_t len, struct message_change *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	uint8_t bits = inlay_cursor_u8(&c);
	struct message_change m = {.before_type = bits & 3,
				   .after_type = bits >> 2 & 3,
				   .content = bits & 1 << 4,
				   .mode = bits & 1 << 5,
				   .mtime = bits & 1 << 6};

	m.before_size = inlay_cursor_varint(&c);
	m.after_size = inlay_cursor_varint(&c);
	m.path = get_text(&c);
	c.failed |= bits >> 7;
	DECODED(c, "change", m, ret, err);
}

void message_encode_finding(struct inlay_buf *b, const struct message_finding *m)
{
	put_bool(b, m->progress);
	inlay_buf_varint(b, m->done);
	inlay_buf_varint(b, m->total);
	put_text(b, m->text);
}

int message_decode_finding(const void *payload, size_t len, struct message_finding *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_finding m;

	m.progress = get_bool(&c);
	m.done = inlay_cursor_varint(&c);
	m.total = inlay_cursor_varint(&c);
	m.text = get_text(&c);
	DECODED(c, "finding", m, ret, err);
}

void message_encode_check(struct inlay_buf *b, const struct message_check *m)
{
	inlay_buf_u8(b, m->level);
	put_bool(b, m->fixed);
	put_text(b, m->name);
	put_text(b, m->text);
	put_text(b, m->cure);
}

int message_decode_check(const void *payload, size_t len, struct message_check *ret,
			 struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_check m;

	m.level = inlay_cursor_u8(&c);
	m.fixed = get_bool(&c);
	m.name = get_text(&c);
	m.text = get_text(&c);
	m.cure = get_text(&c);
	c.failed |= m.level > INLAY_CHECK_BAD;
	DECODED(c, "check", m, ret, err);
}

void message_encode_gc(struct inlay_buf *b, const struct message_gc *m)
{
	inlay_buf_varint(b, m->removed);
	inlay_buf_varint(b, m->removed_bytes);
	inlay_buf_varint(b, m->freed_bytes);
	inlay_buf_varint(b, m->young);
}

int message_decode_gc(const void *payload, size_t len, struct message_gc *ret,
		      struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_gc m;

	m.removed = inlay_cursor_varint(&c);
	m.removed_bytes = inlay_cursor_varint(&c);
	m.freed_bytes = inlay_cursor_varint(&c);
	m.young = inlay_cursor_varint(&c);
	DECODED(c, "gc", m, ret, err);
}

void message_encode_program(struct inlay_buf *b, const struct message_program *m)
{
	put_text(b, m->name);
	inlay_buf_u8(b, m->state);
	inlay_buf_varint(b, m->pid);
	inlay_buf_u32(b, (uint32_t)m->ended);
	inlay_buf_varint(b, m->starts);
	inlay_buf_u64(b, (uint64_t)m->since_ns);
	inlay_buf_u64(b, (uint64_t)m->next_ns);
}

int message_decode_program(const void *payload, size_t len, struct message_program *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_program m;

	m.name = get_text(&c);
	m.state = inlay_cursor_u8(&c);
	m.pid = inlay_cursor_varint(&c);
	m.ended = (int32_t)inlay_cursor_u32(&c);
	m.starts = inlay_cursor_varint(&c);
	m.since_ns = (int64_t)inlay_cursor_u64(&c);
	m.next_ns = (int64_t)inlay_cursor_u64(&c);
	DECODED(c, "program", m, ret, err);
}

void message_encode_log(struct inlay_buf *b, const struct message_log *m)
{
	put_text(b, m->name);
	inlay_buf_string(b, m->lines.bytes, m->lines.len);
}

int message_decode_log(const void *payload, size_t len, struct message_log *ret,
		       struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_log m;

	m.name = get_text(&c);
	m.lines.bytes = (const char *)inlay_cursor_string(&c, INLAY_FRAME_MAX, &m.lines.len);
	DECODED(c, "log", m, ret, err);
}

void message_encode_hook(struct inlay_buf *b, const struct message_hook *m)
{
	inlay_buf_u8(b, m->kind);
	put_text(b, m->text);
	inlay_buf_u32(b, (uint32_t)m->status);
	inlay_buf_varint(b, m->took_ns);
	put_bool(b, m->timed_out);
	put_bool(b, m->cut);
}

int message_decode_hook(const void *payload, size_t len, struct message_hook *ret,
			struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_hook m;

	m.kind = inlay_cursor_u8(&c);
	m.text = get_text(&c);
	m.status = (int32_t)inlay_cursor_u32(&c);
	m.took_ns = inlay_cursor_varint(&c);
	m.timed_out = get_bool(&c);
	m.cut = get_bool(&c);
	c.failed |= m.kind < MESSAGE_HOOK_OUTPUT || m.kind > MESSAGE_HOOK_BEGIN;
	DECODED(c, "hook", m, ret, err);
}

void message_encode_order(struct inlay_buf *b, const struct message_order *m)
{
	inlay_buf_u8(b, m->action);
	put_text(b, m->name);
	put_text(b, m->program);
	put_text(b, m->spec);
	inlay_buf_u8(b, m->signal);
	put_text(b, m->patterns);
}

int message_decode_order(const void *payload, size_t len, struct message_order *ret,
			 struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_order m;

	m.action = inlay_cursor_u8(&c);
	m.name = get_text(&c);
	m.program = get_text(&c);
	m.spec = get_text(&c);
	m.signal = inlay_cursor_u8(&c);
	m.patterns = get_text(&c);
	c.failed |= m.action < MESSAGE_ACTION_RUN || m.action > MESSAGE_ACTION_NONE;
	DECODED(c, "order", m, ret, err);
}

void message_encode_outcome(struct inlay_buf *b, const struct message_outcome *m)
{
	put_text(b, m->name);
	put_bool(b, m->has_good);
	put_id(b, &m->good);
	inlay_buf_u64(b, (uint64_t)m->time_ns);
	inlay_buf_varint(b, m->took_ns);
	inlay_buf_varint(b, m->generation);
	inlay_buf_u32(b, (uint32_t)m->status);
	put_bool(b, m->timed_out);
}

int message_decode_outcome(const void *payload, size_t len, struct message_outcome *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_outcome m;

	m.name = get_text(&c);
	m.has_good = get_bool(&c);
	get_id(&c, &m.good);
	m.time_ns = (int64_t)inlay_cursor_u64(&c);
	m.took_ns = inlay_cursor_varint(&c);
	m.generation = inlay_cursor_varint(&c);
	m.status = (int32_t)inlay_cursor_u32(&c);
	m.timed_out = get_bool(&c);
	c.failed |= m.time_ns < 0;
	DECODED(c, "outcome", m, ret, err);
}

bool message_next_text(struct message_text *rest, struct message_text *ret)
{
	struct inlay_cursor c = inlay_cursor_of(rest->bytes, rest->len);

	if (rest->len == 0)
		return false;
	*ret = get_text(&c);
	if (c.failed)
		return false;
	*rest = (struct message_text){ret->bytes + ret->len, c.left};
	return true;
}

void message_add_text(struct inlay_buf *b, const void *bytes, size_t len)
{
	inlay_buf_string(b, bytes, len);
}

void message_encode_upper(struct inlay_buf *b, const struct message_upper *m)
{
	inlay_buf_u8(b, (uint8_t)(m->kind | m->shadows << 6 | m->has_synced << 7));
	inlay_buf_varint(b, m->mode);
	inlay_buf_varint(b, m->size);
	inlay_buf_u64(b, (uint64_t)m->mtime_ns);
	if (m->has_synced)
		put_id(b, &m->synced);
	put_text(b, m->path);
	put_text(b, m->target);
}

int message_decode_upper(const void *payload, size_t len, struct message_upper *ret,
			 struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	uint8_t bits = inlay_cursor_u8(&c);
	struct message_upper m = {
		.kind = bits & 63, .shadows = bits & 1 << 6, .has_synced = bits & 1 << 7};
	uint64_t mode = inlay_cursor_varint(&c);

	m.mode = (uint32_t)mode;
	m.size = inlay_cursor_varint(&c);
	m.mtime_ns = (int64_t)inlay_cursor_u64(&c);
	if (m.has_synced)
		get_id(&c, &m.synced);
	m.path = get_text(&c);
	m.target = get_text(&c);
	c.failed |= mode > UINT32_MAX || m.kind == 0 || m.kind > MESSAGE_UPPER_KINDS ||
		    m.path.len == 0 || m.target.len > INLAY_LINK_MAX;
	DECODED(c, "upper", m, ret, err);
}

void message_encode_reset(struct inlay_buf *b, const struct message_reset *m)
{
	inlay_buf_varint(b, m->count);
}

int message_decode_reset(const void *payload, size_t len, struct message_reset *ret,
			 struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_reset m = {.count = inlay_cursor_varint(&c)};

	DECODED(c, "reset", m, ret, err);
}

void message_encode_pulled(struct inlay_buf *b, const struct message_pulled *m)
{
	inlay_buf_u8(b, m->step);
	if (m->step == MESSAGE_PULLED_BEGIN) {
		inlay_buf_varint(b, m->index);
		inlay_buf_varint(b, m->size);
		inlay_buf_varint(b, m->mode);
		inlay_buf_u64(b, (uint64_t)m->mtime_ns);
		return;
	}
	if (m->step == MESSAGE_PULLED_END)
		inlay_buf_u32(b, (uint32_t)m->code);
	inlay_buf_string(b, m->bytes.bytes ? m->bytes.bytes : "", m->bytes.len);
}

int message_decode_pulled(const void *payload, size_t len, struct message_pulled *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(payload, len);
	struct message_pulled m = {.step = inlay_cursor_u8(&c)};
	uint64_t mode = 0;

	if (m.step == MESSAGE_PULLED_BEGIN) {
		m.index = inlay_cursor_varint(&c);
		m.size = inlay_cursor_varint(&c);
		mode = inlay_cursor_varint(&c);
		m.mtime_ns = (int64_t)inlay_cursor_u64(&c);
		m.mode = (uint32_t)mode;
	} else {
		if (m.step == MESSAGE_PULLED_END)
			m.code = (int32_t)inlay_cursor_u32(&c);
		m.bytes.bytes =
			(const char *)inlay_cursor_string(&c, INLAY_FRAME_MAX, &m.bytes.len);
	}
	c.failed |= m.step == 0 || m.step > MESSAGE_PULLED_END || mode > UINT32_MAX || m.code > 0;
	DECODED(c, "pulled", m, ret, err);
}
