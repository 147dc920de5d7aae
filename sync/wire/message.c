/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/message.h"

#include <errno.h>
#include <stdio.h>

#include "inlay/checkup.h"

static void put_bool(struct inlay_buf *b, bool v)
{
	inlay_buf_u8(b, v);
}

static bool get_bool(struct inlay_cursor *c)
{
	uint8_t v = inlay_cursor_u8(c);

	c->failed |= v > 1;
	return v == 1;
}

static void put_text(struct inlay_buf *b, struct message_text t)
{
	inlay_buf_string(b, t.bytes ? t.bytes : "", t.bytes ? t.len : 0);
}

static struct message_text get_text(struct inlay_cursor *c)
{
	struct message_text t;

	t.bytes = (const char *)inlay_cursor_string(c, INLAY_MESSAGE_TEXT_MAX, &t.len);
	return t;
}

static void put_id(struct inlay_buf *b, const struct inlay_digest *id)
{
	inlay_buf_add(b, id->b, INLAY_DIGEST_BYTES);
}

static void get_id(struct inlay_cursor *c, struct inlay_digest *ret)
{
	const uint8_t *p = inlay_cursor_bytes(c, INLAY_DIGEST_BYTES);

	if (p)
		memcpy(ret->b, p, INLAY_DIGEST_BYTES);
	else
		*ret = (struct inlay_digest){0};
}

static void put_root(struct inlay_buf *b, const struct inlay_root *r)
{
	put_id(b, &r->tree);
	inlay_buf_u32(b, r->mode);
	inlay_buf_u64(b, (uint64_t)r->mtime_ns);
}

static void get_root(struct inlay_cursor *c, struct inlay_root *ret)
{
	get_id(c, &ret->tree);
	ret->mode = inlay_cursor_u32(c);
	ret->mtime_ns = (int64_t)inlay_cursor_u64(c);
	c->failed |= (ret->mode & ~(uint32_t)07777) != 0;
}

static void put_generation(struct inlay_buf *b, const struct inlay_generation *g)
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

static void get_generation(struct inlay_cursor *c, struct inlay_generation *ret)
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

static int finish(const struct inlay_cursor *c, const char *what, struct inlay_error *err)
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

static void put_config(struct inlay_buf *b, const struct message_config *m)
{
	inlay_buf_u8(b,
		     (uint8_t)(m->upper | m->xattrs << 2 | m->owner << 4 | m->set_redirects << 6));
	put_text(b, m->redirects);
}

static void get_config(struct inlay_cursor *c, struct message_config *ret)
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
	c.failed |= m.lock_wait_ms > 86400000 || (m.flags & 0xc0);
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
	c.failed |= m.action < MESSAGE_ACTION_RUN || m.action > MESSAGE_ACTION_SIGNAL;
	DECODED(c, "order", m, ret, err);
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
