/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "mount/view_private.h"

enum {
	SHAPES_MAX = 1024, /* directories that are remembered; beyond that none is found renamed */
	SHAPE_ENTRIES_MAX = 1 << 16, /* entries below one that is compared */
};

struct shape {
	struct inlay_digest id;
	struct inlay_tree_totals below;
	uint32_t subdirs;
	bool goes;
	struct inlay_digest same; /* zeros, or the tree that it came as */
};

struct shapes {
	struct inlay_trees *trees;
	struct shape *all;
	size_t count;
};

struct shapes *shapes_new(struct inlay_trees *trees)
{
	struct shapes *s = calloc(1, sizeof *s);

	if (s)
		s->trees = trees;
	return s;
}

void shapes_free(struct shapes *s)
{
	if (!s)
		return;
	free(s->all);
	free(s);
}

void shapes_add(struct shapes *s, const struct inlay_entry *e, bool goes)
{
	/* Without directories in it, the same content has the same id. */
	if (!s || s->count == SHAPES_MAX || e->subdirs == 0 || e->below.entries > SHAPE_ENTRIES_MAX)
		return;
	if (!s->all)
		s->all = reallocarray(NULL, SHAPES_MAX, sizeof *s->all);
	if (s->all)
		s->all[s->count++] = (struct shape){
			.id = e->id, .below = e->below, .subdirs = e->subdirs, .goes = goes};
}

static bool alike(const struct shape *a, const struct shape *b)
{
	return a->below.entries == b->below.entries && a->below.bytes == b->below.bytes &&
	       a->subdirs == b->subdirs;
}

/* Only directories may differ, and they in their times and ids alone. */
static int differs(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		   const struct inlay_entry *after, struct inlay_error *err)
{
	(void)path;
	(void)len;
	(void)err;
	if (before && after && inlay_entry_is_dir(before) && inlay_entry_is_dir(after) &&
	    before->mode == after->mode)
		return 0;
	*(bool *)ctx = true;
	return INLAY_TREES_STOP;
}

void shapes_compare(struct shapes *s)
{
	for (size_t i = 0; s && i < s->count; i++) {
		struct shape *from = &s->all[i], *to = NULL;
		unsigned found = 0;
		bool other = false;
		for (size_t k = 0; from->goes && k < s->count; k++) {
			if (k == i || !alike(from, &s->all[k]))
				continue;
			to = &s->all[k];
			found++;
		}
		if (found != 1 || to->goes)
			continue;
		if (inlay_tree_diff(s->trees, &from->id, &to->id, differs, &other, NULL) == 0 &&
		    !other)
			from->same = to->id;
	}
}

bool shapes_same(const struct shapes *s, const struct inlay_digest *a, const struct inlay_digest *b)
{
	for (size_t i = 0; s && i < s->count; i++) {
		const struct shape *x = &s->all[i];
		if (!x->goes || inlay_digest_is_zero(&x->same))
			continue;
		if ((inlay_digest_equal(&x->id, a) && inlay_digest_equal(&x->same, b)) ||
		    (inlay_digest_equal(&x->id, b) && inlay_digest_equal(&x->same, a)))
			return true;
	}
	return false;
}
