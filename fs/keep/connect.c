/* SPDX-License-Identifier: Apache-2.0 */
#include "keep/connect.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/io.h"
#include "inlay/keep.h"
#include "keep/host.h"

extern char **environ;

enum { START_PATIENCE_S = 60 };

int inlay_keep_default_state(struct inlay_buf *b, struct inlay_error *err)
{
	const char *state = getenv("INLAY_STATE"), *xdg = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");

	if (state && *state) {
		inlay_buf_printf(b, "%s/host", state);
	} else if (xdg && xdg[0] == '/') {
		inlay_buf_printf(b, "%s/inlay/host", xdg);
	} else {
		/* No look into the user database: a static program cannot load what that needs. */
		if (!home || home[0] != '/')
			return inlay_error_set(err, -ENOENT, "HOME is not set; give --state DIR");
		inlay_buf_printf(b, "%s/.local/state/inlay/host", home);
	}
	return inlay_buf_check(b, err);
}

/*
 * Starts a keeper that belongs to nobody: own session, no descriptor of ours but the log. Where systemd rules
 * it gets a scope of its own (systemd-run), since a login session may be ended with all its processes.
 */
static int spawn_keeper(const char *state, int state_fd, int ready_fd, bool scope,
			struct inlay_error *err)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n < 0)
		return inlay_error_sys(err, -errno, "find my own program");
	self[n] = 0;
	auto_close int log =
		openat(state_fd, "keeper.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (log < 0 || null < 0)
		return inlay_error_sys(err, -errno, "open keeper.log");
	pid_t pid = fork();
	if (pid < 0)
		return inlay_error_sys(err, -errno, "start the keeper");
	if (pid == 0) {
		/* The keeper is a grandchild, so that nobody has to wait for it. */
		if (setsid() < 0 || fork() != 0)
			_exit(0);
		int ready = fcntl(ready_fd, F_DUPFD_CLOEXEC, 16);
		(void)dup2(null, 0);
		(void)dup2(log, 1);
		(void)dup2(log, 2);
		(void)dup2(ready, 3);
		(void)close_range(4, ~0u, 0);
		(void)!chdir("/");
		const char *user = geteuid() ? "--user" : "--system";
		if (scope && access("/run/systemd/system", F_OK) == 0)
			(void)execlp("systemd-run", "systemd-run", user, "--scope", "--quiet",
				     "--collect", "--", self, "keep", "--state", state,
				     "--ready-fd", "3", NULL);
		(void)execl(self, self, "keep", "--state", state, "--ready-fd", "3", NULL);
		_exit(127);
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* Starts a keeper and waits until it is ready, or has ended because another one was faster. */
static int start_keeper(const char *state, int state_fd, bool scope, struct inlay_error *err)
{
	int ready[2];
	char byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	int r = spawn_keeper(state, state_fd, ready[1], scope, err);
	(void)close(ready[1]);
	struct pollfd p = {.fd = ready[0], .events = POLLIN};
	if (r == 0 && poll(&p, 1, 60000) <= 0)
		r = inlay_error_set(err, -ETIMEDOUT, "the keeper does not start; see %s/keeper.log",
				    state);
	if (r == 0)
		(void)!read(ready[0], &byte, 1);
	(void)close(ready[0]);
	return r;
}

/* Another keeper has the lock: it listens as soon as it has opened its store. */
static bool another_one_starts(int state_fd)
{
	auto_close int fd = openat(state_fd, KEEP_LOCK, O_RDONLY | O_CLOEXEC);

	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static int connect_keeper(const char *state, int state_fd, int *ret_fd, struct inlay_error *err)
{
	int64_t until = inlay_monotonic_ns() + START_PATIENCE_S * 1000000000ll;
	int r = INLAY_UNIX_NOBODY;

	for (int attempt = 0; attempt < 3 && r == INLAY_UNIX_NOBODY;) {
		r = inlay_unix_connect(state_fd, KEEP_SOCKET, SOCK_SEQPACKET, ret_fd, err);
		if (r != INLAY_UNIX_NOBODY)
			break;
		/* Several serves may come at once: one starts the keeper, the others wait for it. */
		if (another_one_starts(state_fd) && inlay_monotonic_ns() < until) {
			(void)poll(NULL, 0, 10);
			continue;
		}
		/* A systemd that does not answer must not keep the keeper from starting. */
		int started = start_keeper(state, state_fd, attempt++ == 0, err);
		if (started < 0)
			return started;
	}
	if (r == INLAY_UNIX_NOBODY)
		r = inlay_error_set(err, -ECHILD, "the keeper ended at once; see %s/keeper.log",
				    state);
	return r;
}

static int open_state(const char *state, int *ret_fd, struct inlay_error *err)
{
	struct stat st;
	int r = inlay_open_dir(AT_FDCWD, state, 0700, ret_fd, err);

	if (r < 0)
		return r;
	if (fstat(*ret_fd, &st) == 0 && st.st_uid != geteuid()) {
		inlay_cleanup_close(ret_fd);
		return inlay_error_set(err, -EPERM, "%s belongs to somebody else", state);
	}
	return 0;
}

static int hand_over(int fd, int rfd, int wfd, struct keep_reply *ret, struct inlay_error *err)
{
	struct keep_msg m = {.protocol = KEEP_PROTOCOL, .verb = KEEP_SESSION};
	int fds[2] = {rfd, wfd}, got[INLAY_UNIX_FDS];
	size_t n;

	(void)snprintf(m.version, sizeof m.version, "%s", keep_version);
	int r = inlay_unix_send(fd, &m, sizeof m, fds, 2, err);
	if (r == 0)
		r = inlay_unix_recv(fd, ret, sizeof *ret, &n, got, err);
	if (r == 0 && n != sizeof *ret)
		r = inlay_error_set(err, -ECONNRESET, "the keeper ended");
	return r;
}

/* Tells a keeper to end, and waits until it has. */
static int end_keeper(int state_fd, enum keep_verb verb, struct inlay_error *err)
{
	auto_close int fd = -1;
	struct keep_msg m = {.protocol = KEEP_PROTOCOL, .verb = verb};
	char byte;

	(void)snprintf(m.version, sizeof m.version, "%s", keep_version);
	int r = inlay_unix_connect(state_fd, KEEP_SOCKET, SOCK_SEQPACKET, &fd, err);
	if (r == INLAY_UNIX_NOBODY)
		return 0;
	if (r == 0)
		r = inlay_unix_send(fd, &m, sizeof m, NULL, 0, err);
	if (r < 0)
		return r;
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	return 0;
}

/* A keeper that is older than this program ends, and one of this program takes its place; the mounts go on. One that is
 * newer serves us as long as it speaks our protocol. */
static int reach_keeper(const char *state, int state_fd, int rfd, int wfd, int *ret_fd,
			struct inlay_error *err)
{
	struct keep_reply reply = {.result = -ESTALE};
	int r = 0;

	for (int attempt = 0; attempt < 3 && r == 0 && reply.result == -ESTALE; attempt++) {
		auto_close int fd = -1;
		r = attempt > 0 ? end_keeper(state_fd, KEEP_YIELD, err) : 0;
		if (r == 0)
			r = connect_keeper(state, state_fd, &fd, err);
		if (r == 0)
			r = hand_over(fd, rfd, wfd, &reply, err);
		if (r == 0 && reply.result == 0)
			*ret_fd = take_fd(fd);
	}
	if (r == 0 && reply.result < 0)
		r = inlay_error_set(err, reply.result,
				    "the keeper of %s is of another inlay (its protocol %u, ours "
				    "%d); use the newer one, or end it there with 'inlayd stop'",
				    state, reply.protocol, KEEP_PROTOCOL);
	return r;
}

int inlay_keep_connect(const char *state, int rfd, int wfd, struct inlay_error *err)
{
	auto_close int state_fd = -1;
	auto_close int fd = -1;
	char byte;
	int r = open_state(state, &state_fd, err);

	if (r == 0)
		r = reach_keeper(state, state_fd, rfd, wfd, &fd, err);
	if (r < 0)
		return r;
	/* Ours are not needed any more: the peer must see the end when the keeper closes its own. */
	(void)close(rfd);
	if (wfd != rfd)
		(void)close(wfd);
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	return 0;
}

int inlay_keep_stop(const char *state, struct inlay_error *err)
{
	auto_close int state_fd = -1;
	int r = open_state(state, &state_fd, err);

	return r == 0 ? end_keeper(state_fd, KEEP_STOP, err) : r;
}
