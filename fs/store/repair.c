/* SPDX-License-Identifier: Apache-2.0 */
#include "store/repair.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "store/pack.h"

/*
 * After an unclean end, what lies after the newest point is unknown: packs may have torn records or
 * holes, the index may lack entries or have some whose objects never reached the disk. So each
 * record after the point is read and checked.
 *
 *   - A record that is whole and not in the index is taken in: what arrived stays.
 *   - Bad bytes at the end of a pack are cut off. Bad bytes before a good record become a PAD
 *     record, so that nothing good is thrown away and the pack is a plain sequence again.
 *   - An entry whose record or file is not good is taken out. What the index said before counts
 *     again: gc may have moved the object, and only the new copy of it is lost.
 *   - What comes before the point is not touched, unless the index itself is damaged there: then
 *     the point is taken to be the beginning.
 */

void repair_fini(struct repair *rp)
{
	free(rp->claims);
	free(rp->refusals);
}

bool repair_is_there(const struct repair *rp, const struct inlay_digest *id)
{
	struct place place;

	return objindex_find(rp->store->index, id, &place, NULL);
}

/* ---- entries ---- */

int repair_take_out(struct repair *rp, uint32_t number, struct inlay_error *err)
{
	struct place place;

	if (!objindex_current(rp->store->index, number, &place))
		return 0;
	if (rp->refusal_count == rp->refusal_cap) {
		size_t cap = rp->refusal_cap ? rp->refusal_cap * 2 : 64;
		struct refusal *refusals = realloc(rp->refusals, cap * sizeof *refusals);
		if (!refusals)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		rp->refusals = refusals;
		rp->refusal_cap = cap;
	}
	rp->refusals[rp->refusal_count++] =
		(struct refusal){.id = place.id, .number = number, .older = REFUSAL_NONE};
	place.dropped = true;
	return append_entry(rp->store, &place, err);
}

static int by_id(const void *a, const void *b)
{
	const struct refusal *x = a, *y = b;

	return memcmp(x->id.b, y->id.b, sizeof x->id.b);
}

/* Notes for each refusal what the index said before. */
static void find_older(struct repair *rp)
{
	const struct objindex *ix = rp->store->index;
	struct place place;

	for (uint32_t n = 0; n < ix->count; n++) {
		if (!objindex_entry(ix, n, &place))
			continue;
		struct refusal key = {.id = place.id};
		struct refusal *f =
			bsearch(&key, rp->refusals, rp->refusal_count, sizeof key, by_id);
		if (f && n < f->number)
			f->older = place.dropped ? REFUSAL_NONE : n;
	}
}

static int restore_older(struct repair *rp, const struct refusal *f, struct inlay_error *err)
{
	struct inlay_store *store = rp->store;
	struct record record;
	struct place place;
	struct fdref ref;

	if (f->older == REFUSAL_NONE || repair_is_there(rp, &f->id) ||
	    !objindex_entry(store->index, f->older, &place) || place.pack == 0)
		return 0;
	auto_free uint8_t *bytes = malloc(layout_record_bytes((size_t)place.size));
	if (!bytes)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = store_open_place(store, &place, &ref, err);
	if (r == 0) {
		r = pack_read(ref.fd, &place, bytes, &record, err);
		fdcache_release(&store->fds, &ref);
	}
	if (r == -EBADMSG || r == -EIO)
		return 0;
	return r < 0 ? r : append_entry(store, &place, err);
}

static int restore_all_older(struct repair *rp, struct inlay_error *err)
{
	int r = 0;

	if (rp->refusal_count == 0)
		return 0;
	qsort(rp->refusals, rp->refusal_count, sizeof *rp->refusals, by_id);
	find_older(rp);
	for (size_t i = 0; r == 0 && i < rp->refusal_count; i++)
		r = restore_older(rp, &rp->refusals[i], err);
	return r;
}

/* ---- loose files ---- */

enum { LOOSE_BAD = 1, LOOSE_UNREADABLE = 2 };

/* 0: good and *ret. BAD: missing or damaged. */
static int check_loose(struct repair *rp, const struct inlay_digest *id, bool digest,
		       struct place *ret, struct inlay_error *err)
{
	struct loose_check_options options = {.digest = digest};
	auto_close int fd = -1;
	int r = loose_open(rp->store->loose, id, O_RDONLY, &fd, err);

	if (r == 0) {
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		r = loose_check(fd, id, &options, ret, err);
	}
	if (r == -EIO) /* the disk may give it another time */
		return LOOSE_UNREADABLE;
	return r == LOOSE_MISSING || r == -EBADMSG ? LOOSE_BAD : r;
}

static int check_loose_entries(struct repair *rp, struct inlay_error *err)
{
	const struct objindex *ix = rp->store->index;
	uint32_t count = ix->count, from = 0;
	struct place place, found;
	int r = 0;

	if (rp->point.epoch == ix->head.epoch)
		from = rp->point.entries < count ? (uint32_t)rp->point.entries : count;
	for (uint32_t n = from; r == 0 && n < count; n++) {
		if (!objindex_current(ix, n, &place) || place.pack != 0)
			continue;
		r = check_loose(rp, &place.id, false, &found, err);
		if (r > 0 || (r == 0 && found.size != place.size))
			r = repair_take_out(rp, n, err);
	}
	return r;
}

/* A file that no entry names: an object whose entry did not reach the disk, or rubbish. */
static int settle_loose(void *ctx, const struct inlay_digest *id, const char *name,
			struct inlay_error *err)
{
	struct repair *rp = ctx;
	struct place place;

	if (id && repair_is_there(rp, id))
		return 0;
	if (id) {
		int r = check_loose(rp, id, true, &place, err);
		if (r == 0)
			return append_entry(rp->store, &place, err);
		if (r != LOOSE_BAD)
			return r < 0 ? r : 0;
	}
	if (unlinkat(rp->store->loose, name, 0) < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "remove loose/%s", name);
	return 0;
}

/* ---- the whole ---- */

/* True when the index lacks entries that were durable: then only the packs tell what there is. A
 * point of another epoch, newer than the index's own, belongs to an index that is lost. */
static bool index_lost_entries(const struct objindex *ix, const struct point *point)
{
	return point->epoch != ix->head.epoch || ix->filed < point->entries ||
	       (ix->bad > 0 && ix->first_bad < point->entries);
}

/* Gets the result onto the disk. A full disk does not keep the store from being opened: what is
 * missing stays in memory, and goes out with the next sync. */
static int make_durable(struct inlay_store *store, struct inlay_error *err)
{
	struct inlay_error why;

	store->dirty.any = store->dirty.everything = true;
	int r = inlay_store_sync(store, &why);
	if (r == 0 && objindex_damaged(store->index))
		r = reindex_store(store, NULL, &why);
	if (r == 0 || store_out_of_space(r))
		return 0;
	if (err)
		*err = why;
	return r;
}

int repair_store(struct inlay_store *store, const struct point *point, struct inlay_error *err)
{
	auto_of(repair_fini) struct repair rp = {.store = store, .point = *point};

	if (index_lost_entries(store->index, point))
		rp.point = (struct point){0};
	store->synced = rp.point;
	int r = repair_packs(&rp, err);
	if (r == 0)
		r = append_resume(store, point, err);
	if (r == 0)
		r = check_loose_entries(&rp, err);
	if (r == 0)
		r = loose_each(store->loose, settle_loose, &rp, err);
	if (r == 0)
		r = restore_all_older(&rp, err);
	return r < 0 ? r : make_durable(store, err);
}
