/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DELTA_BASIS_H
#define DELTA_BASIS_H

/*
 * Old contents on the dev machine: what files had when they were read last. When one of them is edited, its
 * old content, which the target has too, is what the new one is compressed against.
 *
 * A cache, below the directory of a source: two stores, of which the younger takes what is put. When it
 * has reached half of the cap the older one goes, and the younger becomes the older. What is used from
 * the older one is put again into the younger, and an edit puts the file's new content anyway, so what
 * goes is what was not touched for the longest time.
 *
 * Of a content that is too large for that only the sums of its blocks are kept (delta/blocks.h), in a file of its own
 * below `blocks`, named by its id; of the latest BASIS_BLOCKS_FILES of them.
 *
 * All of it can be lost at any moment, so nothing here waits for a disk, and no failure is one of the
 * caller: what cannot be kept is not there. One process, which holds the lock of the source; any of its
 * threads, but contents in pieces come one at a time.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "delta/blocks.h"
#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/store.h"

#define BASIS_DEFAULT_BYTES (2ull << 30)

enum {
	/* A larger content is not kept: together with its successor it would exceed INLAY_DELTA_MAX. */
	BASIS_OBJECT_MAX = 64 << 20,
	BASIS_BLOCKS_FILES = 32,
	BASIS_DELTAS = 8,            /* that were made while the new content was read, ... */
	BASIS_DELTA_BYTES = 1 << 20, /* ... each of that size at most; in memory alone */
};

/* From one content to another one, in librsync's format. */
struct basis_delta {
	struct inlay_digest from, to;
	struct inlay_buf bytes;
	bool whole; /* it was made to its end */
};

struct basis {
	pthread_mutex_t lock; /* of all below */
	int dir;              /* borrowed */
	uint64_t cap;
	struct inlay_store *young, *old; /* NULL: not opened yet, or not there */
	bool opened, failed;
	struct inlay_store_put *put; /* of a content in pieces */
	struct blocks_maker making;  /* likewise, of a larger one */
	bool makes;
	struct blocks from; /* of the old content, while `delta` is made */
	struct blocks_delta *delta;
	struct basis_delta deltas[BASIS_DELTAS];
	unsigned next_delta; /* of deltas: the one that is made, or the next one */
};

/* $INLAY_BASIS_SIZE ("500M"; 0 = keep nothing), or BASIS_DEFAULT_BYTES. */
int basis_configured(uint64_t *ret, struct inlay_error *err) inlay_must_check;

/* Nothing is opened before it is needed. */
void basis_init(struct basis *b, int dir, uint64_t cap);
void basis_fini(struct basis *b);

bool basis_has(struct basis *b, const struct inlay_digest *id);
/* Appends the content; false when it is not there. What it gives has that id: the SHA-256 is checked. */
bool basis_get(struct basis *b, const struct inlay_digest *id, struct inlay_buf *to);

void basis_put(struct basis *b, const void *bytes, size_t len);
/* In pieces; its id comes with its end, NULL forgets it. `old` (may be NULL): what it takes the place of. */
void basis_put_begin(struct basis *b, uint64_t size, const struct inlay_digest *old);
void basis_put_bytes(struct basis *b, const void *bytes, size_t len);
void basis_put_end(struct basis *b, const struct inlay_digest *id);

/* The sums of a content's blocks; false when they are not there. */
bool basis_has_blocks(struct basis *b, const struct inlay_digest *id);
bool basis_get_blocks(struct basis *b, const struct inlay_digest *id, struct blocks *ret);

/* A delta that was made while `to` was put as the successor of `from`: appended, false when there is none. */
bool basis_get_delta(struct basis *b, const struct inlay_digest *from,
		     const struct inlay_digest *to, struct inlay_buf *ret);

#endif
