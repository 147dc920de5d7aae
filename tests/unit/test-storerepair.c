/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a store for writing after an end that was not clean. */
#include "storekit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "store/state.h"

#define PACK "t/packs/00000001.pack"

enum { ACKED = 6, TAIL = 4 };

/* Objects 0..ACKED-1 are published, the TAIL after them only flushed. The last of each is loose. */
static size_t size_of(uint64_t n)
{
	return n == ACKED - 1 || n == ACKED + TAIL - 1 ? 70000 : 11 + 7 * (size_t)n;
}

/* Where the record of tail object n is: they lie behind each other. */
static uint64_t tail_off(uint64_t n)
{
	uint64_t off = PACK_HEADER_BYTES;

	for (uint64_t i = 0; i < n; i++)
		if (size_of(i) < INLAY_STORE_LOOSE_MIN)
			off += layout_record_bytes(size_of(i));
	return off;
}

static void loose_path(uint64_t n, char *ret, size_t size)
{
	struct inlay_digest id = kit_id(n, size_of(n));
	char name[LOOSE_NAME];

	loose_name(&id, name);
	(void)snprintf(ret, size, "t/loose/%s", name);
}

/* A store whose writer was killed: "killed", to be copied to "t" for each case. */
static void make_killed(int dir)
{
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	for (uint64_t n = 0; n < ACKED; n++)
		(void)kit_put(store, n, size_of(n));
	kit_publish(store, 1);
	for (uint64_t n = ACKED; n < ACKED + TAIL; n++)
		(void)kit_put(store, n, size_of(n));
	assert_ok(inlay_store_flush(store, &err));
	kit_copy_tree(dir, "s", dir, "killed");
	inlay_store_close(store);
}

/* Opens "t" for writing; `want` has a bit for each object that must be there, others must not. */
static void check_repaired(int dir, unsigned want)
{
	struct inlay_store *store = kit_open(dir, "t", INLAY_STORE_WRITE);
	struct inlay_history *h = NULL;

	assert_true(inlay_store_was_unclean(store));
	for (uint64_t n = 0; n < ACKED + TAIL; n++)
		if (kit_has(store, n, size_of(n), false) != (want >> n & 1))
			fail_msg("object %u is %sthere", (unsigned)n, want >> n & 1 ? "not " : "");
	kit_assert_clean(store);
	kit_assert_no_leftovers(dir, "t");
	assert_ok(inlay_store_history(store, "w", &h, &err));
	assert_int_equal(h->gens[0].number, 1);
	free(h);
	/* The interrupted work goes on. */
	for (uint64_t n = ACKED; n < ACKED + TAIL; n++)
		(void)kit_put(store, n, size_of(n));
	kit_publish(store, 2);
	inlay_store_close(store);
	store = kit_open(dir, "t", INLAY_STORE_WRITE);
	assert_false(inlay_store_was_unclean(store));
	for (uint64_t n = 0; n < ACKED + TAIL; n++)
		kit_assert_has(store, n, size_of(n));
	kit_assert_clean(store);
	inlay_store_close(store);
}

#define ALL ((1u << (ACKED + TAIL)) - 1)

static void untouched_tail_stays(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	check_repaired(dir, ALL);
}

/* Which objects are there when the pack is good up to `good`. */
static unsigned whole_before(uint64_t good)
{
	unsigned want = ALL;

	for (uint64_t n = ACKED; n < ACKED + TAIL - 1; n++)
		if (tail_off(n) + layout_record_bytes(size_of(n)) > good)
			want &= ~(1u << n);
	return want;
}

static void pack_cut_at_every_byte(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	uint64_t end = kit_size(dir, "killed/packs/00000001.pack");
	assert_int_equal(end, tail_off(ACKED + TAIL));
	for (uint64_t cut = tail_off(ACKED); cut < end; cut++) {
		kit_copy_tree(dir, "killed", dir, "t");
		kit_truncate(dir, PACK, cut);
		check_repaired(dir, whole_before(cut));
	}
}

/* From each byte on something else: zeros as after a power cut, or random bytes. */
static void pack_garbage_from_every_byte(void **state)
{
	int dir = kit_dir(state);
	uint64_t seed = 1;

	make_killed(dir);
	size_t len;
	auto_free uint8_t *good = kit_read(dir, "killed/packs/00000001.pack", &len);
	auto_free uint8_t *bad = malloc(len + 100);
	for (uint64_t cut = tail_off(ACKED); cut < len; cut++) {
		size_t more = cut % 3 == 0 ? 0 : (size_t)cut % 100; /* it may be longer, too */
		kit_copy_tree(dir, "killed", dir, "t");
		memcpy(bad, good, len);
		for (size_t i = (size_t)cut; i < len + more; i++)
			bad[i] = cut % 2 ? 0 : (uint8_t)kit_random(&seed);
		if (bad[cut] == good[cut])
			bad[cut] ^= 0x55;
		kit_write(dir, PACK, bad, len + more);
		check_repaired(dir, whole_before(cut));
	}
}

/* The entries of the tail are cut or spoilt: all objects are found again in pack and loose/. */
static void index_cut_at_every_byte(void **state)
{
	int dir = kit_dir(state);
	uint64_t seed = 3;

	make_killed(dir);
	size_t len;
	auto_free uint8_t *good = kit_read(dir, "killed/index", &len);
	assert_int_equal(len, INDEX_HEADER_BYTES + (ACKED + TAIL) * INDEX_ENTRY_BYTES);
	for (size_t cut = INDEX_HEADER_BYTES + ACKED * INDEX_ENTRY_BYTES; cut < len; cut++) {
		kit_copy_tree(dir, "killed", dir, "t");
		if (cut % 2) {
			kit_truncate(dir, "t/index", cut);
		} else {
			auto_free uint8_t *bad = malloc(len);
			memcpy(bad, good, len);
			for (size_t i = cut; i < len; i++)
				bad[i] = cut % 4 ? 0 : (uint8_t)kit_random(&seed);
			kit_write(dir, "t/index", bad, len);
		}
		check_repaired(dir, ALL);
	}
}

/* The index reached the disk and the pack did not. */
static void entries_without_objects_are_taken_out(void **state)
{
	int dir = kit_dir(state);
	char path[100];

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	kit_truncate(dir, PACK, tail_off(ACKED));
	loose_path(ACKED + TAIL - 1, path, sizeof path);
	assert_int_equal(unlinkat(dir, path, 0), 0);
	check_repaired(dir, (1u << ACKED) - 1);
}

static void loose_file_is_checked_whole(void **state)
{
	int dir = kit_dir(state);
	char path[100];
	uint64_t n = ACKED + TAIL - 1, bytes = layout_loose_bytes(size_of(n));

	make_killed(dir);
	loose_path(n, path, sizeof path);
	for (uint64_t cut = bytes; cut > 0; cut -= cut < 40000 ? cut : cut > 69990 ? 1 : 999) {
		kit_copy_tree(dir, "killed", dir, "t");
		kit_truncate(dir, path, cut - 1);
		if (cut % 2) /* the size is on the disk, the end is not */
			kit_truncate(dir, path, bytes);
		check_repaired(dir, ALL & ~(1u << n));
	}
	/* A hole in the middle, with the index entry and without. */
	for (int with = 0; with < 2; with++) {
		kit_copy_tree(dir, "killed", dir, "t");
		kit_flip(dir, path, 8 * 66000);
		if (!with)
			kit_truncate(dir, "t/index", kit_size(dir, "t/index") - INDEX_ENTRY_BYTES);
		check_repaired(dir, ALL & ~(1u << n));
	}
}

static void good_records_after_a_hole_stay(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	for (uint64_t n = ACKED; n < ACKED + TAIL - 2; n++) {
		kit_copy_tree(dir, "killed", dir, "t");
		kit_flip(dir, PACK, 8 * tail_off(n) + 8 * 70);
		check_repaired(dir, ALL & ~(1u << n));
	}
	/* A hole that is longer than a PAD record can be. */
	struct inlay_store *store = kit_open(dir, "big", KIT_WRITE);
	for (uint64_t n = 0; n < 5; n++)
		(void)kit_put(store, n, 60000);
	assert_ok(inlay_store_flush(store, &err));
	kit_copy_tree(dir, "big", dir, "t");
	inlay_store_close(store);
	for (uint64_t n = 1; n < 4; n++)
		for (uint64_t i = 0; i < 10; i++)
			kit_flip(dir, PACK, 8 * (32 + n * layout_record_bytes(60000) + 6000 * i));
	store = kit_open(dir, "t", INLAY_STORE_WRITE);
	for (uint64_t n = 0; n < 5; n++)
		assert_int_equal(kit_has(store, n, 60000, false), n == 0 || n == 4);
	kit_assert_clean(store);
	assert_int_equal(kit_size(dir, PACK), 32 + 5 * layout_record_bytes(60000));
	inlay_store_close(store);
}

/* Everything before the point was acknowledged: damage there is fsck's, and nothing is changed. */
static void acknowledged_bytes_are_not_touched(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	kit_flip(dir, PACK, 8 * tail_off(2) + 8 * 70);
	size_t before_len, after_len;
	auto_free uint8_t *before = kit_read(dir, PACK, &before_len);
	struct inlay_store *store = kit_open(dir, "t", INLAY_STORE_WRITE);
	auto_free uint8_t *after = kit_read(dir, PACK, &after_len);
	assert_int_equal(before_len, after_len);
	assert_memory_equal(before, after, before_len);
	assert_int_equal(kit_verify(store, true).with_id, 1);
	assert_int_equal(kit_verify(store, true).count, 1);
	for (uint64_t n = 0; n < ACKED + TAIL; n++)
		assert_int_equal(kit_has(store, n, size_of(n), true), n != 2);
	inlay_store_close(store);
	/* Without a point all is verified, and still only the damaged object goes. */
	kit_copy_tree(dir, "killed", dir, "t");
	kit_flip(dir, PACK, 8 * tail_off(2) + 8 * 70);
	kit_flip(dir, "t/refs/w", 99);
	store = kit_open(dir, "t", INLAY_STORE_WRITE);
	for (uint64_t n = 0; n < ACKED + TAIL; n++)
		assert_int_equal(kit_has(store, n, size_of(n), false), n != 2);
	inlay_store_close(store);
}

static void lost_index_is_made_again(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = NULL;

	make_killed(dir);
	for (int how = 0; how < 4; how++) {
		kit_copy_tree(dir, "killed", dir, "t");
		if (how == 0)
			assert_int_equal(unlinkat(dir, "t/index", 0), 0);
		else if (how == 1)
			kit_flip(dir, "t/index", 77);
		else
			kit_write(dir, "t/index", "rubbish", how == 2 ? 7 : 0);
		assert_result(inlay_store_open(dir, "t", KIT_READ, &store, &err), -EBADMSG);
		check_repaired(dir, ALL);
	}
}

/* A flipped bit among the acknowledged entries, after a clean end. */
static void damaged_entry_is_found_again(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	for (uint64_t n = 0; n < ACKED; n++)
		(void)kit_put(store, n, size_of(n));
	kit_publish(store, 1);
	inlay_store_close(store);
	for (uint64_t n = 0; n < ACKED; n++) {
		kit_copy_tree(dir, "s", dir, "t");
		kit_flip(dir, "t/index", 8 * (INDEX_HEADER_BYTES + n * INDEX_ENTRY_BYTES) + 3);
		struct inlay_store *reader = kit_open(dir, "t", KIT_READ);
		/* Only that one is missing for readers. */
		for (uint64_t i = 0; i < ACKED; i++)
			assert_int_equal(kit_has(reader, i, size_of(i), false), i != n);
		struct kit_findings f = kit_verify(reader, true);
		assert_int_equal(f.count, 1);
		assert_int_equal(f.with_id, size_of(n) < INLAY_STORE_LOOSE_MIN);
		store = kit_open(dir, "t", INLAY_STORE_WRITE);
		assert_false(inlay_store_was_unclean(store));
		for (uint64_t i = 0; i < ACKED; i++) {
			kit_assert_has(store, i, size_of(i));
			kit_assert_has(reader, i, size_of(i));
		}
		kit_assert_clean(store);
		inlay_store_close(reader);
		inlay_store_close(store);
	}
}

static void missing_pack_is_missing_objects(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	assert_int_equal(unlinkat(dir, PACK, 0), 0);
	struct inlay_store *store = kit_open(dir, "t", INLAY_STORE_WRITE);
	for (uint64_t n = 0; n < ACKED + TAIL; n++)
		assert_int_equal(kit_has(store, n, size_of(n), false),
				 size_of(n) >= INLAY_STORE_LOOSE_MIN);
	/* The ref says that this number was verified to an offset: it is not given again. */
	(void)kit_put(store, 0, size_of(0));
	assert_ok(inlay_store_sync(store, &err));
	assert_false(kit_exists(dir, PACK));
	assert_true(kit_exists(dir, "t/packs/00000002.pack"));
	kit_assert_clean(store);
	inlay_store_close(store);
}

static void shorter_pack_is_not_continued(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	kit_truncate(dir, PACK, tail_off(3));
	struct inlay_store *store = kit_open(dir, "t", INLAY_STORE_WRITE);
	assert_int_equal(kit_size(dir, PACK), tail_off(3));
	(void)kit_put(store, 50, 100);
	assert_ok(inlay_store_sync(store, &err));
	assert_true(kit_exists(dir, "t/packs/00000002.pack"));
	inlay_store_close(store);
}

/* After a clean end nothing is verified: what is put then lies where the index thinks that other
 * objects are. They are damaged, never wrong. */
/* gc had moved objects, and the power went before the new copies were on the disk. */
static void lost_copy_brings_back_the_old_one(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	for (uint64_t n = 0; n < 4; n++)
		(void)kit_put(store, n, 100);
	kit_publish(store, 1);
	for (uint64_t n = 0; n < 4; n++) {
		auto_free uint8_t *bytes = kit_bytes(n, 100);
		struct record record = {
			.kind = RECORD_OBJECT, .size = 100, .payload = bytes, .id = kit_id(n, 100)};
		if (n == 3) /* and this one was dropped, so the old copy is no good */
			assert_ok(inlay_store_drop(store, &record.id, &err));
		assert_ok(append_object(store, &record, &err));
	}
	assert_ok(inlay_store_flush(store, &err));
	kit_copy_tree(dir, "s", dir, "t");
	inlay_store_close(store);
	kit_truncate(dir, PACK, PACK_HEADER_BYTES + 5 * layout_record_bytes(100) + 3);
	store = kit_open(dir, "t", INLAY_STORE_WRITE);
	for (uint64_t n = 0; n < 4; n++)
		assert_int_equal(kit_has(store, n, 100, false), n < 3);
	kit_assert_clean(store);
	inlay_store_close(store);
}

/* Whole by its checksum, and not what its digest says. */
static void false_record_is_not_taken_in(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct record record = {.kind = RECORD_OBJECT,
				.size = 5,
				.payload = (const uint8_t *)"wrong",
				.id = kit_id(1, 5)};

	(void)kit_put(store, 2, 50);
	assert_ok(append_object(store, &record, &err));
	(void)kit_put(store, 3, 50);
	assert_ok(inlay_store_flush(store, &err));
	kit_copy_tree(dir, "s", dir, "t");
	inlay_store_close(store);
	assert_int_equal(unlinkat(dir, "t/index", 0), 0);
	store = kit_open(dir, "t", INLAY_STORE_WRITE);
	assert_false(kit_has(store, 1, 5, false));
	kit_assert_has(store, 2, 50);
	kit_assert_has(store, 3, 50);
	kit_assert_clean(store);
	inlay_store_close(store);
}

static void lost_end_of_pack_gives_no_wrong_bytes(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "t", KIT_WRITE);

	for (uint64_t n = 0; n < 5; n++)
		(void)kit_put(store, n, 100);
	assert_ok(inlay_store_sync(store, &err)); /* no ref names the end of the pack */
	inlay_store_close(store);
	kit_truncate(dir, PACK, PACK_HEADER_BYTES + 2 * layout_record_bytes(100));
	store = kit_open(dir, "t", INLAY_STORE_WRITE);
	assert_false(inlay_store_was_unclean(store));
	for (int round = 0; round < 2; round++) {
		for (uint64_t n = 0; n < 5; n++)
			assert_int_equal(kit_has(store, n, 100, true), n < 2);
		if (round > 0)
			break;
		(void)kit_put(store, 50, 100);
		for (uint64_t n = 0; n < 5; n++)
			assert_int_equal(kit_has(store, n, 100, true), n < 2);
		assert_ok(inlay_store_flush(store, &err));
	}
	kit_assert_has(store, 50, 100);
	assert_int_equal(kit_verify(store, true).with_id, 3);
	inlay_store_close(store);
}

static void leftovers_are_removed(void **state)
{
	int dir = kit_dir(state);

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	assert_true(mkdirat(dir, "t/loose/ab", 0700) == 0 || errno == EEXIST);
	kit_write(dir, "t/.index.new", "x", 1);
	kit_write(dir, "t/.format.new", "x", 1);
	kit_write(dir, "t/refs/.w.new", "x", 1);
	kit_write(dir, "t/loose/.123.new", "x", 1);
	kit_write(dir, "t/loose/ab/.123.new", "x", 1);
	/* Rubbish with the name of an object. */
	kit_write(dir, "t/loose/ab/00112233445566778899aabbccddeeff00112233445566778899aabbccddee",
		  "x", 1);
	check_repaired(dir, ALL);
	assert_false(kit_exists(
		dir, "t/loose/ab/00112233445566778899aabbccddeeff00112233445566778899aabbccddee"));
}

/* ---- newer versions ---- */

/* Sets a version in the middle of otherwise good bytes, with a right checksum. */
static void set_version(int dir, const char *path, size_t at, size_t sum_from, size_t sum_to)
{
	size_t len;
	auto_free uint8_t *bytes = kit_read(dir, path, &len);

	bytes[at] = 9;
	inlay_put_le64(bytes + sum_to, inlay_xxh3(bytes + sum_from, sum_to - sum_from));
	kit_write(dir, path, bytes, len);
}

static void newer_files_are_refused(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = NULL;
	char path[100];
	uint64_t loose = ACKED - 1;
	size_t footer = (size_t)layout_loose_bytes(size_of(loose)) - LOOSE_FOOTER_BYTES;

	make_killed(dir);
	kit_copy_tree(dir, "killed", dir, "t");
	set_version(dir, "t/index", 8, 0, 48);
	assert_result(inlay_store_open(dir, "t", KIT_READ, &store, &err), -EPROTONOSUPPORT);
	assert_result(inlay_store_open(dir, "t", INLAY_STORE_WRITE, &store, &err),
		      -EPROTONOSUPPORT);
	assert_string_equal(err.text,
			    "store t: the index has version 9, this inlay reads version 1");
	kit_copy_tree(dir, "killed", dir, "t");
	set_version(dir, PACK, 8, 0, 24);
	assert_result(inlay_store_open(dir, "t", INLAY_STORE_WRITE, &store, &err),
		      -EPROTONOSUPPORT);
	assert_string_equal(err.text,
			    "store t: 00000001.pack has version 9, this inlay reads version 1");
	store = kit_open(dir, "t", KIT_READ);
	auto_buf struct inlay_buf b = {0};
	struct inlay_digest id = kit_id(0, size_of(0));
	assert_result(inlay_store_get(store, &id, 1000, 0, &b, &err), -EPROTONOSUPPORT);
	inlay_store_close(store);
	store = NULL;
	kit_copy_tree(dir, "killed", dir, "t");
	set_version(dir, "t/refs/w", 8, 0, (size_t)kit_size(dir, "t/refs/w") - 8);
	assert_result(inlay_store_open(dir, "t", INLAY_STORE_WRITE, &store, &err),
		      -EPROTONOSUPPORT);
	assert_string_equal(err.text,
			    "store t: ref w: it has version 9, this inlay reads version 1");
	kit_copy_tree(dir, "killed", dir, "t");
	loose_path(loose, path, sizeof path);
	set_version(dir, path, footer + 52, footer, footer + 56);
	store = kit_open(dir, "t", KIT_READ);
	id = kit_id(loose, size_of(loose));
	assert_result(inlay_store_get(store, &id, 100000, 0, &b, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "its file has version 9, this inlay reads version 1"));
	inlay_store_close(store);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, kit_setup, kit_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(untouched_tail_stays),
		TEST(pack_cut_at_every_byte),
		TEST(pack_garbage_from_every_byte),
		TEST(index_cut_at_every_byte),
		TEST(entries_without_objects_are_taken_out),
		TEST(loose_file_is_checked_whole),
		TEST(good_records_after_a_hole_stay),
		TEST(acknowledged_bytes_are_not_touched),
		TEST(lost_index_is_made_again),
		TEST(damaged_entry_is_found_again),
		TEST(missing_pack_is_missing_objects),
		TEST(shorter_pack_is_not_continued),
		TEST(lost_copy_brings_back_the_old_one),
		TEST(false_record_is_not_taken_in),
		TEST(lost_end_of_pack_gives_no_wrong_bytes),
		TEST(leftovers_are_removed),
		TEST(newer_files_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
