/* SPDX-License-Identifier: Apache-2.0 */
#include "store/repair.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "store/pack.h"

/*
 * What fsck told and nobody owns. A pack is only ever written over where no entry points to: the
 * bytes between two of its objects that are no good record become a PAD. A crash in the middle of
 * that leaves bad bytes where bad bytes were.
 */

/* How far the bad bytes from `off` on belong to nobody: to the next object of the pack or its end.
 * Good records in between are of objects that were dropped or moved. */
static uint64_t nobodys_end(struct repair *rp, uint32_t pack, uint64_t off, uint64_t end)
{
	while (rp->next < rp->claim_count) {
		const struct claim *c = &rp->claims[rp->next];
		if (c->pack > pack || (c->pack == pack && c->off >= off))
			return c->pack == pack && c->off < end ? c->off : end;
		rp->next++;
	}
	return end;
}

static int mend_records(struct repair *rp, uint32_t number, int fd, uint64_t end, bool *changed,
			struct inlay_error *err)
{
	auto_of(pack_walk_fini) struct pack_walk w = {0};
	struct record record;
	uint64_t off;
	int r = pack_walk_begin(fd, PACK_HEADER_BYTES, end, &w, err);

	while (r >= 0 && (r = pack_walk_next(&w, &record, &off, err)) >= 0) {
		if (r == PACK_WALK_END)
			return 0;
		if (r != PACK_WALK_BAD)
			continue;
		uint64_t to = nobodys_end(rp, number, off, end);
		r = repair_pad(fd, off, to & ~(uint64_t)(LAYOUT_ALIGN - 1), err);
		*changed = true;
		if (w.off < to)
			w.off = to;
	}
	return r;
}

static int mend_header(const struct pack_file *p, int fd, bool *changed, struct inlay_error *err)
{
	uint8_t header[PACK_HEADER_BYTES];
	char name[PACK_NAME];
	size_t n;

	pack_name(p->number, name);
	int r = inlay_pread_full(fd, header, sizeof header, 0, &n, name, err);
	if (r < 0 || n < sizeof header || layout_pack_check(header, p->number, name, NULL) == 0)
		return r;
	*changed = true;
	layout_pack_encode(p->number, header);
	return inlay_pwrite_all(fd, header, sizeof header, 0, name, err);
}

static int mend_pack(struct repair *rp, const struct pack_file *p, struct inlay_error *err)
{
	const struct packer *active = &rp->store->packer;
	bool is_active = p->number == active->number, changed = false;
	uint64_t end = is_active ? active->flushed : p->bytes;
	auto_close int fd = -1;

	int r = pack_open(rp->store->packs, p->number, O_RDWR, &fd, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = mend_header(p, fd, &changed, err);
	if (r == 0)
		r = mend_records(rp, p->number, fd, end, &changed, err);
	/* Less than a unit at the end can hold nothing. */
	if (r == 0 && !is_active && changed && end % LAYOUT_ALIGN != 0 &&
	    ftruncate(fd, (off_t)(end - end % LAYOUT_ALIGN)) < 0)
		r = inlay_error_sys(err, -errno, "cut pack %08x", p->number);
	if (r == 0 && changed && fdatasync(fd) < 0)
		r = inlay_error_sys(err, -errno, "sync pack %08x", p->number);
	return r;
}

/* A damaged file that no entry names. */
static int mend_stray(void *ctx, const struct inlay_digest *id, const char *name,
		      struct inlay_error *err)
{
	struct repair *rp = ctx;
	struct loose_check_options options = {.digest = true};
	auto_close int fd = -1;
	struct place place;

	if (!id || repair_is_there(rp, id))
		return 0;
	int r = loose_open(rp->store->loose, id, O_RDONLY, &fd, err);
	if (r == 0)
		r = loose_check(fd, id, &options, &place, err);
	if (r == -EBADMSG && unlinkat(rp->store->loose, name, 0) < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "remove loose/%s", name);
	return r == -EBADMSG || r == LOOSE_MISSING ? 0 : r;
}

static int mend_files(struct inlay_store *store, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};
	auto_of(repair_fini) struct repair rp = {.store = store};

	scope_lock(&store->write_lock);
	int r = append_flush(store, err);
	if (r == 0)
		r = repair_collect_claims(&rp, err);
	if (r == 0)
		r = pack_list(store->packs, &packs, err);
	for (size_t i = 0; r == 0 && i < packs.count; i++)
		r = mend_pack(&rp, &packs.files[i], err);
	return r < 0 ? r : loose_each(store->loose, mend_stray, &rp, err);
}

static bool index_is_damaged(struct inlay_store *store)
{
	uint8_t header[INDEX_HEADER_BYTES];
	struct index_head head;
	struct place place;
	size_t n;

	scope_rdlock(&store->table_lock);
	const struct objindex *ix = store->index;
	if (objindex_damaged(ix) ||
	    inlay_pread_full(ix->fd, header, sizeof header, 0, &n, "the index", NULL) < 0 ||
	    n < sizeof header || layout_index_check(header, &head, NULL) < 0)
		return true;
	for (uint32_t i = 0; i < ix->filed; i++)
		if (!objindex_entry(ix, i, &place))
			return true;
	return false;
}

int inlay_store_mend(struct inlay_store *store, struct inlay_error *err)
{
	int r = store_check_writer(store, err);

	if (r < 0)
		return r;
	scope_lock(&store->sweep_lock);
	r = mend_files(store, err);
	return r == 0 && index_is_damaged(store) ? reindex_store(store, NULL, err) : r;
}
