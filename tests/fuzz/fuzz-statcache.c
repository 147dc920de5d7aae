/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stat cache of any bytes. What only says "this was damaged" (length, key, checksum) is put right
 * first, so that the rest is reached. A snapshot that is given is used as one is: as the basis of a
 * walk, for its dirty files, for a search, and saved again.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "scan/cachefile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { KEY = 77, REGION = 1 << 20, PAGE = 4096 };

static char folder_name[] = "/tmp/inlay-fuzz-XXXXXX";

static void remove_folder(void)
{
	(void)!inlay_remove_tree(AT_FDCWD, folder_name, NULL);
}

/* A folder with the names of the corpus, so that entries find something to be compared with. */
static int folder(void)
{
	static int fd = -1;
	static const char *const files[] = {"a", "d/b", "d/.gitignore"};

	if (fd >= 0)
		return fd;
	if (!mkdtemp(folder_name) || atexit(remove_folder) != 0)
		abort();
	fd = open(folder_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || mkdirat(fd, "d", 0755) < 0 || symlinkat("a", fd, "l") < 0)
		abort();
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		int f = openat(fd, files[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (f < 0 || close(f) < 0)
			abort();
	}
	return fd;
}

/* The bytes end at a page that cannot be read. */
static uint8_t *place(const uint8_t *data, size_t len)
{
	static uint8_t *region;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (region ? MAP_FIXED : 0);

	/* Anew each time: a mapping that starts at a page was given up with its snapshot. */
	region = mmap(region, REGION + PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (region == MAP_FAILED || mprotect(region + REGION, PAGE, PROT_NONE) < 0)
		abort();
	uint8_t *at = region + REGION - len;
	memcpy(at, data, len);
	return at;
}

static void use(struct inlay_snapshot *old)
{
	static const struct inlay_scan_options options = {.threads = 1};
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = NULL;
	auto_free struct inlay_dirty *dirty = NULL;
	struct inlay_error e = {0};
	struct inlay_digest id = {{0}};
	struct inlay_dirty found;
	struct inlay_root root;
	size_t count;

	if (!inlay_snapshot_root(old, &root))
		abort();
	if (inlay_snapshot_find(old, &id, &found)) {
		auto_buf struct inlay_buf path = {0};
		inlay_dirty_path(&found, &path);
	}
	if (inlay_snapshot_dirty(old, &dirty, &count, NULL) != 0 || count != 0)
		abort();
	if (inlay_snapshot_save(old, folder(), ".inlay", KEY, &e) != 0)
		abort();
	if (inlay_scan_walk(folder(), &options, old, &s, &e) != 0)
		abort();
	free(take_ptr(dirty));
	if (inlay_snapshot_dirty(s, &dirty, &count, NULL) != 0)
		abort();
	for (size_t i = 0; i < count; i++) {
		uint64_t size;
		int fd;
		if (inlay_dirty_open(&dirty[i], folder(), &fd, &size, &e) != 0 ||
		    inlay_dirty_settle(&dirty[i], fd, &id, &e) != 0)
			abort();
		close(fd);
	}
	if (inlay_snapshot_build(s, 1, NULL, NULL, &root, &e) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cache_header h;

	len -= len % CACHE_ALIGN; /* mappings start at a page; here their end does */
	if (len < sizeof h || len > REGION)
		return 0;
	uint8_t *map = place(data, len);
	if (!map)
		abort();
	memcpy(&h, map, sizeof h);
	memcpy(h.magic, CACHE_MAGIC, sizeof h.magic);
	h.version = CACHE_VERSION;
	h.byte_order = CACHE_BYTE_ORDER;
	h.len = len;
	h.key = KEY;
	memcpy(map, &h, sizeof h);
	size_t from = offsetof(struct cache_header, version);
	h.checksum = inlay_xxh3(map + from, len - from);
	memcpy(map, &h, sizeof h);
	struct inlay_snapshot *s = NULL;
	int r = scan_cache_decode(map, len, KEY, &s, NULL);
	if (r == 0)
		use(s);
	else if (r != INLAY_SNAPSHOT_NONE)
		abort();
	inlay_snapshot_unref(s);
	return 0;
}
