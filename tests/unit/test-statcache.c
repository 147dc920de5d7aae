/* SPDX-License-Identifier: Apache-2.0 */
#include "scans.h"

#include <errno.h>

#include "scan/cachefile.h"

static struct inlay_error err;
enum { KEY = 77 };

static const struct inlay_scan_stats *stats(const struct inlay_snapshot *s)
{
	return inlay_snapshot_stats(s);
}

static void fill_folder(int dir)
{
	put_dir(dir, "src");
	put_dir(dir, "src/empty");
	put_dir(dir, "src/sub");
	put_file(dir, "src/a.c", "int a;\n");
	put_file(dir, "src/sub/b\n\xff", "b");
	put_file(dir, ".gitignore", "*.o\n");
	put_file(dir, "x.o", "");
	assert_int_equal(symlinkat("../away", dir, "src/link"), 0);
	assert_int_equal(mkfifoat(dir, "src/pipe", 0600), 0);
	assert_int_equal(linkat(dir, "src/a.c", dir, "again.c", 0), 0);
}

static struct inlay_snapshot *load(int dir, const char *name)
{
	struct inlay_snapshot *s = NULL;

	assert_ok(inlay_snapshot_load(dir, name, KEY, &s, &err));
	return s;
}

static void assert_same_stats(const struct inlay_snapshot *a, const struct inlay_snapshot *b)
{
	assert_int_equal(stats(a)->files, stats(b)->files);
	assert_int_equal(stats(a)->dirs, stats(b)->dirs);
	assert_int_equal(stats(a)->symlinks, stats(b)->symlinks);
	assert_int_equal(stats(a)->bytes, stats(b)->bytes);
	assert_int_equal(stats(a)->ignored, stats(b)->ignored);
	assert_int_equal(stats(a)->special, stats(b)->special);
	assert_int_equal(stats(a)->hardlinked, stats(b)->hardlinked);
	if (stats(b)->special > 0)
		assert_string_equal(stats(a)->special_names[0], stats(b)->special_names[0]);
}

static void loaded_snapshot_is_the_saved_one(void **state)
{
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root, again;

	put_dir(dir, "folder");
	auto_close int folder = open_dir(dir, "folder");
	fill_folder(folder);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(folder, NULL, NULL, &o, &root);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	struct inlay_snapshot *loaded = load(dir, "cache");
	assert_true(inlay_snapshot_root(loaded, &again));
	scans_assert_same_root(&root, &again);
	assert_same_stats(loaded, s);
	uint64_t dev[2], ino[2];
	inlay_snapshot_identity(s, &dev[0], &ino[0]);
	inlay_snapshot_identity(loaded, &dev[1], &ino[1]);
	assert_true(dev[0] == dev[1] && ino[0] == ino[1]);

	/* As a basis: nothing is read, nothing built, nothing copied. */
	o.puts = 0;
	struct inlay_snapshot *t = scans_scan(folder, NULL, loaded, &o, &again);
	assert_int_equal(stats(t)->dirty, 0);
	assert_int_equal(o.puts, 0);
	scans_assert_same_root(&root, &again);
	assert_true(t->root == loaded->root);
	assert_same_stats(t, s);

	/* Parts of the mapping live on in later ones, also when its file has gone. */
	put_file(folder, "src/new", "1");
	struct inlay_snapshot *u = scans_scan(folder, NULL, t, &o, &again);
	assert_int_equal(unlinkat(dir, "cache", 0), 0);
	inlay_snapshot_unref(loaded);
	inlay_snapshot_unref(t);
	assert_int_equal(stats(u)->dirty, 1);
	assert_int_equal(unlinkat(folder, "x.o", 0), 0);
	assert_int_equal(unlinkat(folder, "src/pipe", 0), 0);
	struct inlay_snapshot *v = scans_scan(folder, NULL, u, &o, &again);
	inlay_snapshot_unref(u);
	assert_int_equal(unlinkat(folder, "again.c", 0), 0);
	u = scans_scan(folder, NULL, v, &o, &again);
	scans_assert_true(folder, &o, &again);
	inlay_snapshot_unref(v);
	inlay_snapshot_unref(u);
}

static void put_many(int dir, const char *prefix, int count)
{
	char name[64];

	for (int i = 0; i < count; i++) {
		(void)snprintf(name, sizeof name, "%s%d", prefix, i);
		put_file(dir, name, name);
	}
}

static void split_directories_and_owners_come_back(void **state)
{
	const struct inlay_scan_options options = {.owners = true};
	int dir = scratch_dir(state);
	auto_of(scans_objects_fini) struct scans_objects o = {0};
	struct inlay_root root, again;

	put_dir(dir, "folder");
	auto_close int folder = open_dir(dir, "folder");
	put_dir(folder, "big");
	put_dir(folder, "big/sub");
	put_many(folder, "big/f", 2100);
	put_many(folder, "big/sub/g", 3);
	if (geteuid() == 0)
		assert_int_equal(fchownat(folder, "big/f7", 12, 34, 0), 0);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(folder, &options, NULL, &o, &root);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *loaded = load(dir, "cache");
	o.puts = 0;
	put_file(folder, "big/f8", "edited");
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *t =
		scans_scan(folder, &options, loaded, &o, &again);
	assert_int_equal(stats(t)->dirty, 1);
	assert_int_equal(o.puts, 3); /* buckets that did not change come from the file */
	auto_free char *got = scans_tree_text(&o, &again.tree, SCANS_OWNERS);
	auto_free char *want = scans_folder_text(folder, SCANS_OWNERS);
	scans_assert_text(got, want);
}

static int64_t mtime_of(int dir, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(dir, name, &st, 0), 0);
	return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static void nothing_new_is_not_written(void **state)
{
	int dir = scratch_dir(state);

	put_dir(dir, "folder");
	auto_close int folder = open_dir(dir, "folder");
	fill_folder(folder);
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(folder, NULL, NULL, NULL, NULL);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	set_times(dir, "cache", 1000);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	assert_int_equal(mtime_of(dir, "cache"), 1000);
	struct inlay_snapshot *t = scans_scan(folder, NULL, s, NULL, NULL);
	inlay_snapshot_unref(s);
	assert_ok(inlay_snapshot_save(t, dir, "cache", KEY, &err));
	inlay_snapshot_unref(t);
	s = load(dir, "cache");
	t = scans_scan(folder, NULL, s, NULL, NULL);
	assert_ok(inlay_snapshot_save(t, dir, "cache", KEY, &err));
	assert_int_equal(mtime_of(dir, "cache"), 1000);

	/* But elsewhere, under another key, when it is gone or cut, and when something is new. */
	assert_ok(inlay_snapshot_save(t, dir, "cache", KEY + 1, &err));
	assert_true(mtime_of(dir, "cache") != 1000);
	assert_ok(inlay_snapshot_save(t, dir, "other", KEY, &err));
	inlay_snapshot_unref(load(dir, "other"));
	assert_ok(inlay_snapshot_save(t, dir, "cache", KEY + 1, &err));
	put_file(dir, "cache", "cut");
	assert_ok(inlay_snapshot_save(t, dir, "cache", KEY + 1, &err));
	struct inlay_snapshot *whole = NULL;
	assert_ok(inlay_snapshot_load(dir, "cache", KEY + 1, &whole, &err));
	inlay_snapshot_unref(whole);
	assert_int_equal(unlinkat(dir, "cache", 0), 0);
	assert_ok(inlay_snapshot_save(t, dir, "cache", KEY, &err));
	inlay_snapshot_unref(load(dir, "cache"));
	set_times(dir, "cache", 1000);
	inlay_snapshot_unref(s);
	assert_int_equal(fchmod(folder, 0711), 0);
	s = scans_scan(folder, NULL, t, NULL, NULL);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	assert_true(mtime_of(dir, "cache") != 1000);
	inlay_snapshot_unref(s);
	inlay_snapshot_unref(t);
}

static void assert_none(int dir, const char *name, uint64_t key)
{
	struct inlay_snapshot *s = NULL;
	unsigned fds = count_fds();

	assert_result(inlay_snapshot_load(dir, name, key, &s, &err), INLAY_SNAPSHOT_NONE);
	assert_null(s);
	assert_int_equal(count_fds(), fds);
}

static void what_is_no_cache_is_none(void **state)
{
	static const struct inlay_scan_options none;
	int dir = scratch_dir(state);
	struct inlay_snapshot *s = NULL;

	assert_none(dir, "missing", KEY);
	put_file(dir, "empty", "");
	assert_none(dir, "empty", KEY);
	put_file(dir, "text",
		 "this is a text of more than eighty bytes, and nothing that was ever "
		 "saved as a stat cache by anybody");
	assert_none(dir, "text", KEY);
	put_dir(dir, "dir");
	assert_none(dir, "dir", KEY);
	assert_int_equal(symlinkat("cache", dir, "link"), 0);
	assert_int_equal(mkfifoat(dir, "pipe", 0600), 0);
	assert_none(dir, "pipe", KEY);
	auto_close int sub = open_dir(dir, "dir");
	assert_ok(inlay_scan_walk(sub, &none, NULL, &s, &err));
	assert_result(inlay_snapshot_save(s, dir, "cache", KEY, &err), -EINVAL); /* not built */
	assert_none(dir, "cache", KEY);
	inlay_snapshot_unref(s);
	s = scans_scan(sub, NULL, NULL, NULL, NULL);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	inlay_snapshot_unref(s);
	assert_none(dir, "link", KEY);
	assert_none(dir, "cache", KEY + 1);
	inlay_snapshot_unref(load(dir, "cache"));
}

static void write_bytes(int dir, const char *name, const uint8_t *bytes, size_t len)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	/* Not truncated first: some file systems wait for the disk then. */
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, 0), len);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	close(fd);
}

static void every_damaged_byte_is_found(void **state)
{
	int dir = scratch_dir(state);
	auto_buf struct inlay_buf b = {0};

	put_dir(dir, "folder");
	auto_close int folder = open_dir(dir, "folder");
	fill_folder(folder);
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(folder, NULL, NULL, NULL, NULL);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	assert_ok(inlay_read_file(dir, "cache", 1 << 20, &b, &err));
	assert_true(b.len > 1000);
	for (size_t i = 0; i < b.len; i++) {
		for (int bit = 0; bit < 8; bit += 7) {
			b.data[i] ^= (uint8_t)(1 << bit);
			write_bytes(dir, "bad", b.data, b.len);
			assert_none(dir, "bad", KEY);
			b.data[i] ^= (uint8_t)(1 << bit);
		}
	}
	for (size_t len = 0; len < b.len; len += 7) {
		write_bytes(dir, "bad", b.data, len);
		assert_none(dir, "bad", KEY);
	}
	inlay_buf_u8(&b, 0);
	write_bytes(dir, "bad", b.data, b.len);
	assert_none(dir, "bad", KEY);
}

static void sign(uint8_t *bytes, size_t len)
{
	size_t from = offsetof(struct cache_header, version);
	uint64_t sum = inlay_xxh3(bytes + from, len - from);

	memcpy(bytes + offsetof(struct cache_header, checksum), &sum, sizeof sum);
}

/* Beyond the checksum: with a right one each byte is either checked, or says something that a walk
 * compares with the folder. Only what a walk cannot compare is believed. */
static void forged_bytes_do_no_harm(void **state)
{
	int dir = scratch_dir(state);
	auto_buf struct inlay_buf b = {0};
	struct inlay_root root;
	unsigned none = 0, walked = 0, different = 0;

	put_dir(dir, "folder");
	auto_close int folder = open_dir(dir, "folder");
	fill_folder(folder);
	scans_settle_down();
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s =
		scans_scan(folder, NULL, NULL, NULL, &root);
	assert_ok(inlay_snapshot_save(s, dir, "cache", KEY, &err));
	assert_ok(inlay_read_file(dir, "cache", 1 << 20, &b, &err));
	for (size_t i = offsetof(struct cache_header, version); i < b.len; i++) {
		struct inlay_snapshot *forged;
		b.data[i] ^= 1;
		sign(b.data, b.len);
		write_bytes(dir, "bad", b.data, b.len);
		int r = inlay_snapshot_load(dir, "bad", KEY, &forged, &err);
		if (r == 0) {
			struct inlay_root got;
			struct inlay_snapshot *t = scans_scan(folder, NULL, forged, NULL, &got);
			assert_int_equal(stats(t)->files, stats(s)->files);
			assert_int_equal(stats(t)->symlinks, stats(s)->symlinks);
			inlay_snapshot_unref(t);
			inlay_snapshot_unref(forged);
			different += !inlay_digest_equal(&got.tree, &root.tree) ||
				     got.mtime_ns != root.mtime_ns;
			walked++;
		} else {
			assert_int_equal(r, INLAY_SNAPSHOT_NONE);
			none++;
		}
		b.data[i] ^= 1;
	}
	print_message("%u refused, %u walked, %u believed\n", none, walked, different);
	assert_true(none > 200 && walked > 200);
	/* Ids and times of 4 directories, ids of 4 files, the target of a symlink. */
	assert_in_range(different, 1, 4 * (32 + 8) + 4 * 32 + 7);
}

/* The same folder gives the same bytes, whatever memory was used before. */
static void bytes_depend_on_the_folder_only(void **state)
{
	int dir = scratch_dir(state);
	auto_buf struct inlay_buf a = {0}, b = {0};

	put_dir(dir, "folder");
	auto_close int folder = open_dir(dir, "folder");
	fill_folder(folder);
	scans_settle_down();
	struct inlay_snapshot *s = scans_scan(folder, NULL, NULL, NULL, NULL);
	assert_ok(inlay_snapshot_save(s, dir, "a", KEY, &err));
	struct inlay_snapshot *l = load(dir, "a");
	assert_ok(inlay_snapshot_save(l, dir, "b", KEY, &err));
	assert_ok(inlay_read_file(dir, "a", 1 << 20, &a, &err));
	assert_ok(inlay_read_file(dir, "b", 1 << 20, &b, &err));
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	inlay_snapshot_unref(l);
	inlay_snapshot_unref(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(loaded_snapshot_is_the_saved_one),
		scratch_test(split_directories_and_owners_come_back),
		scratch_test(nothing_new_is_not_written),
		scratch_test(what_is_no_cache_is_none),
		scratch_test(every_damaged_byte_is_found),
		scratch_test(forged_bytes_do_no_harm),
		scratch_test(bytes_depend_on_the_folder_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
