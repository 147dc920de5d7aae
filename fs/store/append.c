/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/pack.h"

/*
 * Appends are collected in memory and go out with one large write. Readers in this process find
 * what is still in memory through the index as any other object: get.c copies it from the buffer.
 * The buffer never moves, and bytes beyond packer.len are nobody's, so that a record is written
 * there without the table lock.
 */
enum { BUFFER_BYTES = 1 << 20 };

static int make_pack(struct inlay_store *store, struct inlay_error *err)
{
	struct packer *p = &store->packer;
	char name[PACK_NAME];

	if (store->next_pack == 0)
		return inlay_error_set(err, -EFBIG, "the store has no numbers for packs left");
	pack_name(store->next_pack, name);
	int fd = openat(store->packs, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			0600);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "create pack %s", name);
	store->dirty.any = store->dirty.packs_dir = true;
	layout_pack_encode(store->next_pack, p->buf);
	store->used += PACK_HEADER_BYTES;
	scope_wrlock(&store->table_lock);
	p->number = store->next_pack++;
	p->fd = fd;
	p->flushed = 0;
	p->len = PACK_HEADER_BYTES;
	return 0;
}

/* True when the last pack can be continued. Damage is not continued, nor is a pack that has lost
 * bytes which a point counts as good: what is appended would be counted so too. */
static bool may_continue(const struct inlay_store *store, const struct pack_file *p,
			 const struct point *point, int fd)
{
	uint8_t header[PACK_HEADER_BYTES];
	char name[PACK_NAME];
	size_t n;

	pack_name(p->number, name);
	return p->number >= point->pack && (p->number > point->pack || p->bytes >= point->off) &&
	       p->bytes < store->pack_max && p->bytes % LAYOUT_ALIGN == 0 &&
	       inlay_pread_full(fd, header, sizeof header, 0, &n, name, NULL) == 0 &&
	       n == sizeof header && layout_pack_check(header, p->number, name, NULL) == 0;
}

int append_resume(struct inlay_store *store, const struct point *point, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};
	auto_close int fd = -1;
	uint64_t next = (uint64_t)point->pack + (point->off > 0);
	int r = pack_list(store->packs, &packs, err);

	if (r < 0)
		return r;
	store->used = 0;
	for (size_t i = 0; i < packs.count; i++)
		store->used += packs.files[i].bytes;
	if (packs.count > 0) {
		const struct pack_file *last = &packs.files[packs.count - 1];
		if (next <= last->number)
			next = (uint64_t)last->number + 1;
		r = pack_open(store->packs, last->number, O_RDWR, &fd, err);
		if (r < 0)
			return r;
		if (r == 0 && may_continue(store, last, point, fd)) {
			store->packer.number = last->number;
			store->packer.flushed = last->bytes;
			store->packer.fd = take_fd(fd);
		}
	}
	store->next_pack = next > UINT32_MAX ? 0 : next > 0 ? (uint32_t)next : 1;
	return 0;
}

static int flush_pack(struct inlay_store *store, struct inlay_error *err)
{
	struct packer *p = &store->packer;
	char name[PACK_NAME];

	if (p->len == 0)
		return 0;
	pack_name(p->number, name);
	store->dirty.any = store->dirty.pack = true;
	int r = inlay_pwrite_all(p->fd, p->buf, p->len, p->flushed, name, err);
	if (r < 0) {
		/* A full disk gets back what went out; the next flush starts at the same place. */
		(void)!ftruncate(p->fd, (off_t)p->flushed);
		return r;
	}
	scope_wrlock(&store->table_lock);
	p->flushed += p->len;
	p->len = 0;
	return 0;
}

static int flush_index(struct inlay_store *store, struct inlay_error *err)
{
	struct objindex *ix = store->index;
	int r;

	if (ix->count == ix->filed)
		return 0;
	store->dirty.any = store->dirty.index = true;
	{
		scope_wrlock(&store->table_lock);
		r = objindex_flush_begin(ix, err);
	}
	if (r == 0)
		r = objindex_flush_write(ix, err);
	if (r < 0)
		return r;
	scope_wrlock(&store->table_lock);
	objindex_flush_end(ix);
	return 0;
}

int append_flush(struct inlay_store *store, struct inlay_error *err)
{
	/* An entry is never in its file before the bytes that it points to are in theirs. */
	int r = flush_pack(store, err);

	return r < 0 ? r : flush_index(store, err);
}

void append_seal(struct inlay_store *store)
{
	struct packer *p = &store->packer;

	if (p->number == 0)
		return;
	/* It may hold what is not synced yet. */
	durable_add_file(store, take_fd(p->fd));
	scope_wrlock(&store->table_lock);
	p->number = 0;
	p->flushed = 0;
}

void append_fini(struct inlay_store *store)
{
	inlay_cleanup_close(&store->packer.fd);
	free(store->packer.buf);
}

/* A pack and a place in the buffer for `bytes` more. */
static int make_room(struct inlay_store *store, size_t bytes, struct inlay_error *err)
{
	struct packer *p = &store->packer;
	bool full = p->number != 0 && p->flushed + p->len + bytes > store->pack_max;

	if (!p->buf)
		p->buf = malloc(BUFFER_BYTES);
	if (!p->buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (full || (p->number != 0 && p->len + bytes > BUFFER_BYTES)) {
		int r = append_flush(store, err);
		if (r < 0)
			return r;
	}
	if (full)
		append_seal(store);
	return p->number == 0 ? make_pack(store, err) : 0;
}

int append_object(struct inlay_store *store, const struct record *record, struct inlay_error *err)
{
	struct packer *p = &store->packer;
	size_t bytes = layout_record_bytes(record->size);
	int r = make_room(store, bytes, err);

	if (r < 0)
		return r;
	layout_record_encode(record, p->buf + p->len);
	struct place place = {.id = record->id,
			      .size = record->size,
			      .off = p->flushed + p->len,
			      .put_ns = record->put_ns,
			      .pack = p->number};
	scope_wrlock(&store->table_lock);
	r = objindex_add(store->index, &place, err);
	if (r < 0)
		return r;
	p->len += bytes;
	store->used += bytes;
	return 0;
}

int append_entry(struct inlay_store *store, const struct place *place, struct inlay_error *err)
{
	scope_wrlock(&store->table_lock);
	return objindex_add(store->index, place, err);
}
