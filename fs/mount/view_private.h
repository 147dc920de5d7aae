/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_VIEW_PRIVATE_H
#define MOUNT_VIEW_PRIVATE_H

#include "inlay/cleanup.h"
#include "mount/table.h"
#include "mount/view.h"

struct view {
	pthread_rwlock_t lock; /* table and gen */
	struct table *table;
	struct inlay_generation gen;
	struct inlay_trees *trees;
	struct view_options options;
};

/* Gives a node the attributes and the content of an entry (not a symlink's target). Lock held for
 * writing. */
void view_set_node(struct view *v, struct node *n, const struct inlay_entry *e);
/* Frees a node that nothing refers to any more. Lock held for writing. */
void view_drop_if_unused(struct view *v, uint32_t slot);

#endif
