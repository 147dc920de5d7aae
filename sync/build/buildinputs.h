/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BUILD_BUILDINPUTS_H
#define BUILD_BUILDINPUTS_H

/*
 * Everything that decides what a build gives, as lines of text, so that two builds can be compared and
 * what changed can be named: recipe, files of the context, digests of the images that it begins with,
 * arguments, platform, stage, builder. Times of the context's files are not in it. The same lines: no build.
 *
 * .dockerignore: only what it leaves out for certain is left out here (patterns behind the last '!' and
 * without "**"). What is looked at too much costs a build too much, never one too few.
 */

#include "build/buildrecipe.h"

#define BUILD_LOCK_FILE "inlay.lock"

struct build_context {
	struct inlay_buf lines;   /* of the files; empty for mmdebstrap */
	struct inlay_buf builder; /* its name, and size and time of its file */
};

/* What is the same for all variants and platforms. */
int build_context_read(int dirfd, const struct recipe *r, struct build_context *ret,
		       struct inlay_error *err) inlay_must_check;
void build_context_fini(struct build_context *c);

/* A "NAME digest" list, one in each line; see buildlock.h. */
int build_inputs(const struct recipe *r, const struct build_context *c, const char *platform,
		 const char *variant, const char *const *args, size_t arg_count, const char *bases,
		 struct inlay_buf *ret, struct inlay_error *err) inlay_must_check;

/* Calls fn for each line that only one of both has; sign is '-' or '+'. */
int build_inputs_differ(const char *before, const char *after,
			void (*fn)(void *ctx, char sign, const char *line, size_t len), void *ctx,
			struct inlay_error *err) inlay_must_check;

#endif
