/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_IMAGETREE_H
#define INLAY_IMAGETREE_H

/*
 * The base images of a target as real trees, one read-only directory for each manifest, below `images` in the
 * host's state directory:
 *
 *     store/              trees, attributes and image.json as objects, and the refs; no contents of files
 *     <64 hex>/root/      the root directory of that manifest: the only place where its contents are
 *     <64 hex>/image.json
 *     .incoming/<64 hex>  contents that came and are in no tree yet
 *     .laying/            a tree that is not whole yet, or is being removed
 *
 * A directory gets the name of its manifest when everything in it is whole and on the disk. The next tree of an
 * image is made of hard links of the last one wherever the whole record of a file is the same, so nothing
 * below root/ may ever be changed: it is the lower side of an overlay.
 *
 * Linked into inlayd. All functions may be called from any thread, unless said otherwise.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/idset.h"
#include "inlay/image.h"

struct inlay_imagetrees;

/* Opens <state>/images, making what is missing. One for a state directory. */
int inlay_imagetrees_open(int state_fd, struct inlay_imagetrees **ret, struct inlay_error *err)
	inlay_must_check;
void inlay_imagetrees_close(struct inlay_imagetrees *t); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct inlay_imagetrees, inlay_imagetrees_close)

struct inlay_store *inlay_imagetrees_store(struct inlay_imagetrees *t);
struct inlay_trees *inlay_imagetrees_trees(struct inlay_imagetrees *t);

/* Positive results. */
enum {
	INLAY_IMAGETREE_MISSING = 1, /* no such image; a content is missing */
	INLAY_IMAGETREE_BUSY = 2,    /* another push is under way; err says whose */
};

/* ---- what is there ---- */

/* One that is held: it is not removed while this is open. */
struct inlay_imagetree {
	struct inlay_digest manifest;
	int fd;                      /* the directory <64 hex>, flock()ed shared */
	int root_fd;                 /* root/ in it */
	char name[INLAY_DIGEST_HEX]; /* <state>/images/<name>/root is its path */
	struct inlay_buf json;       /* the bytes of image.json */
};

/* Positive: MISSING. */
int inlay_imagetree_open(struct inlay_imagetrees *t, const struct inlay_digest *manifest,
			 struct inlay_imagetree *ret, struct inlay_error *err) inlay_must_check;
void inlay_imagetree_close(
	struct inlay_imagetree *tree); /* accepts one that was never opened ({.fd = -1,
							   * .root_fd = -1}) */
INLAY_DEFINE_FINI(struct inlay_imagetree, inlay_imagetree_close)

struct inlay_imagetree_info {
	struct inlay_image image; /* its key, and the generation of the ref that names it */
	bool newest;              /* the image as it is now; otherwise kept for going back */
	bool whole;               /* its tree is there */
	bool in_use;              /* held, or a mount has it as its lower side */
};

/* Calls fn for each generation of each image, newest first; stops when it gives a value other than 0 and returns
 * that. */
int inlay_imagetrees_each(struct inlay_imagetrees *t,
			  int (*fn)(void *ctx, const struct inlay_imagetree_info *info,
				    struct inlay_error *err),
			  void *ctx, struct inlay_error *err) inlay_must_check;

/* Forgets the image and removes its trees, unless another image has them. -EBUSY (exit code 4) when one is in
 * use: then nothing changes. Positive: MISSING; BUSY. */
int inlay_imagetrees_remove(struct inlay_imagetrees *t, const struct inlay_image_key *key,
			    uint64_t *ret_freed, struct inlay_error *err) inlay_must_check;

/* Removes what no image names and nobody uses: trees, objects, and what a push that ended early brought, when that
 * is some days ago or grace_ns is 0. Positive: BUSY. */
int inlay_imagetrees_gc(struct inlay_imagetrees *t, int64_t grace_ns, uint64_t *ret_freed,
			struct inlay_error *err) inlay_must_check;

/* ---- a push ---- */

enum {
	INLAY_IMAGETREE_KEEP = 2
}; /* generations of an image: the one before stays for going back */

struct inlay_imagepush_options {
	struct inlay_digest manifest;
	struct inlay_image_key key;
	struct inlay_digest basis; /* what the sender builds on; zeros = nothing that it knows */
	bool squash; /* not root here: everything belongs to whoever runs this, said and agreed to */
	bool emulate;      /* another architecture is right where programs of it can be run */
	const char *owner; /* who asks: "user@host pid 7" */
	int64_t wait_ns;   /* for a push that is under way */
};

struct inlay_imagepush;

/*
 * Begins to receive; one at a time. What an earlier one brought is taken up. Fails, with the exit code 4, where the
 * image's programs cannot run on this machine (-ENOEXEC) or owners cannot be kept (-EPERM). Positive: BUSY.
 */
int inlay_imagepush_begin(struct inlay_imagetrees *t, const struct inlay_imagepush_options *o,
			  struct inlay_imagepush **ret, struct inlay_error *err) inlay_must_check;
/* What came stays for the next one. Accepts NULL. */
void inlay_imagepush_end(struct inlay_imagepush *p);

/* The rest is for the one thread that pushes. */

/* True when a content whose digest begins like this is here: came before, or is in a tree. */
bool inlay_imagepush_has(struct inlay_imagepush *p, uint64_t prefix);
/* How many contents are here at all. */
uint64_t inlay_imagepush_objects(const struct inlay_imagepush *p);

/* -ENOSPC, saying what is missing and what helps, unless so much is free. */
int inlay_imagepush_space(struct inlay_imagepush *p, uint64_t bytes, uint64_t files,
			  struct inlay_error *err) inlay_must_check;

/* A content: begin with its size, exactly that many bytes in any pieces, end. */
int inlay_imagepush_blob_begin(struct inlay_imagepush *p, uint64_t size, struct inlay_error *err)
	inlay_must_check;
int inlay_imagepush_blob_bytes(struct inlay_imagepush *p, const void *bytes, size_t len,
			       struct inlay_error *err) inlay_must_check;
/* keep false: forget it, *ret is left alone. */
int inlay_imagepush_blob_end(struct inlay_imagepush *p, bool keep, struct inlay_digest *ret,
			     struct inlay_error *err) inlay_must_check;

/* Appends the content whose digest begins like this, of at most `max` bytes, checked against its digest. Positive:
 * MISSING, also when it is not what it should be. */
int inlay_imagepush_basis(struct inlay_imagepush *p, uint64_t prefix, size_t max,
			  struct inlay_buf *to, struct inlay_error *err) inlay_must_check;

struct inlay_imagepush_result {
	struct inlay_generation generation;
	bool changed;             /* false: it was there already */
	uint64_t entries;         /* laid */
	uint64_t shared;          /* of them files that are links of the tree before */
	uint64_t written_bytes;   /* of files that are not */
	uint64_t xattrs;          /* that could not be set */
	int64_t laid_ns, sync_ns; /* how long laying took, and waiting for the disk */
};

/*
 * Is everything here that the manifest needs? Then its tree is laid, brought to the disk and published. Positive:
 * MISSING, with ids in *missing (at least one).
 */
int inlay_imagepush_finish(struct inlay_imagepush *p, struct inlay_idset *missing,
			   struct inlay_imagepush_result *ret, struct inlay_error *err)
	inlay_must_check;

#endif
