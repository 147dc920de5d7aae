/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/bytes.h"
#include "mount/changing.h"

#include <errno.h>
#include <stdlib.h>

void changing_fini(struct changing *c)
{
	inlay_buf_fini(&c->txn.ops);
	free(c->adopts);
	free(c->targets[0]);
	free(c->targets[1]);
}

int changing_allowed(const struct view *v, struct inlay_error *err)
{
	if (v->options.policy == INLAY_UPPER_READ_ONLY)
		return inlay_error_set(err, -EROFS, "it shows what was synced, and nothing else");
	return 0;
}

int changing_adopt(struct changing *c, uint32_t slot, uint64_t n, struct inlay_error *err)
{
	if (c->adopt_count == c->adopt_cap) {
		size_t cap = c->adopt_cap ? c->adopt_cap * 2 : 8;
		struct changing_adopt *more = reallocarray(c->adopts, cap, sizeof *more);
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		c->adopts = more;
		c->adopt_cap = cap;
	}
	c->adopts[c->adopt_count++] = (struct changing_adopt){slot, n};
	return 0;
}

static int64_t ns_of(struct timespec ts)
{
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int changing_image(struct changing *c, uint32_t slot, struct upper_node *ret,
		   struct inlay_error *err)
{
	struct view *v = c->v;

	scope_rdlock(&v->lock);
	const struct node *n = table_node(v->table, slot);
	struct upper_node *un = view_upper(v, slot);
	struct view_entry now;

	view_answer(v, slot, &now);
	*ret = (struct upper_node){.n = un ? un->n : v->upper->next++,
				   .links = un ? un->links : 0,
				   .mode = now.attr.st_mode,
				   .uid = now.attr.st_uid,
				   .gid = now.attr.st_gid,
				   .atime_ns = ns_of(now.attr.st_atim),
				   .mtime_ns = ns_of(now.attr.st_mtim),
				   .ctime_ns = ns_of(now.attr.st_ctim),
				   .size = n->size,
				   .id = n->id};
	if (un) {
		ret->from = un->from;
		ret->own_attr = un->own_attr;
		ret->exact_time = un->exact_time;
		ret->has_file = un->has_file;
		ret->size = un->has_file ? 0 : un->size;
		ret->id = un->id;
		ret->target = un->target;
	} else if (S_ISDIR(n->mode)) {
		ret->from = UPPER_MERGED;
	} else if (S_ISREG(n->mode)) {
		ret->from = UPPER_OBJECT;
	} else if (S_ISLNK(n->mode)) {
		ret->target = inlay_dup(table_target(v->table, slot), n->target_len);
		if (!ret->target)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		free(c->targets[1]);
		c->targets[1] = c->targets[0];
		c->targets[0] = ret->target;
	}
	return 0;
}

/* The parent's slot and the name, of a node that has one. */
static int place_of(struct view *v, uint32_t slot, uint32_t *ret_parent,
		    char name[static INLAY_NAME_MAX + 1], size_t *ret_len, struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t dent = table_node(v->table, slot)->dents;

	if (!dent)
		return inlay_error_set(err, -ENOENT, "it was removed");
	const struct dent *d = table_dent(v->table, dent);
	*ret_parent = d->parent;
	*ret_len = d->name_len;
	memcpy(name, table_name(v->table, dent), d->name_len);
	name[d->name_len] = 0;
	return 0;
}

static uint64_t number_of(struct changing *c, uint32_t slot)
{
	for (size_t i = 0; i < c->adopt_count; i++)
		if (c->adopts[i].slot == slot)
			return c->adopts[i].n;
	scope_rdlock(&c->v->lock);
	return table_node(c->v->table, slot)->upper;
}

int changing_dir(struct changing *c, uint32_t slot, uint64_t *ret_n, struct inlay_error *err)
{
	char name[INLAY_NAME_MAX + 1];
	struct upper_node image;
	uint32_t parent;
	uint64_t parent_n;
	size_t len;

	*ret_n = number_of(c, slot);
	if (*ret_n)
		return 0;
	/* Synced directories are at most INLAY_DEPTH_MAX deep. */
	int r = place_of(c->v, slot, &parent, name, &len, err);
	if (r == 0)
		r = changing_dir(c, parent, &parent_n, err);
	if (r == 0)
		r = changing_image(c, slot, &image, err);
	if (r == 0)
		r = changing_adopt(c, slot, image.n, err);
	if (r < 0)
		return r;
	upper_txn_node(&c->txn, &image);
	upper_txn_name(&c->txn, parent_n, name, len, image.n, true);
	*ret_n = image.n;
	return 0;
}

int changing_keep(struct changing *c, uint32_t slot, struct upper_node *image,
		  struct inlay_error *err)
{
	char name[INLAY_NAME_MAX + 1];
	uint32_t parent;
	uint64_t n = number_of(c, slot), parent_n;
	size_t len;
	int r;

	if (!n && S_ISDIR(image->mode)) {
		r = changing_dir(c, slot, &n, err);
		if (r < 0)
			return r;
	}
	if (n) {
		image->n = n;
		upper_txn_node(&c->txn, image);
		return 0;
	}
	r = place_of(c->v, slot, &parent, name, &len, err);
	if (r == 0)
		r = changing_dir(c, parent, &parent_n, err);
	if (r == 0)
		r = changing_adopt(c, slot, image->n, err);
	if (r < 0)
		return r;
	upper_txn_node(&c->txn, image);
	upper_txn_name(&c->txn, parent_n, name, len, image->n, true);
	return 0;
}

int changing_log(struct changing *c, struct inlay_error *err)
{
	upper_compact(c->v->upper);
	int r = upper_append(c->v->upper, &c->txn, c->freeing, &c->time_ns, err);
	if (view_is_full(r) && upper_make_space(c->v->upper))
		r = upper_append(c->v->upper, &c->txn, c->freeing, &c->time_ns, err);
	return r;
}

int changing_apply(struct changing *c, struct inlay_error *err)
{
	struct view *v = c->v;
	int r = upper_apply(v->upper, c->txn.ops.data, c->txn.ops.len, c->time_ns, err);

	/* The journal has it: what memory does not have must not be built upon. */
	if (r < 0) {
		v->upper->broken = true;
		return r == -EBADMSG ? inlay_error_set(err, -EIO, "a change that does not fit") : r;
	}
	for (size_t i = 0; i < c->adopt_count; i++) {
		struct upper_node *un = upper_find(v->upper, c->adopts[i].n);
		if (!un)
			continue;
		struct node *n = table_node(v->table, c->adopts[i].slot);
		n->upper = un->n;
		un->slot = c->adopts[i].slot;
		if (!S_ISDIR(un->mode))
			continue;
		/* A synced directory, in one: that is what is below its name. */
		un->settled_for = n->id;
		if (un->in && upper_is_merged(un))
			upper_set_below(un->in, UPPER_BELOW_DIR);
	}
	return 0;
}

/* ---- a name ---- */

int spot_look(struct view *v, uint64_t dir, const char *name, struct spot *ret,
	      struct inlay_error *err)
{
	struct at_dir at;
	int r;

	*ret = (struct spot){.name = name, .len = strlen(name)};
	if (ret->len > INLAY_NAME_MAX)
		return inlay_error_set(err, -ENAMETOOLONG, "a name of %zu bytes", ret->len);
	{
		scope_rdlock(&v->lock);
		r = view_at_dir(v, dir, &at, err);
	}
	if (r == 0 && at.dead)
		r = inlay_error_set(err, -ENOENT, "the directory was removed");
	if (r < 0)
		return r;
	ret->dir = at.slot;
	r = view_open_base(v, &at.tree, &ret->tree, err);
	if (r == 0)
		r = inlay_dir_find(&ret->tree, name, ret->len, &ret->entry, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	if (r < 0)
		return r;
	ret->lower = r == 0 ? &ret->entry : NULL;
	scope_rdlock(&v->lock);
	struct upper_node *up = view_upper(v, at.slot);
	ret->dent = up ? upper_name(up, name, ret->len) : NULL;
	ret->shown = view_shown(ret->dent, ret->lower);
	if (ret->shown == VIEW_UPPER)
		ret->mode = ret->dent->node->mode;
	else if (ret->shown == VIEW_LOWER)
		ret->mode = ret->lower->mode;
	return 0;
}

int spot_node(struct view *v, const struct spot *s, uint32_t *ret_slot, struct inlay_error *err)
{
	scope_wrlock(&v->lock);
	bool lower = s->shown == VIEW_LOWER;
	bool merged = lower && s->dent && inlay_entry_is_dir(s->lower);

	return view_learn(v, s->dir, s->name, s->len, lower ? s->lower : NULL,
			  !lower || merged ? s->dent->node : NULL, ret_slot, err);
}

void spot_below(struct view *v, const struct spot *s)
{
	listed_overtake(v, table_number(v->table, s->dir), s->name, s->len);
	struct upper_node *up = view_upper(v, s->dir);
	struct upper_dent *d = up ? upper_name(up, s->name, s->len) : NULL;

	if (d)
		upper_set_below(d, view_below(s->lower));
}

uint32_t spot_unlist(struct view *v, const struct spot *s)
{
	uint32_t dent = table_find(v->table, s->dir, s->name, s->len);

	if (!dent)
		return 0;
	uint32_t slot = table_dent(v->table, dent)->node;
	table_remove_dent(v->table, dent);
	return slot;
}

void spot_changed(struct view *v, const struct spot *s)
{
	uint32_t slot = spot_unlist(v, s);

	if (slot)
		view_drop_if_unused(v, slot);
	spot_below(v, s);
}
