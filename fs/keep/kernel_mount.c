/* SPDX-License-Identifier: Apache-2.0 */
#include "keep/kernel_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

extern char **environ;

/* ---- what is mounted ---- */

/* The kernel writes blank, tab, newline and backslash in paths as octal escapes. */
static void unescape(char *text)
{
	char *out = text;

	for (const char *p = text; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
		    p[3] >= '0' && p[3] <= '7') {
			*out++ = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 3;
		} else {
			*out++ = *p;
		}
	}
	*out = 0;
}

/* A line of mountinfo (proc(5)): 36 35 98:0 /root /mount/point options [tags] - type source options */
struct mount_line {
	char *device, *point, *tags, *type;
};

static bool parse_line(char *line, struct mount_line *ret)
{
	char *save, *dash = strstr(line, " - "), *fields[6] = {NULL};

	if (!dash)
		return false;
	ret->type = strtok_r(dash + 3, " \n", &save);
	*dash = 0;
	fields[0] = strtok_r(line, " ", &save);
	for (int i = 1; fields[i - 1] && i < 6; i++)
		fields[i] = strtok_r(NULL, " ", &save);
	if (!fields[5] || !ret->type)
		return false;
	unescape(fields[4]);
	ret->device = fields[2];
	ret->point = fields[4];
	ret->tags = save;
	return true;
}

bool kernel_mount_find(const char *path, struct kernel_mount_info *ret)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct mount_line m;
	char *line = NULL;
	size_t cap = 0;
	bool found = false;

	*ret = (struct kernel_mount_info){0};
	if (!f)
		return false;
	/* Later lines lie above earlier ones. */
	while (getline(&line, &cap, f) > 0) {
		if (!parse_line(line, &m) || strcmp(m.point, path) != 0)
			continue;
		found = true;
		(void)snprintf(ret->type, sizeof ret->type, "%s", m.type);
		(void)snprintf(ret->device, sizeof ret->device, "%s", m.device);
		ret->shared = strstr(m.tags, "shared:");
	}
	free(line);
	(void)fclose(f);
	return found;
}

bool kernel_mount_there(const char *path)
{
	struct kernel_mount_info m;

	return kernel_mount_find(path, &m) && strcmp(m.type, KERNEL_MOUNT_TYPE) == 0;
}

bool kernel_mount_any(const char *path)
{
	struct kernel_mount_info m;

	return kernel_mount_find(path, &m);
}

int kernel_mount_each(void (*fn)(void *ctx, const char *path), void *ctx, struct inlay_error *err)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct mount_line m;
	char *line = NULL;
	size_t cap = 0;

	if (!f)
		return inlay_error_sys(err, -errno, "open /proc/self/mountinfo");
	while (getline(&line, &cap, f) > 0)
		if (parse_line(line, &m) && strcmp(m.type, KERNEL_MOUNT_TYPE) == 0)
			fn(ctx, m.point);
	free(line);
	(void)fclose(f);
	return 0;
}

/* ---- as root ---- */

static int open_beneath_root(const char *path, struct inlay_error *err)
{
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);

	/* Kernels before 5.6 do not have the call; O_NOFOLLOW guards the last component there. */
	if (fd < 0 && errno == ENOSYS)
		fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? inlay_error_sys(err, -errno, "open %s", path) : fd;
}

static int mount_as_root(const char *path, int *ret_fuse_fd, struct inlay_error *err)
{
	auto_close int point = open_beneath_root(path, err);
	char target[64], data[160];

	if (point < 0)
		return point;
	auto_close int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno,
				       "open /dev/fuse (is the kernel's fuse module there? try "
				       "'modprobe fuse')");
	(void)snprintf(target, sizeof target, "/proc/self/fd/%d", point);
	(void)snprintf(
		data, sizeof data,
		"fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions,allow_other", fd,
		getuid(), getgid());
	if (mount("inlay", target, KERNEL_MOUNT_TYPE, MS_NOSUID | MS_NODEV | MS_NOATIME, data) < 0)
		return inlay_error_sys(err, -errno, "mount on %s", path);
	*ret_fuse_fd = take_fd(fd);
	return 0;
}

/* ---- as anybody else ---- */

static int run_fusermount(char *const argv[], int comm_fd, pid_t *ret_pid, struct inlay_error *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	if (comm_fd >= 0)
		(void)posix_spawn_file_actions_adddup2(&actions, comm_fd, 3);
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	/* A clean environment: the program is setuid root. */
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	char comm[] = "_FUSE_COMMFD=3";
	char *env[] = {path, comm_fd >= 0 ? comm : NULL, NULL};
	int r = posix_spawnp(&pid, "fusermount3", &actions, &attr, argv, env);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0)
		return inlay_error_sys(
			err, -r, "run fusermount3 (install the package fuse3, or run as root)");
	*ret_pid = pid;
	return 0;
}

/* True when it ended with status 0. The keeper leaves its children to those who wait for them. */
static bool ended_well(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* libfuse's protocol with its helper: a socket in _FUSE_COMMFD, over which the descriptor comes back. */
static int mount_as_user(const char *path, int *ret_fuse_fd, struct inlay_error *err)
{
	int pair[2], fds[INLAY_UNIX_FDS];
	char options[] = "default_permissions,nosuid,nodev,fsname=inlay,subtype=inlay";
	char name[] = "fusermount3", dash_o[] = "-o", dashes[] = "--", byte;
	auto_free char *point = strdup(path);
	pid_t pid;
	size_t n;

	if (!point)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return inlay_error_sys(err, -errno, "make a socket");
	char *argv[] = {name, dash_o, options, dashes, point, NULL};
	int r = run_fusermount(argv, pair[1], &pid, err);
	(void)close(pair[1]);
	if (r == 0) {
		r = inlay_unix_recv(pair[0], &byte, 1, &n, fds, err);
		bool well = ended_well(pid);
		if (r == 0 && fds[0] >= 0 && well)
			*ret_fuse_fd = fds[0];
		else if (r == 0)
			r = inlay_error_set(err, -EPERM,
					    "fusermount3 does not mount on %s (is the directory "
					    "yours, and is user mounting allowed?)",
					    path);
	}
	(void)close(pair[0]);
	return r;
}

int kernel_mount(const char *path, int *ret_fuse_fd, bool *ret_everybody, struct inlay_error *err)
{
	bool root = geteuid() == 0;
	int r = root ? mount_as_root(path, ret_fuse_fd, err)
		     : mount_as_user(path, ret_fuse_fd, err);

	if (r == 0)
		*ret_everybody = root;
	return r;
}

static int umount_as_user(const char *path, bool lazy, struct inlay_error *err)
{
	auto_free char *point = strdup(path);
	char name[] = "fusermount3", u[] = "-u", z[] = "-z", q[] = "-q", dashes[] = "--";
	pid_t pid;

	if (!point)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	char *argv[] = {name, u, q, lazy ? z : q, dashes, point, NULL};
	int r = run_fusermount(argv, -1, &pid, err);
	if (r < 0)
		return r;
	if (!ended_well(pid))
		return inlay_error_set(err, -EBUSY, "%s is in use", path);
	return 0;
}

int kernel_umount(const char *path, bool lazy, struct inlay_error *err)
{
	if (!kernel_mount_there(path))
		return KERNEL_MOUNT_NONE;
	if (geteuid() != 0)
		return umount_as_user(path, lazy, err);
	if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0)
		return inlay_error_sys(err, -errno, "unmount %s", path);
	return 0;
}
