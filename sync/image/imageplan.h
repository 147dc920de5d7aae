/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGEPLAN_H
#define IMAGE_IMAGEPLAN_H

/*
 * Which contents an image has that another one has not, and against what old content each can travel: the one at
 * the same path, else at the path without its digits, else a shared library with the same name.
 */

#include "inlay/idset.h"
#include "inlay/store.h"
#include "inlay/trees.h"

struct imageplan_item {
	struct inlay_digest id;
	struct inlay_digest basis; /* zeros = none */
	uint64_t size, basis_size;
	size_t path; /* offset in paths */
};

struct imageplan {
	struct inlay_digest manifest, basis; /* basis zeros = none */
	struct imageplan_item *items;        /* each content once, in the order of paths */
	size_t count, cap;
	struct inlay_buf paths; /* with NULs */
	uint64_t bytes, files;  /* that a target with the basis has to write, in whole blocks */
	uint64_t content_bytes; /* of the items */
};

/* basis NULL: whatever the image needs. Positive: PLAN_MISSING, a tree of the basis is not here. */
enum { IMAGEPLAN_MISSING = 1 };
int imageplan_make(struct inlay_store *store, struct inlay_trees *trees,
		   const struct inlay_digest *manifest, const struct inlay_digest *basis,
		   struct imageplan *ret, struct inlay_error *err) inlay_must_check;
void imageplan_fini(struct imageplan *p);

/* Contents by their ids alone: what a target turned out to lack. -ESTALE: one is not here either. */
int imageplan_of_ids(struct inlay_store *store, const struct inlay_idset *ids,
		     const struct inlay_digest *manifest, struct imageplan *ret,
		     struct inlay_error *err) inlay_must_check;

#endif
