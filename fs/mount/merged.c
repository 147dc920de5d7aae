/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listing a directory: two streams in the same order, that of name hashes, are merged. One is the base's tree, of
 * which a leaf is at hand at a time; the other is what the upper has there. Where both have a name, view_shown()
 * decides. What lies behind the leaf's last name waits for the next leaf.
 */
#include <errno.h>

#include "mount/view_private.h"

/*
 * A position in a directory is the hash of the name before it, shifted to fit the kernel's signed offset;
 * 1 and 2 stand behind "." and "..".
 */
enum { BEHIND_DOT = 1, BEHIND_DOTS = 2 };

static uint64_t position_of(uint64_t hash)
{
	return hash >> 1 > BEHIND_DOTS ? hash >> 1 : BEHIND_DOTS + 1;
}

static uint64_t hash_behind(uint64_t position)
{
	return position <= BEHIND_DOTS ? 0 : (position + 1) << 1;
}

struct lister {
	struct view *v;
	struct at_dir at;
	bool plus;
	view_list_fn *fn;
	void *ctx;
	uint64_t position; /* behind what was given or passed over */
	bool given;        /* fn was called */
	bool full;         /* ... and had no room */
	/* the two streams */
	struct inlay_dir dir;
	struct inlay_entry lower;
	bool has_lower;
	struct upper_dent *upper;
};

/* A name to be given. */
struct item {
	const char *name;
	size_t len;
	const struct inlay_entry *lower; /* NULL: the upper's alone */
	struct upper_node *node;         /* NULL: the base's alone */
	struct inlay_entry entry;        /* what lower points to */
};

static bool give(struct lister *l, const char *name, const struct view_entry *entry, uint64_t next)
{
	l->given = true;
	l->full = !l->fn(l->ctx, name, entry, next);
	if (!l->full)
		l->position = next;
	return !l->full;
}

/* "." and "..". */
static void list_dots(struct lister *l)
{
	struct view *v = l->v;
	uint32_t dent = table_node(v->table, l->at.slot)->dents;
	struct view_entry self, parent;

	view_answer(v, l->at.slot, &self);
	view_answer(v, dent ? table_dent(v->table, dent)->parent : l->at.slot, &parent);
	self.attr.st_mode = parent.attr.st_mode = S_IFDIR;
	if (l->position < BEHIND_DOT && !give(l, ".", &self, BEHIND_DOT))
		return;
	if (l->position < BEHIND_DOTS)
		(void)give(l, "..", &parent, BEHIND_DOTS);
}

static int advance_lower(struct lister *l, struct inlay_error *err)
{
	l->has_lower = inlay_dir_at_hand(&l->dir);
	return l->has_lower ? inlay_dir_next(&l->dir, &l->lower, err) : 0;
}

/* Below zero: the base's name comes first; 0: both streams are at the same name. */
static int compare_heads(const struct lister *l)
{
	const struct inlay_entry *e = &l->lower;
	const struct upper_dent *d = l->upper;
	uint64_t hash = inlay_name_hash(e->name, e->name_len);

	if (hash != d->hash)
		return hash < d->hash ? -1 : 1;
	size_t len = e->name_len < d->name_len ? e->name_len : d->name_len;
	int r = memcmp(e->name, d->name, len);
	return r != 0 ? r : (int)e->name_len - (int)d->name_len;
}

/* The next name that is shown. tail: the base has no more, and the upper's rest is to be given. Without it the
 * merging ends with the leaf. False at the end. */
static bool next_item(struct lister *l, bool tail, struct item *ret, int *ret_r,
		      struct inlay_error *err)
{
	while (*ret_r == 0 && (l->has_lower || (tail && l->upper))) {
		int order = !l->upper ? -1 : !l->has_lower ? 1 : compare_heads(l);
		struct upper_dent *d = order >= 0 ? l->upper : NULL;
		*ret = (struct item){.entry = l->lower};
		ret->lower = order <= 0 ? &ret->entry : NULL;
		ret->name = order <= 0 ? l->lower.name : d->name;
		ret->len = order <= 0 ? l->lower.name_len : d->name_len;
		enum view_shown shown = view_shown(d, ret->lower);
		/* A merged directory over a synced one is both. */
		if (d && (shown == VIEW_UPPER ||
			  (shown == VIEW_LOWER && inlay_entry_is_dir(ret->lower))))
			ret->node = d->node;
		if (shown == VIEW_UPPER)
			ret->lower = NULL;
		if (order >= 0)
			l->upper = upper_after(d);
		if (order <= 0)
			*ret_r = advance_lower(l, err);
		if (shown != VIEW_NOTHING)
			return *ret_r == 0;
		/* What is passed over need not be looked at again. */
		uint64_t position = position_of(inlay_name_hash(ret->name, ret->len));
		if (position > l->position)
			l->position = position;
	}
	return false;
}

/* Finds or makes the item's node. Without plus only what is known gets its number. */
static int item_node(const struct lister *l, const struct item *it, uint32_t *ret_slot,
		     struct inlay_error *err)
{
	uint32_t dent = table_find(l->v->table, l->at.slot, it->name, it->len);

	*ret_slot = dent ? table_dent(l->v->table, dent)->node : 0;
	if (dent || !l->plus)
		return 0;
	return view_learn(l->v, l->at.slot, it->name, it->len, it->lower, it->node, ret_slot, err);
}

static int give_item(struct lister *l, const struct item *it, uint64_t next,
		     struct inlay_error *err)
{
	char name[INLAY_NAME_MAX + 1];
	struct view_entry entry = {
		.number = UINT32_MAX,
		.attr = {.st_mode = it->lower ? it->lower->mode : it->node->mode}};
	uint32_t slot;
	int r = item_node(l, it, &slot, err);

	if (r < 0)
		return r;
	if (slot)
		view_answer(l->v, slot, &entry);
	entry.listed = listed_is(l->v, table_number(l->v->table, l->at.slot), it->name, it->len);
	entry.attr.st_ino = entry.number;
	bool bare = slot && view_is_unsettled(l->v, slot);
	if (bare)
		entry.number = 0;
	memcpy(name, it->name, it->len);
	name[it->len] = 0;
	if (give(l, name, &entry, next) && l->plus && !bare)
		view_refer(table_node(l->v->table, slot));
	return 0;
}

/* The names of the leaf at hand, or the upper's rest. Lock held for writing; no I/O. */
static int list_leaf(struct lister *l, bool tail, struct inlay_error *err)
{
	struct item it, next;
	int r = advance_lower(l, err);
	bool more = next_item(l, tail, &it, &r, err);

	while (r == 0 && more && !l->full) {
		uint64_t position = position_of(inlay_name_hash(it.name, it.len));
		uint64_t before = l->position;
		more = next_item(l, tail, &next, &r, err);
		uint64_t passed = l->position;
		l->position = before;
		if (r != 0)
			break;
		/* Two names with one position: a stream that stops between them gives the first one
		 * twice rather than losing the second. */
		if (more && position_of(inlay_name_hash(next.name, next.len)) == position)
			position--;
		r = give_item(l, &it, position, err);
		if (!l->full && passed > l->position && !more)
			l->position = passed;
		if (more) {
			bool lower = next.lower != NULL;
			it = next;
			it.lower = lower ? &it.entry : NULL;
		}
	}
	return r;
}

/* One leaf. *ret_end: the directory ends with it. */
static int list_once(struct lister *l, uint64_t number, bool *ret_end, struct inlay_error *err)
{
	int r = view_open_base(l->v, &l->at.tree, &l->dir, err);
	bool base = r == 0;

	if (base)
		r = inlay_dir_seek(&l->dir, hash_behind(l->position), err);
	if (base && r == 0)
		r = inlay_dir_fetch(&l->dir, err);
	if (base && r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	if (r < 0)
		return r;
	bool tail = !base || !inlay_dir_at_hand(&l->dir);
	scope_wrlock(&l->v->lock);
	if (!view_still_at(l->v, number, &l->at))
		return VIEW_RETRY;
	if (l->position < BEHIND_DOTS)
		list_dots(l);
	if (l->full)
		return 0;
	struct upper_node *up = view_upper(l->v, l->at.slot);
	l->upper = up ? upper_from_hash(up, hash_behind(l->position)) : NULL;
	*ret_end = tail;
	if (!base)
		l->dir = (struct inlay_dir){0};
	return base || l->upper ? list_leaf(l, tail, err) : 0;
}

int view_list(struct view *v, uint64_t dir, uint64_t position, bool plus, view_list_fn *fn,
	      void *ctx, struct inlay_error *err)
{
	struct lister l = {.v = v, .plus = plus, .fn = fn, .ctx = ctx, .position = position};
	bool end = false;
	int r;

	if (position >= INT64_MAX)
		return 0;
	do {
		{
			scope_rdlock(&v->lock);
			r = view_at_dir(v, dir, &l.at, err);
			if (r < 0)
				return r;
			if (l.at.dead)
				return 0;
		}
		r = list_once(&l, dir, &end, err);
		inlay_dir_close(&l.dir);
		l.dir = (struct inlay_dir){0};
		/* A leaf of which everything is hidden is not the end. */
	} while (r == VIEW_RETRY || (r == 0 && !l.given && !end));
	return r;
}
