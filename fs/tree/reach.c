/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "inlay/trees.h"
#include "tree/cache.h"

struct reach {
	struct inlay_trees *trees;
	inlay_reach_fn *fn;
	int (*missing)(void *ctx, const struct inlay_digest *id, struct inlay_error *err);
	void *ctx;
};

static int visit_tree(struct reach *w, const struct inlay_digest *id, unsigned depth,
		      struct inlay_error *err);

static int visit_leaf(struct reach *w, const struct inlay_tree *leaf, unsigned depth,
		      struct inlay_error *err)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < leaf->count; i++) {
		struct inlay_entry e;
		inlay_tree_entry(leaf, i, &e);
		if (!inlay_digest_is_zero(&e.xattrs))
			r = w->fn(w->ctx, &e.xattrs, false, 0, err);
		if (r == 0 && S_ISREG(e.mode))
			r = w->fn(w->ctx, &e.id, false, e.size, err);
		else if (r == 0 && S_ISDIR(e.mode))
			r = visit_tree(w, &e.id, depth + 1, err);
	}
	return r;
}

static int visit_split(struct reach *w, const struct inlay_tree *split, unsigned depth,
		       struct inlay_error *err)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < split->count; i++) {
		struct inlay_digest id;
		if (inlay_tree_bucket(split, i, &id))
			r = visit_tree(w, &id, depth, err);
	}
	return r;
}

static int visit_tree(struct reach *w, const struct inlay_digest *id, unsigned depth,
		      struct inlay_error *err)
{
	struct tree_pin *pin;

	/* A bucket that claims to be split would recurse as a directory does: the depth bounds both. */
	if (depth > 2 * INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	int r = w->fn(w->ctx, id, true, 0, err);
	if (r == INLAY_TREES_NONE)
		return 0;
	if (r != 0)
		return r;
	r = tree_pin_get(w->trees, id, &pin, err);
	if (r == INLAY_TREES_MISSING && w->missing)
		return w->missing(w->ctx, id, err);
	if (r != 0)
		return r;
	if (pin->tree.split)
		r = visit_split(w, &pin->tree, depth + 1, err);
	else
		r = visit_leaf(w, &pin->tree, depth, err);
	tree_pin_put(w->trees, pin);
	return r;
}

int inlay_tree_reach(struct inlay_trees *trees, const struct inlay_digest *root, inlay_reach_fn *fn,
		     int (*missing)(void *ctx, const struct inlay_digest *id,
				    struct inlay_error *err),
		     void *ctx, struct inlay_error *err)
{
	struct reach w = {.trees = trees, .fn = fn, .missing = missing, .ctx = ctx};

	return visit_tree(&w, root, 0, err);
}
