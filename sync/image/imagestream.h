/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGESTREAM_H
#define IMAGE_IMAGESTREAM_H

/*
 * What is sent to hosts, encoded once for all that lack the same: a thread encodes into an unnamed file, and each
 * host's thread reads it as fast as its link is. A slow host delays no other, and memory stays bounded.
 */

#include <pthread.h>

#include "image/imageencode.h"

struct imagestream {
	struct imagestream *next;
	struct inlay_digest key; /* of what it is made of */
	struct imageencode encode;
	struct imageplan own_plan; /* when it belongs to this stream alone */
	uint8_t *had;
	int fd;
	pthread_t thread;
	pthread_mutex_t lock; /* what follows */
	pthread_cond_t moved;
	uint64_t written;
	bool ended;
	int result;
	struct inlay_error err;
};

struct imagestreams {
	struct inlay_store *store;
	struct inlay_trees *trees;
	int spool_fd; /* a directory for the unnamed files */
	pthread_mutex_t lock;
	struct imagestream *list;
	struct plan_kept {
		struct plan_kept *next;
		struct imageplan plan;
	} * plans;
};

void imagestreams_init(struct imagestreams *s, struct inlay_store *store, struct inlay_trees *trees,
		       int spool_fd);
/* Waits for the threads. */
void imagestreams_fini(struct imagestreams *s);

/* The plan from a basis (NULL = none) to a manifest; kept, and borrowed by the caller. Positive: IMAGEPLAN_MISSING. */
int imagestreams_plan(struct imagestreams *s, const struct inlay_digest *manifest,
		      const struct inlay_digest *basis, const struct imageplan **ret,
		      struct inlay_error *err) inlay_must_check;

/*
 * The stream of a plan without the items in `had` (taken over; NULL = none). The same one for all who ask for the
 * same. own: the plan's content is taken over, too; it has no trees then.
 */
int imagestreams_get(struct imagestreams *s, const struct imageplan *plan, uint8_t *had,
		     struct imageplan *own, struct imagestream **ret, bool *ret_shared,
		     struct inlay_error *err) inlay_must_check;

/* Up to `len` bytes from `at` on, waiting for them; 0 at the end. */
int imagestream_read(struct imagestream *s, uint64_t at, void *buf, size_t len, size_t *ret_n,
		     struct inlay_error *err) inlay_must_check;

#endif
