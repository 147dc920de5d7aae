/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the names of a directory to its blocks. Where all names of a block are as they were, the old
 * block is taken; where that holds for the whole directory, nothing is sorted and nothing is made.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scan/walk.h"
#include "tree/encode.h"

static int no_memory(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOMEM, "out of memory");
}

/* ---- order ---- */

static int by_hash_and_name(const void *a, const void *b)
{
	const struct scan_order *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	size_t nx = x->item->name_len, ny = y->item->name_len;
	int c = memcmp(x->item->name, y->item->name, nx < ny ? nx : ny);
	return c ? c : (nx > ny) - (nx < ny);
}

/* What a directory that changed, or only its part that did, is made of. */
struct piece {
	struct scan_order *order;
	size_t count;
};

/* Sorts the items, those of directories only when `dirs` is set, and drops names that came twice. */
static int sort_items(struct scan_lister *l, bool dirs, struct piece *ret, struct inlay_error *err)
{
	const struct scan_item *items = (const struct scan_item *)l->items.data;
	size_t count = scan_item_count(l), to = 0;

	inlay_buf_clear(&l->order);
	struct scan_order *order =
		(struct scan_order *)inlay_buf_reserve(&l->order, (count + 1) * sizeof *order);
	if (!order)
		return inlay_buf_check(&l->order, err);
	for (size_t i = 0; i < count; i++)
		if (!dirs || items[i].type == S_IFDIR)
			order[to++] = (struct scan_order){items[i].hash, &items[i]};
	qsort(order, to, sizeof *order, by_hash_and_name);
	count = to;
	to = count > 0;
	for (size_t i = 1; i < count; i++)
		if (by_hash_and_name(&order[to - 1], &order[i]) != 0)
			order[to++] = order[i];
	*ret = (struct piece){order, to};
	return 0;
}

/* ---- blocks ---- */

static bool is_special(const struct scan_item *item)
{
	return item->type != S_IFREG && item->type != S_IFDIR && item->type != S_IFLNK;
}

static const struct scan_entry *old_entry(const struct scan_node *node,
					  const struct scan_item *item)
{
	return &node->before->blocks[item->old_block]->entries[item->old_entry];
}

static size_t heap_bytes(const struct scan_node *node, const struct scan_item *item)
{
	if (item->type != S_IFLNK)
		return item->name_len;
	return item->name_len +
	       (size_t)(item->clean ? old_entry(node, item)->size : item->entry.size);
}

/* Writes entry number `at` and what it has in the heap. */
static void put_item(const struct scan_lister *l, const struct scan_node *node,
		     struct scan_block *b, uint32_t at, const struct scan_order *o, uint32_t off)
{
	const struct scan_item *item = o->item;
	const struct scan_block *old = item->clean ? node->before->blocks[item->old_block] : NULL;
	struct scan_entry *e = &b->entries[at];
	char *heap = (char *)b->heap + off;

	*e = old ? old->entries[item->old_entry] : item->entry;
	e->name_off = off;
	memcpy(heap, item->name, item->name_len);
	if (item->type == S_IFLNK)
		memcpy(heap + item->name_len,
		       old ? scan_target(old, old_entry(node, item))
			   : (const char *)l->targets.data + item->target,
		       e->size);
	((uint32_t *)b->hashes)[at] = (uint32_t)(o->hash >> 32);
	if (b->owners)
		((struct scan_owner *)b->owners)[at] =
			old ? old->owners[item->old_entry] : item->owner;
	b->subdirs += item->type == S_IFDIR;
	b->specials += is_special(item);
}

static struct scan_block *make_block(const struct scan_lister *l, const struct scan_node *node,
				     const struct scan_order *order, size_t count, int64_t seen_ns)
{
	size_t heap = 0;
	uint32_t off = 0;

	for (size_t i = 0; i < count; i++)
		heap += heap_bytes(node, order[i].item);
	if (heap > UINT32_MAX || count > UINT32_MAX)
		return NULL;
	struct scan_block *b =
		scan_block_new((uint32_t)count, (uint32_t)heap, l->walk->options->owners);
	if (!b)
		return NULL;
	b->seen_ns = seen_ns;
	for (uint32_t i = 0; i < count; i++) {
		put_item(l, node, b, i, &order[i], off);
		off += (uint32_t)heap_bytes(node, order[i].item);
	}
	return b;
}

/* The block for items that are all there is in it. */
static struct scan_block *block_for(const struct scan_lister *l, const struct scan_node *node,
				    uint32_t number, const struct scan_order *order, size_t count)
{
	const struct scan_dir *d = node->before;
	bool clean = true;

	for (size_t i = 0; i < count && clean; i++)
		clean = order[i].item->clean;
	/* With the same number of buckets clean items stand in the block of the same number. */
	if (d && d->bits == node->bits && clean && count == d->blocks[number]->count)
		return scan_block_ref(d->blocks[number]);
	return make_block(l, node, order, count, l->seen_ns);
}

static bool is_touched(const struct scan_lister *l, uint32_t block)
{
	return l->whole || (l->touched.data[block / 8] >> block % 8 & 1);
}

static int make_blocks(struct scan_lister *l, struct scan_node *node, const struct piece *p,
		       struct inlay_error *err)
{
	size_t at = 0;

	node->blocks = calloc((size_t)1 << node->bits, sizeof(struct scan_block *));
	if (!node->blocks)
		return no_memory(err);
	for (uint32_t b = 0; b < 1u << node->bits; b++) {
		size_t end = at;
		while (end < p->count &&
		       (node->bits == 0 || p->order[end].hash >> (64 - node->bits) == b))
			end++;
		node->blocks[b] = is_touched(l, b) ? block_for(l, node, b, p->order + at, end - at)
						   : scan_block_ref(node->before->blocks[b]);
		if (!node->blocks[b])
			return no_memory(err);
		at = end;
	}
	return 0;
}

/* ---- directories in it ---- */

/* A place among the old entries, and how many directories stand before it. */
struct cursor {
	const struct scan_dir *d;
	uint32_t block, entry, rank;
};

static void move_to(struct cursor *c, uint32_t block, uint32_t entry)
{
	while (c->block < block || c->entry < entry) {
		const struct scan_block *b = c->d->blocks[c->block];
		if (c->block < block && c->entry == 0) {
			c->rank += b->subdirs;
			c->block++;
		} else if (c->entry < b->count) {
			c->rank += S_ISDIR(b->entries[c->entry].mode);
			c->entry++;
		} else {
			c->block++;
			c->entry = 0;
		}
	}
}

static bool same_directory(const struct scan_node *node, const struct scan_item *item)
{
	const struct scan_entry *old = old_entry(node, item);

	return old->ino == item->entry.ino && old->dev == item->entry.dev &&
	       old->ctime_ns == item->entry.ctime_ns;
}

static int add_child(struct scan_lister *l, struct scan_node *node, const struct scan_item *item,
		     struct cursor *old, struct inlay_error *err)
{
	uint32_t index = node->child_count++;
	struct scan_wants wants = {0};
	struct scan_dir *before = NULL;

	if (node->before && item->was_same) {
		move_to(old, item->old_block, (uint32_t)item->old_entry);
		before = node->before->children[old->rank];
	}
	/* Another directory of the same name was moved here: nothing is known of what is in it. */
	if (before && node->wants.paths && same_directory(node, item) &&
	    !scan_wants_child(node, item->name, item->name_len, &wants)) {
		node->children[index] = scan_dir_ref(before);
		return 0;
	}
	struct scan_node *child = scan_node_new(node, item->name, item->name_len);
	if (!child)
		return no_memory(err);
	child->index = index;
	child->before = before;
	child->wants = wants;
	child->dev = item->entry.dev;
	child->folder_mtime_ns = item->folder_mtime_ns;
	child->next = l->children;
	l->children = child;
	l->child_nodes++;
	return 0;
}

/* The directories of a block that nobody looked at. */
static void keep_children(struct scan_node *node, uint32_t block, struct cursor *old)
{
	move_to(old, block, 0);
	for (uint32_t i = 0; i < node->before->blocks[block]->subdirs; i++)
		node->children[node->child_count++] =
			scan_dir_ref(node->before->children[old->rank + i]);
}

static int make_children(struct scan_lister *l, struct scan_node *node, const struct piece *p,
			 struct inlay_error *err)
{
	struct cursor old = {.d = node->before};
	size_t count = 0, at = 0;
	int r = 0;

	for (size_t i = 0; i < p->count; i++)
		count += p->order[i].item->type == S_IFDIR;
	for (uint32_t b = 0; !l->whole && b < 1u << node->bits; b++)
		count += is_touched(l, b) ? 0 : node->before->blocks[b]->subdirs;
	if (count == 0)
		return 0;
	node->children = calloc(count, sizeof(struct scan_dir *));
	if (!node->children)
		return no_memory(err);
	for (uint32_t b = 0; r == 0 && b < 1u << node->bits; b++) {
		if (!is_touched(l, b))
			keep_children(node, b, &old);
		for (; r == 0 && at < p->count &&
		       (node->bits == 0 || p->order[at].hash >> (64 - node->bits) == b);
		     at++)
			if (p->order[at].item->type == S_IFDIR)
				r = add_child(l, node, p->order[at].item, &old, err);
	}
	return r;
}

/* ---- the directory ---- */

static uint64_t visible_in(const struct scan_block *b)
{
	return b->count - b->specials;
}

/* Names that stand in the tree, now; *ret_new when they, or their types, are not those of before. */
static uint64_t count_visible(const struct scan_lister *l, const struct scan_node *node,
			      const struct piece *p, bool *ret_new)
{
	const struct scan_dir *d = node->before;
	uint64_t now = 0, before = 0;

	*ret_new = false;
	for (size_t i = 0; i < p->count; i++) {
		if (is_special(p->order[i].item))
			continue;
		now++;
		*ret_new |= !p->order[i].item->was_same;
	}
	for (uint32_t i = 0; d && i < d->block_count; i++) {
		before += visible_in(d->blocks[i]);
		now += is_touched(l, i) ? 0 : visible_in(d->blocks[i]);
	}
	*ret_new |= !d || now != before;
	return now;
}

static bool nothing_changed(const struct scan_lister *l, const struct scan_node *node)
{
	const struct scan_item *items = (const struct scan_item *)l->items.data;
	size_t count = scan_item_count(l);

	if (!node->before || !l->whole || count != l->old_count)
		return false;
	for (size_t i = 0; i < count; i++)
		if (!items[i].clean)
			return false;
	return true;
}

static int compose_changed(struct scan_lister *l, struct scan_node *node, struct piece *p,
			   struct inlay_error *err)
{
	int r = sort_items(l, false, p, err);

	if (r < 0)
		return r;
	node->bits = tree_split_bits(count_visible(l, node, p, &node->listing_is_new));
	if (!l->whole && node->bits != node->before->bits) {
		/* The names spread over other buckets: all of them are needed. */
		r = scan_take_untouched(l, node, err);
		if (r == 0)
			r = sort_items(l, false, p, err);
		if (r < 0)
			return r;
	}
	return make_blocks(l, node, p, err);
}

int scan_compose(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	struct piece p;
	int r;

	node->same_blocks = nothing_changed(l, node);
	if (node->same_blocks) {
		node->bits = node->before->bits;
		r = sort_items(l, true, &p, err);
	} else {
		r = compose_changed(l, node, &p, err);
	}
	if (r == 0)
		r = make_children(l, node, &p, err);
	node->listed = r == 0;
	return r;
}
