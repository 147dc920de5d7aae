/* SPDX-License-Identifier: Apache-2.0 */
#include "scans.h"

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "inlay/limits.h"
#include "scan/mounts.h"
#include "scan/walk.h"

static struct inlay_error err;

static const struct inlay_scan_stats *stats(const struct inlay_snapshot *s)
{
	return inlay_snapshot_stats(s);
}

static void put_socket(int dir, const char *name)
{
	int fd, sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(sock >= 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	fd = dup(dir);
	(void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", fd, name);
	assert_int_equal(bind(sock, (struct sockaddr *)&a, sizeof a), 0);
	close(fd);
	close(sock);
}

/* ---- what a folder becomes ---- */

static void put_nasty(int dir)
{
	char longest[256];

	memset(longest, 'l', 255);
	longest[255] = 0;
	put_file(dir, "plain", "content\n");
	put_file(dir, "empty", "");
	put_file(dir, "new\nline", "n");
	put_file(dir, "not-\xff\xfe-utf8", "u");
	put_file(dir, longest, "long");
	put_file(dir, "\xc3\xa4", "composed");
	put_file(dir, "a\xcc\x88", "decomposed");
	put_file(dir, "-rf", "dash");
	put_file(dir, "...", "dots");
	put_file(dir, " ", "space");
	put_dir(dir, "empty-dir");
	put_dir(dir, "sub");
	put_dir(dir, "sub/inner");
	put_file(dir, "sub/inner/deep", "deep");
	assert_int_equal(symlinkat("nowhere", dir, "dangling"), 0);
	assert_int_equal(symlinkat("/etc/passwd", dir, "absolute"), 0);
	assert_int_equal(symlinkat("..", dir, "sub/up"), 0);
	assert_int_equal(symlinkat("loop", dir, "loop"), 0);
	put_file(dir, "setuid", "s");
	assert_int_equal(fchmodat(dir, "setuid", 06755, 0), 0);
	assert_int_equal(fchmodat(dir, "empty-dir", 03700, 0), 0);
	put_file(dir, "secret", "0");
	assert_int_equal(fchmodat(dir, "secret", 0, 0), 0);
	set_times(dir, "plain", 1000000000123456789);
	set_times(dir, "empty", -5000000001);
	set_times(dir, "dangling", 987654321);
	assert_int_equal(linkat(dir, "plain", dir, "sub/linked", 0), 0);
}

static void folder_becomes_its_tree(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;
	struct stat st;

	put_nasty(dir);
	assert_int_equal(fchmod(dir, 02751), 0);
	assert_int_equal(fstat(dir, &st), 0);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	auto_free char *want = scans_folder_text(dir, SCANS_DIR_TIMES);
	auto_free char *got = scans_tree_text(&o, &root.tree, SCANS_DIR_TIMES);
	scans_assert_text(got, want);
	assert_int_equal(root.mode, 02751);
	assert_true(root.mtime_ns == (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
	assert_int_equal(stats(s)->files, 14);
	assert_int_equal(stats(s)->dirs, 3);
	assert_int_equal(stats(s)->symlinks, 4);
	assert_int_equal(stats(s)->hardlinked, 2);
	assert_int_equal(stats(s)->dirty, 14);
	assert_int_equal(stats(s)->bytes, stats(s)->dirty_bytes);
	assert_int_equal(stats(s)->special, 0);
	uint64_t dev, ino;
	inlay_snapshot_identity(s, &dev, &ino);
	assert_true(dev == st.st_dev && ino == st.st_ino);
}

static void what_cannot_be_carried_is_counted_and_named(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root, again;

	put_file(dir, "file", "f");
	put_dir(dir, "d");
	put_dir(dir, "d/e");
	put_dir(dir, "only");
	assert_int_equal(mkfifoat(dir, "fifo", 0644), 0);
	assert_int_equal(mkfifoat(dir, "d/e/fifo", 0644), 0);
	put_socket(dir, "socket");
	put_socket(dir, "only/socket");
	bool device = mknodat(dir, "device", S_IFCHR | 0600, makedev(1, 3)) == 0;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	scans_assert_true(dir, &o, &root);
	assert_int_equal(stats(s)->special, 4 + device);
	assert_int_equal(stats(s)->files, 1);
	char *const *names = stats(s)->special_names;
	assert_string_equal(names[3 + device], "only/socket");
	assert_string_equal(names[2 + device], "d/e/fifo");
	assert_null(names[4 + device]);

	for (int i = 0; i < 10; i++) {
		char name[16];
		(void)snprintf(name, sizeof name, "d/p%d", i);
		assert_int_equal(mkfifoat(dir, name, 0644), 0);
	}
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, s, &o, &again);
	assert_int_equal(stats(t)->special, 14 + device);
	assert_non_null(stats(t)->special_names[INLAY_SCAN_NAMES - 1]);
	/* They are in no tree, so they change none. */
	scans_assert_same_root(&root, &again);
}

static void empty_folder_is_a_tree(void **state)
{
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(scratch_dir(state), NULL, NULL, &o, &root);

	assert_int_equal(o.count, 1);
	scans_assert_true(scratch_dir(state), &o, &root);
	assert_int_equal(stats(s)->files + stats(s)->dirs, 0);
}

static void owners_are_carried_when_asked_for(void **state)
{
	const struct inlay_scan_options options = {.owners = true};
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	if (geteuid() != 0)
		skip();
	put_dir(dir, "d");
	put_file(dir, "d/f", "1");
	put_file(dir, "g", "2");
	assert_int_equal(fchownat(dir, "d", 12, 34, 0), 0);
	assert_int_equal(fchownat(dir, "d/f", 56, 0, 0), 0);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, &options, NULL, &o, &root);
	auto_free char *want = scans_folder_text(dir, SCANS_OWNERS);
	auto_free char *got = scans_tree_text(&o, &root.tree, SCANS_OWNERS);
	scans_assert_text(got, want);
	assert_non_null(strstr(got, " 12:34"));

	auto_of(inlay_snapshot_unref) struct inlay_snapshot *same =
		scans_scan(dir, &options, s, NULL, NULL);
	assert_int_equal(stats(same)->dirty, 0);
	assert_int_equal(fchownat(dir, "d", 1, 2, 0), 0);
	assert_int_equal(fchownat(dir, "g", 3, 4, 0), 0);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, &options, same, &o, &root);
	auto_free char *want2 = scans_folder_text(dir, SCANS_OWNERS);
	auto_free char *got2 = scans_tree_text(&o, &root.tree, SCANS_OWNERS);
	scans_assert_text(got2, want2);

	/* Without the option they are 0; a snapshot of the other kind is no basis. */
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *u =
		scans_scan(dir, NULL, t, &o, &root);
	assert_int_equal(stats(u)->dirty, 2);
	auto_free char *bare = scans_tree_text(&o, &root.tree, SCANS_OWNERS);
	assert_null(strstr(bare, " 1:2"));
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *v =
		scans_scan(dir, &options, u, &o, &root);
	assert_int_equal(stats(v)->dirty, 2);
	auto_free char *with = scans_tree_text(&o, &root.tree, SCANS_OWNERS);
	scans_assert_text(with, want2);
}

/* ---- what is the same ---- */

static void unchanged_folder_costs_nothing(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root, again;

	put_nasty(dir);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	o.puts = 0;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, s, &o, &again);
	assert_int_equal(stats(t)->dirty, 0);
	assert_int_equal(stats(t)->files, stats(s)->files);
	assert_int_equal(o.puts, 0);
	scans_assert_same_root(&root, &again);
	assert_true(s->root == t->root); /* not even memory */
	assert_ok(inlay_snapshot_build(t, 1, scans_put, &o, &again, &err));
	scans_assert_same_root(&root, &again);
}

static void young_times_are_not_trusted(void **state)
{
	const int64_t s = 1000000000, now = 1700000000 * s;

	(void)state;
	assert_true(scan_times_are_old(now - 60000000 + 1, now - 60000000 + 1, now));
	assert_false(scan_times_are_old(now - 40000000 + 1, now - s + 1, now));
	assert_false(scan_times_are_old(now - s + 1, now - 40000000 + 1, now));
	assert_false(scan_times_are_old(now + s, now - s, now));
	/* Whole seconds: the margin is two of them. */
	assert_false(scan_times_are_old(now - s, now - s, now));
	assert_false(scan_times_are_old(now - 2 * s, now - 2 * s, now));
	assert_true(scan_times_are_old(now - 3 * s, now - 3 * s, now));
	/* An unpacked archive has whole seconds in mtime only. */
	assert_true(scan_times_are_old(now - s, now - s + 1, now));
	assert_true(scan_times_are_old(-INT64_MAX, -INT64_MAX, now));
	assert_false(scan_times_are_old(INT64_MAX, 0, now));
}

static void racy_file_is_read_again_until_it_is_old(void **state)
{
	int dir = scratch_dir(state);

	put_file(dir, "old", "1");
	assert_int_equal(symlinkat("t", dir, "link"), 0);
	scans_settle_down();
	put_file(dir, "young", "1");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *a =
		scans_scan(dir, NULL, NULL, NULL, NULL);
	/* Whatever stat says, an edit in the same tick could have left it so. */
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *b =
		scans_scan(dir, NULL, a, NULL, NULL);
	assert_int_equal(stats(b)->dirty, 1);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *c =
		scans_scan(dir, NULL, b, NULL, NULL);
	assert_int_equal(stats(c)->dirty, 1);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *d =
		scans_scan(dir, NULL, c, NULL, NULL);
	assert_int_equal(stats(d)->dirty, 0);
}

/* Each edit keeps something that other tools look at. */
static void every_edit_is_seen(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;
	struct stat st;

	put_dir(dir, "d");
	put_file(dir, "same-size", "one");
	put_file(dir, "time-put-back", "one");
	put_file(dir, "mode", "one");
	put_file(dir, "d/replaced", "one");
	put_file(dir, "touched", "one");
	assert_int_equal(symlinkat("one", dir, "link"), 0);
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, &root);

	put_file(dir, "same-size", "two");
	struct inlay_snapshot *t = scans_scan(dir, NULL, s, &o, &root);
	assert_int_equal(stats(t)->dirty, 1);
	scans_assert_true(dir, &o, &root);
	inlay_snapshot_unref(s);

	assert_int_equal(fstatat(dir, "time-put-back", &st, 0), 0);
	put_file(dir, "time-put-back", "two");
	assert_int_equal(
		utimensat(dir, "time-put-back", (struct timespec[]){st.st_atim, st.st_mtim}, 0), 0);
	s = scans_scan(dir, NULL, t, &o, &root);
	assert_in_range(stats(s)->dirty, 1, 2); /* same-size is still young */
	scans_assert_true(dir, &o, &root);
	inlay_snapshot_unref(t);

	assert_int_equal(fchmodat(dir, "mode", 0600, 0), 0);
	assert_int_equal(unlinkat(dir, "link", 0), 0);
	assert_int_equal(symlinkat("two", dir, "link"), 0);
	put_file(dir, "d/new", "two");
	assert_int_equal(fstatat(dir, "d/replaced", &st, 0), 0);
	assert_int_equal(utimensat(dir, "d/new", (struct timespec[]){st.st_atim, st.st_mtim}, 0),
			 0);
	assert_int_equal(renameat(dir, "d/new", dir, "d/replaced"), 0);
	set_times(dir, "touched", 77);
	t = scans_scan(dir, NULL, s, &o, &root);
	scans_assert_true(dir, &o, &root);
	inlay_snapshot_unref(s);

	assert_int_equal(fchmodat(dir, "d", 0700, 0), 0);
	assert_int_equal(fchmod(dir, 0711), 0);
	s = scans_scan(dir, NULL, t, &o, &root);
	scans_assert_true(dir, &o, &root);
	assert_int_equal(root.mode, 0711);
	inlay_snapshot_unref(t);
	inlay_snapshot_unref(s);
}

static void types_may_change(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_file(dir, "a", "file");
	put_dir(dir, "b");
	put_file(dir, "b/in", "x");
	assert_int_equal(symlinkat("b", dir, "c"), 0);
	assert_int_equal(mkfifoat(dir, "d", 0600), 0);
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, &root);
	scans_assert_true(dir, &o, &root);
	for (int round = 0; round < 4; round++) {
		/* Each name takes over the type of the next one. */
		assert_int_equal(renameat(dir, "a", dir, "x"), 0);
		assert_int_equal(renameat(dir, "b", dir, "a"), 0);
		assert_int_equal(renameat(dir, "c", dir, "b"), 0);
		assert_int_equal(renameat(dir, "d", dir, "c"), 0);
		assert_int_equal(renameat(dir, "x", dir, "d"), 0);
		struct inlay_snapshot *t = scans_scan(dir, NULL, s, &o, &root);
		scans_assert_true(dir, &o, &root);
		assert_int_equal(stats(t)->special, 1);
		inlay_snapshot_unref(s);
		s = t;
	}
	inlay_snapshot_unref(s);
}

static void checksum_reads_everything_and_changes_nothing(void **state)
{
	const struct inlay_scan_options options = {.checksum = true};
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root, again;

	put_nasty(dir);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	o.puts = 0;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, &options, s, &o, &again);
	assert_int_equal(stats(t)->dirty, stats(t)->files);
	assert_int_equal(o.puts, 0);
	scans_assert_same_root(&root, &again);
}

static void snapshot_of_another_folder_does_no_harm(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root, fresh;

	put_dir(dir, "one");
	put_dir(dir, "two");
	put_file(dir, "one/f", "111");
	put_file(dir, "two/f", "222");
	set_times(dir, "one/f", 1000000000);
	set_times(dir, "two/f", 1000000000);
	scans_settle_down();
	auto_close int one = open_dir(dir, "one");
	auto_close int two = open_dir(dir, "two");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(one, NULL, NULL, &o, &root);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(two, NULL, s, &o, &root);
	scans_assert_true(two, &o, &root);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *u =
		scans_scan(two, NULL, NULL, &o, &fresh);
	assert_int_equal(stats(u)->dirty, 1);
	assert_true(inlay_digest_equal(&fresh.tree, &root.tree));
	uint64_t dev[2], ino[2];
	inlay_snapshot_identity(s, &dev[0], &ino[0]);
	inlay_snapshot_identity(t, &dev[1], &ino[1]);
	assert_true(ino[0] != ino[1]);
}

static int64_t dir_mtime(const struct scans_objects *o, const struct inlay_root *root,
			 const char *path)
{
	auto_free char *text = scans_tree_text(o, &root->tree, SCANS_DIR_TIMES);
	char key[64];

	(void)snprintf(key, sizeof key, "%s 04", path);
	const char *line = strncmp(text, key, strlen(key)) == 0 ? text : NULL;
	(void)snprintf(key, sizeof key, "\n%s 04", path);
	line = line ? line : strstr(text, key);
	assert_non_null(line);
	return strtoll(strchr(line, '@') + 1, NULL, 10);
}

/* A directory's mtime is the time of the generation that changed its listing. */
static void directory_times_follow_listings(void **state)
{
	static const char *const exclude[] = {"*.tmp"};
	const struct inlay_scan_options options = {
		.ignore = {.patterns = exclude, .pattern_count = 1}};
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "a");
	put_dir(dir, "a/sub");
	put_dir(dir, "b");
	put_file(dir, "a/f", "1");
	put_file(dir, "a/sub/g", "1");
	set_times(dir, "a/sub", 5000);
	set_times(dir, "a", 6000);
	set_times(dir, "b", 7000);
	struct inlay_snapshot *s = scans_scan(dir, &options, NULL, &o, &root), *t;
	assert_int_equal(dir_mtime(&o, &root, "a"), 6000);
	assert_int_equal(dir_mtime(&o, &root, "a/sub"), 5000);

	/* An editor: a temporary file came and went, the content is another one. */
	put_file(dir, "a/x.tmp", "");
	put_file(dir, "a/y", "2");
	assert_int_equal(renameat(dir, "a/y", dir, "a/f"), 0);
	assert_int_equal(mkfifoat(dir, "b/pipe", 0600), 0);
	scans_now = 111;
	t = scans_scan(dir, &options, s, &o, &root);
	inlay_snapshot_unref(s);
	assert_int_equal(dir_mtime(&o, &root, "a"), 6000);
	assert_int_equal(dir_mtime(&o, &root, "b"), 7000);

	put_file(dir, "a/sub/new", "");
	put_dir(dir, "c");
	scans_now = 222;
	s = scans_scan(dir, &options, t, &o, &root);
	inlay_snapshot_unref(t);
	assert_int_equal(dir_mtime(&o, &root, "a"), 6000);
	assert_int_equal(dir_mtime(&o, &root, "a/sub"), 222);
	assert_int_equal(dir_mtime(&o, &root, "b"), 7000);
	assert_int_equal(dir_mtime(&o, &root, "c"), 222);
	assert_int_equal(root.mtime_ns, 222);

	/* The same names, one of another type. */
	assert_int_equal(unlinkat(dir, "a/sub/new", 0), 0);
	put_dir(dir, "a/sub/new");
	scans_now = 333;
	t = scans_scan(dir, &options, s, &o, &root);
	inlay_snapshot_unref(s);
	assert_int_equal(dir_mtime(&o, &root, "a/sub"), 333);
	assert_int_equal(root.mtime_ns, 222);

	scans_now = 444;
	assert_int_equal(unlinkat(dir, "c", AT_REMOVEDIR), 0);
	s = scans_scan(dir, &options, t, &o, &root);
	assert_int_equal(root.mtime_ns, 444);
	inlay_snapshot_unref(t);
	inlay_snapshot_unref(s);
	scans_now = 1234567890123456789;
}

/* What was found new stays new when its snapshot was never built. */
static void snapshot_that_was_never_built_is_a_basis(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "a");
	put_file(dir, "a/f", "1");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	put_file(dir, "a/g", "2");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *unbuilt = NULL;
	assert_ok(inlay_scan_walk(dir, &none, s, &unbuilt, &err));
	assert_false(inlay_snapshot_root(unbuilt, &root));
	assert_result(inlay_snapshot_build(unbuilt, 1, NULL, NULL, &root, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'g' was not read"));
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, unbuilt, &o, &root);
	assert_int_equal(stats(t)->dirty, 1);
	scans_assert_true(dir, &o, &root);
	assert_true(dir_mtime(&o, &root, "a") == scans_now);

	/* A file that nobody has read is read by the next one, however old it is. */
	put_file(dir, "a/h", "3");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *unread = NULL;
	assert_ok(inlay_scan_walk(dir, &none, t, &unread, &err));
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *u =
		scans_scan(dir, NULL, unread, &o, &root);
	assert_in_range(stats(u)->dirty, 1, 2); /* h, and g, which was young */
	scans_assert_true(dir, &o, &root);
	/* It was read for u alone: the two share nothing that can still change. */
	assert_result(inlay_snapshot_build(unread, 1, NULL, NULL, &root, &err), -EINVAL);
}

/* ---- rules ---- */

static void ignored_names_are_not_looked_at(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, ".git");
	put_dir(dir, "src");
	put_dir(dir, "src/build");
	put_dir(dir, "out");
	put_file(dir, "out/x", "x");
	put_file(dir, ".git/config", "x");
	put_file(dir, "src/a.o", "x");
	put_file(dir, "src/a.c", "x");
	put_file(dir, "src/keep.o", "x");
	put_file(dir, "src/build/x", "x");
	put_file(dir, ".gitignore", "*.o\nout/\n");
	put_file(dir, "src/.gitignore", "!keep.o\n/build/\n");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	auto_free char *text = scans_tree_text(&o, &root.tree, 0);
	assert_non_null(strstr(text, "src/keep.o"));
	assert_non_null(strstr(text, "src/.gitignore"));
	assert_null(strstr(text, "a.o"));
	assert_null(strstr(text, "build"));
	assert_null(strstr(text, "out"));
	assert_null(strstr(text, ".git/"));
	assert_int_equal(stats(s)->ignored, 4);
	assert_int_equal(stats(s)->files, 4);
	put_file(dir, "src/b.o", "x");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *more =
		scans_scan(dir, NULL, s, &o, &root);
	assert_int_equal(stats(more)->ignored, 5);
	assert_int_equal(unlinkat(dir, "src/b.o", 0), 0);

	/* Other rules: the same old snapshot, names come and go. */
	put_file(dir, ".gitignore", "*.c\n");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, s, &o, &root);
	auto_free char *other = scans_tree_text(&o, &root.tree, 0);
	assert_non_null(strstr(other, "src/a.o"));
	assert_non_null(strstr(other, "out/x"));
	assert_null(strstr(other, "a.c"));
	assert_int_equal(stats(t)->ignored, 3);
}

static void broken_ignore_file_stops_the_walk(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	struct inlay_snapshot *s = NULL;

	put_dir(dir, "a");
	put_dir(dir, "a/.gitignore");
	put_dir(dir, "b");
	assert_int_equal(symlinkat("x", dir, "b/.inlayignore"), 0);
	assert_result(inlay_scan_walk(dir, &none, NULL, &s, &err), -EINVAL);
	assert_string_equal(err.text,
			    "a/.gitignore: the ignore rules are not a regular file, and 1 more");
	assert_null(s);
}

/* ---- reading ---- */

static struct inlay_dirty *only_dirty(struct inlay_snapshot *s)
{
	struct inlay_dirty *d = NULL;
	size_t count;

	assert_ok(inlay_snapshot_dirty(s, &d, &count, &err));
	assert_int_equal(count, 1);
	return d;
}

static void change_while_reading_is_noticed(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	struct inlay_digest id;
	struct inlay_root root;
	uint64_t size;
	int fd;

	put_file(dir, "f", "first");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
	assert_ok(inlay_scan_walk(dir, &none, NULL, &s, &err));
	auto_free struct inlay_dirty *d = only_dirty(s);
	assert_int_equal(d->size, 5);
	put_file(dir, "f", "longer now");
	assert_ok(inlay_dirty_open(d, dir, &fd, &size, &err));
	assert_int_equal(size, 10);
	put_file(dir, "f", "third time");
	scans_settle_down();
	put_file(dir, "f", "other time");
	inlay_digest_of("x", 1, &id);
	assert_result(inlay_dirty_settle(d, fd, &id, &err), INLAY_SCAN_CHANGED);
	close(fd);
	assert_result(inlay_snapshot_build(s, 1, NULL, NULL, &root, &err), -EINVAL);
	assert_ok(inlay_dirty_open(d, dir, &fd, &size, &err));
	assert_ok(inlay_dirty_settle(d, fd, &id, &err));
	close(fd);
	assert_ok(inlay_snapshot_build(s, 1, NULL, NULL, &root, &err));
	assert_int_equal(stats(s)->bytes, 10);
}

static void file_that_went_away_is_gone(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	uint64_t size;
	int fd;

	put_dir(dir, "d");
	put_file(dir, "d/f", "first");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
	assert_ok(inlay_scan_walk(dir, &none, NULL, &s, &err));
	auto_free struct inlay_dirty *d = only_dirty(s);
	assert_int_equal(renameat(dir, "d/f", dir, "d/g"), 0);
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	/* A way to the same file through a symlink is not the file. */
	assert_int_equal(symlinkat("g", dir, "d/f"), 0);
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_int_equal(unlinkat(dir, "d/f", 0), 0);
	assert_int_equal(mkfifoat(dir, "d/f", 0600), 0);
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_int_equal(unlinkat(dir, "d/f", 0), 0);
	put_socket(dir, "d/f");
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_int_equal(unlinkat(dir, "d/f", 0), 0);
	put_dir(dir, "d/f");
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_int_equal(unlinkat(dir, "d/f", AT_REMOVEDIR), 0);
	assert_int_equal(renameat(dir, "d/g", dir, "d/f"), 0);
	assert_int_equal(renameat(dir, "d", dir, "e"), 0);
	assert_int_equal(symlinkat("e", dir, "d"), 0);
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_int_equal(unlinkat(dir, "d", 0), 0);
	put_file(dir, "d", "a file where the directory was");
	assert_result(inlay_dirty_open(d, dir, &fd, &size, &err), INLAY_SCAN_GONE);
	assert_int_equal(unlinkat(dir, "d", 0), 0);
	assert_int_equal(renameat(dir, "e", dir, "d"), 0);
	assert_ok(inlay_dirty_open(d, dir, &fd, &size, &err));
	close(fd);
}

static void dirty_files_come_by_extension_then_directory(void **state)
{
	static const char *const want[] = {
		".c",
		"Makefile",
		"a.b/plain",
		"b/.h",
		"b/noext.",
		"x.c",
		"a.b/z.c",
		"b/a.c",
		"b/a.cc",
		"y.h",
		"a.b/0.longextension-a",
		"0.longextension-b",
	};
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	auto_free struct inlay_dirty *d = NULL;
	size_t count;

	put_dir(dir, "a.b");
	put_dir(dir, "b");
	for (size_t i = 0; i < sizeof want / sizeof *want; i++)
		put_file(dir, want[i], "x");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
	assert_ok(inlay_scan_walk(dir, &none, NULL, &s, &err));
	assert_ok(inlay_snapshot_dirty(s, &d, &count, &err));
	assert_int_equal(count, sizeof want / sizeof *want);
	auto_buf struct inlay_buf got = {0}, wanted = {0};
	for (size_t i = 0; i < count; i++) {
		inlay_dirty_path(&d[i], &got);
		inlay_buf_u8(&got, '\n');
		inlay_buf_printf(&wanted, "%s\n", want[i]);
	}
	assert_string_equal(inlay_buf_cstr(&got), inlay_buf_cstr(&wanted));
}

static void file_is_found_by_its_content(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_dirty d;
	struct inlay_digest id;
	uint64_t size;
	int fd;

	put_dir(dir, "a");
	put_dir(dir, "a/b");
	put_file(dir, "a/b/there", "needle");
	put_file(dir, "other", "hay");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, NULL, NULL);
	inlay_digest_of("needle", 6, &id);
	assert_true(inlay_snapshot_find(s, &id, &d));
	auto_buf struct inlay_buf path = {0};
	inlay_dirty_path(&d, &path);
	assert_string_equal(inlay_buf_cstr(&path), "a/b/there");
	assert_int_equal(d.size, 6);
	assert_ok(inlay_dirty_open(&d, dir, &fd, &size, &err));
	assert_ok(inlay_dirty_settle(&d, fd, &id, &err));
	inlay_digest_of("else", 4, &id);
	assert_result(inlay_dirty_settle(&d, fd, &id, &err), INLAY_SCAN_CHANGED);
	close(fd);
	assert_false(inlay_snapshot_find(s, &id, &d));
}

/* ---- what cannot be read ---- */

/* Runs fn in a child as an ordinary user; its result is the child's exit code. */
static int as_nobody(int (*fn)(int dir), int dir)
{
	int status;

	assert_int_equal(fchmod(dir, 0755), 0);
	pid_t child = fork();
	if (child == 0) {
		if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
			_exit(99);
		_exit(fn(dir));
	}
	assert_true(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

static int walk_tells_unreadable(int dir)
{
	static const struct inlay_scan_options none, two = {.threads = 4};
	struct inlay_snapshot *s;

	for (int i = 0; i < 2; i++) {
		if (inlay_scan_walk(dir, i ? &two : &none, NULL, &s, &err) != -EACCES)
			return 1;
		if (strcmp(err.text, "cannot list 'a\\n/locked': Permission denied, and 2 more") !=
		    0)
			return 2;
	}
	const struct inlay_scan_options excluded = {
		.ignore = {.patterns = (const char *const[]){"locked", "nostat"},
			   .pattern_count = 2}};
	if (inlay_scan_walk(dir, &excluded, NULL, &s, &err) != 0)
		return 3;
	struct inlay_dirty *d;
	size_t count;
	uint64_t size;
	int fd;
	if (inlay_snapshot_dirty(s, &d, &count, &err) != 0 || count != 1)
		return 4;
	int r = inlay_dirty_open(&d[0], dir, &fd, &size, &err);
	free(d);
	inlay_snapshot_unref(s);
	if (r != -EACCES || strcmp(err.text, "cannot read 'secret': Permission denied") != 0)
		return 5;
	return 0;
}

static void unreadable_names_are_errors_not_deletions(void **state)
{
	int dir = scratch_dir(state);

	put_dir(dir, "a\n");
	put_dir(dir, "a\n/locked");
	put_dir(dir, "b");
	put_dir(dir, "b/locked");
	put_dir(dir, "nostat");
	put_file(dir, "nostat/f", "x");
	put_file(dir, "secret", "x");
	assert_int_equal(fchmodat(dir, "a\n/locked", 0700, 0), 0);
	assert_int_equal(fchmodat(dir, "b/locked", 0, 0), 0);
	assert_int_equal(fchmodat(dir, "nostat", 0744, 0), 0); /* can be listed, not entered */
	assert_int_equal(fchmodat(dir, "secret", 0600, 0), 0);
	assert_int_equal(as_nobody(walk_tells_unreadable, dir), 0);
}

static void folder_that_is_none_is_an_error(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	struct inlay_snapshot *s = NULL;

	put_file(dir, "f", "x");
	put_dir(dir, "d");
	auto_close int file = openat(dir, "f", O_RDONLY | O_CLOEXEC);
	assert_result(inlay_scan_walk(file, &none, NULL, &s, &err), -ENOTDIR);
	auto_close int gone = open_dir(dir, "d");
	assert_int_equal(unlinkat(dir, "d", AT_REMOVEDIR), 0);
	assert_result(inlay_scan_walk(gone, &none, NULL, &s, &err), -ENOENT);
	assert_result(inlay_scan_walk(-1, &none, NULL, &s, &err), -EBADF);
	assert_null(s);
}

/* The caller's descriptor may be one that only names the folder, and may have been read from. */
static void descriptor_of_the_folder_is_not_used_up(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_root a, b;

	put_file(dir, "f", "x");
	scans_settle_down();
	for (int i = 0; i < 2; i++) {
		auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
			scans_scan(dir, NULL, NULL, NULL, &a);
		assert_int_equal(stats(s)->files, 1);
	}
	auto_close int path = openat(dir, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(path, NULL, NULL, NULL, &b);
	assert_int_equal(stats(s)->files, 1);
	scans_assert_same_root(&a, &b);
}

/* ---- mounts ---- */

static const char mountinfo[] =
	"22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
	"28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw,resv=1\n"
	"90 28 0:50 / /mnt/a\\040-\\040fuse.inlay rw - tmpfs tmpfs rw\n"
	"91 28 0:51 / /mnt/b rw,nosuid shared:1 master:2 propagate_from:3 - fuse.inlay inlay rw\n"
	"92 28 0:52 / /mnt/c rw - fuse.inlayd inlay rw\n"
	"broken\n"
	"93 28 x:53 / /mnt/d rw - fuse.inlay inlay rw\n"
	"94 28 0:54 / /mnt/e rw\n"
	"95 28 0:55 / /mnt/f rw shared:1 fuse.inlay inlay rw\n"
	"96 28 0:4294967296 / /mnt/g rw - fuse.inlay inlay rw\n"
	"97 28 0:57x / /mnt/h rw - fuse.inlay inlay rw\n"
	"98 28 0:58 / /mnt/i rw - fuse.inlay";

static void mounts_of_inlay_are_told_from_others(void **state)
{
	size_t len = sizeof mountinfo - 1;

	(void)state;
	assert_true(scan_mountinfo_has(mountinfo, len, makedev(0, 51), "fuse.inlay"));
	assert_true(scan_mountinfo_has(mountinfo, len, makedev(0, 58), "fuse.inlay"));
	assert_true(scan_mountinfo_has(mountinfo, len, makedev(254, 1), "ext4"));
	static const unsigned others[] = {20, 50, 52, 53, 54, 55, 0, 57};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		assert_false(
			scan_mountinfo_has(mountinfo, len, makedev(0, others[i]), "fuse.inlay"));
	assert_false(scan_mountinfo_has(mountinfo, 0, makedev(0, 51), "fuse.inlay"));
	for (size_t cut = 0; cut < len; cut++)
		(void)scan_mountinfo_has(mountinfo, cut, makedev(0, 58), "fuse.inlay");
}

/* In a mount namespace of its own; the folder is opened again, as descriptors stay in the old one. */
static int enter_namespace(int dir)
{
	char link[64], path[256];

	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n < 0)
		return -1;
	path[n] = 0;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    chdir(path) < 0)
		return -1;
	return open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int in_child(int (*fn)(int dir), int dir)
{
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(fn(dir));
	assert_true(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

static int walk_over_a_mount(int dir)
{
	static const struct inlay_scan_options none;
	struct inlay_snapshot *s;
	int here = enter_namespace(dir);

	if (here < 0 || mount("inlay-test", "sub", "tmpfs", 0, NULL) < 0)
		return 77;
	int fd = open("sub/in-the-mount", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0 || close(fd) < 0)
		return 1;
	if (inlay_scan_walk(here, &none, NULL, &s, &err) != 0)
		return 2;
	int files = (int)inlay_snapshot_stats(s)->files;
	inlay_snapshot_unref(s);
	return files == 2 ? 0 : 3;
}

static void other_mounts_are_walked(void **state)
{
	int dir = scratch_dir(state);

	put_dir(dir, "sub");
	put_file(dir, "f", "x");
	int r = in_child(walk_over_a_mount, dir);
	if (r == 77)
		skip();
	assert_int_equal(r, 0);
}

/* As much of a FUSE server as a stat of the mount point needs. */
static void *serve(void *arg)
{
	static uint8_t buf[1 << 17];
	int fd = *(int *)arg;

	while (read(fd, buf, sizeof buf) > 0) {
		const struct fuse_in_header *in = (const struct fuse_in_header *)buf;
		struct {
			struct fuse_out_header out;
			union {
				struct fuse_init_out init;
				struct fuse_attr_out attr;
			};
		} reply = {.out = {.unique = in->unique, .len = sizeof reply.out}};
		if (in->opcode == FUSE_INIT) {
			reply.init =
				(struct fuse_init_out){.major = 7, .minor = 31, .max_write = 4096};
			reply.out.len += sizeof reply.init;
		} else if (in->opcode == FUSE_GETATTR) {
			reply.attr.attr =
				(struct fuse_attr){.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2};
			reply.out.len += sizeof reply.attr;
		} else {
			reply.out.error = -ENOSYS;
		}
		if (write(fd, &reply, reply.out.len) < 0)
			break;
	}
	return NULL;
}

static bool is_refused(int here, int code, const char *text)
{
	static const struct inlay_scan_options none;
	struct inlay_snapshot *s;

	return inlay_scan_walk(here, &none, NULL, &s, &err) == code && strcmp(err.text, text) == 0;
}

static int walk_over_a_mount_of_inlay(int dir)
{
	const struct inlay_scan_options excluded = {
		.ignore = {.patterns = (const char *const[]){"/a/mnt"}, .pattern_count = 1}};
	struct inlay_snapshot *s;
	pthread_t thread;
	char options[128];
	int here = enter_namespace(dir);
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	(void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fuse,
		       geteuid(), getegid());
	if (here < 0 || fuse < 0 ||
	    mount("inlay", "a/mnt", "fuse.inlay", MS_NOSUID | MS_NODEV, options) < 0)
		return 77;
	if (pthread_create(&thread, NULL, serve, &fuse) != 0)
		return 1;
	if (!is_refused(here, -EXDEV,
			"cannot take in 'a/mnt': a mount of inlay; unmount or exclude it"))
		return 2;
	if (inlay_scan_walk(here, &excluded, NULL, &s, &err) != 0)
		return 3;
	inlay_snapshot_unref(s);
	/* MNT_FORCE ends the connection; the mount is busy, so it stays: its server has gone. */
	auto_close int busy = open("a/mnt", O_PATH | O_CLOEXEC);
	if (busy < 0 || umount2("a/mnt", MNT_FORCE) == 0)
		return 5;
	(void)pthread_join(thread, NULL);
	close(fuse);
	if (!is_refused(
		    here, -ENOTCONN,
		    "cannot look at 'a/mnt': a mount whose server has gone; unmount or exclude it"))
		return 4;
	return 0;
}

static void mount_of_inlay_is_refused(void **state)
{
	int dir = scratch_dir(state);

	put_dir(dir, "a");
	put_dir(dir, "a/mnt");
	int r = in_child(walk_over_a_mount_of_inlay, dir);
	if (r == 77)
		skip();
	assert_int_equal(r, 0);
}

/* ---- size ---- */

static void make_deep(int dir, int levels, const char *name, const char *last)
{
	int at = dup(dir);

	for (int i = 0; i < levels; i++) {
		put_dir(at, name);
		int next = open_dir(at, name);
		close(at);
		at = next;
	}
	if (last)
		put_file(at, last, "at the bottom");
	close(at);
}

/* Far beyond what a path in a system call can be. */
static void deep_trees_are_walked(void **state)
{
	static const char name[] = "a-name-of-twenty-by";
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;
	unsigned fds = count_fds();

	make_deep(dir, 500, name, "file");
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	assert_int_equal(stats(s)->dirs, 500);
	assert_int_equal(stats(s)->files, 1);
	scans_assert_true(dir, &o, &root);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, s, &o, &root);
	assert_int_equal(stats(t)->dirty, 0);
	assert_int_equal(count_fds(), fds);
}

static int walk_with_few_descriptors(int dir)
{
	static const struct inlay_scan_options options = {.threads = 3};
	const struct rlimit few = {.rlim_cur = 40, .rlim_max = 40};
	struct inlay_snapshot *s;

	if (setrlimit(RLIMIT_NOFILE, &few) < 0)
		return 1;
	if (inlay_scan_walk(dir, &options, NULL, &s, &err) != 0)
		return 2;
	int r = stats(s)->dirs == 600 && stats(s)->files == 300 ? 0 : 3;
	inlay_snapshot_unref(s);
	return r;
}

/* Each level has a directory that waits while the other one is gone down. */
static void few_descriptors_are_enough(void **state)
{
	int dir = scratch_dir(state), at = dup(dir);
	unsigned fds = count_fds();

	for (int i = 0; i < 300; i++) {
		put_dir(at, "a");
		put_dir(at, "b");
		put_file(at, i % 2 ? "a/f" : "b/f", "1");
		int next = open_dir(at, i % 3 ? "a" : "b");
		close(at);
		at = next;
	}
	close(at);
	assert_int_equal(in_child(walk_with_few_descriptors, dir), 0);
	assert_int_equal(count_fds(), fds - 1);
}

static void depth_is_limited_at_its_last_level(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	struct inlay_snapshot *s = NULL;

	make_deep(dir, INLAY_DEPTH_MAX, "d", "file");
	assert_ok(inlay_scan_walk(dir, &none, NULL, &s, &err));
	assert_int_equal(stats(s)->files, 1);
	inlay_snapshot_unref(s);
	s = NULL;
	/* One more level, with a name in it. */
	put_dir(dir, "top");
	assert_int_equal(renameat(dir, "d", dir, "top/d"), 0);
	assert_result(inlay_scan_walk(dir, &none, NULL, &s, &err), -E2BIG);
	assert_non_null(strstr(err.text, "more than 1024 directories above it"));
	assert_non_null(strstr(err.text, "cannot take in 'top/d/d/d"));
	assert_non_null(strstr(err.text, "d/file'"));
	assert_null(s);
}

static void paths_are_limited(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	char name[256];
	struct inlay_snapshot *s = NULL;

	memset(name, 'p', 255);
	name[255] = 0;
	/* 255 levels of 255 bytes and a slash: 65,280 bytes; with a name of 255 that is the limit. */
	make_deep(dir, 255, name, name);
	assert_ok(inlay_scan_walk(dir, &none, NULL, &s, &err));
	inlay_snapshot_unref(s);
	s = NULL;
	put_dir(dir, "q");
	assert_int_equal(renameat(dir, name, dir,
				  "q/"
				  "p"),
			 0);
	assert_ok(inlay_scan_walk(dir, &none, NULL, &s, &err));
	inlay_snapshot_unref(s);
	s = NULL;
	assert_int_equal(renameat(dir, "q/p", dir, name), 0);
	put_dir(dir, "r");
	char below[300];
	(void)snprintf(below, sizeof below, "r/%s", name);
	assert_int_equal(renameat(dir, name, dir, below), 0);
	assert_result(inlay_scan_walk(dir, &none, NULL, &s, &err), -E2BIG);
	assert_non_null(strstr(err.text, "its path has more than 65535 bytes"));
}

static void put_many(int dir, const char *prefix, int from, int to)
{
	char name[64];

	for (int i = from; i < to; i++) {
		(void)snprintf(name, sizeof name, "%s%d", prefix, i);
		put_file(dir, name, name);
	}
}

/* Across the sizes at which a directory is split, in both directions. */
static void large_directories_are_split_as_trees_are(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;
	char name[64];

	put_dir(dir, "big");
	put_dir(dir, "big/a-dir");
	put_file(dir, "big/a-dir/f", "x");
	assert_int_equal(mkfifoat(dir, "big/a-fifo", 0600), 0);
	put_many(dir, "big/f", 0, 1022);
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, &o, &root), *t;
	scans_assert_true(dir, &o, &root);
	static const int sizes[] = {1023, 1024, 1030, 2500, 2501, 1025, 1022, 10, 0};
	int now = 1022;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		put_many(dir, "big/f", now, sizes[i]);
		for (; now > sizes[i]; now--) {
			(void)snprintf(name, sizeof name, "big/f%d", now - 1);
			assert_int_equal(unlinkat(dir, name, 0), 0);
		}
		now = sizes[i];
		t = scans_scan(dir, NULL, s, &o, &root);
		inlay_snapshot_unref(s);
		s = t;
		scans_assert_true(dir, &o, &root);
		auto_of(inlay_snapshot_unref) struct inlay_snapshot *fresh = NULL;
		struct inlay_root other;
		fresh = scans_scan(dir, NULL, NULL, NULL, &other);
		assert_int_equal(stats(fresh)->files, (uint64_t)now + 1);
	}
	inlay_snapshot_unref(s);
}

/* As many names are left as the first bucket had, but others. */
static void buckets_are_not_mistaken_for_each_other(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_many(dir, "f", 0, 1200);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	assert_true(s->root->bits > 0);
	uint32_t left = s->root->blocks[0]->count;
	for (int i = 1200; i > (int)left; i--) {
		char name[16];
		(void)snprintf(name, sizeof name, "f%d", i - 1);
		assert_int_equal(unlinkat(dir, name, 0), 0);
	}
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, s, &o, &root);
	assert_int_equal(stats(t)->files, left);
	assert_int_equal(stats(t)->dirty, 0);
	scans_assert_true(dir, &o, &root);
}

/* One name of a large directory: one bucket and the node above it are new, nothing else. */
static void edit_in_a_large_directory_makes_one_bucket(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	put_dir(dir, "big");
	put_many(dir, "big/f", 0, 3000);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(dir, NULL, NULL, &o, &root);
	put_file(dir, "big/f77", "edited");
	put_file(dir, "big/new", "edited");
	o.puts = 0;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(dir, NULL, s, &o, &root);
	assert_in_range(o.puts, 3, 4); /* one or two buckets, their node, the root */
	scans_assert_true(dir, &o, &root);
	unsigned shared = 0;
	for (uint32_t i = 0; i < t->root->children[0]->block_count; i++)
		shared += t->root->children[0]->blocks[i] == s->root->children[0]->blocks[i];
	assert_in_range(shared, t->root->children[0]->block_count - 2,
			t->root->children[0]->block_count - 1);
}

/* ---- threads ---- */

static void make_forest(int dir, unsigned *seed, int depth)
{
	char name[32];
	int dirs = 2 + rand_r(seed) % 4, files = rand_r(seed) % 9;

	for (int i = 0; i < files; i++) {
		(void)snprintf(name, sizeof name, "f%d.%c", rand_r(seed) % 1000, 'a' + i % 4);
		put_file(dir, name, name);
	}
	for (int i = 0; depth > 0 && i < dirs; i++) {
		(void)snprintf(name, sizeof name, "d%d", i);
		put_dir(dir, name);
		auto_close int sub = open_dir(dir, name);
		make_forest(sub, seed, depth - 1);
	}
	if (rand_r(seed) % 4 == 0)
		put_file(dir, ".gitignore", "*.a\n!f1*\n");
	if (rand_r(seed) % 5 == 0)
		(void)mkfifoat(dir, "pipe", 0600);
}

static void paths_of(struct inlay_snapshot *s, struct inlay_buf *out)
{
	auto_free struct inlay_dirty *d = NULL;
	size_t count;

	assert_ok(inlay_snapshot_dirty(s, &d, &count, &err));
	for (size_t i = 0; i < count; i++) {
		inlay_dirty_path(&d[i], out);
		inlay_buf_u8(out, '\n');
	}
}

static void result_does_not_depend_on_threads(void **state)
{
	int dir = scratch_dir(state);
	unsigned seed = 4711;
	auto_buf struct inlay_buf first = {0};
	struct inlay_scan_stats first_stats = {0};
	struct inlay_root first_root = {0};

	make_forest(dir, &seed, 4);
	for (unsigned threads = 1; threads <= 8; threads++) {
		const struct inlay_scan_options options = {.threads = threads};
		auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
		auto_buf struct inlay_buf paths = {0};
		struct inlay_root root;
		assert_ok(inlay_scan_walk(dir, &options, NULL, &s, &err));
		paths_of(s, &paths);
		(void)scans_read(s, dir);
		assert_ok(inlay_snapshot_build(s, 1, NULL, NULL, &root, &err));
		struct inlay_scan_stats st = *stats(s);
		for (size_t i = 0; i < INLAY_SCAN_NAMES; i++) {
			if (threads > 1 && st.special_names[i]) {
				assert_string_equal(st.special_names[i],
						    first_stats.special_names[i]);
				free(first_stats.special_names[i]);
			}
			first_stats.special_names[i] =
				st.special_names[i] ? strdup(st.special_names[i]) : NULL;
		}
		if (threads == 1) {
			inlay_buf_add(&first, paths.data, paths.len);
			first_root = root;
			assert_true(st.dirs > 100 && st.special > 8 && st.ignored > 10);
		}
		scans_assert_same_root(&root, &first_root);
		assert_string_equal(inlay_buf_cstr(&paths), inlay_buf_cstr(&first));
		size_t numbers = offsetof(struct inlay_scan_stats, special_names);
		if (threads > 1)
			assert_memory_equal(&st, &first_stats, numbers);
		memcpy(&first_stats, &st, numbers);
	}
	for (size_t i = 0; i < INLAY_SCAN_NAMES; i++)
		free(first_stats.special_names[i]);
}

static void snapshots_outlive_those_they_came_from(void **state)
{
	int dir = scratch_dir(state);
	unsigned seed = 99;
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root;

	make_forest(dir, &seed, 3);
	struct inlay_snapshot *s = scans_scan(dir, NULL, NULL, NULL, &root);
	for (int i = 0; i < 5; i++) {
		char name[16];
		(void)snprintf(name, sizeof name, "new%d", i);
		put_file(dir, name, name);
		struct inlay_snapshot *t = scans_scan(dir, NULL, s, &o, &root);
		inlay_snapshot_unref(s);
		s = inlay_snapshot_ref(t);
		inlay_snapshot_unref(t);
	}
	assert_true(inlay_snapshot_root(s, &root));
	inlay_snapshot_unref(s);
	inlay_snapshot_unref(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(folder_becomes_its_tree),
		scratch_test(what_cannot_be_carried_is_counted_and_named),
		scratch_test(empty_folder_is_a_tree),
		scratch_test(owners_are_carried_when_asked_for),
		scratch_test(unchanged_folder_costs_nothing),
		cmocka_unit_test(young_times_are_not_trusted),
		scratch_test(racy_file_is_read_again_until_it_is_old),
		scratch_test(every_edit_is_seen),
		scratch_test(types_may_change),
		scratch_test(checksum_reads_everything_and_changes_nothing),
		scratch_test(snapshot_of_another_folder_does_no_harm),
		scratch_test(directory_times_follow_listings),
		scratch_test(snapshot_that_was_never_built_is_a_basis),
		scratch_test(ignored_names_are_not_looked_at),
		scratch_test(broken_ignore_file_stops_the_walk),
		scratch_test(change_while_reading_is_noticed),
		scratch_test(file_that_went_away_is_gone),
		scratch_test(dirty_files_come_by_extension_then_directory),
		scratch_test(file_is_found_by_its_content),
		scratch_test(unreadable_names_are_errors_not_deletions),
		scratch_test(folder_that_is_none_is_an_error),
		scratch_test(descriptor_of_the_folder_is_not_used_up),
		cmocka_unit_test(mounts_of_inlay_are_told_from_others),
		scratch_test(other_mounts_are_walked),
		scratch_test(mount_of_inlay_is_refused),
		scratch_test(deep_trees_are_walked),
		scratch_test(few_descriptors_are_enough),
		scratch_test(depth_is_limited_at_its_last_level),
		scratch_test(paths_are_limited),
		scratch_test(large_directories_are_split_as_trees_are),
		scratch_test(buckets_are_not_mistaken_for_each_other),
		scratch_test(edit_in_a_large_directory_makes_one_bucket),
		scratch_test(result_does_not_depend_on_threads),
		scratch_test(snapshots_outlive_those_they_came_from),
	};

	/* To make, check and remove deep trees takes a descriptor for each level; to walk does not. */
	struct rlimit lim;
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
