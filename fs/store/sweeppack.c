/* SPDX-License-Identifier: Apache-2.0 */
#include "store/sweep.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "store/pack.h"

/* The fourth step of sweep.c. */
enum {
	SYNC_BYTES = 64 << 20, /* bytes that are moved between two syncs */
	SMALL_PART = 8,        /* a pack below 1/8 of the full size is small */
};

static struct victim *find_pack(struct sweep *s, uint32_t number)
{
	size_t low = 0, high = s->pack_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (s->packs[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < s->pack_count && s->packs[low].number == number ? &s->packs[low] : NULL;
}

static void count_live(struct sweep *s, uint32_t number, const struct place *place)
{
	struct victim *v = place->pack != 0 ? find_pack(s, place->pack) : NULL;

	(void)number;
	if (v)
		v->live += layout_record_bytes((size_t)place->size);
}

static int measure_packs(struct sweep *s, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};
	int r = pack_list(s->store->packs, &packs, err);

	if (r < 0)
		return r;
	s->packs = calloc(packs.count + 1, sizeof *s->packs);
	if (!s->packs)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < packs.count; i++)
		s->packs[i] = (struct victim){.number = packs.files[i].number,
					      .bytes = packs.files[i].bytes};
	s->pack_count = packs.count;
	sweep_each_entry(s, count_live);
	return 0;
}

/* With write_lock held. The active pack takes what is moved, so it alone may be small. */
static bool is_victim(const struct inlay_store *store, const struct victim *v)
{
	uint32_t active = store->packer.number;

	if (v->number == active)
		return v->bytes > PACK_HEADER_BYTES && v->live < v->bytes / 2;
	return v->live < v->bytes / 2 || (active != 0 && v->bytes < store->pack_max / SMALL_PART);
}

static int choose_victims(struct sweep *s, struct inlay_error *err)
{
	struct inlay_store *store = s->store;
	size_t count = 0;
	int r = 0;

	scope_lock(&store->write_lock);
	for (size_t i = 0; r == 0 && i < s->pack_count; i++) {
		struct victim v = s->packs[i];
		if (!is_victim(store, &v))
			continue;
		if (v.number == store->packer.number) {
			r = append_flush(store, err);
			v.bytes = store->packer.flushed;
			if (r == 0)
				append_seal(store);
		}
		v.empty = v.live == 0;
		s->packs[count++] = v;
	}
	s->pack_count = count;
	return r;
}

static void collect_moving(struct sweep *s, uint32_t number, const struct place *place)
{
	struct victim *v = place->pack != 0 ? find_pack(s, place->pack) : NULL;

	(void)number;
	if (!v)
		return;
	if (s->moving_count == s->moving_cap) {
		size_t cap = s->moving_cap ? s->moving_cap * 2 : 256;
		struct moving *moving = realloc(s->moving, cap * sizeof *moving);
		if (!moving) { /* fewer packs are rewritten then */
			v->keep = true;
			return;
		}
		s->moving = moving;
		s->moving_cap = cap;
	}
	s->moving[s->moving_count++] = (struct moving){
		.victim = (size_t)(v - s->packs), .off = place->off, .id = place->id};
}

static int by_pack_and_offset(const void *a, const void *b)
{
	const struct moving *x = a, *y = b;

	if (x->victim != y->victim)
		return x->victim < y->victim ? -1 : 1;
	return (x->off > y->off) - (x->off < y->off);
}

/* Appends the object again, unless it is elsewhere by now. */
static int move_object(struct sweep *s, const struct moving *m, uint64_t *moved,
		       struct inlay_error *err)
{
	struct inlay_store *store = s->store;
	struct victim *v = &s->packs[m->victim];
	auto_free uint8_t *bytes = NULL;
	struct record record;
	struct place place;
	struct fdref ref;

	/* The lock is held while a record is read: a put of the same object has to wait. */
	scope_lock(&store->write_lock);
	{
		scope_rdlock(&store->table_lock);
		if (!objindex_find(store->index, &m->id, &place, NULL) || place.pack != v->number)
			return 0;
	}
	bytes = malloc(layout_record_bytes((size_t)place.size));
	if (!bytes)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = store_open_place(store, &place, &ref, err);
	if (r == 0) {
		r = pack_read(ref.fd, &place, bytes, &record, err);
		fdcache_release(&store->fds, &ref);
	}
	/* What is damaged stays where it is, and so does its pack: that is for fsck to tell. */
	if (r == -EBADMSG || r == -EIO) {
		v->keep = true;
		return 0;
	}
	if (r < 0)
		return r;
	record.put_ns = place.put_ns;
	r = append_object(store, &record, err);
	if (r == 0)
		*moved += layout_record_bytes(record.size);
	return r;
}

static void note_reference(struct sweep *s, uint32_t number, const struct place *place)
{
	struct victim *v = place->pack != 0 ? find_pack(s, place->pack) : NULL;

	(void)number;
	if (v && v->empty)
		v->keep = true;
}

/* Deletes the victims that are empty. What was moved out of them is on the disk. */
static int delete_packs(struct sweep *s, uint64_t moved, struct inlay_error *err)
{
	struct inlay_store *store = s->store;
	uint64_t deleted = 0;
	char name[PACK_NAME];

	/* The rule that needs no proof: no pack goes that an entry names. */
	sweep_each_entry(s, note_reference);
	for (size_t i = 0; i < s->pack_count; i++) {
		struct victim *v = &s->packs[i];
		struct inlay_digest key = fdcache_pack_key(v->number);
		if (!v->empty || v->keep || v->gone)
			continue;
		pack_name(v->number, name);
		if (unlinkat(store->packs, name, 0) < 0 && errno != ENOENT)
			return inlay_error_sys(err, -errno, "remove pack %s", name);
		fdcache_forget(&store->fds, &key);
		v->gone = true;
		deleted += v->bytes;
	}
	s->out.freed_bytes += deleted > moved ? deleted - moved : 0;
	return 0;
}

static int move_all(struct sweep *s, struct inlay_error *err)
{
	uint64_t moved = 0;
	size_t next = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->pack_count; i++) {
		while (r == 0 && next < s->moving_count && s->moving[next].victim == i)
			r = move_object(s, &s->moving[next++], &moved, err);
		s->packs[i].empty = r == 0;
		if (r < 0 || (moved < SYNC_BYTES && i + 1 < s->pack_count))
			continue;
		r = inlay_store_sync(s->store, err);
		if (r == 0)
			r = delete_packs(s, moved, err);
		moved = 0;
	}
	return r;
}

int sweep_packs(struct sweep *s, struct inlay_error *err)
{
	int r = measure_packs(s, err);

	if (r == 0)
		r = choose_victims(s, err);
	if (r < 0 || s->pack_count == 0)
		return r;
	/* Those without anything live cost nothing, and make room for the rest. */
	r = delete_packs(s, 0, err);
	if (r < 0)
		return r;
	sweep_each_entry(s, collect_moving);
	if (s->moving_count == 0)
		return 0;
	qsort(s->moving, s->moving_count, sizeof *s->moving, by_pack_and_offset);
	return move_all(s, err);
}
