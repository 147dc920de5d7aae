/* SPDX-License-Identifier: Apache-2.0 */
#include "faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *const fault_names[FAULT_KINDS] = {"none",  "memory", "open",   "list",
					      "stat",  "read",   "link",   "map",
					      "write", "rename", "thread", "twice"};

static enum fault armed;
static unsigned left; /* calls until the one that fails; 0: it was reached */
static int error_number;

void fault_arm(enum fault kind, unsigned nth, int error)
{
	error_number = error;
	__atomic_store_n(&left, nth, __ATOMIC_SEQ_CST);
	__atomic_store_n(&armed, kind, __ATOMIC_SEQ_CST);
}

bool fault_disarm(void)
{
	__atomic_store_n(&armed, FAULT_NONE, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&left, __ATOMIC_SEQ_CST) == 0;
}

static bool fails(enum fault kind)
{
	if (__atomic_load_n(&armed, __ATOMIC_SEQ_CST) != kind)
		return false;
	if (__atomic_load_n(&left, __ATOMIC_SEQ_CST) == 0 ||
	    __atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) != 0)
		return false;
	errno = error_number;
	return true;
}

/* The wrapped functions, the real ones behind them. */
#define WRAP(kind, failed, type, name, params, args) \
	type __real_##name params;                   \
	type __wrap_##name params;                   \
	type __wrap_##name params                    \
	{                                            \
		if (fails(kind))                     \
			return (failed);             \
		return __real_##name args;           \
	}

/* clang-format off */
WRAP(FAULT_MEMORY, NULL, void *, malloc, (size_t n), (n))
WRAP(FAULT_MEMORY, NULL, void *, calloc, (size_t n, size_t m), (n, m))
WRAP(FAULT_MEMORY, NULL, void *, realloc, (void *p, size_t n), (p, n))
WRAP(FAULT_MEMORY, NULL, void *, reallocarray, (void *p, size_t n, size_t m), (p, n, m))
WRAP(FAULT_MEMORY, NULL, char *, strdup, (const char *s), (s))
WRAP(FAULT_MEMORY, NULL, char *, strndup, (const char *s, size_t n), (s, n))
WRAP(FAULT_STAT, -1, int, statx,
     (int fd, const char *p, int flags, unsigned mask, struct statx *st), (fd, p, flags, mask, st))
WRAP(FAULT_READ, -1, ssize_t, read, (int fd, void *b, size_t n), (fd, b, n))
WRAP(FAULT_LINK, -1, ssize_t, readlinkat, (int fd, const char *p, char *b, size_t n), (fd, p, b, n))
WRAP(FAULT_WRITE, -1, ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))
WRAP(FAULT_RENAME, -1, int, renameat, (int a, const char *p, int b, const char *q), (a, p, b, q))
WRAP(FAULT_THREAD, error_number, int, pthread_create,
     (pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg), (t, a, fn, arg))
/* clang-format on */

#define WRAP_OPENAT(name)                                                             \
	int __real_##name(int fd, const char *path, int flags, ...);                  \
	int __wrap_##name(int fd, const char *path, int flags, ...);                  \
	int __wrap_##name(int fd, const char *path, int flags, ...)                   \
	{                                                                             \
		mode_t mode = 0;                                                      \
		if (flags & O_CREAT) {                                                \
			va_list ap;                                                   \
			va_start(ap, flags);                                          \
			mode = va_arg(ap, mode_t);                                    \
			va_end(ap);                                                   \
		}                                                                     \
		return fails(FAULT_OPEN) ? -1 : __real_##name(fd, path, flags, mode); \
	}

/* glibc's headers turn some into others, for large files. */
/* clang-format off */
#ifdef __GLIBC__
WRAP_OPENAT(openat64)
WRAP(FAULT_STAT, -1, int, fstat64, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_MAP, MAP_FAILED, void *, mmap64,
     (void *a, size_t n, int prot, int flags, int fd, off_t off), (a, n, prot, flags, fd, off))
#else
WRAP_OPENAT(openat)
WRAP(FAULT_STAT, -1, int, fstat, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_MAP, MAP_FAILED, void *, mmap,
     (void *a, size_t n, int prot, int flags, int fd, off_t off), (a, n, prot, flags, fd, off))
#endif
/* clang-format on */

struct record { /* of getdents64 */
	uint64_t ino, off;
	uint16_t len;
	uint8_t type;
	char name[];
};

/* A listing that is made while others rename can have a name twice: here the last one has. */
ssize_t __real_getdents64(int fd, void *buf, size_t size);
ssize_t __wrap_getdents64(int fd, void *buf, size_t size);
ssize_t __wrap_getdents64(int fd, void *buf, size_t size)
{
	if (fails(FAULT_LIST))
		return -1;
	ssize_t n = __real_getdents64(fd, buf, size);
	const struct record *last = NULL, *r;
	if (n <= 0 || !fails(FAULT_TWICE))
		return n;
	for (ssize_t at = 0; at < n; at += r->len) {
		r = (const struct record *)((char *)buf + at);
		last = r->name[0] == '.' ? last : r;
	}
	if (!last || (size_t)n + last->len > size)
		return n;
	memcpy((char *)buf + n, last, last->len);
	return n + last->len;
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
	va_list ap;
	long a[6] = {0};

	/* What a caller did not pass may not be read. */
	va_start(ap, number);
	for (int i = 0; i < (number == SYS_openat2 ? 4 : 6); i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (number == SYS_openat2 && fails(FAULT_OPEN))
		return -1;
	return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
