/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is everything there that a tree needs? Only what differs from a tree that is known to be complete is
 * looked at, so the answer costs what changed.
 */
#include <errno.h>

#include "keep/host.h"

enum { MISSING_MAX = 16384 }; /* as many ids as fit into one frame */

struct check {
	struct inlay_host *host;
	struct inlay_idset *missing;
	unsigned depth;
};

static int add_missing(struct check *c, const struct inlay_digest *id, struct inlay_error *err)
{
	int r = inlay_idset_add(c->missing, id, err);

	if (r < 0)
		return r;
	return c->missing->count >= MISSING_MAX ? INLAY_TREES_STOP : 0;
}

static int check_object(struct check *c, const struct inlay_digest *id, uint64_t size,
			struct inlay_error *err)
{
	uint64_t has;

	if (inlay_store_stat(c->host->store, id, &has) != 0)
		return add_missing(c, id, err);
	if (size != UINT64_MAX && has != size)
		return inlay_error_set(err, -EPROTO,
				       "a file of %llu bytes names an object of %llu bytes",
				       (unsigned long long)size, (unsigned long long)has);
	return 0;
}

static int check_dir(struct check *c, const struct inlay_digest *before,
		     const struct inlay_digest *after, struct inlay_error *err);

static int check_entry(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		       struct inlay_error *err)
{
	struct check *c = ctx;
	int r = 0;

	if (!after)
		return 0;
	if (!inlay_digest_is_zero(&after->xattrs))
		r = check_object(c, &after->xattrs, UINT64_MAX, err);
	if (r == 0 && S_ISREG(after->mode))
		r = check_object(c, &after->id, after->size, err);
	else if (r == 0 && S_ISDIR(after->mode))
		r = check_dir(c, before && S_ISDIR(before->mode) ? &before->id : NULL, &after->id,
			      err);
	return r;
}

static bool has_all_buckets(struct check *c, const struct inlay_tree *t)
{
	for (uint32_t i = 0; t->split && i < t->count; i++) {
		struct inlay_digest leaf;
		if (inlay_tree_bucket(t, i, &leaf) && !inlay_store_has(c->host->store, &leaf))
			return false;
	}
	return true;
}

/* The directory's own objects: its tree and, where it is split, the buckets. INLAY_TREES_NONE when one is
 * missing: then the directory is asked for as a whole, since buckets do not travel by themselves. */
static int check_listing(struct check *c, const struct inlay_digest *id, struct inlay_error *err)
{
	struct inlay_dir dir;
	int r = inlay_dir_open(c->host->trees, id, &dir, err);
	bool whole = false;

	if (r < 0)
		return r;
	if (r == 0) {
		whole = has_all_buckets(c, inlay_dir_tree(&dir));
		inlay_dir_close(&dir);
	}
	if (whole)
		return 0;
	r = add_missing(c, id, err);
	return r == 0 ? INLAY_TREES_NONE : r;
}

static int check_dir(struct check *c, const struct inlay_digest *before,
		     const struct inlay_digest *after, struct inlay_error *err)
{
	if (before && inlay_digest_equal(before, after))
		return 0;
	if (c->depth >= INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	int r = check_listing(c, after, err);
	if (r == INLAY_TREES_NONE)
		return 0;
	c->depth++;
	if (r == 0)
		r = inlay_dir_diff(c->host->trees, before, after, check_entry, c, err);
	/* The old side may have been damaged since: then nothing of it is taken for granted. */
	if (r == INLAY_TREES_MISSING && before)
		r = inlay_dir_diff(c->host->trees, NULL, after, check_entry, c, err);
	c->depth--;
	return r;
}

int host_missing(struct inlay_host *host, const struct inlay_digest *before,
		 const struct inlay_digest *after, struct inlay_idset *missing,
		 struct inlay_error *err)
{
	struct check c = {.host = host, .missing = missing};
	int r = check_dir(&c, inlay_digest_is_zero(before) ? NULL : before, after, err);

	return r < 0 ? r : 0;
}
