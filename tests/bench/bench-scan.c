/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a scan costs. bench-scan [DIR [FILES [PER_DIRECTORY]]]: makes FILES (100,000) small files in
 * DIR (a new directory below /tmp, removed afterwards), then measures; medians of several rounds.
 * "bare" is getdents64 and statx alone, in one thread: the least that any scan costs.
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/scan.h"

enum { ROUNDS = 15 };

static struct inlay_error e;
static size_t file_count = 100000, per_dir = 100;

static void check(int r)
{
	if (r != 0)
		errx(1, "%d: %s", r, e.text);
}

static int64_t cpu_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

struct timing {
	int64_t cpu[ROUNDS], wall[ROUNDS];
	int64_t cpu_start, wall_start;
	int rounds;
};

static void begin(struct timing *t)
{
	t->wall_start = inlay_monotonic_ns();
	t->cpu_start = cpu_ns();
}

static void end(struct timing *t)
{
	t->cpu[t->rounds] = cpu_ns() - t->cpu_start;
	t->wall[t->rounds++] = inlay_monotonic_ns() - t->wall_start;
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static double us_per_file(int64_t *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, by_value);
	return (double)v[n / 2] / 1000 / (double)file_count;
}

static void report(const char *what, struct timing *t)
{
	double cpu = us_per_file(t->cpu, t->rounds), wall = us_per_file(t->wall, t->rounds);

	printf("%-34s %7.3f us CPU a file (best %.3f), %8.1f ms\n", what, cpu,
	       (double)t->cpu[0] / 1000 / (double)file_count, wall * (double)file_count / 1000);
}

static void make_files(int root)
{
	char text[4096];

	memset(text, 'x', sizeof text);
	for (size_t i = 0; i < file_count; i++) {
		char dir[64], name[128];
		(void)snprintf(dir, sizeof dir, "directory-%zu", i / per_dir);
		if (i % per_dir == 0 && mkdirat(root, dir, 0755) < 0)
			err(1, "mkdir");
		(void)snprintf(name, sizeof name, "%s/some-file-%zu.c", dir, i);
		int fd = openat(root, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		int n = snprintf(text, 64, "%zu\n", i);
		text[n] = ' ';
		if (fd < 0 || write(fd, text, 200 + i % 3000) < 0 || close(fd) < 0)
			err(1, "%s", name);
	}
}

static void bare_dir(int fd, size_t *count, int flags)
{
	static char buf[64 << 10];
	ssize_t n;

	(void)lseek(fd, 0, SEEK_SET);
	while ((n = getdents64(fd, buf, sizeof buf)) > 0) {
		for (ssize_t at = 0; at < n;) {
			struct dirent64 *d = (struct dirent64 *)(buf + at);
			struct statx st;
			at += d->d_reclen;
			if (d->d_name[0] == '.')
				continue;
			if (statx(fd, d->d_name, AT_SYMLINK_NOFOLLOW | flags, STATX_BASIC_STATS,
				  &st) < 0)
				err(1, "statx");
			++*count;
		}
	}
}

static void bare(int root, int flags)
{
	size_t count = 0;

	bare_dir(root, &count, flags);
	for (size_t i = 0; i * per_dir < file_count; i++) {
		char dir[64];
		(void)snprintf(dir, sizeof dir, "directory-%zu", i);
		int fd = openat(root, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		bare_dir(fd, &count, flags);
		(void)close(fd);
	}
}

static void read_all(int root, struct inlay_snapshot *s)
{
	static uint8_t buf[1 << 20];
	auto_free struct inlay_dirty *dirty = NULL;
	size_t count;

	check(inlay_snapshot_dirty(s, &dirty, &count, &e));
	for (size_t i = 0; i < count; i++) {
		struct inlay_digest id;
		uint64_t size;
		size_t got;
		int fd;
		check(inlay_dirty_open(&dirty[i], root, &fd, &size, &e));
		check(inlay_read_full(fd, buf, sizeof buf, &got, "file", &e));
		inlay_digest_of(buf, got, &id);
		check(inlay_dirty_settle(&dirty[i], fd, &id, &e));
		(void)close(fd);
	}
}

static void walks(int root, struct inlay_snapshot *old, unsigned threads, const char *what)
{
	const struct inlay_scan_options options = {.threads = threads};
	struct timing t = {0};

	for (int i = 0; i < ROUNDS; i++) {
		struct inlay_snapshot *s;
		begin(&t);
		check(inlay_scan_walk(root, &options, old, &s, &e));
		end(&t);
		if (inlay_snapshot_stats(s)->dirty != 0)
			errx(1, "%s is not clean", what);
		inlay_snapshot_unref(s);
	}
	report(what, &t);
}

static void whole_noop(int root)
{
	const struct inlay_scan_options options = {0};
	struct timing t = {0};

	for (int i = 0; i < ROUNDS; i++) {
		struct inlay_snapshot *old, *s;
		struct inlay_root tree;
		begin(&t);
		check(inlay_snapshot_load(root, ".inlay", 1, &old, &e));
		check(inlay_scan_walk(root, &options, old, &s, &e));
		check(inlay_snapshot_build(s, inlay_now_ns(), NULL, NULL, &tree, &e));
		check(inlay_snapshot_save(s, root, ".inlay", 1, &e));
		inlay_snapshot_unref(old);
		inlay_snapshot_unref(s);
		end(&t);
	}
	report("load, walk, build, save: no-op", &t);
}

static void one_edit(int root, struct inlay_snapshot *old)
{
	const struct inlay_scan_options options = {0};
	const char *paths[] = {"directory-0/some-file-7.c"};
	struct timing t = {0};

	for (int i = 0; i < ROUNDS; i++) {
		struct inlay_snapshot *s;
		struct inlay_root tree;
		int fd = openat(root, paths[0], O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, &i, sizeof i) < 0 || close(fd) < 0)
			err(1, "edit");
		begin(&t);
		check(inlay_scan_update(root, &options, old, paths, 1, &s, &e));
		read_all(root, s);
		check(inlay_snapshot_build(s, inlay_now_ns(), NULL, NULL, &tree, &e));
		end(&t);
		inlay_snapshot_unref(s);
	}
	qsort(t.wall, ROUNDS, sizeof *t.wall, by_value);
	printf("%-34s %7.1f us\n", "one edit: update, read, build",
	       (double)t.wall[ROUNDS / 2] / 1000);
}

static void measure(int root)
{
	const struct inlay_scan_options options = {0};
	struct timing bare_t = {0}, dont_sync = {0}, first = {0}, hash = {0}, build = {0},
		      save = {0}, load = {0};
	struct inlay_snapshot *s, *loaded;
	struct inlay_root tree;

	for (int i = 0; i < ROUNDS; i++) {
		begin(&bare_t);
		bare(root, 0);
		end(&bare_t);
		begin(&dont_sync);
		bare(root, AT_STATX_DONT_SYNC);
		end(&dont_sync);
	}
	report("bare", &bare_t);
	report("bare, AT_STATX_DONT_SYNC", &dont_sync);
	begin(&first);
	check(inlay_scan_walk(root, &options, NULL, &s, &e));
	end(&first);
	report("first walk", &first);
	begin(&hash);
	read_all(root, s);
	end(&hash);
	report("open, read, SHA-256 of all", &hash);
	begin(&build);
	check(inlay_snapshot_build(s, inlay_now_ns(), NULL, NULL, &tree, &e));
	end(&build);
	report("trees of all", &build);
	begin(&save);
	check(inlay_snapshot_save(s, root, ".inlay", 1, &e));
	end(&save);
	report("save", &save);
	for (int i = 0; i < ROUNDS; i++) {
		begin(&load);
		check(inlay_snapshot_load(root, ".inlay", 1, &loaded, &e));
		inlay_snapshot_unref(loaded);
		end(&load);
	}
	report("load", &load);
	struct stat st;
	if (fstatat(root, ".inlay", &st, 0) == 0)
		printf("%-34s %7.1f bytes a file\n", "stat cache",
		       (double)st.st_size / (double)file_count);
	walks(root, s, 1, "no-op walk, 1 thread");
	walks(root, s, 2, "no-op walk, 2 threads");
	whole_noop(root);
	check(inlay_snapshot_load(root, ".inlay", 1, &loaded, &e));
	one_edit(root, loaded);
	inlay_snapshot_unref(loaded);
	inlay_snapshot_unref(s);
}

int main(int argc, char **argv)
{
	char made[] = "/tmp/inlay-bench-XXXXXX";
	const char *dir = argc > 1 ? argv[1] : mkdtemp(made);

	if (argc > 2)
		file_count = strtoul(argv[2], NULL, 10);
	if (argc > 3)
		per_dir = strtoul(argv[3], NULL, 10);
	if (!dir || file_count == 0 || per_dir == 0)
		errx(1, "bench-scan [DIR [FILES [PER_DIRECTORY]]]");
	int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		err(1, "%s", dir);
	make_files(root);
	(void)sleep(3); /* what was just written is never clean */
	measure(root);
	if (argc < 2)
		check(inlay_remove_tree(AT_FDCWD, dir, &e));
	(void)close(root);
	return 0;
}
