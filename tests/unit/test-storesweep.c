/* SPDX-License-Identifier: Apache-2.0 */
/* gc: what goes, what stays, and who may go on reading and putting meanwhile. */
#include "storekit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "store/state.h"

/* Objects are told apart by their number: which of `count` are live is a function of it. */
struct world {
	struct inlay_store *store;
	uint64_t count;
	bool (*live)(uint64_t number);
	void (*once)(struct world *w); /* called in the middle of judging */
	size_t (*size)(uint64_t number);
	uint64_t calls;
	struct inlay_digest ids[400];
};

static size_t small(uint64_t n)
{
	return 500 + n;
}

static size_t mixed(uint64_t n)
{
	return n % 5 == 3 ? 66000 + n : 100 + n;
}

static bool none(uint64_t n)
{
	(void)n;
	return false;
}

static bool all(uint64_t n)
{
	(void)n;
	return true;
}

static bool third(uint64_t n)
{
	return n % 3 == 0;
}

static bool is_live(void *ctx, const struct inlay_digest *id)
{
	struct world *w = ctx;

	if (w->once && w->calls++ == w->count / 2)
		w->once(w);
	for (uint64_t n = 0; n < w->count; n++)
		if (inlay_digest_equal(&w->ids[n], id))
			return w->live(n);
	return false;
}

static struct inlay_store_sweep sweep(struct world *w, int64_t grace_ns)
{
	struct inlay_store_sweep out;

	assert_ok(inlay_store_sweep(w->store, is_live, w, grace_ns, &out, &err));
	kit_assert_clean(w->store);
	return out;
}

static uint64_t bytes_on_disk(int dir)
{
	struct kit_files f = kit_files(dir, "s");
	uint64_t sum = 0;

	for (size_t i = 0; i < f.count; i++) {
		char path[200];
		(void)snprintf(path, sizeof path, "s/%s", f.paths[i]);
		if (strncmp(f.paths[i], "packs/", 6) == 0 || strncmp(f.paths[i], "loose/", 6) == 0)
			sum += kit_size(dir, path);
	}
	kit_files_free(&f);
	return sum;
}

static struct world make_world(int dir, uint64_t count, size_t (*size)(uint64_t),
			       bool (*live)(uint64_t), uint64_t pack_max)
{
	struct world w = {
		.store = kit_open(dir, "s", KIT_WRITE), .count = count, .size = size, .live = live};

	if (pack_max)
		w.store->pack_max = pack_max;
	for (uint64_t n = 0; n < count; n++)
		w.ids[n] = kit_put(w.store, n, size(n));
	kit_publish(w.store, 1);
	return w;
}

static void check_world(struct world *w)
{
	struct inlay_store_usage u;

	for (uint64_t n = 0; n < w->count; n++)
		if (kit_has(w->store, n, w->size(n), false) != w->live(n))
			fail_msg("object %u", (unsigned)n);
	assert_ok(inlay_store_usage(w->store, &u, &err));
	assert_int_equal(w->store->used, u.pack_bytes + u.loose_bytes);
}

static void dead_objects_go(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 60, mixed, third, 0);
	uint64_t before = bytes_on_disk(dir), sizes = 0, dead = 0;

	for (uint64_t n = 0; n < w.count; n++) {
		dead += !third(n);
		sizes += third(n) ? 0 : mixed(n);
	}
	struct inlay_store_sweep out = sweep(&w, 0);
	assert_int_equal(out.removed, dead);
	assert_int_equal(out.removed_bytes, sizes);
	assert_int_equal(out.young, 0);
	check_world(&w);
	assert_ok(inlay_store_flush(w.store, &err));
	uint64_t after = bytes_on_disk(dir);
	assert_true(after < before / 2);
	/* The header of the new pack is what is not counted. */
	assert_in_range(out.freed_bytes, before - after, before - after + PACK_HEADER_BYTES);
	assert_false(kit_exists(dir, "s/packs/00000001.pack"));
	kit_assert_no_leftovers(dir, "s");
	/* Nothing left to do. */
	out = sweep(&w, 0);
	assert_int_equal(out.removed + out.removed_bytes + out.freed_bytes + out.young, 0);
	inlay_store_close(w.store);
	w.store = kit_open(dir, "s", INLAY_STORE_WRITE);
	check_world(&w);
	for (uint64_t n = 0; n < w.count; n++)
		(void)kit_put(w.store, n, w.size(n));
	w.live = all;
	check_world(&w);
	kit_assert_clean(w.store);
	inlay_store_close(w.store);
}

static void everything_can_go(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 30, mixed, none, 0);

	assert_int_equal(sweep(&w, 0).removed, 30);
	assert_int_equal(bytes_on_disk(dir), 0);
	assert_int_equal(w.store->used, 0);
	check_world(&w);
	(void)kit_put(w.store, 1, 1000);
	kit_publish(w.store, 2);
	inlay_store_close(w.store);
	w.store = kit_open(dir, "s", INLAY_STORE_WRITE);
	kit_assert_has(w.store, 1, 1000);
	kit_assert_clean(w.store);
	inlay_store_close(w.store);
}

static void live_store_is_left_alone(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 30, mixed, all, 0);
	size_t before_len, after_len;
	auto_free uint8_t *before = kit_read(dir, "s/index", &before_len);
	struct inlay_store_sweep out = sweep(&w, 0);
	auto_free uint8_t *after = kit_read(dir, "s/index", &after_len);

	assert_int_equal(out.removed + out.freed_bytes + out.young, 0);
	assert_int_equal(before_len, after_len);
	assert_memory_equal(before, after, before_len);
	assert_true(kit_exists(dir, "s/packs/00000001.pack"));
	inlay_store_close(w.store);
}

/* ---- age ---- */

static int64_t clock_ns = 1000000000000;

static int64_t test_clock(void)
{
	return clock_ns;
}

#define SECOND INT64_C(1000000000)

static void young_objects_stay(void **state)
{
	int dir = kit_dir(state);
	struct world w = {
		.store = kit_open(dir, "s", KIT_WRITE), .count = 4, .size = small, .live = none};

	w.store->now = test_clock;
	(void)kit_put(w.store, 0, small(0));
	clock_ns += 100 * SECOND;
	(void)kit_put(w.store, 1, small(1));
	struct inlay_store_sweep out = sweep(&w, 0);
	assert_int_equal(out.young, 1); /* put at this very moment: not more than 0 ago */
	assert_int_equal(out.removed, 1);
	(void)kit_put(w.store, 0, small(0));
	clock_ns += 50 * SECOND;
	out = sweep(&w, 60 * SECOND);
	assert_int_equal(out.young, 2);
	assert_int_equal(out.removed, 0);
	/* Putting again makes young again. */
	(void)kit_put(w.store, 1, small(1));
	clock_ns += 50 * SECOND;
	out = sweep(&w, 60 * SECOND);
	assert_int_equal(out.young, 1);
	assert_int_equal(out.removed, 1);
	kit_assert_has(w.store, 1, small(1));
	assert_int_equal(sweep(&w, INT64_MAX).young, 1);
	/* Its age survives a move and a restart. */
	inlay_store_close(w.store);
	w.store = kit_open(dir, "s", INLAY_STORE_WRITE);
	w.store->now = test_clock;
	assert_int_equal(sweep(&w, 45 * SECOND).removed, 1);
	inlay_store_close(w.store);
}

static void wrong_clock_keeps_nothing_for_ever(void **state)
{
	int dir = kit_dir(state);
	int64_t right = clock_ns;
	struct world w = {
		.store = kit_open(dir, "s", KIT_WRITE), .count = 2, .size = small, .live = none};

	w.store->now = test_clock;
	(void)kit_put(w.store, 0, small(0));
	clock_ns = right + 1000000 * SECOND;
	(void)kit_put(w.store, 1, small(1));
	clock_ns = right + 10 * SECOND;
	struct inlay_store_sweep out = sweep(&w, 5 * SECOND);
	assert_int_equal(out.removed, 1);
	assert_int_equal(out.young, 1);
	clock_ns += 10 * SECOND; /* from the last sweep on its age counts */
	out = sweep(&w, 5 * SECOND);
	assert_int_equal(out.removed, 1);
	inlay_store_close(w.store);
}

/* ---- packs ---- */

static bool last_of_ten(uint64_t n)
{
	return n % 10 == 9;
}

static void small_packs_are_merged(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 400, small, last_of_ten, 20000);
	struct inlay_store_usage before, after;

	assert_ok(inlay_store_usage(w.store, &before, &err));
	assert_true(before.packs > 10);
	assert_int_equal(sweep(&w, 0).removed, 360);
	assert_ok(inlay_store_usage(w.store, &after, &err));
	assert_true(after.packs <= before.packs / 5);
	assert_true(after.pack_bytes < before.pack_bytes / 5);
	check_world(&w);
	inlay_store_close(w.store);
	/* Packs that are small by now, because full ones may be larger. */
	w.store = kit_open(dir, "s", INLAY_STORE_WRITE);
	(void)sweep(&w, 0);
	assert_ok(inlay_store_usage(w.store, &after, &err));
	assert_int_equal(after.packs, 1);
	check_world(&w);
	inlay_store_close(w.store);
}

static void damaged_live_object_keeps_its_pack(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 100, small, last_of_ten, 0);
	struct inlay_store_sweep out;

	/* Object 9 is live: its record is behind nine others. */
	uint64_t off = PACK_HEADER_BYTES;
	for (uint64_t n = 0; n < 9; n++)
		off += layout_record_bytes(small(n));
	kit_flip(dir, "s/packs/00000001.pack", 8 * (off + 100));
	assert_ok(inlay_store_sweep(w.store, is_live, &w, 0, &out, &err));
	assert_int_equal(out.removed, 90);
	assert_true(kit_exists(dir, "s/packs/00000001.pack"));
	struct kit_findings f = kit_verify(w.store, true);
	struct inlay_digest id = kit_id(9, small(9));
	assert_int_equal(f.count, 1);
	assert_memory_equal(&f.last_id, &id, sizeof id);
	/* When it was dropped and sent again the pack can go. */
	assert_ok(inlay_store_drop(w.store, &id, &err));
	(void)kit_put(w.store, 9, small(9));
	(void)sweep(&w, 0);
	assert_false(kit_exists(dir, "s/packs/00000001.pack"));
	check_world(&w);
	inlay_store_close(w.store);
}

static void index_forgets_what_does_not_count(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 20, small, all, 0);

	clock_ns = inlay_now_ns();
	w.store->now = test_clock;
	for (int round = 0; round < 5; round++) {
		clock_ns += 10 * SECOND;
		for (uint64_t n = 0; n < w.count; n++)
			(void)kit_put(w.store, n, small(n));
	}
	assert_ok(inlay_store_flush(w.store, &err));
	uint64_t before = kit_size(dir, "s/index");
	assert_true(before > 100 * INDEX_ENTRY_BYTES - 2000);
	(void)sweep(&w, 0);
	assert_int_equal(kit_size(dir, "s/index"), INDEX_HEADER_BYTES + 20 * INDEX_ENTRY_BYTES);
	check_world(&w);
	inlay_store_close(w.store);
}

static void orphaned_files_go(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 10, mixed, all, 0);
	struct inlay_digest id = kit_id(77, 70000);

	/* As after a crash between the new index and the deletions. */
	(void)kit_put(w.store, 77, 70000);
	assert_ok(inlay_store_drop(w.store, &id, &err));
	assert_ok(inlay_store_sync(w.store, &err));
	struct inlay_store_sweep out = sweep(&w, 0);
	assert_int_equal(out.removed, 0);
	assert_int_equal(out.freed_bytes, layout_loose_bytes(70000));
	check_world(&w);
	inlay_store_close(w.store);
}

/* ---- meanwhile ---- */

static void put_meanwhile(struct world *w)
{
	/* New objects, and dead ones again: judged already (0..) and not yet judged (..count). */
	for (uint64_t n = 1000; n < 1010; n++)
		(void)kit_put(w->store, n, mixed(n));
	for (uint64_t n = 0; n < w->count; n += 7)
		(void)kit_put(w->store, n, w->size(n));
	for (uint64_t n = 0; n < w->count; n++)
		if (w->live(n))
			kit_assert_has(w->store, n, w->size(n));
}

static bool live_or_seventh(uint64_t n)
{
	return n % 3 == 0 || n % 7 == 0;
}

static void what_is_put_meanwhile_stays(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 105, mixed, third, 50000);

	w.once = put_meanwhile;
	(void)sweep(&w, 0);
	w.live = live_or_seventh;
	check_world(&w);
	for (uint64_t n = 1000; n < 1010; n++)
		kit_assert_has(w.store, n, mixed(n));
	inlay_store_close(w.store);
	w.store = kit_open(dir, "s", INLAY_STORE_WRITE);
	check_world(&w);
	inlay_store_close(w.store);
}

static void drop_meanwhile(struct world *w)
{
	for (uint64_t n = 0; n < w->count; n += 3) {
		struct inlay_digest id = kit_id(n, w->size(n));
		assert_ok(inlay_store_drop(w->store, &id, &err));
	}
}

static void what_is_dropped_meanwhile_goes(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 60, mixed, third, 0);

	w.once = drop_meanwhile;
	(void)sweep(&w, 0);
	w.live = none;
	check_world(&w);
	inlay_store_close(w.store);
	w.store = kit_open(dir, "s", INLAY_STORE_WRITE);
	check_world(&w);
	inlay_store_close(w.store);
}

struct readers {
	struct inlay_store *store;
	atomic_bool stop;
	_Atomic uint64_t reads;
};

enum { LIVE_OBJECTS = 50 };

/* Reads live objects until told to stop; NULL when every read was right. */
static void *read_live(void *p)
{
	struct readers *r = p;
	uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;

	while (!atomic_load(&r->stop)) {
		uint64_t n = kit_random(&seed) % LIVE_OBJECTS * 3;
		auto_free uint8_t *want = kit_bytes(n, mixed(n));
		auto_buf struct inlay_buf b = {0};
		struct inlay_digest id;
		struct inlay_error e = {0};
		inlay_digest_of(want, mixed(n), &id);
		int got = inlay_store_get(r->store, &id, mixed(n), 0, &b, &e);
		if (got != 0 || b.len != mixed(n) || memcmp(b.data, want, b.len) != 0) {
			print_error("object %u: %d %s\n", (unsigned)n, got, e.text);
			return (void *)1;
		}
		atomic_fetch_add(&r->reads, 1);
	}
	return NULL;
}

/* Puts rubbish and sweeps it away, again and again. */
static void churn(struct world *w, int rounds)
{
	for (int round = 0; round < rounds; round++) {
		for (uint64_t n = 0; n < 60; n++)
			(void)kit_put(w->store, 5000 + n + (uint64_t)round * 60, mixed(n));
		(void)sweep(w, 0);
	}
}

static void threads_read_during_sweeps(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 3 * LIVE_OBJECTS, mixed, third, 30000);
	struct readers r = {.store = w.store};
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_live, &r), 0);
	churn(&w, 12);
	atomic_store(&r.stop, true);
	for (int i = 0; i < 3; i++) {
		void *bad;
		assert_int_equal(pthread_join(threads[i], &bad), 0);
		assert_null(bad);
	}
	assert_true(atomic_load(&r.reads) > 0);
	check_world(&w);
	inlay_store_close(w.store);
}

static void *put_on(void *p)
{
	struct readers *r = p;
	struct inlay_error e;

	for (uint64_t n = 9000; !atomic_load(&r->stop); n++) {
		auto_free uint8_t *bytes = kit_bytes(n % 200, mixed(n % 200));
		struct inlay_digest id;
		uint64_t size;
		/* Live objects again, and dead ones that come and go. */
		if (inlay_store_put(r->store, bytes, mixed(n % 200), &id, &e) < 0)
			return (void *)1;
		if (n % 20 == 0 && inlay_store_sync(r->store, &e) < 0)
			return (void *)2;
		if (n % 200 % 3 == 0 && n % 200 < 3 * LIVE_OBJECTS &&
		    inlay_store_stat(r->store, &id, &size) != 0)
			return (void *)3;
		atomic_fetch_add(&r->reads, 1);
	}
	return NULL;
}

static void threads_put_during_sweeps(void **state)
{
	int dir = kit_dir(state);
	struct world w = make_world(dir, 3 * LIVE_OBJECTS, mixed, third, 30000);
	struct readers r = {.store = w.store};
	pthread_t reader, putter;
	void *bad;

	assert_int_equal(pthread_create(&reader, NULL, read_live, &r), 0);
	assert_int_equal(pthread_create(&putter, NULL, put_on, &r), 0);
	churn(&w, 12);
	atomic_store(&r.stop, true);
	assert_int_equal(pthread_join(reader, &bad), 0);
	assert_null(bad);
	assert_int_equal(pthread_join(putter, &bad), 0);
	assert_null(bad);
	kit_assert_clean(w.store);
	inlay_store_close(w.store);
}

static int read_in_child(int dir, struct readers *shared, int go)
{
	struct inlay_error e;
	char byte;

	if (inlay_store_open(dir, "s", KIT_READ, &shared->store, &e) != 0)
		return 2;
	struct inlay_store *idle; /* does not look before all is over */
	if (inlay_store_open(dir, "s", KIT_READ, &idle, &e) != 0)
		return 3;
	if (read_live(shared) != NULL)
		return 4;
	shared->store = idle;
	if (read(go, &byte, 1) != 0)
		return 5;
	for (uint64_t n = 0; n < 3 * LIVE_OBJECTS; n++)
		if (kit_has(idle, n, mixed(n), false) != third(n))
			return 6;
	/* Nothing that is deleted is held open. */
	return objindex_news(idle->index) == OBJINDEX_SAME ? 0 : 7;
}

static void other_process_reads_during_sweeps(void **state)
{
	int dir = kit_dir(state), go[2], status;
	struct world w = make_world(dir, 3 * LIVE_OBJECTS, mixed, third, 30000);
	struct readers *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(shared != MAP_FAILED);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid_t child = fork();
	if (child == 0) {
		close(go[1]);
		_exit(read_in_child(dir, shared, go[0]));
	}
	close(go[0]);
	while (atomic_load(&shared->reads) == 0 && waitpid(child, &status, WNOHANG) == 0)
		usleep(1000);
	churn(&w, 15);
	atomic_store(&shared->stop, true);
	close(go[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	(void)munmap(shared, sizeof *shared);
	inlay_store_close(w.store);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, kit_setup, kit_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(dead_objects_go),
		TEST(everything_can_go),
		TEST(live_store_is_left_alone),
		TEST(young_objects_stay),
		TEST(wrong_clock_keeps_nothing_for_ever),
		TEST(small_packs_are_merged),
		TEST(damaged_live_object_keeps_its_pack),
		TEST(index_forgets_what_does_not_count),
		TEST(orphaned_files_go),
		TEST(what_is_put_meanwhile_stays),
		TEST(what_is_dropped_meanwhile_goes),
		TEST(threads_read_during_sweeps),
		TEST(threads_put_during_sweeps),
		TEST(other_process_reads_during_sweeps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
