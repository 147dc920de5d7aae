/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_PATTERNS_H
#define CMD_PATTERNS_H

/* --exclude, --include, --exclude-from, --no-gitignore: the options of whatever looks at a source folder. */

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/ignore.h"

enum { PATTERNS_MAX = 10000 };

struct patterns {
	char **list; /* owned, weakest first */
	size_t count;
	bool no_gitignore;
};

enum patterns_option {
	PATTERNS_EXCLUDE = 2100,
	PATTERNS_INCLUDE,
	PATTERNS_EXCLUDE_FROM,
	PATTERNS_NO_GITIGNORE,
};
#define PATTERNS_OPTIONS                                                          \
	{"exclude", required_argument, NULL, PATTERNS_EXCLUDE},                   \
		{"include", required_argument, NULL, PATTERNS_INCLUDE},           \
		{"exclude-from", required_argument, NULL, PATTERNS_EXCLUDE_FROM}, \
	{                                                                         \
		"no-gitignore", no_argument, NULL, PATTERNS_NO_GITIGNORE          \
	}

void patterns_fini(struct patterns *p);
INLAY_DEFINE_FINI(struct patterns, patterns_fini)
/* Takes one option that getopt_long gave. False when it is not one of these; *ret is 0 or what was wrong. */
bool patterns_take(struct patterns *p, int option, const char *value, int *ret,
		   struct inlay_error *err);
/* Borrows. */
void patterns_use(const struct patterns *p, struct inlay_ignore_options *ret);

#endif
