/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs of workspaces: each has a supervisor (fs/run) that outlives this keeper. What is wanted stands in its
 * spec; the keeper starts the supervisors that are missing, also after a reboot, and asks them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "inlay/io.h"
#include "keep/host.h"
#include "run/supervisor_proto.h"

enum {
	READY_MS = 20000,
	ANSWER_MS = 10000, /* beyond the program's own time to stop */
	QUICK_DEATH_S = 2,
	QUICK_DEATHS_MAX = 5,
};

/* The end of a supervisor, as a connection that ends. */
struct watch {
	LIST_ENTRY(watch) in; /* host's watches */
	int fd;
	char id[17]; /* of the workspace */
	char name[INLAY_RUN_NAME_MAX + 1];
	int64_t since_ns;
};

/* ---- places ---- */

static int open_program(struct inlay_workspace *ws, const char *name, bool create, int *ret_fd,
			struct inlay_error *err)
{
	char path[8 + INLAY_RUN_NAME_MAX];

	if (!inlay_run_name_valid(name, strlen(name)))
		return inlay_error_set(err, -EINVAL,
				       "a program's name has 1 to %d letters, digits and ._-",
				       INLAY_RUN_NAME_MAX);
	(void)snprintf(path, sizeof path, "run/%s", name);
	if (create)
		return inlay_open_dir(ws->dir_fd, path, 0700, ret_fd, err);
	*ret_fd = openat(ws->dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (*ret_fd >= 0)
		return 0;
	return errno == ENOENT ? inlay_error_set(err, -ENOENT, "%s runs no program '%s'",
						 ws->state.path, name)
			       : inlay_error_sys(err, -errno, "open %s", path);
}

static int read_spec(int dirfd, struct inlay_run_spec *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(dirfd, "spec", INLAY_RUN_SPEC_MAX, &b, err);

	if (r == INLAY_IO_MISSING)
		return inlay_error_set(err, -ENOENT, "there is no description of the program");
	return r < 0 ? r : inlay_run_spec_decode(b.data, b.len, ret, err);
}

static int write_spec(int dirfd, const struct inlay_run_spec *spec, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	inlay_run_spec_encode(spec, &b);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r
		     : inlay_replace_file(dirfd, "spec", b.data, b.len, 0600, INLAY_REPLACE_DURABLE,
					  err);
}

/* ---- asking a supervisor ---- */

enum { NOBODY = 1 };

static int ask(int dirfd, struct run_msg *m, int timeout_ms, struct inlay_error *err)
{
	auto_close int fd = -1;
	int r = inlay_unix_connect(dirfd, RUN_SOCKET, SOCK_SEQPACKET, &fd, err);

	if (r == INLAY_UNIX_NOBODY)
		return NOBODY;
	m->protocol = RUN_PROTOCOL;
	if (r == 0)
		r = inlay_unix_send(fd, m, sizeof *m, NULL, 0, err);
	if (r < 0)
		return r;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, timeout_ms) <= 0)
		return inlay_error_set(err, -ETIMEDOUT, "the program's supervisor does not answer");
	ssize_t n = recv(fd, m, sizeof *m, 0);
	if (n == 0)
		return NOBODY;
	if (n != (ssize_t)sizeof *m || m->protocol != RUN_PROTOCOL)
		return inlay_error_set(err, -EPROTONOSUPPORT, "a supervisor of another version");
	return m->result < 0 ? inlay_error_sys(err, m->result, "the program's supervisor") : 0;
}

static int answer_time_ms(const struct inlay_run_spec *spec)
{
	return (int)(spec->stop_timeout_ns / 1000000) + ANSWER_MS;
}

/* ---- starting supervisors ---- */

static int spawn_supervisor(struct inlay_workspace *ws, const char *name, int ready_fd,
			    struct inlay_error *err)
{
	char dir[INLAY_HOST_PATH_MAX + 128], self[] = "inlayd", verb[] = "supervise",
					     dir_opt[] = "--dir", ready_opt[] = "--ready-fd",
					     ready[] = "3", ws_opt[] = "--workspace";
	pid_t pid;

	(void)snprintf(dir, sizeof dir, "%s/ws/%s/run/%s", ws->host->state_path, ws->state.id,
		       name);
	char *argv[] = {self, verb, dir_opt, dir, ws_opt, ws->state.path, ready_opt, ready, NULL};
	return host_spawn(ws->host, "the program's supervisor", argv, &ready_fd, 1, &pid, err);
}

/* From now on its end wakes the main thread. */
static int watch_supervisor(struct inlay_workspace *ws, int dirfd, const char *name,
			    struct inlay_error *err)
{
	struct run_msg m = {.protocol = RUN_PROTOCOL, .verb = RUN_WATCH};
	auto_free struct watch *w = calloc(1, sizeof *w);
	auto_close int fd = -1;
	int r = inlay_unix_connect(dirfd, RUN_SOCKET, SOCK_SEQPACKET, &fd, err);

	if (r == INLAY_UNIX_NOBODY)
		return NOBODY;
	if (r == 0)
		r = inlay_unix_send(fd, &m, sizeof m, NULL, 0, err);
	if (r < 0)
		return r;
	if (!w)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*w = (struct watch){.fd = fd, .since_ns = inlay_monotonic_ns()};
	(void)snprintf(w->id, sizeof w->id, "%s", ws->state.id);
	(void)snprintf(w->name, sizeof w->name, "%s", name);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = w};
	/* Under the lock, since its end may be heard at once. */
	scope_lock(&ws->host->lock);
	if (epoll_ctl(ws->host->programs_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return inlay_error_sys(err, -errno, "watch the program's supervisor");
	(void)take_fd(fd);
	struct watch *kept = take_ptr(w);
	LIST_INSERT_HEAD(&ws->host->watches, kept, in);
	return 0;
}

static int start_supervisor(struct inlay_workspace *ws, int dirfd, const char *name,
			    struct inlay_error *err)
{
	int ready[2];
	char byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	int r = spawn_supervisor(ws, name, ready[1], err);
	(void)close(ready[1]);
	struct pollfd p = {.fd = ready[0], .events = POLLIN};
	if (r == 0 && (poll(&p, 1, READY_MS) <= 0 || read(ready[0], &byte, 1) != 1))
		r = inlay_error_set(err, -ECHILD,
				    "the program's supervisor does not start; keeper.log says why");
	(void)close(ready[0]);
	if (r == 0)
		r = watch_supervisor(ws, dirfd, name, err);
	if (r == NOBODY)
		r = inlay_error_set(err, -ECHILD, "the program's supervisor ended at once");
	return r;
}

/* Ends a supervisor with its program, if there is one. */
static int stop_supervisor(int dirfd, struct inlay_error *err)
{
	struct run_msg m = {.verb = RUN_STOP};
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	int r = read_spec(dirfd, &spec, err);

	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = ask(dirfd, &m, answer_time_ms(&spec), err);
	return r == NOBODY ? 0 : r;
}

/* ---- for sessions ---- */

/* It runs, and from this very spec. */
static bool runs_already(int dirfd, const void *bytes, size_t len)
{
	auto_buf struct inlay_buf b = {0};
	struct run_msg m = {.verb = RUN_STATUS};

	return inlay_read_file(dirfd, "spec", INLAY_RUN_SPEC_MAX, &b, NULL) == 0 && b.len == len &&
	       memcmp(b.data, bytes, len) == 0 && ask(dirfd, &m, ANSWER_MS, NULL) == 0 &&
	       m.status.state == INLAY_RUN_RUNNING;
}

int inlay_workspace_run(struct inlay_workspace *ws, const void *bytes, size_t len, bool keep,
			bool *ret_kept, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	auto_close int dirfd = -1;
	int r = inlay_run_spec_decode(bytes, len, &spec, err);

	if (r == 0)
		r = inlay_run_check_devices(&spec, err);
	if (r < 0)
		return r;
	scope_lock(&ws->programs);
	r = open_program(ws, spec.name, true, &dirfd, err);
	*ret_kept = r == 0 && keep && runs_already(dirfd, bytes, len);
	if (*ret_kept)
		return 0;
	if (r == 0)
		r = stop_supervisor(dirfd, err);
	spec.wanted = true;
	if (r == 0)
		r = write_spec(dirfd, &spec, err);
	if (r == 0)
		r = start_supervisor(ws, dirfd, spec.name, err);
	return r;
}

static int set_wanted(int dirfd, bool wanted, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	int r = read_spec(dirfd, &spec, err);

	if (r < 0 || spec.wanted == wanted)
		return r;
	spec.wanted = wanted;
	return write_spec(dirfd, &spec, err);
}

static int fill_status(int dirfd, const char *name, struct inlay_run_status *ret,
		       struct inlay_error *err)
{
	struct run_msg m = {.verb = RUN_STATUS};
	int r = ask(dirfd, &m, ANSWER_MS, err);

	if (r < 0)
		return r;
	*ret = r == 0 ? m.status : (struct inlay_run_status){.ended = -1};
	(void)snprintf(ret->name, sizeof ret->name, "%s", name);
	return 0;
}

static int restart(struct inlay_workspace *ws, int dirfd, const char *name, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	struct run_msg m = {.verb = RUN_RESTART};
	int r = set_wanted(dirfd, true, err);

	if (r == 0)
		r = read_spec(dirfd, &spec, err);
	if (r == 0)
		r = ask(dirfd, &m, answer_time_ms(&spec), err);
	return r == NOBODY ? start_supervisor(ws, dirfd, name, err) : r;
}

static int forget(struct inlay_workspace *ws, int dirfd, const char *name, struct inlay_error *err)
{
	char path[8 + INLAY_RUN_NAME_MAX];
	int r = stop_supervisor(dirfd, err);

	(void)snprintf(path, sizeof path, "run/%s", name);
	return r < 0 ? r : inlay_remove_tree(ws->dir_fd, path, err);
}

int inlay_workspace_program(struct inlay_workspace *ws, const char *name,
			    enum inlay_program_verb verb, int arg, struct inlay_run_status *ret,
			    struct inlay_error *err)
{
	struct run_msg m = {.verb = RUN_SIGNAL, .arg = arg};
	auto_close int dirfd = -1;

	scope_lock(&ws->programs);
	int r = open_program(ws, name, false, &dirfd, err);
	if (r < 0)
		return r;
	switch (verb) {
	case INLAY_PROGRAM_RESTART:
		r = restart(ws, dirfd, name, err);
		break;
	case INLAY_PROGRAM_STOP:
		r = set_wanted(dirfd, false, err);
		if (r == 0)
			r = stop_supervisor(dirfd, err);
		break;
	case INLAY_PROGRAM_SIGNAL:
		r = ask(dirfd, &m, ANSWER_MS, err);
		if (r == NOBODY || r == -ESRCH)
			r = inlay_error_set(err, -ESRCH, "'%s' does not run", name);
		break;
	case INLAY_PROGRAM_FORGET:
		r = forget(ws, dirfd, name, err);
		if (r == 0) {
			*ret = (struct inlay_run_status){.ended = -1};
			(void)snprintf(ret->name, sizeof ret->name, "%s", name);
		}
		return r;
	}
	return r < 0 ? r : fill_status(dirfd, name, ret, err);
}

/* Calls fn for each program's directory, whatever became of the others. */
static int each_program(struct inlay_workspace *ws,
			int (*fn)(void *ctx, int dirfd, const char *name, struct inlay_error *err),
			void *ctx, struct inlay_error *err)
{
	int fd = openat(ws->dir_fd, "run", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct dirent *d;
	int r = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : inlay_error_sys(err, -errno, "list programs");
	DIR *dir = fdopendir(fd);
	if (!dir) {
		(void)close(fd);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	while (r == 0 && (d = readdir(dir))) {
		auto_close int one = -1;
		if (!inlay_run_name_valid(d->d_name, strlen(d->d_name)) ||
		    open_program(ws, d->d_name, false, &one, NULL) < 0)
			continue;
		r = fn(ctx, one, d->d_name, err);
	}
	(void)closedir(dir);
	return r;
}

struct list {
	int (*fn)(void *ctx, const struct inlay_run_status *status, struct inlay_error *err);
	void *ctx;
};

static int list_one(void *ctx, int dirfd, const char *name, struct inlay_error *err)
{
	const struct list *l = ctx;
	struct inlay_run_status status;
	int r = fill_status(dirfd, name, &status, err);

	return r < 0 ? r : l->fn(l->ctx, &status, err);
}

int inlay_workspace_programs(struct inlay_workspace *ws,
			     int (*fn)(void *ctx, const struct inlay_run_status *status,
				       struct inlay_error *err),
			     void *ctx, struct inlay_error *err)
{
	struct list l = {fn, ctx};

	return each_program(ws, list_one, &l, err);
}

int inlay_workspace_program_log(struct inlay_workspace *ws, const char *name, uint64_t lines,
				struct inlay_runlog_reader *ret, struct inlay_error *err)
{
	auto_close int dirfd = -1;
	int r = open_program(ws, name, false, &dirfd, err);

	return r < 0 ? r : inlay_runlog_reader_open(dirfd, lines, ret, err);
}

/* ---- for the keeper ---- */

static int start_missing(void *ctx, int dirfd, const char *name, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	struct inlay_workspace *ws = ctx;
	struct inlay_error one = {0};
	int r = read_spec(dirfd, &spec, &one);

	(void)err;
	if (r == 0 && !spec.wanted)
		return 0;
	if (r == 0)
		r = watch_supervisor(ws, dirfd, name, &one);
	if (r == NOBODY)
		r = start_supervisor(ws, dirfd, name, &one);
	if (r < 0)
		host_log(ws->host, "%s: program '%s' is not started: %s", ws->state.path, name,
			 one.text);
	return 0;
}

void workspace_start_programs(struct inlay_workspace *ws)
{
	scope_lock(&ws->programs);
	(void)!each_program(ws, start_missing, ws, NULL);
}

struct restarting {
	struct inlay_workspace *ws;
	const char *why;
};

static int restart_one(void *ctx, int dirfd, const char *name, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	const struct restarting *r = ctx;
	struct inlay_workspace *ws = r->ws;
	struct inlay_error one = {0};

	(void)err;
	if (read_spec(dirfd, &spec, NULL) < 0 || !spec.wanted)
		return 0;
	host_log(ws->host, "%s: program '%s' is restarted: %s", ws->state.path, name, r->why);
	if (restart(ws, dirfd, name, &one) < 0)
		host_log(ws->host, "%s: program '%s': %s", ws->state.path, name, one.text);
	return 0;
}

void workspace_restart_programs(struct inlay_workspace *ws, const char *why)
{
	struct restarting r = {ws, why};

	scope_lock(&ws->programs);
	(void)!each_program(ws, restart_one, &r, NULL);
}

static int stop_one(void *ctx, int dirfd, const char *name, struct inlay_error *err)
{
	(void)ctx;
	(void)name;
	return stop_supervisor(dirfd, err);
}

int workspace_forget_programs(struct inlay_workspace *ws, struct inlay_error *err)
{
	scope_lock(&ws->programs);
	int r = each_program(ws, stop_one, NULL, err);

	return r < 0 ? r : inlay_remove_tree(ws->dir_fd, "run", err);
}

static int count_one(void *ctx, int dirfd, const char *name, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};

	(void)name;
	(void)err;
	*(unsigned *)ctx += read_spec(dirfd, &spec, NULL) == 0 && spec.wanted;
	return 0;
}

unsigned workspace_wanted_programs(struct inlay_workspace *ws)
{
	unsigned count = 0;

	(void)!each_program(ws, count_one, &count, NULL);
	return count;
}

static int supervisor_ended(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	const struct watch *w = ctx;
	auto_close int dirfd = -1;

	(void)err;
	if (strcmp(ws->state.id, w->id) != 0 || ws->removed)
		return 0;
	scope_lock(&ws->programs);
	if (open_program(ws, w->name, false, &dirfd, NULL) < 0)
		return 0;
	bool quick = inlay_monotonic_ns() - w->since_ns < QUICK_DEATH_S * 1000000000ll;
	ws->program_deaths = quick ? ws->program_deaths + 1 : 0;
	if (ws->program_deaths < QUICK_DEATHS_MAX)
		return start_missing(ws, dirfd, w->name, NULL);
	host_log(ws->host, "%s: the supervisor of '%s' dies at once; it is not started again",
		 ws->state.path, w->name);
	return 0;
}

void host_look_after_programs(struct inlay_host *host)
{
	struct epoll_event events[16];
	int n = epoll_wait(host->programs_fd, events, 16, 0);

	for (int i = 0; i < n; i++) {
		auto_free struct watch *w = events[i].data.ptr;
		(void)close(w->fd);
		{
			scope_lock(&host->lock);
			LIST_REMOVE(w, in);
		}
		(void)!inlay_host_each(host, supervisor_ended, w, NULL);
	}
}
