/* SPDX-License-Identifier: Apache-2.0 */
/* The command, and its bytes. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "inlay/io.h"
#include "transport/ssh2in.h"

enum {
	PIECE = 128 << 10,
	KEEPALIVE_S =
		2, /* libssh2 sends none earlier after the last; when one is due is decided here */
};

/*
 * libssh2 loses its place when anything else is sent while a packet is half sent: a call that stopped there is
 * made again, with the same bytes, before any other. `busy` is that call.
 */
enum busy { BUSY_NOT, BUSY_WRITE, BUSY_READ, BUSY_STDERR, BUSY_EOF };

struct run {
	struct ssh2 *s;
	LIBSSH2_CHANNEL *channel;
	enum busy busy;
	uint8_t up[PIECE], down[PIECE], words[4096];
	size_t up_at, up_len, down_at, down_len;
	bool up_ended, eof_sent, down_closed, moved, looked_again;
	int64_t heard_ns, sent_ns;
};

static int alive_s(const struct run *p)
{
	return p->s->conf.alive_s > KEEPALIVE_S ? p->s->conf.alive_s : KEEPALIVE_S;
}

static bool half_sent(const struct run *p)
{
	return libssh2_session_block_directions(p->s->session) & LIBSSH2_SESSION_BLOCK_OUTBOUND;
}

/* What a call gave: bytes, or 0 when it has to be made again later. */
static size_t gave(struct run *p, enum busy which, ssize_t n)
{
	p->busy = n == LIBSSH2_ERROR_EAGAIN && half_sent(p) ? which : BUSY_NOT;
	if (n >= 0) {
		p->moved |= n > 0;
		return (size_t)n;
	}
	if (n == LIBSSH2_ERROR_EAGAIN)
		return 0;
	ssh2_die(p->s, SSH2_FAILED, "the connection to %s was lost: %s", p->s->name,
		 ssh2_why(p->s));
}

static bool may(const struct run *p, enum busy which)
{
	return p->busy == BUSY_NOT || p->busy == which;
}

static void read_up(struct run *p)
{
	if (p->up_at < p->up_len || p->up_ended)
		return;
	ssize_t n = read(STDIN_FILENO, p->up, sizeof p->up);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		p->up_ended = true;
	p->up_at = 0;
	p->up_len = n > 0 ? (size_t)n : 0;
	p->moved |= n >= 0;
}

static void send_up(struct run *p)
{
	if (p->up_at < p->up_len && may(p, BUSY_WRITE)) {
		size_t n = gave(p, BUSY_WRITE,
				libssh2_channel_write(p->channel, (const char *)p->up + p->up_at,
						      p->up_len - p->up_at));
		p->up_at += n;
		if (n > 0)
			p->sent_ns = inlay_monotonic_ns();
	}
	if (p->up_ended && p->up_at == p->up_len && !p->eof_sent && may(p, BUSY_EOF)) {
		int r = libssh2_channel_send_eof(p->channel);
		(void)gave(p, BUSY_EOF, r);
		p->eof_sent = r == 0;
	}
}

static void take_down(struct run *p)
{
	if (p->down_at == p->down_len && may(p, BUSY_READ)) {
		p->down_at = 0;
		p->down_len =
			gave(p, BUSY_READ,
			     libssh2_channel_read(p->channel, (char *)p->down, sizeof p->down));
	}
	if (may(p, BUSY_STDERR)) {
		size_t n = gave(
			p, BUSY_STDERR,
			libssh2_channel_read_stderr(p->channel, (char *)p->words, sizeof p->words));
		(void)!write(STDERR_FILENO, p->words, n);
	}
}

static void write_down(struct run *p)
{
	while (p->down_at < p->down_len) {
		ssize_t n = p->down_closed ? (ssize_t)(p->down_len - p->down_at)
					   : write(STDOUT_FILENO, p->down + p->down_at,
						   p->down_len - p->down_at);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 && errno == EINTR)
			continue;
		/* Nobody listens any more: the rest is taken and forgotten. */
		p->down_closed |= n < 0;
		p->down_at += n > 0 ? (size_t)n : 0;
		p->moved = true;
	}
}

/*
 * Each call that reads takes all that has come, for either stream, and keeps what is not its own: what came
 * after stdout was asked for can be here although the socket is silent by now. Asked once before each wait, since
 * what a host sends for a third stream is never taken.
 */
static bool look_again(struct run *p)
{
	unsigned long kept = 0;

	if (!p->looked_again && p->busy == BUSY_NOT && p->down_at == p->down_len)
		(void)libssh2_channel_window_read_ex(p->channel, &kept, NULL);
	p->looked_again = kept > 0;
	return p->looked_again;
}

static void wait_some(struct run *p)
{
	bool full = p->down_at < p->down_len, pending = p->up_at < p->up_len;
	bool listen = p->busy == BUSY_NOT && (!full || pending);
	struct pollfd fds[3] = {
		{.fd = p->s->sock,
		 .events = (short)((listen ? POLLIN : 0) | (p->busy != BUSY_NOT ? POLLOUT : 0))},
		{.fd = pending || p->up_ended ? -1 : STDIN_FILENO, .events = POLLIN},
		{.fd = full ? STDOUT_FILENO : -1, .events = POLLOUT},
	};

	if (poll(fds, 3, 1000 * alive_s(p)) < 0 && errno != EINTR)
		ssh2_die(p->s, SSH2_FAILED, "poll: %s", strerror(errno));
	/* While we do not listen, silence proves nothing. */
	if (fds[0].revents & (POLLIN | POLLHUP | POLLERR) || !listen)
		p->heard_ns = inlay_monotonic_ns();
	else if (inlay_monotonic_ns() - p->heard_ns >
		 (int64_t)alive_s(p) * (p->s->conf.alive_count + 1) * 1000000000)
		ssh2_die(p->s, SSH2_FAILED, "%s does not answer any more", p->s->name);
}

/* Only after a silence, when nothing is half sent. */
static void keep_alive(struct run *p)
{
	int64_t now = inlay_monotonic_ns(), idle = alive_s(p) * 900000000ll;
	int next = 0;

	if (p->busy != BUSY_NOT || now - p->heard_ns < idle || now - p->sent_ns < idle)
		return;
	(void)libssh2_keepalive_send(p->s->session, &next);
	/* It counts in whole seconds, and may find that it is too early. */
	if (next == KEEPALIVE_S)
		p->sent_ns = now;
}

static void start(struct run *p)
{
	struct ssh2 *s = p->s;
	int r;

	do {
		p->channel = libssh2_channel_open_ex(s->session, "session", 7, SSH2_WINDOW,
						     LIBSSH2_CHANNEL_PACKET_DEFAULT, NULL, 0);
		r = p->channel ? 0 : libssh2_session_last_errno(s->session);
		if (r == LIBSSH2_ERROR_EAGAIN)
			ssh2_wait(s);
	} while (r == LIBSSH2_ERROR_EAGAIN);
	if (r == 0)
		while ((r = libssh2_channel_exec(p->channel, s->command)) == LIBSSH2_ERROR_EAGAIN)
			ssh2_wait(s);
	if (r < 0)
		ssh2_die(s, SSH2_FAILED, "%s does not start a command: %s", s->name, ssh2_why(s));
	(void)alarm(0);
	libssh2_keepalive_config(s->session, 1, KEEPALIVE_S);
	for (int fd = 0; fd < 2; fd++)
		(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int finish(struct run *p)
{
	char *signal_name = NULL;
	int r;

	(void)alarm(SSH2_CLOSE_S);
	while ((r = libssh2_channel_close(p->channel)) == LIBSSH2_ERROR_EAGAIN)
		ssh2_wait(p->s);
	while (r == 0 && (r = libssh2_channel_wait_closed(p->channel)) == LIBSSH2_ERROR_EAGAIN)
		ssh2_wait(p->s);
	(void)libssh2_channel_get_exit_signal(p->channel, &signal_name, NULL, NULL, NULL, NULL,
					      NULL);
	int status = libssh2_channel_get_exit_status(p->channel);
	(void)libssh2_session_disconnect(p->s->session, "done");
	if (signal_name)
		ssh2_die(p->s, SSH2_FAILED, "the command on %s was ended by signal %s", p->s->name,
			 signal_name);
	return status;
}

int ssh2_run(struct ssh2 *s)
{
	static struct run run;
	struct run *p = &run;

	p->s = s;
	start(p);
	p->heard_ns = p->sent_ns = inlay_monotonic_ns();
	for (;;) {
		p->looked_again &= !p->moved;
		p->moved = false;
		read_up(p);
		send_up(p);
		take_down(p);
		write_down(p);
		if (p->moved || look_again(p))
			continue;
		if (p->busy == BUSY_NOT && p->down_at == p->down_len &&
		    libssh2_channel_eof(p->channel))
			return finish(p);
		keep_alive(p);
		wait_some(p);
	}
}
