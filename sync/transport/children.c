/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/children.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"

extern char **environ;

void child_args_fini(struct child_args *a)
{
	for (size_t i = 0; i < a->count; i++)
		free(a->argv[i]);
}

void child_add(struct child_args *a, const char *text)
{
	char *copy = a->count + 1 < CHILD_ARGS_MAX ? strdup(text) : NULL;

	if (copy)
		a->argv[a->count++] = copy;
	else
		a->failed = true;
}

void child_add_split(struct child_args *a, const char *command)
{
	auto_buf struct inlay_buf word = {0};
	char quote = 0;
	bool in_word = false;

	for (const char *p = command; *p; p++) {
		if (quote ? *p == quote : (*p == '\'' || *p == '"')) {
			quote = quote ? 0 : *p;
			in_word = true;
		} else if (!quote && (*p == ' ' || *p == '\t')) {
			if (in_word)
				child_add(a, inlay_buf_cstr(&word));
			inlay_buf_clear(&word);
			in_word = false;
		} else {
			inlay_buf_u8(&word, (uint8_t)*p);
			in_word = true;
		}
	}
	if (in_word)
		child_add(a, inlay_buf_cstr(&word));
}

void child_add_quoted(struct inlay_buf *b, const char *text)
{
	inlay_buf_printf(b, " '");
	for (; *text; text++) {
		if (*text == '\'')
			inlay_buf_printf(b, "'\\''");
		else
			inlay_buf_u8(b, (uint8_t)*text);
	}
	inlay_buf_u8(b, '\'');
}

int child_spawn(struct child_args *a, const struct child_fds *fds, pid_t *ret,
		struct inlay_error *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;

	if (a->failed || a->count == 0)
		return inlay_error_set(err, -EINVAL, "the ssh command is empty or too long");
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	(void)posix_spawn_file_actions_adddup2(&actions, fds->in, 0);
	(void)posix_spawn_file_actions_adddup2(&actions, fds->out, 1);
	(void)posix_spawn_file_actions_adddup2(&actions, fds->err, 2);
	if (fds->extra > 0)
		(void)posix_spawn_file_actions_adddup2(&actions, fds->extra, CHILD_EXTRA_FD);
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	/* A group of its own, so that Ctrl-C reaches us alone and we can end in order. A passphrase can
	 * still be asked for on the terminal: ssh's group is then stopped by the terminal, so with one the
	 * child stays in ours. */
	short flags = POSIX_SPAWN_SETSIGMASK;
	if (!isatty(STDIN_FILENO))
		flags |= POSIX_SPAWN_SETPGROUP;
	(void)posix_spawnattr_setflags(&attr, flags);
	int r = posix_spawnp(ret, a->argv[0], &actions, &attr, a->argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0) {
		r = inlay_error_sys(err, -r, "start %s", a->argv[0]);
		(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
		return r;
	}
	return 0;
}

bool child_wait(pid_t pid, int ms, int stop_fd, int *ret_status)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN},
			      {.fd = stop_fd > 0 ? stop_fd : -1, .events = POLLIN}};

	if (fd >= 0)
		(void)poll(p, 2, ms);
	inlay_cleanup_close(&fd);
	pid_t got;
	do
		got = waitpid(pid, ret_status, fd >= 0 ? WNOHANG : 0);
	while (got < 0 && errno == EINTR);
	return got != 0;
}

void child_end(pid_t pid, int ms, int *ret_status)
{
	if (child_wait(pid, ms, 0, ret_status))
		return;
	(void)kill(pid, SIGTERM);
	if (child_wait(pid, 1000, 0, ret_status))
		return;
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
		;
}
