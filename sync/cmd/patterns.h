/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_PATTERNS_H
#define CMD_PATTERNS_H

/* --exclude, --include, --exclude-from: the options of whatever looks at a source folder. */

#include <stddef.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/ignore.h"

enum { PATTERNS_MAX = 10000 };

struct patterns {
	char **list; /* owned, weakest first */
	size_t count;
};

void patterns_fini(struct patterns *p);
INLAY_DEFINE_FINI(struct patterns, patterns_fini)
/* `prefix` "!" takes back in. */
int patterns_add(struct patterns *p, const char *prefix, const char *text, size_t len,
		 struct inlay_error *err) inlay_must_check;
int patterns_add_from(struct patterns *p, const char *path, struct inlay_error *err)
	inlay_must_check;
/* Borrows. */
void patterns_use(const struct patterns *p, struct inlay_ignore_options *ret);

#endif
