/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_CHECKUP_H
#define INLAY_CHECKUP_H

/*
 * What `inlay doctor` looks at: findings about a machine, good ones too, each with what cures it. These here are
 * for either end; a target's own are in host.h. Any thread.
 */

#include <stdbool.h>

enum inlay_check_level {
	INLAY_CHECK_OK,
	INLAY_CHECK_WARN, /* it works, but not as well as it could */
	INLAY_CHECK_BAD,  /* something does not work because of it */
};

/* Strings are valid during the call. */
struct inlay_check {
	enum inlay_check_level level;
	const char *name; /* "disk": stable, for scripts */
	const char *text; /* what was found */
	const char *cure; /* what to do; "" = nothing */
	bool fixed;       /* it was bad, and was put right just now */
};

typedef void inlay_check_fn(void *ctx, const struct inlay_check *c);

enum {
	INLAY_CHECK_WATCHES = 65536,  /* inotify watches that a large workspace may need */
	INLAY_CHECK_INSTANCES = 128,  /* inotify instances of all programs of a user */
	INLAY_CHECK_DISK_PERCENT = 5, /* of blocks and of inodes, below which it is a warning */
	INLAY_CHECK_DISK_MIB = 64,    /* below which it is bad */
	INLAY_CHECK_SKEW_S = 2,       /* between two clocks: a warning; file times are compared */
	INLAY_CHECK_TEXT = 1024,
};

/* One finding; the text is formatted. */
void inlay_check_tell(inlay_check_fn *fn, void *ctx, enum inlay_check_level level, const char *name,
		      const char *cure, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* "kernel": its version, and the calls that inlay uses. */
void inlay_checkup_kernel(inlay_check_fn *fn, void *ctx);
/* "inotify" */
void inlay_checkup_inotify(inlay_check_fn *fn, void *ctx);
/* "disk": room where the directory lies. `what` is it for people. */
void inlay_checkup_disk(int dirfd, const char *what, inlay_check_fn *fn, void *ctx);

#endif
