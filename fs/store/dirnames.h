/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_DIRNAMES_H
#define INLAY_STORE_DIRNAMES_H

/* The names in a directory, taken at once and sorted, so that walking over them may change it. */

#include <stddef.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

struct dirnames {
	size_t count;
	const char **names;    /* sorted, without "." and ".."; they point into text */
	struct inlay_buf text; /* the names, each with its NUL */
};

/* Reads the directory `name` below dirfd ("." is dirfd itself). */
int dirnames_read(int dirfd, const char *name, struct dirnames *ret, struct inlay_error *err)
	inlay_must_check;
void dirnames_fini(struct dirnames *d);

static inline void inlay_cleanup_dirnames_fini(struct dirnames *d)
{
	dirnames_fini(d);
}

#endif
