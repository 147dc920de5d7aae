/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who watches: the kernel tells in /proc/<pid>/fdinfo of each inotify descriptor which inodes of which device
 * it watches (proc(5)):
 *
 *     inotify wd:1 ino:10000004a sdev:2e mask:fce ignored_mask:0 ...
 *
 * A process that hides its descriptors from us (another user's, unless we are root) is not seen.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "mount/helper.h"

static void read_watches(int proc, const char *pid, const char *fd_name, uint64_t sdev,
			 struct inlay_buf *ret)
{
	char path[64], *line = NULL;
	size_t cap = 0;

	(void)snprintf(path, sizeof path, "%.20s/fdinfo/%.20s", pid, fd_name);
	int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f) {
		inlay_cleanup_close(&fd);
		return;
	}
	while (getline(&line, &cap, f) > 0) {
		unsigned long ino;
		unsigned dev;
		if (sscanf(line, "inotify wd:%*x ino:%lx sdev:%x", &ino, &dev) == 2 &&
		    dev == sdev) {
			uint64_t number = ino;
			inlay_buf_add(ret, &number, sizeof number);
		}
	}
	free(line);
	(void)fclose(f);
}

static void look_at_process(int proc, const char *pid, uint64_t sdev, struct inlay_buf *ret)
{
	static const char inotify[] = "anon_inode:inotify";
	char path[32], target[sizeof inotify + 1];

	(void)snprintf(path, sizeof path, "%.20s/fd", pid);
	int fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		inlay_cleanup_close(&fd);
		return;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof target);
		if (n == (ssize_t)sizeof inotify - 1 && memcmp(target, inotify, (size_t)n) == 0)
			read_watches(proc, pid, e->d_name, sdev, ret);
	}
	(void)closedir(dir);
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int helper_find_watched(uint64_t dev, struct inlay_buf *ret, struct inlay_error *err)
{
	/* The kernel prints its own form of a device number. */
	uint64_t sdev = (uint64_t)major(dev) << 20 | minor(dev);
	DIR *proc = opendir("/proc");

	if (!proc)
		return inlay_error_sys(err, -errno, "open /proc");
	for (struct dirent *e; (e = readdir(proc));)
		if (isdigit((unsigned char)e->d_name[0]))
			look_at_process(dirfd(proc), e->d_name, sdev, ret);
	(void)closedir(proc);
	int r = inlay_buf_check(ret, err);
	uint64_t *all = (uint64_t *)(void *)ret->data;
	size_t n = ret->len / sizeof *all, kept = 0;
	if (r < 0 || n == 0)
		return r;
	qsort(all, n, sizeof *all, by_number);
	for (size_t i = 0; i < n; i++)
		if (kept == 0 || all[i] != all[kept - 1])
			all[kept++] = all[i];
	ret->len = kept * sizeof *all;
	return 0;
}
