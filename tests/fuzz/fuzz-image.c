/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole import: any bytes are refused or become a tree that is complete.
 *
 *     flags | an archive                                                  as it comes from a user
 *     flags | layers | blocks of each but the last (2 bytes) | the tars   LAYERS: one over the other
 *
 * With RIGHT_SUMS the checksums of tar headers are made right first, or else few mutations get past
 * them. Digests cannot be, which is why layers also come without an image around them.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image/layer.h"
#include "image/plant.h"
#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/image.h"
#include "inlay/io.h"

enum { RIGHT_SUMS = 1, LAYERS = 2, BLOCK = 512, LAYERS_MAX = 4, RENEW_AFTER = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char scratch_name[64];
static int scratch = -1;
static struct inlay_store *store;
static struct inlay_trees *trees;

static void close_store(void)
{
	inlay_trees_free(take_ptr(trees));
	inlay_store_close(take_ptr(store));
	if (scratch_name[0])
		(void)!inlay_remove_tree(AT_FDCWD, scratch_name, NULL);
	inlay_cleanup_close(&scratch);
}

/* Every now and then a new one, so that a campaign does not fill the memory. */
static void open_store(void)
{
	static unsigned uses;

	if (store && uses++ % RENEW_AFTER != 0)
		return;
	if (!scratch_name[0])
		(void)atexit(close_store);
	close_store();
	(void)snprintf(scratch_name, sizeof scratch_name, "%s/inlay-fuzz-XXXXXX",
		       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(scratch_name) ||
	    inlay_open_dir(AT_FDCWD, scratch_name, 0700, &scratch, NULL) < 0 ||
	    inlay_store_open(scratch, "store", INLAY_STORE_CREATE | INLAY_STORE_WRITE, &store,
			     NULL) != 0 ||
	    inlay_trees_new(store, 1 << 20, &trees, NULL) < 0)
		abort();
}

static void right_sums(uint8_t *bytes, size_t size)
{
	for (size_t at = 0; at + BLOCK <= size; at += BLOCK) {
		uint8_t *h = bytes + at;
		unsigned sum = 0;
		char text[9];
		if (memcmp(h + 257, "ustar", 5) != 0)
			continue;
		memset(h + 148, ' ', 8);
		for (size_t i = 0; i < BLOCK; i++)
			sum += h[i];
		(void)snprintf(text, sizeof text, "%06o", sum);
		memcpy(h + 148, text, 7);
	}
}

/* Nothing that was accepted may lack anything. */
static int present(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		   struct inlay_error *e)
{
	(void)ctx;
	(void)is_tree;
	(void)size;
	(void)e;
	if (!inlay_store_has(store, id))
		abort();
	return 0;
}

static void check_tree(const struct inlay_digest *id)
{
	if (inlay_tree_reach(trees, id, present, NULL, NULL, NULL) != 0)
		abort();
}

static int memory_file(const uint8_t *bytes, size_t size)
{
	int fd = memfd_create("archive", MFD_CLOEXEC);

	if (fd < 0 || inlay_write_all(fd, bytes, size, "the archive", NULL) < 0)
		err(1, "memfd");
	return fd;
}

static void whole(const uint8_t *bytes, size_t size)
{
	auto_close int fd = memory_file(bytes, size);
	struct inlay_image_imported done;
	struct inlay_error e = {0};
	char path[64];

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	struct inlay_image_import o = {.path = path, .name = "x", .spool = scratch_name};
	int r = inlay_image_read(store, &o, &done, &e);
	if (r > 0 || (r < 0 && !e.text[0]))
		abort();
	if (r == 0)
		check_tree(&done.image.generation.root.tree);
}

static int apply(struct layer_reader *l, const uint8_t *bytes, size_t size, struct inlay_error *e)
{
	auto_close int fd = memory_file(bytes, size);
	auto_of(feed_close) struct feed *feed = NULL;
	int r = feed_open(fd, 0, size, FEED_HASH, &feed, e);

	return r < 0 ? r : layer_apply(l, feed, size, true, e);
}

static void layers(const uint8_t *bytes, size_t size)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, size);
	auto_of(merge_free) struct merge *m = NULL;
	unsigned count = inlay_cursor_u8(&c) % LAYERS_MAX + 1;
	struct layer_reader l;
	struct inlay_error e = {0};
	struct inlay_entry root;
	size_t lens[LAYERS_MAX];

	for (unsigned i = 0; i + 1 < count; i++)
		lens[i] = (size_t)inlay_cursor_u16(&c) * BLOCK;
	if (merge_new(&m, &e) < 0 || layer_reader_init(&l, store, m, &e) < 0)
		abort();
	int r = 0;
	for (unsigned i = 0; r == 0 && i < count; i++) {
		size_t len = i + 1 < count && lens[i] < c.left ? lens[i] : c.left;
		const uint8_t *at = inlay_cursor_bytes(&c, len);
		if (i > 0)
			merge_next_layer(m);
		r = at ? apply(&l, at, len, &e) : -EINVAL;
	}
	if (r == 0 && plant(m, store, &root, &e) == 0)
		check_tree(&root.id);
	layer_reader_fini(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	auto_free uint8_t *copy = malloc(size);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	open_store();
	if (data[0] & RIGHT_SUMS)
		right_sums(copy + 1, size - 1);
	if (data[0] & LAYERS)
		layers(copy + 1, size - 1);
	else
		whole(copy + 1, size - 1);
	return 0;
}
