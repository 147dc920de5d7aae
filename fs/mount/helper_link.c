/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's end of the replay helper: its process and what is said to it.
 */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "mount/replay.h"

static const int64_t helper_timeout_ns = 10ll * 1000000000;

extern char **environ;

void replay_end_helper(struct replay *p)
{
	/* First nobody is trusted any more, then the id may be given away. */
	__atomic_store_n(&p->helper, 0, __ATOMIC_SEQ_CST);
	inlay_cleanup_close(&p->sock);
	p->sock = -1;
	if (p->child <= 0)
		return;
	(void)kill(p->child, SIGKILL);
	while (waitpid(p->child, NULL, 0) < 0 && errno == EINTR)
		;
	p->child = 0;
}

int replay_start_helper(struct replay *p, struct inlay_error *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	char name[] = "inlayd", verb[] = "replay", opt[] = "--point";
	auto_free char *point = strdup(p->point ? p->point : "");
	int pair[2];
	sigset_t none;

	if (p->sock >= 0)
		return 0;
	if (!p->point)
		return inlay_error_set(err, -ENOTSUP, "no mount point was given");
	if (!point)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return inlay_error_sys(err, -errno, "make a socket");
	char *argv[] = {name, verb, opt, point, NULL};
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	/* Takes the place of the /dev/fuse descriptor, which the helper must not have. */
	(void)posix_spawn_file_actions_adddup2(&actions, pair[1], HELPER_FD);
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	int r = posix_spawn(&p->child, "/proc/self/exe", &actions, &attr, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	(void)close(pair[1]);
	if (r != 0) {
		p->child = 0;
		(void)close(pair[0]);
		return inlay_error_sys(err, -r, "start the replay helper");
	}
	p->sock = pair[0];
	struct timeval limit = {.tv_sec = helper_timeout_ns / 1000000000};
	(void)setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	(void)setsockopt(p->sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	return 0;
}

int replay_say(struct replay *p, enum helper_verb verb, int64_t mtime_ns, const char *text,
	       size_t len)
{
	struct helper_msg m;

	m.verb = verb;
	m.result = 0;
	m.mtime_ns = mtime_ns;
	m.count = m.took_ns = 0;
	if (len > sizeof m.text)
		return -E2BIG;
	memcpy(m.text, text, len);
	return inlay_unix_send(p->sock, &m, HELPER_HEAD + len, NULL, 0, NULL);
}

int replay_say_text(struct replay *p, enum helper_verb verb, const char *text)
{
	return replay_say(p, verb, 0, text, strlen(text));
}

/* A new random name for each time that the helper opens the mount. */
int replay_say_open(struct replay *p)
{
	uint8_t bytes[HELPER_TOKEN_HEX / 2];
	char token[HELPER_TOKEN_HEX];

	if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
		return -EIO;
	for (size_t i = 0; i < sizeof bytes; i++)
		(void)snprintf(token + 2 * i, 3, "%02x", bytes[i]);
	{
		scope_lock(&p->greeting);
		memcpy(p->token, token, sizeof token);
	}
	return replay_say_text(p, HELPER_OPEN, token);
}

/* Waits for the end of what was said. *ret_fd: what came along. */
int replay_wait_done(struct replay *p, struct helper_msg *ret, int *ret_fd)
{
	int fds[INLAY_UNIX_FDS];
	size_t n = 0;

	int r = replay_say_text(p, HELPER_END, "");
	if (r == 0)
		r = inlay_unix_recv(p->sock, ret, sizeof *ret, &n, fds, NULL);
	if (r < 0)
		return r;
	*ret_fd = take_fd(fds[0]);
	for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
		inlay_cleanup_close(&fds[i]);
	if (n < HELPER_HEAD || ret->verb != HELPER_DONE)
		return -EPIPE;
	return ret->result;
}
