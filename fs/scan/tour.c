/* SPDX-License-Identifier: Apache-2.0 */
/* Going through a snapshot: names for messages, places of files, sums. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/text.h"
#include "scan/snapshot.h"

/* A directory that lies in the one at hand. */
struct below {
	const char *name;
	struct scan_dir *dir;
	uint8_t name_len;
};

struct scan_stop {
	struct scan_dir *dir;
	const char *name;
	uint8_t name_len;
	struct scan_place *place; /* NULL: not needed yet */
	struct below *below;      /* sorted */
	uint32_t below_count, next;
};

void scan_tour_fini(struct scan_tour *t)
{
	for (size_t i = 0; i < t->depth; i++)
		free(t->stops[i].below);
	free(t->stops);
	t->stops = NULL;
	t->depth = 0;
}

static int by_name(const void *a, const void *b)
{
	const struct below *x = a, *y = b;
	size_t nx = x->name_len, ny = y->name_len;
	int c = memcmp(x->name, y->name, nx < ny ? nx : ny);

	return c ? c : (nx > ny) - (nx < ny);
}

static void list_below(struct scan_stop *stop, bool (*into)(const struct scan_dir *d))
{
	const struct scan_dir *d = stop->dir;
	uint32_t child = 0;

	for (uint32_t b = 0; b < d->block_count; b++) {
		const struct scan_block *block = d->blocks[b];
		for (uint32_t i = 0; i < block->count && block->subdirs; i++) {
			const struct scan_entry *e = &block->entries[i];
			if (!S_ISDIR(e->mode))
				continue;
			struct scan_dir *c = d->children[child++];
			if (!into || into(c))
				stop->below[stop->below_count++] =
					(struct below){scan_name(block, e), c, e->name_len};
		}
	}
	qsort(stop->below, stop->below_count, sizeof *stop->below, by_name);
}

static int go_down(struct scan_tour *t, const struct below *to, struct inlay_error *err)
{
	if (t->depth == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 16;
		struct scan_stop *stops = reallocarray(t->stops, cap, sizeof *stops);
		if (!stops)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		t->stops = stops;
		t->cap = cap;
	}
	struct scan_stop stop = {.dir = to->dir, .name = to->name, .name_len = to->name_len};
	if (to->dir->child_count > 0) {
		stop.below = calloc(to->dir->child_count, sizeof *stop.below);
		if (!stop.below)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		list_below(&stop, t->into);
	}
	t->stops[t->depth++] = stop;
	return 0;
}

int scan_tour_next(struct scan_tour *t, struct scan_dir **ret, struct inlay_error *err)
{
	struct below root = {.name = "", .dir = t->snapshot->root};
	const struct below *to = NULL;

	if (!t->started && (!t->into || t->into(root.dir)))
		to = &root;
	t->started = true;
	while (!to && t->depth > 0) {
		struct scan_stop *stop = &t->stops[t->depth - 1];
		if (stop->next < stop->below_count) {
			to = &stop->below[stop->next++];
		} else {
			free(stop->below);
			t->depth--;
		}
	}
	if (!to)
		return SCAN_TOUR_END;
	int r = go_down(t, to, err);
	if (r == 0)
		*ret = to->dir;
	return r;
}

static struct scan_place *new_place(struct inlay_snapshot *s, struct scan_place *parent,
				    const struct scan_stop *stop)
{
	struct scan_place *p = malloc(sizeof *p);

	if (!p)
		return NULL;
	*p = (struct scan_place){
		.parent = parent, .dir = stop->dir, .name = stop->name, .name_len = stop->name_len};
	scope_lock(&s->lock);
	p->next = s->places;
	s->places = p;
	return p;
}

struct scan_place *scan_tour_place(struct scan_tour *t)
{
	struct scan_place *parent = NULL;

	for (size_t i = 0; i < t->depth; i++) {
		struct scan_stop *stop = &t->stops[i];
		if (!stop->place)
			stop->place = new_place(t->snapshot, parent, stop);
		if (!stop->place)
			return NULL;
		parent = stop->place;
	}
	return parent;
}

void scan_tour_path(const struct scan_tour *t, struct inlay_buf *path)
{
	for (size_t i = 1; i < t->depth; i++) {
		inlay_buf_add(path, t->stops[i].name, t->stops[i].name_len);
		inlay_buf_u8(path, '/');
	}
}

void scan_place_path(const struct scan_place *p, struct inlay_buf *path)
{
	const struct scan_place *up[INLAY_DEPTH_MAX + 2];
	size_t depth = 0;

	for (; p->parent; p = p->parent)
		up[depth++] = p;
	while (depth-- > 0) {
		inlay_buf_add(path, up[depth]->name, up[depth]->name_len);
		inlay_buf_u8(path, '/');
	}
}

void scan_show_path(struct inlay_buf *shown, const void *path, size_t len)
{
	enum { HEAD = 300, TAIL = 400 };
	auto_buf struct inlay_buf all = {0};

	inlay_text_escape(&all, path, len);
	if (all.failed) {
		shown->failed = true;
		return;
	}
	if (all.len <= HEAD + TAIL) {
		inlay_buf_add(shown, all.data, all.len);
		return;
	}
	inlay_buf_add(shown, all.data, HEAD);
	inlay_buf_add(shown, "[...]", 5);
	inlay_buf_add(shown, all.data + all.len - TAIL, TAIL);
}

/* ---- sums ---- */

static bool has_special(const struct scan_dir *d)
{
	return d->sums.special > 0;
}

/* The path of an entry of the directory at hand, as a string of its own. */
static char *path_text(const struct scan_tour *t, const struct scan_block *b,
		       const struct scan_entry *e)
{
	struct inlay_buf path = {0};

	scan_tour_path(t, &path);
	inlay_buf_add(&path, scan_name(b, e), e->name_len);
	(void)inlay_buf_cstr(&path);
	if (path.failed)
		inlay_buf_fini(&path);
	return (char *)path.data;
}

/* Those of one block, up to INLAY_SCAN_NAMES in all. False when memory is out. */
static bool name_in_block(const struct scan_tour *t, const struct scan_block *b, size_t *count)
{
	char **names = t->snapshot->stats.special_names;

	for (uint32_t i = 0; b->specials && i < b->count && *count < INLAY_SCAN_NAMES; i++) {
		if (!scan_is_special(&b->entries[i]))
			continue;
		names[*count] = path_text(t, b, &b->entries[i]);
		if (!names[*count])
			return false;
		++*count;
	}
	return true;
}

static int name_special(struct inlay_snapshot *s, struct inlay_error *err)
{
	auto_of(scan_tour_fini) struct scan_tour t = {.snapshot = s, .into = has_special};
	struct scan_dir *d;
	size_t count = 0;
	int r = 0;

	while (count < INLAY_SCAN_NAMES && (r = scan_tour_next(&t, &d, err)) == 0)
		for (uint32_t b = 0; b < d->block_count; b++)
			if (!name_in_block(&t, d->blocks[b], &count))
				return inlay_error_set(err, -ENOMEM, "out of memory");
	return r < 0 ? r : 0;
}

int scan_snapshot_count(struct inlay_snapshot *s, struct inlay_error *err)
{
	const struct scan_sums *sums = &s->root->sums;

	s->stats = (struct inlay_scan_stats){
		.files = sums->files,
		.dirs = sums->dirs,
		.symlinks = sums->symlinks,
		.bytes = sums->bytes,
		.dirty = sums->dirty,
		.dirty_bytes = sums->dirty_bytes,
		.ignored = sums->ignored,
		.special = sums->special,
		.hardlinked = sums->linked,
	};
	return sums->special > 0 ? name_special(s, err) : 0;
}
