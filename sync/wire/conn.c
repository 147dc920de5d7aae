/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

enum {
	READ_BYTES = 256 << 10,      /* asked for at a time */
	LIMITED_BYTES = 16 << 10,    /* written at a time under a bandwidth limit */
	IN_MAX = 4 * INLAY_FRAME_MAX /* no more is read while this much waits to be taken */
};

static int set_nonblocking(int fd, struct inlay_error *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return inlay_error_sys(err, -errno, "set up a connection");
	return 0;
}

int conn_init(struct conn *c, int rfd, int wfd, struct inlay_error *err)
{
	*c = (struct conn){.rfd = rfd, .wfd = wfd};
	int r = set_nonblocking(rfd, err);
	if (r == 0)
		r = set_nonblocking(wfd, err);
	inlay_buf_add(&c->out, frame_magic, FRAME_MAGIC_BYTES);
	return r < 0 ? r : inlay_buf_check(&c->out, err);
}

void conn_fini(struct conn *c)
{
	if (c->wfd != c->rfd)
		inlay_cleanup_close(&c->wfd);
	inlay_cleanup_close(&c->rfd);
	inlay_buf_fini(&c->in);
	inlay_buf_fini(&c->out);
	inlay_buf_fini(&c->noise);
	*c = (struct conn){.rfd = -1, .wfd = -1};
}

int conn_send(struct conn *c, uint8_t type, const void *payload, size_t len,
	      struct inlay_error *err)
{
	uint8_t header[FRAME_HEADER_BYTES];

	if (len > INLAY_FRAME_MAX)
		return inlay_error_set(err, -E2BIG, "a frame of %zu bytes", len);
	if (c->out_at == c->out.len) {
		inlay_buf_clear(&c->out);
		c->out_at = 0;
	}
	frame_seal(header, type, payload, len);
	inlay_buf_add(&c->out, header, sizeof header);
	inlay_buf_add(&c->out, payload, len);
	return inlay_buf_check(&c->out, err);
}

/* ---- moving bytes ---- */

static int fill(struct conn *c, struct inlay_error *err)
{
	while (!c->ended && c->in.len - c->in_at < IN_MAX) {
		if (c->in_at > 0 && c->in_at == c->in.len) {
			inlay_buf_clear(&c->in);
			c->in_at = 0;
		} else if (c->in_at > READ_BYTES) {
			memmove(c->in.data, c->in.data + c->in_at, c->in.len - c->in_at);
			c->in.len -= c->in_at;
			c->in_at = 0;
		}
		uint8_t *room = inlay_buf_reserve(&c->in, READ_BYTES);
		if (!room)
			return inlay_buf_check(&c->in, err);
		ssize_t n = read(c->rfd, room, READ_BYTES);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0 && errno != ECONNRESET)
			return inlay_error_sys(err, -errno, "read from the connection");
		if (n <= 0) {
			c->ended = true;
			return 0;
		}
		c->in.len += (size_t)n;
		c->received += (uint64_t)n;
		if (n < READ_BYTES)
			return 0;
	}
	return 0;
}

static size_t may_send(const struct conn *c)
{
	size_t len = conn_queued(c);

	if (c->bwlimit == 0)
		return len;
	if (inlay_monotonic_ns() < c->send_from_ns)
		return 0;
	return len < LIMITED_BYTES ? len : LIMITED_BYTES;
}

static void pace(struct conn *c, size_t sent)
{
	if (c->bwlimit == 0)
		return;
	int64_t now = inlay_monotonic_ns();
	if (c->send_from_ns < now)
		c->send_from_ns = now;
	c->send_from_ns += (int64_t)((double)sent * 1e9 / (double)c->bwlimit);
}

static int spill(struct conn *c, struct inlay_error *err)
{
	size_t len;

	while ((len = may_send(c)) > 0) {
		/* A broken pipe is an error here, not a signal: both programs ignore SIGPIPE. */
		ssize_t n = write(c->wfd, c->out.data + c->out_at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0)
			return inlay_error_sys(err, -errno, "write to the connection");
		c->out_at += (size_t)n;
		c->sent += (uint64_t)n;
		pace(c, (size_t)n);
	}
	return 0;
}

int conn_poll_set(const struct conn *c, struct pollfd fds[static 2])
{
	bool read_more = !c->ended && c->in.len - c->in_at < IN_MAX;
	int timeout = -1;

	fds[0] = (struct pollfd){.fd = read_more ? c->rfd : -1, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = -1, .events = POLLOUT};
	if (conn_queued(c) > 0) {
		int64_t wait = c->bwlimit ? c->send_from_ns - inlay_monotonic_ns() : 0;
		if (wait > 0)
			timeout = (int)(wait / 1000000 + 1);
		else
			fds[1].fd = c->wfd;
	}
	return timeout;
}

int conn_pump(struct conn *c, struct inlay_error *err)
{
	int r = fill(c, err);

	return r < 0 ? r : spill(c, err);
}

static int sooner(int a, int64_t deadline_ns)
{
	if (deadline_ns == 0)
		return a;
	int64_t left = deadline_ns - inlay_monotonic_ns();
	int ms = left <= 0 ? 0 : left > 3600000000000 ? 3600000 : (int)((left + 999999) / 1000000);
	return a < 0 || ms < a ? ms : a;
}

int conn_wait(struct conn *c, int wake_fd, int64_t deadline_ns, struct inlay_error *err)
{
	struct pollfd fds[4];
	int timeout = sooner(conn_poll_set(c, fds), deadline_ns);

	fds[2] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
	fds[3] = (struct pollfd){.fd = c->stop_fd > 0 ? c->stop_fd : -1, .events = POLLIN};
	int n = poll(fds, 4, timeout);
	if (n < 0 && errno != EINTR)
		return inlay_error_sys(err, -errno, "wait for the connection");
	if (n > 0 && fds[3].revents)
		return inlay_error_set(err, -ECANCELED, "told to end");
	uint64_t sent = c->sent;
	int r = conn_pump(c, err);
	if (r < 0)
		return r;
	if (c->moved && c->sent > sent)
		c->moved(c->moved_ctx);
	if (n > 0 && fds[2].revents)
		return 1;
	if (n == 0 && deadline_ns && inlay_monotonic_ns() >= deadline_ns)
		return inlay_error_set(err, -ETIMEDOUT, "the peer did not answer in time");
	return 0;
}

int conn_drain(struct conn *c, size_t queued, int64_t deadline_ns, struct inlay_error *err)
{
	int r = spill(c, err);

	while (r == 0 && conn_queued(c) > queued) {
		if (c->ended)
			return inlay_error_set(err, -EPIPE, "the peer closed the connection");
		r = conn_wait(c, -1, deadline_ns, err);
	}
	return r;
}

/* ---- frames ---- */

static int greet(struct conn *c, struct inlay_error *err)
{
	size_t used;
	int r = frame_find_magic(c->in.data + c->in_at, c->in.len - c->in_at, &used);
	size_t noise = r == 0 ? used - FRAME_MAGIC_BYTES : used;

	inlay_buf_add(&c->noise, c->in.data + c->in_at, noise);
	c->in_at += used;
	if (r == 0) {
		c->greeted = true;
		inlay_buf_fini(&c->noise);
		return 0;
	}
	if (c->noise.len > INLAY_NOISE_MAX)
		return inlay_error_set(err, -EPROTO,
				       "the peer does not speak inlay's protocol: more than %d "
				       "bytes of something else came first",
				       INLAY_NOISE_MAX);
	return CONN_NOTHING;
}

int conn_next(struct conn *c, struct frame *ret, struct inlay_error *err)
{
	size_t used;
	int r = c->greeted ? 0 : greet(c, err);

	if (r == 0)
		r = frame_open(c->in.data + c->in_at, c->in.len - c->in_at, ret, &used, err);
	if (r == 0) {
		c->in_at += used;
		return 0;
	}
	if (r < 0)
		return r;
	if (!c->ended)
		return CONN_NOTHING;
	if (c->greeted && c->in_at < c->in.len)
		return inlay_error_set(err, -EPIPE, "the connection was cut inside a message");
	return CONN_END;
}

int conn_recv(struct conn *c, int64_t deadline_ns, struct frame *ret, struct inlay_error *err)
{
	int r;

	while ((r = conn_next(c, ret, err)) == CONN_NOTHING) {
		r = conn_wait(c, -1, deadline_ns, err);
		if (r < 0)
			return r;
	}
	return r;
}
