/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every call that can fail does so once, in a scan from its first walk to the cache of its second.
 * What comes out is an error or the truth; nothing leaks, and the next scan finds everything.
 */
#include "faults.h"
#include "scans.h"

#include <errno.h>

#include "inlay/limits.h"

static struct inlay_error err;
enum { KEY = 5 };

static void fill_folder(int dir)
{
	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_dir(dir, "a/b/c");
	put_dir(dir, "e");
	put_file(dir, "a/f", "1");
	put_file(dir, "a/b/f", "22");
	put_file(dir, "a/b/c/f", "333");
	put_file(dir, ".gitignore", "*.o\n/e/x\n");
	put_file(dir, "e/.gitignore", "y\n");
	put_file(dir, "e/z", "4444");
	assert_int_equal(symlinkat("f", dir, "a/l"), 0);
	assert_int_equal(mkfifoat(dir, "e/pipe", 0600), 0);
	for (int i = 0; i < 1030; i++) {
		char name[32];
		(void)snprintf(name, sizeof name, "a/b/c/n%d", i);
		assert_int_equal(linkat(dir, "a/f", dir, name, 0), 0);
	}
}

/* Like scans_read, but an error is a result. */
static int read_dirty(struct inlay_snapshot *s, int dir)
{
	auto_free struct inlay_dirty *dirty = NULL;
	size_t count;
	int r = inlay_snapshot_dirty(s, &dirty, &count, &err);

	for (size_t i = 0; r == 0 && i < count; i++) {
		struct inlay_digest id;
		uint8_t buf[64];
		uint64_t size;
		size_t got;
		auto_close int fd = -1;
		r = inlay_dirty_open(&dirty[i], dir, &fd, &size, &err);
		if (r == 0)
			r = inlay_read_full(fd, buf, sizeof buf, &got, "file", &err);
		if (r == 0) {
			inlay_digest_of(buf, got, &id);
			r = inlay_dirty_settle(&dirty[i], fd, &id, &err);
		}
	}
	return r;
}

static int scan_once(int dir, const struct inlay_scan_options *options, struct inlay_snapshot *old,
		     struct inlay_snapshot **ret, struct inlay_root *root)
{
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
	int r = inlay_scan_walk(dir, options, old, &s, &err);

	if (r == 0)
		r = read_dirty(s, dir);
	if (r == 0)
		r = inlay_snapshot_build(s, 1, NULL, NULL, root, &err);
	if (r == 0)
		*ret = take_ptr(s);
	return r;
}

/* Walk, read, build, save, load, walk with it, look at some names. */
static int everything(int dir, int state, const struct inlay_scan_options *options,
		      struct inlay_root *root)
{
	static const char *const paths[] = {"a/b/f", "e", "a/b/c/n7"};
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *one = NULL, *two = NULL;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *loaded = NULL, *three = NULL;
	int r = scan_once(dir, options, NULL, &one, root);

	if (r == 0)
		r = inlay_snapshot_save(one, state, "cache", KEY, &err);
	if (r == 0)
		r = inlay_snapshot_load(state, "cache", KEY, &loaded, &err);
	if (r == 0)
		r = scan_once(dir, options, loaded, &two, root);
	if (r == 0)
		r = inlay_scan_update(dir, options, two, paths, 3, &three, &err);
	if (r == 0)
		r = read_dirty(three, dir);
	if (r == 0)
		r = inlay_snapshot_build(three, 1, NULL, NULL, root, &err);
	(void)unlinkat(state, "cache", 0);
	return r;
}

static const struct {
	enum fault kind;
	int error;
} faults[] = {
	{FAULT_MEMORY, ENOMEM}, {FAULT_OPEN, EIO},   {FAULT_OPEN, EMFILE}, {FAULT_LIST, EIO},
	{FAULT_STAT, EIO},      {FAULT_READ, EIO},   {FAULT_LINK, EIO},    {FAULT_MAP, ENOMEM},
	{FAULT_WRITE, ENOSPC},  {FAULT_RENAME, EIO},
};

/* With one thread, so that the n-th call is the same one each time. */
static void every_call_may_fail(void **state)
{
	static const struct inlay_scan_options options = {.threads = 1};
	int top = scratch_dir(state);
	struct inlay_root want, got;

	put_dir(top, "folder");
	put_dir(top, "state");
	auto_close int dir = open_dir(top, "folder");
	auto_close int st = open_dir(top, "state");
	fill_folder(dir);
	scans_settle_down();
	assert_ok(everything(dir, st, &options, &want));
	for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) {
		/* A failed openat2 is tried again step by step, so not every one is an error. */
		unsigned n = 1, errors = 0;
		for (;; n++) {
			unsigned fds = count_fds();
			fault_arm(faults[k].kind, n, faults[k].error);
			int r = everything(dir, st, &options, &got);
			bool reached = fault_disarm();
			assert_int_equal(count_fds(), fds);
			assert_true(r <= 0);
			if (r == 0)
				scans_assert_same_root(&got, &want);
			else
				assert_true(r == -faults[k].error && err.text[0]);
			errors += r < 0;
			if (!reached) {
				assert_int_equal(r, 0);
				break;
			}
			if (n > 200 && n % 16 != 0)
				n += 13; /* a thousand files are read alike */
		}
		print_message("%s %s: up to call %u, %u errors\n", fault_names[faults[k].kind],
			      strerrorname_np(faults[k].error), n - 1, errors);
		assert_true(errors > 0);
	}
}

/* Names that vanish between two looks are not there; no error, and no other name suffers. */
static void vanishing_names_are_not_there(void **state)
{
	static const struct inlay_scan_options options = {.threads = 1};
	static const enum fault kinds[] = {FAULT_STAT, FAULT_OPEN, FAULT_LINK, FAULT_LIST};
	int dir = scratch_dir(state);
	unsigned full = 0, part = 0;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_dir(dir, "a/c");
	put_dir(dir, "a/c/d");
	put_file(dir, "a/b/f", "1");
	put_file(dir, "a/c/f", "1");
	put_file(dir, "a/c/d/g", "1");
	assert_int_equal(symlinkat("x", dir, "a/l"), 0);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *old =
		scans_scan(dir, NULL, NULL, NULL, NULL);
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		for (unsigned with_old = 0; with_old < 2; with_old++) {
			bool reached = true;
			for (unsigned n = 1; reached; n++) {
				struct inlay_snapshot *s = NULL, *t = NULL;
				struct inlay_root root;
				fault_arm(kinds[k], n, ENOENT);
				int r = inlay_scan_walk(dir, &options, with_old ? old : NULL, &s,
							&err);
				reached = fault_disarm();
				if (r < 0) {
					/* Only the folder itself may not vanish. */
					assert_true(r == -ENOENT && n <= 2);
					continue;
				}
				const struct inlay_scan_stats *st = inlay_snapshot_stats(s);
				uint64_t names = st->files + st->dirs + st->symlinks;
				assert_true(reached ? names <= 8 : names == 8);
				full += names == 8;
				part += names < 8;
				(void)scans_read(s, dir);
				assert_ok(inlay_snapshot_build(s, 1, NULL, NULL, &root, &err));
				/* They are back: the next walk has them all. */
				t = scans_scan(dir, NULL, s, NULL, NULL);
				st = inlay_snapshot_stats(t);
				assert_int_equal(st->files + st->dirs + st->symlinks, 8);
				inlay_snapshot_unref(t);
				inlay_snapshot_unref(s);
			}
		}
	}
	print_message("%u whole, %u without something\n", full, part);
	assert_true(part > 20 && full >= 8);
}

/* A directory that is something else when it is opened: looked at again, not taken for gone. */
static void changing_types_are_looked_at_again(void **state)
{
	static const struct inlay_scan_options options = {.threads = 1};
	static const struct {
		enum fault kind;
		int error;
	} changes[] = {{FAULT_OPEN, ENOTDIR}, {FAULT_OPEN, ELOOP}, {FAULT_LINK, EINVAL}};
	int dir = scratch_dir(state);
	unsigned again = 0;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_file(dir, "a/b/f", "1");
	assert_int_equal(symlinkat("x", dir, "a/l"), 0);
	for (size_t k = 0; k < sizeof changes / sizeof *changes; k++) {
		bool reached = true;
		for (unsigned n = 1; reached; n++) {
			struct inlay_snapshot *s = NULL;
			fault_arm(changes[k].kind, n, changes[k].error);
			int r = inlay_scan_walk(dir, &options, NULL, &s, &err);
			reached = fault_disarm();
			if (r < 0) /* the folder itself, or the file of rules */
				continue;
			const struct inlay_scan_stats *st = inlay_snapshot_stats(s);
			assert_int_equal(st->files + st->dirs + st->symlinks, 4);
			again += reached;
			inlay_snapshot_unref(s);
		}
	}
	assert_true(again >= 5);
}

/* 1,025 names make a split directory, 1,024 do not: what is left after one went away is looked at
 * again. */
static void directory_shrinks_below_its_split(void **state)
{
	static const struct inlay_scan_options options = {.threads = 1};
	int dir = scratch_dir(state);
	struct inlay_root want, got;
	bool reached = true;

	put_file(dir, "f", "1");
	for (int i = 1; i < INLAY_TREE_SPLIT; i++) {
		char name[16];
		(void)snprintf(name, sizeof name, "f%d", i);
		assert_int_equal(linkat(dir, "f", dir, name, 0), 0);
	}
	put_dir(dir, "dir");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *old =
		scans_scan(dir, NULL, NULL, NULL, &want);
	/* The first is the folder; then the ignore files are looked for, which may be missing. */
	for (unsigned n = 2; reached; n++) {
		auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
		fault_arm(FAULT_OPEN, n, ENOENT);
		assert_ok(inlay_scan_walk(dir, &options, old, &s, &err));
		reached = fault_disarm();
		assert_ok(inlay_snapshot_build(s, 1, NULL, NULL, &got, &err));
		assert_int_equal(inlay_snapshot_stats(s)->dirs, 1);
		scans_assert_same_root(&want, &got);
	}
}

static void scan_with_names_twice(int dir, struct inlay_snapshot *old,
				  const struct inlay_root *want)
{
	static const struct inlay_scan_options options = {.threads = 1};
	struct inlay_root got;
	bool reached = true;
	unsigned n = 0;

	while (reached) {
		fault_arm(FAULT_TWICE, ++n, 0);
		inlay_snapshot_unref(scans_scan(dir, &options, old, NULL, &got));
		reached = fault_disarm();
		assert_true(inlay_digest_equal(&want->tree, &got.tree));
	}
	assert_int_equal(n, 4); /* three directories, and the one that was not reached */
}

static void names_that_are_listed_twice_are_one(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_root all, without;

	put_dir(dir, "a");
	put_dir(dir, "b");
	put_file(dir, "a/f", "1");
	put_file(dir, "a/g", "1");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *old =
		scans_scan(dir, NULL, NULL, NULL, &all);
	scan_with_names_twice(dir, NULL, &all);
	scan_with_names_twice(dir, old, &all);
	/* One went away, one came twice: as many as there were. */
	assert_int_equal(unlinkat(dir, "a/g", 0), 0);
	inlay_snapshot_unref(scans_scan(dir, NULL, old, NULL, &without));
	scan_with_names_twice(dir, old, &without);
}

/* Without openat2, as on old kernels and below filters: as strict. */
static void files_are_opened_step_by_step(void **state)
{
	static const struct inlay_scan_options options = {.threads = 1};
	int dir = scratch_dir(state), fd;
	auto_free struct inlay_dirty *d = NULL;
	size_t count;
	uint64_t size;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_file(dir, "a/b/f", "12");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
	assert_ok(inlay_scan_walk(dir, &options, NULL, &s, &err));
	assert_ok(inlay_snapshot_dirty(s, &d, &count, &err));
	fault_arm(FAULT_OPEN, 1, ENOSYS);
	assert_ok(inlay_dirty_open(&d[0], dir, &fd, &size, &err));
	assert_true(fault_disarm());
	assert_int_equal(size, 2);
	close(fd);
	assert_int_equal(renameat(dir, "a/b", dir, "c"), 0);
	assert_int_equal(symlinkat("../c", dir, "a/b"), 0);
	fault_arm(FAULT_OPEN, 1, EPERM); /* it may mean O_NOATIME, so it is tried once more */
	assert_result(inlay_dirty_open(&d[0], dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_true(fault_disarm());
	fault_arm(FAULT_OPEN, 1, ENOSYS);
	assert_result(inlay_dirty_open(&d[0], dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_true(fault_disarm());
}

static void walk_goes_on_without_help(void **state)
{
	static const struct inlay_scan_options options = {.threads = 4};
	int dir = scratch_dir(state);
	struct inlay_root want, got;

	for (int i = 0; i < 40; i++) {
		char name[16];
		(void)snprintf(name, sizeof name, "d%d", i);
		put_dir(dir, name);
		(void)snprintf(name, sizeof name, "d%d/f", i);
		put_file(dir, name, name);
	}
	inlay_snapshot_unref(scans_scan(dir, &options, NULL, NULL, &want));
	for (unsigned n = 1; n <= 3; n++) {
		fault_arm(FAULT_THREAD, n, EAGAIN);
		inlay_snapshot_unref(scans_scan(dir, &options, NULL, NULL, &got));
		(void)fault_disarm();
		scans_assert_same_root(&want, &got);
	}
}

/* In any thread, at any time: the result is an error or the whole truth. */
static void threads_may_fail_too(void **state)
{
	static const struct inlay_scan_options options = {.threads = 4};
	int top = scratch_dir(state);
	struct inlay_root want, got;

	put_dir(top, "folder");
	auto_close int dir = open_dir(top, "folder");
	for (int i = 0; i < 60; i++) {
		char name[32];
		(void)snprintf(name, sizeof name, "d%d", i);
		put_dir(dir, name);
		(void)snprintf(name, sizeof name, "d%d/f", i);
		put_file(dir, name, name);
	}
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(dir, &options, NULL, NULL, &want);
	for (size_t k = 0; k < 5; k++) {
		for (unsigned n = 1; n < 200; n += 7) {
			struct inlay_snapshot *t = NULL;
			unsigned fds = count_fds();
			fault_arm(faults[k].kind, n, faults[k].error);
			int r = scan_once(dir, &options, s, &t, &got);
			(void)fault_disarm();
			assert_int_equal(count_fds(), fds);
			if (r == 0)
				scans_assert_same_root(&got, &want);
			else
				assert_int_equal(r, -faults[k].error);
			inlay_snapshot_unref(t);
		}
	}
	inlay_snapshot_unref(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(every_call_may_fail),
		scratch_test(vanishing_names_are_not_there),
		scratch_test(changing_types_are_looked_at_again),
		scratch_test(directory_shrinks_below_its_split),
		scratch_test(names_that_are_listed_twice_are_one),
		scratch_test(files_are_opened_step_by_step),
		scratch_test(walk_goes_on_without_help),
		scratch_test(threads_may_fail_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
