/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/bytes.h"
#include "mount/listed.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "mount/view_private.h"

void listed_init(struct listed_list *l)
{
	TAILQ_INIT(&l->waiting);
	TAILQ_INIT(&l->names);
	TAILQ_INIT(&l->touches);
	TAILQ_INIT(&l->running);
}

static void free_entry(struct listed *e)
{
	listed_dir_unref(e->at.path);
	listed_dir_unref(e->to.path);
	free((char *)e->at.name);
	free((char *)e->to.name);
	free(e);
}

static void free_queue(struct listed_queue *q)
{
	struct listed *e;

	while ((e = TAILQ_FIRST(q))) {
		TAILQ_REMOVE(q, e, link);
		free_entry(e);
	}
}

void listed_fini(struct listed_list *l)
{
	free_queue(&l->waiting);
	free_queue(&l->names);
	free_queue(&l->touches);
	free_queue(&l->running);
	free(l->watched);
}

/* ---- paths ---- */

struct listed_dir *listed_dir_new(const char *path, size_t len)
{
	struct listed_dir *d = len < PATH_MAX ? malloc(sizeof *d + len + 1) : NULL;

	if (!d)
		return NULL;
	d->refs = 1;
	d->len = len;
	memcpy(d->path, path, len);
	d->path[len] = 0;
	return d;
}

void listed_dir_unref(struct listed_dir *dir)
{
	if (dir && --dir->refs == 0)
		free(dir);
}

/* ---- entries ---- */

static bool set_name(struct listed *e, struct listed_name *n, struct listed_dir *dir,
		     uint64_t number, const char *name, size_t len)
{
	n->name = inlay_dup(name, len);
	if (!n->name)
		return false;
	n->len = (uint8_t)len;
	n->dir = number;
	n->path = dir;
	n->entry = e;
	dir->refs++;
	return true;
}

struct listed *listed_new(struct view *v, enum listed_kind kind, struct listed_dir *dir,
			  uint64_t at_dir, const char *name, size_t len)
{
	struct listed_list *l = &v->listed;
	struct listed *e = NULL;

	if (dir && l->count < INLAY_REPLAY_MAX)
		e = calloc(1, sizeof *e);
	if (e && !set_name(e, &e->at, dir, at_dir, name, len)) {
		free_entry(e);
		e = NULL;
	}
	if (!e) {
		l->skipped++;
		return NULL;
	}
	e->kind = kind;
	e->seq = l->seq;
	e->make = kind == LISTED_NEW || kind == LISTED_REPLACED;
	return e;
}

bool listed_set_to(struct listed *e, struct listed_dir *dir, uint64_t to_dir, const char *name,
		   size_t len)
{
	return dir && set_name(e, &e->to, dir, to_dir, name, len);
}

void listed_set_was(struct view *v, struct listed_name *n, uint32_t slot,
		    const struct listed_was *was)
{
	n->old = true;
	n->was = *was;
	n->was.number = 0;
	if (!slot)
		return;
	n->was.number = table_number(v->table, slot);
	(void)__atomic_fetch_add(&table_node(v->table, slot)->nlookup, 1, __ATOMIC_RELAXED);
}

/* Gives back the list's reference. */
static void put_was(struct view *v, struct listed_name *n)
{
	uint32_t slot = n->was.number ? table_slot(v->table, n->was.number) : 0;

	n->was.number = 0;
	if (slot &&
	    __atomic_sub_fetch(&table_node(v->table, slot)->nlookup, 1, __ATOMIC_RELAXED) == 0)
		view_drop_if_unused(v, slot);
}

static struct listed_name **bucket(const struct view *v, uint64_t dir, const char *name, size_t len)
{
	uint64_t h = inlay_xxh3(name, len) ^ dir * 0x9e3779b97f4a7c15ull;

	return (struct listed_name **)&v->listed.table[(h >> 17) % LISTED_HASH];
}

static void hash_name(struct view *v, struct listed_name *n)
{
	struct listed_name **at = bucket(v, n->dir, n->name, n->len);

	n->next = *at;
	*at = n;
	n->hashed = true;
	v->listed.hashed++;
}

static void unhash_name(struct view *v, struct listed_name *n)
{
	if (!n->hashed)
		return;
	struct listed_name **at = bucket(v, n->dir, n->name, n->len);
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	n->hashed = false;
	v->listed.hashed--;
}

void listed_add(struct view *v, struct listed *e, struct listed_queue *queue)
{
	if (e->kind != LISTED_TOUCHED)
		hash_name(v, &e->at);
	if (e->kind == LISTED_MOVED)
		hash_name(v, &e->to);
	e->queue = queue;
	TAILQ_INSERT_TAIL(queue, e, link);
	v->listed.count++;
}

static void unlist(struct view *v, struct listed *e)
{
	unhash_name(v, &e->at);
	unhash_name(v, &e->to);
	put_was(v, &e->at);
	put_was(v, &e->to);
}

void listed_drop(struct view *v, struct listed *e)
{
	unlist(v, e);
	if (e->queue) {
		TAILQ_REMOVE(e->queue, e, link);
		v->listed.count--;
	}
	free_entry(e);
}

void listed_requeue(struct listed *e, struct listed_queue *queue)
{
	TAILQ_REMOVE(e->queue, e, link);
	e->queue = queue;
	TAILQ_INSERT_TAIL(queue, e, link);
}

struct listed_name *listed_find(const struct view *v, uint64_t dir, const char *name, size_t len)
{
	if (v->listed.hashed == 0)
		return NULL;
	struct listed_name *n = *bucket(v, dir, name, len);
	while (n && !(n->dir == dir && n->len == len && memcmp(n->name, name, len) == 0))
		n = n->next;
	return n;
}

bool listed_is(const struct view *v, uint64_t dir, const char *name, size_t len)
{
	return listed_find(v, dir, name, len) != NULL;
}

void listed_overtake(const struct view *v, uint64_t dir, const char *name, size_t len)
{
	struct listed_name *n = listed_find(v, dir, name, len);

	if (n)
		n->entry->overtaken = true;
}

/* A name that the helper may still change. */
static struct listed_name *find_open(const struct view *v, uint64_t dir, const char *name)
{
	struct listed_name *n = listed_find(v, dir, name, strlen(name));

	return n && !n->entry->overtaken ? n : NULL;
}

bool listed_watched(const struct view *v, uint64_t number)
{
	const struct listed_list *l = &v->listed;
	size_t lo = 0, hi = l->watched_count;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (l->watched[mid] == number)
			return true;
		if (l->watched[mid] < number)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

/* ---- what the helper does ---- */

/* What was there and has no node any more gets one, for the helper alone. */
static int node_of_was(struct view *v, struct listed_was *was, uint32_t *ret_slot,
		       struct inlay_error *err)
{
	uint32_t slot = was->number ? table_slot(v->table, was->number) : 0;

	if (!slot) {
		struct inlay_entry e = {.mode = was->mode,
					.size = was->size,
					.mtime_ns = was->mtime_ns,
					.id = was->id,
					.uid = v->options.uid,
					.gid = v->options.gid};
		int r = table_add_node(v->table, &slot, err);
		if (r < 0)
			return r;
		struct node *n = table_node(v->table, slot);
		view_set_node(v, n, &e);
		n->nlookup = 1;
		if (S_ISDIR(e.mode))
			n->flags |= NODE_DEAD;
		was->number = table_number(v->table, slot);
	}
	*ret_slot = slot;
	return 0;
}

int listed_lookup(struct view *v, uint64_t dir, const char *name, struct view_entry *ret,
		  struct inlay_error *err)
{
	uint32_t slot;

	scope_wrlock(&v->lock);
	struct listed_name *n = find_open(v, dir, name);
	if (!n)
		return LISTED_NOT;
	*ret = (struct view_entry){.listed = true};
	if (!n->old)
		return 0;
	int r = node_of_was(v, &n->was, &slot, err);
	if (r < 0)
		return r;
	(void)__atomic_fetch_add(&table_node(v->table, slot)->nlookup, 1, __ATOMIC_RELAXED);
	view_answer(v, slot, ret);
	ret->listed = true;
	/* With 0 links the kernel would not say that the last one went. */
	if (ret->attr.st_nlink == 0)
		ret->attr.st_nlink = S_ISDIR(ret->attr.st_mode) ? 2 : 1;
	return 0;
}

int listed_make(struct view *v, uint64_t dir, const char *name, uint32_t type,
		struct view_entry *ret, struct inlay_error *err)
{
	size_t len = strlen(name);
	int r = view_lookup(v, dir, name, ret, err);

	if (r < 0)
		return r;
	{
		scope_wrlock(&v->lock);
		struct listed_name *n = find_open(v, dir, name);
		struct listed *e = n ? n->entry : NULL;
		uint32_t now = table_find(v->table, table_slot(v->table, dir), name, len);
		uint32_t slot = now ? table_dent(v->table, now)->node : 0;
		/* Another switch may have come since the lookup: only what is there now is given. */
		if (e && e->make && !n->old && slot &&
		    table_number(v->table, slot) == ret->number &&
		    (ret->attr.st_mode & S_IFMT) == (mode_t)(type & S_IFMT)) {
			unlist(v, e);
			e->kind = LISTED_TOUCHED;
			e->close_only = true;
			ret->listed = false;
			return 0;
		}
	}
	if (ret->number)
		view_forget(v, ret->number, 1);
	return LISTED_NOT;
}

int listed_remove(struct view *v, uint64_t dir, const char *name, bool is_dir)
{
	scope_wrlock(&v->lock);
	struct listed_name *n = find_open(v, dir, name);

	if (!n || !n->old || n->entry->kind == LISTED_MOVED || S_ISDIR(n->was.mode) != is_dir)
		return LISTED_NOT;
	put_was(v, n);
	n->old = false;
	if (!n->entry->make)
		listed_drop(v, n->entry);
	return 0;
}

int listed_rename(struct view *v, uint64_t dir, const char *name, uint64_t to_dir,
		  const char *to_name)
{
	scope_wrlock(&v->lock);
	struct listed_name *n = find_open(v, dir, name);
	struct listed_name *to = find_open(v, to_dir, to_name);

	if (!n || !to || n->entry != to->entry || to != &n->entry->to)
		return LISTED_NOT;
	listed_drop(v, n->entry);
	return 0;
}
