/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "inlay/text.h"

static_assert(sizeof(struct scan_entry) == 80, "what a file costs, here and in the stat cache");

/* Whoever gives a reference holds one, so counting up orders nothing; the last one down must see
 * what all others did. */
static void count_up(unsigned *refs)
{
	(void)__atomic_add_fetch(refs, 1, __ATOMIC_RELAXED);
}

static bool count_down(unsigned *refs)
{
	return __atomic_sub_fetch(refs, 1, __ATOMIC_ACQ_REL) == 0;
}

static void arena_unref(struct scan_arena *a)
{
	if (!count_down(&a->refs))
		return;
	(void)munmap(a->map, a->map_len);
	free(a->dirs);
	free(a->blocks);
	free(a->pointers);
	free(a->leaves);
	free(a);
}

/* ---- blocks ---- */

struct scan_block *scan_block_ref(struct scan_block *b)
{
	count_up(&b->refs);
	return b;
}

void scan_block_unref(struct scan_block *b)
{
	if (!b || !count_down(&b->refs))
		return;
	if (b->arena)
		arena_unref(b->arena);
	else
		free(b);
}

struct scan_block *scan_block_new(uint32_t count, uint32_t heap_len, bool owners)
{
	size_t entries = count * sizeof(struct scan_entry);
	size_t owned = owners ? count * sizeof(struct scan_owner) : 0;
	size_t hashes = count * sizeof(uint32_t);
	struct scan_block *b = malloc(sizeof *b + entries + owned + hashes + heap_len);

	if (!b)
		return NULL;
	uint8_t *at = (uint8_t *)(b + 1);
	*b = (struct scan_block){.refs = 1, .count = count, .heap_len = heap_len};
	b->entries = (struct scan_entry *)at;
	b->owners = owners ? (struct scan_owner *)(at + entries) : NULL;
	b->hashes = (uint32_t *)(at + entries + owned);
	b->heap = (char *)(at + entries + owned + hashes);
	return b;
}

static size_t heap_bytes(const struct scan_entry *e)
{
	return e->name_len + (S_ISLNK(e->mode) ? (size_t)e->size : 0);
}

struct scan_block *scan_block_without(const struct scan_block *b, const bool *drop)
{
	uint32_t count = 0, to = 0, off = 0;
	size_t heap = 0;

	for (uint32_t i = 0; i < b->count; i++) {
		count += !drop[i];
		heap += drop[i] ? 0 : heap_bytes(&b->entries[i]);
	}
	struct scan_block *c = scan_block_new(count, (uint32_t)heap, b->owners != NULL);
	if (!c)
		return NULL;
	c->seen_ns = b->seen_ns;
	for (uint32_t i = 0; i < b->count; i++) {
		const struct scan_entry *e = &b->entries[i];
		if (drop[i])
			continue;
		c->entries[to] = *e;
		c->entries[to].name_off = off;
		memcpy((char *)c->heap + off, scan_name(b, e), heap_bytes(e));
		off += (uint32_t)heap_bytes(e);
		((uint32_t *)c->hashes)[to] = b->hashes[i];
		if (b->owners)
			((struct scan_owner *)c->owners)[to] = b->owners[i];
		c->subdirs += S_ISDIR(e->mode);
		c->specials += scan_is_special(e);
		to++;
	}
	return c;
}

/* The first entry whose hash is not below `top`. Hashes are even, so its place is known nearly: the
 * search starts there and widens, which keeps it logarithmic for names made to clash. */
static uint32_t first_from(const struct scan_block *b, uint8_t bits, uint64_t hash, uint32_t top)
{
	uint32_t guess = (uint32_t)(((hash << bits) >> 32) * b->count >> 32);
	uint32_t low = guess, high = guess, step = 2;

	for (; low > 0 && b->hashes[low - 1] >= top; step *= 2) {
		high = low;
		low -= step < low ? step : low;
	}
	for (step = 2; high < b->count && b->hashes[high] < top; step *= 2) {
		low = high + 1;
		high += step < b->count - high ? step : b->count - high;
	}
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		if (b->hashes[mid] < top)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int64_t scan_block_find(const struct scan_block *b, uint8_t bits, uint64_t hash, const char *name,
			size_t len)
{
	uint32_t top = (uint32_t)(hash >> 32);

	if (b->count == 0)
		return -1;
	for (uint32_t at = first_from(b, bits, hash, top); at < b->count && b->hashes[at] == top;
	     at++) {
		const struct scan_entry *e = &b->entries[at];
		if (e->name_len == len && memcmp(scan_name(b, e), name, len) == 0)
			return at;
	}
	return -1;
}

/* ---- directories ---- */

struct scan_dir *scan_dir_ref(struct scan_dir *d)
{
	count_up(&d->refs);
	return d;
}

/* Puts it on the list when this was the last reference. */
static void let_go(struct scan_dir *d, struct scan_dir **list)
{
	if (d && count_down(&d->refs)) {
		d->next = *list;
		*list = d;
	}
}

void scan_dir_unref(struct scan_dir *d)
{
	struct scan_dir *list = NULL;

	/* Not recursive: a tree is up to INLAY_DEPTH_MAX deep, and threads have small stacks. */
	let_go(d, &list);
	while (list) {
		d = list;
		list = d->next;
		let_go(d->before, &list);
		for (uint32_t i = 0; i < d->block_count; i++)
			scan_block_unref(d->blocks[i]);
		for (uint32_t i = 0; i < d->child_count; i++)
			let_go(d->children[i], &list);
		if (d->arena) {
			arena_unref(d->arena);
		} else {
			free(d->leaves);
			free(d);
		}
	}
}

struct scan_dir *scan_dir_new(uint8_t bits, uint32_t child_count)
{
	uint32_t blocks = 1u << bits;
	struct scan_dir *d = calloc(1, sizeof *d + (blocks + child_count) * sizeof(void *));

	if (!d)
		return NULL;
	d->refs = 1;
	d->bits = bits;
	d->block_count = blocks;
	d->child_count = child_count;
	d->blocks = (struct scan_block **)(d + 1);
	d->children = (struct scan_dir **)(d->blocks + blocks);
	if (bits) {
		d->leaves = calloc(blocks, sizeof *d->leaves);
		if (!d->leaves) {
			free(d);
			return NULL;
		}
	}
	return d;
}

static void add_entry(struct scan_sums *sums, const struct scan_entry *e)
{
	if (S_ISREG(e->mode)) {
		sums->files++;
		sums->bytes += e->size;
		sums->linked += (e->flags & SCAN_LINKED) != 0;
		if (e->flags & SCAN_DIRTY) {
			sums->dirty++;
			sums->dirty_bytes += e->size;
		}
	} else if (S_ISDIR(e->mode)) {
		sums->dirs++;
	} else if (S_ISLNK(e->mode)) {
		sums->symlinks++;
	} else {
		sums->special++;
	}
}

static void add_sums(struct scan_sums *sums, const struct scan_sums *more)
{
	sums->files += more->files;
	sums->dirs += more->dirs;
	sums->symlinks += more->symlinks;
	sums->special += more->special;
	sums->linked += more->linked;
	sums->bytes += more->bytes;
	sums->dirty += more->dirty;
	sums->dirty_bytes += more->dirty_bytes;
	sums->ignored += more->ignored;
}

void scan_dir_sum(struct scan_dir *d)
{
	d->sums = (struct scan_sums){.ignored = d->ignored};
	for (uint32_t b = 0; b < d->block_count; b++)
		for (uint32_t i = 0; i < d->blocks[b]->count; i++)
			add_entry(&d->sums, &d->blocks[b]->entries[i]);
	for (uint32_t i = 0; i < d->child_count; i++)
		add_sums(&d->sums, &d->children[i]->sums);
}

/* ---- snapshots ---- */

struct inlay_snapshot *scan_snapshot_new(void)
{
	struct inlay_snapshot *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->refs = 1;
	if (pthread_mutex_init(&s->lock, NULL) != 0) {
		free(s);
		return NULL;
	}
	return s;
}

struct inlay_snapshot *inlay_snapshot_ref(struct inlay_snapshot *s)
{
	count_up(&s->refs);
	return s;
}

void inlay_snapshot_unref(struct inlay_snapshot *s)
{
	if (!s || !count_down(&s->refs))
		return;
	while (s->places) {
		struct scan_place *p = s->places;
		s->places = p->next;
		free(p);
	}
	for (size_t i = 0; i < INLAY_SCAN_NAMES; i++)
		free(s->stats.special_names[i]);
	scan_dir_unref(s->root);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}

const struct inlay_scan_stats *inlay_snapshot_stats(const struct inlay_snapshot *s)
{
	return &s->stats;
}

void inlay_snapshot_identity(const struct inlay_snapshot *s, uint64_t *ret_dev, uint64_t *ret_ino)
{
	*ret_dev = s->dev;
	*ret_ino = s->ino;
}

struct scan_saved scan_snapshot_saved(struct inlay_snapshot *s)
{
	scope_lock(&s->lock);
	return s->saved;
}

bool inlay_snapshot_has_dir(const struct inlay_snapshot *s, const char *path)
{
	const struct scan_dir *d = s->root;

	while (*path) {
		size_t len = strcspn(path, "/");
		uint64_t hash = inlay_name_hash(path, len);
		uint32_t number = scan_block_of(d, hash), child = 0;
		const struct scan_block *b = d->blocks[number];
		int64_t at = scan_block_find(b, d->bits, hash, path, len);
		if (at < 0 || !S_ISDIR(b->entries[at].mode))
			return false;
		for (uint32_t i = 0; i < number; i++)
			child += d->blocks[i]->subdirs;
		for (int64_t i = 0; i < at; i++)
			child += S_ISDIR(b->entries[i].mode);
		d = d->children[child];
		path += len + (path[len] == '/');
	}
	return true;
}
