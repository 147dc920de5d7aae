/* SPDX-License-Identifier: Apache-2.0 */
/* What everything in the keeper stands on: its log, its children, its list of workspaces. */
#include "keep/host.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/io.h"
#include "inlay/text.h"

extern char **environ;

enum { LOG_BYTES_MAX = 1 << 20 }; /* then it starts anew, the old one is kept once */

void host_log(struct inlay_host *host, const char *fmt, ...)
{
	auto_buf struct inlay_buf b = {0};
	auto_buf struct inlay_buf text = {0};
	char line[2048];
	struct stat st;
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	inlay_text_time(&b, inlay_now_ns());
	inlay_buf_u8(&b, ' ');
	inlay_text_escape(&b, line, strlen(line));
	inlay_buf_u8(&b, '\n');
	if (b.failed || host->log_fd < 0)
		return;
	if (fstat(host->log_fd, &st) == 0 && st.st_size > LOG_BYTES_MAX) {
		(void)renameat(host->state_fd, "keeper.log", host->state_fd, "keeper.log.1");
		int fd = openat(host->state_fd, "keeper.log",
				O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (fd >= 0) {
			(void)dup3(fd, host->log_fd, O_CLOEXEC);
			(void)close(fd);
		}
	}
	(void)!write(host->log_fd, b.data, b.len);
}

void host_wake(struct inlay_host *host)
{
	uint64_t one = 1;

	(void)!write(host->wake_fd, &one, sizeof one);
}

void host_add_child(struct inlay_host *host, pid_t pid)
{
	scope_lock(&host->lock);
	if (host->child_count == host->child_cap) {
		size_t cap = host->child_cap ? host->child_cap * 2 : 8;
		pid_t *more = reallocarray(host->children, cap, sizeof *more);
		if (!more)
			return; /* it stays a zombie until the keeper ends */
		host->children = more;
		host->child_cap = cap;
	}
	host->children[host->child_count++] = pid;
}

void host_reap(struct inlay_host *host)
{
	scope_lock(&host->lock);
	for (size_t i = 0; i < host->child_count;) {
		if (waitpid(host->children[i], NULL, WNOHANG) != 0)
			host->children[i] = host->children[--host->child_count];
		else
			i++;
	}
}

int host_spawn(struct inlay_host *host, const char *what, char *const argv[], const int fds[],
	       size_t count, pid_t *ret, struct inlay_error *err)
{
	enum { FIRST = 3, ABOVE = 16 };
	int high[ABOVE - FIRST] = {0};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	for (size_t i = 0; i < count; i++) {
		/* Above the numbers that they get: one dup2 must not overwrite the other's source. */
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, ABOVE);
		(void)posix_spawn_file_actions_adddup2(&actions, high[i], FIRST + (int)i);
	}
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++)
		r = high[i] < 0 ? EMFILE : 0;
	if (r == 0)
		r = posix_spawn(ret, "/proc/self/exe", &actions, &attr, argv, environ);
	for (size_t i = 0; i < count; i++)
		inlay_cleanup_close(&high[i]);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0)
		return inlay_error_sys(err, -r, "start %s", what);
	host_add_child(host, *ret);
	return 0;
}

struct inlay_store *inlay_host_store(struct inlay_host *host)
{
	return host->store;
}

struct inlay_trees *inlay_host_trees(struct inlay_host *host)
{
	return host->trees;
}

/* ---- workspaces ---- */

void workspace_free(struct inlay_workspace *ws)
{
	if (!ws)
		return;
	link_close(ws->link);
	inlay_cleanup_close(&ws->fuse_fd);
	inlay_cleanup_close(&ws->dir_fd);
	inlay_idset_fini(&ws->damaged);
	inlay_buf_fini(&ws->redirects);
	(void)pthread_cond_destroy(&ws->unowned);
	(void)pthread_cond_destroy(&ws->raised);
	(void)pthread_mutex_destroy(&ws->lock);
	(void)pthread_mutex_destroy(&ws->programs);
	(void)pthread_mutex_destroy(&ws->change);
	free(ws);
}
void inlay_workspace_unref(struct inlay_workspace *ws)
{
	if (!ws)
		return;
	{
		scope_lock(&ws->host->lock);
		if (--ws->refs > 0)
			return;
	}
	workspace_free(ws);
}

int inlay_host_each(struct inlay_host *host,
		    int (*fn)(void *ctx, struct inlay_workspace *ws, struct inlay_error *err),
		    void *ctx, struct inlay_error *err)
{
	size_t count;
	auto_free struct inlay_workspace **list = NULL;
	{
		scope_lock(&host->lock);
		count = host->count;
		list = reallocarray(NULL, count + 1, sizeof(struct inlay_workspace *));
		if (!list)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		for (size_t i = 0; i < count; i++) {
			list[i] = host->workspaces[i];
			list[i]->refs++;
		}
	}
	int r = 0;
	for (size_t i = 0; i < count; i++) {
		if (r == 0)
			r = fn(ctx, list[i], err);
		inlay_workspace_unref(list[i]);
	}
	return r;
}
