/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store made of the fuzzer's bytes: index, a pack, a ref and the end of a loose file. It is read,
 * verified, opened for writing (which repairs it), mended, swept, put into, and opened again.
 *
 *     flags | lengths of index, pack, ref (2 bytes each) | index | pack | ref | loose, the rest
 *
 * With the flags the checksums are made right first, or else hardly anything gets past them.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "store/state.h"

enum {
	RIGHT_SUMS = 1 << 0,
	RIGHT_DIGESTS = 1 << 1,
	CLEAN_END = 1 << 2,
	NO_INDEX = 1 << 3,
	FLIP = 1 << 4, /* one bit after the sums were made right */
	IDS_MAX = 1000,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct inlay_error err;

/* What does not hold is a crash for the fuzzer. */
static void must(bool holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "%s: %s\n", what, err.text);
	abort();
}

static char scratch_name[64];

static void remove_scratch(void)
{
	(void)!inlay_remove_tree(AT_FDCWD, scratch_name, NULL);
}

static int scratch_dir(void)
{
	static int dir = -1;

	if (dir >= 0)
		return dir;
	(void)snprintf(scratch_name, sizeof scratch_name, "%s/inlay-fuzz-XXXXXX",
		       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (mkdtemp(scratch_name))
		dir = open(scratch_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir >= 0, "scratch directory");
	(void)atexit(remove_scratch);
	return dir;
}

/* ---- making it right ---- */

static void put_sum(uint8_t *bytes, size_t len, size_t at)
{
	if (at + 8 <= len)
		inlay_put_le64(bytes + at, inlay_xxh3(bytes, at));
}

static void right_index(uint8_t *bytes, size_t len)
{
	put_sum(bytes, len, 48);
	for (size_t at = INDEX_HEADER_BYTES; at + INDEX_ENTRY_BYTES <= len; at += INDEX_ENTRY_BYTES)
		put_sum(bytes + at, INDEX_ENTRY_BYTES, 56);
}

static void right_pack(uint8_t *bytes, size_t len, bool digests)
{
	put_sum(bytes, len, 24);
	for (size_t at = PACK_HEADER_BYTES; at + RECORD_HEADER_BYTES <= len;) {
		uint64_t size = inlay_get_le64(bytes + at + 16);
		if (size >= INLAY_STORE_LOOSE_MIN)
			break;
		size_t all = layout_record_bytes((size_t)size);
		if (all > len - at)
			break;
		if (digests)
			inlay_digest_of(bytes + at + RECORD_HEADER_BYTES, (size_t)size,
					(struct inlay_digest *)(bytes + at + 32));
		inlay_put_le64(bytes + at, inlay_xxh3(bytes + at + 8, all - 8));
		at += all;
	}
}

/* The content of the loose file is zeros, so that inputs stay small. */
static void write_loose(int dir, uint8_t *tail, size_t len, int flags)
{
	static const uint8_t zeros[INLAY_STORE_LOOSE_MIN];
	auto_buf struct inlay_buf b = {0};
	char path[LOOSE_NAME + 20], name[LOOSE_NAME];
	struct inlay_digest id;

	if (len < LOOSE_FOOTER_BYTES)
		return;
	uint8_t *footer = tail + len - LOOSE_FOOTER_BYTES;
	inlay_digest_of(zeros, sizeof zeros, &id);
	if (flags & RIGHT_DIGESTS)
		memcpy(footer, id.b, sizeof id.b);
	if (flags & RIGHT_SUMS)
		put_sum(footer, LOOSE_FOOTER_BYTES, 56);
	if ((flags & RIGHT_SUMS) && len >= LOOSE_FOOTER_BYTES + 8)
		inlay_put_le64(tail, inlay_xxh3(zeros, sizeof zeros));
	memcpy(id.b, footer, sizeof id.b);
	loose_name(&id, name);
	(void)snprintf(path, sizeof path, "s/loose/%.2s", name);
	(void)mkdirat(dir, path, 0700);
	(void)snprintf(path, sizeof path, "s/loose/%s", name);
	inlay_buf_add(&b, zeros, sizeof zeros);
	inlay_buf_add(&b, tail, len);
	must(inlay_replace_file(dir, "x", b.data, b.len, 0600, 0, &err) == 0, "write");
	must(renameat(dir, "x", dir, path) == 0, "rename");
}

static void write_file(int dir, const char *path, const void *bytes, size_t len)
{
	must(inlay_replace_file(dir, "x", bytes, len, 0600, 0, &err) == 0, "write");
	must(renameat(dir, "x", dir, path) == 0, "rename");
}

static uint8_t *take(uint8_t **at, size_t *left, size_t want, size_t *ret_len)
{
	uint8_t *start = *at;

	*ret_len = want < *left ? want : *left;
	*at += *ret_len;
	*left -= *ret_len;
	return start;
}

static void make_store(int dir, uint8_t *data, size_t size)
{
	uint8_t *at = data + 7;
	size_t left = size - 7, index_len, pack_len, ref_len;
	int flags = data[0];
	uint8_t *index = take(&at, &left, inlay_get_le16(data + 1), &index_len);
	uint8_t *pack = take(&at, &left, inlay_get_le16(data + 3), &pack_len);
	uint8_t *ref = take(&at, &left, inlay_get_le16(data + 5), &ref_len);

	if (flags & RIGHT_SUMS) {
		right_index(index, index_len);
		right_pack(pack, pack_len, flags & RIGHT_DIGESTS);
		if (ref_len >= 8)
			put_sum(ref, ref_len, ref_len - 8);
	}
	if (flags & FLIP)
		data[7 + (size * 31) % (size - 7)] ^= (uint8_t)(1 << (flags >> 5));
	must(inlay_remove_tree(dir, "s", &err) == 0, "remove");
	must(mkdirat(dir, "s", 0700) == 0 && mkdirat(dir, "s/packs", 0700) == 0 &&
		     mkdirat(dir, "s/loose", 0700) == 0 && mkdirat(dir, "s/refs", 0700) == 0,
	     "directories");
	write_file(dir, "s/format", "inlay store 1 sha256\n", 21);
	if (flags & CLEAN_END)
		write_file(dir, "s/lock", "synced  00000000-0000-0000-0000-000000000000\n", 45);
	if (!(flags & NO_INDEX))
		write_file(dir, "s/index", index, index_len);
	write_file(dir, "s/packs/00000001.pack", pack, pack_len);
	if (ref_len > 0)
		write_file(dir, "s/refs/w", ref, ref_len);
	write_loose(dir, at, left, flags);
}

/* ---- using it ---- */

static size_t readable(struct inlay_store *store, struct inlay_digest *ids)
{
	struct objindex *ix = store->index;
	size_t count = 0;

	for (uint32_t n = 0; n < ix->count && count < IDS_MAX; n++) {
		auto_buf struct inlay_buf b = {0};
		struct place place;
		uint8_t some[100];
		size_t got;
		if (!objindex_current(ix, n, &place))
			continue;
		int r = inlay_store_get(store, &place.id, 1 << 20, INLAY_STORE_CHECK_DIGEST, &b,
					&err);
		must(r == 0 || r == -EBADMSG || r == -E2BIG || r == -EPROTONOSUPPORT, "get");
		if (r != 0)
			continue;
		must(b.len == place.size, "size");
		ids[count++] = place.id;
		r = inlay_store_pread(store, &place.id, some, sizeof some, b.len / 2, &got, &err);
		must(r == 0 && memcmp(some, b.data + b.len / 2, got) == 0, "pread");
	}
	return count;
}

static int read_ref(void *ctx, const char *ref, struct inlay_error *e)
{
	struct inlay_history *h = NULL;

	int r = inlay_store_history(ctx, ref, &h, e);
	must(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT, "history");
	free(h);
	return 0;
}

static void found(void *ctx, const struct inlay_digest *id, const char *what)
{
	(void)ctx;
	(void)id;
	must(strlen(what) > 0, "finding");
}

static void look_at_all(struct inlay_store *store, struct inlay_digest *ids, size_t *ret_count)
{
	struct inlay_store_check check;
	struct inlay_store_usage usage;

	*ret_count = readable(store, ids);
	must(inlay_store_each_ref(store, read_ref, store, &err) == 0, "refs");
	must(inlay_store_usage(store, &usage, &err) == 0, "usage");
	must(inlay_store_verify(store, found, NULL, NULL, &check, &err) == 0, "verify");
	must(check.objects <= usage.objects, "objects");
}

static void all_there(struct inlay_store *store, const struct inlay_digest *ids, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		auto_buf struct inlay_buf b = {0};
		must(inlay_store_get(store, &ids[i], 1 << 20, INLAY_STORE_CHECK_DIGEST, &b, &err) ==
			     0,
		     "object lost");
	}
}

static void drop_it(void *ctx, const struct inlay_digest *id, const char *what)
{
	(void)what;
	if (id)
		must(inlay_store_drop(ctx, id, &err) == 0, "drop");
}

/* What is dropped and mended is never told again. */
static void tell(void *ctx, const struct inlay_digest *id, const char *what)
{
	(void)ctx;
	if (id) {
		(void)inlay_error_set(&err, 0, "%s", what);
		must(false, "told again");
	}
}

static void mend(struct inlay_store *store)
{
	struct inlay_store_check check;

	must(inlay_store_verify(store, drop_it, NULL, store, &check, &err) == 0, "verify");
	int r = inlay_store_mend(store, &err);
	must(r == 0 || r == -EPROTONOSUPPORT, "mend");
	must(inlay_store_verify(store, tell, NULL, NULL, &check, &err) == 0, "verify");
}

static bool live(void *ctx, const struct inlay_digest *id)
{
	(void)ctx;
	return id->b[1] % 4 != 0;
}

static size_t only_live(struct inlay_digest *ids, size_t count)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++)
		if (live(NULL, &ids[i]))
			ids[kept++] = ids[i];
	return kept;
}

static void write_to_it(int dir, const struct inlay_digest *before, size_t before_count)
{
	static struct inlay_digest ids[IDS_MAX];
	struct inlay_generation gen = {.number = 1};
	struct inlay_store *store = NULL;
	struct inlay_store_sweep swept;
	struct inlay_digest id;
	size_t count;

	int r = inlay_store_open(dir, "s", INLAY_STORE_WRITE, &store, &err);
	must(r == 0 || r == -EPROTONOSUPPORT, "open for writing");
	if (r != 0)
		return;
	all_there(store, before, before_count); /* a repair loses nothing that could be read */
	look_at_all(store, ids, &count);
	mend(store);
	all_there(store, ids, count);
	r = inlay_store_put(store, "fuzz", 4, &id, &err);
	must(r == 0 || r == -EFBIG, "put"); /* a point may use up all the numbers of packs */
	if (r != 0) {
		inlay_store_close(store);
		return;
	}
	must(inlay_store_sync(store, &err) == 0, "sync");
	must(inlay_store_publish(store, "fuzz", &gen, 2, 1, &err) == 0, "publish");
	must(inlay_store_sweep(store, live, NULL, 0, &swept, &err) == 0, "sweep");
	count = only_live(ids, count);
	all_there(store, ids, count);
	inlay_store_close(store);
	must(inlay_store_open(dir, "s", INLAY_STORE_WRITE, &store, &err) == 0, "open again");
	must(!inlay_store_was_unclean(store), "unclean");
	all_there(store, ids, count);
	inlay_store_close(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct inlay_digest ids[IDS_MAX];
	struct inlay_store *store = NULL;
	size_t count = 0;

	if (size < 8 || size > 1 << 17)
		return 0;
	auto_free uint8_t *copy = malloc(size);
	must(copy != NULL, "memory");
	memcpy(copy, data, size);
	make_store(scratch_dir(), copy, size);
	int r = inlay_store_open(scratch_dir(), "s", 0, &store, &err);
	must(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT, "open");
	if (r == 0)
		look_at_all(store, ids, &count);
	inlay_store_close(store);
	write_to_it(scratch_dir(), ids, count);
	return 0;
}
