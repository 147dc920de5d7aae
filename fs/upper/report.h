/* SPDX-License-Identifier: Apache-2.0 */
#ifndef UPPER_REPORT_H
#define UPPER_REPORT_H

#include "inlay/trees.h"
#include "upper/upper.h"

/* Appends a struct worker_upper (mount/worker_proto.h) for each entry of the upper, as it lies over the tree `root`.
 * Positive: none. A tree that is missing is -EIO. */
int upper_report(struct upper *u, struct inlay_trees *trees, const struct inlay_digest *root,
		 struct inlay_buf *ret, uint64_t *ret_count, struct inlay_error *err)
	inlay_must_check;

#endif
