/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replay helper: does what its worker says, through the mount, so that the kernel raises events for it. It is
 * a process of its own without the /dev/fuse descriptor: whoever serves a mount must not wait for it. It never
 * writes data, follows no link, and leaves the mount's file system nowhere.
 */
#include "mount/helper.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/mount.h"

struct helper {
	const char *point;
	int root, dir, dir_to;
	struct inlay_buf watched;
	int result;
	uint64_t took_ns;
};

static int open_within(int dirfd, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					  RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
	int fd;

	/* EAGAIN: something was renamed meanwhile, so "beneath" could not be told. */
	for (int i = 0; i < 8; i++) {
		fd = (int)syscall(SYS_openat2, dirfd, *path ? path : ".", &how, sizeof how);
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd;
}

static void forget_dirs(struct helper *h)
{
	inlay_cleanup_close(&h->root);
	inlay_cleanup_close(&h->dir);
	inlay_cleanup_close(&h->dir_to);
	h->root = h->dir = h->dir_to = -1;
}

/* Opens the mount, and makes sure that it is the one of our worker. */
static void open_root(struct helper *h, const char *token)
{
	char greeting[sizeof ".inlay/" HELPER_GREETING + HELPER_TOKEN_HEX];
	struct stat st;

	forget_dirs(h);
	h->result = 0;
	h->root = open(h->point, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (h->root < 0) {
		h->result = -errno;
		return;
	}
	(void)snprintf(greeting, sizeof greeting, ".inlay/" HELPER_GREETING "%.32s", token);
	if (fstatat(h->root, greeting, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != HELPER_KNOWN) {
		h->result = -ENOTCONN;
		forget_dirs(h);
	}
}

static void open_dir(struct helper *h, int *fd, const char *path)
{
	inlay_cleanup_close(fd);
	*fd = h->root < 0 ? -1 : open_within(h->root, path, O_PATH | O_DIRECTORY);
}

/* MODIFY or ATTRIB, and for a changed file that nobody executes CLOSE_WRITE. */
static void touch(int dir, const char *name, int64_t mtime_ns, bool attrs)
{
	auto_close int fd = open_within(dir, name, O_PATH);
	struct timespec mtime = {.tv_sec = mtime_ns / 1000000000, .tv_nsec = mtime_ns % 1000000000};
	struct stat st;

	if (fd < 0)
		return;
	if (mtime.tv_nsec < 0) {
		mtime.tv_nsec += 1000000000;
		mtime.tv_sec--;
	}
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, mtime};
	if (attrs)
		times[0] = mtime;
	(void)utimensat(fd, "", times, AT_EMPTY_PATH);
	/* A file that may be executed is never open for writing: its start would fail with ETXTBSY. */
	if (attrs || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0111))
		return;
	auto_close int writer = open_within(dir, name, O_WRONLY | O_NONBLOCK);
	(void)writer;
}

static void close_write(int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
	    (st.st_mode & 0111))
		return;
	auto_close int writer = open_within(dir, name, O_WRONLY | O_NONBLOCK);
	(void)writer;
}

/*
 * A directory has one name at a time in the kernel's cache. Who looked up the new one took it there, and a rename,
 * which holds the locks that taking it back needs, then fails with ESTALE: a look at the old name takes it back.
 */
static void move(const struct helper *h, const char *name, const char *to)
{
	struct stat st;

	for (int i = 0; i < 16; i++) {
		if (renameat(h->dir, name, h->dir_to, to) == 0 || errno != ESTALE)
			return;
		(void)!fstatat(h->dir, name, &st, AT_SYMLINK_NOFOLLOW);
	}
}

static void find_watched(struct helper *h)
{
	int64_t start = inlay_monotonic_ns();
	struct inlay_error err = {0};
	struct stat st;

	if (h->result < 0)
		return;
	if (fstat(h->root, &st) < 0) {
		h->result = -errno;
		return;
	}
	/* The look takes its time, and must not keep the mount from being unmounted. */
	forget_dirs(h);
	h->result = helper_find_watched(st.st_dev, &h->watched, &err);
	h->took_ns = (uint64_t)(inlay_monotonic_ns() - start);
}

static int answer(struct helper *h, int sock)
{
	struct helper_msg m = {.verb = HELPER_DONE,
			       .result = h->result,
			       .count = h->watched.len / sizeof(uint64_t),
			       .took_ns = h->took_ns};
	auto_close int fd = memfd_create("inlay-watched", MFD_CLOEXEC);
	struct inlay_error err = {0};

	forget_dirs(h);
	if (fd < 0)
		return -errno;
	int r = inlay_write_all(fd, h->watched.data, h->watched.len, "watches", &err);
	inlay_buf_clear(&h->watched);
	h->took_ns = 0;
	if (r < 0)
		return r;
	return inlay_unix_send(sock, &m, HELPER_HEAD, &fd, 1, &err);
}

/* What a call gives is of no interest: the worker sees what arrived. */
static int run(struct helper *h, int sock, const struct helper_msg *m)
{
	const char *name = m->text;

	switch (m->verb) {
	case HELPER_OPEN:
		open_root(h, name);
		return 0;
	case HELPER_DIR:
		open_dir(h, &h->dir, name);
		return 0;
	case HELPER_DIR_TO:
		open_dir(h, &h->dir_to, name);
		return 0;
	case HELPER_WATCHED:
		find_watched(h);
		return 0;
	case HELPER_END:
		return answer(h, sock);
	default:
		break;
	}
	if (h->dir < 0)
		return 0;
	switch (m->verb) {
	case HELPER_MAKE_FILE:
		(void)mknodat(h->dir, name, S_IFREG | 0600, 0);
		break;
	case HELPER_MAKE_DIR:
		(void)mkdirat(h->dir, name, 0700);
		break;
	case HELPER_MAKE_LINK:
		(void)!symlinkat("-", h->dir, name);
		break;
	case HELPER_UNLINK:
		(void)unlinkat(h->dir, name, 0);
		break;
	case HELPER_RMDIR:
		(void)unlinkat(h->dir, name, AT_REMOVEDIR);
		break;
	case HELPER_MOVE:
		if (h->dir_to >= 0)
			move(h, name, name + strlen(name) + 1);
		break;
	case HELPER_MODIFY:
		touch(h->dir, name, m->mtime_ns, false);
		break;
	case HELPER_ATTRS:
		touch(h->dir, name, m->mtime_ns, true);
		break;
	case HELPER_CLOSE:
		close_write(h->dir, name);
		break;
	default:
		return -EPROTO;
	}
	return 0;
}

int inlay_replay_serve(const char *point, struct inlay_error *err)
{
	struct helper h = {.point = point, .root = -1, .dir = -1, .dir_to = -1};
	int fds[INLAY_UNIX_FDS];
	struct helper_msg m;
	size_t n;
	int r;

	for (;;) {
		r = inlay_unix_recv(HELPER_FD, &m, sizeof m - 2, &n, fds, err);
		for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
			inlay_cleanup_close(&fds[i]);
		if (r < 0 || n < HELPER_HEAD)
			break;
		((char *)&m)[n] = 0;
		((char *)&m)[n + 1] = 0; /* MOVE has two */
		r = run(&h, HELPER_FD, &m);
		if (r < 0)
			break;
	}
	forget_dirs(&h);
	inlay_buf_fini(&h.watched);
	return r < 0 ? r : 0;
}
