/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One generation is exchanged for another: the trees of every directory that the kernel knows are
 * compared, first without the lock, so that all trees are in memory and known to be good, then under it,
 * where nodes are set anew or lose their names. What the kernel is to be told is collected on the way.
 *
 * While only looking, a slot may be given to another node between two steps; that reads a tree too many
 * or too few, no more, since the second pass looks again.
 */
#include <errno.h>

#include "mount/view_private.h"

struct change {
	struct view *v;
	struct view_notes *notes; /* NULL while only looking: then the lock is not held */
	uint32_t dir;             /* slot of the directory at hand */
	bool listing;             /* its listing changed */
	unsigned depth;
};

static int note(struct view_notes *notes, struct view_note n, const char *name, size_t len,
		struct inlay_error *err)
{
	if (notes->count == notes->cap) {
		size_t cap = notes->cap ? notes->cap * 2 : 64;
		struct view_note *more = reallocarray(notes->notes, cap, sizeof *more);
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		notes->notes = more;
		notes->cap = cap;
	}
	n.name = (uint32_t)notes->names.len;
	n.name_len = (uint8_t)len;
	inlay_buf_add(&notes->names, name, len);
	notes->notes[notes->count++] = n;
	return inlay_buf_check(&notes->names, err);
}

static int note_name(struct change *c, uint32_t dir, const char *name, size_t len,
		     struct inlay_error *err)
{
	return note(c->notes,
		    (struct view_note){VIEW_NOTE_NAME, table_number(c->v->table, dir), 0, 0}, name,
		    len, err);
}

static int note_node(struct change *c, enum view_note_kind kind, uint32_t slot,
		     struct inlay_error *err)
{
	return note(c->notes, (struct view_note){kind, table_number(c->v->table, slot), 0, 0}, "",
		    0, err);
}

void view_notes_fini(struct view_notes *notes)
{
	free(notes->notes);
	inlay_buf_fini(&notes->names);
	*notes = (struct view_notes){0};
}

static uint32_t find_child(const struct change *c, const struct inlay_entry *e)
{
	struct view *v = c->v;

	if (c->notes)
		return table_find(v->table, c->dir, e->name, e->name_len);
	scope_rdlock(&v->lock);
	uint32_t dent = table_find(v->table, c->dir, e->name, e->name_len);
	return dent;
}

static struct inlay_digest tree_of(const struct change *c, uint32_t slot)
{
	if (c->notes)
		return table_node(c->v->table, slot)->id;
	scope_rdlock(&c->v->lock);
	return table_node(c->v->table, slot)->id;
}

/* A name goes, with all that is known below it; the deepest names first. */
static int detach(struct change *c, uint32_t dent, struct inlay_error *err)
{
	struct table *t = c->v->table;
	uint32_t slot = table_dent(t, dent)->node, parent = table_dent(t, dent)->parent;
	int r = 0;

	while (r == 0 && table_node(t, slot)->children)
		r = detach(c, table_node(t, slot)->children, err);
	if (r == 0)
		r = note_name(c, parent, table_name(t, dent), table_dent(t, dent)->name_len, err);
	if (r < 0)
		return r;
	table_remove_dent(t, dent);
	if (S_ISDIR(table_node(t, slot)->mode))
		table_node(t, slot)->flags |= NODE_DEAD;
	view_drop_if_unused(c->v, slot);
	return 0;
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
	if (r < 0 || !c->notes)
		return r;
	struct node *n = table_node(c->v->table, slot), was = *n;
	view_set_node(c->v, n, after);
	if (was.mode == n->mode && was.mtime_ns == n->mtime_ns && was.uid == n->uid &&
	    was.gid == n->gid && was.subdirs == n->subdirs)
		return 0;
	return note_node(c, VIEW_NOTE_ATTR, slot, err);
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
	if (!c->notes)
		return 0;
	if (dent)
		return detach(c, dent, err);
	/* A name that is new to the kernel too: only where it was told before that it is not there. */
	if (!before && (table_node(c->v->table, c->dir)->flags & NODE_NEGATIVE))
		return note_name(c, c->dir, e->name, e->name_len, err);
	return 0;
}

static int change_dir(struct change *parent, uint32_t dir, const struct inlay_digest *before,
		      const struct inlay_digest *after, struct inlay_error *err)
{
	struct change c = {
		.v = parent->v, .notes = parent->notes, .dir = dir, .depth = parent->depth + 1};

	if (c.depth > INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	int r = inlay_dir_diff(c.v->trees, inlay_digest_is_zero(before) ? NULL : before, after,
			       change_name, &c, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	if (r == 0 && c.listing && c.notes)
		r = note_node(&c, VIEW_NOTE_LIST, dir, err);
	return r;
}

static int change_root(struct view *v, const struct inlay_generation *gen, struct view_notes *notes,
		       struct inlay_error *err)
{
	struct change top = {.v = v, .notes = notes};
	struct inlay_digest before = tree_of(&top, TABLE_ROOT);
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};

	int r = inlay_dir_open(v->trees, &gen->root.tree, &dir, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "the root's tree is not in the store");
	if (r == 0)
		r = change_dir(&top, TABLE_ROOT, &before, &gen->root.tree, err);
	if (r < 0 || !notes)
		return r;
	struct node *root = table_node(v->table, TABLE_ROOT);
	struct inlay_entry e = {.mode = S_IFDIR | gen->root.mode,
				.mtime_ns = gen->root.mtime_ns,
				.id = gen->root.tree,
				.subdirs = inlay_dir_tree(&dir)->subdirs};
	view_set_node(v, root, &e);
	root->flags &= (uint16_t)~NODE_DEAD;
	v->gen = *gen;
	return note_node(&top, VIEW_NOTE_ATTR, TABLE_ROOT, err);
}

int view_switch(struct view *v, const struct inlay_generation *gen, struct view_notes *ret,
		struct inlay_error *err)
{
	*ret = (struct view_notes){0};
	int r = change_root(v, gen, NULL, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	return change_root(v, gen, ret, err);
}
