/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BUILD_BUILDJOBS_H
#define BUILD_BUILDJOBS_H

/*
 * Programs that run side by side, so many at a time; each line that one says is told with its job.
 * One thread: the caller's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

struct build_job {
	const char *const *argv;
	char *const *env; /* "NAME=value" texts that are added; NULL-terminated; may be NULL */
	int in_fd;        /* standard input; 0 = nothing */
	int out_fd;       /* standard output; 0 = it is told line by line, as standard error is */
	int status;       /* as waitpid gives it */
	/* private */
	pid_t pid;
	int fd;
	struct inlay_buf line;
	bool started, ended;
};

struct build_jobs_options {
	size_t at_once; /* at least 1 */
	/* A line without its end; long ones come in pieces. */
	void (*line)(void *ctx, size_t job, const char *text, size_t len);
	/* A job ended, whatever its status. Negative: no further job is started. */
	int (*ended)(void *ctx, size_t job, struct inlay_error *err);
	void *ctx;
};

/* Runs all; the first error of ended() is given when the running ones have ended. */
int build_jobs_run(struct build_job *jobs, size_t count, const struct build_jobs_options *o,
		   struct inlay_error *err) inlay_must_check;

/* Runs one with its standard output to `fd`; its standard error goes to ours. -EREMOTEIO when it failed. */
int build_job_to(const char *const *argv, int fd, struct inlay_error *err) inlay_must_check;

/* Runs one and gives what it wrote to standard output, at most `max` bytes; its standard error goes
 * to ours. -EREMOTEIO when it failed. */
int build_job_output(const char *const *argv, size_t max, struct inlay_buf *ret,
		     struct inlay_error *err) inlay_must_check;

#endif
