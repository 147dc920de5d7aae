/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_OBJINDEX_H
#define INLAY_STORE_OBJINDEX_H

/*
 * The index: which objects there are and where. A file of fixed entries that only grows, mapped by
 * every process, and a private open-addressing table of entry numbers over it.
 *
 *   - The newest entry of a digest counts; a `dropped` one says that the object is gone. So the
 *     table never forgets a digest, and nothing in the file is ever changed.
 *   - The file never shrinks and its entries do not change, so that a mapping of it stays valid.
 *     What has to go, goes with the whole file: a new one takes the name, and the old one gets a
 *     mark in its header that every process sees through its mapping. (One exception, for gc on a
 *     disk without any space: objindex_bury.)
 *   - Entries are checked when they are taken in and again each time one is used. A damaged entry
 *     that is followed by a good one is stepped over; damage at the end is not taken in: it may be
 *     an append that is going on.
 *
 * Entry numbers are positions in the file. No locks in here: functions that take a const index may
 * run at the same time, the others alone, except where it is said. The file belongs to one writer.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "store/layout.h"

#define OBJINDEX_MAX 0xfffffff0u /* entries of one file */

struct objindex_totals { /* over the objects that are there */
	uint64_t objects;
	uint64_t bytes;
	uint64_t loose;       /* of them loose */
	uint64_t loose_bytes; /* sizes of their files */
};

struct objindex {
	int fd; /* owned */
	struct index_head head;
	const uint8_t *map; /* the file, with room to grow */
	size_t map_bytes;
	uint64_t file_bytes; /* its size when it was last looked at */
	uint32_t count;      /* entries known: those in the file, then the pending ones */
	uint32_t filed;      /* of them in the file */
	uint32_t bad;        /* damaged entries that were stepped over */
	uint32_t first_bad;  /* the first of them */
	uint8_t *pending;    /* entries filed..count-1 */
	size_t pending_cap;  /* in entries */
	uint32_t *slots;     /* 0 = empty; about half of them are used */
	uint32_t slot_count;
	uint32_t used;
	unsigned number_bits; /* of a slot, for the entry's number */
	uint64_t seed; /* of the slots' order, so that nobody can choose digests that collide */
	struct objindex_totals totals;
};

/* Makes an index file without entries; the caller syncs it. *ret_fd belongs to the caller. */
int objindex_create(int dirfd, const char *name, const struct index_head *head, int *ret_fd,
		    struct inlay_error *err) inlay_must_check;

/* Maps the file and takes in its entries. `fd` belongs to the index when it is there. */
int objindex_open(int fd, struct objindex **ret_index, struct inlay_error *err) inlay_must_check;
void objindex_close(struct objindex *ix); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct objindex, objindex_close)

/* True when another file has taken the name of this one: seen in memory, costs nothing. */
bool objindex_replaced(const struct objindex *ix);

enum objindex_news { OBJINDEX_SAME, OBJINDEX_GREW, OBJINDEX_REPLACED };

/* What happened to the file since it was last looked at: one system call. */
enum objindex_news objindex_news(const struct objindex *ix);
/* Takes in what was appended. For readers: the writer knows what it appended. */
int objindex_catch_up(struct objindex *ix, struct inlay_error *err) inlay_must_check;
/* True when the file has bytes that are no good entry. */
bool objindex_damaged(const struct objindex *ix);

/* True and *ret when the object is there. *ret_number (may be NULL) is its entry. */
bool objindex_find(const struct objindex *ix, const struct inlay_digest *id, struct place *ret,
		   uint32_t *ret_number);
/* The same by the digest's first eight bytes. */
bool objindex_find_prefix(const struct objindex *ix, uint64_t prefix, struct inlay_digest *ret_id);
/* Entry n < count; false when it is damaged. */
bool objindex_entry(const struct objindex *ix, uint32_t n, struct place *ret);
/* True and *ret when entry n is the one that counts for its object and the object is there. */
bool objindex_current(const struct objindex *ix, uint32_t n, struct place *ret);

/* Adds a pending entry. On failure (-ENOMEM, -EFBIG) nothing has changed. */
int objindex_add(struct objindex *ix, const struct place *place, struct inlay_error *err)
	inlay_must_check;

/*
 * Writes the pending entries in three steps, so that readers are locked out only of the first and
 * the last: room in the mapping, the write itself (runs beside readers), taking them as filed. When
 * the write fails they stay pending and the file has whole entries only.
 */
int objindex_flush_begin(struct objindex *ix, struct inlay_error *err) inlay_must_check;
int objindex_flush_write(const struct objindex *ix, struct inlay_error *err) inlay_must_check;
void objindex_flush_end(struct objindex *ix);

/* Writes over entry n, which counts, the same entry as a dropped one: needs no space. A process
 * that reads it at this moment finds it damaged or dropped: missing in both cases. */
int objindex_bury(struct objindex *ix, uint32_t n, struct inlay_error *err) inlay_must_check;

/* Tells every process that the file has lost its name. */
void objindex_mark_replaced(const struct objindex *ix);

#endif
