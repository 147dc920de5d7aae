/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_CACHEFILE_H
#define SCAN_CACHEFILE_H

/*
 * The stat cache on disk: a snapshot without pointers, used where it is mapped.
 *
 *     header | directories | leaf ids | blocks | for each block: entries, owners, hashes, heap
 *
 * Directories stand level by level, so those in one directory follow each other, and each comes after
 * the one that it lies in. The numbers are those of the machine (a cache never leaves it); a file of
 * another byte order or version is as good as none. What follows from the entries (sums, totals) is
 * not stored.
 */

#include <stdint.h>

#include "inlay/digest.h"
#include "inlay/error.h"
#include "scan/snapshot.h"

enum {
	CACHE_VERSION = 1,
	CACHE_BYTE_ORDER = 0x01020304,
	CACHE_ALIGN = 8,
};

#define CACHE_MAGIC "iSTATS\n"

struct cache_header {
	char magic[8];
	uint64_t checksum; /* XXH3 of all bytes behind it */
	uint32_t version;
	uint32_t byte_order;
	uint64_t len; /* of the file */
	uint64_t key;
	uint64_t dev, ino; /* of the folder */
	uint32_t mode;     /* of the folder, 07777 */
	uint32_t owners;   /* 1: entries have owners */
	uint32_t dir_count;
	uint32_t leaf_count;
	uint32_t block_count;
	uint32_t unused; /* 0 */
};

struct cache_dir {
	struct inlay_digest tree;
	uint64_t rules;
	int64_t mtime_ns;
	uint32_t first_block;
	uint32_t first_child; /* of the directories directly in it */
	uint32_t first_leaf;  /* split: 1 << bits ids */
	uint32_t ignored;
	uint8_t bits;
	uint8_t rule_files;
	uint8_t unused[6]; /* 0 */
};

struct cache_block {
	uint64_t off; /* of its entries in the file, a multiple of CACHE_ALIGN */
	int64_t seen_ns;
	uint32_t count;
	uint32_t heap_len;
};

/* What a block takes in the file, without what aligns the next one. */
static inline uint64_t cache_block_bytes(uint32_t count, uint32_t heap_len, bool owners)
{
	uint64_t each = sizeof(struct scan_entry) + sizeof(uint32_t) +
			(owners ? sizeof(struct scan_owner) : 0);

	return count * each + heap_len;
}

/* Makes a snapshot from a mapping, which it takes over when it succeeds. INLAY_SNAPSHOT_NONE when
 * anything in it is not as it was written. */
int scan_cache_decode(void *map, size_t len, uint64_t key, struct inlay_snapshot **ret,
		      struct inlay_error *err);

#endif
