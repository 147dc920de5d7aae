/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/dirnames.h"

/*
 * A ref is one small file: a header, the generations, a checksum over all of it. It is always
 * written whole, beside the old one, and renamed over it.
 */
enum {
	REF_HEADER_BYTES = 64,
	REF_GENERATION_BYTES = 108, /* without the origin */
	REF_CHECK_BYTES = 8,
	REF_NAME_MAX = 200,
	REF_BYTES_MAX = REF_HEADER_BYTES +
			INLAY_HISTORY_MAX * (REF_GENERATION_BYTES + INLAY_ORIGIN_MAX) +
			REF_CHECK_BYTES,
};

static const uint8_t ref_magic[8] = {'i', 'n', 'l', 'a', 'y', 'r', 'e', 'f'};

static int check_name(const char *ref, struct inlay_error *err)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	size_t len = strnlen(ref, REF_NAME_MAX + 1);

	if (len == 0 || len > REF_NAME_MAX || ref[0] == '.' || strspn(ref, allowed) != len)
		return inlay_error_set(err, -EINVAL,
				       "a ref's name has 1 to %d letters, digits and '._-', and no "
				       "dot at the start",
				       REF_NAME_MAX);
	return 0;
}

/* ---- bytes <-> structs ---- */

static void encode_generation(struct inlay_buf *b, const struct inlay_generation *g)
{
	size_t origin = strnlen(g->origin, INLAY_ORIGIN_MAX);

	inlay_buf_u64(b, g->number);
	inlay_buf_u64(b, g->parent);
	inlay_buf_u64(b, g->rollback_of);
	inlay_buf_u64(b, (uint64_t)g->time_ns);
	inlay_buf_u64(b, g->entries);
	inlay_buf_u64(b, g->bytes);
	inlay_buf_u64(b, g->changed);
	inlay_buf_u64(b, (uint64_t)g->root.mtime_ns);
	inlay_buf_u32(b, g->root.mode);
	inlay_buf_u64(b, origin);
	inlay_buf_add(b, g->root.tree.b, INLAY_DIGEST_BYTES);
	inlay_buf_add(b, g->origin, origin);
}

static void decode_generation(struct inlay_cursor *c, struct inlay_generation *g)
{
	*g = (struct inlay_generation){.number = inlay_cursor_u64(c)};
	g->parent = inlay_cursor_u64(c);
	g->rollback_of = inlay_cursor_u64(c);
	g->time_ns = (int64_t)inlay_cursor_u64(c);
	g->entries = inlay_cursor_u64(c);
	g->bytes = inlay_cursor_u64(c);
	g->changed = inlay_cursor_u64(c);
	g->root.mtime_ns = (int64_t)inlay_cursor_u64(c);
	g->root.mode = inlay_cursor_u32(c);
	uint64_t origin = inlay_cursor_u64(c);
	const uint8_t *tree = inlay_cursor_bytes(c, INLAY_DIGEST_BYTES);
	if (tree)
		memcpy(g->root.tree.b, tree, INLAY_DIGEST_BYTES);
	if (origin > INLAY_ORIGIN_MAX)
		c->failed = true;
	const uint8_t *text = inlay_cursor_bytes(c, c->failed ? 0 : (size_t)origin);
	if (text && memchr(text, 0, (size_t)origin))
		c->failed = true;
	if (text && !c->failed)
		memcpy(g->origin, text, (size_t)origin);
}

static void encode(struct inlay_buf *b, const struct inlay_generation *newest,
		   const struct inlay_generation *older, size_t count, uint64_t reserved,
		   const struct point *point)
{
	inlay_buf_add(b, ref_magic, sizeof ref_magic);
	inlay_buf_u32(b, LAYOUT_VERSION);
	inlay_buf_u32(b, INLAY_DIGEST_SHA256); /* the algorithm and three zeros */
	inlay_buf_u32(b, point->pack);
	inlay_buf_u32(b, (uint32_t)count);
	inlay_buf_u64(b, point->off);
	inlay_buf_u64(b, point->epoch);
	inlay_buf_u64(b, point->entries);
	inlay_buf_u64(b, reserved);
	inlay_buf_u64(b, 0);
	encode_generation(b, newest);
	for (size_t i = 0; i + 1 < count; i++)
		encode_generation(b, &older[i]);
	/* A failed buffer is found by inlay_buf_check(). */
	inlay_buf_u64(b, b->failed ? 0 : inlay_xxh3(b->data, b->len));
}

static int check_whole(const uint8_t *bytes, size_t len, struct inlay_error *err)
{
	if (len < REF_HEADER_BYTES + REF_CHECK_BYTES ||
	    memcmp(bytes, ref_magic, sizeof ref_magic) != 0 ||
	    inlay_get_le64(bytes + len - REF_CHECK_BYTES) !=
		    inlay_xxh3(bytes, len - REF_CHECK_BYTES))
		return inlay_error_set(err, -EBADMSG, "it is damaged");
	uint32_t version = inlay_get_le32(bytes + 8), algorithm = inlay_get_le32(bytes + 12);
	if (version != LAYOUT_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "it has version %u, this inlay reads version %d", version,
				       LAYOUT_VERSION);
	if (algorithm != INLAY_DIGEST_SHA256)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "it has hash algorithm %u, this inlay reads algorithm %d",
				       algorithm, INLAY_DIGEST_SHA256);
	return 0;
}

int refs_decode(const uint8_t *bytes, size_t len, struct inlay_history **ret_history,
		struct point *ret_point, struct inlay_error *err)
{
	int r = check_whole(bytes, len, err);

	if (r < 0)
		return r;
	struct inlay_cursor c = inlay_cursor_of(bytes + 16, len - 16 - REF_CHECK_BYTES);
	struct point point = {.pack = inlay_cursor_u32(&c)};
	uint32_t count = inlay_cursor_u32(&c);
	point.off = inlay_cursor_u64(&c);
	point.epoch = inlay_cursor_u64(&c);
	point.entries = inlay_cursor_u64(&c);
	uint64_t reserved = inlay_cursor_u64(&c);
	uint64_t zero = inlay_cursor_u64(&c);
	if (count == 0 || count > INLAY_HISTORY_MAX || count > c.left / REF_GENERATION_BYTES ||
	    zero != 0)
		return inlay_error_set(err, -EBADMSG, "it says what cannot be");
	auto_free struct inlay_history *h = calloc(1, sizeof *h + count * sizeof h->gens[0]);
	if (!h)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	h->count = count;
	h->reserved = reserved;
	for (uint32_t i = 0; i < count; i++)
		decode_generation(&c, &h->gens[i]);
	if (!inlay_cursor_done(&c))
		return inlay_error_set(err, -EBADMSG, "it says what cannot be");
	*ret_history = take_ptr(h);
	if (ret_point)
		*ret_point = point;
	return 0;
}

/* ---- files ---- */

int refs_read(struct inlay_store *store, const char *ref, struct inlay_history **ret_history,
	      struct point *ret_point, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(store->refs, ref, REF_BYTES_MAX, &b, err);

	if (r == INLAY_IO_MISSING)
		return INLAY_STORE_MISSING;
	/* Longer than any ref can be: not for the caller's limit, the file is wrong. */
	if (r == -E2BIG)
		r = inlay_error_set(err, -EBADMSG, "it is damaged");
	if (r == 0)
		r = refs_decode(b.data, b.len, ret_history, ret_point, err);
	return r < 0 ? inlay_error_prefix(err, r, "ref %s", ref) : 0;
}

int inlay_store_history(struct inlay_store *store, const char *ref,
			struct inlay_history **ret_history, struct inlay_error *err)
{
	int r = check_name(ref, err);

	return r < 0 ? r : refs_read(store, ref, ret_history, NULL, err);
}

static int check_publish(const struct inlay_store *store, const char *ref,
			 const struct inlay_generation *gen, size_t keep, struct inlay_error *err)
{
	int r = store_check_writer(store, err);

	if (r == 0)
		r = check_name(ref, err);
	if (r < 0)
		return r;
	if (keep == 0)
		return inlay_error_set(err, -EINVAL, "a history keeps at least one generation");
	if (keep > INLAY_HISTORY_MAX)
		return inlay_error_set(err, -E2BIG, "a history keeps at most %d generations",
				       INLAY_HISTORY_MAX);
	if (strnlen(gen->origin, sizeof gen->origin) > INLAY_ORIGIN_MAX)
		return inlay_error_set(err, -E2BIG, "the origin is longer than %d bytes",
				       INLAY_ORIGIN_MAX);
	return 0;
}

int inlay_store_publish(struct inlay_store *store, const char *ref,
			const struct inlay_generation *gen, size_t keep, uint64_t reserved,
			struct inlay_error *err)
{
	auto_free struct inlay_history *older = NULL;
	auto_buf struct inlay_buf b = {0};
	struct point point;
	int r = check_publish(store, ref, gen, keep, err);

	if (r < 0)
		return r;
	scope_lock(&store->ref_lock);
	r = refs_read(store, ref, &older, NULL, err);
	if (r < 0)
		return r;
	{
		scope_lock(&store->write_lock);
		point = store->synced;
	}
	/* Its own number is there already when it was published before and the last step failed. */
	size_t skip = older && older->gens[0].number == gen->number;
	size_t count = 1 + (older ? older->count - skip : 0);
	encode(&b, gen, older ? older->gens + skip : NULL, count < keep ? count : keep, reserved,
	       &point);
	r = inlay_buf_check(&b, err);
	if (r == 0)
		r = inlay_replace_file(store->refs, ref, b.data, b.len, 0600, INLAY_REPLACE_DURABLE,
				       err);
	return r < 0 ? inlay_error_prefix(err, r, "publish %s", ref) : 0;
}

int inlay_store_remove_ref(struct inlay_store *store, const char *ref, struct inlay_error *err)
{
	int r = store_check_writer(store, err);

	if (r == 0)
		r = check_name(ref, err);
	if (r < 0)
		return r;
	scope_lock(&store->ref_lock);
	if (unlinkat(store->refs, ref, 0) < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "remove ref %s", ref);
	/* Also when it was gone already: the last attempt may have failed here. */
	if (fsync(store->refs) < 0)
		return inlay_error_sys(err, -errno, "sync directory refs");
	return 0;
}

int refs_list(struct inlay_store *store, struct dirnames *ret, struct inlay_error *err)
{
	int r = dirnames_read(store->refs, ".", ret, err);

	if (r < 0)
		return r;
	size_t kept = 0;
	for (size_t i = 0; i < ret->count; i++)
		if (check_name(ret->names[i], NULL) == 0)
			ret->names[kept++] = ret->names[i];
	ret->count = kept;
	return 0;
}

int inlay_store_each_ref(struct inlay_store *store,
			 int (*fn)(void *ctx, const char *ref, struct inlay_error *err), void *ctx,
			 struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	int r = refs_list(store, &d, err);

	for (size_t i = 0; r == 0 && i < d.count; i++)
		r = fn(ctx, d.names[i], err);
	return r;
}

/* ---- points ---- */

bool refs_point_after(const struct point *a, const struct point *b)
{
	if (a->pack != b->pack)
		return a->pack > b->pack;
	if (a->off != b->off)
		return a->off > b->off;
	/* The same packs; of two indexes the newer counts, it holds what the older one held. */
	if (a->epoch != b->epoch)
		return a->epoch > b->epoch;
	return a->entries > b->entries;
}

int refs_newest_point(struct inlay_store *store, struct point *point, struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	int r = refs_list(store, &d, err);

	for (size_t i = 0; r == 0 && i < d.count; i++) {
		auto_free struct inlay_history *history = NULL;
		struct point at;
		r = refs_read(store, d.names[i], &history, &at, err);
		if (r == 0 && refs_point_after(&at, point))
			*point = at;
		/* A damaged ref says nothing; then more is verified than would be needed. */
		if (r == -EBADMSG || r == INLAY_STORE_MISSING)
			r = 0;
	}
	return r;
}
