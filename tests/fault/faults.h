/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_FAULTS_H
#define INLAY_TESTS_FAULTS_H

/*
 * Lets the n-th call of a kind fail, in whatever thread it happens. Programs that use it are linked
 * with -Wl,--wrap for each of the functions (tests/meson.build).
 */

#include <stdbool.h>

enum fault {
	FAULT_NONE,
	FAULT_MEMORY, /* malloc, calloc, realloc, reallocarray, strdup, strndup */
	FAULT_OPEN,   /* openat, openat2 */
	FAULT_LIST,   /* getdents64 */
	FAULT_STAT,   /* statx, fstat */
	FAULT_READ,   /* read */
	FAULT_LINK,   /* readlinkat */
	FAULT_MAP,    /* mmap */
	FAULT_WRITE,  /* write */
	FAULT_RENAME, /* renameat */
	FAULT_THREAD, /* pthread_create */
	FAULT_TWICE,  /* getdents64 does not fail, but gives the last name twice */
	FAULT_KINDS,
};

extern const char *const fault_names[FAULT_KINDS];

/* From now on the nth call (from 1) of that kind fails with the error number. */
void fault_arm(enum fault kind, unsigned nth, int error);
/* Ends it; true when the call was reached. */
bool fault_disarm(void);

#endif
