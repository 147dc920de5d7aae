/* SPDX-License-Identifier: Apache-2.0 */
#include "store/repair.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/pack.h"

static int by_place(const void *a, const void *b)
{
	const struct claim *x = a, *y = b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	return (x->off > y->off) - (x->off < y->off);
}

int repair_collect_claims(struct repair *rp, struct inlay_error *err)
{
	const struct objindex *ix = rp->store->index;
	struct place place;

	rp->claims = calloc((size_t)ix->count + 1, sizeof *rp->claims);
	if (!rp->claims)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (uint32_t n = 0; n < ix->count; n++) {
		if (!objindex_current(ix, n, &place) || place.pack == 0 ||
		    place.pack < rp->point.pack ||
		    (place.pack == rp->point.pack && place.off < rp->point.off))
			continue;
		rp->claims[rp->claim_count++] =
			(struct claim){.pack = place.pack, .number = n, .off = place.off};
	}
	qsort(rp->claims, rp->claim_count, sizeof *rp->claims, by_place);
	return 0;
}

/* Takes out all claims before (pack, off): nothing good was found there. */
static int refuse_claims(struct repair *rp, uint32_t pack, uint64_t off, struct inlay_error *err)
{
	int r = 0;

	while (r == 0 && rp->next < rp->claim_count) {
		const struct claim *c = &rp->claims[rp->next];
		if (c->pack > pack || (c->pack == pack && c->off >= off))
			break;
		r = repair_take_out(rp, c->number, err);
		rp->next++;
	}
	return r;
}

static bool is_claimed(const struct repair *rp, uint32_t number, const struct record *record)
{
	struct place place;

	return record->kind == RECORD_OBJECT && objindex_entry(rp->store->index, number, &place) &&
	       place.size == record->size && inlay_digest_equal(&place.id, &record->id);
}

/* What the index does not have, if it is what its digest says. */
static int take_record_in(struct repair *rp, uint32_t pack, uint64_t off,
			  const struct record *record, struct inlay_error *err)
{
	struct place place = {.id = record->id,
			      .size = record->size,
			      .off = off,
			      .put_ns = record->put_ns,
			      .pack = pack};
	struct inlay_digest digest;

	if (record->kind != RECORD_OBJECT || repair_is_there(rp, &record->id))
		return 0;
	inlay_digest_of(record->payload, record->size, &digest);
	if (!inlay_digest_equal(&digest, &record->id))
		return 0;
	return append_entry(rp->store, &place, err);
}

/* A good record is at (pack, off). More than one entry may say that it is its object's. */
static int settle_record(struct repair *rp, uint32_t pack, uint64_t off,
			 const struct record *record, struct inlay_error *err)
{
	int r = refuse_claims(rp, pack, off, err);

	for (; r == 0 && rp->next < rp->claim_count; rp->next++) {
		const struct claim *c = &rp->claims[rp->next];
		if (c->pack != pack || c->off != off)
			break;
		if (!is_claimed(rp, c->number, record))
			r = repair_take_out(rp, c->number, err);
	}
	return r < 0 ? r : take_record_in(rp, pack, off, record, err);
}

int repair_pad(int fd, uint64_t from, uint64_t to, struct inlay_error *err)
{
	enum { PAD_MAX = RECORD_BYTES_MAX - LAYOUT_ALIGN };
	auto_free uint8_t *buf = malloc(PAD_MAX);
	int r = 0;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (to - from < RECORD_HEADER_BYTES)
		return 0;
	while (r == 0 && from < to) {
		size_t bytes = to - from < PAD_MAX ? (size_t)(to - from) : PAD_MAX, n;
		if (to - from > bytes && to - from - bytes < RECORD_HEADER_BYTES)
			bytes -= RECORD_HEADER_BYTES; /* leave room for the last header */
		r = inlay_pread_full(fd, buf, bytes, from, &n, "a pack", err);
		if (r < 0)
			break;
		if (n < bytes)
			return inlay_error_set(err, -EIO, "a pack has become shorter");
		layout_record_pad(buf, (uint32_t)(bytes - RECORD_HEADER_BYTES));
		r = inlay_pwrite_all(fd, buf, RECORD_HEADER_BYTES, from, "a pack", err);
		from += bytes;
	}
	return r;
}

/* Goes over the records; *ret_end is where the good part of the pack ends. */
static int mend_records(struct repair *rp, const struct pack_file *p, int fd, uint64_t from,
			uint64_t *ret_end, struct inlay_error *err)
{
	auto_of(pack_walk_fini) struct pack_walk w = {0};
	struct record record;
	uint64_t off;
	int r = pack_walk_begin(fd, from, p->bytes, &w, err);

	*ret_end = from;
	while (r >= 0 && (r = pack_walk_next(&w, &record, &off, err)) >= 0) {
		if (r == PACK_WALK_END || (r == PACK_WALK_BAD && w.off >= w.end))
			return 0;
		if (r == PACK_WALK_BAD) {
			r = repair_pad(fd, off, w.off, err);
		} else {
			r = settle_record(rp, p->number, off, &record, err);
			*ret_end = w.off;
		}
	}
	return r;
}

static int mend_pack(struct repair *rp, const struct pack_file *p, struct inlay_error *err)
{
	uint8_t header[PACK_HEADER_BYTES];
	char name[PACK_NAME];
	auto_close int fd = -1;
	uint64_t end = 0, from = p->number == rp->point.pack ? rp->point.off : 0;
	size_t n;

	pack_name(p->number, name);
	int r = pack_open(rp->store->packs, p->number, O_RDWR, &fd, err);
	if (r != 0)
		return r < 0 ? r : 0;
	/* After a failed write the page cache may say other than the disk: read the disk. */
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	r = inlay_pread_full(fd, header, sizeof header, 0, &n, name, err);
	if (r == 0)
		r = mend_records(rp, p, fd, from < PACK_HEADER_BYTES ? PACK_HEADER_BYTES : from,
				 &end, err);
	if (r < 0)
		return r;
	bool good = n == sizeof header && layout_pack_check(header, p->number, name, NULL) == 0;
	if (!good && end <= PACK_HEADER_BYTES) {
		if (unlinkat(rp->store->packs, name, 0) < 0)
			return inlay_error_sys(err, -errno, "remove pack %s", name);
		return 0;
	}
	if (end < p->bytes && ftruncate(fd, (off_t)end) < 0)
		return inlay_error_sys(err, -errno, "cut pack %s", name);
	if (good)
		return 0;
	layout_pack_encode(p->number, header);
	return inlay_pwrite_all(fd, header, sizeof header, 0, name, err);
}

/* Takes out the entries whose pack is gone, wherever they are. */
static int check_packs_there(struct repair *rp, const struct pack_list *packs,
			     struct inlay_error *err)
{
	const struct objindex *ix = rp->store->index;
	uint32_t count = ix->count;
	struct place place;
	int r = 0;

	for (uint32_t n = 0; r == 0 && n < count; n++) {
		if (!objindex_current(ix, n, &place) || place.pack == 0)
			continue;
		size_t low = 0, high = packs->count;
		while (low < high) {
			size_t mid = low + (high - low) / 2;
			if (packs->files[mid].number < place.pack)
				low = mid + 1;
			else
				high = mid;
		}
		if (low == packs->count || packs->files[low].number != place.pack)
			r = repair_take_out(rp, n, err);
	}
	return r;
}

int repair_packs(struct repair *rp, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};
	int r = repair_collect_claims(rp, err);

	if (r == 0)
		r = pack_list(rp->store->packs, &packs, err);
	if (r == 0)
		r = check_packs_there(rp, &packs, err);
	for (size_t i = 0; r == 0 && i < packs.count; i++)
		if (packs.files[i].number >= rp->point.pack)
			r = mend_pack(rp, &packs.files[i], err);
	return r < 0 ? r : refuse_claims(rp, UINT32_MAX, UINT64_MAX, err);
}
