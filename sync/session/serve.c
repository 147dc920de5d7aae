/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/utsname.h>

#include "inlay/cleanup.h"
#include "inlay/imagetree.h"
#include "inlay/io.h"
#include "session/serve.h"

enum {
	HANDSHAKE_S = 10,
	LARGE_SET = 2000, /* entries: what they needed is given back to the system */
	SILENCE_S = 180,  /* of a client that promised to be heard */
};

int serve_send(struct serve *s, enum message_type type, const struct inlay_buf *b,
	       struct inlay_error *err)
{
	int r = inlay_buf_check(b, err);

	return r < 0 ? r : conn_send(&s->conn, type, b->data, b->len, err);
}

int serve_failed(struct serve *s, enum message_reason reason, const struct inlay_error *cause,
		 struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct message_failed m = {.code = cause->code ? cause->code : -EIO,
				   .exit_code = (uint8_t)inlay_error_exit(cause),
				   .reason = reason,
				   .text = message_text_of(cause->text)};

	message_encode_failed(&b, &m);
	return serve_send(s, MESSAGE_FAILED, &b, err);
}

/* ---- the handshake ---- */

static int say_hello(struct serve *s, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct utsname u;
	struct message_hello m = {.version = MESSAGE_VERSION,
				  .version_min = MESSAGE_VERSION_MIN,
				  .program = message_text_of("inlayd " INLAY_VERSION),
				  .uid = geteuid()};

	(void)uname(&u);
	m.machine = message_text_of(u.machine);
	message_encode_hello(&b, &m);
	return serve_send(s, MESSAGE_HELLO, &b, err);
}

static int hear_hello(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	struct message_hello m;
	int r = message_decode_hello(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (m.version_min > MESSAGE_VERSION || m.version < MESSAGE_VERSION_MIN)
		return inlay_error_set(
			err, -EPROTONOSUPPORT,
			"the peer (%.*s) speaks protocol %u to %u, this inlayd %d to %d",
			(int)m.program.len, m.program.bytes, m.version_min, m.version,
			MESSAGE_VERSION_MIN, MESSAGE_VERSION);
	s->greeted = true;
	return 0;
}

/* ---- opening a workspace ---- */

static void copy_text(char *to, size_t size, struct message_text text)
{
	size_t n = text.len < size - 1 ? text.len : size - 1;

	memcpy(to, text.bytes, n);
	to[n] = 0;
}

void serve_mount(struct serve *s)
{
	struct inlay_error why = {0};

	s->mount_text[0] = 0;
	if (!(s->open_flags & MESSAGE_OPEN_MOUNT))
		return;
	int r = inlay_workspace_mount(
		s->ws, s->open_flags & MESSAGE_OPEN_BOOT ? INLAY_MOUNT_BOOT : 0, &why);
	if (r < 0) {
		(void)snprintf(s->mount_text, sizeof s->mount_text, "%.255s", why.text);
		return;
	}
	struct inlay_workspace_state st;
	inlay_workspace_state(s->ws, &st);
	(void)snprintf(s->mount_text, sizeof s->mount_text, "%.255s", st.mount_text);
}

static int send_want(struct serve *s, const struct inlay_idset *ids, struct inlay_error *err)
{
	enum { PER_FRAME = INLAY_FRAME_MAX / INLAY_DIGEST_BYTES };
	size_t count = ids->count < PER_FRAME ? ids->count : PER_FRAME;

	return conn_send(&s->conn, MESSAGE_WANT, ids->members, count * INLAY_DIGEST_BYTES, err);
}

/* The state of the workspace, and what it lacks. */
static int send_opened(struct serve *s, const struct inlay_digest *root, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	__attribute__((cleanup(inlay_cleanup_inlay_idset_fini))) struct inlay_idset wanted = {0};
	struct inlay_workspace_state st;
	struct inlay_store_usage usage = {0};
	int r = inlay_store_usage(inlay_host_store(s->host), &usage, err);

	if (r == 0 && s->locked)
		r = inlay_workspace_damaged(s->ws, &wanted, err);
	if (r < 0)
		return r;
	inlay_workspace_state(s->ws, &st);
	struct message_opened m = {.live = st.live,
				   .durable = st.durable,
				   .has_root = inlay_store_has(inlay_host_store(s->host), root),
				   .mounted = st.mounted,
				   .objects = usage.objects,
				   .path = message_text_of(st.path),
				   .mount_text = message_text_of(s->mount_text),
				   .aside = message_text_of(s->aside),
				   .wanted = wanted.count};
	message_encode_opened(&b, &m);
	r = serve_send(s, MESSAGE_OPENED, &b, err);
	if (r == 0 && wanted.count > 0)
		r = send_want(s, &wanted, err);
	return r;
}

static int no_workspace(const char *path, struct inlay_error *err)
{
	return inlay_error_set(err, -ENOENT, "nothing was ever synced to %s", path);
}

static int open_workspace(struct serve *s, const struct message_open *m, struct inlay_error *err)
{
	char path[INLAY_HOST_PATH_MAX], owner[INLAY_HOST_OWNER_MAX];

	if (m->path.len == 0 || m->path.len >= sizeof path || memchr(m->path.bytes, 0, m->path.len))
		return inlay_error_set(err, -EINVAL, "the target's path is empty or too long");
	copy_text(path, sizeof path, m->path);
	copy_text(owner, sizeof owner, m->owner);
	copy_text(s->origin, sizeof s->origin, m->origin);
	inlay_buf_add(&s->before, m->before.bytes, m->before.len);
	s->open_flags = m->flags;
	int r = m->flags & MESSAGE_OPEN_ADOPT ? inlay_host_adopt(s->host, path, s->aside, err) : 0;
	if (r < 0)
		return r;
	r = inlay_host_workspace(s->host, path, m->flags & MESSAGE_OPEN_CREATE, &s->ws, err);
	if (r == INLAY_HOST_MISSING)
		return no_workspace(path, err);
	if (r < 0 || !(m->flags & MESSAGE_OPEN_WRITE))
		return r;
	const struct inlay_lock_ask ask = {.owner = owner,
					   .lease = m->lease,
					   .wait_ns = (int64_t)m->lock_wait_ms * 1000000,
					   .steal = m->flags & MESSAGE_OPEN_STEAL};
	r = inlay_workspace_lock(s->ws, &ask, err);
	if (r == INLAY_HOST_LOCKED)
		return -EWOULDBLOCK;
	s->locked = r == 0;
	if (r == 0)
		inlay_workspace_watch(s->ws, s->durable_fd);
	return r;
}

static int hear_open(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	struct message_open m;
	int r = message_decode_open(f->payload, f->len, &m, err);

	if (r == 0 && s->ws)
		r = inlay_error_set(err, -EPROTO, "a second OPEN");
	if (r == 0)
		r = open_workspace(s, &m, err);
	if (r < 0)
		return r;
	struct inlay_workspace_state st;
	inlay_workspace_state(s->ws, &st);
	s->told_durable = st.durable;
	s->told_visible = st.live.number;
	r = serve_configure(s, &m.config, err);
	if (r < 0)
		return r;
	if (st.live.number)
		serve_mount(s);
	return send_opened(s, &m.root, err);
}

/* ---- change sets ---- */

static int hear_have(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	size_t count = f->len / 8;
	auto_free uint8_t *bits = calloc(1, (count + 7) / 8 + 1);

	if (f->len % 8)
		return inlay_error_set(err, -EPROTO, "a bad HAVE message");
	if (!bits)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++) {
		uint64_t prefix;
		memcpy(&prefix, f->payload + 8 * i, 8);
		if (s->image ? inlay_imagepush_has(s->image, prefix)
			     : inlay_store_has_prefix(inlay_host_store(s->host), prefix))
			bits[i / 8] |= (uint8_t)(1 << i % 8);
	}
	return conn_send(&s->conn, MESSAGE_HAS, bits, (count + 7) / 8, err);
}

static int send_visible(struct serve *s, const struct inlay_generation *gen, int64_t took_ns,
			struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct inlay_workspace_state st;
	inlay_workspace_state(s->ws, &st);
	struct message_visible m = {.number = gen->number,
				    .root = gen->root.tree,
				    .took_ns = (uint64_t)took_ns,
				    .mounted = st.mounted,
				    .mount_text = message_text_of(s->mount_text)};

	s->told_visible = gen->number;
	message_encode_visible(&b, &m);
	return serve_send(s, MESSAGE_VISIBLE, &b, err);
}

static int stale(struct serve *s, const struct inlay_digest *root, struct inlay_error *err)
{
	struct inlay_error cause = {0};

	(void)inlay_error_set(&cause, -ESTALE, "the workspace shows another state than expected");
	int r = serve_failed(s, MESSAGE_REASON_STALE, &cause, err);
	return r < 0 ? r : send_opened(s, root, err);
}

static int hear_commit(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	int64_t start = inlay_monotonic_ns();
	__attribute__((cleanup(inlay_cleanup_inlay_idset_fini))) struct inlay_idset missing = {0};
	struct inlay_generation gen;
	struct inlay_error cause = {0};
	struct message_commit m;
	int r = message_decode_commit(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (s->refused)
		return serve_nak(s, err);
	if (!s->locked || (s->objects && !objects_in_idle(s->objects)))
		return inlay_error_set(err, -EPROTO, "a COMMIT out of place");
	struct inlay_commit commit = {.expect = m.expect,
				      .root = m.root,
				      .changed = m.changed,
				      .rollback_of = m.rollback_of,
				      .origin = s->origin};
	if (s->before.len > 0)
		r = inlay_workspace_try(s->ws, &commit, &missing, err);
	if (r == 0)
		r = serve_before(s, &m.root.tree, &cause, err);
	if (r == SERVE_PUT_OFF) {
		serve_end_receiving(s);
		return serve_failed(s, MESSAGE_REASON_HOOK, &cause, err);
	}
	if (r == 0)
		r = inlay_workspace_commit(s->ws, &commit, &gen, &missing, err);
	if (r == INLAY_HOST_INCOMPLETE)
		return send_want(s, &missing, err);
	serve_end_receiving(s);
	if (r == INLAY_HOST_STALE)
		return stale(s, &m.root.tree, err);
	if (r < 0)
		return r;
	serve_mount(s);
	if (m.changed > LARGE_SET)
		inlay_give_memory_back();
	return send_visible(s, &gen, inlay_monotonic_ns() - start, err);
}

/* Another session has the lock now. */
static int give_way(struct serve *s, struct inlay_error *err)
{
	char thief[INLAY_HOST_OWNER_MAX];
	int r;

	inlay_workspace_thief(s->ws, thief);
	if (!thief[0])
		return inlay_error_set(err, -ECONNABORTED,
				       "the client came back over another connection");
	s->last_reason = MESSAGE_REASON_ROBBED;
	r = inlay_error_set(err, -EWOULDBLOCK, "%s took it over with --steal", thief);
	(void)inlay_error_set_exit(err, INLAY_EXIT_LOCKED);
	return r;
}

static int hear_durable(struct serve *s, struct inlay_error *err)
{
	struct inlay_workspace_state st;
	auto_buf struct inlay_buf b = {0};
	uint64_t count;

	(void)!read(s->durable_fd, &count, sizeof count);
	if (inlay_workspace_taken_over(s->ws))
		return give_way(s, err);
	inlay_workspace_state(s->ws, &st);
	if (st.durable_failed && !s->told_failed) {
		struct inlay_error cause = {0};
		s->told_failed = true;
		(void)inlay_error_set(&cause, -ENOSPC, "shown, but not durable yet: %s",
				      st.durable_text);
		return serve_failed(s, MESSAGE_REASON_OTHER, &cause, err);
	}
	if (st.durable <= s->told_durable)
		return 0;
	s->told_durable = st.durable;
	s->told_failed = false;
	message_encode_durable(&b, &(struct message_durable){st.durable});
	return serve_send(s, MESSAGE_DURABLE, &b, err);
}

/* ---- the loop ---- */

static int hear(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	if (!s->greeted && f->type != MESSAGE_HELLO)
		return inlay_error_set(err, -EPROTO, "HELLO did not come first");
	switch (f->type) {
	case MESSAGE_HELLO:
		return hear_hello(s, f, err);
	case MESSAGE_OPEN:
		return hear_open(s, f, err);
	case MESSAGE_DATA:
		return serve_data(s, f, err);
	case MESSAGE_COMMIT:
		return hear_commit(s, f, err);
	case MESSAGE_HAVE:
		return hear_have(s, f, err);
	case MESSAGE_REQUEST:
		return serve_request(s, f, err);
	case MESSAGE_PING:
		return conn_send(&s->conn, MESSAGE_PONG, NULL, 0, err);
	default:
		return inlay_error_set(err, -EPROTO, "an unknown message of type %u", f->type);
	}
}

static int loop(struct serve *s, struct inlay_error *err)
{
	int64_t start = inlay_monotonic_ns(), heard = start;
	int r = say_hello(s, err);

	while (r >= 0) {
		struct frame f;
		r = conn_next(&s->conn, &f, err);
		if (r == CONN_END)
			return 0;
		if (r == CONN_NOTHING) {
			int64_t deadline = !s->greeted ? start + HANDSHAKE_S * 1000000000ll
					   : s->open_flags & MESSAGE_OPEN_ALIVE
						   ? heard + SILENCE_S * 1000000000ll
						   : 0;
			r = conn_wait(&s->conn, s->durable_fd, deadline, err);
			if (r == 1)
				r = hear_durable(s, err);
		} else if (r == 0) {
			r = hear(s, &f, err);
			heard = inlay_monotonic_ns();
			/* An answer leaves at once, also when more has come already. */
			if (r == 0)
				r = conn_drain(&s->conn, SIZE_MAX, 0, err);
		}
	}
	return r;
}

void inlay_serve(struct inlay_host *host, int rfd, int wfd)
{
	struct serve s = {.host = host,
			  .store = inlay_host_store(host),
			  .trees = inlay_host_trees(host),
			  .durable_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	struct inlay_error err = {0};
	int r = conn_init(&s.conn, rfd, wfd, &err);

	if (r == 0)
		r = loop(&s, &err);
	if (r < 0 && !s.conn.ended) {
		/* The last word; a peer that does not listen is not waited for long. */
		(void)!serve_failed(&s, s.last_reason, &err, NULL);
		(void)!conn_drain(&s.conn, 0, inlay_monotonic_ns() + 5000000000ll, NULL);
	}
	inlay_store_put_abort(s.put);
	rdiff_patch_free(s.patch);
	/* What arrived whole stays: the sync that comes next does not have to send it again. */
	(void)!inlay_store_flush(inlay_host_store(host), NULL);
	serve_end_receiving(&s);
	serve_image_end(&s);
	if (s.locked) {
		inlay_workspace_watch(s.ws, -1);
		inlay_workspace_unlock(s.ws);
	}
	inlay_workspace_unref(s.ws);
	objects_in_free(s.objects);
	inlay_buf_fini(&s.small);
	inlay_buf_fini(&s.lost);
	inlay_buf_fini(&s.before);
	inlay_cleanup_close(&s.durable_fd);
	conn_fini(&s.conn);
	inlay_give_memory_back();
}
