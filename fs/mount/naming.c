/* SPDX-License-Identifier: Apache-2.0 */
/* Names are made, linked, removed and renamed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "mount/changing.h"

static int look_for_new(struct view *v, uint64_t dir, const char *name, struct spot *s,
			struct inlay_error *err)
{
	int r = changing_allowed(v, err);

	if (r == 0)
		r = spot_look(v, dir, name, s, err);
	if (r == 0 && s->shown != VIEW_NOTHING)
		r = inlay_error_set(err, -EEXIST, "the name is taken");
	return r;
}

/* What the kernel is answered for a name that is there now. `lock` held for writing. */
static int answer_new(struct view *v, const struct spot *s, struct upper_node *un,
		      struct view_entry *ret, struct inlay_error *err)
{
	uint32_t slot;
	int r = view_learn(v, s->dir, s->name, s->len, NULL, un, &slot, err);

	if (r < 0)
		return r;
	spot_below(v, s);
	view_refer(table_node(v->table, slot));
	view_answer(v, slot, ret);
	return 0;
}

static void image_of_new(struct view *v, const struct spot *s, const struct view_make *make,
			 struct upper_node *ret)
{
	bool callers = v->options.callers_own;
	struct view_entry dir;

	scope_rdlock(&v->lock);
	view_answer(v, s->dir, &dir);
	*ret = (struct upper_node){.n = v->upper->next++,
				   .mode = make->mode,
				   .uid = callers ? make->caller.uid : v->options.uid,
				   .gid = callers ? make->caller.gid : v->options.gid,
				   .target = (char *)make->target};
	/* As ext4 does: what is made in a setgid directory has its group, and directories go on with that. */
	if (dir.attr.st_mode & S_ISGID) {
		ret->gid = dir.attr.st_gid;
		if (S_ISDIR(make->mode))
			ret->mode |= S_ISGID;
	}
	struct timespec now;
	(void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
	ret->atime_ns = ret->mtime_ns = ret->ctime_ns =
		(int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int view_make(struct view *v, uint64_t dir, const char *name, const struct view_make *make,
	      struct view_entry *ret, struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v};
	auto_spot struct spot s = {0};
	struct upper_node image;
	uint64_t parent;

	scope_lock(&v->change);
	int r = look_for_new(v, dir, name, &s, err);
	if (r == 0)
		r = changing_dir(&c, s.dir, &parent, err);
	if (r < 0)
		return r;
	image_of_new(v, &s, make, &image);
	upper_txn_node(&c.txn, &image);
	upper_txn_name(&c.txn, parent, s.name, s.len, image.n, false);
	r = changing_log(&c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	r = changing_apply(&c, err);
	return r < 0 ? r : answer_new(v, &s, upper_find(v->upper, image.n), ret, err);
}

int view_link(struct view *v, uint64_t number, uint64_t dir, const char *name,
	      struct view_entry *ret, struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v};
	auto_spot struct spot s = {0};
	struct upper_node image;
	uint64_t parent;
	uint32_t slot;

	scope_lock(&v->change);
	int r = look_for_new(v, dir, name, &s, err);
	if (r < 0)
		return r;
	{
		scope_rdlock(&v->lock);
		slot = table_slot(v->table, number);
		if (!slot)
			return inlay_error_set(err, -ESTALE, "no such node");
		if (table_node(v->table, slot)->dents == 0)
			return inlay_error_set(err, -ENOENT, "it was removed");
		if (S_ISDIR(table_node(v->table, slot)->mode))
			return inlay_error_set(err, -EPERM, "a directory");
	}
	r = changing_image(&c, slot, &image, err);
	if (r == 0 && image.links >= UPPER_LINKS_MAX)
		r = inlay_error_set(err, -EMLINK, "too many names");
	/* A synced file becomes the upper's at its own name, too: both are one node from now on. */
	if (r == 0 && image.links == 0)
		r = changing_keep(&c, slot, &image, err);
	if (r == 0)
		r = changing_dir(&c, s.dir, &parent, err);
	if (r < 0)
		return r;
	upper_txn_name(&c.txn, parent, s.name, s.len, image.n, false);
	r = changing_log(&c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	r = changing_apply(&c, err);
	return r < 0 ? r : answer_new(v, &s, upper_find(v->upper, image.n), ret, err);
}

/* ---- removing ---- */

/* A directory is empty when the upper shows nothing in it, and hides all that is synced. */
static int check_empty_dir(struct view *v, uint32_t slot, struct inlay_error *err)
{
	auto_spot struct spot s = {0};
	struct inlay_digest base;
	struct upper_node *un;
	{
		scope_rdlock(&v->lock);
		base = table_node(v->table, slot)->id;
		un = view_upper(v, slot);
	}
	int r = view_open_base(v, &base, &s.tree, err);
	if (r < 0)
		return r;
	bool full = un && un->solid > 0;
	if (r == 0)
		r = inlay_dir_seek(&s.tree, 0, err);
	while (r == 0 && !full) {
		r = inlay_dir_next(&s.tree, &s.entry, err);
		if (r != 0)
			break;
		struct upper_dent *d = un ? upper_name(un, s.entry.name, s.entry.name_len) : NULL;
		full = view_shown(d, &s.entry) != VIEW_NOTHING;
	}
	if (full)
		return inlay_error_set(err, -ENOTEMPTY, "the directory is not empty");
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	return r < 0 ? r : 0;
}

/* Takes the name away: hides what is synced there, or drops what the upper has. */
static int take_name(struct changing *c, const struct spot *s, struct inlay_error *err)
{
	uint64_t parent;
	int r = changing_dir(c, s->dir, &parent, err);

	if (r < 0)
		return r;
	if (s->lower)
		upper_txn_name(&c->txn, parent, s->name, s->len, 0, false);
	else
		upper_txn_drop(&c->txn, parent, s->name, s->len);
	return 0;
}

/* The directory of that slot is one no more. `lock` held for writing. */
static void end_dir(struct view *v, uint32_t slot)
{
	table_node(v->table, slot)->flags |= NODE_DEAD;
}

/* What is to be removed, or to be replaced: fits it? *ret_slot: its node. */
static int check_removable(struct view *v, const struct spot *s, bool is_dir, uint32_t *ret_slot,
			   struct inlay_error *err)
{
	if (S_ISDIR(s->mode) && !is_dir)
		return inlay_error_set(err, -EISDIR, "a directory");
	if (!S_ISDIR(s->mode) && is_dir)
		return inlay_error_set(err, -ENOTDIR, "not a directory");
	int r = spot_node(v, s, ret_slot, err);
	return r == 0 && is_dir ? check_empty_dir(v, *ret_slot, err) : r;
}

int view_remove(struct view *v, uint64_t dir, const char *name, bool is_dir,
		struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v, .freeing = true};
	auto_spot struct spot s = {0};
	uint32_t slot;

	scope_lock(&v->change);
	int r = changing_allowed(v, err);
	if (r == 0)
		r = spot_look(v, dir, name, &s, err);
	if (r == 0 && s.shown == VIEW_NOTHING)
		r = inlay_error_set(err, -ENOENT, "no such name");
	if (r == 0)
		r = check_removable(v, &s, is_dir, &slot, err);
	if (r == 0)
		r = take_name(&c, &s, err);
	if (r == 0)
		r = changing_log(&c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	r = changing_apply(&c, err);
	if (r < 0)
		return r;
	if (is_dir)
		end_dir(v, slot);
	spot_changed(v, &s);
	return 0;
}

/* ---- renaming ---- */

/* What a name shows, on its way to another one: a node of the upper, a synced directory with the tree that it has. */
struct mover {
	struct spot spot;
	uint32_t slot;
	struct upper_node image;
};

static void mover_fini(struct mover *m)
{
	spot_fini(&m->spot);
}
INLAY_DEFINE_FINI(struct mover, mover_fini)
#define auto_mover __attribute__((cleanup(inlay_cleanup_mover_fini)))

static int prepare(struct changing *c, struct mover *m, struct inlay_error *err)
{
	int r = spot_node(c->v, &m->spot, &m->slot, err);

	if (r == 0)
		r = changing_image(c, m->slot, &m->image, err);
	if (r < 0)
		return r;
	scope_rdlock(&c->v->lock);
	struct node *n = table_node(c->v->table, m->slot);
	if (n->upper == 0)
		r = changing_adopt(c, m->slot, m->image.n, err);
	if (!S_ISDIR(n->mode) || m->image.from != UPPER_MERGED)
		return r;
	/* From now on it is what it was when it was moved. */
	m->image.from = inlay_digest_is_zero(&n->id) ? UPPER_OWN : UPPER_OBJECT;
	m->image.id = n->id;
	m->image.size = n->subdirs;
	m->image.own_attr = m->image.exact_time = false;
	return r;
}

/* Its node, without a name now, gets the one of the other spot. */
static int give_name(struct changing *c, const struct mover *m, const struct spot *to,
		     struct inlay_error *err)
{
	uint64_t parent;
	int r = changing_dir(c, to->dir, &parent, err);

	if (r < 0)
		return r;
	upper_txn_node(&c->txn, &m->image);
	upper_txn_name(&c->txn, parent, to->name, to->len, m->image.n, false);
	return 0;
}

/* `lock` held for writing. */
static int put_name(struct view *v, const struct spot *s, uint32_t slot, struct inlay_error *err)
{
	uint32_t dent;

	spot_below(v, s);
	return table_add_dent(v->table, s->dir, s->name, s->len, slot, &dent, err);
}

static int check_rename(struct view *v, struct mover *a, struct mover *b, unsigned flags,
			struct inlay_error *err)
{
	if (a->spot.shown == VIEW_NOTHING)
		return inlay_error_set(err, -ENOENT, "no such name");
	if (flags & RENAME_EXCHANGE)
		return b->spot.shown == VIEW_NOTHING ? inlay_error_set(err, -ENOENT, "no such name")
						     : 0;
	if (b->spot.shown == VIEW_NOTHING)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return inlay_error_set(err, -EEXIST, "the name is taken");
	return check_removable(v, &b->spot, S_ISDIR(a->spot.mode), &b->slot, err);
}

static int hide_name(struct changing *c, const struct spot *s, struct inlay_error *err)
{
	uint64_t parent;
	int r = changing_dir(c, s->dir, &parent, err);

	if (r == 0)
		upper_txn_name(&c->txn, parent, s->name, s->len, 0, true);
	return r;
}

static int exchange(struct changing *c, struct mover *a, struct mover *b, struct inlay_error *err)
{
	struct view *v = c->v;
	int r = prepare(c, b, err);

	/* Hidden for a moment inside of one record, so that no node has a name too many. */
	if (r == 0)
		r = hide_name(c, &a->spot, err);
	if (r == 0)
		r = hide_name(c, &b->spot, err);
	if (r == 0)
		r = give_name(c, a, &b->spot, err);
	if (r == 0)
		r = give_name(c, b, &a->spot, err);
	if (r == 0)
		r = changing_log(c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	r = changing_apply(c, err);
	if (r < 0)
		return r;
	(void)spot_unlist(v, &a->spot);
	(void)spot_unlist(v, &b->spot);
	r = put_name(v, &a->spot, b->slot, err);
	return r < 0 ? r : put_name(v, &b->spot, a->slot, err);
}

static int replace(struct changing *c, struct mover *a, struct mover *b, struct inlay_error *err)
{
	struct view *v = c->v;
	int r = take_name(c, &a->spot, err);

	if (r == 0)
		r = give_name(c, a, &b->spot, err);
	if (r == 0)
		r = changing_log(c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	r = changing_apply(c, err);
	if (r < 0)
		return r;
	if (b->spot.shown != VIEW_NOTHING && S_ISDIR(b->spot.mode))
		end_dir(v, b->slot);
	else if (b->spot.shown != VIEW_NOTHING && a->image.has_file)
		upper_put_ahead(v->upper, a->image.n);
	(void)spot_unlist(v, &a->spot);
	spot_changed(v, &b->spot);
	spot_below(v, &a->spot);
	return put_name(v, &b->spot, a->slot, err);
}

int view_rename(struct view *v, uint64_t dir, const char *name, uint64_t new_dir,
		const char *new_name, unsigned flags, struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v};
	auto_mover struct mover a = {0}, b = {0};

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return inlay_error_set(err, -EINVAL, "not supported");
	scope_lock(&v->change);
	int r = changing_allowed(v, err);
	if (r == 0)
		r = spot_look(v, dir, name, &a.spot, err);
	if (r == 0)
		r = spot_look(v, new_dir, new_name, &b.spot, err);
	if (r == 0)
		r = check_rename(v, &a, &b, flags, err);
	if (r == 0)
		r = prepare(&c, &a, err);
	if (r < 0)
		return r;
	return flags & RENAME_EXCHANGE ? exchange(&c, &a, &b, err) : replace(&c, &a, &b, err);
}
