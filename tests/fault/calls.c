/* SPDX-License-Identifier: Apache-2.0 */
#include "calls.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct fault_hooks fault_hooks;
bool fault_no_tmpfile;

static struct {
	bool armed;
	enum fault_mode mode;
	enum fault_kinds kinds;
	uint64_t left; /* calls before the one that is meant */
	int error;
	bool hit;
	bool fail_next_write; /* the second half of a torn write */
} fault;

void fault_arm(enum fault_mode mode, enum fault_kinds kinds, uint64_t n, int error)
{
	fault.mode = mode;
	fault.kinds = kinds;
	fault.left = n;
	fault.error = error;
	fault.hit = fault.fail_next_write = false;
	fault.armed = true;
}

bool fault_disarm(void)
{
	fault.armed = false;
	return fault.hit;
}

static int fail(int error)
{
	errno = fault.error ? fault.error : error;
	return -1;
}

/* True when this is the call, and it is to fail. */
static bool is_due(enum fault_kinds kind)
{
	if (!fault.armed || !(fault.kinds & kind))
		return false;
	if (fault.left > 0) {
		fault.left--;
		return false;
	}
	if (fault.hit)
		return false;
	fault.hit = true;
	if (fault.mode == FAULT_KILL && kind != FAULT_WRITE)
		_exit(FAULT_EXIT);
	return fault.mode != FAULT_FULL;
}

#define WRAP(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)

/* ---- memory ---- */

WRAP(void *, malloc, size_t size)
{
	if (is_due(FAULT_MEMORY)) {
		errno = ENOMEM;
		return NULL;
	}
	return __real_malloc(size);
}

WRAP(void *, calloc, size_t count, size_t size)
{
	if (is_due(FAULT_MEMORY)) {
		errno = ENOMEM;
		return NULL;
	}
	return __real_calloc(count, size);
}

WRAP(void *, realloc, void *old, size_t size)
{
	if (is_due(FAULT_MEMORY)) {
		errno = ENOMEM;
		return NULL;
	}
	return __real_realloc(old, size);
}

WRAP(char *, strdup, const char *text)
{
	if (is_due(FAULT_MEMORY)) {
		errno = ENOMEM;
		return NULL;
	}
	return __real_strdup(text);
}

WRAP(void *, mmap64, void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	if (is_due(FAULT_MEMORY)) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return __real_mmap64(at, len, prot, flags, fd, off);
}

/* ---- writing ---- */

static bool is_too_full(int fd, off_t end)
{
	struct stat st;

	return fault.armed && fault.mode == FAULT_FULL && fault.hit && fstat(fd, &st) == 0 &&
	       S_ISREG(st.st_mode) && end > st.st_size;
}

/* 1: go on with *len bytes; 0: it fails with errno. */
static int before_write(int fd, size_t *len, off_t end)
{
	bool due = is_due(FAULT_WRITE);

	if (fault.armed && fault.fail_next_write) {
		fault.fail_next_write = false;
		fail(ENOSPC);
		return 0;
	}
	if (is_too_full(fd, end)) {
		errno = ENOSPC;
		return 0;
	}
	if (!due)
		return 1;
	if (fault.mode == FAULT_FAIL || *len < 2) {
		if (fault.mode == FAULT_KILL)
			_exit(FAULT_EXIT);
		fail(ENOSPC);
		return 0;
	}
	*len /= 2;
	fault.fail_next_write = true;
	return 1;
}

static ssize_t after_write(ssize_t n)
{
	if (fault.armed && fault.mode == FAULT_KILL && fault.fail_next_write)
		_exit(FAULT_EXIT);
	return n;
}

WRAP(ssize_t, write, int fd, const void *buf, size_t len)
{
	off_t at = fault.armed ? lseek(fd, 0, SEEK_CUR) : 0;

	if (!before_write(fd, &len, at + (off_t)len))
		return -1;
	return after_write(__real_write(fd, buf, len));
}

WRAP(ssize_t, pwrite64, int fd, const void *buf, size_t len, off_t off)
{
	if (!before_write(fd, &len, off + (off_t)len))
		return -1;
	if (fault_hooks.wrote)
		fault_hooks.wrote(fd, off, len);
	return after_write(__real_pwrite64(fd, buf, len, off));
}

/* ---- syncing: never done, only told; nobody cuts the power in a test ---- */

WRAP(int, fdatasync, int fd)
{
	(void)__real_fdatasync;
	if (is_due(FAULT_SYNC))
		return fail(EIO);
	if (fault_hooks.synced)
		fault_hooks.synced(fd);
	return 0;
}

WRAP(int, fsync, int fd)
{
	(void)__real_fsync;
	if (is_due(FAULT_SYNC))
		return fail(EIO);
	if (fault_hooks.synced)
		fault_hooks.synced(fd);
	return 0;
}

WRAP(int, syncfs, int fd)
{
	(void)__real_syncfs;
	if (is_due(FAULT_SYNC))
		return fail(EIO);
	(void)fd;
	if (fault_hooks.all_synced)
		fault_hooks.all_synced();
	return 0;
}

/* ---- names ---- */

WRAP(int, openat64, int dirfd, const char *name, int flags, ...)
{
	bool makes = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
	mode_t mode = 0;

	if (makes) {
		va_list ap;
		va_start(ap, flags);
		mode = va_arg(ap, mode_t);
		va_end(ap);
	}
	if (fault_no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (is_due(makes ? FAULT_NAME : FAULT_READ))
		return fail(makes ? ENOSPC : EIO);
	int __real_openat64(int, const char *, int, ...);
	bool fresh = (flags & O_CREAT) && faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
	int fd = __real_openat64(dirfd, name, flags, mode);
	if (fd >= 0 && fresh && fault_hooks.named)
		fault_hooks.named(dirfd, name);
	return fd;
}

WRAP(int, mkdirat, int dirfd, const char *name, mode_t mode)
{
	if (is_due(FAULT_NAME))
		return fail(ENOSPC);
	int r = __real_mkdirat(dirfd, name, mode);
	if (r == 0 && fault_hooks.named)
		fault_hooks.named(dirfd, name);
	return r;
}

WRAP(int, linkat, int from_fd, const char *from, int to_fd, const char *to, int flags)
{
	if (is_due(FAULT_NAME))
		return fail(ENOSPC);
	int r = __real_linkat(from_fd, from, to_fd, to, flags);
	if (r == 0 && fault_hooks.named)
		fault_hooks.named(to_fd, to);
	return r;
}

WRAP(int, renameat, int from_fd, const char *from, int to_fd, const char *to)
{
	if (is_due(FAULT_NAME))
		return fail(EIO);
	if (fault_hooks.before_rename)
		fault_hooks.before_rename(to_fd, from, to);
	return __real_renameat(from_fd, from, to_fd, to);
}

WRAP(int, renameat2, int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	if (is_due(FAULT_NAME))
		return fail(EIO);
	/* With RENAME_NOREPLACE, so that nothing is lost by it. */
	int r = __real_renameat2(from_fd, from, to_fd, to, flags);
	if (r == 0 && fault_hooks.named)
		fault_hooks.named(to_fd, to);
	return r;
}

WRAP(int, unlinkat, int dirfd, const char *name, int flags)
{
	if (is_due(FAULT_NAME))
		return fail(EIO);
	if (fault_hooks.before_unlink)
		fault_hooks.before_unlink(dirfd, name);
	return __real_unlinkat(dirfd, name, flags);
}

WRAP(int, ftruncate64, int fd, off_t len)
{
	if (is_due(FAULT_NAME))
		return fail(EIO);
	return __real_ftruncate64(fd, len);
}

/* ---- reading ---- */

WRAP(ssize_t, read, int fd, void *buf, size_t len)
{
	if (is_due(FAULT_READ))
		return fail(EIO);
	return __real_read(fd, buf, len);
}

WRAP(ssize_t, pread64, int fd, void *buf, size_t len, off_t off)
{
	if (is_due(FAULT_READ))
		return fail(EIO);
	return __real_pread64(fd, buf, len, off);
}

WRAP(int, fstat64, int fd, struct stat *st)
{
	if (is_due(FAULT_READ))
		return fail(EIO);
	return __real_fstat64(fd, st);
}

WRAP(int, fstatat64, int dirfd, const char *name, struct stat *st, int flags)
{
	if (is_due(FAULT_READ))
		return fail(EIO);
	return __real_fstatat64(dirfd, name, st, flags);
}

WRAP(DIR *, fdopendir, int fd)
{
	if (is_due(FAULT_READ)) {
		errno = ENOMEM;
		return NULL;
	}
	return __real_fdopendir(fd);
}

WRAP(struct dirent *, readdir64, DIR *dir)
{
	if (is_due(FAULT_READ)) {
		errno = EIO;
		return NULL;
	}
	return __real_readdir64(dir);
}

WRAP(int, fcntl64, int fd, int command, long argument)
{
	if (is_due(FAULT_READ))
		return fail(EMFILE);
	return __real_fcntl64(fd, command, argument);
}

WRAP(int, flock, int fd, int operation)
{
	if (is_due(FAULT_READ))
		return fail(ENOLCK);
	return __real_flock(fd, operation);
}
