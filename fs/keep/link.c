/* SPDX-License-Identifier: Apache-2.0 */
#include "keep/link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/mount.h"

struct link {
	pthread_mutex_t ask;  /* one question at a time */
	pthread_mutex_t lock; /* everything below */
	pthread_cond_t answered;
	int fd;
	pthread_t thread;
	struct link_events events;
	bool ended, closing;
	uint64_t seq; /* of the question that is open; 0 = none */
	uint64_t last_seq;
	struct worker_msg answer;
	int answer_fd;
	bool has_answer;
};

static void close_fds(int fds[static INLAY_UNIX_FDS])
{
	for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
		inlay_cleanup_close(&fds[i]);
}

/* One packet. False at the end of the connection, or when it is not one of ours. */
static bool receive(int fd, struct worker_msg *m, int *ret_fd)
{
	int fds[INLAY_UNIX_FDS];
	size_t n;

	if (inlay_unix_recv(fd, m, sizeof *m, &n, fds, NULL) < 0)
		return false;
	*ret_fd = take_fd(fds[0]);
	close_fds(fds);
	if (n == sizeof *m && m->version == WORKER_VERSION)
		return true;
	inlay_cleanup_close(ret_fd);
	return false;
}

static void deliver(struct link *l, const struct worker_msg *m, int fd)
{
	scope_lock(&l->lock);
	if (l->seq == 0 || m->seq != l->seq) {
		inlay_cleanup_close(&fd); /* its question timed out */
		return;
	}
	l->answer = *m;
	l->answer_fd = fd;
	l->has_answer = true;
	(void)pthread_cond_broadcast(&l->answered);
}

static void *read_loop(void *arg)
{
	struct link *l = arg;
	struct worker_msg m;
	int fd = -1;

	while (receive(l->fd, &m, &fd)) {
		if (m.type == WORKER_DAMAGED) {
			inlay_cleanup_close(&fd);
			l->events.damaged(l->events.ctx, &m.id);
		} else if (m.type == WORKER_REPLAYED) {
			inlay_cleanup_close(&fd);
			l->events.replayed(l->events.ctx, m.count);
		} else {
			deliver(l, &m, fd);
		}
	}
	bool closing;
	{
		scope_lock(&l->lock);
		l->ended = true;
		closing = l->closing;
		(void)pthread_cond_broadcast(&l->answered);
	}
	if (!closing)
		l->events.ended(l->events.ctx);
	return NULL;
}

int link_open(int dirfd, const struct link_events *events, struct link **ret,
	      struct worker_msg *ret_hello, int *ret_fuse_fd, struct inlay_error *err)
{
	auto_close int fd = -1;
	auto_close int fuse_fd = -1;
	struct worker_msg hello;
	int r = inlay_unix_connect(dirfd, INLAY_MOUNT_SOCKET, SOCK_SEQPACKET, &fd, err);

	if (r == INLAY_UNIX_NOBODY)
		return LINK_NOBODY;
	if (r < 0)
		return r;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, 10000) != 1)
		return inlay_error_set(err, -ETIMEDOUT, "the worker does not answer");
	if (!receive(fd, &hello, &fuse_fd) || hello.type != WORKER_HELLO || fuse_fd < 0)
		return inlay_error_set(err, -EPROTONOSUPPORT, "a worker of another version");
	struct link *l = calloc(1, sizeof *l);
	if (!l)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)pthread_mutex_init(&l->ask, NULL);
	(void)pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_t attr;
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&l->answered, &attr);
	(void)pthread_condattr_destroy(&attr);
	l->events = *events;
	l->fd = fd;
	l->answer_fd = -1;
	r = pthread_create(&l->thread, NULL, read_loop, l);
	if (r != 0) {
		free(l);
		return inlay_error_sys(err, -r, "start a thread");
	}
	(void)take_fd(fd);
	*ret = l;
	*ret_hello = hello;
	*ret_fuse_fd = take_fd(fuse_fd);
	return 0;
}

void link_close(struct link *l)
{
	if (!l)
		return;
	{
		scope_lock(&l->lock);
		l->closing = true;
	}
	(void)shutdown(l->fd, SHUT_RDWR);
	(void)pthread_join(l->thread, NULL);
	inlay_cleanup_close(&l->fd);
	inlay_cleanup_close(&l->answer_fd);
	(void)pthread_cond_destroy(&l->answered);
	(void)pthread_mutex_destroy(&l->lock);
	(void)pthread_mutex_destroy(&l->ask);
	free(l);
}

static int send_with(struct link *l, struct worker_msg *m, int fd, struct inlay_error *err)
{
	m->version = WORKER_VERSION;
	return inlay_unix_send(l->fd, m, sizeof *m, &fd, fd >= 0, err);
}

int link_tell(struct link *l, struct worker_msg *m, struct inlay_error *err)
{
	return send_with(l, m, -1, err);
}

static int wait_answer(struct link *l, struct worker_msg *m, int *ret_fd, int64_t timeout_ns,
		       struct inlay_error *err)
{
	int64_t until = inlay_monotonic_ns() + timeout_ns;
	struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
	int r = 0;

	scope_lock(&l->lock);
	while (!l->has_answer && !l->ended && r == 0)
		r = pthread_cond_timedwait(&l->answered, &l->lock, &ts);
	l->seq = 0;
	if (!l->has_answer)
		return l->ended ? inlay_error_set(err, -ENOTCONN, "the mount's worker ended")
				: inlay_error_set(err, -ETIMEDOUT,
						  "the mount's worker did not answer in time");
	*m = l->answer;
	*ret_fd = take_fd(l->answer_fd);
	return 0;
}

int link_ask_with(struct link *l, struct worker_msg *m, int with, int *ret_fd, int64_t timeout_ns,
		  struct inlay_error *err)
{
	auto_close int fd = -1;

	scope_lock(&l->ask);
	{
		scope_lock(&l->lock);
		if (l->ended)
			return inlay_error_set(err, -ENOTCONN, "the mount's worker ended");
		m->seq = l->seq = ++l->last_seq;
		l->has_answer = false;
		inlay_cleanup_close(&l->answer_fd);
		l->answer_fd = -1;
	}
	int r = send_with(l, m, with, err);
	if (r == 0)
		r = wait_answer(l, m, &fd, timeout_ns, err);
	if (r == 0 && m->result < 0) {
		m->text[sizeof m->text - 1] = 0;
		return inlay_error_set(err, m->result, "the mount's worker: %s", m->text);
	}
	if (r == 0 && ret_fd)
		*ret_fd = take_fd(fd);
	return r;
}
