/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program and all that it starts. The supervisor is a subreaper, so that a program which forks away stays
 * below it, and the program gets SIGKILL when the supervisor dies, so that a new supervisor never starts a second
 * one beside it. One thread, one poll loop.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "inlay/io.h"
#include "inlay/run.h"
#include "run/contained.h"
#include "run/podman.h"
#include "run/supervisor_proto.h"

enum {
	CLIENTS_MAX = 16,
	PIPE_READ_BYTES = 64 << 10,
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 30000,
	GOOD_RUN_S = 10, /* a run of this length ends the backoff */
	DRAIN_ROUNDS = 64,
	CANNOT_START = 126, /* as shells have it */
};

extern char **environ;

struct client {
	int fd; /* -1 = free */
	uint32_t
		waits_for; /* RUN_STOP, RUN_RESTART, RUN_WATCH; 0 = for our reading of its packet */
};

struct supervisor {
	const char *workspace, *dir;
	struct contained box; /* what it runs in; without an id: in none */
	int dirfd, listen_fd, signal_fd;
	int out[2]; /* reading ends of standard output and error; -1 = closed */
	struct inlay_run_spec spec;
	struct inlay_runlog log;
	struct inlay_run_status status;
	int64_t started_ns, kill_ns, start_ns; /* monotonic; 0 = not planned */
	unsigned backoff_ms;
	bool restart, quit;
	struct client clients[CLIENTS_MAX];
};

/* ---- the program ---- */

static void enter(struct supervisor *s, uint32_t state)
{
	s->status.state = state;
	s->status.since_ns = inlay_now_ns();
}

/* In the child. What fails here is told on the program's standard error, which is the log. */
_Noreturn static void become(struct supervisor *s, int out, int errors, pid_t supervisor)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != supervisor)
		_exit(127);
	(void)setsid();
	(void)dup2(null, 0);
	(void)dup2(out, 1);
	(void)dup2(errors, 2);
	(void)close_range(3, ~0u, 0);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)signal(SIGHUP, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)setenv("INLAY_WORKSPACE", s->workspace, 1);
	(void)setenv("INLAY_PROGRAM", s->spec.name, 1);
	for (char **v = s->spec.env; *v; v++)
		(void)putenv(*v);
	if (chdir(s->workspace) < 0 || (*s->spec.dir && chdir(s->spec.dir) < 0)) {
		(void)dprintf(2, "cannot enter %s%s%s: %s\n", s->workspace,
			      *s->spec.dir ? ", then " : "", s->spec.dir, strerrordesc_np(errno));
		_exit(126);
	}
	(void)execvp(s->spec.argv[0], s->spec.argv);
	(void)dprintf(2, "cannot run %s: %s\n", s->spec.argv[0], strerrordesc_np(errno));
	_exit(127);
}

static int make_pipes(int out[2], int errors[2])
{
	if (pipe2(out, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(errors, O_CLOEXEC) < 0) {
		int r = -errno;
		(void)close(out[0]);
		(void)close(out[1]);
		return r;
	}
	(void)fcntl(out[0], F_SETFL, O_NONBLOCK);
	(void)fcntl(errors[0], F_SETFL, O_NONBLOCK);
	return 0;
}

static void plan_restart(struct supervisor *s)
{
	s->backoff_ms = s->backoff_ms ? s->backoff_ms * 2 : BACKOFF_MIN_MS;
	if (s->backoff_ms > BACKOFF_MAX_MS)
		s->backoff_ms = BACKOFF_MAX_MS;
	s->start_ns = inlay_monotonic_ns() + s->backoff_ms * 1000000ll;
	s->status.next_ns = inlay_now_ns() + s->backoff_ms * 1000000ll;
	enter(s, INLAY_RUN_WAITING);
}

/* What was written before the end is still in the pipes. */
static bool read_pipe(struct supervisor *s, int i)
{
	char buf[PIPE_READ_BYTES];
	ssize_t n = read(s->out[i], buf, sizeof buf);
	char stream = i ? 'e' : 'o';

	if (n > 0) {
		inlay_runlog_add(&s->log, stream, buf, (size_t)n);
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	inlay_cleanup_close(&s->out[i]);
	s->out[i] = -1;
	inlay_runlog_end(&s->log, stream);
	return false;
}

static void close_pipes(struct supervisor *s)
{
	for (int i = 0; i < 2; i++) {
		for (int round = 0; s->out[i] >= 0 && round < DRAIN_ROUNDS; round++)
			if (!read_pipe(s, i))
				break;
		inlay_cleanup_close(&s->out[i]);
		s->out[i] = -1;
		inlay_runlog_end(&s->log, i ? 'e' : 'o');
	}
}

static bool in_box(const struct supervisor *s)
{
	return s->box.id[0];
}

/* It is not running: is it started again? */
static void comes_next(struct supervisor *s, bool good)
{
	if (s->spec.restart == INLAY_RUN_ALWAYS ||
	    (s->spec.restart == INLAY_RUN_ON_FAILURE && !good))
		plan_restart(s);
	else
		enter(s, INLAY_RUN_ENDED);
}

/* The workspace may have got another root, or none, since the last time. */
static int open_box(struct supervisor *s, struct inlay_error *err)
{
	auto_free char *ws_dir = strdup(s->dir);

	contained_fini(&s->box);
	s->box = (struct contained){0};
	if (!ws_dir)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	/* <ws dir>/run/<name> */
	for (int i = 0; i < 2; i++) {
		char *slash = strrchr(ws_dir, '/');
		if (slash)
			*slash = 0;
	}
	int r = contained_open(ws_dir, s->spec.name, &s->box, err);
	return r == INLAY_CONTAINER_NONE ? 0 : r;
}

static int start_in_box(struct supervisor *s, int out, int errors, pid_t *ret,
			struct inlay_error *err)
{
	auto_buf struct inlay_buf workspace = {0}, program = {0};
	const int fds[] = {-1, out, errors};

	/* Of a supervisor that was killed; what ran in it is dead, but its name is taken. */
	if (contained_runs(&s->box))
		contained_delete(&s->box);
	inlay_buf_printf(&workspace, "INLAY_WORKSPACE=%s", s->workspace);
	inlay_buf_printf(&program, "INLAY_PROGRAM=%s", s->spec.name);
	char *own[] = {(char *)inlay_buf_cstr(&workspace), (char *)inlay_buf_cstr(&program), NULL};
	struct oci_process p = {.workspace = s->workspace,
				.dir = s->spec.dir,
				.argv = s->spec.argv,
				.devices = s->spec.devices,
				.own = own,
				.env = s->spec.env};
	int r = contained_bundle(&s->box, &p, s->dirfd, err);
	if (r == 0 && *s->box.podman)
		return podman_start(&s->box, &p, s->dir, fds, ret, err);
	return r < 0 ? r : contained_start(&s->box, s->dirfd, s->dir, fds, ret, err);
}

static int start_outside(struct supervisor *s, int out, int errors, pid_t *ret,
			 struct inlay_error *err)
{
	pid_t self = getpid();

	*ret = fork();
	if (*ret == 0)
		become(s, out, errors, self);
	return *ret < 0 ? inlay_error_sys(err, -errno, "start a process") : 0;
}

static void start(struct supervisor *s)
{
	struct inlay_error err = {0};
	int out[2], errors[2];
	pid_t pid;

	s->start_ns = s->status.next_ns = 0;
	int r = make_pipes(out, errors);
	if (r < 0) {
		inlay_runlog_note(&s->log, "cannot start: %s", strerrordesc_np(-r));
		plan_restart(s);
		return;
	}
	s->out[0] = out[0];
	s->out[1] = errors[0];
	r = inlay_run_check_devices(&s->spec, &err);
	if (r == 0)
		r = open_box(s, &err);
	if (r == 0)
		r = in_box(s) ? start_in_box(s, out[1], errors[1], &pid, &err)
			      : start_outside(s, out[1], errors[1], &pid, &err);
	(void)close(out[1]);
	(void)close(errors[1]);
	if (r < 0) {
		close_pipes(s);
		inlay_runlog_note(&s->log, "cannot start: %s", err.text);
		s->status.starts++;
		s->status.ended = CANNOT_START << 8;
		comes_next(s, false);
		return;
	}
	s->status.pid = pid;
	s->status.starts++;
	s->started_ns = inlay_monotonic_ns();
	enter(s, INLAY_RUN_RUNNING);
	inlay_runlog_note(&s->log, "started %s, pid %d", s->spec.argv[0], (int)pid);
}

/* Everything that is left of it: descendants that went away from its group are our children now. */
static bool kill_children(void)
{
	char path[64], text[4096];
	size_t n = 0;
	bool any = false;

	(void)snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || inlay_read_full(fd, text, sizeof text - 1, &n, path, NULL) < 0)
		return false;
	text[n] = 0;
	for (char *at = text, *end; *at; at = end) {
		long pid = strtol(at, &end, 10);
		if (end == at)
			break;
		any = true;
		(void)kill((pid_t)pid, SIGKILL);
	}
	return any;
}

static void delete_box(const struct supervisor *s)
{
	if (*s->box.podman)
		podman_delete(&s->box);
	else
		contained_delete(&s->box);
}

/* To the program and its group. */
static int send_signal(struct supervisor *s, int number)
{
	pid_t first = *s->box.podman ? contained_pid(s->dirfd) : s->status.pid;

	if (in_box(s))
		return first > 0 ? contained_signal(first, number) : -ESRCH;
	return kill(-s->status.pid, number) < 0 ? -errno : 0;
}

static void begin_stop(struct supervisor *s)
{
	if (s->status.state == INLAY_RUN_RUNNING) {
		enter(s, INLAY_RUN_STOPPING);
		(void)send_signal(s, s->spec.stop_signal);
		s->kill_ns = inlay_monotonic_ns() + s->spec.stop_timeout_ns;
	} else if (s->status.state != INLAY_RUN_STOPPING) {
		s->start_ns = 0;
		enter(s, INLAY_RUN_STOPPED);
	}
}

static void note_end(struct supervisor *s, int status)
{
	if (WIFSIGNALED(status))
		inlay_runlog_note(&s->log, "ended by SIG%s", sigabbrev_np(WTERMSIG(status)));
	else
		inlay_runlog_note(&s->log, "ended with %d", WEXITSTATUS(status));
}

/* The program itself ended: its group goes with it, then what comes next. */
static void program_ended(struct supervisor *s, int status)
{
	bool stopping = s->status.state == INLAY_RUN_STOPPING;
	bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;

	contained_release(&s->box);
	if (in_box(s))
		delete_box(s);
	else
		(void)kill(-s->status.pid, SIGKILL);
	while (kill_children())
		(void)waitpid(-1, NULL, 0);
	close_pipes(s);
	note_end(s, status);
	s->status.ended = status;
	s->status.pid = 0;
	s->kill_ns = 0;
	if (inlay_monotonic_ns() - s->started_ns > GOOD_RUN_S * 1000000000ll)
		s->backoff_ms = 0;
	if (stopping)
		enter(s, INLAY_RUN_STOPPED);
	else
		comes_next(s, good);
}

static void reap(struct supervisor *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == s->status.pid)
			program_ended(s, status);
}

/* ---- who asks ---- */

static void drop_client(struct client *c)
{
	inlay_cleanup_close(&c->fd);
	*c = (struct client){.fd = -1};
}

static void reply(struct supervisor *s, struct client *c, int result)
{
	struct run_msg m = {.protocol = RUN_PROTOCOL, .result = result, .status = s->status};

	/* Somebody who does not read his answer gets none. */
	(void)send(c->fd, &m, sizeof m, MSG_DONTWAIT | MSG_NOSIGNAL);
	drop_client(c);
}

static void accept_client(struct supervisor *s)
{
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (size_t i = 0; fd >= 0 && i < CLIENTS_MAX; i++) {
		if (s->clients[i].fd >= 0)
			continue;
		s->clients[i] = (struct client){.fd = fd};
		return;
	}
	inlay_cleanup_close(&fd);
}

static void hear(struct supervisor *s, struct client *c)
{
	struct run_msg m;
	ssize_t n = recv(c->fd, &m, sizeof m, MSG_DONTWAIT);

	if (n != (ssize_t)sizeof m || m.protocol != RUN_PROTOCOL || c->waits_for) {
		drop_client(c);
		return;
	}
	switch (m.verb) {
	case RUN_STATUS:
		reply(s, c, 0);
		break;
	case RUN_SIGNAL:
		reply(s, c,
		      s->status.pid <= 0 || m.arg <= 0 || m.arg >= NSIG ? -ESRCH
									: send_signal(s, m.arg));
		break;
	case RUN_RESTART:
	case RUN_STOP:
		c->waits_for = m.verb;
		s->quit |= m.verb == RUN_STOP;
		s->restart |= m.verb == RUN_RESTART;
		begin_stop(s);
		break;
	case RUN_WATCH:
		c->waits_for = RUN_WATCH;
		break;
	default:
		reply(s, c, -EOPNOTSUPP);
	}
}

static void answer_waiting(struct supervisor *s, uint32_t verb)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (s->clients[i].fd >= 0 && s->clients[i].waits_for == verb)
			reply(s, &s->clients[i], 0);
}

/* ---- the loop ---- */

static void on_time(struct supervisor *s)
{
	int64_t now = inlay_monotonic_ns();

	if (s->kill_ns && now >= s->kill_ns) {
		s->kill_ns = 0;
		inlay_runlog_note(&s->log, "did not end in time: killed");
		if (!in_box(s))
			(void)kill(-s->status.pid, SIGKILL);
		/* What podman started ends with that, and podman with it. */
		if (*s->box.podman)
			delete_box(s);
		else
			(void)kill(s->status.pid, SIGKILL);
	}
	if (s->restart && s->status.state == INLAY_RUN_STOPPED && !s->quit) {
		s->restart = false;
		s->backoff_ms = 0;
		start(s);
		answer_waiting(s, RUN_RESTART);
	}
	if (s->start_ns && now >= s->start_ns)
		start(s);
}

static int patience_ms(const struct supervisor *s)
{
	int64_t next =
		s->kill_ns && (!s->start_ns || s->kill_ns < s->start_ns) ? s->kill_ns : s->start_ns;
	int64_t left = next - inlay_monotonic_ns();

	if (!next)
		return -1;
	return left <= 0 ? 0 : (int)(left / 1000000 + 1);
}

static void run_once(struct supervisor *s)
{
	struct pollfd fds[4 + CLIENTS_MAX] = {{.fd = s->listen_fd, .events = POLLIN},
					      {.fd = s->signal_fd, .events = POLLIN},
					      {.fd = s->out[0], .events = POLLIN},
					      {.fd = s->out[1], .events = POLLIN}};

	for (size_t i = 0; i < CLIENTS_MAX; i++)
		fds[4 + i] = (struct pollfd){.fd = s->clients[i].fd, .events = POLLIN};
	if (poll(fds, 4 + CLIENTS_MAX, patience_ms(s)) < 0)
		return;
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (fds[4 + i].revents)
			hear(s, &s->clients[i]);
	for (int i = 0; i < 2; i++)
		if (fds[2 + i].revents)
			(void)read_pipe(s, i);
	if (fds[1].revents) {
		struct signalfd_siginfo si;
		if (read(s->signal_fd, &si, sizeof si) == sizeof si && si.ssi_signo != SIGCHLD) {
			s->quit = true;
			begin_stop(s);
		}
		reap(s);
	}
	if (fds[0].revents)
		accept_client(s);
}

static int open_spec(struct supervisor *s, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(s->dirfd, "spec", INLAY_RUN_SPEC_MAX, &b, err);

	if (r == INLAY_IO_MISSING)
		return inlay_error_set(err, -ENOENT, "there is no spec");
	return r < 0 ? r : inlay_run_spec_decode(b.data, b.len, &s->spec, err);
}

static int open_signals(int *ret, struct inlay_error *err)
{
	static const int heard[] = {SIGTERM, SIGINT, SIGCHLD, 0};

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	return inlay_signal_fd(heard, ret, err);
}

int inlay_supervise(const struct inlay_supervise_options *o, struct inlay_error *err)
{
	struct supervisor s = {.workspace = o->workspace,
			       .dir = o->dir,
			       .listen_fd = -1,
			       .signal_fd = -1,
			       .out = {-1, -1},
			       .status = {.ended = -1}};

	for (size_t i = 0; i < CLIENTS_MAX; i++)
		s.clients[i].fd = -1;
	int r = inlay_open_dir(AT_FDCWD, o->dir, 0700, &s.dirfd, err);
	if (r == 0)
		r = open_spec(&s, err);
	if (r == 0)
		r = open_signals(&s.signal_fd, err);
	if (r == 0)
		r = inlay_runlog_open(s.dirfd, &s.log, err);
	if (r == 0)
		r = inlay_unix_listen(s.dirfd, RUN_SOCKET, SOCK_SEQPACKET, &s.listen_fd, err);
	if (r < 0)
		return r;
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	(void)snprintf(s.status.name, sizeof s.status.name, "%s", s.spec.name);
	start(&s);
	if (o->ready_fd >= 0) {
		(void)!write(o->ready_fd, "r", 1);
		(void)close(o->ready_fd);
	}
	while (!(s.quit && s.status.state == INLAY_RUN_STOPPED)) {
		run_once(&s);
		on_time(&s);
	}
	(void)unlinkat(s.dirfd, RUN_SOCKET, 0);
	answer_waiting(&s, RUN_STOP);
	answer_waiting(&s, RUN_RESTART);
	inlay_runlog_close(&s.log);
	inlay_run_spec_fini(&s.spec);
	contained_fini(&s.box);
	return 0;
}
