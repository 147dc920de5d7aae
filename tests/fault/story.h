/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_STORY_H
#define INLAY_TESTS_STORY_H

/*
 * One small life of a store, for tests in which something goes wrong in the middle of it: it is
 * opened, put into, published, swept, read, closed. Whatever happened, story_check_afterwards()
 * must hold.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/store.h"

enum {
	STORY_DEAD_FROM = 5, /* objects 0..4 belong to generation 1, 5..14 are not live */
	STORY_NEW_FROM = 15, /* 15..22 belong to generation 2 */
	STORY_MORE_FROM = 23,
	STORY_OBJECTS = 27,
	STORY_STEPS = 14,
	STORY_SHORT = 6, /* the steps up to publishing */
};

/* What is known to have happened; may be shared with a process that is going to be ended. */
struct story {
	bool published; /* generation 2 */
	bool more;      /* the objects after it are synced */
	struct inlay_store *store;
	int dir;
};

extern struct inlay_digest story_ids[STORY_OBJECTS];

/* Stores to begin with: "base" ended well, "torn" did not, "noindex" has a damaged index. */
void story_make_bases(int dir);
extern const char *const story_bases[3];

/* Step i, on the store "t": 0, or the error in `err`; can be done again when it failed. */
int story_step(struct story *s, size_t i);

int story_put(struct inlay_store *store, unsigned number);
bool story_has(struct inlay_store *store, unsigned number);
bool story_is_live(void *ctx, const struct inlay_digest *id);

/* Who only reads finds what was acknowledged before anything is repaired. With `whole` no object
 * that the index names may be damaged: the process ended, but nothing was lost. */
void story_check_reader(const struct story *s, bool whole);

/* "t" opens, verifies clean, has what was acknowledged, and the story can be told to its end. */
void story_check_afterwards(struct story *s);

#endif
