/* SPDX-License-Identifier: Apache-2.0 */
#include "watch/control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

/* ---- packets ---- */

static void put_text(struct inlay_buf *b, const char *text)
{
	inlay_buf_string(b, text, strlen(text));
}

static bool get_bool(struct inlay_cursor *c)
{
	uint8_t v = inlay_cursor_u8(c);

	c->failed |= v > 1;
	return v == 1;
}

static int bad(struct inlay_error *err)
{
	return inlay_error_set(err, -EPROTO, "a bad message on the control socket");
}

void control_encode_request(struct inlay_buf *b, const struct control_request *m)
{
	inlay_buf_u8(b, m->verb);
	inlay_buf_u8(b, m->force);
	inlay_buf_u8(b, m->steal);
	inlay_buf_varint(b, m->timeout_ms);
	put_text(b, m->target);
}

int control_decode_request(const void *bytes, size_t len, struct control_request *ret,
			   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);

	ret->verb = inlay_cursor_u8(&c);
	ret->force = get_bool(&c);
	ret->steal = get_bool(&c);
	ret->timeout_ms = inlay_cursor_varint(&c);
	inlay_cursor_cstring(&c, ret->target, sizeof ret->target);
	c.failed |= ret->verb < CONTROL_STATUS || ret->verb > CONTROL_STOP;
	c.failed |= ret->timeout_ms > UINT32_MAX;
	return inlay_cursor_done(&c) ? 0 : bad(err);
}

static void put_head(struct inlay_buf *b, const struct control_head *m)
{
	inlay_buf_varint(b, m->pid);
	inlay_buf_u64(b, (uint64_t)m->since_ns);
	inlay_buf_varint(b, m->seq);
	inlay_buf_varint(b, m->watches);
	inlay_buf_varint(b, m->cold);
	inlay_buf_varint(b, m->overflows);
	inlay_buf_varint(b, m->held);
	inlay_buf_varint(b, m->encoded);
	inlay_buf_varint(b, m->shared);
	inlay_buf_u8(b, m->halted);
	put_text(b, m->source);
	put_text(b, m->why);
}

static void get_head(struct inlay_cursor *c, struct control_head *m)
{
	m->pid = inlay_cursor_varint(c);
	m->since_ns = (int64_t)inlay_cursor_u64(c);
	m->seq = inlay_cursor_varint(c);
	m->watches = inlay_cursor_varint(c);
	m->cold = inlay_cursor_varint(c);
	m->overflows = inlay_cursor_varint(c);
	m->held = inlay_cursor_varint(c);
	m->encoded = inlay_cursor_varint(c);
	m->shared = inlay_cursor_varint(c);
	m->halted = get_bool(c);
	inlay_cursor_cstring(c, m->source, sizeof m->source);
	inlay_cursor_cstring(c, m->why, sizeof m->why);
}

static void put_row(struct inlay_buf *b, const struct control_row *m)
{
	const struct peer_status *s = &m->status;

	inlay_buf_u8(b, (uint8_t)s->state);
	inlay_buf_u8(b, (uint8_t)s->exit_code);
	inlay_buf_u8(b, s->mounted);
	inlay_buf_u8(b, m->changed);
	inlay_buf_u64(b, (uint64_t)s->since_ns);
	inlay_buf_u64(b, (uint64_t)s->last_ns);
	inlay_buf_u64(b, (uint64_t)s->visible_p50_ns);
	inlay_buf_u64(b, (uint64_t)s->visible_p95_ns);
	const uint64_t numbers[] = {s->seq,        s->goal_seq,       s->generation,
				    s->durable,    s->change_sets,    s->connections,
				    s->sent_bytes, s->received_bytes, s->samples};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		inlay_buf_varint(b, numbers[i]);
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		inlay_buf_varint(b, s->codecs.by[i].objects);
		inlay_buf_varint(b, s->codecs.by[i].raw);
		inlay_buf_varint(b, s->codecs.by[i].wire);
	}
	inlay_buf_add(b, s->root.tree.b, INLAY_DIGEST_BYTES);
	put_text(b, s->why);
	put_text(b, m->target);
}

static void get_row(struct inlay_cursor *c, struct control_row *m)
{
	struct peer_status *s = &m->status;

	uint8_t state = inlay_cursor_u8(c);
	c->failed |= state < PEER_CONNECTING || state > PEER_HALTED;
	s->state = (enum peer_state)state;
	s->exit_code = inlay_cursor_u8(c);
	s->mounted = get_bool(c);
	m->changed = get_bool(c);
	s->since_ns = (int64_t)inlay_cursor_u64(c);
	s->last_ns = (int64_t)inlay_cursor_u64(c);
	s->visible_p50_ns = (int64_t)inlay_cursor_u64(c);
	s->visible_p95_ns = (int64_t)inlay_cursor_u64(c);
	uint64_t *const numbers[] = {&s->seq,        &s->goal_seq,       &s->generation,
				     &s->durable,    &s->change_sets,    &s->connections,
				     &s->sent_bytes, &s->received_bytes, &s->samples};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		*numbers[i] = inlay_cursor_varint(c);
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		s->codecs.by[i].objects = inlay_cursor_varint(c);
		s->codecs.by[i].raw = inlay_cursor_varint(c);
		s->codecs.by[i].wire = inlay_cursor_varint(c);
	}
	const uint8_t *tree = inlay_cursor_bytes(c, INLAY_DIGEST_BYTES);
	if (tree)
		memcpy(s->root.tree.b, tree, INLAY_DIGEST_BYTES);
	inlay_cursor_cstring(c, s->why, sizeof s->why);
	inlay_cursor_cstring(c, m->target, sizeof m->target);
}

void control_encode(struct inlay_buf *b, const struct control_packet *m)
{
	inlay_buf_u8(b, (uint8_t)m->kind);
	if (m->kind == CONTROL_HEAD) {
		put_head(b, &m->head);
	} else if (m->kind == CONTROL_ROW) {
		put_row(b, &m->row);
	} else {
		inlay_buf_u8(b, m->end.exit_code);
		put_text(b, m->end.text);
	}
}

int control_decode(const void *bytes, size_t len, struct control_packet *ret,
		   struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	uint8_t kind = inlay_cursor_u8(&c);

	*ret = (struct control_packet){.kind = (enum control_kind)kind};
	switch (kind) {
	case CONTROL_HEAD:
		get_head(&c, &ret->head);
		break;
	case CONTROL_ROW:
		get_row(&c, &ret->row);
		break;
	case CONTROL_END:
		ret->end.exit_code = inlay_cursor_u8(&c);
		inlay_cursor_cstring(&c, ret->end.text, sizeof ret->end.text);
		break;
	default:
		c.failed = true;
	}
	return inlay_cursor_done(&c) ? 0 : bad(err);
}

/* ---- asking ---- */

static int connect_in(int dirfd, int *ret_fd, struct inlay_error *err)
{
	int r = inlay_unix_connect(dirfd, CONTROL_SOCKET, SOCK_SEQPACKET, ret_fd, err);

	return r == INLAY_UNIX_NOBODY || r == -ENOENT ? CONTROL_NOBODY : r;
}

int control_connect(const char *state, const char *source, int *ret_fd, struct inlay_error *err)
{
	char id[17];
	auto_buf struct inlay_buf path = {0};

	source_id(source, id);
	inlay_buf_printf(&path, "%s/sources/%s", state, id);
	auto_close int dir = open(inlay_buf_cstr(&path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT
			       ? CONTROL_NOBODY
			       : inlay_error_sys(err, -errno, "open %s", inlay_buf_cstr(&path));
	return connect_in(dir, ret_fd, err);
}

int control_each(const char *state, int (*fn)(void *ctx, int fd, struct inlay_error *err),
		 void *ctx, struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct dirent *d;
	int r = 0;

	inlay_buf_printf(&path, "%s/sources", state);
	DIR *all = opendir(inlay_buf_cstr(&path));
	if (!all)
		return errno == ENOENT
			       ? 0
			       : inlay_error_sys(err, -errno, "list %s", inlay_buf_cstr(&path));
	while (r >= 0 && (d = readdir(all))) {
		auto_close int dir = -1;
		int fd;
		if (d->d_name[0] == '.')
			continue;
		dir = openat(dirfd(all), d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir >= 0 && connect_in(dir, &fd, NULL) == 0)
			r = fn(ctx, fd, err);
	}
	(void)closedir(all);
	return r < 0 ? r : 0;
}

int control_say(int fd, const struct control_request *m, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	control_encode_request(&b, m);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : inlay_unix_send(fd, b.data, b.len, NULL, 0, err);
}

int control_hear(int fd,
		 int (*packet)(void *ctx, const struct control_packet *p, struct inlay_error *err),
		 void *ctx, struct inlay_error *err)
{
	auto_free uint8_t *bytes = malloc(CONTROL_PACKET_MAX);
	auto_free struct control_packet *p = malloc(sizeof *p);
	int fds[INLAY_UNIX_FDS];
	size_t n;
	int r = bytes && p ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	while (r == 0) {
		r = inlay_unix_recv(fd, bytes, CONTROL_PACKET_MAX, &n, fds, err);
		for (size_t i = 0; r == 0 && i < INLAY_UNIX_FDS; i++)
			inlay_cleanup_close(&fds[i]);
		if (r == 0 && n == 0)
			return inlay_error_set(err, -ECONNRESET, "the watch ended");
		if (r == 0)
			r = control_decode(bytes, n, p, err);
		if (r == 0 && p->kind == CONTROL_END)
			break;
		if (r == 0 && packet)
			r = packet(ctx, p, err);
	}
	if (r != 0 || p->end.exit_code == 0)
		return r;
	r = inlay_error_set(err, p->end.exit_code == INLAY_EXIT_TIMEOUT ? -ETIMEDOUT : -EREMOTEIO,
			    "%s", p->end.text);
	(void)inlay_error_set_exit(err, (enum inlay_exit)p->end.exit_code);
	return r;
}

int control_ask(int fd, const struct control_request *m,
		int (*packet)(void *ctx, const struct control_packet *p, struct inlay_error *err),
		void *ctx, struct inlay_error *err)
{
	int r = control_say(fd, m, err);

	return r < 0 ? r : control_hear(fd, packet, ctx, err);
}
