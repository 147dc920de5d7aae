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

#include "mount/drops.h"
#include "mount/view_private.h"

static uint32_t find_child(const struct change *c, const struct inlay_entry *e)
{
	struct view *v = c->v;

	if (!c->dir)
		return 0;
	if (c->settle)
		return table_find(v->table, c->dir, e->name, e->name_len);
	scope_rdlock(&v->lock);
	uint32_t dent = table_find(v->table, c->dir, e->name, e->name_len);
	return dent;
}

/* Under the lock, or while nothing else changes the upper. */
static struct upper_node *upper_of(const struct change *c, uint32_t slot)
{
	if (c->settle)
		return view_upper(c->v, slot);
	scope_rdlock(&c->v->lock);
	return view_upper(c->v, slot);
}

static struct inlay_digest tree_of(const struct change *c, uint32_t slot)
{
	if (c->settle)
		return table_node(c->v->table, slot)->id;
	scope_rdlock(&c->v->lock);
	return table_node(c->v->table, slot)->id;
}

static int change_dir(struct change *parent, uint32_t dir, struct upper_node *upper,
		      const struct inlay_digest *before, const struct inlay_digest *after,
		      struct inlay_error *err);

/* Attributes changed, or what is in a directory; the node stays. */
static int change_kept(struct change *c, uint32_t dent, const struct inlay_entry *after,
		       struct inlay_error *err)
{
	uint32_t slot = table_dent(c->v->table, dent)->node;
	int r = 0;

	if (S_ISDIR(after->mode)) {
		struct inlay_digest before = tree_of(c, slot);
		r = change_dir(c, slot, upper_of(c, slot), &before, &after->id, err);
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

/* A directory of the upper stays one although none is synced at its place any more, or again. */
static int change_base(struct change *c, struct upper_dent *d, const struct inlay_entry *before,
		       const struct inlay_entry *after, uint32_t dent, struct inlay_error *err)
{
	static const struct inlay_digest none;
	const struct inlay_digest *from =
		before && inlay_entry_is_dir(before) ? &before->id : &none;
	const struct inlay_digest *to = after && inlay_entry_is_dir(after) ? &after->id : &none;
	uint32_t slot = dent ? table_dent(c->v->table, dent)->node : 0;

	if (!slot && !c->drops)
		return 0;
	int r = change_dir(c, slot, d->node, from, to, err);
	if (r < 0 || !c->settle || !slot)
		return r;
	struct node *n = table_node(c->v->table, slot);
	if (to != &none) {
		view_set_node(c->v, n, after);
	} else {
		n->id = none;
		n->subdirs = 0;
	}
	return settle_note(c->settle, VIEW_NOTE_ATTR, slot, "", 0, err);
}

/* What the upper has at a name comes first. *ret_done: nothing else is to be done for it. */
static int change_upper(struct change *c, struct upper_dent *d, const struct inlay_entry *before,
			const struct inlay_entry *after, uint32_t dent, bool *ret_done,
			struct inlay_error *err)
{
	bool dirs[2] = {before && inlay_entry_is_dir(before), after && inlay_entry_is_dir(after)};
	bool merged = d->node && upper_is_merged(d->node);
	int r = 0;

	if (c->settle)
		upper_set_below(d, view_below(after));
	*ret_done = !merged;
	if (c->drops && view_source_wins(d, after)) {
		*ret_done = true;
		return view_drops_add(c->drops, d, err);
	}
	if (!merged || (dirs[0] && dirs[1] && dent))
		return 0;
	bool solid = upper_is_solid(d->node);
	if ((dirs[0] || solid) && (dirs[1] || solid)) {
		*ret_done = true;
		r = change_base(c, d, before, after, dent, err);
	}
	return r;
}

static int change_name(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		       struct inlay_error *err)
{
	struct change *c = ctx;
	const struct inlay_entry *e = after ? after : before;
	uint32_t dent = find_child(c, e);
	bool both_dirs = before && after && inlay_entry_is_dir(before) && inlay_entry_is_dir(after);
	struct upper_dent *d = c->upper ? upper_name(c->upper, e->name, e->name_len) : NULL;

	if (d) {
		bool done;
		int r = change_upper(c, d, before, after, dent, &done, err);
		if (r < 0 || done)
			return r;
	}
	if (both_dirs || (before && after && inlay_entry_same_content(before, after)))
		return dent ? change_kept(c, dent, after, err) : 0;
	c->listing = true;
	if (!c->dir)
		return 0;
	if (!c->settle) {
		settle_look(c, dent, before, after);
		return 0;
	}
	return settle_name(c, dent, before, after, err);
}

static int change_dir(struct change *parent, uint32_t dir, struct upper_node *upper,
		      const struct inlay_digest *before, const struct inlay_digest *after,
		      struct inlay_error *err)
{
	struct change c = {.v = parent->v,
			   .shapes = parent->shapes,
			   .settle = parent->settle,
			   .drops = parent->drops,
			   .dir = dir,
			   .upper = upper,
			   .depth = parent->depth + 1};

	if (c.depth > INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	int r = inlay_dir_diff(c.v->trees, inlay_digest_is_zero(before) ? NULL : before,
			       inlay_digest_is_zero(after) ? NULL : after, change_name, &c, err);
	if (r == INLAY_TREES_MISSING)
		r = inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	/* Each name with a dent was told what is below it now. */
	if (r == 0 && upper && c.settle && inlay_digest_equal(&upper->settled_for, before))
		upper->settled_for = *after;
	if (r == 0 && c.listing && c.settle && dir)
		r = settle_note(c.settle, VIEW_NOTE_LIST, dir, "", 0, err);
	listed_dir_unref(c.path);
	return r;
}

int switch_kept_dir(struct settle *s, struct view *v, uint32_t slot,
		    const struct inlay_digest *before, const struct inlay_digest *after,
		    struct inlay_error *err)
{
	struct change top = {.v = v, .settle = s};

	return change_dir(&top, slot, view_upper(v, slot), before, after, err);
}

static int change_root(struct view *v, const struct inlay_generation *gen, struct shapes *shapes,
		       struct settle *settle, struct view_drops *drops, struct inlay_error *err)
{
	struct change top = {.v = v, .shapes = shapes, .settle = settle, .drops = drops};
	struct inlay_digest before = tree_of(&top, TABLE_ROOT);
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};

	int r = inlay_dir_open(v->trees, &gen->root.tree, &dir, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "the root's tree is not in the store");
	if (r == 0)
		r = change_dir(&top, TABLE_ROOT, v->upper->root, &before, &gen->root.tree, err);
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

/*
 * The first generation that is shown, where the source wins: what changed since the upper was written last, was not
 * mounted then. Without the tree of that time nothing is known, and the upper keeps all.
 */
static int look_missed(struct view *v, const struct inlay_generation *gen, struct view_drops *drops,
		       struct inlay_error *err)
{
	struct change top = {.v = v, .drops = drops};
	const struct inlay_digest *before = &v->upper->shown;

	if (inlay_digest_is_zero(before) || inlay_digest_equal(before, &gen->root.tree))
		return 0;
	int r = change_dir(&top, 0, v->upper->root, before, &gen->root.tree, err);
	if (r != -EIO && r != -EBADMSG)
		return r;
	drops->count = 0;
	return 0;
}

int view_switch(struct view *v, const struct inlay_generation *gen, struct view_notes *ret,
		struct inlay_error *err)
{
	auto_of(shapes_free) struct shapes *shapes = shapes_new(v->trees);
	auto_of_drops struct view_drops drops = {0};
	bool wins = v->options.policy == INLAY_UPPER_SOURCE_WINS, first = v->gen.number == 0;

	*ret = (struct view_notes){0};
	scope_lock(&v->change);
	int r = change_root(v, gen, shapes, NULL, wins && !first ? &drops : NULL, err);
	if (r == 0 && wins && first)
		r = look_missed(v, gen, &drops, err);
	if (r == 0)
		r = view_drops_log(v, &drops, err);
	if (r < 0)
		return r;
	upper_show(v->upper, &gen->root.tree);
	shapes_compare(shapes);
	struct settle *settle;
	scope_wrlock(&v->lock);
	r = settle_begin(v, shapes, ret, &settle, err);
	if (r < 0)
		return r;
	r = view_drops_apply(v, &drops, settle, err);
	if (r == 0)
		r = change_root(v, gen, shapes, settle, NULL, err);
	settle_free(settle);
	return r;
}
