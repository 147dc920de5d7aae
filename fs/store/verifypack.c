/* SPDX-License-Identifier: Apache-2.0 */
#include "store/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/pack.h"

/* Something is wrong where the claim says that the object is. True when it was told. */
static int recheck(struct verify *v, const struct claim *c, const char *what, bool *ret_told,
		   struct inlay_error *err)
{
	struct inlay_error why;

	*ret_told = false;
	inlay_buf_clear(&v->scratch);
	int r = inlay_store_get(v->store, &c->id, INLAY_STORE_LOOSE_MIN, INLAY_STORE_CHECK_DIGEST,
				&v->scratch, &why);
	if (r == 0)
		verify_good_object(v, c->size); /* gc has moved it */
	if (r == 0 || r == INLAY_STORE_MISSING)
		return 0;
	if (r == -ENOMEM) {
		if (err)
			*err = why;
		return r;
	}
	verify_report(v, &c->id, "%s: %s", what, why.text);
	*ret_told = true;
	return 0;
}

/* Goes through the claims before (pack, off): there was no good record for them. */
static int pass_claims(struct verify *v, uint32_t pack, uint64_t off, const char *what,
		       size_t *told, struct inlay_error *err)
{
	int r = 0;

	while (r == 0 && v->next < v->claim_count) {
		const struct claim *c = &v->claims[v->next];
		bool here;
		if (c->pack > pack || (c->pack == pack && c->off >= off))
			break;
		v->next++;
		r = recheck(v, c, what, &here, err);
		*told += r == 0 && here;
	}
	return r;
}

static int check_record(struct verify *v, uint32_t pack, uint64_t off, const struct record *record,
			struct inlay_error *err)
{
	struct inlay_digest digest;
	size_t told = 0;
	bool here;
	int r = pass_claims(v, pack, off, "there is no record of it", &told, err);

	if (r < 0 || v->next == v->claim_count)
		return r;
	const struct claim *c = &v->claims[v->next];
	if (c->pack != pack || c->off != off)
		return 0;
	v->next++;
	if (record->kind != RECORD_OBJECT || !inlay_digest_equal(&record->id, &c->id) ||
	    record->size != c->size)
		return recheck(v, c, "the index is wrong", &here, err);
	inlay_digest_of(record->payload, record->size, &digest);
	if (!inlay_digest_equal(&digest, &c->id))
		return recheck(v, c, "its digest is wrong", &here, err);
	verify_good_object(v, record->size);
	return 0;
}

static int check_bad_bytes(struct verify *v, uint32_t number, uint64_t from,
			   const struct pack_walk *w, struct inlay_error *err)
{
	size_t told = 0;
	int r = pass_claims(v, number, w->off, "a pack is damaged", &told, err);

	if (r < 0 || told > 0 || (w->off >= w->end && verify_writer_elsewhere(v)))
		return r;
	verify_report(v, NULL, "pack %08x: bytes %llu to %llu are no record", number,
		      (unsigned long long)from, (unsigned long long)w->off - 1);
	return 0;
}

static void check_pack_header(struct verify *v, uint32_t number, int fd)
{
	uint8_t header[PACK_HEADER_BYTES];
	char name[PACK_NAME];
	struct inlay_error why;
	size_t n;

	pack_name(number, name);
	if (inlay_pread_full(fd, header, sizeof header, 0, &n, name, &why) < 0 ||
	    (n == sizeof header && layout_pack_check(header, number, name, &why) < 0))
		verify_report(v, NULL, "%s", why.text);
	else if (n < sizeof header && !verify_writer_elsewhere(v))
		verify_report(v, NULL, "pack %s is shorter than its header", name);
}

static int check_records(struct verify *v, const struct pack_file *p, int fd, uint64_t end,
			 struct inlay_error *err)
{
	auto_of(pack_walk_fini) struct pack_walk w = {0};
	struct inlay_error why;
	struct record record;
	uint64_t off;
	int r = pack_walk_begin(fd, PACK_HEADER_BYTES, end, &w, err);

	while (r == 0) {
		uint64_t before = w.off;
		int what = pack_walk_next(&w, &record, &off, &why);
		if (what == PACK_WALK_END)
			break;
		if (what < 0) { /* the rest of the pack is tried object by object */
			verify_report(v, NULL, "pack %08x from %llu on: %s", p->number,
				      (unsigned long long)before, why.text);
			break;
		}
		r = what == PACK_WALK_BAD ? check_bad_bytes(v, p->number, off, &w, err)
					  : check_record(v, p->number, off, &record, err);
		verify_advance(v, w.off - before);
	}
	return r;
}

static int check_pack(struct verify *v, const struct pack_file *p, struct inlay_error *err)
{
	uint64_t end = p->number == v->active ? v->flushed : p->bytes;
	struct inlay_error why;
	auto_close int fd = -1;
	size_t told = 0;

	int r = pack_open(v->store->packs, p->number, O_RDONLY, &fd, &why);
	if (r < 0)
		verify_report(v, NULL, "%s", why.text);
	if (r != 0) /* gone by now: the claims are looked up again */
		return pass_claims(v, p->number, UINT64_MAX, "its pack is missing", &told, err);
	if (end > 0)
		check_pack_header(v, p->number, fd);
	r = check_records(v, p, fd, end, err);
	return r < 0 ? r
		     : pass_claims(v, p->number, UINT64_MAX, "its pack ends before it", &told, err);
}

int verify_packs(struct verify *v, const struct pack_list *packs, struct inlay_error *err)
{
	size_t told = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < packs->count; i++) {
		r = pass_claims(v, packs->files[i].number, 0, "its pack is missing", &told, err);
		if (r == 0)
			r = check_pack(v, &packs->files[i], err);
	}
	return r < 0 ? r
		     : pass_claims(v, UINT32_MAX, UINT64_MAX, "its pack is missing", &told, err);
}
