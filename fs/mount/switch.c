/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One generation is exchanged for another: the trees of every directory that the kernel knows are
 * compared, first without the lock, so that all trees are in memory and known to be good, then under it,
 * where nodes are set anew or lose their names (settle.c). What the kernel is to be told is collected on the
 * way.
 *
 * While only looking, a slot may be given to another node between two steps; that reads a tree too many
 * or too few, no more, since the second pass looks again.
 */
#include <errno.h>

#include "mount/view_private.h"

static uint32_t find_child(const struct change *c, const struct inlay_entry *e)
{
	struct view *v = c->v;

	if (c->settle)
		return table_find(v->table, c->dir, e->name, e->name_len);
	scope_rdlock(&v->lock);
	uint32_t dent = table_find(v->table, c->dir, e->name, e->name_len);
	return dent;
}

static struct inlay_digest tree_of(const struct change *c, uint32_t slot)
{
	if (c->settle)
		return table_node(c->v->table, slot)->id;
	scope_rdlock(&c->v->lock);
	return table_node(c->v->table, slot)->id;
}

static int change_dir(struct change *parent, uint32_t dir, const struct inlay_digest *before,
		      const struct inlay_digest *after, struct inlay_error *err);

/* Attributes changed, or what is in a directory; the node stays. */
static int change_kept(struct change *c, uint32_t dent, const struct inlay_entry *after,
		       struct inlay_error *err)
{
	uint32_t slot = table_dent(c->v->table, dent)->node;
	int r = 0;

	if (S_ISDIR(after->mode)) {
		struct inlay_digest before = tree_of(c, slot);
		r = change_dir(c, slot, &before, &after->id, err);
	}
	if (r < 0 || !c->settle)
		return r;
	struct node *n = table_node(c->v->table, slot), was = *n;
	view_set_node(c->v, n, after);
	if (was.mode == n->mode && was.mtime_ns == n->mtime_ns && was.uid == n->uid &&
	    was.gid == n->gid && was.subdirs == n->subdirs)
		return 0;
	if (!S_ISDIR(after->mode) || was.mode != n->mode)
		settle_attrs(c, after);
	return settle_note(c->settle, VIEW_NOTE_ATTR, slot, "", 0, err);
}

static int change_name(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		       struct inlay_error *err)
{
	struct change *c = ctx;
	const struct inlay_entry *e = after ? after : before;
	uint32_t dent = find_child(c, e);
	bool both_dirs = before && after && inlay_entry_is_dir(before) && inlay_entry_is_dir(after);

	if (both_dirs || (before && after && inlay_entry_same_content(before, after)))
		return dent ? change_kept(c, dent, after, err) : 0;
	c->listing = true;
	if (!c->settle) {
		settle_look(c, dent, before, after);
		return 0;
	}
	return settle_name(c, dent, before, after, err);
}

static int change_dir(struct change *parent, uint32_t dir, const struct inlay_digest *before,
		      const struct inlay_digest *after, struct inlay_error *err)
{
	struct change c = {.v = parent->v,
			   .shapes = parent->shapes,
			   .settle = parent->settle,
			   .dir = dir,
			   .depth = parent->depth + 1};

	if (c.depth > INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	int r = inlay_dir_diff(c.v->trees, inlay_digest_is_zero(before) ? NULL : before, after,
			       change_name, &c, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	if (r == 0 && c.listing && c.settle)
		r = settle_note(c.settle, VIEW_NOTE_LIST, dir, "", 0, err);
	listed_dir_unref(c.path);
	return r;
}

int switch_kept_dir(struct settle *s, struct view *v, uint32_t slot,
		    const struct inlay_digest *before, const struct inlay_digest *after,
		    struct inlay_error *err)
{
	struct change top = {.v = v, .settle = s};

	return change_dir(&top, slot, before, after, err);
}

static int change_root(struct view *v, const struct inlay_generation *gen, struct shapes *shapes,
		       struct settle *settle, struct inlay_error *err)
{
	struct change top = {.v = v, .shapes = shapes, .settle = settle};
	struct inlay_digest before = tree_of(&top, TABLE_ROOT);
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};

	int r = inlay_dir_open(v->trees, &gen->root.tree, &dir, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "the root's tree is not in the store");
	if (r == 0)
		r = change_dir(&top, TABLE_ROOT, &before, &gen->root.tree, err);
	if (r == 0 && settle)
		r = settle_apply(settle, err);
	if (r < 0 || !settle)
		return r;
	struct node *root = table_node(v->table, TABLE_ROOT);
	struct inlay_entry e = {.mode = S_IFDIR | gen->root.mode,
				.mtime_ns = gen->root.mtime_ns,
				.id = gen->root.tree,
				.subdirs = inlay_dir_tree(&dir)->subdirs};
	view_set_node(v, root, &e);
	root->flags &= (uint16_t)~NODE_DEAD;
	v->gen = *gen;
	return settle_note(settle, VIEW_NOTE_ATTR, TABLE_ROOT, "", 0, err);
}

int view_switch(struct view *v, const struct inlay_generation *gen, struct view_notes *ret,
		struct inlay_error *err)
{
	*ret = (struct view_notes){0};
	auto_of(shapes_free) struct shapes *shapes = shapes_new(v->trees);
	int r = change_root(v, gen, shapes, NULL, err);
	if (r < 0)
		return r;
	shapes_compare(shapes);
	struct settle *settle;
	scope_wrlock(&v->lock);
	r = settle_begin(v, shapes, ret, &settle, err);
	if (r < 0)
		return r;
	r = change_root(v, gen, shapes, settle, err);
	settle_free(settle);
	return r;
}
