/* SPDX-License-Identifier: Apache-2.0 */
#include "store/objindex.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/io.h"
#include "store/objtable.h"

enum {
	MAP_ROOM = 1 << 20, /* bytes of the mapping beyond the file, and a quarter of the file */
	PENDING_MIN = 256,
};

static uint64_t bytes_of(uint64_t entries)
{
	return INDEX_HEADER_BYTES + entries * INDEX_ENTRY_BYTES;
}

/* Whole entries in a file of that size, as far as we can count them. */
static uint32_t entries_of(uint64_t file_bytes)
{
	uint64_t n = file_bytes < INDEX_HEADER_BYTES
			     ? 0
			     : (file_bytes - INDEX_HEADER_BYTES) / INDEX_ENTRY_BYTES;

	return n > OBJINDEX_MAX ? OBJINDEX_MAX : (uint32_t)n;
}

/* ---- the mapping ---- */

static int map_file(struct objindex *ix, uint64_t bytes, struct inlay_error *err)
{
	if (bytes <= ix->map_bytes)
		return 0;
	size_t want = (size_t)(bytes + bytes / 4 + MAP_ROOM);
	/* Beyond the end of the file it costs nothing, and becomes readable when the file grows. */
	void *map = mmap(NULL, want, PROT_READ, MAP_SHARED, ix->fd, 0);
	if (map == MAP_FAILED)
		return inlay_error_sys(err, -errno, "map the index");
	if (ix->map)
		(void)munmap((void *)ix->map, ix->map_bytes);
	ix->map = map;
	ix->map_bytes = want;
	return 0;
}

/* Takes in entries filed..end-1. Those at the end that are not good are left for the next time. */
static void take_in(struct objindex *ix, uint32_t end)
{
	uint32_t from = ix->filed, first_bad = 0;
	struct place place;

	while (end > from && !layout_entry_decode(ix->map + bytes_of(end - 1), &place))
		end--;
	ix->filed = ix->count = end;
	uint32_t bad = objtable_link_all(ix, from, end, &first_bad);
	if (bad > 0 && ix->bad == 0)
		ix->first_bad = first_bad;
	ix->bad += bad;
}

int objindex_catch_up(struct objindex *ix, struct inlay_error *err)
{
	struct stat st;

	if (fstat(ix->fd, &st) < 0)
		return inlay_error_sys(err, -errno, "look at the index");
	uint32_t end = entries_of((uint64_t)st.st_size);
	if (end > ix->filed) {
		int r = map_file(ix, bytes_of(end), err);
		if (r == 0)
			r = objtable_reserve(ix, end - ix->filed, err);
		if (r < 0)
			return r;
		take_in(ix, end);
	}
	ix->file_bytes = (uint64_t)st.st_size;
	return 0;
}

enum objindex_news objindex_news(const struct objindex *ix)
{
	struct stat st;
	struct place place;

	/* The mark may be missing: the link count tells it too. */
	if (objindex_replaced(ix) || fstat(ix->fd, &st) < 0 || st.st_nlink == 0)
		return OBJINDEX_REPLACED;
	if ((uint64_t)st.st_size != ix->file_bytes)
		return OBJINDEX_GREW;
	/* The same size, but an append that was going on may be complete by now. */
	if (ix->filed < entries_of(ix->file_bytes) &&
	    layout_entry_decode(ix->map + bytes_of(ix->filed), &place))
		return OBJINDEX_GREW;
	return OBJINDEX_SAME;
}

bool objindex_damaged(const struct objindex *ix)
{
	return ix->bad > 0 || inlay_get_le64(ix->map + INDEX_REPLACED_OFF) != 0 ||
	       ix->file_bytes != bytes_of(ix->filed);
}

bool objindex_replaced(const struct objindex *ix)
{
	const uint64_t *replaced = (const uint64_t *)(ix->map + INDEX_REPLACED_OFF);

	return le64toh(__atomic_load_n(replaced, __ATOMIC_ACQUIRE)) == INDEX_REPLACED;
}

void objindex_mark_replaced(const struct objindex *ix)
{
	uint64_t mark = htole64(INDEX_REPLACED);

	/* Who misses it finds out from the link count, when it looks for an object in vain. */
	(void)!pwrite(ix->fd, &mark, sizeof mark, INDEX_REPLACED_OFF);
}

/* ---- making, opening ---- */

int objindex_create(int dirfd, const char *name, const struct index_head *head, int *ret_fd,
		    struct inlay_error *err)
{
	uint8_t bytes[INDEX_HEADER_BYTES];
	auto_close int fd =
		openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return inlay_error_sys(err, -errno, "create %s", name);
	layout_index_encode(head, bytes);
	int r = inlay_write_all(fd, bytes, sizeof bytes, name, err);
	if (r < 0)
		return r;
	*ret_fd = take_fd(fd);
	return 0;
}

static int open_checked(struct objindex *ix, struct inlay_error *err)
{
	uint8_t bytes[INDEX_HEADER_BYTES];
	size_t n;
	int r = inlay_pread_full(ix->fd, bytes, sizeof bytes, 0, &n, "the index", err);

	if (r < 0)
		return r;
	if (n < sizeof bytes)
		return inlay_error_set(err, -EBADMSG, "the index is shorter than its header");
	r = layout_index_check(bytes, &ix->head, err);
	if (r == 0)
		r = map_file(ix, sizeof bytes, err);
	if (r == 0)
		r = objtable_reserve(ix, 1, err);
	if (r == 0)
		r = objindex_catch_up(ix, err);
	return r;
}

int objindex_open(int fd, struct objindex **ret_index, struct inlay_error *err)
{
	auto_of(objindex_close) struct objindex *ix = calloc(1, sizeof *ix);

	if (!ix)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	ix->fd = fd;
	if (getrandom(&ix->seed, sizeof ix->seed, GRND_NONBLOCK) < 0)
		ix->seed = (uint64_t)inlay_monotonic_ns();
	int r = open_checked(ix, err);
	if (r < 0) {
		ix->fd = -1;
		return r;
	}
	*ret_index = take_ptr(ix);
	return 0;
}

void objindex_close(struct objindex *ix)
{
	if (!ix)
		return;
	if (ix->map)
		(void)munmap((void *)ix->map, ix->map_bytes);
	inlay_cleanup_close(&ix->fd);
	free(ix->pending);
	free(ix->slots);
	free(ix);
}

/* ---- looking ---- */

bool objindex_entry(const struct objindex *ix, uint32_t n, struct place *ret)
{
	return layout_entry_decode(objtable_entry_at(ix, n), ret);
}

bool objindex_find(const struct objindex *ix, const struct inlay_digest *id, struct place *ret,
		   uint32_t *ret_number)
{
	uint32_t n;

	if (!objtable_find(ix, id, &n) || !objindex_entry(ix, n, ret) || ret->dropped)
		return false;
	if (ret_number)
		*ret_number = n;
	return true;
}

bool objindex_current(const struct objindex *ix, uint32_t n, struct place *ret)
{
	uint32_t counts;

	return objindex_entry(ix, n, ret) && !ret->dropped &&
	       objtable_find(ix, &ret->id, &counts) && counts == n;
}

/* ---- appending ---- */

static int reserve_pending(struct objindex *ix, struct inlay_error *err)
{
	size_t have = ix->count - ix->filed;

	if (have < ix->pending_cap)
		return 0;
	size_t cap = ix->pending_cap ? ix->pending_cap * 2 : PENDING_MIN;
	uint8_t *pending = realloc(ix->pending, cap * INDEX_ENTRY_BYTES);
	if (!pending)
		return inlay_error_set(err, -ENOMEM, "out of memory for %zu index entries", cap);
	ix->pending = pending;
	ix->pending_cap = cap;
	return 0;
}

int objindex_add(struct objindex *ix, const struct place *place, struct inlay_error *err)
{
	if (ix->count >= OBJINDEX_MAX)
		return inlay_error_set(err, -EFBIG, "the index is full");
	int r = reserve_pending(ix, err);
	if (r == 0)
		r = objtable_reserve(ix, 1, err);
	if (r < 0)
		return r;
	uint32_t n = ix->count++;
	layout_entry_encode(place, ix->pending + (size_t)(n - ix->filed) * INDEX_ENTRY_BYTES);
	objtable_link(ix, n, place);
	return 0;
}

int objindex_flush_begin(struct objindex *ix, struct inlay_error *err)
{
	return map_file(ix, bytes_of(ix->count), err);
}

int objindex_flush_write(const struct objindex *ix, struct inlay_error *err)
{
	size_t bytes = (size_t)(ix->count - ix->filed) * INDEX_ENTRY_BYTES;
	struct stat st;
	int r = inlay_pwrite_all(ix->fd, ix->pending, bytes, bytes_of(ix->filed), "the index", err);

	/* What went out whole may be known to readers already and stays; it is written again, the
	 * same, when the rest is. */
	if (r < 0 && fstat(ix->fd, &st) == 0)
		(void)!ftruncate(ix->fd, (off_t)bytes_of(entries_of((uint64_t)st.st_size)));
	return r;
}

void objindex_flush_end(struct objindex *ix)
{
	ix->filed = ix->count;
	if (ix->file_bytes < bytes_of(ix->filed))
		ix->file_bytes = bytes_of(ix->filed);
}

int objindex_bury(struct objindex *ix, uint32_t n, struct inlay_error *err)
{
	uint8_t bytes[INDEX_ENTRY_BYTES];
	struct place place;
	int r = 0;

	if (!objindex_entry(ix, n, &place))
		return 0;
	objtable_uncount(&ix->totals, &place);
	place.dropped = true;
	layout_entry_encode(&place, bytes);
	if (n >= ix->filed)
		memcpy(ix->pending + (size_t)(n - ix->filed) * INDEX_ENTRY_BYTES, bytes,
		       sizeof bytes);
	else
		r = inlay_pwrite_all(ix->fd, bytes, sizeof bytes, bytes_of(n), "the index", err);
	return r;
}
