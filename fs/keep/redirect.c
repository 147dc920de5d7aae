/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Redirected directories: plain local storage (ws/<id>/redirect/PATH) in the place of a directory of the mount,
 * for what is written heavily. Root binds the storage there; others get a symlink, which is an entry of the
 * upper.
 *
 * The keeper never touches a mount itself: a worker that hangs would hang it too. It starts a process for
 * each redirect and waits for a bounded time.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/io.h"
#include "keep/kernel_mount.h"
#include "keep/written.h"

#define REDIRECT_DIR "redirect"

static const int64_t child_timeout_ns = 15ll * 1000000000;

extern char **environ;

/* ---- in the process of its own ---- */

static int open_beneath(int dir, const char *path, int flags)
{
	/* What the mount shows is data: no symlink of it is followed, and no other mount is entered. */
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC),
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					  RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
}

/* The directory that is to hold the last component of rel. */
static int open_parent(int root, const char *rel, int *ret_fd, const char **ret_name,
		       struct inlay_error *err)
{
	auto_close int dir = open_beneath(root, ".", O_RDONLY | O_DIRECTORY);
	char name[INLAY_REDIRECT_PATH_MAX + 1];

	if (dir < 0)
		return inlay_error_sys(err, -errno, "open the mount");
	for (const char *slash; (slash = strchr(rel, '/')); rel = slash + 1) {
		(void)snprintf(name, sizeof name, "%.*s", (int)(slash - rel), rel);
		if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
			return inlay_error_sys(err, -errno, "make %s in the mount", name);
		int next = open_beneath(dir, name, O_RDONLY | O_DIRECTORY);
		if (next < 0)
			return inlay_error_sys(err, -errno, "open %s in the mount", name);
		(void)close(dir);
		dir = next;
	}
	*ret_fd = take_fd(dir);
	*ret_name = rel;
	return 0;
}

static int bind_there(int parent, const char *name, const char *storage, struct inlay_error *err)
{
	char target[64], source[64];

	if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
		return inlay_error_sys(err, -errno, "make %s in the mount", name);
	auto_close int point = open_beneath(parent, name, O_PATH | O_DIRECTORY);
	if (point < 0)
		return inlay_error_sys(err, -errno, "open %s in the mount", name);
	auto_close int from = open(storage, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0)
		return inlay_error_sys(err, -errno, "open %s", storage);
	(void)snprintf(target, sizeof target, "/proc/self/fd/%d", point);
	(void)snprintf(source, sizeof source, "/proc/self/fd/%d", from);
	if (mount(source, target, NULL, MS_BIND, NULL) < 0)
		return inlay_error_sys(err, -errno, "bind %s", name);
	/* Now the name leads to the bind: its flags are those of a workspace. */
	auto_close int bound = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (bound < 0)
		return inlay_error_sys(err, -errno, "open the bound %s", name);
	(void)snprintf(target, sizeof target, "/proc/self/fd/%d", bound);
	if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, NULL) < 0) {
		int r = inlay_error_sys(err, -errno, "restrict the bound %s", name);
		(void)umount2(target, MNT_DETACH);
		return r;
	}
	return 0;
}

static int link_there(int parent, const char *name, const char *storage, struct inlay_error *err)
{
	char target[INLAY_LINK_MAX + 1];

	ssize_t n = readlinkat(parent, name, target, sizeof target);
	if (n >= 0 && (size_t)n == strlen(storage) && memcmp(target, storage, (size_t)n) == 0)
		return 0;
	/* An empty directory makes room; what is in one is nobody's to throw away. */
	if (n < 0 && errno == EINVAL && unlinkat(parent, name, AT_REMOVEDIR) < 0)
		return inlay_error_sys(err, -errno, "put a symlink in the place of %s", name);
	if (symlinkat(storage, parent, name) < 0)
		return inlay_error_sys(err, -errno, "make the symlink %s", name);
	return 0;
}

int inlay_redirect(const char *mount_path, const char *rel, const char *storage,
		   struct inlay_error *err)
{
	auto_close int root = open(mount_path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	auto_close int parent = -1;
	const char *name;

	if (root < 0)
		return inlay_error_sys(err, -errno, "open %s", mount_path);
	(void)umask(022);
	int r = open_parent(root, rel, &parent, &name, err);
	if (r < 0)
		return r;
	return geteuid() == 0 ? bind_there(parent, name, storage, err)
			      : link_there(parent, name, storage, err);
}

/* ---- in the keeper ---- */

/* Reads what the child says until it ends, or time is over. */
static void hear_child(int fd, char *text, size_t size)
{
	int64_t until = inlay_monotonic_ns() + child_timeout_ns;
	size_t used = 0;

	while (used < size - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int64_t left = until - inlay_monotonic_ns();
		if (left <= 0)
			break;
		int n = poll(&p, 1, (int)(left / 1000000) + 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		ssize_t got = read(fd, text + used, size - 1 - used);
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	text[used] = 0;
	while (used > 0 && text[used - 1] == '\n')
		text[--used] = 0;
}

static int spawn_child(const struct inlay_workspace *ws, const char *rel, const char *storage,
		       int out, pid_t *ret, struct inlay_error *err)
{
	auto_free char *point = strdup(ws->state.path), *rel_arg = strdup(rel),
		       *storage_arg = strdup(storage);
	char name[] = "inlayd", verb[] = "redirect", dashes[] = "--";
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;

	if (!point || !rel_arg || !storage_arg)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	char *argv[] = {name, verb, dashes, point, rel_arg, storage_arg, NULL};
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	(void)posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	int r = posix_spawn(ret, "/proc/self/exe", &actions, &attr, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	return r ? inlay_error_sys(err, -r, "start a process for a redirect") : 0;
}

/* A child that hangs is left to the worker's end, which wakes it. */
static bool ended_well(pid_t pid)
{
	int64_t until = inlay_monotonic_ns() + child_timeout_ns;
	struct timespec pause = {.tv_nsec = 1000000};
	int status;
	pid_t r;

	while ((r = waitpid(pid, &status, WNOHANG)) == 0 || (r < 0 && errno == EINTR)) {
		if (inlay_monotonic_ns() > until) {
			(void)kill(pid, SIGKILL);
			return false;
		}
		(void)nanosleep(&pause, NULL);
	}
	return r == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int make_storage(struct inlay_workspace *ws, const char *rel, struct inlay_error *err)
{
	char path[sizeof REDIRECT_DIR + 1 + INLAY_REDIRECT_PATH_MAX];
	struct stat st;
	int fd = -1;

	(void)snprintf(path, sizeof path, "%s/%s", REDIRECT_DIR, rel);
	bool is_new = fstatat(ws->dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0;
	int r = inlay_open_dir(ws->dir_fd, path, 0755, &fd, err);
	/* It is seen through the mount, so a umask of the keeper must not close it. */
	if (r == 0 && is_new && fchmod(fd, 0755) < 0)
		r = inlay_error_sys(err, -errno, "open up %s", path);
	inlay_cleanup_close(&fd);
	return r;
}

static int apply_one(struct inlay_workspace *ws, const char *rel, struct inlay_error *err)
{
	char storage[2 * INLAY_HOST_PATH_MAX], text[256];
	int pipe_fds[2];
	pid_t pid;

	int n = snprintf(storage, sizeof storage, "%s/ws/%s/%s/%s", ws->host->state_path,
			 ws->state.id, REDIRECT_DIR, rel);
	if (n < 0 || (size_t)n > INLAY_LINK_MAX)
		return inlay_error_set(err, -ENAMETOOLONG, "the storage's path is too long");
	int r = make_storage(ws, rel, err);
	if (r < 0)
		return r;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	r = spawn_child(ws, rel, storage, pipe_fds[1], &pid, err);
	(void)close(pipe_fds[1]);
	if (r == 0) {
		hear_child(pipe_fds[0], text, sizeof text);
		if (!ended_well(pid))
			r = inlay_error_set(err, -EIO, "%s", *text ? text : "it takes too long");
	}
	(void)close(pipe_fds[0]);
	return r;
}

static void point_of(const struct inlay_workspace *ws, const char *rel,
		     char ret[static 2 * INLAY_HOST_PATH_MAX])
{
	(void)snprintf(ret, 2 * INLAY_HOST_PATH_MAX, "%s/%s", ws->state.path, rel);
}

#define each_redirect(ws, rel)                                 \
	(const char *rel = (const char *)(ws)->redirects.data, \
	 *end_ = rel ? rel + (ws)->redirects.len : rel;        \
	 rel < end_; rel += strlen(rel) + 1)

void workspace_apply_redirects(struct inlay_workspace *ws)
{
	char point[2 * INLAY_HOST_PATH_MAX];

	for
		each_redirect(ws, rel)
		{
			struct inlay_error err = {0};
			point_of(ws, rel, point);
			if (geteuid() == 0 && kernel_mount_any(point))
				continue;
			if (apply_one(ws, rel, &err) == 0)
				continue;
			host_log(ws->host, "%s: %s is not redirected: %s", ws->state.path, rel,
				 err.text);
			scope_lock(&ws->lock);
			(void)snprintf(ws->state.mount_text, sizeof ws->state.mount_text,
				       "%.80s is not redirected: %.150s", rel, err.text);
		}
}

int workspace_drop_redirects(struct inlay_workspace *ws, bool lazy, struct inlay_error *err)
{
	char point[2 * INLAY_HOST_PATH_MAX];

	if (geteuid() != 0)
		return 0;
	for
		each_redirect(ws, rel)
		{
			point_of(ws, rel, point);
			if (!kernel_mount_any(point))
				continue;
			if (umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0) {
				int r = inlay_error_sys(err, -errno, "unmount %s", point);
				workspace_apply_redirects(ws);
				return r;
			}
		}
	return 0;
}
