/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_TREESEND_H
#define SESSION_TREESEND_H

/* Directories into an object stream, as changes of directories that the receiver has. */

#include "inlay/trees.h"
#include "wire/objects.h"

struct treesend {
	struct objects_out *out;
	struct inlay_trees *trees;
	/* True when the directory need not be sent, with all that is below it. */
	bool (*has)(void *ctx, const struct inlay_digest *id);
	int (*begin)(void *ctx, struct inlay_error *err); /* before each one; may be NULL */
	void (*sent)(void *ctx, uint64_t raw);            /* behind it */
	void *ctx;
};

/* The directory `after` and all below it; `before` (NULL = none) is what the receiver has at that place. -ESTALE when a
 * tree of it is missing here. */
int treesend(const struct treesend *t, const struct inlay_digest *before,
	     const struct inlay_digest *after, struct inlay_error *err) inlay_must_check;

#endif
