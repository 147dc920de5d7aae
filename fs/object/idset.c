/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/idset.h"

#include <errno.h>

void inlay_idset_fini(struct inlay_idset *set)
{
	free(set->members);
	free(set->slots);
	*set = (struct inlay_idset){0};
}

/* Digests are random already: their first bytes are the hash. */
static size_t slot_of(const struct inlay_idset *set, const struct inlay_digest *id)
{
	size_t at = inlay_digest_prefix(id) & (set->slot_count - 1);

	while (set->slots[at] && !inlay_digest_equal(&set->members[set->slots[at] - 1], id))
		at = (at + 1) & (set->slot_count - 1);
	return at;
}

int64_t inlay_idset_number(const struct inlay_idset *set, const struct inlay_digest *id)
{
	return set->slot_count ? (int64_t)set->slots[slot_of(set, id)] - 1 : -1;
}

int64_t inlay_idset_find(const struct inlay_idset *set, uint64_t prefix)
{
	if (!set->slot_count)
		return -1;
	size_t at = prefix & (set->slot_count - 1);
	while (set->slots[at] && inlay_digest_prefix(&set->members[set->slots[at] - 1]) != prefix)
		at = (at + 1) & (set->slot_count - 1);
	return (int64_t)set->slots[at] - 1;
}

bool inlay_idset_has(const struct inlay_idset *set, const struct inlay_digest *id)
{
	return inlay_idset_number(set, id) >= 0;
}

static int grow(struct inlay_idset *set, struct inlay_error *err)
{
	size_t cap = set->cap ? set->cap * 2 : 64;
	struct inlay_digest *members = reallocarray(set->members, cap, sizeof *members);

	if (!members)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	set->members = members;
	uint32_t *slots = calloc(cap * 2, sizeof *slots);
	if (!slots)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	free(set->slots);
	set->slots = slots;
	set->slot_count = cap * 2;
	set->cap = cap;
	for (size_t i = 0; i < set->count; i++)
		slots[slot_of(set, &members[i])] = (uint32_t)i + 1;
	return 0;
}

int inlay_idset_add(struct inlay_idset *set, const struct inlay_digest *id, struct inlay_error *err)
{
	if (inlay_idset_has(set, id))
		return INLAY_IDSET_THERE;
	if (set->count == UINT32_MAX - 1)
		return inlay_error_set(err, -E2BIG, "a set of more than 2^32 objects");
	if (set->count == set->cap) {
		int r = grow(set, err);
		if (r < 0)
			return r;
	}
	set->members[set->count++] = *id;
	set->slots[slot_of(set, id)] = (uint32_t)set->count;
	return 0;
}
