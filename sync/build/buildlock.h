/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BUILD_BUILDLOCK_H
#define BUILD_BUILDLOCK_H

/*
 * The images that a recipe begins with, as digests. A tag is resolved once, by the builder, and kept in
 * the file inlay.lock beside the recipe ("IMAGE PLATFORM sha256:..." in each line); or else a tag that
 * moved would make "the same inputs" a lie. The lock file belongs into version control.
 */

#include "build/buildrecipe.h"

struct build_bases {
	struct inlay_buf lines; /* "base IMAGE sha256:...", for the inputs */
	struct inlay_buf text;  /* the recipe with digests in place of tags */
};

struct build_bases_options {
	const char *platform;
	const char *const *args; /* "NAME=value" */
	size_t arg_count;
	bool refresh; /* resolve again what is locked */
	bool offline; /* resolve nothing: what is not locked is told as "base IMAGE -" */
};

int build_bases_resolve(int dirfd, const struct recipe *r, const struct build_bases_options *o,
			struct build_bases *ret, struct inlay_error *err) inlay_must_check;
void build_bases_fini(struct build_bases *b);

#endif
