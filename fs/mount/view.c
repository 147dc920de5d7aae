/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/view.h"

#include <errno.h>
#include <stdlib.h>

#include "mount/view_private.h"
#include "upper/report.h"

int view_new(const struct view_options *options, struct view **ret, struct inlay_error *err)
{
	struct view *v = calloc(1, sizeof *v);

	if (!v)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	v->options = *options;
	v->upper = options->upper;
	listed_init(&v->listed);
	(void)pthread_mutex_init(&v->change, NULL);
	(void)pthread_rwlock_init(&v->lock, NULL);
	int r = table_new(&v->table, err);
	if (r == 0)
		r = inlay_trees_new(options->store, options->tree_cache_bytes, &v->trees, err);
	if (r < 0) {
		view_free(v);
		return r;
	}
	v->table->nodes[TABLE_ROOT].flags = NODE_DEAD; /* until the first switch */
	v->table->nodes[TABLE_ROOT].upper = UPPER_ROOT;
	v->upper->root->slot = TABLE_ROOT;
	*ret = v;
	return 0;
}

void view_free(struct view *v)
{
	if (!v)
		return;
	listed_fini(&v->listed);
	inlay_trees_free(v->trees);
	table_free(v->table);
	(void)pthread_rwlock_destroy(&v->lock);
	(void)pthread_mutex_destroy(&v->change);
	free(v);
}

/* ---- nodes ---- */

void view_set_node(struct view *v, struct node *n, const struct inlay_entry *e)
{
	n->mode = e->mode;
	n->size = e->size;
	n->mtime_ns = e->mtime_ns;
	n->id = e->id;
	n->uid = v->options.keep_owners ? e->uid : v->options.uid;
	n->gid = v->options.keep_owners ? e->gid : v->options.gid;
	n->subdirs = e->subdirs;
}

static uint32_t link_count(const struct view *v, const struct upper_node *un, uint32_t slot)
{
	const struct node *n = table_node(v->table, slot);

	if (S_ISDIR(n->mode))
		return n->flags & NODE_DEAD ? 0 : 2 + n->subdirs + (uint32_t)(un ? un->subdirs : 0);
	if (un)
		return un->links;
	uint32_t count = 0;
	for (uint32_t d = n->dents; d; d = table_dent(v->table, d)->next_link)
		count++;
	return count;
}

struct timespec view_time(int64_t ns)
{
	struct timespec ts = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	if (ts.tv_nsec < 0) {
		ts.tv_nsec += 1000000000;
		ts.tv_sec--;
	}
	return ts;
}

static int64_t newer(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* The attributes that the upper has for it. */
static void fill_upper(const struct view *v, const struct node *n, struct upper_node *un,
		       struct stat *st)
{
	bool base = upper_is_merged(un) && !inlay_digest_is_zero(&n->id);
	int64_t least = base && !un->exact_time ? n->mtime_ns : INT64_MIN;

	if (un->has_file)
		upper_stat(v->upper, un);
	/* The sizes and times of data files have a lock of their own, since looking at them sets them. */
	scope_lock(&v->upper->lock);
	st->st_atim = view_time(newer(un->atime_ns, least));
	st->st_mtim = view_time(newer(un->mtime_ns, least));
	st->st_ctim = view_time(newer(un->ctime_ns, least));
	if (!S_ISDIR(n->mode)) {
		st->st_size = (off_t)un->size;
		st->st_blocks = (blkcnt_t)(un->has_file ? un->blocks : (un->size + 511) / 512);
	}
	if (base && !un->own_attr)
		return;
	st->st_mode = un->mode;
	st->st_uid = un->uid;
	st->st_gid = un->gid;
}

static void fill_attr(const struct view *v, uint32_t slot, struct stat *st)
{
	const struct node *n = table_node(v->table, slot);
	struct upper_node *un = view_upper(v, slot);
	struct timespec mtime = view_time(n->mtime_ns);

	*st = (struct stat){.st_ino = table_number(v->table, slot),
			    .st_mode = n->mode,
			    .st_nlink = link_count(v, un, slot),
			    .st_uid = n->uid,
			    .st_gid = n->gid,
			    .st_size = (off_t)(S_ISDIR(n->mode) ? 4096 : n->size),
			    .st_blksize = 4096,
			    .st_atim = mtime,
			    .st_mtim = mtime,
			    .st_ctim = mtime};
	st->st_blocks = (st->st_size + 511) / 512;
	if (un)
		fill_upper(v, n, un, st);
}

void view_refer(struct node *n)
{
	/* Relaxed: the count says nothing about other memory; the lock orders the rest. */
	(void)__atomic_fetch_add(&n->nlookup, 1, __ATOMIC_RELAXED);
}

void view_answer(const struct view *v, uint32_t slot, struct view_entry *ret)
{
	ret->listed = false;
	ret->number = table_number(v->table, slot);
	fill_attr(v, slot, &ret->attr);
}

bool view_is_unsettled(const struct view *v, uint32_t slot)
{
	const struct upper_node *un = view_upper(v, slot);

	return un && un->count > 0 && S_ISDIR(un->mode) &&
	       !inlay_digest_equal(&un->settled_for, &table_node(v->table, slot)->id);
}

/* The attributes of a node that is the upper's alone, where the table itself looks at them. */
static void set_upper_node(struct node *n, const struct upper_node *un)
{
	n->mode = un->mode;
	n->uid = un->uid;
	n->gid = un->gid;
	n->mtime_ns = un->mtime_ns;
	if (un->from == UPPER_OBJECT)
		n->id = un->id;
	if (un->from == UPPER_OBJECT && S_ISDIR(un->mode))
		n->subdirs = (uint32_t)un->size;
}

static int make_node(struct view *v, const struct inlay_entry *lower, struct upper_node *un,
		     uint32_t *ret_slot, struct inlay_error *err)
{
	int r = table_add_node(v->table, ret_slot, err);

	if (r < 0)
		return r;
	struct node *n = table_node(v->table, *ret_slot);
	if (lower)
		view_set_node(v, n, lower);
	else
		set_upper_node(n, un);
	if (lower && S_ISLNK(lower->mode))
		r = table_set_target(v->table, *ret_slot, lower->target, lower->target_len, err);
	if (r < 0)
		table_free_node(v->table, *ret_slot);
	else if (un)
		n->upper = un->n;
	return r;
}

int view_learn(struct view *v, uint32_t parent, const char *name, size_t len,
	       const struct inlay_entry *lower, struct upper_node *un, uint32_t *ret_slot,
	       struct inlay_error *err)
{
	uint32_t slot, dent = table_find(v->table, parent, name, len);
	int r = 0;

	if (dent) {
		*ret_slot = table_dent(v->table, dent)->node;
		return 0;
	}
	if (un && un->slot)
		slot = un->slot; /* another name of it is known */
	else
		r = make_node(v, lower, un, &slot, err);
	if (r == 0)
		r = table_add_dent(v->table, parent, name, len, slot, &dent, err);
	if (r < 0) {
		if (!un || un->slot != slot)
			table_free_node(v->table, slot);
		return r;
	}
	if (un)
		un->slot = slot;
	*ret_slot = slot;
	return 0;
}

int view_at_dir(struct view *v, uint64_t number, struct at_dir *ret, struct inlay_error *err)
{
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	const struct node *n = table_node(v->table, slot);
	if (!S_ISDIR(n->mode))
		return inlay_error_set(err, -ENOTDIR, "not a directory");
	*ret = (struct at_dir){slot, n->id, n->flags & NODE_DEAD};
	return 0;
}

bool view_still_at(struct view *v, uint64_t number, const struct at_dir *at)
{
	struct at_dir now;

	return view_at_dir(v, number, &now, NULL) == 0 && now.dead == at->dead &&
	       inlay_digest_equal(&now.tree, &at->tree);
}

int view_open_base(struct view *v, const struct inlay_digest *tree, struct inlay_dir *ret,
		   struct inlay_error *err)
{
	if (inlay_digest_is_zero(tree))
		return INLAY_TREES_NONE;
	int r = inlay_dir_open(v->trees, tree, ret, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	return r;
}

enum view_shown view_shown(const struct upper_dent *d, const struct inlay_entry *lower)
{
	if (!d)
		return lower ? VIEW_LOWER : VIEW_NOTHING;
	if (!d->node)
		return VIEW_NOTHING;
	if (upper_is_merged(d->node) && lower && inlay_entry_is_dir(lower))
		return VIEW_LOWER;
	if (upper_is_solid(d->node))
		return VIEW_UPPER;
	return lower ? VIEW_LOWER : VIEW_NOTHING;
}

/* Answers from the table alone. False when the name is not known there. */
static bool lookup_known(struct view *v, const struct at_dir *at, const char *name, size_t len,
			 struct view_entry *ret)
{
	uint32_t dent = table_find(v->table, at->slot, name, len);

	if (!dent)
		return false;
	uint32_t slot = table_dent(v->table, dent)->node;
	view_refer(table_node(v->table, slot));
	view_answer(v, slot, ret);
	ret->listed = listed_is(v, table_number(v->table, at->slot), name, len);
	return true;
}

/* The answer from the store and the upper: the directory is opened without the lock, and must not have changed
 * when it is taken again. */
static int lookup_stored(struct view *v, uint64_t number, const struct at_dir *at, const char *name,
			 size_t len, struct view_entry *ret, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct inlay_entry e;
	int r = view_open_base(v, &at->tree, &dir, err);

	if (r == 0)
		r = inlay_dir_find(&dir, name, len, &e, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
	if (r < 0)
		return r;
	struct inlay_entry *lower = r == 0 ? &e : NULL;
	scope_wrlock(&v->lock);
	if (!view_still_at(v, number, at))
		return VIEW_RETRY;
	if (lookup_known(v, at, name, len, ret))
		return 0;
	struct upper_node *up = view_upper(v, at->slot);
	struct upper_dent *d = up ? upper_name(up, name, len) : NULL;
	enum view_shown shown = view_shown(d, lower);
	if (shown == VIEW_NOTHING) {
		table_node(v->table, at->slot)->flags |= NODE_NEGATIVE;
		*ret = (struct view_entry){.listed = listed_is(v, number, name, len)};
		return 0;
	}
	/* A merged directory that is no directory below, and shows nothing, is not there. */
	bool merged = shown == VIEW_LOWER && d && inlay_entry_is_dir(lower);
	uint32_t slot;
	r = view_learn(v, at->slot, name, len, shown == VIEW_LOWER ? lower : NULL,
		       shown == VIEW_UPPER || merged ? d->node : NULL, &slot, err);
	if (r < 0)
		return r;
	view_refer(table_node(v->table, slot));
	view_answer(v, slot, ret);
	ret->listed = listed_is(v, number, name, len);
	return 0;
}

static int lookup(struct view *v, uint64_t dir, const char *name, struct view_entry *ret,
		  struct inlay_error *err)
{
	size_t len = strlen(name);
	int r;

	if (len > INLAY_NAME_MAX)
		return inlay_error_set(err, -ENAMETOOLONG, "a name of %zu bytes", len);
	do {
		struct at_dir at;
		{
			scope_rdlock(&v->lock);
			r = view_at_dir(v, dir, &at, err);
			if (r < 0)
				return r;
			if (at.dead)
				return inlay_error_set(err, -ENOENT, "the directory was removed");
			if (lookup_known(v, &at, name, len, ret))
				return 0;
		}
		r = lookup_stored(v, dir, &at, name, len, ret, err);
	} while (r == VIEW_RETRY);
	return r;
}

int view_lookup(struct view *v, uint64_t dir, const char *name, struct view_entry *ret,
		struct inlay_error *err)
{
	int r = lookup(v, dir, name, ret, err);

	/* The kernel is to remember the right count of links. */
	if (r == 0 && ret->number && S_ISDIR(ret->attr.st_mode))
		r = view_getattr(v, ret->number, &ret->attr, err);
	return r;
}

void view_drop_if_unused(struct view *v, uint32_t slot)
{
	struct node *n = table_node(v->table, slot);

	if (slot == TABLE_ROOT || n->nlookup != 0 || n->dents != 0 || n->children != 0)
		return;
	struct upper_node *un = view_upper(v, slot);
	table_free_node(v->table, slot);
	if (un)
		upper_forgotten(v->upper, un);
}

void view_forget(struct view *v, uint64_t number, uint64_t count)
{
	bool unnamed;

	{
		scope_rdlock(&v->lock);
		uint32_t slot = table_slot(v->table, number);
		if (!slot)
			return;
		struct node *n = table_node(v->table, slot);
		uint64_t left = __atomic_sub_fetch(&n->nlookup, count, __ATOMIC_RELAXED);
		/* A node that has a name stays: its number is what stat() said before. */
		unnamed = left == 0 && n->dents == 0;
	}
	if (!unnamed)
		return;
	scope_lock(&v->change);
	scope_wrlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);
	if (slot)
		view_drop_if_unused(v, slot);
	upper_settle_nameless(v->upper);
}

/* Finds out what is below each of a directory's dents. */
static int settle(struct view *v, uint64_t number, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct inlay_entry e;
	struct at_dir at;

	scope_lock(&v->change);
	struct upper_node *un;
	{
		scope_rdlock(&v->lock);
		int r = view_at_dir(v, number, &at, err);
		if (r < 0)
			return r;
		un = view_upper(v, at.slot);
	}
	if (!un)
		return 0;
	int none = view_open_base(v, &at.tree, &dir, err);
	if (none < 0)
		return none;
	for (struct upper_dent *d = upper_from_hash(un, 0); d; d = upper_after(d)) {
		int r = none ? none : inlay_dir_find(&dir, d->name, d->name_len, &e, err);
		if (r == INLAY_TREES_MISSING)
			return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
		if (r < 0)
			return r;
		scope_wrlock(&v->lock);
		upper_set_below(d, view_below(r == 0 ? &e : NULL));
	}
	scope_wrlock(&v->lock);
	un->settled_for = at.tree;
	return 0;
}

int view_getattr(struct view *v, uint64_t number, struct stat *ret, struct inlay_error *err)
{
	for (;;) {
		{
			scope_rdlock(&v->lock);
			uint32_t slot = table_slot(v->table, number);
			if (!slot)
				return inlay_error_set(err, -ESTALE, "no such node");
			fill_attr(v, slot, ret);
			if (!view_is_unsettled(v, slot))
				return 0;
		}
		int r = settle(v, number, err);
		if (r < 0)
			return r;
	}
}

int view_readlink(struct view *v, uint64_t number, char ret[static INLAY_LINK_MAX + 1],
		  struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	const struct node *n = table_node(v->table, slot);
	if (!S_ISLNK(n->mode))
		return inlay_error_set(err, -EINVAL, "not a symlink");
	const struct upper_node *un = view_upper(v, slot);
	const char *target = un ? un->target : table_target(v->table, slot);
	size_t len = un ? (size_t)un->size : n->target_len;
	memcpy(ret, target, len);
	ret[len] = 0;
	return 0;
}

int view_content(struct view *v, uint64_t number, struct view_content *ret, struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	const struct node *n = table_node(v->table, slot);
	if (!S_ISREG(n->mode))
		return inlay_error_set(err, S_ISDIR(n->mode) ? -EISDIR : -EINVAL, "not a file");
	struct upper_node *un = view_upper(v, slot);
	if (un && un->from == UPPER_OWN)
		*ret = (struct view_content){.own = un, .file = un->n, .has_file = un->has_file};
	else
		*ret = (struct view_content){.id = un ? un->id : n->id,
					     .size = un ? un->size : n->size};
	return 0;
}

/* ---- the rest ---- */

void view_generation(struct view *v, struct inlay_generation *ret)
{
	scope_rdlock(&v->lock);
	*ret = v->gen;
}

void view_usage(struct view *v, struct view_usage *ret)
{
	struct table_usage u;

	scope_rdlock(&v->lock);
	table_usage(v->table, &u);
	*ret = (struct view_usage){.nodes = u.nodes,
				   .dents = u.dents,
				   .table_bytes = u.bytes,
				   .upper_names = v->upper->dent_count,
				   .orphans = v->upper->orphans,
				   .upper_damaged = v->upper->damaged,
				   .journal_bytes = v->upper->end};
}

int view_report_upper(struct view *v, struct inlay_trees *trees, struct inlay_buf *ret,
		      uint64_t *ret_count, struct inlay_error *err)
{
	/* Nothing changes the upper meanwhile; nothing of it is changed but the sizes of data files. */
	scope_lock(&v->change);
	return upper_report(v->upper, trees, &v->gen.root.tree, ret, ret_count, err);
}

static int pin_upper(struct view *v, view_pin_fn *fn, void *ctx)
{
	int r = 0;

	for (struct upper_dent *d = upper_walk(v->upper->root, NULL); d && r == 0;
	     d = upper_walk(v->upper->root, d))
		if (d->node && d->node->from == UPPER_OBJECT)
			r = fn(ctx, &d->node->id, S_ISDIR(d->node->mode));
	return r;
}

int view_pins(struct view *v, view_pin_fn *fn, void *ctx)
{
	scope_rdlock(&v->lock);
	for (uint32_t slot = TABLE_ROOT; slot < table_end(v->table); slot++) {
		const struct node *n = table_node(v->table, slot);
		if (n->nlookup == 0 || (n->flags & NODE_DEAD) || inlay_digest_is_zero(&n->id) ||
		    !(S_ISDIR(n->mode) || S_ISREG(n->mode)))
			continue;
		int r = fn(ctx, &n->id, S_ISDIR(n->mode));
		if (r != 0)
			return r;
	}
	return pin_upper(v, fn, ctx);
}
