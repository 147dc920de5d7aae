/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/drops.h"

#include <errno.h>

#include "mount/view_private.h"

enum { DROPS_IN_RECORD = 1000 };

bool view_source_wins(const struct upper_dent *d, const struct inlay_entry *after)
{
	bool dir = d->node && S_ISDIR(d->node->mode);

	/* Names that the source takes away do not take directories with them that were made here. */
	if (!after)
		return !dir;
	/* A directory over a directory: what is in it is looked at by itself. */
	return !(dir && upper_is_merged(d->node) && inlay_entry_is_dir(after));
}

int view_drops_add(struct view_drops *drops, struct upper_dent *d, struct inlay_error *err)
{
	if (drops->count == drops->cap) {
		size_t cap = drops->cap ? drops->cap * 2 : 16;
		struct upper_dent **more =
			reallocarray(drops->dents, cap, sizeof(struct upper_dent *));
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		drops->dents = more;
		drops->cap = cap;
	}
	drops->dents[drops->count++] = d;
	return 0;
}

int view_drops_log(struct view *v, struct view_drops *drops, struct inlay_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < drops->count;) {
		auto_txn struct upper_txn t = {0};
		size_t end = i + DROPS_IN_RECORD;
		for (; i < drops->count && i < end; i++) {
			const struct upper_dent *d = drops->dents[i];
			upper_txn_drop(&t, d->parent->n, d->name, d->name_len);
		}
		r = upper_append(v->upper, &t, true, &drops->time_ns, err);
	}
	return r;
}

/* The next dent of what is merged below top: not what is in directories of the upper's own. */
static struct upper_dent *next_merged(const struct upper_node *top, struct upper_dent *d)
{
	if (!d || (d->node && upper_is_merged(d->node)))
		return upper_walk(top, d);
	for (;;) {
		struct upper_dent *next = upper_after(d);
		if (next || d->parent == top)
			return next;
		d = d->parent->in;
	}
}

/* The table's node of a directory goes on without the upper. */
static void let_go(struct view *v, struct upper_node *un)
{
	if (un->slot)
		table_node(v->table, un->slot)->upper = 0;
	un->slot = 0;
}

static int tell_attr(const struct upper_node *un, struct settle *s, struct inlay_error *err)
{
	return un->slot ? settle_note(s, VIEW_NOTE_ATTR, un->slot, "", 0, err) : 0;
}

/* A synced directory with changes in it: it keeps its node, what the upper has in it goes. */
static int drop_merged(struct view *v, struct upper_node *top, struct settle *s,
		       struct inlay_error *err)
{
	int r = tell_attr(top, s, err);
	struct upper_dent *d;

	for (d = next_merged(top, NULL); d && r == 0; d = next_merged(top, d)) {
		bool dir = d->node && upper_is_merged(d->node);
		if (dir)
			r = tell_attr(d->node, s, err);
		else if (d->parent->slot)
			r = settle_gone(s, d->parent->slot, d->name, d->name_len, err);
	}
	for (d = next_merged(top, NULL); d && r == 0; d = next_merged(top, d))
		if (d->node && upper_is_merged(d->node))
			let_go(v, d->node);
	if (r == 0)
		let_go(v, top);
	return r;
}

static int drop(struct view *v, struct upper_dent *d, struct view_drops *drops, struct settle *s,
		struct inlay_error *err)
{
	auto_txn struct upper_txn t = {0};
	struct upper_node *un = d->node;
	bool keeps = un && upper_is_merged(un) && un->slot &&
		     !inlay_digest_is_zero(&table_node(v->table, un->slot)->id);
	int r = 0;

	if (keeps)
		r = drop_merged(v, un, s, err);
	else if (d->parent->slot)
		r = settle_gone(s, d->parent->slot, d->name, d->name_len, err);
	if (r < 0)
		return r;
	upper_txn_drop(&t, d->parent->n, d->name, d->name_len);
	r = inlay_buf_check(&t.ops, err);
	return r < 0 ? r : upper_apply(v->upper, t.ops.data, t.ops.len, drops->time_ns, err);
}

int view_drops_apply(struct view *v, struct view_drops *drops, struct settle *s,
		     struct inlay_error *err)
{
	int r = 0;

	for (size_t i = 0; i < drops->count && r == 0; i++)
		r = drop(v, drops->dents[i], drops, s, err);
	return r;
}

/* ---- reset ---- */

static int find_path(struct view *v, const char *path, size_t len, struct upper_dent **ret,
		     struct inlay_error *err)
{
	struct upper_node *dir = v->upper->root;
	const char *end = path + len;

	for (;;) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);
		struct upper_dent *d =
			n > 0 && n <= INLAY_NAME_MAX ? upper_name(dir, path, n) : NULL;
		if (!d || (slash && !(d->node && S_ISDIR(d->node->mode))))
			return inlay_error_set(err, -ENOENT, "nothing was changed there");
		if (!slash) {
			*ret = d;
			return 0;
		}
		dir = d->node;
		path = slash + 1;
	}
}

int view_reset(struct view *v, const char *path, size_t len, struct view_notes *ret,
	       struct inlay_error *err)
{
	auto_of_drops struct view_drops drops = {0};
	struct upper_dent *d;
	int r = 0;

	*ret = (struct view_notes){0};
	scope_lock(&v->change);
	if (len > 0) {
		r = find_path(v, path, len, &d, err);
		if (r == 0)
			r = view_drops_add(&drops, d, err);
	} else {
		for (d = upper_from_hash(v->upper->root, 0); d && r == 0; d = upper_after(d))
			r = view_drops_add(&drops, d, err);
	}
	if (r == 0)
		r = view_drops_log(v, &drops, err);
	if (r < 0)
		return r;
	struct settle *settle;
	scope_wrlock(&v->lock);
	r = settle_begin(v, NULL, ret, &settle, err);
	if (r < 0)
		return r;
	r = view_drops_apply(v, &drops, settle, err);
	settle_free(settle);
	return r;
}
