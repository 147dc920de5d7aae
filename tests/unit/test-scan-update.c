/* SPDX-License-Identifier: Apache-2.0 */
/* A rescan of some names gives what a walk over everything gives. */
#include "scans.h"

#include <errno.h>

#include "inlay/limits.h"
#include "scan/walk.h"

static struct inlay_error err;
static const struct inlay_scan_options none;

static const struct inlay_scan_stats *stats(const struct inlay_snapshot *s)
{
	return inlay_snapshot_stats(s);
}

static struct inlay_snapshot *update(int dir, struct inlay_snapshot *old, struct scans_objects *o,
				     struct inlay_root *root, const char *const *paths,
				     size_t count)
{
	struct inlay_snapshot *s = NULL;

	assert_ok(inlay_scan_update(dir, &none, old, paths, count, &s, &err));
	(void)scans_read(s, dir);
	assert_ok(inlay_snapshot_build(s, scans_now, o ? scans_put : NULL, o, root, &err));
	return s;
}

/* Updates with the paths and compares with the folder and with a whole walk; takes `old` over. */
static struct inlay_snapshot *check_update(int dir, struct inlay_snapshot *old,
					   struct scans_objects *o, const char *const *paths,
					   size_t count)
{
	struct inlay_root root, walked;
	struct inlay_snapshot *s = update(dir, old, o, &root, paths, count);
	struct inlay_snapshot *w = scans_scan(dir, NULL, old, o, &walked);

	scans_assert_true(dir, o, &root);
	auto_free char *got = scans_tree_text(o, &root.tree, SCANS_DIR_TIMES);
	auto_free char *want = scans_tree_text(o, &walked.tree, SCANS_DIR_TIMES);
	scans_assert_text(got, want);
	assert_true(inlay_digest_equal(&root.tree, &walked.tree));
	assert_true(root.mtime_ns == walked.mtime_ns);
	assert_int_equal(stats(s)->files, stats(w)->files);
	assert_int_equal(stats(s)->dirs, stats(w)->dirs);
	assert_int_equal(stats(s)->symlinks, stats(w)->symlinks);
	assert_int_equal(stats(s)->special, stats(w)->special);
	assert_int_equal(stats(s)->bytes, stats(w)->bytes);
	inlay_snapshot_unref(w);
	inlay_snapshot_unref(old);
	return s;
}

#define CHECK(s, ...)                                                        \
	(s) = check_update(dir, (s), &o, (const char *const[]){__VA_ARGS__}, \
			   sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void named_changes_are_found(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_dir(dir, "a.b");
	put_file(dir, "a/b/f", "1");
	put_file(dir, "a/f", "1");
	put_file(dir, "a.b/f", "1");
	put_file(dir, "f", "1");
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, NULL);
	put_file(dir, "a/b/f", "22");
	CHECK(s, "a/b/f");
	put_file(dir, "a/b/new", "1");
	put_file(dir, "a.b/f", "333");
	CHECK(s, "a/b/new", "a.b/f", "a/b/new", "f");
	assert_int_equal(unlinkat(dir, "a/b/f", 0), 0);
	CHECK(s, "a/b/f", "a/b/never", "nothing/here", "a/f/below-a-file");
	/* A new directory is walked whole, also when a path below it is named. */
	put_dir(dir, "a/new");
	put_dir(dir, "a/new/sub");
	put_file(dir, "a/new/sub/x", "x");
	put_file(dir, "a/new/y", "y");
	CHECK(s, "a/new/sub");
	assert_int_equal(renameat(dir, "a/new", dir, "moved"), 0);
	CHECK(s, "a/new", "moved");
	/* Types change. */
	assert_int_equal(unlinkat(dir, "f", 0), 0);
	put_dir(dir, "f");
	put_file(dir, "f/in", "1");
	assert_int_equal(renameat(dir, "moved/sub", dir, "moved/z"), 0);
	assert_int_equal(symlinkat("z", dir, "moved/sub"), 0);
	CHECK(s, "f", "moved/sub", "moved/z");
	assert_int_equal(inlay_remove_tree(dir, "f", NULL), 0);
	put_file(dir, "f", "again");
	CHECK(s, "f/in", "f");
	assert_int_equal(mkfifoat(dir, "a/pipe", 0600), 0);
	CHECK(s, "a/pipe");
	assert_int_equal(inlay_remove_tree(dir, "a", NULL), 0);
	CHECK(s, "a/b", "a/f", "a");
	inlay_snapshot_unref(s);
}

static void listed_directory_finds_what_is_not_named(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_file(dir, "a/b/f", "1");
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, NULL);
	put_file(dir, "a/one", "1");
	put_dir(dir, "a/two");
	put_file(dir, "a/two/x", "1");
	assert_int_equal(fchmodat(dir, "a", 0700, 0), 0);
	CHECK(s, "a");
	assert_int_equal(fchmod(dir, 0711), 0);
	put_file(dir, "top", "1");
	CHECK(s, "");
	/* Not asked for: what is deeper stays as it was known. */
	put_file(dir, "a/b/f", "22");
	struct inlay_snapshot *t = update(dir, s, &o, &root, (const char *const[]){"", "a"}, 2);
	auto_free char *text = scans_tree_text(&o, &root.tree, 0);
	assert_non_null(strstr(text, "a/b/f 100644 1 "));
	inlay_snapshot_unref(t);
	CHECK(s, "a/b");
	inlay_snapshot_unref(s);
}

/* A watch tells of the directory that was moved, not of what came with it. */
static void directory_in_place_of_another_is_walked(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};

	put_dir(dir, "a");
	put_dir(dir, "a/sub");
	put_dir(dir, "b");
	put_dir(dir, "b/sub");
	put_file(dir, "a/sub/x", "1");
	put_file(dir, "b/sub/y", "1");
	put_file(dir, "b/sub/x", "2");
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, NULL);
	assert_int_equal(renameat(dir, "a", dir, "c"), 0);
	assert_int_equal(renameat(dir, "b", dir, "a"), 0);
	CHECK(s, "a", "b", "c");
	assert_int_equal(renameat(dir, "a/sub", dir, "d"), 0);
	assert_int_equal(renameat(dir, "c/sub", dir, "a/sub"), 0);
	/* The new one is named only on the way to something else. */
	CHECK(s, "a/sub/x", "c/sub", "d");
	/* File systems give the number of a removed directory to the next one that is made. */
	for (int i = 0; i < 5; i++) {
		assert_int_equal(inlay_remove_tree(dir, "a", NULL), 0);
		put_dir(dir, "a");
		put_dir(dir, "a/sub");
		put_file(dir, i % 2 ? "a/sub/odd" : "a/sub/even", "1");
		CHECK(s, "a");
	}
	inlay_snapshot_unref(s);
}

static void cost_follows_the_paths(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_root root;

	put_dir(dir, "a");
	put_dir(dir, "b");
	put_dir(dir, "b/c");
	put_file(dir, "a/f", "1");
	put_file(dir, "b/c/f", "1");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, NULL, NULL);
	put_file(dir, "a/f", "2");
	/* b cannot even be opened by somebody else; here it is enough that it is shared. */
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		update(dir, s, NULL, &root, (const char *const[]){"a/f"}, 1);
	assert_int_equal(stats(t)->dirty, 1);
	assert_true(s->root->children[0] == t->root->children[0] ||
		    s->root->children[1] == t->root->children[1]);
	assert_true(s->root->blocks[0] == t->root->blocks[0]);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *u =
		update(dir, t, NULL, &root, NULL, 0);
	assert_true(u->root == t->root);
}

static void changed_rules_are_followed_down(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_file(dir, "a/b/x.o", "1");
	put_file(dir, "a/b/x.c", "1");
	put_file(dir, "y.o", "1");
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, NULL), *t;
	static const char *const steps[][2] = {
		{".gitignore", "*.o\n"},  {"a/.inlayignore", "!*.o\n"}, {"a/b/.gitignore", "*\n"},
		{"a/.inlayignore", "\n"}, {".gitignore", "a/b/*.c\n"},
	};
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		struct inlay_root whole;
		put_file(dir, steps[i][0], steps[i][1]);
		t = update(dir, s, &o, &root, &steps[i][0], 1);
		inlay_snapshot_unref(s);
		s = t;
		auto_of(inlay_snapshot_unref) struct inlay_snapshot *w =
			scans_scan(dir, NULL, NULL, &o, &whole);
		auto_free char *got = scans_tree_text(&o, &root.tree, 0);
		auto_free char *want = scans_tree_text(&o, &whole.tree, 0);
		scans_assert_text(got, want);
		assert_int_equal(stats(s)->ignored, stats(w)->ignored);
	}
	/* A file of rules that no longer is one of those that were known. */
	assert_int_equal(unlinkat(dir, "a/b/.gitignore", 0), 0);
	assert_int_equal(unlinkat(dir, ".gitignore", 0), 0);
	t = update(dir, s, &o, &root, (const char *const[]){"a/b/.gitignore", ".gitignore"}, 2);
	scans_assert_true(dir, &o, &root);
	inlay_snapshot_unref(t);
	/* Nobody named them, but the way to another name leads past them. */
	t = update(dir, s, &o, &root, (const char *const[]){"a/b/x.c"}, 1);
	auto_free char *text = scans_tree_text(&o, &root.tree, 0);
	assert_non_null(strstr(text, "a/b/x.o"));
	inlay_snapshot_unref(t);
	inlay_snapshot_unref(s);
}

/* Once everything was walked under new rules, they are the known ones. */
static void known_rules_cost_nothing_again(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_file(dir, "a/f", "1");
	put_file(dir, "a/b/f", "1");
	put_file(dir, ".gitignore", "*.o\n");
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, NULL);
	put_file(dir, ".gitignore", "*.a\n");
	struct inlay_snapshot *t = scans_scan(dir, NULL, s, &o, NULL);
	put_file(dir, "a/b/f", "not told");
	put_file(dir, "a/f", "told");
	inlay_snapshot_unref(s);
	s = update(dir, t, &o, &root, (const char *const[]){"a/f"}, 1);
	auto_free char *text = scans_tree_text(&o, &root.tree, 0);
	assert_non_null(strstr(text, "a/f 100644 4 "));
	assert_non_null(strstr(text, "a/b/f 100644 1 "));
	inlay_snapshot_unref(s);
	inlay_snapshot_unref(t);
}

/* A file that was not read yet stays to be read, beside another one that is named. */
static void unread_files_stay_dirty(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_file(dir, "known", "1");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, NULL);
	put_file(dir, "unread", "2");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *unread = NULL;
	assert_ok(inlay_scan_walk(dir, &none, s, &unread, &err));
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		update(dir, unread, &o, &root, (const char *const[]){"known"}, 1);
	assert_int_equal(stats(t)->dirty, 1);
	scans_assert_true(dir, &o, &root);
	/* It was read for t, not for the other one. */
	assert_result(inlay_snapshot_build(unread, 1, NULL, NULL, &root, &err), -EINVAL);
}

static void ignored_names_stay_out(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_file(dir, ".gitignore", "*.o\nout/\n");
	put_file(dir, "a", "1");
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, &root);
	struct inlay_root again;
	put_file(dir, "x.o", "1");
	put_dir(dir, "out");
	put_file(dir, "out/y", "1");
	put_file(dir, "a~", "1");
	put_dir(dir, ".git");
	static const char *const paths[] = {"x.o", "out", "out/y", "a~", ".git", ".git/index"};
	struct inlay_snapshot *t = update(dir, s, &o, &again, paths, 6);
	assert_true(inlay_digest_equal(&root.tree, &again.tree));
	/* A build that writes and writes makes no new snapshot of anything. */
	assert_true(s->root == t->root);
	inlay_snapshot_unref(t);
	inlay_snapshot_unref(s);
}

static void paths_are_checked(void **state)
{
	static const char *const wrong[] = {"/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "/"};
	int dir = scratch_dir(state);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, NULL, NULL);
	struct inlay_snapshot *t = NULL;
	char name[300];

	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_result(inlay_scan_update(dir, &none, s, &wrong[i], 1, &t, &err), -EINVAL);
	memset(name, 'x', sizeof name);
	name[256] = 0;
	const char *path = name;
	assert_result(inlay_scan_update(dir, &none, s, &path, 1, &t, &err), -EINVAL);
	assert_null(t);
}

/* Without a snapshot everything is walked. */
static void update_of_nothing_is_a_walk(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "a");
	put_file(dir, "a/f", "1");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		update(dir, NULL, &o, &root, (const char *const[]){"nothing"}, 1);
	scans_assert_true(dir, &o, &root);
	assert_int_equal(stats(s)->files, 1);
}

/* The block of a changed name keeps the age of its other names: they were not looked at. */
static void names_beside_a_change_do_not_get_older(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_root root;

	put_file(dir, "other", "1");
	put_file(dir, "young", "1");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, NULL, NULL);
	scans_settle_down();
	put_file(dir, "other", "2");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		update(dir, s, NULL, &root, (const char *const[]){"other"}, 1);
	/* "young" was young when it was last read, and was not read since. */
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *u =
		scans_scan(dir, NULL, t, NULL, NULL);
	assert_int_equal(stats(u)->dirty, 2);
}

static void put_many(int dir, const char *prefix, int from, int to)
{
	char name[64];

	for (int i = from; i < to; i++) {
		(void)snprintf(name, sizeof name, "%s%d", prefix, i);
		put_file(dir, name, name);
	}
}

static void large_directories_change_by_buckets(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "big");
	put_many(dir, "big/f", 0, 2000);
	for (int i = 0; i < 40; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, "big/d%d", i);
		put_dir(dir, name);
		(void)snprintf(name, sizeof name, "big/d%d/x", i);
		put_file(dir, name, name);
	}
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, &root);
	put_file(dir, "big/f1", "edited");
	o.puts = 0;
	struct inlay_snapshot *t = update(dir, s, &o, &root, (const char *const[]){"big/f1"}, 1);
	assert_int_equal(o.puts, 3); /* a bucket, its node, the root */
	inlay_snapshot_unref(s);
	s = t;
	CHECK(s, "big/f1");
	put_file(dir, "big/new", "1");
	put_file(dir, "big/d7/x", "edited");
	assert_int_equal(inlay_remove_tree(dir, "big/d8", NULL), 0);
	put_dir(dir, "big/d8b");
	put_file(dir, "big/d8b/y", "1");
	CHECK(s, "big/new", "big/d7/x", "big/d8", "big/d8b");
	/* Across the sizes at which it is split. */
	const char **paths = calloc(1100, sizeof *paths);
	char(*names)[16] = calloc(1100, sizeof *names);
	assert_non_null(paths);
	assert_non_null(names);
	for (int i = 0; i < 1100; i++) {
		(void)snprintf(names[i], sizeof names[i], "big/f%d", 500 + i);
		paths[i] = names[i];
		assert_int_equal(unlinkat(dir, names[i], 0), 0);
	}
	s = check_update(dir, s, &o, paths, 1100);
	for (int i = 0; i < 200; i++)
		put_file(dir, names[i], "back");
	s = check_update(dir, s, &o, paths, 1100);
	free(paths);
	free(names);
	inlay_snapshot_unref(s);
}

/* ---- random ---- */

struct edits {
	char paths[64][64];
	const char *list[64];
	size_t count;
};

static void note(struct edits *e, const char *path)
{
	if (e->count == 64)
		return;
	(void)snprintf(e->paths[e->count], sizeof e->paths[0], "%s", path);
	e->list[e->count] = e->paths[e->count];
	e->count++;
}

/* A path of few names, so that edits meet. */
static void random_path(unsigned *seed, char path[static 64])
{
	static const char *const names[] = {"a", "b", "c", "a.b", "dd"};
	size_t at = 0;

	for (int depth = 1 + rand_r(seed) % 3; depth > 0; depth--)
		at += (size_t)snprintf(path + at, 64 - at, "%s%s", at ? "/" : "",
				       names[rand_r(seed) % 5]);
}

/* Through a symlink to a directory the edit would be somewhere else than its path says. */
static bool leads_through_a_symlink(int dir, const char *path)
{
	char part[64];
	struct stat st;

	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		(void)snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
		if (fstatat(dir, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
			return true;
	}
	return false;
}

/* What it does not succeed in is named all the same: a watch tells too much, too. */
static void random_edit(int dir, unsigned *seed, struct edits *e)
{
	char path[64], other[64];
	int fd;

	random_path(seed, path);
	random_path(seed, other);
	note(e, path);
	if (leads_through_a_symlink(dir, path) || leads_through_a_symlink(dir, other))
		return;
	switch (rand_r(seed) % 8) {
	case 0:
	case 1:
		(void)mkdirat(dir, path, 0755);
		break;
	case 2:
		(void)unlinkat(dir, path, 0);
		break;
	case 3:
		(void)!inlay_remove_tree(dir, path, NULL);
		break;
	case 4:
		note(e, other);
		(void)renameat(dir, path, dir, other);
		break;
	case 5:
		(void)symlinkat(path, dir, path);
		break;
	default:
		fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
		if (fd >= 0) {
			(void)!write(fd, "0123456789", (size_t)rand_r(seed) % 10);
			close(fd);
		}
	}
}

static void random_edits_give_what_a_walk_gives(void **state)
{
	int dir = scratch_dir(state);
	unsigned seed = 20261121;
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, NULL);
	uint64_t most = 0;

	for (int round = 0; round < 400; round++) {
		struct edits e = {0};
		scans_now++;
		for (int i = rand_r(&seed) % 12; i >= 0; i--)
			random_edit(dir, &seed, &e);
		s = check_update(dir, s, &o, e.list, e.count);
		most = stats(s)->files + stats(s)->dirs > most ? stats(s)->files + stats(s)->dirs
							       : most;
	}
	assert_true(most > 20);
	inlay_snapshot_unref(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(named_changes_are_found),
		scratch_test(listed_directory_finds_what_is_not_named),
		scratch_test(directory_in_place_of_another_is_walked),
		scratch_test(cost_follows_the_paths),
		scratch_test(changed_rules_are_followed_down),
		scratch_test(known_rules_cost_nothing_again),
		scratch_test(unread_files_stay_dirty),
		scratch_test(ignored_names_stay_out),
		scratch_test(paths_are_checked),
		scratch_test(update_of_nothing_is_a_walk),
		scratch_test(names_beside_a_change_do_not_get_older),
		scratch_test(large_directories_change_by_buckets),
		scratch_test(random_edits_give_what_a_walk_gives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
