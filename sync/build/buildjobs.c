/* SPDX-License-Identifier: Apache-2.0 */
#include "build/buildjobs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"

enum { LINE_MAX_BYTES = 4096 };

static _Noreturn void become(const struct build_job *j, int out, bool errors_too)
{
	int null = open("/dev/null", O_RDONLY);

	(void)signal(SIGPIPE, SIG_DFL);
	for (size_t i = 0; j->env && j->env[i]; i++)
		(void)putenv(j->env[i]);
	if (null >= 0 && dup2(j->in_fd ? j->in_fd : null, 0) == 0 &&
	    (!errors_too || dup2(out, 2) == 2) && dup2(j->out_fd ? j->out_fd : out, 1) == 1)
		(void)execvp(j->argv[0], (char *const *)j->argv);
	_exit(127);
}

static int start(struct build_job *j, bool errors_too, struct inlay_error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	j->pid = fork();
	if (j->pid == 0)
		become(j, ends[1], errors_too);
	(void)close(ends[1]);
	if (j->pid < 0) {
		(void)close(ends[0]);
		return inlay_error_sys(err, -errno, "start %s", j->argv[0]);
	}
	j->fd = ends[0];
	j->started = true;
	return 0;
}

static void reap(struct build_job *j)
{
	inlay_cleanup_close(&j->fd);
	j->fd = -1;
	while (waitpid(j->pid, &j->status, 0) < 0 && errno == EINTR)
		;
	j->ended = true;
}

static void tell_lines(struct build_job *j, size_t number, const struct build_jobs_options *o,
		       bool all)
{
	const char *at = (const char *)j->line.data;
	size_t left = j->line.len;

	while (left > 0) {
		const char *end = memchr(at, '\n', left);
		if (!end && !all && left < LINE_MAX_BYTES)
			break;
		size_t n = end ? (size_t)(end - at) : left;
		o->line(o->ctx, number, at, n);
		n += end != NULL;
		at += n;
		left -= n;
	}
	if (left > 0 && left < j->line.len)
		memmove(j->line.data, at, left);
	j->line.len = left;
}

/* False at the end of its output. */
static bool hear(struct build_job *j, size_t number, const struct build_jobs_options *o)
{
	uint8_t *room = inlay_buf_reserve(&j->line, LINE_MAX_BYTES);
	ssize_t n = room ? read(j->fd, room, LINE_MAX_BYTES) : 0;

	if (n < 0)
		return errno == EINTR;
	j->line.len += (size_t)n;
	tell_lines(j, number, o, n == 0);
	return n > 0;
}

static int fill_up(struct build_job *jobs, size_t count, size_t at_once, struct inlay_error *err)
{
	size_t running = 0;
	int r = 0;

	for (size_t i = 0; i < count; i++)
		running += jobs[i].started && !jobs[i].ended;
	for (size_t i = 0; r == 0 && i < count && running < at_once; i++) {
		if (jobs[i].started)
			continue;
		r = start(&jobs[i], true, err);
		running++;
	}
	return r;
}

int build_jobs_run(struct build_job *jobs, size_t count, const struct build_jobs_options *o,
		   struct inlay_error *err)
{
	auto_free struct pollfd *polls = calloc(count + 1, sizeof *polls);
	int r = polls ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	for (;;) {
		size_t open = 0;
		if (r == 0)
			r = fill_up(jobs, count, o->at_once, err);
		for (size_t i = 0; polls && i < count; i++) {
			bool running = jobs[i].started && !jobs[i].ended;
			polls[i] =
				(struct pollfd){.fd = running ? jobs[i].fd : -1, .events = POLLIN};
			open += running;
		}
		if (open == 0)
			break;
		if (poll(polls, (nfds_t)count, -1) < 0 && errno != EINTR)
			r = inlay_error_sys(err, -errno, "wait for builds");
		for (size_t i = 0; i < count; i++) {
			if (!polls[i].revents || hear(&jobs[i], i, o))
				continue;
			reap(&jobs[i]);
			if (r == 0)
				r = o->ended(o->ctx, i, err);
		}
	}
	for (size_t i = 0; i < count; i++)
		inlay_buf_fini(&jobs[i].line);
	return r;
}

static int finish(struct build_job *j, struct inlay_error *err)
{
	reap(j);
	if (!WIFEXITED(j->status) || WEXITSTATUS(j->status) != 0)
		return inlay_error_set(err, -EREMOTEIO, "%s failed", j->argv[0]);
	return 0;
}

int build_job_to(const char *const *argv, int fd, struct inlay_error *err)
{
	struct build_job j = {.argv = argv, .out_fd = fd, .fd = -1};
	int r = start(&j, false, err);

	return r < 0 ? r : finish(&j, err);
}

int build_job_output(const char *const *argv, size_t max, struct inlay_buf *ret,
		     struct inlay_error *err)
{
	struct build_job j = {.argv = argv, .fd = -1};
	ssize_t n = 1;
	int r = start(&j, false, err);

	while (r == 0 && n > 0 && ret->len <= max) {
		uint8_t *room = inlay_buf_reserve(ret, LINE_MAX_BYTES);
		n = room ? read(j.fd, room, LINE_MAX_BYTES) : 0;
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			ret->len += (size_t)n;
	}
	if (r < 0)
		return r;
	r = finish(&j, err);
	if (r < 0)
		return r;
	if (ret->len > max)
		return inlay_error_set(err, -E2BIG, "%s says too much", argv[0]);
	return inlay_buf_check(ret, err);
}
