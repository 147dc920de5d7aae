/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_HELPER_H
#define MOUNT_HELPER_H

/*
 * What the worker and its replay helper say to each other: packets over a socket that only the two have. The
 * worker starts the helper, so both are of one program and the structs travel as they are; a packet is cut
 * behind its text.
 *
 *     worker                               helper
 *        OPEN token                  ->    opens the mount point and looks up .inlay/replay-<token> in it:
 *                                          only where the worker answers with HELPER_KNOWN does it go on
 *        DIR path                    ->    the directory of the names that follow
 *        MAKE_FILE, ... name         ->    one system call each
 *        END                         ->
 *                                    <-    DONE result
 *        OPEN token, WATCHED, END    ->
 *                                    <-    DONE result, count    + a memory file with node numbers, in order
 *
 * The helper ends when the worker's end of the socket closes.
 */

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/error.h"
#include "inlay/limits.h"

enum {
	HELPER_FD = 3, /* the socket, in the helper */
	HELPER_TOKEN_HEX = 33,
	HELPER_KNOWN = EALREADY, /* errno of the lookup: the worker knows who asks */
};

#define HELPER_GREETING "replay-"

enum helper_verb {
	HELPER_OPEN = 1, /* text: token */
	HELPER_DIR,      /* text: path from the root, "" = the root */
	HELPER_DIR_TO,   /* the same, for the second name of MOVE */
	HELPER_MAKE_FILE,
	HELPER_MAKE_DIR,
	HELPER_MAKE_LINK,
	HELPER_UNLINK,
	HELPER_RMDIR,
	HELPER_MOVE, /* text: both names, each with its NUL */
	HELPER_MODIFY,
	HELPER_ATTRS,
	HELPER_CLOSE, /* open for writing, and close */
	HELPER_WATCHED,
	HELPER_END,
	HELPER_DONE,
};

struct helper_msg {
	uint32_t verb;  /* enum helper_verb */
	int32_t result; /* DONE: 0, or a negative errno: nothing was done */
	int64_t mtime_ns;
	uint64_t count;   /* DONE: numbers in the file */
	uint64_t took_ns; /* DONE: WATCHED alone */
	char text[PATH_MAX + INLAY_NAME_MAX + 1];
};

enum { HELPER_HEAD = offsetof(struct helper_msg, text) };

/* Appends the inode numbers that inotify watches of any process we may look at are on, in the file system with
 * this device number: in order, each once. */
struct inlay_buf;
int helper_find_watched(uint64_t dev, struct inlay_buf *ret, struct inlay_error *err)
	inlay_must_check;

#endif
