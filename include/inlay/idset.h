/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_IDSET_H
#define INLAY_IDSET_H

/*
 * A set of digests, with a number for each member (the order in which it came, from 0). Not
 * thread-safe. 40 bytes a member and a table of 4 bytes a slot.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"

struct inlay_idset {
	struct inlay_digest *members; /* in the order in which they came */
	uint32_t *slots;              /* member number + 1, 0 = empty */
	size_t count, cap, slot_count;
};

void inlay_idset_fini(struct inlay_idset *set);
INLAY_DEFINE_FINI(struct inlay_idset, inlay_idset_fini)

bool inlay_idset_has(const struct inlay_idset *set, const struct inlay_digest *id);
/* The member's number, or -1. */
int64_t inlay_idset_number(const struct inlay_idset *set, const struct inlay_digest *id);
/* The number of a member that begins with these eight bytes (inlay_digest_prefix), or -1. */
int64_t inlay_idset_find(const struct inlay_idset *set, uint64_t prefix);

enum { INLAY_IDSET_THERE = 1 }; /* positive result of add: it was a member before */
int inlay_idset_add(struct inlay_idset *set, const struct inlay_digest *id, struct inlay_error *err)
	inlay_must_check;

#endif
