/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * A small object is a record in the active pack. A large one is written to a file without a name,
 * by its own thread and without a lock; under the write lock it gets its name and its entry.
 *
 * Putting what is there already makes it young again, so that gc keeps it for the grace time: an
 * entry with the new time is appended, at most one a second for an object.
 */
struct inlay_store_put {
	struct inlay_store *store;
	uint64_t size; /* promised */
	uint64_t got;
	uint64_t reserved; /* of the quota */
	int failed;        /* the error of a write, then nothing else counts */
	bool hashed;       /* id is known from the start */
	struct inlay_digest id;
	struct inlay_hasher hasher;
	struct loose_writer *loose; /* a large object */
	uint8_t *bytes;             /* a small one, size bytes */
};

/* With write_lock held. 1: the object is there, and young now. */
static int known(struct inlay_store *store, const struct inlay_digest *id, struct inlay_error *err)
{
	struct place place;
	int64_t now = store->now();

	{
		scope_rdlock(&store->table_lock);
		if (!objindex_find(store->index, id, &place, NULL))
			return 0;
	}
	/* The running sweep may have judged it by its old time. */
	bool judged = store->sweep_start_ns != 0 && place.put_ns < store->sweep_start_ns;
	if (place.put_ns > now - STORE_FRESH_NS && !judged)
		return 1;
	place.put_ns = now;
	int r = append_entry(store, &place, err);
	return r < 0 ? r : 1;
}

/* With write_lock held. */
static int check_quota(const struct inlay_store *store, uint64_t bytes, struct inlay_error *err)
{
	uint64_t have = store->used + store->reserved;

	if (store->quota == 0 || (have <= store->quota && bytes <= store->quota - have))
		return 0;
	return inlay_error_set(err, -EDQUOT,
			       "the store's quota of %llu bytes is used up: %llu are in use, an "
			       "object needs %llu more",
			       (unsigned long long)store->quota, (unsigned long long)have,
			       (unsigned long long)bytes);
}

static int check_size(uint64_t size, struct inlay_error *err)
{
	if (size > INLAY_OBJECT_MAX)
		return inlay_error_set(err, -E2BIG, "an object of %llu bytes is larger than %llu",
				       (unsigned long long)size,
				       (unsigned long long)INLAY_OBJECT_MAX);
	return 0;
}

static int put_small(struct inlay_store *store, const struct inlay_digest *id, const void *bytes,
		     size_t len, struct inlay_error *err)
{
	struct record record = {.kind = RECORD_OBJECT,
				.size = (uint32_t)len,
				.put_ns = store->now(),
				.id = *id,
				.payload = bytes};

	return append_object(store, &record, err);
}

/* ---- in pieces ---- */

/* What it will take on the disk. */
static uint64_t cost_of(uint64_t size)
{
	return size < INLAY_STORE_LOOSE_MIN ? layout_record_bytes((size_t)size)
					    : layout_loose_bytes(size);
}

static int reserve(struct inlay_store_put *put, struct inlay_error *err)
{
	scope_lock(&put->store->write_lock);
	int r = check_quota(put->store, cost_of(put->size), err);
	if (r < 0)
		return r;
	put->reserved = cost_of(put->size);
	put->store->reserved += put->reserved;
	return 0;
}

int inlay_store_put_begin(struct inlay_store *store, uint64_t size,
			  struct inlay_store_put **ret_put, struct inlay_error *err)
{
	int r = store_check_writer(store, err);

	if (r == 0)
		r = check_size(size, err);
	if (r < 0)
		return r;
	auto_of(inlay_store_put_abort) struct inlay_store_put *put = calloc(1, sizeof *put);
	if (!put)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	put->store = store;
	put->size = size;
	inlay_hasher_init(&put->hasher);
	r = reserve(put, err);
	if (r < 0)
		return r;
	if (size >= INLAY_STORE_LOOSE_MIN) {
		r = loose_begin(store->loose, &put->loose, err);
	} else {
		put->bytes = malloc((size_t)size + 1);
		if (!put->bytes)
			r = inlay_error_set(err, -ENOMEM, "out of memory");
	}
	if (r < 0)
		return r;
	*ret_put = take_ptr(put);
	return 0;
}

int inlay_store_put_write(struct inlay_store_put *put, const void *bytes, size_t len,
			  struct inlay_error *err)
{
	if (put->failed < 0)
		return inlay_error_set(err, put->failed, "an earlier write of the object failed");
	if (len == 0)
		return 0;
	if (len > put->size - put->got)
		return put->failed = inlay_error_set(err, -EPROTO,
						     "an object has more than its %llu bytes",
						     (unsigned long long)put->size);
	if (put->loose)
		put->failed = loose_write(put->loose, bytes, len, err);
	else
		memcpy(put->bytes + put->got, bytes, len);
	if (put->failed < 0)
		return put->failed;
	if (!put->hashed)
		inlay_hasher_add(&put->hasher, bytes, len);
	put->got += len;
	return 0;
}

static int make_fanout(struct inlay_store *store, unsigned fanout, struct inlay_error *err)
{
	char name[3];

	if (store_bit(store->fanout_made, fanout))
		return 0;
	loose_fanout_name(fanout, name);
	if (mkdirat(store->loose, name, 0700) == 0)
		store->dirty.any = store->dirty.loose_dir = true;
	else if (errno != EEXIST)
		return inlay_error_sys(err, -errno, "make directory loose/%s", name);
	store_set_bit(store->fanout_made, fanout);
	return 0;
}

/* With write_lock held: from here on the object is there, or nothing of it. */
static int link_loose(struct inlay_store *store, struct loose_writer *w, const struct place *place,
		      struct inlay_error *err)
{
	char name[LOOSE_NAME];
	unsigned fanout = place->id.b[0];
	int r = make_fanout(store, fanout, err);

	if (r == 0)
		r = loose_link(w, &place->id, err);
	if (r < 0)
		return r;
	store_forget_place(store, place); /* of an older file with that name */
	r = append_entry(store, place, err);
	if (r < 0) {
		loose_name(&place->id, name);
		(void)unlinkat(store->loose, name, 0);
		return r;
	}
	store->used += layout_loose_bytes(place->size);
	store_set_bit(store->dirty.fanout, fanout);
	durable_add_file(store, take_fd(w->fd));
	return 0;
}

static int finish_small(struct inlay_store_put *put, struct inlay_error *err)
{
	struct inlay_store *store = put->store;

	scope_lock(&store->write_lock);
	int r = known(store, &put->id, err);
	if (r == 0)
		r = put_small(store, &put->id, put->bytes, (size_t)put->size, err);
	return r < 0 ? r : 0;
}

static int finish_loose(struct inlay_store_put *put, struct inlay_error *err)
{
	struct inlay_store *store = put->store;
	struct place place = {.id = put->id, .size = put->size, .put_ns = store->now()};
	int r = loose_seal(put->loose, &place, err);

	if (r < 0)
		return r;
	scope_lock(&store->write_lock);
	r = known(store, &put->id, err);
	if (r == 0)
		r = link_loose(store, put->loose, &place, err);
	return r < 0 ? r : 0;
}

int inlay_store_put_finish(struct inlay_store_put *ended, struct inlay_digest *ret_id,
			   struct inlay_error *err)
{
	auto_of(inlay_store_put_abort) struct inlay_store_put *put = ended;

	if (put->failed < 0)
		return inlay_error_set(err, put->failed, "an earlier write of the object failed");
	if (put->got != put->size)
		return inlay_error_set(err, -EPROTO, "an object has %llu bytes instead of %llu",
				       (unsigned long long)put->got, (unsigned long long)put->size);
	if (!put->hashed)
		inlay_hasher_end(&put->hasher, &put->id);
	int r = put->loose ? finish_loose(put, err) : finish_small(put, err);
	if (r == 0 && ret_id)
		*ret_id = put->id;
	return r;
}

void inlay_store_put_abort(struct inlay_store_put *put)
{
	if (!put)
		return;
	if (put->reserved > 0) {
		scope_lock(&put->store->write_lock);
		put->store->reserved -= put->reserved;
	}
	loose_free(put->loose);
	free(put->bytes);
	free(put);
}

/* ---- at once ---- */

static int put_large(struct inlay_store *store, const struct inlay_digest *id, const void *bytes,
		     size_t len, struct inlay_error *err)
{
	struct inlay_store_put *put;
	int r = inlay_store_put_begin(store, len, &put, err);

	if (r < 0)
		return r;
	put->hashed = true;
	put->id = *id;
	r = inlay_store_put_write(put, bytes, len, err);
	if (r == 0)
		return inlay_store_put_finish(put, NULL, err);
	inlay_store_put_abort(put);
	return r;
}

int inlay_store_put(struct inlay_store *store, const void *bytes, size_t len,
		    struct inlay_digest *ret_id, struct inlay_error *err)
{
	struct inlay_digest id;
	int r = store_check_writer(store, err);

	if (r == 0)
		r = check_size(len, err);
	if (r < 0)
		return r;
	inlay_digest_of(bytes, len, &id);
	{
		scope_lock(&store->write_lock);
		r = known(store, &id, err);
		if (r == 0 && len < INLAY_STORE_LOOSE_MIN) {
			r = check_quota(store, cost_of(len), err);
			if (r == 0)
				r = put_small(store, &id, bytes, len, err);
		}
	}
	if (r == 0 && len >= INLAY_STORE_LOOSE_MIN)
		r = put_large(store, &id, bytes, len, err);
	if (r < 0)
		return r;
	if (ret_id)
		*ret_id = id;
	return 0;
}

int inlay_store_drop(struct inlay_store *store, const struct inlay_digest *id,
		     struct inlay_error *err)
{
	struct place place;
	int r = store_check_writer(store, err);

	if (r < 0)
		return r;
	scope_lock(&store->write_lock);
	{
		scope_rdlock(&store->table_lock);
		if (!objindex_find(store->index, id, &place, NULL))
			return 0;
	}
	place.dropped = true;
	return append_entry(store, &place, err);
}
