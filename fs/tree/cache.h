/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TREE_CACHE_H
#define TREE_CACHE_H

#include "inlay/trees.h"

/* A tree object in memory. Immutable once pinned; the cache owns it. */
struct tree_pin {
	struct inlay_digest id;
	struct inlay_tree tree; /* a view of `bytes` */
	struct inlay_buf bytes;
	unsigned pins;                  /* guarded by the cache's lock */
	struct tree_pin *next_in_slot;  /* likewise */
	struct tree_pin *newer, *older; /* likewise: the list of unpinned ones, by last use */
};

/* Pins the object. Positive: INLAY_TREES_MISSING. */
int tree_pin_get(struct inlay_trees *trees, const struct inlay_digest *id, struct tree_pin **ret,
		 struct inlay_error *err) inlay_must_check;
void tree_pin_put(struct inlay_trees *trees, struct tree_pin *pin); /* accepts NULL */

#endif
