/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_ENCODED_H
#define SESSION_ENCODED_H

/*
 * Bytes that are encoded once and sent to many hosts: an object stream (wire/objects.h) that leads from one state to
 * another. The first who asks for it makes it, without a thought of any connection; the others take what it made,
 * and all of them send it at their own pace. Immutable once it is made; the memory goes with the last who holds it,
 * but for a few that may be asked for again. The beginning is kept in memory, the rest in a file without a name.
 *
 *     r = encodings_get(all, &key, &e, &err);
 *     if (r == ENCODED_MAKE) {
 *             encoded_begin(e, about, free_about);   // once: what is known of it before its bytes
 *             encoded_append(e, bytes, len, &err);   // again and again
 *             encoded_end(e, good);                  // always
 *     }
 *     r = encoded_await(e);                          // 0, or ENCODED_FAILED: everybody does his own
 *     while ((r = encoded_read(e, at, room, size, 20 ms, &n)) != ENCODED_END) ...
 *     encoded_unref(e);
 *
 * Such a stream must stand for itself: whole zstd frames (objects_out.apart), and numbers from 0 on.
 * Thread-safe.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/error.h"

enum {
	ENCODED_MEMORY = 4 << 20, /* of one; what is longer is sent while it is made */
	ENCODED_KEPT = 4,         /* that nobody holds */
};

struct encoded_key {
	struct inlay_digest from, to; /* zeros: from nothing */
	int64_t level;                /* zstd's */
};

struct encoded;

struct encodings {
	pthread_mutex_t lock;   /* all below, and what is in them */
	pthread_cond_t changed; /* some of them has more, or ended */
	struct encoded *newest; /* a list */
	int dir;                /* where files without a name are made; borrowed */
	bool ending;            /* what is being made fails */
	uint64_t made, taken;   /* for figures: how many were made, and taken from others */
};

void encodings_init(struct encodings *all, int dir);
/* Nobody holds any of them any more. */
void encodings_fini(struct encodings *all);
/* What is being made ends soon, as a failure. */
void encodings_stop(struct encodings *all);

/* Positive results. */
enum {
	ENCODED_MAKE = 1,   /* get: the caller makes it */
	ENCODED_FAILED = 2, /* it was not made to its end */
	ENCODED_END = 3,    /* read: that was all */
	ENCODED_SLOW = 4,   /* read: nothing more came in that time */
};

int encodings_get(struct encodings *all, const struct encoded_key *key, struct encoded **ret,
		  struct inlay_error *err) inlay_must_check;
void encoded_unref(struct encoded *e); /* accepts NULL */

/* ---- whoever makes it ---- */

/* `about` is freed with it. What the maker still writes to it is there for those to whom encoded_read said END. */
void encoded_begin(struct encoded *e, void *about, void (*free_about)(void *about));
/* -ECANCELED after encodings_stop. */
int encoded_append(struct encoded *e, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
void encoded_end(struct encoded *e, bool good);

/* ---- everybody ---- */

/* Waits until it is made, or is longer than ENCODED_MEMORY: then it can be sent. Positive: FAILED. */
int encoded_await(struct encoded *e) inlay_must_check;
/* What was told with encoded_begin; NULL = nothing. Valid after encoded_await, also when it failed. */
void *encoded_about(const struct encoded *e);
/* Some bytes from a place on. Positive: END, SLOW, FAILED. */
int encoded_read(struct encoded *e, uint64_t at, void *room, size_t size, int64_t patience_ns,
		 size_t *ret, struct inlay_error *err) inlay_must_check;

#endif
