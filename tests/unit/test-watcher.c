/* SPDX-License-Identifier: Apache-2.0 */
/* What inotify's events mean, and the set of paths that comes of them. */
#include "scans.h"

#include <errno.h>
#include <poll.h>
#include <sys/inotify.h>

#include "watch/watcher.h"

static struct inlay_error err;

struct bench {
	int dir;
	struct watcher *w;
	struct inlay_scan_options options;
	struct inlay_snapshot *s;
	struct scans_objects o;
	bool ignores; /* the tree is less than the folder */
};

static void look(struct bench *b)
{
	struct inlay_snapshot *s = NULL;
	const char **list = pathset_list(&watcher_changes(b->w)->paths);
	bool everything = !b->s || watcher_changes(b->w)->everything;

	assert_non_null(list);
	if (everything)
		assert_ok(inlay_scan_walk(b->dir, &b->options, b->s, &s, &err));
	else
		assert_ok(inlay_scan_update(b->dir, &b->options, b->s, list,
					    watcher_changes(b->w)->paths.count, &s, &err));
	free(list);
	watcher_forget(b->w);
	(void)scans_read(s, b->dir);
	struct inlay_root root;
	assert_ok(inlay_snapshot_build(s, scans_now, scans_put, &b->o, &root, &err));
	if (!b->ignores)
		scans_assert_true(b->dir, &b->o, &root);
	inlay_snapshot_unref(b->s);
	b->s = s;
}

static void begin(struct bench *b, void **state)
{
	*b = (struct bench){.dir = scratch_dir(state)};
	assert_ok(watcher_new(&b->w, &err));
	b->options.enter = watcher_enter;
	b->options.enter_ctx = b->w;
}

static void end(struct bench *b)
{
	inlay_snapshot_unref(b->s);
	watcher_free(b->w);
	scans_objects_fini(&b->o);
}

static void hear(struct bench *b)
{
	assert_ok(watcher_read(b->w, 1000, &err));
}

static bool has(struct bench *b, const char *path)
{
	return pathset_has(&watcher_changes(b->w)->paths, path);
}

static void names_are_told(void **state)
{
	struct bench b;
	begin(&b, state);
	put_dir(b.dir, "a");
	put_dir(b.dir, "a/b");
	put_file(b.dir, "a/b/f", "1");
	look(&b);
	assert_int_equal(watcher_count(b.w), 3);
	hear(&b);
	assert_int_equal(watcher_changes(b.w)->first_ns, 0);
	put_file(b.dir, "a/b/f", "2");
	put_file(b.dir, "new", "2");
	hear(&b);
	assert_int_equal(watcher_changes(b.w)->first_ns, 1000);
	assert_true(has(&b, "a/b/f") && has(&b, "new"));
	assert_int_equal(watcher_changes(b.w)->paths.count, 2);
	assert_false(watcher_changes(b.w)->left || watcher_changes(b.w)->everything);
	look(&b);
	/* Reading it raised nothing. */
	hear(&b);
	assert_int_equal(watcher_changes(b.w)->paths.count, 0);
	end(&b);
}

static void directories_keep_their_watch(void **state)
{
	struct bench b;
	begin(&b, state);
	put_dir(b.dir, "a");
	put_dir(b.dir, "a/b");
	put_file(b.dir, "a/b/f", "1");
	look(&b);
	assert_int_equal(renameat(b.dir, "a", b.dir, "c"), 0);
	put_file(b.dir, "c/b/f", "by its old name");
	hear(&b);
	assert_true(has(&b, "a") && has(&b, "c") && has(&b, "a/b/f"));
	assert_true(watcher_changes(b.w)->left);
	look(&b);
	watcher_tidy(b.w, b.s);
	assert_int_equal(watcher_count(b.w), 3);
	put_file(b.dir, "c/b/f", "by its new name");
	hear(&b);
	assert_true(has(&b, "c/b/f") && !has(&b, "a/b/f"));
	look(&b);
	/* Out of the folder: nobody looks after it any more. */
	put_dir(b.dir, "d");
	hear(&b);
	look(&b);
	assert_int_equal(renameat(b.dir, "c", AT_FDCWD, "/tmp/inlay-test-watcher-out"), 0);
	hear(&b);
	look(&b);
	watcher_tidy(b.w, b.s);
	assert_int_equal(watcher_count(b.w), 2);
	assert_ok(inlay_remove_tree(AT_FDCWD, "/tmp/inlay-test-watcher-out", &err));
	hear(&b);
	assert_int_equal(watcher_changes(b.w)->paths.count, 0);
	end(&b);
}

static void ignored_directories_have_no_watch(void **state)
{
	struct bench b;
	begin(&b, state);
	b.ignores = true;
	put_file(b.dir, ".gitignore", "out/\n");
	put_dir(b.dir, "out");
	put_dir(b.dir, "out/deep");
	look(&b);
	assert_int_equal(watcher_count(b.w), 1);
	put_file(b.dir, ".gitignore", "");
	hear(&b);
	assert_true(watcher_changes(b.w)->left);
	look(&b);
	watcher_tidy(b.w, b.s);
	assert_int_equal(watcher_count(b.w), 3);
	put_file(b.dir, ".gitignore", "deep\n");
	hear(&b);
	look(&b);
	watcher_tidy(b.w, b.s);
	assert_int_equal(watcher_count(b.w), 2);
	end(&b);
}

static void the_root_is_looked_after(void **state)
{
	struct bench b;
	begin(&b, state);
	put_dir(b.dir, "root");
	put_dir(b.dir, "root/sub");
	int dir = b.dir;
	b.dir = openat(dir, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	look(&b);
	assert_int_equal(renameat(dir, "root/sub", dir, "root/moved"), 0);
	hear(&b);
	assert_false(watcher_changes(b.w)->root);
	assert_int_equal(renameat(dir, "root", dir, "elsewhere"), 0);
	hear(&b);
	assert_true(watcher_changes(b.w)->root);
	(void)close(b.dir);
	end(&b);
}

static void an_overflow_means_everything(void **state)
{
	struct bench b;
	const struct inotify_event overflow = {.wd = -1, .mask = IN_Q_OVERFLOW};
	begin(&b, state);
	look(&b);
	watcher_take(b.w, &overflow, sizeof overflow, 7);
	assert_true(watcher_changes(b.w)->everything);
	assert_int_equal(watcher_changes(b.w)->overflows, 1);
	assert_int_equal(watcher_changes(b.w)->last_ns, 7);
	/* A watch that is not known, and a piece that is cut. */
	const struct inotify_event stray = {.wd = 12345, .mask = IN_MODIFY};
	watcher_take(b.w, &stray, sizeof stray, 8);
	watcher_take(b.w, &stray, sizeof stray - 1, 8);
	assert_int_equal(watcher_changes(b.w)->paths.count, 0);
	end(&b);
}

static void held_files_stay_as_they_were(void **state)
{
	struct bench b;
	begin(&b, state);
	put_dir(b.dir, "d");
	put_file(b.dir, "d/busy", "old");
	put_file(b.dir, "d/other", "old");
	look(&b);
	const char *const held[] = {"d/busy", "d/fresh"};
	const char *const named[] = {"d/busy", "d/fresh", "d/other"};
	put_file(b.dir, "d/busy", "newer and longer");
	put_file(b.dir, "d/fresh", "came with it");
	put_file(b.dir, "d/other", "new");
	for (int whole = 0; whole < 2; whole++) {
		struct inlay_scan_options o = {.held = held, .held_count = 2};
		struct inlay_snapshot *s = NULL;
		struct inlay_root root;
		if (whole)
			assert_ok(inlay_scan_walk(b.dir, &o, b.s, &s, &err));
		else
			assert_ok(inlay_scan_update(b.dir, &o, b.s, named, 3, &s, &err));
		assert_int_equal(inlay_snapshot_stats(s)->dirty, 1);
		(void)scans_read(s, b.dir);
		assert_ok(inlay_snapshot_build(s, scans_now, scans_put, &b.o, &root, &err));
		auto_free char *text = scans_tree_text(&b.o, &root.tree, 0);
		assert_non_null(strstr(text, "d/busy"));
		assert_null(strstr(text, "d/fresh"));
		assert_int_equal(inlay_snapshot_stats(s)->files, 2);
		assert_int_equal(inlay_snapshot_stats(s)->bytes, 3 + 3);
		/* The next look without holding takes them. */
		struct inlay_snapshot *then = NULL;
		assert_ok(inlay_scan_update(b.dir, &b.options, s, named, 3, &then, &err));
		(void)scans_read(then, b.dir);
		assert_ok(inlay_snapshot_build(then, scans_now, scans_put, &b.o, &root, &err));
		scans_assert_true(b.dir, &b.o, &root);
		inlay_snapshot_unref(then);
		inlay_snapshot_unref(s);
	}
	end(&b);
}

static void directories_of_a_snapshot(void **state)
{
	struct bench b;
	char name[64];
	begin(&b, state);
	put_dir(b.dir, "many");
	/* So many that the directory is split. */
	for (int i = 0; i < 3000; i++) {
		(void)snprintf(name, sizeof name, "many/%c%d", i % 3 ? 'f' : 'd', i);
		if (i % 3)
			put_file(b.dir, name, "");
		else
			put_dir(b.dir, name);
	}
	put_dir(b.dir, "many/d0/deep");
	look(&b);
	assert_true(inlay_snapshot_has_dir(b.s, ""));
	assert_true(inlay_snapshot_has_dir(b.s, "many/d0/deep"));
	for (int i = 0; i < 3000; i++) {
		(void)snprintf(name, sizeof name, "many/%c%d", i % 3 ? 'f' : 'd', i);
		assert_int_equal(inlay_snapshot_has_dir(b.s, name), i % 3 == 0);
	}
	assert_false(inlay_snapshot_has_dir(b.s, "many/d0/deeper"));
	assert_false(inlay_snapshot_has_dir(b.s, "many/f1/x"));
	assert_false(inlay_snapshot_has_dir(b.s, "none"));
	end(&b);
}

static void paths_form_a_set(void **state)
{
	struct pathset s = {0};
	char name[32];

	(void)state;
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 10000; i++) {
			int n = snprintf(name, sizeof name, "n%d", i % 5000);
			pathset_add(&s, "dir", 3, name, (size_t)n);
		}
		pathset_add(&s, "", 0, "", 0);
		pathset_add(&s, "dir", 3, "", 0);
		assert_int_equal(s.count, 5002);
		assert_string_equal(pathset_get(&s, 4999), "dir/n4999");
		assert_true(pathset_has(&s, "") && pathset_has(&s, "dir") &&
			    pathset_has(&s, "dir/n17"));
		assert_false(pathset_has(&s, "dir/n5000") || pathset_has(&s, "n17"));
		pathset_clear(&s);
		assert_false(pathset_has(&s, "dir/n17"));
	}
	pathset_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(names_are_told),
		scratch_test(directories_keep_their_watch),
		scratch_test(ignored_directories_have_no_watch),
		scratch_test(the_root_is_looked_after),
		scratch_test(an_overflow_means_everything),
		scratch_test(held_files_stay_as_they_were),
		scratch_test(directories_of_a_snapshot),
		cmocka_unit_test(paths_form_a_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
