/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_PLACE_H
#define SESSION_PLACE_H

/* A path of the user's, inside the source folder that it belongs to, and what the ignore rules say of it. */

#include <stdbool.h>
#include <sys/stat.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/ignore.h"

/*
 * The source folder: `given` (resolved), or else the innermost folder around `path` that was synced from
 * here, or that has a .git, or the current directory. Appends.
 */
int place_root(const char *given, const char *path, const char *state, struct inlay_buf *ret,
	       struct inlay_error *err) inlay_must_check;

/* The path relative to the root ("" is the root itself), with `is_dir` for a slash at the end. -EXDEV: it is
 * outside. Appends. */
int place_relative(const char *root, const char *path, struct inlay_buf *ret, bool *ret_slash,
		   struct inlay_error *err) inlay_must_check;

struct place {
	bool exists;
	struct stat st; /* of the name itself, when it exists */
	bool out;       /* left out */
	bool above;     /* by a rule for a directory above it */
	/* The rule that decided; pattern.len 0 = none did. */
	struct inlay_buf source, pattern;
	unsigned line;
	bool negated;
};

void place_fini(struct place *p);
INLAY_DEFINE_FINI(struct place, place_fini)

/* Asks the rules in force, directory by directory, as the scan does. Names need not exist. -ELOOP: a symlink is
 * on the way. */
int place_look(int root_fd, const struct inlay_ignore_options *options, const char *relative,
	       bool is_dir, struct place *ret, struct inlay_error *err) inlay_must_check;

#endif
