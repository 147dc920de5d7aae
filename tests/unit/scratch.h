/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_SCRATCH_H
#define INLAY_TESTS_SCRATCH_H

/* An empty directory below /tmp for each test, removed afterwards; *state points to its fd. */

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "unit.h"

static inline int scratch_setup(void **state)
{
	static int fd;
	char name[] = "/tmp/inlay-test-XXXXXX";

	if (!mkdtemp(name))
		return -1;
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &fd;
	return fd < 0 ? -1 : 0;
}

static inline int scratch_teardown(void **state)
{
	char link[64], path[256];
	int fd = *(int *)*state;

	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	(void)close(fd);
	if (n < 0)
		return -1;
	path[n] = 0;
	return inlay_remove_tree(AT_FDCWD, path, NULL);
}

#define scratch_test(fn) cmocka_unit_test_setup_teardown(fn, scratch_setup, scratch_teardown)

static inline int scratch_dir(void **state)
{
	return *(int *)*state;
}

/* Makes (or rewrites in place) a file; the directories above it must exist. */
static inline void put_file(int dir, const char *path, const char *content)
{
	int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, strlen(content)), strlen(content));
	assert_int_equal(close(fd), 0);
}

static inline void put_dir(int dir, const char *path)
{
	assert_int_equal(mkdirat(dir, path, 0755), 0);
}

static inline int open_dir(int dir, const char *path)
{
	int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	assert_true(fd >= 0);
	return fd;
}

/* Both times of a name, in nanoseconds since 1970. */
static inline void set_times(int dir, const char *path, int64_t ns)
{
	int64_t nsec = (ns % 1000000000 + 1000000000) % 1000000000;
	struct timespec t = {(ns - nsec) / 1000000000, nsec};

	assert_int_equal(utimensat(dir, path, (struct timespec[]){t, t}, AT_SYMLINK_NOFOLLOW), 0);
}

static inline unsigned count_fds(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 512; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

#endif
