/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/view.h"

#include <errno.h>
#include <stdlib.h>

#include "mount/view_private.h"

int view_new(const struct view_options *options, struct view **ret, struct inlay_error *err)
{
	struct view *v = calloc(1, sizeof *v);

	if (!v)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	v->options = *options;
	listed_init(&v->listed);
	(void)pthread_rwlock_init(&v->lock, NULL);
	int r = table_new(&v->table, err);
	if (r == 0)
		r = inlay_trees_new(options->store, options->tree_cache_bytes, &v->trees, err);
	if (r < 0) {
		view_free(v);
		return r;
	}
	v->table->nodes[TABLE_ROOT].flags = NODE_DEAD; /* until the first switch */
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

static uint32_t link_count(const struct view *v, const struct node *n, uint32_t slot)
{
	if (S_ISDIR(n->mode))
		return n->flags & NODE_DEAD ? 0 : 2 + n->subdirs;
	uint32_t count = 0;
	for (uint32_t d = table_node(v->table, slot)->dents; d;
	     d = table_dent(v->table, d)->next_link)
		count++;
	return count;
}

static void fill_attr(const struct view *v, uint32_t slot, struct stat *st)
{
	const struct node *n = table_node(v->table, slot);
	struct timespec mtime = {.tv_sec = n->mtime_ns / 1000000000,
				 .tv_nsec = n->mtime_ns % 1000000000};

	if (mtime.tv_nsec < 0) {
		mtime.tv_nsec += 1000000000;
		mtime.tv_sec--;
	}
	*st = (struct stat){.st_ino = table_number(v->table, slot),
			    .st_mode = n->mode,
			    .st_nlink = link_count(v, n, slot),
			    .st_uid = n->uid,
			    .st_gid = n->gid,
			    .st_size = (off_t)(S_ISDIR(n->mode) ? 4096 : n->size),
			    .st_blksize = 4096,
			    .st_atim = mtime,
			    .st_mtim = mtime,
			    .st_ctim = mtime};
	st->st_blocks = (st->st_size + 511) / 512;
}

static void take_reference(struct node *n)
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

/* A node for an entry of the shown tree that the table does not know yet. Lock held for writing. */
static int learn(struct view *v, uint32_t parent, const struct inlay_entry *e, uint32_t *ret_slot,
		 struct inlay_error *err)
{
	uint32_t slot, dent;
	int r = table_add_node(v->table, &slot, err);

	if (r < 0)
		return r;
	view_set_node(v, table_node(v->table, slot), e);
	if (S_ISLNK(e->mode))
		r = table_set_target(v->table, slot, e->target, e->target_len, err);
	if (r == 0)
		r = table_add_dent(v->table, parent, e->name, e->name_len, slot, &dent, err);
	if (r < 0) {
		table_free_node(v->table, slot);
		return r;
	}
	*ret_slot = slot;
	return 0;
}

/* What a directory's node says now. */
struct at_dir {
	uint32_t slot;
	struct inlay_digest tree;
	bool dead;
};

/* Lock held. */
static int look_at_dir(struct view *v, uint64_t number, struct at_dir *ret, struct inlay_error *err)
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

/* The directory still is what it was when its tree was opened. Lock held. */
static bool still_at(struct view *v, uint64_t number, const struct at_dir *at)
{
	struct at_dir now;

	return look_at_dir(v, number, &now, NULL) == 0 && now.dead == at->dead &&
	       inlay_digest_equal(&now.tree, &at->tree);
}

static int missing_tree(struct inlay_error *err)
{
	return inlay_error_set(err, -EIO, "a directory's tree is not in the store");
}

/* Answers from the table alone. False when the name is not known there. */
static bool lookup_known(struct view *v, const struct at_dir *at, const char *name, size_t len,
			 struct view_entry *ret)
{
	uint32_t dent = table_find(v->table, at->slot, name, len);

	if (!dent)
		return false;
	uint32_t slot = table_dent(v->table, dent)->node;
	take_reference(table_node(v->table, slot));
	view_answer(v, slot, ret);
	ret->listed = listed_is(v, table_number(v->table, at->slot), name, len);
	return true;
}

enum { RETRY = 1 };

/* The answer from the store: the directory is opened without the lock, and must not have changed when it is
 * taken again. */
static int lookup_stored(struct view *v, uint64_t number, const struct at_dir *at, const char *name,
			 size_t len, struct view_entry *ret, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct inlay_entry e;
	int r = inlay_dir_open(v->trees, &at->tree, &dir, err);

	if (r == 0)
		r = inlay_dir_find(&dir, name, len, &e, err);
	if (r == INLAY_TREES_MISSING)
		return missing_tree(err);
	if (r < 0)
		return r;
	bool found = r == 0;
	scope_wrlock(&v->lock);
	if (!still_at(v, number, at))
		return RETRY;
	if (lookup_known(v, at, name, len, ret))
		return 0;
	if (!found) {
		table_node(v->table, at->slot)->flags |= NODE_NEGATIVE;
		*ret = (struct view_entry){.listed = listed_is(v, number, name, len)};
		return 0;
	}
	uint32_t slot;
	r = learn(v, at->slot, &e, &slot, err);
	if (r < 0)
		return r;
	take_reference(table_node(v->table, slot));
	view_answer(v, slot, ret);
	ret->listed = listed_is(v, number, name, len);
	return 0;
}

int view_lookup(struct view *v, uint64_t dir, const char *name, struct view_entry *ret,
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
			r = look_at_dir(v, dir, &at, err);
			if (r < 0)
				return r;
			if (at.dead)
				return inlay_error_set(err, -ENOENT, "the directory was removed");
			if (lookup_known(v, &at, name, len, ret))
				return 0;
		}
		r = lookup_stored(v, dir, &at, name, len, ret, err);
	} while (r == RETRY);
	return r;
}

void view_drop_if_unused(struct view *v, uint32_t slot)
{
	struct node *n = table_node(v->table, slot);

	if (slot != TABLE_ROOT && n->nlookup == 0 && n->dents == 0 && n->children == 0)
		table_free_node(v->table, slot);
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
	scope_wrlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);
	if (slot)
		view_drop_if_unused(v, slot);
}

int view_getattr(struct view *v, uint64_t number, struct stat *ret, struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	fill_attr(v, slot, ret);
	return 0;
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
	memcpy(ret, table_target(v->table, slot), n->target_len);
	ret[n->target_len] = 0;
	return 0;
}

int view_content(struct view *v, uint64_t number, struct inlay_digest *ret_id, uint64_t *ret_size,
		 struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	const struct node *n = table_node(v->table, slot);
	if (!S_ISREG(n->mode))
		return inlay_error_set(err, S_ISDIR(n->mode) ? -EISDIR : -EINVAL, "not a file");
	*ret_id = n->id;
	*ret_size = n->size;
	return 0;
}

/* ---- listing ---- */

/*
 * A position in a directory is the hash of the name before it, shifted to fit the kernel's signed offset;
 * 1 and 2 stand behind "." and "..".
 */
enum { BEHIND_DOT = 1, BEHIND_DOTS = 2 };

static uint64_t position_of(uint64_t hash)
{
	return hash >> 1 > BEHIND_DOTS ? hash >> 1 : BEHIND_DOTS + 1;
}

struct lister {
	struct view *v;
	struct at_dir at;
	bool plus;
	view_list_fn *fn;
	void *ctx;
};

/* "." and ".."; true when both were taken or lie before the position. */
static bool list_dots(const struct lister *l, uint64_t position)
{
	struct view *v = l->v;
	uint32_t dent = table_node(v->table, l->at.slot)->dents;
	struct view_entry self, parent;

	view_answer(v, l->at.slot, &self);
	view_answer(v, dent ? table_dent(v->table, dent)->parent : l->at.slot, &parent);
	self.attr.st_mode = parent.attr.st_mode = S_IFDIR;
	if (position < BEHIND_DOT && !l->fn(l->ctx, ".", &self, BEHIND_DOT))
		return false;
	return position >= BEHIND_DOTS || l->fn(l->ctx, "..", &parent, BEHIND_DOTS);
}

/* Finds or makes the entry's node. Without plus only what is known gets its number. */
static int entry_node(const struct lister *l, const struct inlay_entry *e, uint32_t *ret_slot,
		      struct inlay_error *err)
{
	uint32_t dent = table_find(l->v->table, l->at.slot, e->name, e->name_len);

	if (dent) {
		*ret_slot = table_dent(l->v->table, dent)->node;
		return 0;
	}
	*ret_slot = 0;
	return l->plus ? learn(l->v, l->at.slot, e, ret_slot, err) : 0;
}

static int list_entry(const struct lister *l, const struct inlay_entry *e, uint64_t next,
		      bool *ret_more, struct inlay_error *err)
{
	char name[INLAY_NAME_MAX + 1];
	struct view_entry entry = {.number = UINT32_MAX, .attr = {.st_mode = e->mode}};
	uint32_t slot;
	int r = entry_node(l, e, &slot, err);

	if (r < 0)
		return r;
	if (slot)
		view_answer(l->v, slot, &entry);
	entry.listed = listed_is(l->v, table_number(l->v->table, l->at.slot), e->name, e->name_len);
	entry.attr.st_ino = entry.number;
	memcpy(name, e->name, e->name_len);
	name[e->name_len] = 0;
	*ret_more = l->fn(l->ctx, name, &entry, next);
	if (*ret_more && l->plus)
		take_reference(table_node(l->v->table, slot));
	return 0;
}

/* The entries of the leaf at hand. Lock held for writing; no I/O. */
static int list_leaf(const struct lister *l, struct inlay_dir *dir, struct inlay_error *err)
{
	struct inlay_entry e, next;
	bool more = inlay_dir_at_hand(dir);
	int r = more ? inlay_dir_next(dir, &e, err) : 0;

	while (r == 0 && more) {
		uint64_t position = position_of(inlay_name_hash(e.name, e.name_len));
		bool has_next = inlay_dir_at_hand(dir);
		if (has_next) {
			r = inlay_dir_next(dir, &next, err);
			if (r != 0)
				break;
			/* Two names with one position: a stream that stops between them gives the first
			 * one twice rather than losing the second. */
			if (position_of(inlay_name_hash(next.name, next.name_len)) == position)
				position--;
		}
		r = list_entry(l, &e, position, &more, err);
		more = more && has_next;
		e = next;
	}
	return r;
}

static int list_stored(struct lister *l, uint64_t number, uint64_t position,
		       struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	int r = inlay_dir_open(l->v->trees, &l->at.tree, &dir, err);

	if (r == 0)
		r = inlay_dir_seek(&dir, position <= BEHIND_DOTS ? 0 : (position + 1) << 1, err);
	if (r == 0)
		r = inlay_dir_fetch(&dir, err);
	if (r == INLAY_TREES_MISSING)
		return missing_tree(err);
	if (r < 0)
		return r;
	scope_wrlock(&l->v->lock);
	if (!still_at(l->v, number, &l->at))
		return RETRY;
	if (position < BEHIND_DOTS && !list_dots(l, position))
		return 0;
	return list_leaf(l, &dir, err);
}

int view_list(struct view *v, uint64_t dir, uint64_t position, bool plus, view_list_fn *fn,
	      void *ctx, struct inlay_error *err)
{
	struct lister l = {.v = v, .plus = plus, .fn = fn, .ctx = ctx};
	int r;

	if (position >= INT64_MAX)
		return 0;
	do {
		{
			scope_rdlock(&v->lock);
			r = look_at_dir(v, dir, &l.at, err);
			if (r < 0)
				return r;
			if (l.at.dead)
				return 0;
		}
		r = list_stored(&l, dir, position, err);
	} while (r == RETRY);
	return r;
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
	*ret = (struct view_usage){u.nodes, u.dents, u.bytes};
}

int view_pins(struct view *v, int (*fn)(void *ctx, const struct inlay_digest *id, bool is_tree),
	      void *ctx)
{
	scope_rdlock(&v->lock);
	for (uint32_t slot = TABLE_ROOT; slot < table_end(v->table); slot++) {
		const struct node *n = table_node(v->table, slot);
		if (n->nlookup == 0 || (n->flags & NODE_DEAD) || S_ISLNK(n->mode))
			continue;
		int r = fn(ctx, &n->id, S_ISDIR(n->mode));
		if (r != 0)
			return r;
	}
	return 0;
}
