/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_PLANT_H
#define IMAGE_PLANT_H

/* From the merged tree to tree objects in a store. */

#include "image/merge.h"
#include "inlay/store.h"
#include "inlay/tree.h"

/* The root's entry without a name: attributes, id and sums. Decides the link groups: a group's number
 * is the hash of its first path, so that one does not depend on what else is in the image. */
int plant(struct merge *m, struct inlay_store *store, struct inlay_entry *ret,
	  struct inlay_error *err) inlay_must_check;

#endif
