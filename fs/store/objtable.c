/* SPDX-License-Identifier: Apache-2.0 */
#include "store/objtable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/bytes.h"

enum { SLOTS_MIN = 256 };

/*
 * A slot holds an entry number + 1 in its low number_bits bits, and bits of the hash above them, so
 * that a slot of another digest is passed without a look at its entry. Digests are even already;
 * the seed and the folded product keep a peer from aiming at slots.
 */
static uint64_t hash_of(const struct objindex *ix, uint64_t prefix)
{
	unsigned __int128 wide = (unsigned __int128)(prefix ^ ix->seed) * 0x9e3779b97f4a7c15ull;

	return (uint64_t)(wide >> 64) ^ (uint64_t)wide;
}

static uint32_t home_slot(const struct objindex *ix, uint64_t hash)
{
	return (uint32_t)(((hash >> 32) * ix->slot_count) >> 32);
}

static uint32_t next_slot(const struct objindex *ix, uint32_t slot)
{
	return slot + 1 == ix->slot_count ? 0 : slot + 1;
}

static uint32_t number_mask(const struct objindex *ix)
{
	return (uint32_t)((1ull << ix->number_bits) - 1);
}

static bool has_tag(const struct objindex *ix, uint32_t value, uint64_t hash)
{
	return (((uint32_t)hash ^ value) & ~number_mask(ix)) == 0;
}

/* The entry that a slot in use names. */
static uint32_t number_in(const struct objindex *ix, uint32_t slot)
{
	return (ix->slots[slot] & number_mask(ix)) - 1;
}

/* The slot that names the digest, or the empty one where it belongs. */
static uint32_t slot_for(const struct objindex *ix, const uint8_t *digest, uint64_t hash)
{
	uint32_t slot = home_slot(ix, hash);

	while (ix->slots[slot] != 0 && (!has_tag(ix, ix->slots[slot], hash) ||
					memcmp(objtable_entry_at(ix, number_in(ix, slot)), digest,
					       INLAY_DIGEST_BYTES) != 0))
		slot = next_slot(ix, slot);
	return slot;
}

bool objtable_find(const struct objindex *ix, const struct inlay_digest *id, uint32_t *ret)
{
	uint32_t slot = slot_for(ix, id->b, hash_of(ix, inlay_get_le64(id->b)));

	if (ix->slots[slot] == 0)
		return false;
	*ret = number_in(ix, slot);
	return true;
}

static void add_totals(struct objindex_totals *t, const struct place *p)
{
	if (p->dropped)
		return;
	t->objects++;
	t->bytes += p->size;
	if (p->pack == 0) {
		t->loose++;
		t->loose_bytes += layout_loose_bytes(p->size);
	}
}

void objtable_uncount(struct objindex_totals *t, const struct place *p)
{
	if (p->dropped)
		return;
	t->objects--;
	t->bytes -= p->size;
	if (p->pack == 0) {
		t->loose--;
		t->loose_bytes -= layout_loose_bytes(p->size);
	}
}

void objtable_link(struct objindex *ix, uint32_t n, const struct place *place)
{
	uint64_t hash = hash_of(ix, inlay_get_le64(place->id.b));
	uint32_t slot = slot_for(ix, place->id.b, hash);
	struct place old;

	if (ix->slots[slot] == 0)
		ix->used++;
	else if (layout_entry_decode(objtable_entry_at(ix, number_in(ix, slot)), &old))
		objtable_uncount(&ix->totals, &old);
	ix->slots[slot] = ((uint32_t)hash & ~number_mask(ix)) | (n + 1);
	add_totals(&ix->totals, place);
}

/* A million entries wait for memory most of the time, so the slots are fetched some entries
 * ahead. */
uint32_t objtable_link_all(struct objindex *ix, uint32_t from, uint32_t to, uint32_t *ret_first_bad)
{
	enum { AHEAD = 16 };
	struct place ahead[AHEAD];
	bool good[AHEAD] = {0};
	uint32_t bad = 0;

	for (uint64_t i = from; i < (uint64_t)to + AHEAD; i++) {
		struct place *place = &ahead[i % AHEAD];
		if (good[i % AHEAD])
			objtable_link(ix, (uint32_t)(i - AHEAD), place);
		good[i % AHEAD] =
			i < to && layout_entry_decode(objtable_entry_at(ix, (uint32_t)i), place);
		if (good[i % AHEAD]) {
			uint64_t hash = hash_of(ix, inlay_get_le64(place->id.b));
			__builtin_prefetch(&ix->slots[home_slot(ix, hash)], 1);
		} else if (i < to && bad++ == 0) {
			*ret_first_bad = (uint32_t)i;
		}
	}
	return bad;
}

static unsigned bits_for(uint64_t n)
{
	unsigned bits = 1;

	while (bits < 32 && n >> bits != 0)
		bits++;
	return bits;
}

/* Half of the slots: 8 bytes an object. It may get a little fuller, so that the first puts after
 * opening do not have to wait for a new table. */
int objtable_reserve(struct objindex *ix, uint32_t more, struct inlay_error *err)
{
	uint64_t need = ((uint64_t)ix->used + more) * 2, end = (uint64_t)ix->count + more;
	uint32_t first_bad;

	if (need <= (uint64_t)ix->slot_count + ix->slot_count / 8 && end <= number_mask(ix))
		return 0;
	/* Growing by a quarter means a new table now and then, and never much too large a one. */
	uint64_t want = need + (ix->used > 0 ? need / 4 : 0) + SLOTS_MIN;
	if (want > UINT32_MAX || end > OBJINDEX_MAX)
		return inlay_error_set(err, -EFBIG, "the index is full");
	uint32_t *slots = calloc((size_t)want, sizeof *slots);
	if (!slots)
		return inlay_error_set(err, -ENOMEM, "out of memory for %u objects", ix->used);
	free(ix->slots);
	ix->slots = slots;
	ix->slot_count = (uint32_t)want;
	ix->number_bits = bits_for(end * 2);
	ix->used = 0;
	ix->totals = (struct objindex_totals){0};
	(void)objtable_link_all(ix, 0, ix->count, &first_bad);
	return 0;
}

bool objindex_find_prefix(const struct objindex *ix, uint64_t prefix, struct inlay_digest *ret_id)
{
	struct inlay_digest first = {0};
	struct place place;

	memcpy(first.b, &prefix, sizeof prefix); /* the inverse of inlay_digest_prefix */
	uint64_t hash = hash_of(ix, inlay_get_le64(first.b));
	for (uint32_t slot = home_slot(ix, hash); ix->slots[slot] != 0;
	     slot = next_slot(ix, slot)) {
		if (!has_tag(ix, ix->slots[slot], hash))
			continue;
		const uint8_t *entry = objtable_entry_at(ix, number_in(ix, slot));
		if (memcmp(entry, first.b, sizeof prefix) == 0 &&
		    layout_entry_decode(entry, &place) && !place.dropped) {
			*ret_id = place.id;
			return true;
		}
	}
	return false;
}
