/* SPDX-License-Identifier: Apache-2.0 */
/* The store's promises one by one: opening, putting, reading, histories, quota. */
#include "storekit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "store/state.h"

/* ---- opening ---- */

static void no_store_is_missing(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = NULL;

	assert_result(inlay_store_open(dir, "s", KIT_READ, &store, &err), INLAY_STORE_MISSING);
	assert_result(inlay_store_open(dir, "s", INLAY_STORE_WRITE, &store, &err),
		      INLAY_STORE_MISSING);
	assert_false(kit_exists(dir, "s"));
	assert_int_equal(mkdirat(dir, "s", 0700), 0);
	assert_result(inlay_store_open(dir, "s", KIT_READ, &store, &err), INLAY_STORE_MISSING);
	assert_null(store);
	inlay_store_close(NULL);
}

static void created_store_is_private(void **state)
{
	int dir = kit_dir(state);
	struct stat st;
	struct inlay_store *store = kit_open(dir, "a/b/s", INLAY_STORE_CREATE);

	assert_false(inlay_store_was_unclean(store));
	inlay_store_close(store);
	static const char *const dirs[] = {"a/b/s", "a/b/s/packs", "a/b/s/loose", "a/b/s/refs"};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(fstatat(dir, dirs[i], &st, 0), 0);
		assert_int_equal(st.st_mode & 07777, 0700);
	}
	static const char *const files[] = {"a/b/s/format", "a/b/s/lock", "a/b/s/index"};
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(fstatat(dir, files[i], &st, 0), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
	}
	size_t len;
	auto_free uint8_t *format = kit_read(dir, "a/b/s/format", &len);
	assert_int_equal(len, 21);
	assert_memory_equal(format, "inlay store 1 sha256\n", 21);
	kit_assert_no_leftovers(dir, "a");
}

static void one_writer_at_a_time(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *second = NULL;
	struct inlay_store *writer = kit_open(dir, "s", KIT_WRITE);

	assert_result(inlay_store_open(dir, "s", INLAY_STORE_WRITE, &second, &err),
		      INLAY_STORE_LOCKED);
	struct inlay_store *reader = kit_open(dir, "s", INLAY_STORE_CREATE);
	inlay_store_close(reader);
	assert_result(inlay_store_open(dir, "s", KIT_WRITE, &second, &err), INLAY_STORE_LOCKED);
	inlay_store_close(writer);
	inlay_store_close(kit_open(dir, "s", INLAY_STORE_WRITE));
}

static void readers_cannot_write(void **state)
{
	int dir = kit_dir(state);
	struct inlay_generation gen = {.number = 1};
	struct inlay_store_sweep swept;
	struct inlay_store_put *put;
	struct inlay_digest id = {0};
	struct inlay_store *store = kit_open(dir, "s", INLAY_STORE_CREATE);

	assert_result(inlay_store_put(store, "x", 1, NULL, &err), -EROFS);
	assert_result(inlay_store_put_begin(store, 1, &put, &err), -EROFS);
	assert_result(inlay_store_drop(store, &id, &err), -EROFS);
	assert_result(inlay_store_flush(store, &err), -EROFS);
	assert_result(inlay_store_sync(store, &err), -EROFS);
	assert_result(inlay_store_publish(store, "w", &gen, 1, 1, &err), -EROFS);
	assert_result(inlay_store_remove_ref(store, "w", &err), -EROFS);
	assert_result(inlay_store_sweep(store, NULL, NULL, 0, &swept, &err), -EROFS);
	inlay_store_close(store);
}

static void links_and_strangers_are_refused(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = NULL;

	inlay_store_close(kit_open(dir, "s", KIT_WRITE));
	assert_int_equal(symlinkat("s", dir, "link"), 0);
	assert_true(inlay_store_open(dir, "link", KIT_READ, &store, &err) < 0);
	assert_true(inlay_store_open(dir, "link", KIT_WRITE, &store, &err) < 0);
	if (geteuid() != 0)
		skip();
	assert_int_equal(fchownat(dir, "s", 12345, 12345, 0), 0);
	assert_result(inlay_store_open(dir, "s", KIT_READ, &store, &err), -EPERM);
	assert_result(inlay_store_open(dir, "s", KIT_WRITE, &store, &err), -EPERM);
}

static void clean_end_is_remembered(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	(void)kit_put(store, 1, 100);
	kit_copy_tree(dir, "s", dir, "killed");
	inlay_store_close(store);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	assert_false(inlay_store_was_unclean(store));
	kit_assert_has(store, 1, 100);
	/* It was flushed only: the next sync has to take it along. */
	assert_true(store->dirty.everything);
	assert_ok(inlay_store_sync(store, &err));
	inlay_store_close(store);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	assert_false(store->dirty.any);
	inlay_store_close(store);
	store = kit_open(dir, "killed", INLAY_STORE_WRITE);
	assert_true(inlay_store_was_unclean(store));
	inlay_store_close(store);
	store = kit_open(dir, "killed", INLAY_STORE_WRITE);
	assert_false(inlay_store_was_unclean(store));
	inlay_store_close(store);
}

static void flushed_end_of_another_boot_is_unclean(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	(void)kit_put(store, 1, 100);
	inlay_store_close(store);
	size_t len;
	auto_free uint8_t *mark = kit_read(dir, "s/lock", &len);
	assert_int_equal(len, 45);
	assert_memory_equal(mark, "flushed ", 8);
	mark[20] = mark[20] == '0' ? '1' : '0';
	kit_write(dir, "s/lock", mark, len);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	assert_true(inlay_store_was_unclean(store));
	assert_ok(inlay_store_sync(store, &err));
	inlay_store_close(store);
	/* "synced" is good for any boot. */
	auto_free uint8_t *synced = kit_read(dir, "s/lock", &len);
	assert_memory_equal(synced, "synced  ", 8);
	synced[20] = synced[20] == '0' ? '1' : '0';
	kit_write(dir, "s/lock", synced, len);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	assert_false(inlay_store_was_unclean(store));
	inlay_store_close(store);
	kit_write(dir, "s/lock", "", 0);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	assert_true(inlay_store_was_unclean(store));
	inlay_store_close(store);
}

static void newer_store_is_refused(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = NULL;
	static const struct {
		const char *text;
		int want;
	} formats[] = {
		{"inlay store 2 sha256\n", -EPROTONOSUPPORT},
		{"inlay store 1 sha512\n", -EPROTONOSUPPORT},
		{"inlay store 1 sha256", -EBADMSG},
		{"inlay store 1 sha256\nx", -EBADMSG},
		{"inlay store 0 sha256\n", -EBADMSG},
		{"rubbish\n", -EBADMSG},
		{"", -EBADMSG},
	};

	inlay_store_close(kit_open(dir, "s", KIT_WRITE));
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
		kit_write(dir, "s/format", formats[i].text, strlen(formats[i].text));
		assert_result(inlay_store_open(dir, "s", KIT_READ, &store, &err), formats[i].want);
		assert_result(inlay_store_open(dir, "s", KIT_WRITE, &store, &err), formats[i].want);
		if (i == 0)
			assert_string_equal(err.text, "store s: it has version 2, this inlay reads "
						      "version 1");
	}
}

/* ---- objects ---- */

static const size_t sizes[] = {0,     1,     7,      8,      9,      100,    4096,   65535,
			       65536, 65537, 131072, 131073, 200000, 300000, 1000003};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void check_all(struct inlay_store *store)
{
	for (size_t i = 0; i < SIZES; i++) {
		struct inlay_digest id = kit_id(i, sizes[i]);
		uint64_t size;
		kit_assert_has(store, i, sizes[i]);
		assert_ok(inlay_store_stat(store, &id, &size));
		assert_int_equal(size, sizes[i]);
		assert_true(inlay_store_has_prefix(store, inlay_digest_prefix(&id)));
		id.b[31] ^= 1;
		assert_result(inlay_store_stat(store, &id, &size), INLAY_STORE_MISSING);
		id.b[0] ^= 1;
		assert_false(inlay_store_has_prefix(store, inlay_digest_prefix(&id)));
	}
}

static void objects_come_back(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	for (size_t i = 0; i < SIZES; i++)
		(void)kit_put(store, i, sizes[i]);
	check_all(store); /* from memory */
	assert_ok(inlay_store_flush(store, &err));
	check_all(store);
	kit_assert_clean(store);
	struct inlay_store *reader = kit_open(dir, "s", KIT_READ);
	check_all(reader);
	kit_assert_clean(reader);
	inlay_store_close(reader);
	inlay_store_close(store);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	check_all(store);
	inlay_store_close(store);
}

static void any_range_can_be_read(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	uint64_t seed = 7;

	for (size_t i = 0; i < SIZES; i++) {
		struct inlay_digest id = kit_put(store, i, sizes[i]);
		auto_free uint8_t *bytes = kit_bytes(i, sizes[i]);
		auto_free uint8_t *got = malloc(1100000);
		for (int round = 0; round < 60; round++) {
			size_t off = (size_t)kit_random(&seed) % (sizes[i] + 10);
			size_t len = (size_t)kit_random(&seed) % (sizes[i] + 10), n = 99;
			if (round % 4 == 0)
				off -= off % 65536;
			if (round % 7 == 0)
				len = 65536;
			if (round == 30)
				assert_ok(inlay_store_flush(store, &err));
			size_t want = off >= sizes[i]        ? 0
				      : sizes[i] - off < len ? sizes[i] - off
							     : len;
			assert_ok(inlay_store_pread(store, &id, got, len, off, &n, &err));
			assert_int_equal(n, want);
			assert_memory_equal(got, bytes + (want ? off : 0), want);
		}
		size_t n = 99;
		assert_ok(inlay_store_pread(store, &id, got, 10, UINT64_MAX, &n, &err));
		assert_int_equal(n, 0);
	}
	struct inlay_digest none = {0};
	size_t n;
	assert_result(inlay_store_pread(store, &none, &n, 1, 0, &n, &err), INLAY_STORE_MISSING);
	inlay_store_close(store);
}

static void get_knows_its_limit(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	for (int i = 0; i < 2; i++) {
		size_t size = i ? 100000 : 1000;
		struct inlay_digest id = kit_put(store, (uint64_t)i, size);
		auto_buf struct inlay_buf b = {0};
		inlay_buf_add(&b, "before", 6);
		assert_result(inlay_store_get(store, &id, size - 1, 0, &b, &err), -E2BIG);
		assert_int_equal(b.len, 6);
		assert_ok(inlay_store_get(store, &id, size, INLAY_STORE_CHECK_DIGEST, &b, &err));
		assert_int_equal(b.len, size + 6);
		assert_memory_equal(b.data, "before", 6);
		id.b[3] ^= 1;
		assert_result(inlay_store_get(store, &id, size, 0, &b, &err), INLAY_STORE_MISSING);
	}
	inlay_store_close(store);
}

/* A record whose checksum is right and whose bytes are not what the digest says. */
static void digest_is_checked_when_asked(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct record record = {.kind = RECORD_OBJECT,
				.size = 5,
				.payload = (const uint8_t *)"wrong",
				.id = kit_id(1, 5)};
	auto_buf struct inlay_buf b = {0};

	assert_ok(append_object(store, &record, &err));
	assert_ok(inlay_store_flush(store, &err));
	assert_ok(inlay_store_get(store, &record.id, 5, 0, &b, &err));
	inlay_buf_clear(&b);
	assert_result(inlay_store_get(store, &record.id, 5, INLAY_STORE_CHECK_DIGEST, &b, &err),
		      -EBADMSG);
	assert_int_equal(b.len, 0);
	struct kit_findings f = kit_verify(store, true);
	assert_int_equal(f.count, 1);
	assert_memory_equal(&f.last_id, &record.id, sizeof record.id);
	inlay_store_close(store);
}

static void putting_twice_stores_once(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store_usage before, after;

	(void)kit_put(store, 1, 1000);
	(void)kit_put(store, 2, 100000);
	assert_ok(inlay_store_usage(store, &before, &err));
	assert_int_equal(before.objects, 2);
	assert_int_equal(before.object_bytes, 101000);
	assert_int_equal(before.loose, 1);
	assert_int_equal(before.packs, 1);
	assert_int_equal(before.loose_bytes, layout_loose_bytes(100000));
	assert_int_equal(before.pack_bytes, PACK_HEADER_BYTES + layout_record_bytes(1000));
	(void)kit_put(store, 1, 1000);
	(void)kit_put(store, 2, 100000);
	assert_ok(inlay_store_usage(store, &after, &err));
	assert_memory_equal(&before, &after, sizeof before);
	inlay_store_close(store);
	store = kit_open(dir, "s", KIT_READ);
	assert_ok(inlay_store_usage(store, &after, &err));
	assert_memory_equal(&before, &after, sizeof before);
	inlay_store_close(store);
}

static void put_in_pieces(struct inlay_store *store, uint64_t number, size_t size, size_t piece)
{
	auto_free uint8_t *bytes = kit_bytes(number, size);
	struct inlay_store_put *put;
	struct inlay_digest id, want;

	assert_ok(inlay_store_put_begin(store, size, &put, &err));
	for (size_t off = 0; off < size; off += piece)
		assert_ok(inlay_store_put_write(put, bytes + off,
						size - off < piece ? size - off : piece, &err));
	assert_ok(inlay_store_put_finish(put, &id, &err));
	inlay_digest_of(bytes, size, &want);
	assert_memory_equal(&id, &want, sizeof id);
	kit_assert_has(store, number, size);
}

static void pieces_make_the_same_object(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	static const size_t pieces[] = {1000, 65535, 65536, 65537, 150000, 2000000};

	for (size_t i = 0; i < SIZES; i++) {
		size_t p = pieces[i % 6];
		put_in_pieces(store, i, sizes[i], p);
		/* The loose file is the same as that of a put at once. */
		struct inlay_store *other = kit_open(dir, "other", KIT_WRITE);
		store->now = other->now;
		(void)kit_put(other, i, sizes[i]);
		inlay_store_close(other);
	}
	for (size_t p = 0; p < 6; p++)
		put_in_pieces(store, 100 + p, 333333, pieces[p]);
	kit_assert_clean(store);
	put_in_pieces(store, 0, 0, 1);
	inlay_store_close(store);
}

static void pieces_keep_their_promise(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store_put *put, *other;
	struct inlay_store_usage usage;
	static const size_t at[] = {10, 70000};
	auto_free uint8_t *bytes = kit_bytes(1, 80000);

	for (int i = 0; i < 2; i++) {
		assert_ok(inlay_store_put_begin(store, at[i], &put, &err));
		assert_ok(inlay_store_put_write(put, bytes, at[i] - 1, &err));
		assert_result(inlay_store_put_finish(put, NULL, &err), -EPROTO);
		assert_ok(inlay_store_put_begin(store, at[i], &put, &err));
		assert_result(inlay_store_put_write(put, bytes, at[i] + 1, &err), -EPROTO);
		assert_result(inlay_store_put_write(put, bytes, 1, &err), -EPROTO);
		assert_result(inlay_store_put_finish(put, NULL, &err), -EPROTO);
		assert_ok(inlay_store_put_begin(store, at[i], &put, &err));
		assert_ok(inlay_store_put_begin(store, at[i], &other, &err));
		assert_ok(inlay_store_put_write(put, bytes, 5, &err));
		inlay_store_put_abort(put);
		inlay_store_put_abort(other);
	}
	inlay_store_put_abort(NULL);
	assert_result(inlay_store_put_begin(store, INLAY_OBJECT_MAX + 1, &put, &err), -E2BIG);
	assert_ok(inlay_store_usage(store, &usage, &err));
	assert_int_equal(usage.objects, 0);
	assert_int_equal(store->reserved, 0);
	kit_assert_no_leftovers(dir, "s");
	inlay_store_close(store);
}

static void dropped_object_can_be_put_anew(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store *reader = kit_open(dir, "s", KIT_READ);
	static const size_t at[] = {1000, 100000};

	for (uint64_t i = 0; i < 2; i++) {
		struct inlay_digest id = kit_put(store, i, at[i]);
		assert_ok(inlay_store_flush(store, &err));
		kit_assert_has(reader, i, at[i]); /* the reader has it open now */
		assert_ok(inlay_store_drop(store, &id, &err));
		assert_ok(inlay_store_drop(store, &id, &err));
		assert_false(kit_has(store, i, at[i], false));
		assert_false(inlay_store_has_prefix(store, inlay_digest_prefix(&id)));
		(void)kit_put(store, i, at[i]);
		kit_assert_has(store, i, at[i]);
	}
	struct inlay_digest none = {0};
	assert_ok(inlay_store_drop(store, &none, &err));
	inlay_store_close(store);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	for (uint64_t i = 0; i < 2; i++) {
		kit_assert_has(store, i, at[i]);
		kit_assert_has(reader, i, at[i]);
	}
	kit_assert_clean(store);
	inlay_store_close(reader);
	inlay_store_close(store);
}

static void damaged_loose_file_is_exchanged(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store *reader = kit_open(dir, "s", KIT_READ);
	struct inlay_digest id = kit_put(store, 1, 100000);
	char path[100], name[LOOSE_NAME];

	assert_ok(inlay_store_flush(store, &err));
	loose_name(&id, name);
	(void)snprintf(path, sizeof path, "s/loose/%s", name);
	kit_assert_has(reader, 1, 100000);
	kit_flip(dir, path, 50000);
	assert_false(kit_has(reader, 1, 100000, true));
	assert_false(kit_has(store, 1, 100000, true));
	assert_non_null(strstr(err.text, "object "));
	assert_ok(inlay_store_drop(store, &id, &err));
	(void)kit_put(store, 1, 100000);
	assert_ok(inlay_store_flush(store, &err));
	kit_assert_has(store, 1, 100000);
	kit_assert_has(reader, 1, 100000); /* whose descriptor was of the old file */
	kit_assert_no_leftovers(dir, "s");
	inlay_store_close(reader);
	inlay_store_close(store);
}

static void quota_holds(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store_put *put;
	auto_free uint8_t *bytes = kit_bytes(99, 300000);

	(void)kit_put(store, 1, 10000);
	inlay_store_set_quota(store, 200000);
	(void)kit_put(store, 2, 10000);
	assert_result(inlay_store_put(store, bytes, 300000, NULL, &err), -EDQUOT);
	assert_result(inlay_store_put_begin(store, 300000, &put, &err), -EDQUOT);
	assert_ok(inlay_store_put_begin(store, 150000, &put, &err));
	assert_result(inlay_store_put(store, bytes, 50000, NULL, &err), -EDQUOT);
	(void)kit_put(store, 1, 10000); /* is there already */
	inlay_store_put_abort(put);
	assert_ok(inlay_store_put(store, bytes, 50000, NULL, &err));
	assert_result(inlay_store_put(store, bytes + 1, 200000, NULL, &err), -EDQUOT);
	assert_int_equal(inlay_error_exit(&err), INLAY_EXIT_LIMIT);
	inlay_store_close(store);
	/* What is there counts after opening, too. */
	store = kit_open(dir, "s", KIT_WRITE);
	inlay_store_set_quota(store, 75000);
	assert_result(inlay_store_put(store, bytes + 2, 10000, NULL, &err), -EDQUOT);
	inlay_store_set_quota(store, 0);
	assert_ok(inlay_store_put(store, bytes + 2, 10000, NULL, &err));
	inlay_store_close(store);
}

static void packs_roll(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	store->pack_max = 100000;
	for (uint64_t i = 0; i < 40; i++)
		(void)kit_put(store, i, 20000);
	assert_ok(inlay_store_sync(store, &err));
	assert_true(kit_exists(dir, "s/packs/00000001.pack"));
	assert_true(kit_exists(dir, "s/packs/0000000a.pack"));
	assert_true(kit_size(dir, "s/packs/00000001.pack") <= 100000);
	inlay_store_close(store);
	store = kit_open(dir, "s", INLAY_STORE_WRITE);
	for (uint64_t i = 0; i < 40; i++)
		kit_assert_has(store, i, 20000);
	kit_assert_clean(store);
	inlay_store_close(store);
}

/* ---- histories ---- */

static struct inlay_generation generation(uint64_t number)
{
	struct inlay_generation g = {.number = number,
				     .parent = number - 1,
				     .rollback_of = number % 3,
				     .time_ns = -5 + (int64_t)number,
				     .entries = 1000 + number,
				     .bytes = UINT64_MAX - number,
				     .changed = number * 7,
				     .root = {.mode = 0755, .mtime_ns = -1}};
	g.root.tree = kit_id(number, 10);
	memset(g.origin, 'a', number % (INLAY_ORIGIN_MAX + 1));
	return g;
}

static void history_keeps_the_newest(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_history *h = NULL;

	assert_result(inlay_store_history(store, "w", &h, &err), INLAY_STORE_MISSING);
	for (uint64_t n = 1; n <= 300; n++) {
		struct inlay_generation g = generation(n);
		assert_ok(inlay_store_publish(store, "w", &g, n == 300 ? 5 : 10, n + 50, &err));
	}
	struct inlay_store *reader = kit_open(dir, "s", KIT_READ);
	assert_ok(inlay_store_history(reader, "w", &h, &err));
	assert_int_equal(h->count, 5);
	assert_int_equal(h->reserved, 350);
	for (uint64_t i = 0; i < 5; i++) {
		struct inlay_generation g = generation(300 - i);
		assert_memory_equal(&h->gens[i], &g, sizeof g);
	}
	free(h);
	inlay_store_close(reader);
	/* The same number again takes its place. */
	struct inlay_generation g = generation(300);
	g.changed = 1;
	assert_ok(inlay_store_publish(store, "w", &g, 5, 400, &err));
	assert_ok(inlay_store_history(store, "w", &h, &err));
	assert_int_equal(h->count, 5);
	assert_int_equal(h->gens[0].changed, 1);
	assert_int_equal(h->gens[1].number, 299);
	free(h);
	g = generation(301);
	assert_result(inlay_store_publish(store, "w", &g, 0, 0, &err), -EINVAL);
	assert_result(inlay_store_publish(store, "w", &g, INLAY_HISTORY_MAX + 1, 0, &err), -E2BIG);
	memset(g.origin, 'b', sizeof g.origin);
	assert_result(inlay_store_publish(store, "w", &g, 1, 0, &err), -E2BIG);
	inlay_store_close(store);
}

static void full_history_can_be_read(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_history *h = NULL;
	enum { HEADER = 64, GENERATION = 108 };

	/* As many generations as there may be, each with the longest origin. */
	auto_buf struct inlay_buf b = {0};
	struct inlay_generation g = generation(255);
	assert_ok(inlay_store_publish(store, "w", &g, 1, 0, &err));
	size_t len;
	auto_free uint8_t *one = kit_read(dir, "s/refs/w", &len);
	assert_int_equal(len, HEADER + GENERATION + 255 + 8);
	inlay_buf_add(&b, one, HEADER);
	for (int i = 0; i < INLAY_HISTORY_MAX; i++)
		inlay_buf_add(&b, one + HEADER, GENERATION + 255);
	inlay_put_le32(b.data + 20, INLAY_HISTORY_MAX);
	inlay_buf_u64(&b, inlay_xxh3(b.data, b.len));
	kit_write(dir, "s/refs/w", b.data, b.len);
	assert_ok(inlay_store_history(store, "w", &h, &err));
	assert_int_equal(h->count, INLAY_HISTORY_MAX);
	free(h);
	g = generation(254);
	assert_ok(inlay_store_publish(store, "w", &g, INLAY_HISTORY_MAX, 0, &err));
	assert_ok(inlay_store_history(store, "w", &h, &err));
	assert_int_equal(h->count, INLAY_HISTORY_MAX);
	assert_int_equal(h->gens[0].number, 254);
	free(h);
	/* One more than that. */
	b.len -= 8;
	inlay_buf_add(&b, one + HEADER, GENERATION + 255);
	inlay_put_le32(b.data + 20, INLAY_HISTORY_MAX + 1);
	inlay_buf_u64(&b, inlay_xxh3(b.data, b.len));
	kit_write(dir, "s/refs/w", b.data, b.len);
	assert_result(inlay_store_history(store, "w", &h, &err), -EBADMSG);
	inlay_store_close(store);
}

static int count_refs(void *ctx, const char *ref, struct inlay_error *e)
{
	char *text = ctx;

	(void)e;
	strcat(text, ref);
	strcat(text, " ");
	return strcmp(ref, "stop") == 0 ? 77 : 0;
}

static void refs_have_names(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_generation g = generation(1);
	struct inlay_history *h = NULL;
	char long_name[300] = {0}, text[1000] = {0};
	static const char *const bad[] = {"",    ".",   "..",       ".w", "a/b",
					  "a b", "a\n", "\xc3\xa4", "*"};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_result(inlay_store_publish(store, bad[i], &g, 1, 1, &err), -EINVAL);
		assert_result(inlay_store_history(store, bad[i], &h, &err), -EINVAL);
		assert_result(inlay_store_remove_ref(store, bad[i], &err), -EINVAL);
	}
	memset(long_name, 'x', 201);
	assert_result(inlay_store_publish(store, long_name, &g, 1, 1, &err), -EINVAL);
	long_name[200] = 0;
	assert_ok(inlay_store_publish(store, long_name, &g, 1, 1, &err));
	assert_ok(inlay_store_remove_ref(store, long_name, &err));
	assert_ok(inlay_store_remove_ref(store, long_name, &err));
	assert_ok(inlay_store_each_ref(store, count_refs, text, &err));
	assert_string_equal(text, "");
	assert_ok(inlay_store_publish(store, "w2", &g, 1, 1, &err));
	assert_ok(inlay_store_publish(store, "A-b_c.9", &g, 1, 1, &err));
	kit_write(dir, "s/refs/.left.new", "x", 1);
	assert_ok(inlay_store_each_ref(store, count_refs, text, &err));
	assert_string_equal(text, "A-b_c.9 w2 ");
	assert_ok(inlay_store_publish(store, "stop", &g, 1, 1, &err));
	text[0] = 0;
	assert_result(inlay_store_each_ref(store, count_refs, text, &err), 77);
	assert_string_equal(text, "A-b_c.9 stop ");
	inlay_store_close(store);
}

static void damaged_ref_is_told(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_generation g = generation(1);
	struct inlay_history *h = NULL;

	assert_ok(inlay_store_publish(store, "w", &g, 1, 1, &err));
	size_t len;
	auto_free uint8_t *bytes = kit_read(dir, "s/refs/w", &len);
	for (uint64_t bit = 0; bit < len * 8; bit++) {
		kit_flip(dir, "s/refs/w", bit);
		assert_result(inlay_store_history(store, "w", &h, &err), -EBADMSG);
		kit_flip(dir, "s/refs/w", bit);
	}
	for (size_t cut = 0; cut < len; cut++) {
		kit_write(dir, "s/refs/w", bytes, cut);
		assert_result(inlay_store_history(store, "w", &h, &err), -EBADMSG);
	}
	/* History would be lost silently. */
	assert_result(inlay_store_publish(store, "w", &g, 1, 1, &err), -EBADMSG);
	assert_ok(inlay_store_remove_ref(store, "w", &err));
	assert_ok(inlay_store_publish(store, "w", &g, 1, 1, &err));
	inlay_store_close(store);
}

static void sync_is_needed_once(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	assert_false(store->dirty.any);
	(void)kit_put(store, 1, 100);
	(void)kit_put(store, 2, 100000);
	assert_ok(inlay_store_sync(store, &err));
	assert_false(store->dirty.any);
	assert_int_equal(store->synced.pack, 1);
	assert_int_equal(store->synced.off, PACK_HEADER_BYTES + layout_record_bytes(100));
	assert_int_equal(store->synced.entries, 2);
	for (uint64_t i = 0; i < DIRTY_FILES + 5; i++)
		(void)kit_put(store, 100 + i, 66000);
	assert_true(store->dirty.everything);
	assert_ok(inlay_store_sync(store, &err));
	assert_false(store->dirty.any);
	inlay_store_close(store);
}

/* ---- threads and processes ---- */

enum { THREAD_OBJECTS = 3000, READERS = 4 };

struct threads {
	struct inlay_store *store;
	_Atomic uint64_t put; /* objects 0..put-1 are there */
};

static size_t thread_size(uint64_t number)
{
	return number % 100 == 7 ? 66000 + number : number % 3000;
}

static void *read_random(void *p)
{
	struct threads *t = p;
	uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;

	while (atomic_load(&t->put) < THREAD_OBJECTS) {
		uint64_t have = atomic_load(&t->put);
		if (have == 0)
			continue;
		uint64_t number = kit_random(&seed) % have;
		auto_free uint8_t *want = kit_bytes(number, thread_size(number));
		auto_free uint8_t *got = malloc(70000 + THREAD_OBJECTS);
		struct inlay_digest id;
		struct inlay_error e;
		size_t n;
		inlay_digest_of(want, thread_size(number), &id);
		if (inlay_store_pread(t->store, &id, got, 70000 + THREAD_OBJECTS, 0, &n, &e) != 0 ||
		    n != thread_size(number) || memcmp(got, want, n) != 0)
			return (void *)1;
	}
	return NULL;
}

static void threads_read_while_one_puts(void **state)
{
	int dir = kit_dir(state);
	struct threads t = {.store = kit_open(dir, "s", KIT_WRITE)};
	pthread_t readers[READERS];

	t.store->pack_max = 200000;
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, read_random, &t), 0);
	for (uint64_t n = 0; n < THREAD_OBJECTS; n++) {
		(void)kit_put(t.store, n, thread_size(n));
		atomic_store(&t.put, n + 1);
		if (n % 500 == 0)
			assert_ok(inlay_store_sync(t.store, &err));
	}
	for (int i = 0; i < READERS; i++) {
		void *bad;
		assert_int_equal(pthread_join(readers[i], &bad), 0);
		assert_null(bad);
	}
	kit_assert_clean(t.store);
	inlay_store_close(t.store);
}

static void *put_many(void *p)
{
	struct threads *t = p;
	uint64_t first = atomic_fetch_add(&t->put, 1) * 150;
	struct inlay_error e;

	/* Half of them are also put by the next thread. */
	for (uint64_t n = first; n < first + 300; n++) {
		size_t size = thread_size(n), half = size / 2;
		auto_free uint8_t *bytes = kit_bytes(n, size);
		struct inlay_store_put *put;
		if (n % 2 == 0) {
			if (inlay_store_put(t->store, bytes, size, NULL, &e) < 0)
				return (void *)1;
			continue;
		}
		if (inlay_store_put_begin(t->store, size, &put, &e) < 0)
			return (void *)2;
		if (inlay_store_put_write(put, bytes, half, &e) < 0 ||
		    inlay_store_put_write(put, bytes + half, size - half, &e) < 0)
			return (void *)3;
		if (inlay_store_put_finish(put, NULL, &e) < 0)
			return (void *)4;
		if (n % 50 == 1 && inlay_store_sync(t->store, &e) < 0)
			return (void *)5;
	}
	return NULL;
}

static void threads_put_together(void **state)
{
	int dir = kit_dir(state);
	struct threads t = {.store = kit_open(dir, "s", KIT_WRITE)};
	struct inlay_store_usage usage;
	pthread_t putters[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&putters[i], NULL, put_many, &t), 0);
	for (int i = 0; i < 4; i++) {
		void *bad;
		assert_int_equal(pthread_join(putters[i], &bad), 0);
		assert_null(bad);
	}
	for (uint64_t n = 0; n < 750; n++)
		kit_assert_has(t.store, n, thread_size(n));
	assert_ok(inlay_store_usage(t.store, &usage, &err));
	assert_int_equal(usage.objects, 750);
	assert_int_equal(t.store->used, usage.pack_bytes + usage.loose_bytes);
	kit_assert_clean(t.store);
	inlay_store_close(t.store);
}

/* The child opens the store before there is anything in it, and asks for what the parent says. */
static int read_what_is_told(int dir, int told)
{
	struct inlay_store *store;
	struct inlay_error e;
	uint64_t number;

	if (inlay_store_open(dir, "s", KIT_READ, &store, &e) != 0)
		return 1;
	while (read(told, &number, sizeof number) == sizeof number) {
		size_t size = thread_size(number);
		auto_free uint8_t *want = kit_bytes(number, size);
		auto_buf struct inlay_buf b = {0};
		struct inlay_digest id;
		inlay_digest_of(want, size, &id);
		if (!inlay_store_has_prefix(store, inlay_digest_prefix(&id)))
			return 2;
		if (inlay_store_get(store, &id, size, INLAY_STORE_CHECK_DIGEST, &b, &e) != 0)
			return 3;
		if (b.len != size || memcmp(b.data, want, size) != 0)
			return 4;
	}
	inlay_store_close(store);
	return 0;
}

static void other_process_sees_what_was_flushed(void **state)
{
	int dir = kit_dir(state), told[2], status;
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store *silent = kit_open(dir, "s", KIT_READ);

	(void)kit_put(store, 0, thread_size(0));
	assert_false(kit_has(silent, 0, thread_size(0), false));
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	pid_t child = fork();
	if (child == 0) {
		close(told[1]);
		_exit(read_what_is_told(dir, told[0]));
	}
	close(told[0]);
	for (uint64_t n = 0; n < 2000; n++) {
		(void)kit_put(store, n, thread_size(n));
		if (n % 10 != 9)
			continue;
		assert_ok(inlay_store_flush(store, &err));
		uint64_t tell = n - n % 7 % 5;
		assert_int_equal(write(told[1], &tell, sizeof tell), sizeof tell);
	}
	close(told[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	kit_assert_has(silent, 0, thread_size(0));
	inlay_store_close(silent);
	inlay_store_close(store);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, kit_setup, kit_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(no_store_is_missing),
		TEST(created_store_is_private),
		TEST(one_writer_at_a_time),
		TEST(readers_cannot_write),
		TEST(links_and_strangers_are_refused),
		TEST(clean_end_is_remembered),
		TEST(flushed_end_of_another_boot_is_unclean),
		TEST(newer_store_is_refused),
		TEST(objects_come_back),
		TEST(any_range_can_be_read),
		TEST(get_knows_its_limit),
		TEST(digest_is_checked_when_asked),
		TEST(putting_twice_stores_once),
		TEST(pieces_make_the_same_object),
		TEST(pieces_keep_their_promise),
		TEST(dropped_object_can_be_put_anew),
		TEST(damaged_loose_file_is_exchanged),
		TEST(quota_holds),
		TEST(packs_roll),
		TEST(history_keeps_the_newest),
		TEST(full_history_can_be_read),
		TEST(refs_have_names),
		TEST(damaged_ref_is_told),
		TEST(sync_is_needed_once),
		TEST(threads_read_while_one_puts),
		TEST(threads_put_together),
		TEST(other_process_sees_what_was_flushed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
