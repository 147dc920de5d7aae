/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/background.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

#define LOG_NAME "watch.log"
#define LOG_OLD  "watch.log.1"

enum { LOG_MAX = 1 << 20, TEXT_MAX = 4096 };

/* The parent's end: a byte with the exit code, then text. */
static _Noreturn void wait_for_report(int fd)
{
	char text[TEXT_MAX + 1];
	size_t n = 0;

	if (inlay_read_full(fd, text, TEXT_MAX, &n, "the background", NULL) < 0 || n == 0) {
		(void)fputs("inlay: the background process ended without a word\n", stderr);
		_exit(INLAY_EXIT_FAILURE);
	}
	text[n] = 0;
	int code = (uint8_t)text[0];
	if (n > 1)
		(void)fprintf(code ? stderr : stdout, "%s%s\n", code ? "inlay: " : "", text + 1);
	(void)fflush(NULL);
	_exit(code);
}

int background_begin(struct background *b, struct inlay_error *err)
{
	int pipe_fds[2];

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	(void)fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) {
		int r = inlay_error_sys(err, -errno, "go to the background");
		(void)close(pipe_fds[0]);
		(void)close(pipe_fds[1]);
		return r;
	}
	if (pid > 0) {
		(void)close(pipe_fds[1]);
		wait_for_report(pipe_fds[0]);
	}
	(void)close(pipe_fds[0]);
	(void)setsid();
	(void)signal(SIGHUP, SIG_IGN);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		(void)dup2(null, fd);
	if (null > 2)
		(void)close(null);
	b->report_fd = pipe_fds[1];
	return 0;
}

void background_report(struct background *b, enum inlay_exit code, const char *text)
{
	uint8_t byte = (uint8_t)code;

	if (b->report_fd < 0)
		return;
	(void)!inlay_write_all(b->report_fd, &byte, 1, "a report", NULL);
	(void)!inlay_write_all(b->report_fd, text, strlen(text), "a report", NULL);
	inlay_cleanup_close(&b->report_fd);
	b->report_fd = -1;
}

static int open_log(int dirfd)
{
	int fd = openat(dirfd, LOG_NAME, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
			0600);

	if (fd < 0)
		return -errno;
	(void)fflush(NULL);
	(void)dup2(fd, STDOUT_FILENO);
	(void)dup2(fd, STDERR_FILENO);
	(void)close(fd);
	return 0;
}

int background_log(struct background *b, int dirfd, struct inlay_error *err)
{
	int r = open_log(dirfd);

	b->log_dirfd = dirfd;
	return r < 0 ? inlay_error_sys(err, r, "write the log") : 0;
}

void background_bound(struct background *b)
{
	struct stat st;

	if (b->log_dirfd < 0 || fstat(STDOUT_FILENO, &st) < 0 || st.st_size < LOG_MAX)
		return;
	if (renameat(b->log_dirfd, LOG_NAME, b->log_dirfd, LOG_OLD) == 0)
		(void)open_log(b->log_dirfd);
}
