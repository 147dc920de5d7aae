/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Power cuts, played. The process ends at each call of the story; then whatever was not synced by
 * that time is lost in a random way: bytes after the last fdatasync of a file become zeros, rubbish
 * or nothing, block by block; names that were given, exchanged or removed since the last fsync of
 * their directory go back, each for itself. What was acknowledged must be there.
 */
#include "storekit.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "story.h"

enum {
	FILES_MAX = 400,
	NAMES_MAX = 400,
	CUTS = 4, /* ways in which each moment is played */
};

enum change { GIVEN, EXCHANGED, REMOVED };

/* What the disk knows; shared with the process that ends. */
static struct disk {
	int backup; /* directory in which old files are kept */
	size_t file_count;
	struct {
		ino_t ino;
		off_t synced; /* bytes that are on the disk */
	} files[FILES_MAX];
	char mark[64]; /* what the lock file said when it was synced: it is written in place */
	size_t mark_len;
	size_t name_count;
	struct {
		enum change what;
		bool pending;
		ino_t dir;
		int old; /* name of the old file in the backup; -1 = there was none */
		char path[200];
	} names[NAMES_MAX];
} * disk;

static ino_t inode_of(int fd, off_t *ret_size)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	if (ret_size)
		*ret_size = st.st_size;
	return st.st_ino;
}

static void path_of(int dirfd, const char *name, char *ret, size_t size)
{
	char self[40], dir[150];

	(void)snprintf(self, sizeof self, "/proc/self/fd/%d", dirfd);
	ssize_t n = readlink(self, dir, sizeof dir - 1);
	assert_true(n > 0);
	dir[n] = 0;
	assert_true(snprintf(ret, size, "%s/%s", dir, name) < (int)size);
}

static void note(enum change what, int dirfd, const char *name, int old)
{
	char parent[200];
	struct stat st;

	assert_true(disk->name_count < NAMES_MAX);
	size_t i = disk->name_count;
	path_of(dirfd, name, disk->names[i].path, sizeof disk->names[i].path);
	(void)snprintf(parent, sizeof parent, "%s", disk->names[i].path);
	*strrchr(parent, '/') = 0;
	assert_int_equal(stat(parent, &st), 0);
	disk->names[i].what = what;
	disk->names[i].pending = true;
	disk->names[i].dir = st.st_ino;
	disk->names[i].old = old;
	disk->name_count++;
}

/* Keeps the file that has the name; -1 when there is none. */
static int keep_old(int dirfd, const char *name)
{
	static int next;
	char backup[20];

	(void)snprintf(backup, sizeof backup, "%d.%d", (int)getpid(), next);
	/* Straight to the kernel: these are not the store's calls. */
	if (syscall(SYS_linkat, dirfd, name, disk->backup, backup, 0) < 0)
		return -1;
	return next++;
}

static void before_rename(int dirfd, const char *from, const char *to)
{
	note(REMOVED, dirfd, from, keep_old(dirfd, from));
	note(EXCHANGED, dirfd, to, keep_old(dirfd, to));
}

static void before_unlink(int dirfd, const char *name)
{
	note(REMOVED, dirfd, name, keep_old(dirfd, name));
}

static void named(int dirfd, const char *name)
{
	note(GIVEN, dirfd, name, -1);
}

static void keep_mark(int fd, off_t size)
{
	char text[sizeof disk->mark];

	if (size != 45 || pread(fd, text, sizeof text, 0) != size || text[44] != '\n')
		return;
	memcpy(disk->mark, text, sizeof text);
	disk->mark_len = (size_t)size;
}

static void synced(int fd)
{
	off_t size;
	ino_t ino = inode_of(fd, &size);
	size_t i = 0;

	keep_mark(fd, size);

	for (size_t n = 0; n < disk->name_count; n++)
		if (disk->names[n].dir == ino)
			disk->names[n].pending = false;
	while (i < disk->file_count && disk->files[i].ino != ino)
		i++;
	assert_true(i < FILES_MAX);
	disk->files[i].ino = ino;
	disk->files[i].synced = size;
	if (i == disk->file_count)
		disk->file_count++;
}

static void all_synced(void)
{
	struct kit_files f;

	for (size_t n = 0; n < disk->name_count; n++)
		disk->names[n].pending = false;
	auto_close int dir = openat(disk->backup, "../t", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f = kit_files(dir, ".");
	for (size_t i = 0; i < f.count; i++) {
		auto_close int fd = openat(dir, f.paths[i], O_RDONLY | O_CLOEXEC);
		synced(fd);
	}
	kit_files_free(&f);
}

/* ---- the cut ---- */

static void go_back(size_t n, pid_t pid)
{
	const char *path = disk->names[n].path;
	char backup[20];

	(void)snprintf(backup, sizeof backup, "%d.%d", (int)pid, disk->names[n].old);
	if (disk->names[n].what != REMOVED && unlink(path) < 0)
		(void)!inlay_remove_tree(AT_FDCWD, path, &err);
	if (disk->names[n].old >= 0)
		(void)linkat(disk->backup, backup, AT_FDCWD, path, 0);
}

static void lose_names(pid_t pid, uint64_t *seed, bool all)
{
	for (size_t n = disk->name_count; n-- > 0;)
		if (disk->names[n].pending && (all || kit_random(seed) % 2))
			go_back(n, pid);
}

static void lose_bytes(int dir, const char *path, uint64_t *seed, bool all)
{
	auto_close int fd = openat(dir, path, O_RDWR | O_CLOEXEC);
	uint8_t block[4096];
	off_t size, from = 0;
	ino_t ino = inode_of(fd, &size);
	uint64_t way = all ? 1 : kit_random(seed) % 4;

	for (size_t i = 0; i < disk->file_count; i++)
		if (disk->files[i].ino == ino)
			from = disk->files[i].synced;
	if (from >= size || way == 0)
		return;
	if (way == 1) {
		off_t keep = all ? 0 : (off_t)(kit_random(seed) % (uint64_t)(size - from));
		assert_int_equal(ftruncate(fd, from + keep), 0);
		return;
	}
	for (off_t at = from; at < size; at = (at / 4096 + 1) * 4096) {
		off_t end = (at / 4096 + 1) * 4096 < size ? (at / 4096 + 1) * 4096 : size;
		if (kit_random(seed) % 2)
			continue;
		for (size_t i = 0; i < sizeof block; i++)
			block[i] = way == 2 ? 0 : (uint8_t)kit_random(seed);
		assert_true(pwrite(fd, block, (size_t)(end - at), at) > 0);
	}
}

/* The mark goes back, or not; what "flushed" says is not worth anything any more. */
static void boot(int dir, uint64_t *seed)
{
	size_t len;

	if (disk->mark_len > 0 && kit_random(seed) % 2)
		kit_write(dir, "t/lock", disk->mark, disk->mark_len);
	auto_free uint8_t *mark = kit_read(dir, "t/lock", &len);
	if (len > 20) {
		mark[20] = mark[20] == 'a' ? 'b' : 'a';
		kit_write(dir, "t/lock", mark, len);
	}
}

static void cut_power(int dir, pid_t pid, uint64_t *seed, bool all)
{
	lose_names(pid, seed, all);
	struct kit_files f = kit_files(dir, "t");
	auto_close int t = openat(dir, "t", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < f.count; i++)
		lose_bytes(t, f.paths[i], seed, all);
	kit_files_free(&f);
	boot(dir, seed);
}

static void set_hooks(bool on)
{
	fault_hooks = on ? (struct fault_hooks){.before_rename = before_rename,
						.before_unlink = before_unlink,
						.named = named,
						.synced = synced,
						.all_synced = all_synced}
			 : (struct fault_hooks){0};
}

static bool tell_and_cut(int dir, size_t base, uint64_t n, int way, struct story *shared,
			 uint64_t *seed)
{
	int status;

	*shared = (struct story){.dir = dir};
	kit_copy_tree(dir, story_bases[base], dir, "t");
	disk->file_count = disk->name_count = disk->mark_len = 0;
	all_synced();
	pid_t child = fork();
	if (child == 0) {
		set_hooks(true);
		fault_no_tmpfile = way == 3;
		fault_arm(FAULT_KILL, FAULT_WRITE | FAULT_SYNC | FAULT_NAME, n, 0);
		for (size_t i = 0; i < (base == 0 ? STORY_STEPS : STORY_SHORT); i++)
			if (story_step(shared, i) != 0)
				_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FAULT_EXIT);
	cut_power(dir, child, seed, way == 0);
	/* From the sweep on objects are moved: of those a new place may be on the disk without the
	 * bytes, which only a repair takes back. */
	if ((base == 0 || shared->published) && !shared->more)
		story_check_reader(shared, false);
	story_check_afterwards(shared);
	return WEXITSTATUS(status) == FAULT_EXIT;
}

static void acknowledged_survives_power_cuts(void **state)
{
	int dir = kit_dir(state);
	uint64_t seed = kit_seed(20231105), cuts = 0;
	struct story *shared = mmap(NULL, sizeof *shared + sizeof *disk, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(shared != MAP_FAILED);
	disk = (struct disk *)(shared + 1);
	assert_ok(inlay_open_dir(dir, "backup", 0700, &disk->backup, &err));
	story_make_bases(dir);
	for (size_t base = 0; base < 3; base++) {
		bool more = true;
		for (uint64_t n = 0; more; n++)
			for (int way = 0; way < CUTS; way++, cuts++)
				more = tell_and_cut(dir, base, n, way, shared, &seed);
	}
	print_message("%llu power cuts\n", (unsigned long long)cuts);
	assert_true(cuts > 300);
	close(disk->backup);
	(void)munmap(shared, sizeof *shared + sizeof *disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(acknowledged_survives_power_cuts, kit_setup,
						kit_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
