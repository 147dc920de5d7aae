/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "store/pack.h"

/*
 * Reading takes the table lock shared to find the place, lets it go, and reads. Meanwhile gc may
 * move the object and delete what it was in; and a cached descriptor may be of a loose file that
 * was damaged, dropped and put anew. Both show as a file that is missing or as bytes that fail
 * their check, so then the place is looked up again, without the cache, and only a second failure
 * is damage.
 */

int store_prefix(struct inlay_error *err, int r, const struct inlay_digest *id)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(id, hex);
	return inlay_error_prefix(err, r, "object %s", hex);
}

/* ---- finding ---- */

/* Opens the file that has the name now. False: keep the old one, there may be no memory. */
static bool reopen_index(struct inlay_store *store)
{
	auto_of(objindex_close) struct objindex *fresh = NULL;
	auto_close int fd = openat(store->root, "index", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || objindex_open(fd, &fresh, NULL) < 0)
		return false;
	(void)take_fd(fd);
	objindex_close(store->index);
	store->index = take_ptr(fresh);
	return true;
}

bool store_refresh(struct inlay_store *store)
{
	enum objindex_news news;
	bool reopened = false, grown = false;

	if (store->writer)
		return false;
	{
		scope_rdlock(&store->table_lock);
		news = objindex_news(store->index);
	}
	if (news == OBJINDEX_SAME)
		return false;
	{
		scope_wrlock(&store->table_lock);
		/* Another thread may have done it by now. */
		if (objindex_news(store->index) == OBJINDEX_REPLACED)
			reopened = reopen_index(store);
		else
			grown = objindex_catch_up(store->index, NULL) == 0;
	}
	/* Packs that gc has deleted keep their space until nobody has them open. */
	if (reopened)
		fdcache_forget_all(&store->fds);
	return reopened || grown;
}

static bool find_now(struct inlay_store *store, const struct inlay_digest *id, struct place *ret)
{
	scope_rdlock(&store->table_lock);
	return objindex_find(store->index, id, ret, NULL);
}

static bool find(struct inlay_store *store, const struct inlay_digest *id, struct place *ret)
{
	bool replaced;

	{
		scope_rdlock(&store->table_lock);
		replaced = !store->writer && objindex_replaced(store->index);
		if (!replaced && objindex_find(store->index, id, ret, NULL))
			return true;
	}
	if (store->writer)
		return false;
	/* Looked up again in any case: another thread may have been the one that refreshed. */
	(void)store_refresh(store);
	return find_now(store, id, ret);
}

int inlay_store_stat(struct inlay_store *store, const struct inlay_digest *id, uint64_t *ret_size)
{
	struct place place;

	if (!find(store, id, &place))
		return INLAY_STORE_MISSING;
	*ret_size = place.size;
	return 0;
}

static bool find_prefix_now(struct inlay_store *store, uint64_t prefix, struct inlay_digest *ret)
{
	scope_rdlock(&store->table_lock);
	return objindex_find_prefix(store->index, prefix, ret);
}

int inlay_store_find(struct inlay_store *store, uint64_t prefix, struct inlay_digest *ret_id)
{
	if (find_prefix_now(store, prefix, ret_id))
		return 0;
	if (store->writer)
		return INLAY_STORE_MISSING;
	(void)store_refresh(store);
	return find_prefix_now(store, prefix, ret_id) ? 0 : INLAY_STORE_MISSING;
}

/* ---- opening ---- */

static struct inlay_digest key_of(const struct place *place)
{
	return place->pack != 0 ? fdcache_pack_key(place->pack) : place->id;
}

void store_forget_place(struct inlay_store *store, const struct place *place)
{
	struct inlay_digest key = key_of(place);

	fdcache_forget(&store->fds, &key);
}

static int open_loose(struct inlay_store *store, const struct place *place, int *ret_fd,
		      struct inlay_error *err)
{
	struct place found;
	auto_close int fd = -1;
	int r = loose_open(store->loose, &place->id, O_RDONLY, &fd, err);

	if (r == LOOSE_MISSING)
		return inlay_error_set(err, -EBADMSG, "its file is missing");
	if (r == 0)
		r = loose_look(fd, &found, err);
	if (r < 0)
		return r;
	if (found.size != place->size || !inlay_digest_equal(&found.id, &place->id))
		return inlay_error_set(err, -EBADMSG, "its file is that of another object");
	*ret_fd = take_fd(fd);
	return 0;
}

static int open_pack(struct inlay_store *store, const struct place *place, int *ret_fd,
		     struct inlay_error *err)
{
	int r = pack_open(store->packs, place->pack, O_RDONLY, ret_fd, err);

	if (r == PACK_MISSING)
		return inlay_error_set(err, -EBADMSG, "pack %08x is missing", place->pack);
	return r;
}

int store_open_place(struct inlay_store *store, const struct place *place, struct fdref *ret,
		     struct inlay_error *err)
{
	struct inlay_digest key = key_of(place);
	int fd = -1;

	if (fdcache_take(&store->fds, &key, ret))
		return 0;
	for (int attempt = 0;; attempt++) {
		int r = place->pack != 0 ? open_pack(store, place, &fd, err)
					 : open_loose(store, place, &fd, err);
		if (r == 0)
			break;
		if (attempt > 0 || (r != -EMFILE && r != -ENFILE))
			return r;
		/* The cache gives way to whoever else needs descriptors. */
		fdcache_forget_all(&store->fds);
	}
	fdcache_add(&store->fds, &key, fd, ret);
	return 0;
}

/* ---- reading ---- */

struct read {
	void *buf;
	size_t len;
	uint64_t off;
	/* or, for get: */
	struct inlay_buf *whole;
	size_t max;
	enum inlay_store_get_flags flags;
};

enum { NOT_BUFFERED = 1 };

/* Copies from a record that is not in its file yet. Checked as any other: an index that names more
 * than its pack has points into the buffer, too. */
static int read_buffered(struct inlay_store *store, const struct place *place, uint8_t *buf,
			 size_t len, size_t skip, struct inlay_error *err)
{
	const struct packer *p = &store->packer;
	struct record record;

	if (!store->writer)
		return NOT_BUFFERED;
	scope_rdlock(&store->table_lock);
	if (place->pack != p->number || place->off < p->flushed)
		return NOT_BUFFERED;
	uint64_t at = place->off - p->flushed;
	size_t have = at < p->len ? p->len - (size_t)at : 0;
	int r = pack_decode(have > 0 ? p->buf + at : NULL, have, place, &record, err);
	if (r == 0 && len > 0)
		memcpy(buf, record.payload + skip, len);
	return r;
}

static int read_packed(struct inlay_store *store, const struct place *place, uint8_t *buf,
		       size_t len, size_t skip, struct inlay_error *err)
{
	struct record record;
	struct fdref ref;
	int r = read_buffered(store, place, buf, len, skip, err);

	if (r != NOT_BUFFERED)
		return r;
	auto_free uint8_t *bytes = malloc(layout_record_bytes((size_t)place->size));
	if (!bytes)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	r = store_open_place(store, place, &ref, err);
	if (r < 0)
		return r;
	r = pack_read(ref.fd, place, bytes, &record, err);
	fdcache_release(&store->fds, &ref);
	if (r == 0 && len > 0)
		memcpy(buf, record.payload + skip, len);
	return r;
}

/* Exactly len bytes from off on, all of them inside of the object. */
static int read_place(struct inlay_store *store, const struct place *place, void *buf, size_t len,
		      uint64_t off, struct inlay_error *err)
{
	struct fdref ref;

	if (place->pack != 0)
		return read_packed(store, place, buf, len, (size_t)off, err);
	int r = store_open_place(store, place, &ref, err);
	if (r < 0)
		return r;
	r = loose_read(ref.fd, place->size, buf, len, off, err);
	fdcache_release(&store->fds, &ref);
	return r;
}

static int read_part(struct inlay_store *store, const struct place *place, struct read *rd,
		     size_t *ret_n, struct inlay_error *err)
{
	uint64_t left = rd->off < place->size ? place->size - rd->off : 0;
	size_t n = left < rd->len ? (size_t)left : rd->len;
	int r = n > 0 ? read_place(store, place, rd->buf, n, rd->off, err) : 0;

	if (r == 0)
		*ret_n = n;
	return r;
}

static int read_whole(struct inlay_store *store, const struct place *place, struct read *rd,
		      size_t *ret_n, struct inlay_error *err)
{
	struct inlay_digest digest;
	size_t size = (size_t)place->size;

	if (place->size > rd->max)
		return inlay_error_set(err, -E2BIG, "it has %llu bytes, more than %zu",
				       (unsigned long long)place->size, rd->max);
	uint8_t *room = inlay_buf_reserve(rd->whole, size);
	if (!room)
		return inlay_buf_check(rd->whole, err);
	int r = read_place(store, place, room, size, 0, err);
	if (r < 0)
		return r;
	if (rd->flags & INLAY_STORE_CHECK_DIGEST) {
		inlay_digest_of(room, size, &digest);
		if (!inlay_digest_equal(&digest, &place->id))
			return inlay_error_set(err, -EBADMSG, "its bytes are not what it says");
	}
	*ret_n = size;
	return 0;
}

static int read_object(struct inlay_store *store, const struct inlay_digest *id, struct read *rd,
		       size_t *ret_n, struct inlay_error *err)
{
	struct inlay_error why; /* *err stays as it is when the second attempt is good */
	struct place place;
	int r;

	for (int attempt = 0; attempt < 2; attempt++) {
		if (!find(store, id, &place))
			return INLAY_STORE_MISSING;
		r = rd->whole ? read_whole(store, &place, rd, ret_n, &why)
			      : read_part(store, &place, rd, ret_n, &why);
		if (r == 0)
			return 0;
		if (r != -EBADMSG)
			break;
		store_forget_place(store, &place);
		(void)store_refresh(store);
	}
	if (err)
		*err = why;
	return store_prefix(err, r, id);
}

int inlay_store_pread(struct inlay_store *store, const struct inlay_digest *id, void *buf,
		      size_t len, uint64_t off, size_t *ret_n, struct inlay_error *err)
{
	struct read rd = {.buf = buf, .len = len, .off = off};

	return read_object(store, id, &rd, ret_n, err);
}

int inlay_store_get(struct inlay_store *store, const struct inlay_digest *id, size_t max,
		    enum inlay_store_get_flags flags, struct inlay_buf *buf,
		    struct inlay_error *err)
{
	struct read rd = {.whole = buf, .max = max, .flags = flags};
	size_t n;
	int r = read_object(store, id, &rd, &n, err);

	if (r == 0)
		buf->len += n;
	return r;
}
