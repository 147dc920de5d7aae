/* SPDX-License-Identifier: Apache-2.0 */
#include "storekit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

struct inlay_error err;

int kit_setup(void **state)
{
	char name[] = "/tmp/inlay-test-XXXXXX";
	static int fd;

	if (!mkdtemp(name))
		return -1;
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &fd;
	return fd < 0 ? -1 : 0;
}

int kit_teardown(void **state)
{
	char path[64], name[256];
	int fd = kit_dir(state);

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, name, sizeof name - 1);
	(void)close(fd);
	if (n < 0)
		return -1;
	name[n] = 0;
	return inlay_remove_tree(AT_FDCWD, name, &err);
}

struct inlay_store *kit_open(int dir, const char *name, enum inlay_store_flags flags)
{
	struct inlay_store *store = NULL;

	assert_ok(inlay_store_open(dir, name, flags, &store, &err));
	return store;
}

uint64_t kit_seed(uint64_t seed)
{
	const char *text = getenv("INLAY_SEED");

	if (text)
		seed = strtoull(text, NULL, 0);
	print_message("seed %llu\n", (unsigned long long)seed);
	return seed ? seed : 1;
}

uint64_t kit_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 0x2545f4914f6cdd1dull;
}

uint8_t *kit_bytes(uint64_t number, size_t size)
{
	uint8_t *bytes = malloc(size + 8);
	uint64_t seed = number * 2654435761u + 88172645463325252ull;

	assert_non_null(bytes);
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = kit_random(&seed);
		memcpy(bytes + i, &v, sizeof v);
	}
	return bytes;
}

struct inlay_digest kit_id(uint64_t number, size_t size)
{
	auto_free uint8_t *bytes = kit_bytes(number, size);
	struct inlay_digest id;

	inlay_digest_of(bytes, size, &id);
	return id;
}

struct inlay_digest kit_put(struct inlay_store *store, uint64_t number, size_t size)
{
	auto_free uint8_t *bytes = kit_bytes(number, size);
	struct inlay_digest id, want;

	assert_ok(inlay_store_put(store, bytes, size, &id, &err));
	inlay_digest_of(bytes, size, &want);
	assert_memory_equal(&id, &want, sizeof id);
	return id;
}

bool kit_has(struct inlay_store *store, uint64_t number, size_t size, bool damaged)
{
	auto_free uint8_t *bytes = kit_bytes(number, size);
	auto_buf struct inlay_buf b = {0};
	struct inlay_digest id;

	inlay_digest_of(bytes, size, &id);
	int r = inlay_store_get(store, &id, size, 0, &b, &err);
	if (r == INLAY_STORE_MISSING || (damaged && r == -EBADMSG))
		return false;
	assert_ok(r);
	assert_int_equal(b.len, size);
	assert_memory_equal(b.data, bytes, size);
	return true;
}

void kit_publish(struct inlay_store *store, uint64_t number)
{
	struct inlay_generation gen = {.number = number, .parent = number - 1, .origin = "kit"};

	assert_ok(inlay_store_sync(store, &err));
	assert_ok(inlay_store_publish(store, "w", &gen, 5, number, &err));
}

/* ---- verify ---- */

struct finding_ctx {
	struct kit_findings f;
	bool quiet;
};

static void found(void *p, const struct inlay_digest *id, const char *what)
{
	struct finding_ctx *ctx = p;

	ctx->f.count++;
	ctx->f.with_id += id != NULL;
	if (id)
		ctx->f.last_id = *id;
	(void)snprintf(ctx->f.last, sizeof ctx->f.last, "%s", what);
	if (!ctx->quiet)
		print_error("finding: %s\n", what);
}

struct kit_findings kit_verify(struct inlay_store *store, bool quiet)
{
	struct finding_ctx ctx = {.quiet = quiet};
	struct inlay_store_check check;

	assert_ok(inlay_store_verify(store, found, NULL, &ctx, &check, &err));
	assert_int_equal(check.bad, ctx.f.count);
	return ctx.f;
}

/* ---- files ---- */

uint64_t kit_size(int dir, const char *path)
{
	struct stat st;

	assert_int_equal(fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW), 0);
	return (uint64_t)st.st_size;
}

bool kit_exists(int dir, const char *path)
{
	return faccessat(dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

uint8_t *kit_read(int dir, const char *path, size_t *ret_len)
{
	auto_close int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	size_t size = (size_t)kit_size(dir, path);
	uint8_t *bytes = malloc(size + 1);

	assert_true(fd >= 0);
	assert_non_null(bytes);
	assert_ok(inlay_read_full(fd, bytes, size, ret_len, path, &err));
	assert_int_equal(*ret_len, size);
	return bytes;
}

void kit_write(int dir, const char *path, const void *bytes, size_t len)
{
	auto_close int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_ok(inlay_write_all(fd, bytes, len, path, &err));
}

void kit_flip(int dir, const char *path, uint64_t bit)
{
	auto_close int fd = openat(dir, path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
	byte ^= (uint8_t)(1u << (bit % 8));
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
}

void kit_truncate(int dir, const char *path, uint64_t bytes)
{
	auto_close int fd = openat(dir, path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
}

static void collect(int dir, const char *prefix, struct kit_files *f)
{
	int fd = openat(dir, *prefix ? prefix : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	DIR *d = fdopendir(fd);
	assert_non_null(d);
	struct dirent *e;
	while ((e = readdir(d)) != NULL) {
		char path[600];
		struct stat st;
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		(void)snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "/" : "", e->d_name);
		assert_int_equal(fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW), 0);
		if (S_ISDIR(st.st_mode)) {
			collect(dir, path, f);
			continue;
		}
		f->paths = realloc(f->paths, (f->count + 1) * sizeof *f->paths);
		assert_non_null(f->paths);
		f->paths[f->count++] = strdup(path);
	}
	(void)closedir(d);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct kit_files kit_files(int dir, const char *name)
{
	struct kit_files f = {0};
	auto_close int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	collect(fd, "", &f);
	if (f.count > 0)
		qsort(f.paths, f.count, sizeof *f.paths, by_text);
	return f;
}

void kit_files_free(struct kit_files *f)
{
	for (size_t i = 0; i < f->count; i++)
		free(f->paths[i]);
	free(f->paths);
	*f = (struct kit_files){0};
}

void kit_assert_no_leftovers(int dir, const char *name)
{
	struct kit_files f = kit_files(dir, name);

	for (size_t i = 0; i < f.count; i++) {
		const char *slash = strrchr(f.paths[i], '/');
		if ((slash ? slash + 1 : f.paths[i])[0] == '.')
			fail_msg("left over: %s", f.paths[i]);
	}
	kit_files_free(&f);
}

void kit_copy_tree(int from, const char *from_name, int to, const char *to_name)
{
	struct kit_files f = kit_files(from, from_name);
	auto_close int in = openat(from, from_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int out;

	assert_ok(inlay_remove_tree(to, to_name, &err));
	assert_ok(inlay_open_dir(to, to_name, 0700, &out, &err));
	static const char *const dirs[] = {"packs", "loose", "refs"};
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(mkdirat(out, dirs[i], 0700), 0);
	for (size_t i = 0; i < f.count; i++) {
		size_t len;
		auto_free uint8_t *bytes = kit_read(in, f.paths[i], &len);
		auto_free char *parent = strdup(f.paths[i]);
		char *slash = strrchr(parent, '/');
		if (slash) {
			*slash = 0;
			(void)mkdirat(out, parent, 0700);
		}
		kit_write(out, f.paths[i], bytes, len);
	}
	close(out);
	kit_files_free(&f);
}

size_t kit_open_fds(void)
{
	size_t n = 0;
	DIR *d = opendir("/proc/self/fd");

	assert_non_null(d);
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n;
}
