/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/trunk.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "wire/message.h"

enum {
	LINE_FULL = 256 << 10,   /* queued on the connection: nothing more is read for it */
	CREDIT_AFTER = 64 << 10, /* read bytes for which credit is given at once */
};

int trunk_init(struct trunk *t, int rfd, int wfd,
	       int (*open)(void *ctx, int *ret, struct inlay_error *err), void *ctx,
	       struct inlay_error *err)
{
	*t = (struct trunk){.serving = open, .open = open, .ctx = ctx};
	return conn_init(&t->conn, rfd, wfd, err);
}

static void end_channel(struct trunk *t, size_t i)
{
	struct trunk_channel *c = &t->channels[i];

	(void)close(c->fd);
	inlay_buf_fini(&c->out);
	*c = t->channels[--t->count];
}

void trunk_fini(struct trunk *t)
{
	while (t->count > 0)
		end_channel(t, 0);
	conn_fini(&t->conn);
}

static int say(struct trunk *t, enum message_type type, const struct message_channel *m,
	       struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	message_encode_channel(&b, m);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : conn_send(&t->conn, type, b.data, b.len, err);
}

static int new_channel(struct trunk *t, uint64_t id, int fd, struct inlay_error *err)
{
	int flags = fcntl(fd, F_GETFL);

	size_t max = t->serving ? TRUNK_CHANNELS_MAX : TRUNK_CHANNELS_MAX / 2;

	if (t->count >= max || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		(void)close(fd);
		return inlay_error_set(err, -EMFILE, "too many sessions over one connection");
	}
	t->channels[t->count++] =
		(struct trunk_channel){.id = id, .fd = fd, .may_send = TRUNK_WINDOW};
	t->next = id + 1;
	return 0;
}

int trunk_add(struct trunk *t, int fd, struct inlay_error *err)
{
	int r = new_channel(t, t->next, fd, err);

	return r < 0 ? r
		     : say(t, MESSAGE_CHANNEL, &(struct message_channel){.id = t->next - 1}, err);
}

/* Whoever speaks at this end is gone. */
static int hang_up(struct trunk *t, size_t i, struct inlay_error *err)
{
	uint64_t id = t->channels[i].id;

	end_channel(t, i);
	return say(t, MESSAGE_HUNG_UP, &(struct message_channel){.id = id}, err);
}

/* ---- from a channel to the line ---- */

/* Positive: it ended, and its place has another one. */
static int read_channel(struct trunk *t, size_t i, struct inlay_error *err)
{
	struct trunk_channel *c = &t->channels[i];
	char piece[TRUNK_PIECE];
	size_t room = c->may_send < sizeof piece ? (size_t)c->may_send : sizeof piece;
	ssize_t n = read(c->fd, piece, room);

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return 0;
	if (n <= 0) {
		int r = hang_up(t, i, err);
		return r < 0 ? r : 1;
	}
	c->may_send -= (uint64_t)n;
	return say(t, MESSAGE_CARRY,
		   &(struct message_channel){.id = c->id, .bytes = {piece, (size_t)n}}, err);
}

/* ---- from the line to a channel ---- */

/* Positive: it ended, and its place has another one. */
static int write_channel(struct trunk *t, size_t i, struct inlay_error *err)
{
	struct trunk_channel *c = &t->channels[i];

	while (c->out_at < c->out.len) {
		ssize_t n = write(c->fd, c->out.data + c->out_at, c->out.len - c->out_at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0) {
			int r = c->ending ? 0 : hang_up(t, i, err);
			if (c->ending)
				end_channel(t, i);
			return r < 0 ? r : 1;
		}
		c->out_at += (size_t)n;
		c->owed += (uint64_t)n;
	}
	if (c->out_at == c->out.len) {
		inlay_buf_clear(&c->out);
		c->out_at = 0;
		if (c->ending) {
			end_channel(t, i);
			return 1;
		}
	}
	if (c->owed < CREDIT_AFTER)
		return 0;
	struct message_channel m = {.id = c->id, .count = c->owed};
	c->owed = 0;
	return say(t, MESSAGE_CREDIT, &m, err);
}

static size_t find(const struct trunk *t, uint64_t id)
{
	size_t i = 0;

	while (i < t->count && t->channels[i].id != id)
		i++;
	return i;
}

static int hear_channel(struct trunk *t, const struct message_channel *m, struct inlay_error *err)
{
	int fd;

	if (!t->serving || m->id != t->next)
		return inlay_error_set(err, -EPROTO, "a channel out of turn");
	int r = t->open(t->ctx, &fd, err);
	return r < 0 ? r : new_channel(t, m->id, fd, err);
}

static int hear_carried(struct trunk *t, size_t i, const struct message_channel *m,
			struct inlay_error *err)
{
	struct trunk_channel *c = &t->channels[i];
	size_t waiting = c->out.len - c->out_at;

	if (c->ending || waiting + c->owed + m->bytes.len > TRUNK_WINDOW)
		return inlay_error_set(err, -EPROTO, "more than a channel may carry");
	if (c->out_at > TRUNK_WINDOW) {
		memmove(c->out.data, c->out.data + c->out_at, waiting);
		c->out.len = waiting;
		c->out_at = 0;
	}
	inlay_buf_add(&c->out, m->bytes.bytes, m->bytes.len);
	int r = inlay_buf_check(&c->out, err);
	if (r == 0)
		r = write_channel(t, i, err);
	return r < 0 ? r : 0;
}

static int hear(struct trunk *t, const struct frame *f, struct inlay_error *err)
{
	struct message_channel m;
	if (f->type == MESSAGE_PING)
		return conn_send(&t->conn, MESSAGE_PONG, NULL, 0, err);
	if (f->type == MESSAGE_PONG)
		return 0;
	int r = message_decode_channel(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (f->type == MESSAGE_CHANNEL)
		return hear_channel(t, &m, err);
	size_t i = find(t, m.id);
	if (m.id >= t->next)
		return inlay_error_set(err, -EPROTO, "a channel that is not there");
	/* It ended here, which the other side did not know yet. */
	if (i == t->count)
		return 0;
	switch (f->type) {
	case MESSAGE_CARRY:
		return hear_carried(t, i, &m, err);
	case MESSAGE_CREDIT:
		if (m.count > TRUNK_WINDOW - t->channels[i].may_send)
			return inlay_error_set(err, -EPROTO, "more credit than was used");
		t->channels[i].may_send += m.count;
		return 0;
	case MESSAGE_HUNG_UP:
		t->channels[i].ending = true;
		r = write_channel(t, i, err);
		return r < 0 ? r : 0;
	default:
		return inlay_error_set(err, -EPROTO, "an unknown message of type %u", f->type);
	}
}

/* ---- the loop ---- */

enum { FD_IN, FD_OUT, FD_WAKE, FD_CHANNELS };

static bool may_read(const struct trunk *t, const struct trunk_channel *c)
{
	return t->conn.greeted && !c->ending && c->may_send > 0 &&
	       conn_queued(&t->conn) < LINE_FULL;
}

static int wait(struct trunk *t, struct pollfd *fds, int wake_fd, int64_t deadline_ns,
		struct inlay_error *err)
{
	int timeout = conn_poll_set(&t->conn, fds);

	fds[FD_WAKE] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
	for (size_t i = 0; i < t->count; i++) {
		const struct trunk_channel *c = &t->channels[i];
		short events = (short)((may_read(t, c) ? POLLIN : 0) |
				       (c->out_at < c->out.len ? POLLOUT : 0));
		fds[FD_CHANNELS + i] = (struct pollfd){.fd = events ? c->fd : -1, .events = events};
	}
	if (deadline_ns) {
		int64_t left = (deadline_ns - inlay_monotonic_ns() + 999999) / 1000000;
		timeout = left < 0 ? 0 : (int)left;
	}
	if (poll(fds, FD_CHANNELS + t->count, timeout) < 0 && errno != EINTR)
		return inlay_error_sys(err, -errno, "wait for sessions");
	return 0;
}

/* A channel that ends gives its place to the last one, so they are gone through from behind. */
static int serve_channels(struct trunk *t, const struct pollfd *fds, size_t count,
			  struct inlay_error *err)
{
	int r = 0;

	for (size_t i = count; r >= 0 && i-- > 0;) {
		short got = fds[FD_CHANNELS + i].revents;
		r = 0;
		if (got & (POLLOUT | POLLERR))
			r = write_channel(t, i, err);
		if (r == 0 && (got & (POLLIN | POLLHUP)) && may_read(t, &t->channels[i]))
			r = read_channel(t, i, err);
	}
	return r < 0 ? r : 0;
}

int trunk_turn(struct trunk *t, int wake_fd, int64_t deadline_ns, struct inlay_error *err)
{
	struct pollfd fds[FD_CHANNELS + TRUNK_CHANNELS_MAX];
	size_t count = t->count;
	struct frame f;
	int r = wait(t, fds, wake_fd, deadline_ns, err);

	if (r == 0)
		r = serve_channels(t, fds, count, err);
	if (r == 0)
		r = conn_pump(&t->conn, err);
	while (r == 0 && (r = conn_next(&t->conn, &f, err)) == 0)
		r = hear(t, &f, err);
	if (r < 0)
		return r;
	if (r == CONN_END)
		return TRUNK_END;
	/* What was just taken leaves at once. */
	r = conn_drain(&t->conn, SIZE_MAX, 0, err);
	if (r < 0)
		return r;
	return fds[FD_WAKE].revents ? TRUNK_WOKEN : 0;
}
