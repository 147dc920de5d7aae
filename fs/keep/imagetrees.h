/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_IMAGETREES_H
#define KEEP_IMAGETREES_H

/*
 * What the parts of inlay/imagetree.h share: imagetrees.c (what is there), imagepool.c (contents on their way),
 * imagelay.c (the tree), imagearch.c (whose programs run here).
 */

#include <pthread.h>

#include "inlay/imagetree.h"

#define IMAGETREES_POOL   ".incoming"
#define IMAGETREES_LAYING ".laying"

enum { IMAGETREES_OWNER = 256 };

struct inlay_imagetrees {
	int fd; /* <state>/images; fixed */
	struct inlay_store *store;
	struct inlay_trees *trees;
	pthread_mutex_t lock; /* what follows */
	pthread_cond_t free;  /* busy became false */
	bool busy; /* a push, a removal or gc is under way: .incoming and .laying are its */
	char owner[IMAGETREES_OWNER];
};

/* One content that is in a tree or in the pool. */
struct imagepush_place {
	int64_t tree; /* index into trees; -1 = in the pool */
	size_t path;  /* offset in paths */
	uint64_t size;
};

struct inlay_imagepush {
	struct inlay_imagetrees *t;
	struct inlay_imagepush_options o;
	int pool; /* .incoming */
	struct inlay_imagetree *held;
	size_t held_count;
	size_t like; /* the one that the new tree is linked from: the basis, else the same image as it is */
	struct inlay_idset here; /* numbers are indexes into places */
	struct imagepush_place *places;
	size_t place_cap;
	struct inlay_buf paths; /* with NULs */
	bool full;              /* the disk was: what came goes, so that it is not left so */
	bool done;              /* published: what came is in the tree */
	/* the content at hand */
	int part; /* -1: it is small, or there is none */
	struct inlay_hasher hasher;
	struct inlay_buf small;
	uint64_t size, got;
};

bool imagetrees_same_key(const struct inlay_image_key *a, const struct inlay_image_key *b);

/* Takes the right to change; gives it back. Positive: BUSY. */
int imagetrees_take(struct inlay_imagetrees *t, const char *owner, int64_t wait_ns,
		    struct inlay_error *err) inlay_must_check;
void imagetrees_give(struct inlay_imagetrees *t);

/* With that right: removes trees that no ref names and nobody uses. */
int imagetrees_prune(struct inlay_imagetrees *t, struct inlay_error *err) inlay_must_check;

/* Opens a content that is here. Positive: MISSING, somebody took it away. */
int imagepush_open(struct inlay_imagepush *p, int64_t number, int *ret_fd, struct inlay_error *err)
	inlay_must_check;
/* 0: programs of the platform run here. -ENOEXEC, exit code 4. */
int imagearch_check(const char *platform, bool emulate, struct inlay_error *err) inlay_must_check;

#endif
