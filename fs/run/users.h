/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_USERS_H
#define RUN_USERS_H

/* Who "nav", "1000" or "nav:dialout" is, by an image's own passwd and group files. Pure: no I/O. */

#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

enum {
	USERS_EXTRA_MAX = 256,     /* groups that a user is in besides */
	USERS_FILE_MAX = 4 << 20,  /* bytes of passwd or group */
	USERS_ID_MAX = 0x7fffffff, /* as runtimes take it */
};

struct users_id {
	uint32_t uid, gid;
	uint32_t extra[USERS_EXTRA_MAX];
	size_t extra_count;
};

/*
 * "" is root. A number needs no entry, then its group is root's. With a group given there are no others; without,
 * all that list the user. -ENOENT: the image does not know the name.
 */
int users_find(const char *user, const struct inlay_buf *passwd, const struct inlay_buf *group,
	       struct users_id *ret, struct inlay_error *err) inlay_must_check;

#endif
