/* SPDX-License-Identifier: Apache-2.0 */
#include "session/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "wire/message.h"
#include "wire/trunk.h"

enum {
	DOOR_FD = 3,
	ATTEMPTS_MAX = 3, /* another transport, an installation, the connection */
	ANSWER_S = 60,
	DOUBT_S = 5,
};

struct line {
	struct line *next;
	const char *host, *port;
	int door;
	pid_t pid;
};

/* ---- in the process ---- */

struct holder {
	struct transport_options o;
	struct transport transport;
	struct trunk trunk;
	bool open, shut; /* the line is there; nobody has the door any more */
	int64_t begun_ns;
	int64_t doubt_ns; /* when it counts as dead, if nothing was heard since; 0 = no doubt */
	uint64_t heard;   /* bytes when the doubt began */
	unsigned attempts;
};

static int open_line(struct holder *h, struct inlay_error *err)
{
	int r = transport_open(&h->o, &h->transport, err);

	if (r < 0)
		return r;
	h->begun_ns = inlay_monotonic_ns();
	h->doubt_ns = 0;
	r = trunk_init(&h->trunk, h->transport.rfd, h->transport.wfd, NULL, NULL, err);
	h->transport.rfd = h->transport.wfd = -1;
	h->open = true;
	return r;
}

static void close_line(struct holder *h, bool now)
{
	if (!h->open)
		return;
	if (now && h->transport.pid > 0)
		(void)kill(h->transport.pid, SIGTERM);
	trunk_fini(&h->trunk);
	transport_close(&h->transport, NULL);
	h->open = false;
}

/* Whoever speaks there hears why, as from the host. */
static void refuse(int fd, const struct inlay_error *why)
{
	auto_buf struct inlay_buf b = {0};
	struct message_failed m = {.code = why->code,
				   .exit_code = (uint8_t)inlay_error_exit(why),
				   .reason = MESSAGE_REASON_LINE,
				   .text = message_text_of(why->text)};
	struct conn c;

	message_encode_failed(&b, &m);
	if (conn_init(&c, fd, fd, NULL) == 0 && !b.failed &&
	    conn_send(&c, MESSAGE_FAILED, b.data, b.len, NULL) == 0)
		(void)!conn_drain(&c, 0, inlay_monotonic_ns() + 1000000000, NULL);
	conn_fini(&c);
}

/* Takes the ends of its channels out of a line that never came to be. */
static size_t take_channels(struct trunk *t, int fds[static TRUNK_CHANNELS_MAX])
{
	size_t count = t->count;

	for (size_t i = 0; i < count; i++) {
		fds[i] = t->channels[i].fd;
		inlay_buf_fini(&t->channels[i].out);
	}
	t->count = 0;
	return count;
}

static int reopen(struct holder *h, const int *fds, size_t count, struct inlay_error *err)
{
	int r = open_line(h, err);

	for (size_t i = 0; r == 0 && i < count; i++)
		r = trunk_add(&h->trunk, fds[i], err);
	return r;
}

/* The line ended before it was greeted: inlayd is not there, or another transport is taken, or it fails. */
static int try_again(struct holder *h, struct inlay_error *err)
{
	auto_buf struct inlay_buf noise = h->trunk.conn.noise;
	int fds[TRUNK_CHANNELS_MAX];
	char machine[32];
	size_t count = take_channels(&h->trunk, fds);

	h->trunk.conn.noise = (struct inlay_buf){0};
	inlay_buf_add(&noise, h->trunk.conn.in.data + h->trunk.conn.in_at,
		      h->trunk.conn.in.len - h->trunk.conn.in_at);
	trunk_fini(&h->trunk);
	h->open = false;
	int r = transport_explain(&h->transport, &h->o, &noise, machine, err);
	if (r == TRANSPORT_NO_AGENT)
		r = transport_install(&h->o, machine, err);
	if (r >= 0 && ++h->attempts < ATTEMPTS_MAX)
		r = reopen(h, fds, count, err);
	else if (r >= 0)
		r = inlay_error_set(err, -EREMOTEIO, "inlayd was installed, but is not found");
	if (r < 0 && !h->open)
		for (size_t i = 0; i < count; i++)
			refuse(fds[i], err);
	return r;
}

/* Somebody at the door: a socket for a new session, or doubt whether the host is still there. */
static int answer_door(struct holder *h, struct inlay_error *err)
{
	int fds[INLAY_UNIX_FDS];
	char byte = 0;
	size_t n = 0;

	if (inlay_unix_recv(DOOR_FD, &byte, 1, &n, fds, NULL) < 0 || n == 0) {
		h->shut = true;
		return 0;
	}
	if (fds[0] < 0) {
		if (!h->open || h->doubt_ns)
			return 0;
		h->doubt_ns = inlay_monotonic_ns() + DOUBT_S * INT64_C(1000000000);
		h->heard = h->trunk.conn.received;
		return conn_send(&h->trunk.conn, MESSAGE_PING, NULL, 0, err);
	}
	if (!h->open) {
		h->attempts = 0;
		int r = open_line(h, err);
		if (r < 0) {
			refuse(fds[0], err);
			close_line(h, true);
			return r;
		}
	}
	/* Too many of them: this one is closed. */
	(void)!trunk_add(&h->trunk, fds[0], NULL);
	return 0;
}

static int64_t deadline_of(const struct holder *h)
{
	if (!h->trunk.conn.greeted)
		return h->begun_ns +
		       (h->o.connect_ns ? h->o.connect_ns : ANSWER_S * INT64_C(1000000000));
	return h->doubt_ns;
}

static int overdue(struct holder *h, struct inlay_error *err)
{
	if (h->doubt_ns && h->trunk.conn.received != h->heard)
		h->doubt_ns = 0;
	int64_t deadline = deadline_of(h);
	if (!deadline || inlay_monotonic_ns() < deadline)
		return 0;
	return inlay_error_set(err, -ETIMEDOUT, "%s did not answer in time", h->o.host);
}

static int turn(struct holder *h, struct inlay_error *err)
{
	int r = trunk_turn(&h->trunk, DOOR_FD, deadline_of(h), err);

	if (r == TRUNK_WOKEN)
		return answer_door(h, err);
	if (r != 0 && !h->trunk.conn.greeted)
		return try_again(h, err);
	if (r == TRUNK_END)
		return inlay_error_set(err, -ECONNRESET, "the connection was lost");
	return r < 0 ? r : overdue(h, err);
}

static void hold(struct holder *h)
{
	/* Who shuts the door has ended his sessions. */
	while (!h->shut) {
		struct inlay_error err = {0};
		if (!h->open) {
			struct pollfd p = {.fd = DOOR_FD, .events = POLLIN};
			if (poll(&p, 1, -1) > 0)
				(void)!answer_door(h, &err);
			continue;
		}
		if (turn(h, &err) == 0 || !h->open)
			continue;
		/* Its sessions see an end; before they were greeted they hear why. */
		if (!h->trunk.conn.greeted) {
			int fds[TRUNK_CHANNELS_MAX];
			size_t count = take_channels(&h->trunk, fds);
			for (size_t i = 0; i < count; i++)
				refuse(fds[i], &err);
		}
		close_line(h, true);
	}
	close_line(h, h->open && !h->trunk.conn.greeted);
}

/* ---- those who have the door ---- */

static void become_holder(const struct transport_options *o, int door)
{
	struct holder h = {.o = *o,
			   .transport = {.rfd = -1, .wfd = -1, .pid = -1, .stderr_fd = -1}};
	int null = open("/dev/null", O_RDWR);

	sigset_t none;

	/* It goes on until those who share it have ended in order, and holds nothing else of theirs. */
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)dup2(null, 1);
	(void)dup2(door, DOOR_FD);
	(void)fcntl(DOOR_FD, F_SETFD, FD_CLOEXEC);
	(void)close_range(DOOR_FD + 1, ~0u, 0);
	h.o.door = 0;
	h.o.stop_fd = 0;
	h.o.trunk = true;
	hold(&h);
	_exit(0);
}

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static struct line *find(const struct lines *l, const struct transport_options *o)
{
	for (struct line *at = l->list; at; at = at->next)
		if (same(at->host, o->host) && same(at->port, o->port))
			return at;
	return NULL;
}

int lines_join(struct lines *l, struct transport_options *o, struct inlay_error *err)
{
	struct line *at = o->host ? find(l, o) : NULL;
	int pair[2];

	if (!o->host || at) {
		o->door = at ? at->door : 0;
		return 0;
	}
	at = calloc(1, sizeof *at);
	if (!at)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		free(at);
		return inlay_error_sys(err, -errno, "make a socket pair");
	}
	*at = (struct line){
		.next = l->list, .host = o->host, .port = o->port, .door = pair[0], .pid = fork()};
	if (at->pid == 0)
		become_holder(o, pair[1]);
	(void)close(pair[1]);
	if (at->pid < 0) {
		int r = inlay_error_sys(err, -errno, "start a process");
		(void)close(pair[0]);
		free(at);
		return r;
	}
	l->list = at;
	o->door = at->door;
	return 0;
}

int lines_join_shared(struct lines *l, struct transport_options *const *o, size_t count,
		      struct inlay_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		bool shared = false;
		for (size_t k = 0; k < count && !shared; k++)
			shared = k != i && same(o[k]->host, o[i]->host) &&
				 same(o[k]->port, o[i]->port);
		if (shared)
			r = lines_join(l, o[i], err);
	}
	return r;
}

void lines_end(struct lines *l)
{
	for (struct line *at = l->list; at; at = at->next)
		(void)close(at->door);
	for (struct line *at = l->list, *next; at; at = next) {
		next = at->next;
		while (waitpid(at->pid, NULL, 0) < 0 && errno == EINTR)
			;
		free(at);
	}
	l->list = NULL;
}
