/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_CALLS_H
#define INLAY_TESTS_CALLS_H

/*
 * Makes the n-th call of the library that is linked with -Wl,--wrap fail, or ends the process at
 * that call. One thread.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum fault_kinds {
	FAULT_MEMORY = 1 << 0, /* malloc, calloc, realloc, strdup, mmap */
	FAULT_WRITE = 1 << 1,  /* write, pwrite */
	FAULT_SYNC = 1 << 2,   /* fdatasync, fsync, syncfs */
	FAULT_NAME = 1 << 3,   /* open with O_CREAT, mkdir, link, rename, unlink, ftruncate */
	FAULT_READ = 1 << 4,   /* other opens, read, pread, fstat, readdir, dup, flock */
	FAULT_ALL = (1 << 5) - 1,
};

enum fault_mode {
	FAULT_FAIL, /* the call fails */
	FAULT_TORN, /* a write writes half, and the next one fails; other calls fail */
	FAULT_FULL, /* from that call on, writes that make a file larger fail with ENOSPC */
	FAULT_KILL, /* the process ends before the call; of a write half is done */
};

enum { FAULT_EXIT = 77 }; /* status of a process that was ended */

/* From now on; `error` (positive) 0 = what fits to the call. */
void fault_arm(enum fault_mode mode, enum fault_kinds kinds, uint64_t n, int error);
/* True when the n-th call was reached. */
bool fault_disarm(void);

/* There is no O_TMPFILE, as on some filesystems. */
extern bool fault_no_tmpfile;

/* What a test wants to know about, set by it; called when the call has succeeded. */
struct fault_hooks {
	void (*before_rename)(int dirfd, const char *from, const char *to);
	void (*before_unlink)(int dirfd, const char *name);
	void (*named)(int dirfd, const char *name); /* created, linked, made, or renamed to */
	void (*unnamed)(int dirfd, const char *name);
	void (*wrote)(int fd, off_t off, size_t len);
	void (*synced)(int fd);
	void (*all_synced)(void);
};
extern struct fault_hooks fault_hooks;

#endif
