/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both sides come in the same order, so comparing is one merge. Where both are split into the same number
 * of buckets, equal buckets are skipped by their ids; where the numbers differ, every entry is compared.
 */
#include <errno.h>

#include "inlay/trees.h"
#include "tree/cache.h"

/* One side of a comparison: a directory, or nothing. */
struct side {
	struct inlay_dir dir;
	bool there;
	struct inlay_entry entry; /* the next one, when more */
	uint64_t hash;
	bool more;
};

static int side_advance(struct side *s, struct inlay_error *err)
{
	s->more = false;
	if (!s->there)
		return 0;
	int r = inlay_dir_next(&s->dir, &s->entry, err);
	if (r == INLAY_TREES_NONE)
		return 0;
	if (r == 0) {
		s->more = true;
		s->hash = inlay_name_hash(s->entry.name, s->entry.name_len);
	}
	return r;
}

static int order(const struct side *a, const struct side *b)
{
	if (!a->more || !b->more)
		return a->more ? -1 : 1;
	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	size_t na = a->entry.name_len, nb = b->entry.name_len;
	int c = memcmp(a->entry.name, b->entry.name, na < nb ? na : nb);
	return c ? c : (na > nb) - (na < nb);
}

/* While the next buckets of both are the same two and equal, step over them. */
static void skip_equal_buckets(struct side *a, struct side *b)
{
	if (!a->there || !b->there)
		return;
	const struct inlay_tree *ta = inlay_dir_tree(&a->dir), *tb = inlay_dir_tree(&b->dir);
	if (!ta->split || !tb->split || ta->bits != tb->bits ||
	    a->dir.next_bucket != b->dir.next_bucket)
		return;
	while (a->dir.next_bucket < ta->count) {
		struct inlay_digest ia, ib;
		bool more_a = inlay_tree_bucket(ta, a->dir.next_bucket, &ia);
		bool more_b = inlay_tree_bucket(tb, b->dir.next_bucket, &ib);
		if (more_a != more_b || !inlay_digest_equal(&ia, &ib))
			return;
		a->dir.next_bucket++;
		b->dir.next_bucket++;
	}
}

static int step(struct side *a, struct side *b, bool move_a, bool move_b, struct inlay_error *err)
{
	/* What is left of the leaves at hand is not touched by it; only when one is used up is it worth
	 * a look. */
	if (!inlay_dir_at_hand(&a->dir) || !inlay_dir_at_hand(&b->dir))
		skip_equal_buckets(a, b);
	int r = move_a ? side_advance(a, err) : 0;
	if (r == 0 && move_b)
		r = side_advance(b, err);
	return r;
}

static int merge(struct side *a, struct side *b, inlay_dir_diff_fn *fn, void *ctx,
		 struct inlay_error *err)
{
	int r = step(a, b, true, true, err);

	while (r == 0 && (a->more || b->more)) {
		int c = a->more && b->more ? order(a, b) : a->more ? -1 : 1;
		if (c < 0)
			r = fn(ctx, &a->entry, NULL, err);
		else if (c > 0)
			r = fn(ctx, NULL, &b->entry, err);
		else if (!inlay_entry_equal(&a->entry, &b->entry))
			r = fn(ctx, &a->entry, &b->entry, err);
		if (r == 0)
			r = step(a, b, c <= 0, c >= 0, err);
	}
	return r;
}

int inlay_dir_diff(struct inlay_trees *trees, const struct inlay_digest *before,
		   const struct inlay_digest *after, inlay_dir_diff_fn *fn, void *ctx,
		   struct inlay_error *err)
{
	struct side a = {.there = before}, b = {.there = after};
	int r = 0;

	if (before && after && inlay_digest_equal(before, after))
		return 0;
	if (before)
		r = inlay_dir_open(trees, before, &a.dir, err);
	if (r == 0 && after)
		r = inlay_dir_open(trees, after, &b.dir, err);
	if (r == 0)
		r = merge(&a, &b, fn, ctx, err);
	inlay_dir_close(&a.dir);
	inlay_dir_close(&b.dir);
	return r;
}

/* ---- through the whole tree ---- */

struct walk {
	struct inlay_trees *trees;
	inlay_tree_diff_fn *fn;
	void *ctx;
	struct inlay_buf path;
	unsigned depth;
};

static int walk_pair(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		     struct inlay_error *err);

static int tell(struct walk *w, const struct inlay_entry *before, const struct inlay_entry *after,
		struct inlay_error *err)
{
	if (w->path.len > INLAY_PATH_MAX)
		return inlay_error_set(err, -E2BIG, "a path of more than %d bytes", INLAY_PATH_MAX);
	return w->fn(w->ctx, (const char *)w->path.data, w->path.len, before, after, err);
}

static int descend(struct walk *w, const struct inlay_entry *before,
		   const struct inlay_entry *after, struct inlay_error *err)
{
	bool dir_before = before && inlay_entry_is_dir(before);
	bool dir_after = after && inlay_entry_is_dir(after);

	if (!dir_before && !dir_after)
		return 0;
	if (w->depth >= INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	size_t len = w->path.len;
	inlay_buf_u8(&w->path, '/');
	w->depth++;
	int r = inlay_dir_diff(w->trees, dir_before ? &before->id : NULL,
			       dir_after ? &after->id : NULL, walk_pair, w, err);
	w->depth--;
	w->path.len = len;
	return r;
}

static int walk_pair(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		     struct inlay_error *err)
{
	struct walk *w = ctx;
	const struct inlay_entry *named = after ? after : before;
	size_t len = w->path.len;

	inlay_buf_add(&w->path, named->name, named->name_len);
	int r = inlay_buf_check(&w->path, err);
	if (r == 0)
		r = tell(w, before, after, err);
	if (r == 0)
		r = descend(w, before, after, err);
	w->path.len = len;
	return r;
}

int inlay_tree_diff(struct inlay_trees *trees, const struct inlay_digest *before,
		    const struct inlay_digest *after, inlay_tree_diff_fn *fn, void *ctx,
		    struct inlay_error *err)
{
	struct walk w = {.trees = trees, .fn = fn, .ctx = ctx};
	int r = inlay_dir_diff(trees, before, after, walk_pair, &w, err);

	inlay_buf_fini(&w.path);
	return r;
}
