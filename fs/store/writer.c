/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "store/dirnames.h"
#include "store/mark.h"

/* A point is only taken for what it can mean: damage makes us verify more, never less. */
static void check_point(struct point *point)
{
	if (point->off % LAYOUT_ALIGN != 0 || (point->off > 0 && point->off < PACK_HEADER_BYTES))
		*point = (struct point){0};
}

/* The index can be made again from packs and loose files. */
static int open_or_remake_index(struct inlay_store *store, struct point *point, bool *ret_remade,
				struct inlay_error *err)
{
	struct inlay_error why;
	int r = store_open_index(store, true, &why);

	*ret_remade = r == -EBADMSG;
	if (r < 0 && r != -EBADMSG) {
		if (err)
			*err = why;
		return r;
	}
	if (r == 0)
		*point = store->index->head.point;
	r = refs_newest_point(store, point, err);
	if (r < 0)
		return r;
	check_point(point);
	return *ret_remade ? reindex_from_nothing(store, point->epoch + 1, err) : 0;
}

/* What was not finished: names that begin with a dot. */
static int remove_leftovers(int dir, struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	int r = dirnames_read(dir, ".", &d, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < d.count; i++)
		if (d.names[i][0] == '.' && unlinkat(dir, d.names[i], 0) < 0)
			return inlay_error_sys(err, -errno, "remove %s", d.names[i]);
	return 0;
}

int writer_begin(struct inlay_store *store, struct inlay_error *err)
{
	enum mark mark = mark_read(store->lock);
	struct point point = {0};
	bool remade;

	store->writer = true;
	store->unclean = mark == MARK_OPEN;
	int r = mark_write(store->lock, MARK_OPEN, err);
	if (r == 0 && !store->cache && fdatasync(store->lock) < 0)
		r = inlay_error_sys(err, -errno, "sync its lock");
	if (r == 0)
		r = remove_leftovers(store->root, err);
	if (r == 0)
		r = remove_leftovers(store->refs, err);
	if (r == 0)
		r = remove_leftovers(store->loose, err);
	if (r == 0)
		r = open_or_remake_index(store, &point, &remade, err);
	if (r < 0)
		return r;
	store->synced = point;
	if (store->unclean || remade || objindex_damaged(store->index)) {
		r = repair_store(store, &point, err);
	} else {
		r = append_resume(store, &point, err);
		if (mark == MARK_SYNCED)
			store->synced = durable_reached(store);
		else
			store->dirty.any = store->dirty.everything = true;
	}
	if (r < 0)
		return r;
	store->used += store->index->totals.loose_bytes;
	store->ready = true;
	return 0;
}

void writer_end(struct inlay_store *store)
{
	scope_lock(&store->write_lock);
	if (append_flush(store, NULL) < 0 || store->suspect)
		return;
	(void)!mark_write(store->lock, store->dirty.any ? MARK_FLUSHED : MARK_SYNCED, NULL);
}
