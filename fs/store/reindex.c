/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/io.h"

/*
 * A new index is made beside the old one while puts go on. What was there at the start is filtered
 * and written without a lock; what came meanwhile is copied as it is under the locks, and its
 * entries outrank the older ones, so an object that was put again, moved or dropped meanwhile is
 * right. Then the new file takes the name.
 */
#define NEW_INDEX ".index.new"

enum { BATCH = 1024 }; /* entries that are copied under one read lock */

struct fresh {
	int fd;
	uint32_t count;       /* entries written */
	struct inlay_buf out; /* those of the batch */
};

static void fresh_fini(struct fresh *f)
{
	inlay_cleanup_close(&f->fd);
	inlay_buf_fini(&f->out);
}
INLAY_DEFINE_FINI(struct fresh, fresh_fini)

static int write_batch(struct fresh *f, struct inlay_error *err)
{
	int r = inlay_buf_check(&f->out, err);

	if (r == 0)
		r = inlay_write_all(f->fd, f->out.data, f->out.len, NEW_INDEX, err);
	if (r == 0)
		f->count += (uint32_t)(f->out.len / INDEX_ENTRY_BYTES);
	inlay_buf_clear(&f->out);
	return r;
}

static void add_entry(struct fresh *f, const struct place *place)
{
	uint8_t *out = inlay_buf_reserve(&f->out, INDEX_ENTRY_BYTES);

	if (!out)
		return;
	layout_entry_encode(place, out);
	f->out.len += INDEX_ENTRY_BYTES;
}

/* Copies entries from..to-1 that count and are not dead. */
static int copy_filtered(struct inlay_store *store, struct fresh *f, uint32_t to,
			 const struct reindex_dead *dead, struct inlay_error *err)
{
	int64_t now = store->now();
	struct place place;
	int r = 0;

	for (uint32_t from = 0; r == 0 && from < to; from += BATCH) {
		uint32_t end = to - from < BATCH ? to : from + BATCH;
		{
			scope_rdlock(&store->table_lock);
			for (uint32_t n = from; n < end; n++) {
				if ((dead && store_bit(dead->bits, n)) ||
				    !objindex_current(store->index, n, &place))
					continue;
				/* Put when the clock was wrong: its age counts from now on. */
				if (place.put_ns > now)
					place.put_ns = now;
				add_entry(f, &place);
			}
		}
		r = write_batch(f, err);
	}
	return r;
}

/* With write_lock held: copies what came after, dropped entries too. */
static int copy_rest(struct inlay_store *store, struct fresh *f, uint32_t from,
		     struct inlay_error *err)
{
	struct place place;

	for (uint32_t n = from; n < store->index->count; n++)
		if (objindex_entry(store->index, n, &place))
			add_entry(f, &place);
	return write_batch(f, err);
}

/* With write_lock held: what is gone, and was not put again meanwhile. */
static void count_removed(const struct inlay_store *store, struct reindex_dead *dead)
{
	struct place place;

	dead->removed = dead->removed_bytes = 0;
	for (uint32_t n = 0; n < dead->count; n++) {
		if (!store_bit(dead->bits, n) || !objindex_current(store->index, n, &place))
			continue;
		dead->removed++;
		dead->removed_bytes += place.size;
	}
}

static int finish_file(struct inlay_store *store, struct fresh *f, uint64_t epoch,
		       struct inlay_error *err)
{
	uint8_t header[INDEX_HEADER_BYTES];
	struct index_head head = {.epoch = epoch, .point = store->synced};

	head.point.epoch = epoch;
	head.point.entries = f->count;
	layout_index_encode(&head, header);
	int r = inlay_pwrite_all(f->fd, header, sizeof header, 0, NEW_INDEX, err);
	if (r == 0 && fsync(f->fd) < 0)
		r = inlay_error_sys(err, -errno, "sync %s", NEW_INDEX);
	return r;
}

/* The file becomes the index, in the directory and in memory. */
static int take_name(struct inlay_store *store, struct fresh *f, struct inlay_error *err)
{
	auto_of(objindex_close) struct objindex *ix = NULL;
	int r = objindex_open(f->fd, &ix, err);

	if (r < 0)
		return r;
	f->fd = -1;
	if (renameat(store->root, NEW_INDEX, store->root, "index") < 0)
		return inlay_error_sys(err, -errno, "rename %s", NEW_INDEX);
	{
		scope_wrlock(&store->table_lock);
		struct objindex *old = store->index;
		store->index = ix;
		ix = old;
	}
	store->synced.epoch = store->index->head.epoch;
	store->synced.entries = store->index->filed;
	if (fsync(store->root) == 0) {
		/* Not before: a power cut could give the old file its name back. */
		if (ix)
			objindex_mark_replaced(ix);
		return 0;
	}
	/* The old file may have the name after a power cut: the next sync has to try again. */
	r = inlay_error_sys(err, -errno, "sync the directory of the store");
	store->dirty.any = store->dirty.root_dir = true;
	return r;
}

static int replace(struct inlay_store *store, struct fresh *f, struct reindex_dead *dead,
		   struct inlay_error *err)
{
	uint64_t epoch = store->index->head.epoch + 1;
	uint32_t start;

	{
		scope_rdlock(&store->table_lock);
		start = dead ? dead->count : store->index->count;
	}
	int r = copy_filtered(store, f, start, dead, err);
	/* The bulk of the disk's work, while others can put. */
	if (r == 0 && fdatasync(f->fd) < 0)
		r = inlay_error_sys(err, -errno, "sync %s", NEW_INDEX);
	if (r == 0)
		r = inlay_store_sync(store, err);
	if (r < 0)
		return r;
	scope_lock(&store->sync_lock);
	scope_lock(&store->write_lock);
	r = durable_sync_locked(store, err);
	if (r == 0)
		r = copy_rest(store, f, start, err);
	if (r == 0)
		r = finish_file(store, f, epoch, err);
	if (r < 0)
		return r;
	if (dead)
		count_removed(store, dead);
	return take_name(store, f, err);
}

static int create_fresh(struct inlay_store *store, uint64_t epoch, struct fresh *f,
			struct inlay_error *err)
{
	struct index_head head = {.epoch = epoch, .point = {.epoch = epoch}};

	return objindex_create(store->root, NEW_INDEX, &head, &f->fd, err);
}

int reindex_store(struct inlay_store *store, struct reindex_dead *dead, struct inlay_error *err)
{
	auto_of(fresh_fini) struct fresh f = {.fd = -1};
	int r = create_fresh(store, store->index->head.epoch + 1, &f, err);

	if (r == 0)
		r = replace(store, &f, dead, err);
	if (r < 0)
		(void)unlinkat(store->root, NEW_INDEX, 0);
	return r;
}

int reindex_from_nothing(struct inlay_store *store, uint64_t epoch, struct inlay_error *err)
{
	auto_of(fresh_fini) struct fresh f = {.fd = -1};
	int r = create_fresh(store, epoch, &f, err);

	if (r == 0)
		r = take_name(store, &f, err);
	if (r < 0)
		(void)unlinkat(store->root, NEW_INDEX, 0);
	return r;
}
