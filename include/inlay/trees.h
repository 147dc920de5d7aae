/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TREES_H
#define INLAY_TREES_H

/*
 * Directories as they lie in a store: find a name, list from a position, compare two, visit all that is
 * reachable. A cache keeps decoded tree objects, so that each is read and checked once; objects in use
 * are pinned. Whether a directory is split is hidden here.
 *
 * struct inlay_trees is thread-safe. A struct inlay_dir belongs to one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/store.h"
#include "inlay/tree.h"

struct inlay_trees;

/* `budget` bytes of unpinned objects stay cached. The store must outlive the cache. */
int inlay_trees_new(struct inlay_store *store, size_t budget, struct inlay_trees **ret,
		    struct inlay_error *err) inlay_must_check;
void inlay_trees_free(struct inlay_trees *trees); /* accepts NULL; nothing may be pinned */
INLAY_DEFINE_CLEANUP(struct inlay_trees, inlay_trees_free)

/* Forgets all that is not pinned: what is asked for next is read from the store. */
void inlay_trees_forget(struct inlay_trees *trees);

/* Positive results of everything below. */
enum {
	INLAY_TREES_MISSING = 1, /* a tree object is not in the store */
	INLAY_TREES_NONE = 2,    /* no such name; no further entry */
	INLAY_TREES_STOP = 3,    /* a callback asked to stop */
};

/* ---- one directory ---- */

struct tree_pin; /* private: a pinned, decoded object */

struct inlay_dir {
	struct inlay_trees *trees;
	struct tree_pin *top;    /* the directory's own object */
	struct tree_pin *bucket; /* split: the leaf at hand, NULL for an empty one */
	uint32_t next_bucket;    /* split: the number of the one after it */
	uint32_t at;             /* the next entry of the leaf at hand */
};

int inlay_dir_open(struct inlay_trees *trees, const struct inlay_digest *id, struct inlay_dir *ret,
		   struct inlay_error *err) inlay_must_check;
void inlay_dir_close(struct inlay_dir *dir); /* accepts the zero value */
INLAY_DEFINE_FINI(struct inlay_dir, inlay_dir_close)

/* The directory's own object: entry count, subdirs, totals. Borrowed until close. */
const struct inlay_tree *inlay_dir_tree(const struct inlay_dir *dir);

/* The entry's pointers are valid until the next call on dir. Ends a listing (seek anew). Positive:
 * NONE, MISSING. */
int inlay_dir_find(struct inlay_dir *dir, const char *name, size_t len, struct inlay_entry *ret,
		   struct inlay_error *err) inlay_must_check;

/* The next entry is the first one whose name hash is >= hash. */
int inlay_dir_seek(struct inlay_dir *dir, uint64_t hash, struct inlay_error *err) inlay_must_check;
/* In the order of name hashes. Valid like find's. Positive: NONE at the end, MISSING. */
int inlay_dir_next(struct inlay_dir *dir, struct inlay_entry *ret, struct inlay_error *err)
	inlay_must_check;

/* Reads the store until next() can answer without doing so, or the end is reached. */
int inlay_dir_fetch(struct inlay_dir *dir, struct inlay_error *err) inlay_must_check;
/* True when next() gives an entry without reading the store. */
bool inlay_dir_at_hand(const struct inlay_dir *dir);

/* ---- two directories ---- */

/*
 * Called for each name that differs in anything; exactly one of both may be NULL (added, removed). The
 * entries are valid during the call. 0 goes on, INLAY_TREES_STOP stops, negative fails.
 */
typedef int inlay_dir_diff_fn(void *ctx, const struct inlay_entry *before,
			      const struct inlay_entry *after, struct inlay_error *err);

/* Compares two directories without going into subdirectories; NULL stands for an empty one. Equal
 * buckets are not looked at. */
int inlay_dir_diff(struct inlay_trees *trees, const struct inlay_digest *before,
		   const struct inlay_digest *after, inlay_dir_diff_fn *fn, void *ctx,
		   struct inlay_error *err) inlay_must_check;

/*
 * The same through the whole tree, with the path of each entry (no NUL at the end). What was added or
 * removed with a directory is told entry by entry, a directory before what is in it.
 */
typedef int inlay_tree_diff_fn(void *ctx, const char *path, size_t len,
			       const struct inlay_entry *before, const struct inlay_entry *after,
			       struct inlay_error *err);
int inlay_tree_diff(struct inlay_trees *trees, const struct inlay_digest *before,
		    const struct inlay_digest *after, inlay_tree_diff_fn *fn, void *ctx,
		    struct inlay_error *err) inlay_must_check;

/* ---- a changed directory ---- */

struct inlay_tree_op {
	struct inlay_entry entry; /* remove: only the name counts */
	bool remove;
};

/*
 * The directory `base` (NULL = an empty one) with the entries of `ops` set or removed; the same bytes as
 * building the result anew would give. In a split directory only the buckets that change are read and
 * built. The names of the ops must differ (-EEXIST). -ESTALE when a name to remove is
 * not there. Positive: MISSING.
 */
int inlay_tree_edit(struct inlay_trees *trees, const struct inlay_digest *base,
		    const struct inlay_tree_op *ops, size_t count, inlay_tree_put_fn *put,
		    void *ctx, struct inlay_tree_built *ret, struct inlay_error *err)
	inlay_must_check;

/* ---- what is reachable ---- */

/*
 * Called once for each object that a tree needs: tree objects (also buckets) before what they name. For a tree
 * object, the result 0 goes into it, INLAY_TREES_NONE leaves out what is below.
 */
typedef int inlay_reach_fn(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
			   struct inlay_error *err);
/* An object that is named twice is told twice: the callback keeps the set it needs. A tree that is not there
 * is told through missing() (0 goes on), or ends with MISSING when that is NULL. */
int inlay_tree_reach(struct inlay_trees *trees, const struct inlay_digest *root, inlay_reach_fn *fn,
		     int (*missing)(void *ctx, const struct inlay_digest *id,
				    struct inlay_error *err),
		     void *ctx, struct inlay_error *err) inlay_must_check;

#endif
