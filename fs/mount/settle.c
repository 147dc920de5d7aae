/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a switch: what becomes of the names that went, came or got other content. They are collected while the
 * trees are compared and settled together, since only then it is known that what went here came there: a file
 * or directory that is the only one of its content on both sides keeps its node and was renamed.
 *
 * Each change goes into the replay list (listed.h) where somebody may watch. Where somebody was seen to watch, the
 * replay itself corrects what the kernel knows of a name, and there is no note for it; elsewhere there is
 * one, as if there were no replay.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>

#include "inlay/bytes.h"
#include "mount/view_private.h"

/* One side of a change. */
struct side {
	bool there;
	uint32_t mode, uid, gid, subdirs;
	uint64_t size;
	int64_t mtime_ns;
	struct inlay_digest id;
	struct inlay_tree_totals below;
};

struct changed {
	uint32_t dir, dent;
	struct listed_dir *path; /* NULL: nobody can watch there */
	char *name;
	uint8_t len;
	bool moved; /* it is one side of a rename */
	struct side before, after;
};

struct settle {
	struct view *v;
	const struct shapes *shapes;
	struct view_notes *notes;
	struct changed *names;
	size_t count, cap;
	bool dirs_went; /* a directory was removed */
};

int settle_begin(struct view *v, const struct shapes *shapes, struct view_notes *notes,
		 struct settle **ret, struct inlay_error *err)
{
	struct settle *s = calloc(1, sizeof *s);

	if (!s)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	s->v = v;
	s->shapes = shapes;
	s->notes = notes;
	notes->seq = ++v->listed.seq;
	*ret = s;
	return 0;
}

void settle_free(struct settle *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->count; i++) {
		listed_dir_unref(s->names[i].path);
		free(s->names[i].name);
	}
	free(s->names);
	free(s);
}

/* ---- notes ---- */

static int add_note(struct view_notes *notes, struct view_note n, const char *name, size_t len,
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
	inlay_buf_u8(&notes->names, 0); /* libfuse sends it, too */
	notes->notes[notes->count++] = n;
	return inlay_buf_check(&notes->names, err);
}

int settle_note(struct settle *s, enum view_note_kind kind, uint32_t slot, const char *name,
		size_t len, struct inlay_error *err)
{
	return add_note(s->notes,
			(struct view_note){.kind = kind, .number = table_number(s->v->table, slot)},
			name, len, err);
}

void view_notes_fini(struct view_notes *notes)
{
	free(notes->notes);
	inlay_buf_fini(&notes->names);
	*notes = (struct view_notes){0};
}

/* ---- what changed ---- */

/* The kernel knows the directory: somebody may watch it. */
static bool may_watch(const struct view *v, uint32_t slot)
{
	return __atomic_load_n(&table_node(v->table, slot)->nlookup, __ATOMIC_RELAXED) > 0;
}

/* The path of a directory that has its names, "" for the root. */
static struct listed_dir *path_of(const struct view *v, uint32_t slot)
{
	char path[PATH_MAX];
	size_t at = sizeof path;

	while (slot != TABLE_ROOT) {
		uint32_t d = table_node(v->table, slot)->dents;
		size_t len = d ? table_dent(v->table, d)->name_len : 0;
		if (!d || at < len + 1)
			return NULL;
		if (at < sizeof path)
			path[--at] = '/';
		at -= len;
		memcpy(path + at, table_name(v->table, d), len);
		slot = table_dent(v->table, d)->parent;
	}
	return listed_dir_new(path + at, sizeof path - at);
}

static struct listed_dir *path_at_hand(struct change *c)
{
	/* Before the first generation nobody can have looked. */
	if (!c->path && c->v->gen.number > 0 && may_watch(c->v, c->dir))
		c->path = path_of(c->v, c->dir);
	if (c->path)
		c->path->refs++;
	return c->path;
}

static struct side side_of(const struct inlay_entry *e)
{
	if (!e)
		return (struct side){0};
	return (struct side){.there = true,
			     .mode = e->mode,
			     .uid = e->uid,
			     .gid = e->gid,
			     .subdirs = e->subdirs,
			     .size = e->size,
			     .mtime_ns = e->mtime_ns,
			     .id = e->id,
			     .below = e->below};
}

int settle_name(struct change *c, uint32_t dent, const struct inlay_entry *before,
		const struct inlay_entry *after, struct inlay_error *err)
{
	struct settle *s = c->settle;
	const struct inlay_entry *e = after ? after : before;

	if (s->count == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 64;
		struct changed *more = reallocarray(s->names, cap, sizeof *more);
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		s->names = more;
		s->cap = cap;
	}
	char *name = inlay_dup(e->name, e->name_len);
	if (!name)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	s->names[s->count++] = (struct changed){.dir = c->dir,
						.dent = dent,
						.path = path_at_hand(c),
						.name = name,
						.len = e->name_len,
						.before = side_of(before),
						.after = side_of(after)};
	return 0;
}

/* ---- into the list ---- */

static struct listed_queue *queue_for(struct view *v, bool watched, bool touch)
{
	struct listed_list *l = &v->listed;

	return !watched ? &l->waiting : touch ? &l->touches : &l->names;
}

/* node: it keeps its node, which may be watched itself; 0: who watched the old one hears of its end. */
static void touch(struct settle *s, struct listed_dir *path, uint32_t dir, const char *name,
		  size_t len, uint32_t mode, int64_t mtime_ns, uint64_t node)
{
	struct view *v = s->v;
	uint64_t number = table_number(v->table, dir);
	bool watched = listed_watched(v, number) || (node && listed_watched(v, node));
	struct listed *e = listed_new(v, LISTED_TOUCHED, path, number, name, len);

	if (!e)
		return;
	e->mode = mode;
	e->mtime_ns = mtime_ns;
	e->attrs = node > 0;
	e->node = node;
	listed_add(v, e, queue_for(v, watched, true));
	s->notes->listed++;
}

void settle_attrs(struct change *c, const struct inlay_entry *after)
{
	struct view *v = c->v;
	uint32_t dent = table_find(v->table, c->dir, after->name, after->name_len);
	struct listed_dir *path = path_at_hand(c);

	if (path && dent)
		touch(c->settle, path, c->dir, after->name, after->name_len, after->mode,
		      after->mtime_ns, table_number(v->table, table_dent(v->table, dent)->node));
	listed_dir_unref(path);
}

static struct listed_was was_of(const struct side *b)
{
	return (struct listed_was){
		.size = b->size, .mtime_ns = b->mtime_ns, .id = b->id, .mode = b->mode};
}

/* A name that goes, comes or changes its type. True when the replay itself will tell the kernel. */
static bool list_name(struct settle *s, const struct changed *n, bool watched, bool in_dead)
{
	struct view *v = s->v;
	enum listed_kind kind = !n->before.there  ? LISTED_NEW
				: !n->after.there ? LISTED_GONE
						  : LISTED_REPLACED;
	uint32_t node = n->dent ? table_dent(v->table, n->dent)->node : 0;
	uint64_t dir = table_number(v->table, n->dir);
	struct listed_name *earlier = listed_find(v, dir, n->name, n->len);

	if (earlier)
		listed_drop(v, earlier->entry);
	struct listed *e = listed_new(v, kind, n->path, dir, n->name, n->len);
	if (!e)
		return false;
	if (n->before.there) {
		struct listed_was was = was_of(&n->before);
		listed_set_was(v, &e->at, node, &was);
	}
	e->mode = n->after.mode;
	e->mtime_ns = n->after.mtime_ns;
	e->empty = n->after.size == 0;
	e->in_dead = in_dead;
	watched = watched || listed_watched(v, dir) ||
		  (node && listed_watched(v, table_number(v->table, node)));
	listed_add(v, e, queue_for(v, watched, false));
	s->notes->listed++;
	s->notes->unnoted += watched;
	return watched;
}

/* ---- a name that goes ---- */

/* Each entry of a removed directory that the kernel knows, the deepest first. True when somebody was seen to watch
 * one of them. A tree that cannot be read costs the events, nothing else. */
static bool list_dead(struct settle *s, uint32_t slot, const struct inlay_digest *tree,
		      unsigned depth)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct view *v = s->v;
	struct listed_dir *path = may_watch(v, slot) ? path_of(v, slot) : NULL;
	struct inlay_entry e;
	bool watched = false;

	int r = depth > INLAY_DEPTH_MAX ? -1 : inlay_dir_open(v->trees, tree, &dir, NULL);
	while (r == 0 && inlay_dir_next(&dir, &e, NULL) == 0) {
		uint32_t dent = table_find(v->table, slot, e.name, e.name_len);
		uint32_t node = dent ? table_dent(v->table, dent)->node : 0;
		char name[INLAY_NAME_MAX + 1];
		memcpy(name, e.name, e.name_len);
		name[e.name_len] = 0;
		struct changed n = {.dir = slot,
				    .dent = dent,
				    .path = path,
				    .name = name,
				    .len = e.name_len,
				    .before = side_of(&e)};
		if (node && inlay_entry_is_dir(&e))
			watched |= list_dead(s, node, &n.before.id, depth + 1);
		if (path)
			watched |= list_name(s, &n, false, true);
	}
	listed_dir_unref(path);
	return watched;
}

static int look_at_tree(struct change *c, uint32_t slot, const struct inlay_digest *tree,
			unsigned depth)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct inlay_entry e;
	int r = inlay_dir_open(c->v->trees, tree, &dir, NULL);

	while (r == 0 && (r = inlay_dir_next(&dir, &e, NULL)) == 0) {
		uint32_t node = 0;
		if (!inlay_entry_is_dir(&e) || depth > INLAY_DEPTH_MAX)
			continue;
		{
			scope_rdlock(&c->v->lock);
			uint32_t dent = table_find(c->v->table, slot, e.name, e.name_len);
			node = dent ? table_dent(c->v->table, dent)->node : 0;
		}
		if (node)
			(void)look_at_tree(c, node, &e.id, depth + 1);
	}
	return r;
}

void settle_look(struct change *c, uint32_t dent, const struct inlay_entry *before,
		 const struct inlay_entry *after)
{
	uint32_t slot = 0;

	if (before && !after && inlay_entry_is_dir(before))
		shapes_add(c->shapes, before, true);
	if (after && !before && inlay_entry_is_dir(after))
		shapes_add(c->shapes, after, false);
	if (!dent || !before || !inlay_entry_is_dir(before))
		return;
	{
		scope_rdlock(&c->v->lock);
		slot = table_dent(c->v->table, dent)->node;
	}
	/* Without these trees there are no events; that is no reason not to switch. */
	if (slot)
		(void)look_at_tree(c, slot, &before->id, c->depth);
}

/* A name goes, with all that is known below it; the deepest names first. quiet: no notes. */
static int detach(struct settle *s, uint32_t dent, bool quiet, struct inlay_error *err)
{
	struct table *t = s->v->table;
	uint32_t slot = table_dent(t, dent)->node, parent = table_dent(t, dent)->parent;
	struct node *n = table_node(t, slot);
	bool is_dir = S_ISDIR(n->mode);
	int r = 0;

	while (r == 0 && n->children)
		r = detach(s, n->children, quiet, err);
	if (r == 0 && !quiet) {
		struct view_note note = {.kind = VIEW_NOTE_NAME,
					 .number = table_number(t, parent),
					 .child = table_number(t, slot)};
		/* The node's last name, and the kernel holds it: whoever watches the file itself hears. */
		if (!is_dir && n->nlookup > 0 && !table_dent(t, dent)->next_link &&
		    n->dents == dent)
			note.kind = VIEW_NOTE_GONE;
		r = add_note(s->notes, note, table_name(t, dent), table_dent(t, dent)->name_len,
			     err);
	}
	if (r < 0)
		return r;
	table_remove_dent(t, dent);
	if (is_dir) {
		/* The upper may still have a directory there, for whatever comes to its place. */
		struct upper_node *un = view_upper(s->v, slot);
		if (un)
			un->slot = 0;
		n->upper = 0;
		n->flags |= NODE_DEAD;
		s->dirs_went = true;
	}
	view_drop_if_unused(s->v, slot);
	return 0;
}

int settle_gone(struct settle *s, uint32_t dir, const char *name, size_t len,
		struct inlay_error *err)
{
	uint32_t dent = table_find(s->v->table, dir, name, len);
	int r = dent ? detach(s, dent, false, err)
		     : settle_note(s, VIEW_NOTE_NAME, dir, name, len, err);

	return r < 0 ? r : settle_note(s, VIEW_NOTE_LIST, dir, "", 0, err);
}

/* ---- renames ---- */

/* What the upper has at a name, or in the directory there, does not move with it. */
static bool has_upper(const struct view *v, const struct changed *n)
{
	const struct upper_node *dir = view_upper(v, n->dir);

	if (n->dent && view_upper(v, table_dent(v->table, n->dent)->node))
		return true;
	return dir && upper_name(dir, n->name, n->len);
}

static bool movable(const struct view *v, const struct changed *n, const struct side *side)
{
	return !has_upper(v, n) && n->path && side->there &&
	       (S_ISREG(side->mode) || S_ISDIR(side->mode)) &&
	       !listed_is(v, table_number(v->table, n->dir), n->name, n->len);
}

/* What went: nothing has its name now. What came: its name was free, or both are no directories. */
static bool may_go(const struct view *v, const struct changed *n)
{
	return !n->after.there && movable(v, n, &n->before);
}

static bool may_come(const struct view *v, const struct changed *n)
{
	return movable(v, n, &n->after) &&
	       (!n->before.there || (!S_ISDIR(n->before.mode) && !S_ISDIR(n->after.mode)));
}

struct candidate {
	struct changed *n;
	struct side *side;
	bool goes;
};

static int by_content(const void *a, const void *b)
{
	const struct side *x = ((const struct candidate *)a)->side;
	const struct side *y = ((const struct candidate *)b)->side;

	if ((x->mode & S_IFMT) != (y->mode & S_IFMT))
		return (x->mode & S_IFMT) < (y->mode & S_IFMT) ? -1 : 1;
	if (!S_ISDIR(x->mode))
		return memcmp(&x->id, &y->id, sizeof x->id);
	/* Trees with the same contents may have different ids (shapes.c). */
	if (x->below.entries != y->below.entries)
		return x->below.entries < y->below.entries ? -1 : 1;
	if (x->below.bytes != y->below.bytes)
		return x->below.bytes < y->below.bytes ? -1 : 1;
	return (x->subdirs > y->subdirs) - (x->subdirs < y->subdirs);
}

static bool same_content(const struct settle *s, const struct side *a, const struct side *b)
{
	return inlay_digest_equal(&a->id, &b->id) || shapes_same(s->shapes, &a->id, &b->id);
}

static int move_node(struct settle *s, struct changed *from, struct changed *to,
		     struct inlay_error *err)
{
	struct view *v = s->v;
	struct listed_was was = was_of(&from->before), over = was_of(&to->before);
	uint64_t d1 = table_number(v->table, from->dir), d2 = table_number(v->table, to->dir);
	uint32_t target = to->dent ? table_dent(v->table, to->dent)->node : 0, slot = 0, dent;
	struct listed *e = listed_new(v, LISTED_MOVED, from->path, d1, from->name, from->len);
	int r = 0;

	if (!e || !listed_set_to(e, to->path, d2, to->name, to->len)) {
		if (e)
			listed_drop(v, e);
		return 0;
	}
	if (from->dent)
		slot = table_dent(v->table, from->dent)->node;
	else
		r = table_add_node(v->table, &slot, err);
	if (!slot) {
		listed_drop(v, e);
		return r;
	}
	listed_set_was(v, &e->at, slot, &was);
	if (to->before.there)
		listed_set_was(v, &e->to, target, &over);
	bool watched = listed_watched(v, d1) || listed_watched(v, d2) ||
		       listed_watched(v, e->at.was.number) ||
		       (target && listed_watched(v, e->to.was.number));
	e->mode = to->after.mode;
	listed_add(v, e, queue_for(v, watched, false));
	s->notes->listed++;
	s->notes->unnoted += watched;
	from->moved = to->moved = true;
	if (!watched) {
		r = settle_note(s, VIEW_NOTE_NAME, from->dir, from->name, from->len, err);
		if (r == 0)
			r = settle_note(s, VIEW_NOTE_NAME, to->dir, to->name, to->len, err);
	}
	if (r == 0 && to->dent)
		r = detach(s, to->dent, true, err);
	if (r == 0 && from->dent)
		table_remove_dent(v->table, from->dent);
	if (r == 0)
		r = table_add_dent(v->table, to->dir, to->name, to->len, slot, &dent, err);
	if (r < 0)
		return r;
	struct inlay_entry now = {.mode = to->after.mode,
				  .size = to->after.size,
				  .mtime_ns = to->after.mtime_ns,
				  .id = to->after.id,
				  .uid = to->after.uid,
				  .gid = to->after.gid,
				  .subdirs = to->after.subdirs};
	view_set_node(v, table_node(v->table, slot), &now);
	if (S_ISDIR(now.mode)) {
		r = switch_kept_dir(s, v, slot, &was.id, &now.id, err);
		if (r < 0)
			return r;
	}
	if (from->before.mode == now.mode && from->before.mtime_ns == now.mtime_ns &&
	    from->before.uid == now.uid && from->before.gid == now.gid)
		return 0;
	return settle_note(s, VIEW_NOTE_ATTR, slot, "", 0, err);
}

/* Contents that went exactly once and came exactly once were renamed. */
static int find_moves(struct settle *s, struct inlay_error *err)
{
	size_t goes = 0, comes = 0, n = 0;
	int r = 0;

	for (size_t i = 0; i < s->count; i++) {
		goes += may_go(s->v, &s->names[i]);
		comes += may_come(s->v, &s->names[i]);
	}
	if (goes == 0 || comes == 0)
		return 0;
	auto_free struct candidate *all = reallocarray(NULL, goes + comes, sizeof *all);
	if (!all)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->count; i++) {
		struct changed *c = &s->names[i];
		if (may_go(s->v, c))
			all[n++] = (struct candidate){c, &c->before, true};
		if (may_come(s->v, c))
			all[n++] = (struct candidate){c, &c->after, false};
	}
	qsort(all, n, sizeof *all, by_content);
	for (size_t i = 0, end; r == 0 && i < n; i = end) {
		for (end = i + 1; end < n && by_content(&all[i], &all[end]) == 0; end++)
			;
		if (end - i != 2 || all[i].goes == all[i + 1].goes ||
		    !same_content(s, all[i].side, all[i + 1].side))
			continue;
		struct changed *a = all[i].n, *b = all[i + 1].n;
		r = all[i].goes ? move_node(s, a, b, err) : move_node(s, b, a, err);
	}
	return r;
}

/* ---- what an earlier switch left in the list ---- */

/* One of its names changes again: what is left to be raised is that one went and that the other came. */
static void split_move(struct settle *s, struct listed *e)
{
	struct view *v = s->v;
	struct listed_queue *queue = e->queue == &v->listed.waiting ? e->queue : &v->listed.names;
	uint32_t d1 = table_slot(v->table, e->at.dir), d2 = table_slot(v->table, e->to.dir);
	uint32_t over = e->to.was.number ? table_slot(v->table, e->to.was.number) : 0;
	struct listed *went =
		listed_new(v, LISTED_GONE, e->at.path, e->at.dir, e->at.name, e->at.len);
	struct listed *came = listed_new(v, e->to.old ? LISTED_REPLACED : LISTED_NEW, e->to.path,
					 e->to.dir, e->to.name, e->to.len);

	/* Not its node: that one lives on under the new name. */
	if (went)
		listed_set_was(v, &went->at, 0, &e->at.was);
	if (came && e->to.old)
		listed_set_was(v, &came->at, over, &e->to.was);
	if (came)
		came->mode = e->mode;
	if (d1)
		(void)!settle_note(s, VIEW_NOTE_NAME, d1, e->at.name, e->at.len, NULL);
	if (d2)
		(void)!settle_note(s, VIEW_NOTE_NAME, d2, e->to.name, e->to.len, NULL);
	listed_drop(v, e);
	if (went)
		listed_add(v, went, queue);
	if (came)
		listed_add(v, came, queue);
	s->notes->listed += 2;
}

/*
 * A name changes again before its events were raised: its entry becomes what lies between what watchers
 * heard of last and what is there now. True when that is all that has to be listed.
 */
static bool merge_again(struct settle *s, const struct changed *n)
{
	struct view *v = s->v;
	struct listed_name *name =
		n->path ? listed_find(v, table_number(v->table, n->dir), n->name, n->len) : NULL;

	if (name && name->entry->kind == LISTED_MOVED) {
		split_move(s, name->entry);
		name = listed_find(v, table_number(v->table, n->dir), n->name, n->len);
	}
	if (!name)
		return false;
	struct listed *e = name->entry;
	e->seq = v->listed.seq;
	s->notes->listed++;
	s->notes->unnoted++;
	e->make = n->after.there;
	e->mode = n->after.mode;
	e->mtime_ns = n->after.mtime_ns;
	e->empty = n->after.size == 0;
	e->failed = false;
	e->kind = !e->at.old ? LISTED_NEW : e->make ? LISTED_REPLACED : LISTED_GONE;
	if (!e->at.old && !e->make)
		listed_drop(v, e);
	return true;
}

/* Entries in directories that have gone since cannot be raised. */
static void drop_buried(struct view *v, struct listed_queue *q)
{
	for (struct listed *e = TAILQ_FIRST(q), *next; e; e = next) {
		uint32_t d1 = table_slot(v->table, e->at.dir);
		uint32_t d2 = e->to.name ? table_slot(v->table, e->to.dir) : TABLE_ROOT;
		next = TAILQ_NEXT(e, link);
		if (!e->in_dead &&
		    (!d1 || !d2 ||
		     ((table_node(v->table, d1)->flags | table_node(v->table, d2)->flags) &
		      NODE_DEAD)))
			listed_drop(v, e);
	}
}

/* ---- all together ---- */

static int apply(struct settle *s, struct changed *n, struct inlay_error *err)
{
	struct view *v = s->v;
	bool quiet = false, again = merge_again(s, n);
	bool same_type = n->before.there && n->after.there &&
			 (n->before.mode & S_IFMT) == (n->after.mode & S_IFMT);
	uint32_t node = n->dent ? table_dent(v->table, n->dent)->node : 0;

	if (!again && n->path && same_type) {
		touch(s, n->path, n->dir, n->name, n->len, n->after.mode, n->after.mtime_ns, 0);
	} else if (!again) {
		bool below = false;
		if (node && n->before.there && S_ISDIR(n->before.mode) && v->gen.number > 0) {
			below = list_dead(s, node, &n->before.id, 1);
			/* The helper's way to what is below leads through this name. */
			if (!n->path)
				n->path = path_of(v, n->dir);
		}
		if (n->path)
			quiet = list_name(s, n, below, false);
	}
	if (n->dent)
		return detach(s, n->dent, quiet, err);
	/* A name that is new to the kernel too: only where it was told before that it is not there. */
	if (!quiet && (!n->before.there || again) &&
	    (table_node(v->table, n->dir)->flags & NODE_NEGATIVE))
		return settle_note(s, VIEW_NOTE_NAME, n->dir, n->name, n->len, err);
	return 0;
}

int settle_apply(struct settle *s, struct inlay_error *err)
{
	int r = find_moves(s, err);

	for (size_t i = 0; r == 0 && i < s->count; i++)
		if (!s->names[i].moved)
			r = apply(s, &s->names[i], err);
	if (r == 0 && s->dirs_went && s->v->listed.count > 0) {
		drop_buried(s->v, &s->v->listed.waiting);
		drop_buried(s->v, &s->v->listed.names);
		drop_buried(s->v, &s->v->listed.running);
	}
	return r;
}
