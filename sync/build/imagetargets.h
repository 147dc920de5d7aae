/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BUILD_IMAGETARGETS_H
#define BUILD_IMAGETARGETS_H

/*
 * The images that one recipe gives: one for each variant and platform. What went into the last build of
 * each is remembered below the state directory, in images/builds/<id>: "manifest <hex>" and the lines
 * of buildinputs.h. The same lines, and the image still here: nothing is started.
 */

#include "build/buildinputs.h"
#include "build/buildjobs.h"
#include "build/buildlock.h"
#include "inlay/image.h"

enum { BUILD_ARGV_MAX = 64 };

struct image_target {
	struct inlay_image_key key;
	struct inlay_buf inputs, before; /* lines: now, and of the last build ("" = none) */
	struct inlay_digest manifest;    /* of the last build */
	struct build_bases bases;
	char out[4096], recipe[4096]; /* files of this build */
	const char *argv[BUILD_ARGV_MAX];
	struct inlay_buf words; /* texts made for argv, each with a NUL */
	struct bootstrap bootstrap;
	char epoch[64];
	char *env[2];
	struct child_args there; /* argv as a command for ssh */
	int context_fd, out_fd;  /* likewise: what it reads and writes; 0 = none */
};

struct image_targets {
	int dirfd;  /* of the recipe */
	int builds; /* images/builds */
	const char *dir;
	const char *work; /* images, as a path */
	struct recipe recipe;
	struct build_context context;
	const char *const *args;
	size_t arg_count;
	struct image_target *items;
	size_t count;
};

struct image_targets_options {
	const char *dir, *name, *builder; /* name and builder may be NULL */
	const char *const *variants, *const *platforms, *const *args;
	size_t variant_count, platform_count, arg_count;
	const char *state;           /* the dev side's */
	const struct build_host *on; /* who builds; NULL = this machine */
	bool refresh, offline;
};

/* Reads everything that decides; starts the builder only to resolve tags that are not locked. */
int image_targets_open(struct image_targets *t, const struct image_targets_options *o,
		       struct inlay_error *err) inlay_must_check;
void image_targets_close(struct image_targets *t);

/* True when nothing has changed since the last build. */
bool image_target_same(const struct image_target *t);

/* Fills in what a job needs, and writes the recipe with digests. */
int image_target_prepare(struct image_targets *t, struct image_target *one, struct build_job *ret,
			 struct inlay_error *err) inlay_must_check;
/* Remembers what was built from these inputs. */
int image_target_remember(struct image_targets *t, const struct image_target *one,
			  const struct inlay_digest *manifest, struct inlay_error *err)
	inlay_must_check;

#endif
