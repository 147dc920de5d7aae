/* SPDX-License-Identifier: Apache-2.0 */
/* Bit rot: one flipped bit anywhere is told by verify, and no wrong byte is ever given. */
#include "storekit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "store/state.h"

enum { OBJECTS = 120, FLIPS = 900 };

static size_t size_of(uint64_t n)
{
	return n % 20 == 4 ? 65536 + 997 * (size_t)n : 60 + 13 * (size_t)n;
}

static bool live(void *ctx, const struct inlay_digest *id)
{
	(void)ctx;
	return id->b[0] % 8 != 0;
}

/* With everything that a store can have: several packs, dead records, entries that do not count, a
 * dropped object, an index that was replaced, loose files, two refs. */
static void make_store(int dir)
{
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store_sweep swept;
	struct inlay_generation gen = {.number = 1, .origin = "rot"};

	store->pack_max = 30000;
	for (uint64_t n = 0; n < OBJECTS; n++) {
		struct inlay_digest id = kit_put(store, n, size_of(n));
		if (n % 30 == 7) {
			assert_ok(inlay_store_drop(store, &id, &err));
			(void)kit_put(store, n, size_of(n));
		}
	}
	kit_publish(store, 1);
	assert_ok(inlay_store_sweep(store, live, NULL, 0, &swept, &err));
	for (uint64_t n = 0; n < OBJECTS; n += 10) {
		struct inlay_digest id = kit_put(store, n, size_of(n));
		if (n % 40 == 0)
			assert_ok(inlay_store_drop(store, &id, &err));
	}
	kit_publish(store, 2);
	assert_ok(inlay_store_publish(store, "other", &gen, 1, 1, &err));
	kit_assert_clean(store);
	inlay_store_close(store);
}

static uint64_t what_is_there(struct inlay_store *store, bool damaged, bool *there)
{
	uint64_t count = 0;

	for (uint64_t n = 0; n < OBJECTS; n++) {
		there[n] = kit_has(store, n, size_of(n), damaged);
		count += there[n];
	}
	return count;
}

/* Ranges of an object: right or an error. */
static void read_ranges(struct inlay_store *store, uint64_t n, uint64_t *seed)
{
	auto_free uint8_t *want = kit_bytes(n, size_of(n)), *got = malloc(size_of(n) + 1);
	struct inlay_digest id = kit_id(n, size_of(n));

	for (int i = 0; i < 4; i++) {
		size_t off = (size_t)kit_random(seed) % size_of(n), have;
		size_t len = (size_t)kit_random(seed) % (size_of(n) - off) + 1;
		int r = inlay_store_pread(store, &id, got, len, off, &have, &err);
		if (r == INLAY_STORE_MISSING || r == -EBADMSG)
			continue;
		assert_ok(r);
		assert_int_equal(have, len);
		assert_memory_equal(got, want + off, len);
	}
}

static void check_flipped(int dir, const char *path, uint64_t bit, const bool *good, uint64_t *seed)
{
	struct inlay_store *store = NULL;
	bool there[OBJECTS];
	int r = inlay_store_open(dir, "s", KIT_READ, &store, &err);

	if (r != 0) {
		if (strcmp(path, "format") != 0 && strcmp(path, "index") != 0)
			fail_msg("%s, bit %llu: %s", path, (unsigned long long)bit, err.text);
		assert_true(r == -EBADMSG || r == -EPROTONOSUPPORT);
		return;
	}
	struct kit_findings f = kit_verify(store, true);
	if (f.count != 1)
		fail_msg("%s, bit %llu: %zu findings", path, (unsigned long long)bit, f.count);
	(void)what_is_there(store, true, there);
	for (uint64_t n = 0; n < OBJECTS; n++) {
		struct inlay_digest id = kit_id(n, size_of(n));
		if (there[n] == good[n])
			continue;
		/* The finding names exactly the object that cannot be given. */
		if (!good[n]) { /* the entry that dropped it is damaged: it is back, and right */
			assert_string_equal(path, "index");
			continue;
		}
		read_ranges(store, n, seed);
		/* Nothing tells the name of a loose object whose entry has another digest. */
		if (f.with_id == 0 && strcmp(path, "index") == 0 && size_of(n) >= 65536)
			continue;
		assert_int_equal(f.with_id, 1);
		assert_memory_equal(&id, &f.last_id, sizeof id);
	}
	inlay_store_close(store);
}

static void flipped_bits_are_found(void **state)
{
	int dir = kit_dir(state);
	bool good[OBJECTS];
	uint64_t seed = kit_seed(20240229), sizes[300], total = 0;

	make_store(dir);
	struct inlay_store *store = kit_open(dir, "s", KIT_READ);
	assert_true(what_is_there(store, false, good) > OBJECTS / 2);
	kit_assert_clean(store);
	inlay_store_close(store);
	struct kit_files f = kit_files(dir, "s");
	assert_in_range(f.count, 10, 300);
	for (size_t i = 0; i < f.count; i++) {
		char path[200];
		(void)snprintf(path, sizeof path, "s/%s", f.paths[i]);
		sizes[i] = kit_size(dir, path);
		total += sizes[i];
	}
	for (int flip = 0; flip < FLIPS; flip++) {
		size_t i = (size_t)(kit_random(&seed) % f.count);
		char path[200];
		if (flip % 2) { /* by bytes instead of by files */
			uint64_t at = kit_random(&seed) % total;
			for (i = 0; at >= sizes[i]; i++)
				at -= sizes[i];
		}
		if (strcmp(f.paths[i], "lock") == 0 || sizes[i] == 0)
			continue;
		uint64_t bit = kit_random(&seed) % (8 * sizes[i]);
		(void)snprintf(path, sizeof path, "s/%s", f.paths[i]);
		kit_flip(dir, path, bit);
		check_flipped(dir, f.paths[i], bit, good, &seed);
		kit_flip(dir, path, bit);
	}
	store = kit_open(dir, "s", KIT_READ);
	kit_assert_clean(store);
	inlay_store_close(store);
	kit_files_free(&f);
}

/* Every single bit of the files that are small. */
static void every_bit_of_the_index_counts(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);

	for (uint64_t n = 0; n < 4; n++)
		(void)kit_put(store, n, n == 2 ? 66000 : 40 * n);
	kit_publish(store, 1);
	inlay_store_close(store);
	static const char *const paths[] = {"s/index", "s/packs/00000001.pack", "s/refs/w",
					    "s/format"};
	for (size_t i = 0; i < 4; i++) {
		uint64_t bits = 8 * kit_size(dir, paths[i]);
		for (uint64_t bit = 0; bit < bits; bit++) {
			kit_flip(dir, paths[i], bit);
			int r = inlay_store_open(dir, "s", KIT_READ, &store, &err);
			if (r == 0) {
				if (kit_verify(store, true).count != 1)
					fail_msg("%s, bit %u", paths[i], (unsigned)bit);
				for (uint64_t n = 0; n < 4; n++)
					(void)kit_has(store, n, n == 2 ? 66000 : 40 * n, true);
				inlay_store_close(store);
			}
			kit_flip(dir, paths[i], bit);
		}
	}
}

static void drop_it(void *ctx, const struct inlay_digest *id, const char *what)
{
	(void)what;
	if (id)
		assert_ok(inlay_store_drop(ctx, id, &err));
}

/* fsck, what is missing is sent again: then nothing is left to find, but for a ref, which the next
 * publish replaces. Nothing good was lost. */
static void check_mended(struct inlay_store *store, const bool *good, const char *path)
{
	struct inlay_store_check check;

	assert_ok(inlay_store_verify(store, drop_it, NULL, store, &check, &err));
	assert_ok(inlay_store_mend(store, &err));
	for (uint64_t n = 0; n < OBJECTS; n++)
		if (good[n] && !kit_has(store, n, size_of(n), false))
			(void)kit_put(store, n, size_of(n));
	struct kit_findings f = kit_verify(store, true);
	if (strncmp(path, "t/refs/", 7) != 0 && f.count > 0)
		fail_msg("%s: %s", path, f.last);
	for (uint64_t n = 0; n < OBJECTS; n++)
		if (good[n])
			kit_assert_has(store, n, size_of(n));
}

/* A writer that opens a damaged store gives no wrong bytes either, leaves nothing in the index that
 * is not so, and mends the rest. */
static void writer_survives_flipped_bits(void **state)
{
	int dir = kit_dir(state);
	bool good[OBJECTS], there[OBJECTS];
	uint64_t seed = kit_seed(7);

	make_store(dir);
	struct inlay_store *store = kit_open(dir, "s", KIT_READ);
	(void)what_is_there(store, false, good);
	inlay_store_close(store);
	struct kit_files f = kit_files(dir, "s");
	for (int flip = 0; flip < 120; flip++) {
		size_t i = (size_t)(kit_random(&seed) % f.count);
		char path[200];
		(void)snprintf(path, sizeof path, "t/%s", f.paths[i]);
		if (strcmp(f.paths[i], "format") == 0 || strcmp(f.paths[i], "lock") == 0)
			continue;
		kit_copy_tree(dir, "s", dir, "t");
		kit_flip(dir, path, kit_random(&seed) % (8 * kit_size(dir, path)));
		if (flip % 3 == 0)
			kit_write(dir, "t/lock", "", 0); /* and it was not clean */
		store = kit_open(dir, "t", INLAY_STORE_WRITE);
		uint64_t bad = 0, n_bad = 0;
		(void)what_is_there(store, true, there);
		for (uint64_t n = 0; n < OBJECTS; n++)
			if (there[n] != good[n] && good[n]) {
				bad++;
				n_bad = n;
			}
		assert_true(bad <= 1);
		if (bad) { /* it can be sent again */
			struct inlay_digest id = kit_id(n_bad, size_of(n_bad));
			assert_ok(inlay_store_drop(store, &id, &err));
			(void)kit_put(store, n_bad, size_of(n_bad));
			kit_assert_has(store, n_bad, size_of(n_bad));
		}
		assert_true(kit_verify(store, true).with_id == 0);
		check_mended(store, good, path);
		inlay_store_close(store);
		store = kit_open(dir, "t", KIT_READ);
		if (strncmp(path, "t/refs/", 7) != 0)
			kit_assert_clean(store);
		inlay_store_close(store);
	}
	kit_files_free(&f);
}

/* The same under a store that is open: what is told is dropped at once, and can be sent again. */
static void findings_can_be_dropped(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store_check check;
	char path[100], name[LOOSE_NAME];

	for (uint64_t n = 0; n < 10; n++)
		(void)kit_put(store, n, n == 5 ? 70000 : 500);
	assert_ok(inlay_store_sync(store, &err));
	kit_flip(dir, "s/packs/00000001.pack", 8 * (PACK_HEADER_BYTES + 100));
	struct inlay_digest id = kit_id(5, 70000);
	loose_name(&id, name);
	(void)snprintf(path, sizeof path, "s/loose/%s", name);
	kit_flip(dir, path, 8);
	assert_ok(inlay_store_verify(store, drop_it, NULL, store, &check, &err));
	assert_int_equal(check.bad, 2);
	assert_int_equal(check.objects, 8);
	for (uint64_t n = 0; n < 10; n++)
		assert_int_equal(kit_has(store, n, n == 5 ? 70000 : 500, false), n != 0 && n != 5);
	(void)kit_put(store, 0, 500);
	(void)kit_put(store, 5, 70000);
	/* The damaged record is no object's any more. */
	struct kit_findings f = kit_verify(store, true);
	assert_int_equal(f.count, 1);
	assert_int_equal(f.with_id, 0);
	assert_ok(inlay_store_mend(store, &err));
	kit_assert_clean(store);
	for (uint64_t n = 0; n < 10; n++)
		kit_assert_has(store, n, n == 5 ? 70000 : 500);
	(void)kit_put(store, 11, 500);
	inlay_store_close(store);
	store = kit_open(dir, "s", KIT_READ);
	kit_assert_clean(store);
	kit_assert_has(store, 11, 500);
	inlay_store_close(store);
}

/* What an object that is still named lies on is never written over. */
static void mending_leaves_what_is_named(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	size_t before, after;

	for (uint64_t n = 0; n < 10; n++)
		(void)kit_put(store, n, 500);
	kit_publish(store, 1);
	kit_flip(dir, "s/packs/00000001.pack", 8 * (PACK_HEADER_BYTES + 3000));
	auto_free uint8_t *damaged = kit_read(dir, "s/packs/00000001.pack", &before);
	assert_ok(inlay_store_mend(store, &err));
	auto_free uint8_t *mended = kit_read(dir, "s/packs/00000001.pack", &after);
	assert_int_equal(before, after);
	assert_memory_equal(damaged, mended, before);
	inlay_store_close(store);
}

struct ticks {
	uint64_t done, total;
	unsigned calls;
};

static void tick(void *ctx, uint64_t done, uint64_t total)
{
	struct ticks *t = ctx;

	assert_true(done >= t->done && done <= total);
	*t = (struct ticks){done, total, t->calls + 1};
}

static void progress_comes_to_its_end(void **state)
{
	int dir = kit_dir(state);
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_store_check check;
	struct ticks t = {0};

	for (uint64_t n = 0; n < 50; n++)
		(void)kit_put(store, n, n % 10 == 5 ? 700000 : 500);
	assert_ok(inlay_store_verify(store, drop_it, tick, &t, &check, &err));
	assert_true(t.calls > 0);
	assert_int_equal(check.objects, 50);
	assert_int_equal(check.bytes, 45 * 500 + 5 * 700000);
	assert_in_range(t.done, t.total - 1000, t.total);
	inlay_store_close(store);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, kit_setup, kit_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(flipped_bits_are_found),       TEST(every_bit_of_the_index_counts),
		TEST(writer_survives_flipped_bits), TEST(findings_can_be_dropped),
		TEST(mending_leaves_what_is_named), TEST(progress_comes_to_its_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
