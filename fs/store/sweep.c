/* SPDX-License-Identifier: Apache-2.0 */
#include "store/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/pack.h"

/*
 * gc in four steps, each of which leaves a store in which every live object can be read:
 *
 *   1. judge: which entries are dead. What is put, or put again, from here on is kept.
 *   2. the index is replaced by one without them; that needs little space.
 *   3. files that no entry names are deleted: loose files, packs without a live record. So a full
 *      disk has space again before anything is copied.
 *   4. what is live in packs that are mostly dead, or small, is appended to the active pack like
 *      any other object; when that is durable the old pack is deleted.
 */
enum {
	BATCH = 256,    /* entries that are looked at under one read lock */
	STALE_PART = 4, /* entries that do not count above which the index is remade */
};

static void sweep_fini(struct sweep *s)
{
	scope_lock(&s->store->write_lock);
	s->store->sweep_start_ns = 0;
	free(s->bits);
	free(s->packs);
	free(s->moving);
}
INLAY_DEFINE_FINI(struct sweep, sweep_fini)

/* ---- 1: judge ---- */

static bool is_old(const struct sweep *s, const struct place *place)
{
	int64_t age, limit = s->grace_ns > 0 ? s->grace_ns : 0;

	/* A put within the last STORE_FRESH_NS may have left no trace. */
	if (limit > 0 && __builtin_add_overflow(limit, (int64_t)STORE_FRESH_NS, &limit))
		return false;
	if (__builtin_sub_overflow(s->start_ns, place->put_ns, &age))
		return place->put_ns < 0;
	return age > limit;
}

static void judge(struct sweep *s, uint32_t number, const struct place *place)
{
	s->counting++;
	if (s->live(s->ctx, &place->id))
		return;
	if (!is_old(s, place)) {
		s->out.young++;
		return;
	}
	store_set_bit(s->bits, number);
	s->dead_count++;
}

static int start(struct sweep *s, struct inlay_error *err)
{
	struct inlay_store *store = s->store;

	scope_lock(&store->write_lock);
	s->start_ns = store->sweep_start_ns = store->now();
	s->dead.count = store->index->count;
	s->bits = calloc((size_t)s->dead.count / 64 + 1, sizeof *s->bits);
	if (!s->bits)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	s->dead.bits = s->bits;
	return 0;
}

/* Looks at the entries before `end`; those that count go to fn, outside of the lock. */
static void each_entry(struct sweep *s, uint32_t end, sweep_entry_fn *fn)
{
	struct place places[BATCH];
	uint32_t numbers[BATCH];

	for (uint32_t from = 0; from < end; from += BATCH) {
		uint32_t to = end - from < BATCH ? end : from + BATCH, count = 0;
		{
			scope_rdlock(&s->store->table_lock);
			for (uint32_t n = from; n < to; n++) {
				numbers[count] = n;
				if (objindex_current(s->store->index, n, &places[count]))
					count++;
			}
		}
		for (uint32_t i = 0; i < count; i++)
			fn(s, numbers[i], &places[i]);
	}
}

void sweep_each_entry(struct sweep *s, sweep_entry_fn *fn)
{
	uint32_t end;

	{
		scope_rdlock(&s->store->table_lock);
		end = s->store->index->count;
	}
	each_entry(s, end, fn);
}

/* ---- 2: the index ---- */

/* Not even room for a new index: the dead are marked in the old one, where they stand. */
static int bury_in_place(struct sweep *s, struct inlay_error *err)
{
	struct inlay_store *store = s->store;
	struct place place;
	int r = 0;

	scope_lock(&store->write_lock);
	scope_wrlock(&store->table_lock);
	for (uint32_t n = 0; r == 0 && n < s->dead.count; n++) {
		if (!store_bit(s->bits, n) || !objindex_current(store->index, n, &place))
			continue;
		r = objindex_bury(store->index, n, err);
		s->out.removed += r == 0;
		s->out.removed_bytes += r == 0 ? place.size : 0;
	}
	if (r == 0 && fdatasync(store->index->fd) < 0)
		r = inlay_error_sys(err, -errno, "sync the index");
	return r;
}

static int remake_index(struct sweep *s, struct inlay_error *err)
{
	struct inlay_error why;
	uint64_t stale = s->dead.count - s->counting;

	if (s->dead_count == 0 && stale <= s->dead.count / STALE_PART)
		return 0;
	int r = reindex_store(s->store, &s->dead, &why);
	if (r == 0) {
		s->out.removed = s->dead.removed;
		s->out.removed_bytes = s->dead.removed_bytes;
	} else if (store_out_of_space(r)) {
		r = bury_in_place(s, err);
	} else if (err) {
		*err = why;
	}
	return r;
}

/* ---- 3: loose files ---- */

static int remove_if_unknown(void *ctx, const struct inlay_digest *id, const char *name,
			     struct inlay_error *err)
{
	struct sweep *s = ctx;
	struct inlay_store *store = s->store;
	struct place place;
	struct stat st;
	bool known;

	if (!id) /* a put that is going on, or what a crash left: the next repair's */
		return 0;
	/* A put gives the file its name and its entry under this lock. */
	scope_lock(&store->write_lock);
	{
		scope_rdlock(&store->table_lock);
		known = objindex_find(store->index, id, &place, NULL);
	}
	if (known || fstatat(store->loose, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (unlinkat(store->loose, name, 0) < 0)
		return inlay_error_sys(err, -errno, "remove loose/%s", name);
	place = (struct place){.id = *id};
	store_forget_place(store, &place);
	s->out.freed_bytes += (uint64_t)st.st_size;
	return 0;
}

/* ---- the whole ---- */

static int recount(struct inlay_store *store, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};

	scope_lock(&store->write_lock);
	int r = pack_list(store->packs, &packs, err);
	if (r < 0)
		return r;
	store->used = store->packer.len + store->index->totals.loose_bytes;
	for (size_t i = 0; i < packs.count; i++)
		store->used += packs.files[i].bytes;
	return 0;
}

int inlay_store_sweep(struct inlay_store *store,
		      bool (*live)(void *ctx, const struct inlay_digest *id), void *ctx,
		      int64_t grace_ns, struct inlay_store_sweep *ret, struct inlay_error *err)
{
	int r = store_check_writer(store, err);

	if (r < 0)
		return r;
	scope_lock(&store->sweep_lock);
	auto_of(sweep_fini) struct sweep s = {
		.store = store, .live = live, .ctx = ctx, .grace_ns = grace_ns};
	r = start(&s, err);
	if (r < 0)
		return r;
	each_entry(&s, s.dead.count, judge);
	r = remake_index(&s, err);
	if (r == 0)
		r = loose_each(store->loose, remove_if_unknown, &s, err);
	if (r == 0)
		r = sweep_packs(&s, err);
	int counted = recount(store, r == 0 ? err : NULL);
	if (r == 0)
		r = counted;
	if (r < 0)
		return r;
	*ret = s.out;
	return 0;
}
