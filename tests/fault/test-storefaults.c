/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One small life of a store, and every call of it failing once: memory, writes, syncs, names,
 * reads, or the process ending there. Whatever fails, what was acknowledged stays, the store verifies
 * clean, the same work succeeds afterwards, and no descriptor or temporary is left.
 */
#include "storekit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "store/state.h"
#include "story.h"

static void assert_told(int r)
{
	if (r >= 0 || err.code != r || !err.text[0])
		fail_msg("error %d has code %d and text '%s'", r, err.code, err.text);
}

/* ---- failures ---- */

struct plan {
	const char *base;
	enum fault_mode mode;
	enum fault_kinds kinds;
	int error;
	bool retry;   /* do the step again in the same store; otherwise open it anew */
	size_t count; /* of steps */
};

/* False when the n-th call was not reached any more. */
static bool tell_with_fault(int dir, const struct plan *plan, uint64_t n)
{
	struct story s = {.dir = dir};
	bool armed = true, hit = false;
	size_t fds = kit_open_fds();

	kit_copy_tree(dir, plan->base, dir, "t");
	fault_arm(plan->mode, plan->kinds, n, plan->error);
	for (size_t i = 0; i < plan->count; i++) {
		err = (struct inlay_error){0};
		int r = story_step(&s, i);
		if (r == 0)
			continue;
		if (!armed || !fault_disarm()) {
			fault_disarm();
			fail_msg("step %zu of %llu: %d %s", i, (unsigned long long)n, r, err.text);
		}
		hit = true;
		armed = false;
		assert_told(r);
		if (!plan->retry)
			break;
		i--;
	}
	hit |= fault_disarm();
	inlay_store_close(take_ptr(s.store));
	story_check_afterwards(&s);
	assert_int_equal(kit_open_fds(), fds);
	return hit;
}

static void run_plan(int dir, const struct plan *plan)
{
	uint64_t n = 0;

	while (tell_with_fault(dir, plan, n))
		n++;
	print_message("%s: %llu calls\n", plan->base, (unsigned long long)n);
	assert_true(n > 3);
}

/* For both ends of a failure, and with all bases. */
static void run_plans(int dir, enum fault_mode mode, enum fault_kinds kinds, int error)
{
	story_make_bases(dir);
	for (size_t b = 0; b < 3; b++)
		for (int retry = 0; retry < 2; retry++)
			run_plan(dir, &(struct plan){.base = story_bases[b],
						     .mode = mode,
						     .kinds = kinds,
						     .error = error,
						     .retry = retry,
						     .count = b == 0 ? STORY_STEPS : STORY_SHORT});
}

static void memory_fails(void **state)
{
	run_plans(kit_dir(state), FAULT_FAIL, FAULT_MEMORY, 0);
}

static void writes_fail(void **state)
{
	run_plans(kit_dir(state), FAULT_FAIL, FAULT_WRITE, ENOSPC);
}

static void writes_fail_in_the_middle(void **state)
{
	run_plans(kit_dir(state), FAULT_TORN, FAULT_WRITE, EIO);
}

static void syncs_fail(void **state)
{
	run_plans(kit_dir(state), FAULT_FAIL, FAULT_SYNC, 0);
}

static void names_fail(void **state)
{
	run_plans(kit_dir(state), FAULT_FAIL, FAULT_NAME, 0);
}

static void names_fail_without_tmpfile(void **state)
{
	fault_no_tmpfile = true;
	run_plans(kit_dir(state), FAULT_FAIL, FAULT_NAME, 0);
	fault_no_tmpfile = false;
}

static void reads_fail(void **state)
{
	run_plans(kit_dir(state), FAULT_FAIL, FAULT_READ, 0);
}

/* The disk is full from some moment on, until there is space again. */
static void disk_fills_up(void **state)
{
	run_plans(kit_dir(state), FAULT_FULL, FAULT_WRITE, 0);
}

/* ---- the process ends ---- */

static bool tell_and_die(int dir, const struct plan *plan, uint64_t n, struct story *shared)
{
	int status;

	*shared = (struct story){.dir = dir};
	kit_copy_tree(dir, plan->base, dir, "t");
	pid_t child = fork();
	if (child == 0) {
		fault_arm(FAULT_KILL, plan->kinds, n, 0);
		for (size_t i = 0; i < plan->count; i++)
			if (story_step(shared, i) != 0)
				_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FAULT_EXIT);
	if (plan->count == STORY_STEPS)
		story_check_reader(shared, true);
	story_check_afterwards(shared);
	return WEXITSTATUS(status) == FAULT_EXIT;
}

static void process_ends_at_every_call(void **state)
{
	int dir = kit_dir(state);
	struct story *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(shared != MAP_FAILED);
	story_make_bases(dir);
	for (size_t b = 0; b < 3; b++) {
		struct plan plan = {.base = story_bases[b],
				    .kinds = FAULT_WRITE | FAULT_SYNC | FAULT_NAME,
				    .count = b == 0 ? STORY_STEPS : STORY_SHORT};
		uint64_t n = 0;
		while (tell_and_die(dir, &plan, n, shared))
			n++;
		print_message("%s: %llu calls\n", plan.base, (unsigned long long)n);
		assert_true(n > 20);
	}
	(void)munmap(shared, sizeof *shared);
}

/* ---- gc on a disk without any space ---- */

static void gc_needs_no_space(void **state)
{
	int dir = kit_dir(state);
	struct story s = {.dir = dir};
	static const uint8_t large[300000];
	struct inlay_store_sweep out = {0};
	uint64_t size;

	story_make_bases(dir);
	kit_copy_tree(dir, "base", dir, "t");
	assert_ok(story_step(&s, 0));
	assert_ok(story_put(s.store, 15)); /* in memory when the disk is full */
	struct inlay_store *reader = kit_open(dir, "t", KIT_READ);
	fault_arm(FAULT_FULL, FAULT_WRITE, 0, 0);
	int r = inlay_store_put(s.store, large, sizeof large, NULL, &err);
	assert_result(r, -ENOSPC);
	assert_result(inlay_store_sync(s.store, &err), -ENOSPC);
	r = inlay_store_sweep(s.store, story_is_live, NULL, 0, &out, &err);
	assert_true(fault_disarm());
	/* Packs cannot be rewritten, but the loose files and entries are gone. */
	assert_true(r == 0 || r == -ENOSPC);
	assert_false(kit_exists(dir, "t/.index.new"));
	for (unsigned n = STORY_DEAD_FROM; n < STORY_NEW_FROM; n++) {
		assert_result(inlay_store_stat(s.store, &story_ids[n], &size), INLAY_STORE_MISSING);
		assert_result(inlay_store_stat(reader, &story_ids[n], &size), INLAY_STORE_MISSING);
	}
	struct kit_files f = kit_files(dir, "t/loose");
	assert_int_equal(f.count, 1); /* of two */
	kit_files_free(&f);
	kit_assert_clean(s.store);
	assert_true(story_has(s.store, 15));
	/* With space again everything goes on. */
	assert_ok(inlay_store_put(s.store, large, sizeof large, NULL, &err));
	assert_ok(inlay_store_sync(s.store, &err));
	assert_ok(story_step(&s, 7));
	inlay_store_close(reader);
	inlay_store_close(take_ptr(s.store));
	story_check_afterwards(&s);
}

/* ---- after a failed sync the kernel takes the pages for clean ---- */

static struct {
	ino_t ino;
	off_t from, to; /* bytes that have to be written again */
	off_t next;     /* the first of them that was not */
} again[3];

static void watch_again(int fd, off_t off, size_t len)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	for (size_t i = 0; i < 3; i++)
		if (again[i].ino == st.st_ino && off <= again[i].next &&
		    off + (off_t)len > again[i].next)
			again[i].next = off + (off_t)len;
}

static void must_be_written(size_t i, int dir, const char *path, uint64_t from)
{
	struct stat st;

	assert_int_equal(fstatat(dir, path, &st, 0), 0);
	again[i].ino = st.st_ino;
	again[i].from = again[i].next = (off_t)from;
	again[i].to = st.st_size;
	assert_true(again[i].to > again[i].from);
}

/* Objects 15 (packed) and 18 (loose) are put, and their sync fails. */
static struct inlay_store *failed_sync(int dir)
{
	struct story s = {.dir = dir};

	kit_copy_tree(dir, "base", dir, "t");
	assert_ok(story_step(&s, 0));
	s.store->pack_max = 1 << 20;
	assert_ok(story_put(s.store, 15));
	assert_ok(story_put(s.store, 18));
	fault_arm(FAULT_FAIL, FAULT_SYNC, 0, EIO);
	assert_result(inlay_store_sync(s.store, &err), -EIO);
	assert_true(fault_disarm());
	return s.store;
}

static void path_of_loose(unsigned n, char *ret, size_t size)
{
	char name[LOOSE_NAME];

	loose_name(&story_ids[n], name);
	(void)snprintf(ret, size, "t/loose/%s", name);
}

static void failed_sync_writes_again(void **state)
{
	int dir = kit_dir(state);
	char loose[100];

	story_make_bases(dir);
	struct inlay_store *store = failed_sync(dir);
	path_of_loose(18, loose, sizeof loose);
	must_be_written(0, dir, "t/packs/00000001.pack", kit_size(dir, "base/packs/00000001.pack"));
	must_be_written(1, dir, "t/index", kit_size(dir, "base/index"));
	must_be_written(2, dir, loose, 0);
	fault_hooks.wrote = watch_again;
	assert_ok(inlay_store_sync(store, &err));
	fault_hooks.wrote = NULL;
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(again[i].next, again[i].to);
	/* Once is enough. */
	fault_arm(FAULT_FAIL, FAULT_ALL, 0, 0);
	assert_ok(inlay_store_sync(store, &err));
	assert_false(fault_disarm());
	inlay_store_close(store);
}

/* What the page cache has lost cannot be written again, and no sync may say that it is there. */
static void lost_bytes_are_told(void **state)
{
	int dir = kit_dir(state);
	char loose[100];

	story_make_bases(dir);
	path_of_loose(18, loose, sizeof loose);
	for (int i = 0; i < 2; i++) {
		const char *path = i ? loose : "t/packs/00000001.pack";
		struct inlay_store *store = failed_sync(dir);
		kit_flip(dir, path, 8 * (kit_size(dir, path) - 200));
		assert_result(inlay_store_sync(store, &err), -EIO);
		assert_result(inlay_store_sync(store, &err), -EIO);
		inlay_store_close(store);
		/* The next writer finds out what is there. */
		store = kit_open(dir, "t", INLAY_STORE_WRITE);
		assert_true(inlay_store_was_unclean(store));
		assert_int_equal(story_has(store, 15), i == 1);
		assert_int_equal(story_has(store, 18), i == 0);
		kit_assert_clean(store);
		assert_ok(story_put(store, 15));
		assert_ok(story_put(store, 18));
		assert_ok(inlay_store_sync(store, &err));
		inlay_store_close(store);
	}
}

/* Nothing to do costs nothing: each call would be made to fail. */
static void nothing_dirty_makes_no_call(void **state)
{
	int dir = kit_dir(state);
	struct story s = {.dir = dir};

	story_make_bases(dir);
	kit_copy_tree(dir, "base", dir, "t");
	assert_ok(story_step(&s, 0));
	assert_ok(inlay_store_sync(s.store, &err));
	fault_arm(FAULT_FAIL, FAULT_ALL, 0, 0);
	assert_ok(inlay_store_sync(s.store, &err));
	assert_ok(inlay_store_flush(s.store, &err));
	assert_false(fault_disarm());
	inlay_store_close(s.store);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, kit_setup, kit_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(memory_fails),
		TEST(writes_fail),
		TEST(writes_fail_in_the_middle),
		TEST(syncs_fail),
		TEST(names_fail),
		TEST(names_fail_without_tmpfile),
		TEST(reads_fail),
		TEST(disk_fills_up),
		TEST(process_ends_at_every_call),
		TEST(gc_needs_no_space),
		TEST(failed_sync_writes_again),
		TEST(lost_bytes_are_told),
		TEST(nothing_dirty_makes_no_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
