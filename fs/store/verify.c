/* SPDX-License-Identifier: Apache-2.0 */
#include "store/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/dirnames.h"
#include "store/pack.h"

/*
 * fsck. Each file is read as a plain sequence of bytes, not through the index, so that every byte
 * is under some checksum that is looked at: an index entry under its own, a record with its zeros
 * under its own, a loose file under those of its chunks and footer. While a pack is read, what the
 * index says is in it ("claims", by offset) is gone through at the same pace.
 *
 * Others may put and sweep meanwhile: an object is called bad only after it was looked up again
 * and could still not be read, and a torn end is nothing while there is a writer.
 */
enum {
	TICK_NS = 100000000, /* between two calls of progress() */
	ENTRIES_READ = 1024, /* entries of the index that are read at a time */
};

static void verify_fini(struct verify *v)
{
	free(v->claims);
	inlay_cleanup_close(&v->index);
	inlay_buf_fini(&v->scratch);
}
INLAY_DEFINE_FINI(struct verify, verify_fini)

/* ---- telling ---- */

void verify_report(struct verify *v, const struct inlay_digest *id, const char *fmt, ...)
{
	char what[INLAY_ERROR_TEXT + 100];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	v->out.bad++;
	v->found(v->ctx, id, what);
}

void verify_advance(struct verify *v, uint64_t bytes)
{
	v->done += bytes;
	if (!v->progress)
		return;
	int64_t now = inlay_monotonic_ns();
	if (now < v->next_tick_ns)
		return;
	v->next_tick_ns = now + TICK_NS;
	if (v->total < v->done)
		v->total = v->done; /* it grows while we read */
	v->progress(v->ctx, v->done, v->total);
}

static void seen(void *ctx, uint64_t bytes)
{
	verify_advance(ctx, bytes);
}

void verify_good_object(struct verify *v, uint64_t size)
{
	v->out.objects++;
	v->out.bytes += size;
}

bool verify_writer_elsewhere(const struct verify *v)
{
	if (v->store->writer)
		return false;
	auto_close int fd = openat(v->store->root, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* ---- index ---- */

static bool is_missing(struct verify *v, const struct inlay_digest *id)
{
	uint64_t size;

	return inlay_store_stat(v->store, id, &size) == INLAY_STORE_MISSING;
}

/* The digest of the record at a place that need not be one. */
static bool digest_at(struct verify *v, uint32_t pack, uint64_t off, struct inlay_digest *ret)
{
	uint8_t header[RECORD_HEADER_BYTES];
	auto_close int fd = -1;
	size_t n;

	if (pack == 0 || pack_open(v->store->packs, pack, O_RDONLY, &fd, NULL) != 0 ||
	    inlay_pread_full(fd, header, sizeof header, off, &n, "a pack", NULL) < 0 ||
	    n < sizeof header || !layout_record_likely(header))
		return false;
	memcpy(ret->b, header + offsetof(struct disk_record, digest), sizeof ret->b);
	return true;
}

/* Which object is lost with a damaged entry: what lies where it points, or what it names. Of a
 * loose file with a wrong name nothing is left that could tell. */
static bool lost_object(struct verify *v, const uint8_t *raw, struct inlay_digest *ret)
{
	struct disk_index_entry e;
	auto_close int fd = -1;

	memcpy(&e, raw, sizeof e);
	uint32_t pack = le32toh(e.pack);
	if (digest_at(v, pack, (uint64_t)le32toh(e.off8) * LAYOUT_ALIGN, ret) && is_missing(v, ret))
		return true;
	memcpy(ret->b, e.digest, sizeof ret->b);
	if (!is_missing(v, ret))
		return false;
	return pack != 0 || le64toh(e.size_flags) < INLAY_STORE_LOOSE_MIN ||
	       loose_open(v->store->loose, ret, O_RDONLY, &fd, NULL) == 0;
}

static void check_entries(struct verify *v, const uint8_t *entries, size_t count, uint64_t first)
{
	struct inlay_digest id;
	struct place place;

	for (size_t i = 0; i < count; i++) {
		const uint8_t *raw = entries + i * INDEX_ENTRY_BYTES;
		if (!layout_entry_decode(raw, &place))
			verify_report(v, lost_object(v, raw, &id) ? &id : NULL,
				      "entry %llu of the index is damaged",
				      (unsigned long long)first + i);
	}
}

static void check_index_header(struct verify *v)
{
	uint8_t header[INDEX_HEADER_BYTES];
	struct index_head head;
	struct inlay_error why;
	struct stat st;
	size_t n;

	if (inlay_pread_full(v->index, header, sizeof header, 0, &n, "the index", &why) < 0)
		verify_report(v, NULL, "%s", why.text);
	else if (n < sizeof header)
		verify_report(v, NULL, "the index is shorter than its header");
	else if (layout_index_check(header, &head, &why) < 0)
		verify_report(v, NULL, "%s", why.text);
	else if (inlay_get_le64(header + INDEX_REPLACED_OFF) != 0 &&
		 (fstat(v->index, &st) < 0 || st.st_nlink > 0))
		verify_report(v, NULL, "the index says that it was replaced");
}

static int check_index(struct verify *v, struct inlay_error *err)
{
	auto_free uint8_t *buf = malloc(ENTRIES_READ * INDEX_ENTRY_BYTES);
	struct inlay_error why;
	uint64_t off = INDEX_HEADER_BYTES;
	size_t n;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	check_index_header(v);
	while (off < v->index_bytes) {
		uint64_t left = v->index_bytes - off;
		size_t want = ENTRIES_READ * INDEX_ENTRY_BYTES;
		int r = inlay_pread_full(v->index, buf, left < want ? (size_t)left : want, off, &n,
					 "the index", &why);
		if (r < 0)
			verify_report(v, NULL, "%s", why.text);
		if (r < 0 || n == 0)
			break;
		check_entries(v, buf, n / INDEX_ENTRY_BYTES,
			      (off - INDEX_HEADER_BYTES) / INDEX_ENTRY_BYTES);
		if (n % INDEX_ENTRY_BYTES != 0 && !verify_writer_elsewhere(v))
			verify_report(v, NULL, "the index ends in the middle of an entry");
		verify_advance(v, n);
		off += n;
	}
	return 0;
}

/* ---- loose files ---- */

static int by_place(const void *a, const void *b)
{
	const struct claim *x = a, *y = b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return memcmp(x->id.b, y->id.b, sizeof x->id.b); /* all loose files have the same place */
}

static int check_loose(struct verify *v, const struct claim *c, struct inlay_error *err)
{
	struct loose_check_options options = {.digest = true, .seen = seen, .ctx = v};
	struct inlay_error why;
	auto_close int fd = -1;
	struct place found;
	uint64_t size;

	int r = loose_open(v->store->loose, &c->id, O_RDONLY, &fd, &why);
	if (r == LOOSE_MISSING) {
		/* gc may have taken it. */
		if (inlay_store_stat(v->store, &c->id, &size) == 0 && !store_refresh(v->store))
			verify_report(v, &c->id, "its file is missing");
		return 0;
	}
	if (r == 0)
		r = loose_check(fd, &c->id, &options, &found, &why);
	if (r == -ENOMEM) {
		if (err)
			*err = why;
		return r;
	}
	if (r < 0)
		verify_report(v, &c->id, "%s", why.text);
	else if (found.size != c->size)
		verify_report(v, &c->id, "its file and the index name different sizes");
	else
		verify_good_object(v, c->size);
	return 0;
}

/* A file that no entry names: gc's to remove, but damage in it is told. */
static int check_stray(void *ctx, const struct inlay_digest *id, const char *name,
		       struct inlay_error *err)
{
	struct verify *v = ctx;
	struct loose_check_options options = {.seen = seen, .ctx = v};
	struct inlay_error why;
	auto_close int fd = -1;
	struct place place;

	(void)err;
	if (!id)
		return 0;
	struct claim known = {.id = *id}; /* read already, even if it was dropped meanwhile */
	if (v->claim_count > 0 &&
	    bsearch(&known, v->claims, v->claim_count, sizeof known, by_place))
		return 0;
	if (!is_missing(v, id) || loose_open(v->store->loose, id, O_RDONLY, &fd, NULL) != 0)
		return 0;
	if (loose_check(fd, id, &options, &place, &why) < 0)
		verify_report(v, NULL, "loose/%s: %s", name, why.text);
	return 0;
}

/* ---- the whole ---- */

static int collect_claims(struct verify *v, struct inlay_error *err)
{
	struct inlay_store *store = v->store;
	struct place p;

	scope_rdlock(&store->table_lock);
	const struct objindex *ix = store->index;
	v->claims = calloc((size_t)ix->totals.objects + 1, sizeof *v->claims);
	if (!v->claims)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (uint32_t n = 0; n < ix->filed && v->claim_count < ix->totals.objects; n++)
		if (objindex_current(ix, n, &p))
			v->claims[v->claim_count++] = (struct claim){
				.pack = p.pack, .off = p.off, .size = p.size, .id = p.id};
	v->index_bytes = store->writer
				 ? INDEX_HEADER_BYTES + (uint64_t)ix->filed * INDEX_ENTRY_BYTES
				 : ix->file_bytes;
	v->total = v->index_bytes + ix->totals.loose_bytes;
	v->active = store->packer.number;
	v->flushed = store->packer.flushed;
	/* Not the file that has the name: it may be another one by the time we read it. */
	v->index = fcntl(ix->fd, F_DUPFD_CLOEXEC, 0);
	if (v->index < 0)
		return inlay_error_sys(err, -errno, "read the index");
	return 0;
}

static int check_refs(struct verify *v, struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	int r = refs_list(v->store, &d, err);

	for (size_t i = 0; r == 0 && i < d.count; i++) {
		auto_free struct inlay_history *history = NULL;
		struct inlay_error why;
		if (refs_read(v->store, d.names[i], &history, NULL, &why) < 0)
			verify_report(v, NULL, "%s", why.text);
	}
	return r;
}

static int check_all(struct verify *v, const struct pack_list *packs, struct inlay_error *err)
{
	struct inlay_error why;
	int r = store_read_format(v->store->root, &why);

	if (r != 0)
		verify_report(v, NULL, "%s", r < 0 ? why.text : "the format file is missing");
	r = check_index(v, err);
	/* Loose claims come first. */
	while (r == 0 && v->next < v->claim_count && v->claims[v->next].pack == 0)
		r = check_loose(v, &v->claims[v->next++], err);
	if (r == 0)
		r = verify_packs(v, packs, err);
	if (r == 0)
		r = loose_each(v->store->loose, check_stray, v, err);
	return r < 0 ? r : check_refs(v, err);
}

int inlay_store_verify(struct inlay_store *store,
		       void (*found)(void *ctx, const struct inlay_digest *id, const char *what),
		       void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
		       struct inlay_store_check *ret, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};

	scope_lock(&store->sweep_lock);
	auto_of(verify_fini) struct verify v = {
		.store = store, .found = found, .progress = progress, .ctx = ctx, .index = -1};
	if (store->writer) {
		scope_lock(&store->write_lock);
		(void)!append_flush(store, NULL);
	}
	(void)store_refresh(store);
	int r = collect_claims(&v, err);
	if (r == 0)
		qsort(v.claims, v.claim_count, sizeof *v.claims, by_place);
	if (r == 0)
		r = pack_list(store->packs, &packs, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < packs.count; i++)
		v.total += packs.files[i].bytes;
	r = check_all(&v, &packs, err);
	if (r < 0)
		return r;
	if (v.progress)
		v.progress(v.ctx, v.done, v.total);
	*ret = v.out;
	return 0;
}
