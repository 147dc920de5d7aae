/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_IGNORE_H
#define INLAY_IGNORE_H

/*
 * Which names of a source folder are left out. The pattern language and its precedence are git's
 * own (gitignore(5); behaviour proven against `git check-ignore`), with these sources, the later
 * winning over the earlier:
 *
 *     built-in   ".git", ".inlay" at the root, editors' temporary files
 *     files      .gitignore and then .inlayignore of each directory, the deeper over the higher
 *     options    the project's `ignore:` and then --exclude, anchored at the root
 *
 * Names are bytes; there is no locale and no case folding. A directory that is left out is not
 * entered, so nothing below it can be taken back in (as in git). Thread-safe: a directory's rules
 * are immutable once made.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"

struct inlay_ignore_options {
	const char *const *patterns; /* gitignore lines, weakest first; anchored at the root */
	size_t pattern_count;
	bool no_gitignore; /* do not read .gitignore (.inlayignore is still read) */
	bool no_builtin;   /* without the built-in list; ".inlay" at the root stays out */
};

enum {
	INLAY_IGNORE_FILE_MAX = 1 << 20, /* bytes of one ignore file; larger is an error */
};

/* The rules in force inside one directory. Reference counted. */
struct inlay_ignore;

/*
 * The rules of the root directory rootfd (its own ignore files are read). An ignore file that is
 * not a regular file or cannot be read is an error that names it; a missing one is not. A symlink
 * is not followed (git refuses that too) and is an error.
 */
int inlay_ignore_root(int rootfd, const struct inlay_ignore_options *options,
		      struct inlay_ignore **ret, struct inlay_error *err) inlay_must_check;

/*
 * The rules of a directory directly below `parent`: dirfd is open on it, `name` is its name.
 * `has_gitignore` and `has_inlayignore` say whether the listing has such a file, so that
 * directories without one cost no system call. Gives a new reference (possibly to shared rules).
 * The caller has matched `name` before: an ignored directory is not entered.
 */
int inlay_ignore_enter(struct inlay_ignore *parent, int dirfd, const char *name, size_t len,
		       bool has_gitignore, bool has_inlayignore, struct inlay_ignore **ret,
		       struct inlay_error *err) inlay_must_check;

/* A number that is the same as long as the same rules are in force in the directory: a listing that
 * was filtered under another one has to be made anew. */
uint64_t inlay_ignore_fingerprint(const struct inlay_ignore *rules);

struct inlay_ignore *inlay_ignore_ref(struct inlay_ignore *rules);
void inlay_ignore_unref(struct inlay_ignore *rules); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct inlay_ignore, inlay_ignore_unref)

/* The rule that decided, for `check-ignore -v`. Borrowed from the rules. */
struct inlay_ignore_why {
	const char
		*source; /* "built-in", "--exclude", or the path of the file relative to the root */
	unsigned line;   /* from 1; 0 where there are no lines */
	const char *pattern; /* as written, with its '!' */
	bool negated;
};

/* True when the entry `name` directly inside the directory of `rules` is left out. *why (may be
 * NULL) is set when any rule matched, also a negated one; otherwise why->pattern is NULL. */
bool inlay_ignore_match(const struct inlay_ignore *rules, const char *name, size_t len, bool is_dir,
			struct inlay_ignore_why *why);

/* As git would decide of a path below the directory of `root`: it, or a directory above it, by these rules alone (no
 * files are read). 1 = left out, 0 = not. */
int inlay_ignore_match_path(struct inlay_ignore *root, const char *path, size_t len, bool is_dir,
			    struct inlay_error *err) inlay_must_check;

#endif
