/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BUILD_BUILDRECIPE_H
#define BUILD_BUILDRECIPE_H

/*
 * What an image is built from, and by whom: a Containerfile (or Dockerfile) for buildah, podman or
 * docker, or a file `mmdebstrap` for mmdebstrap, which needs no container tool:
 *
 *     suite bookworm             the release
 *     epoch 1750000000           what is newer is dated so (SOURCE_DATE_EPOCH)
 *     include PACKAGE ...        also several times
 *     include[VARIANT] PACKAGE   only in that variant
 *     mirror LINE                where packages come from; without, what this machine has
 *     style minbase              mmdebstrap's own --variant
 */

#include <stdbool.h>
#include <stddef.h>

#include "build/buildhost.h"
#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/error.h"

enum builder_kind { BUILDER_BUILDAH, BUILDER_PODMAN, BUILDER_DOCKER, BUILDER_MMDEBSTRAP };

struct recipe {
	enum builder_kind kind;
	const char *builder;         /* its name; static */
	char program[4096];          /* its file, on that host */
	char version[64];            /* what tells it from another version of it */
	const struct build_host *on; /* where it builds; NULL = here */
	char file[16];               /* of the recipe, in the directory */
	struct inlay_buf text;
};

enum { RECIPE_MAX = 1 << 20 };

/* `builder` NULL: the first one that is there and has a recipe. `on` stays while the recipe does. -ENOENT when there
 * is none. */
int recipe_open(int dirfd, const char *builder, const struct build_host *on, struct recipe *ret,
		struct inlay_error *err) inlay_must_check;
void recipe_fini(struct recipe *r);

/* Calls fn for each variant that the recipe names: stages of a Containerfile that have a name, or
 * [variant]s. */
int recipe_variants(const struct recipe *r,
		    int (*fn)(void *ctx, const char *name, struct inlay_error *err), void *ctx,
		    struct inlay_error *err) inlay_must_check;

/* Calls fn for each image that a Containerfile begins with, with its ARGs put in; `args` are
 * "NAME=value" texts. Stages of its own and scratch are not told. `off` and `len`: where the name
 * stands in the text. */
int recipe_bases(const struct recipe *r, const char *const *args, size_t arg_count,
		 int (*fn)(void *ctx, const char *image, size_t off, size_t len,
			   struct inlay_error *err),
		 void *ctx, struct inlay_error *err) inlay_must_check;

/* The lines of an mmdebstrap recipe that count for a variant. */
struct bootstrap {
	struct inlay_buf suite, epoch, packages /* with commas */, mirror, style;
};
int recipe_bootstrap(const struct recipe *r, const char *variant, struct bootstrap *ret,
		     struct inlay_error *err) inlay_must_check;
void bootstrap_fini(struct bootstrap *b);

#endif
