/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_UPPERLIST_H
#define KEEP_UPPERLIST_H

/* The worker's list of the upper (struct worker_upper in mount/worker_proto.h), checked. Pure. */

#include "inlay/written.h"

/* Fills list->entries with views of `count` entries in the bytes. -EBADMSG. */
int upper_list_parse(const void *bytes, size_t len, uint64_t count, struct inlay_upper_list *list,
		     struct inlay_error *err) inlay_must_check;

#endif
