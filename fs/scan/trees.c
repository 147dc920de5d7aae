/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a snapshot to tree objects, bottom-up, only where something is new. A directory that lists the
 * same as in the last snapshot takes its id from there; in a split one that holds for each bucket.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scan/snapshot.h"
#include "tree/encode.h"

struct builder {
	struct inlay_snapshot *snapshot;
	int64_t now_ns;
	struct tree_encoder enc;
	struct inlay_buf entries; /* struct inlay_entry */
	struct inlay_buf sorted;  /* struct tree_sorted */
	struct inlay_buf node;    /* of a split directory */
	struct inlay_buf way;     /* struct stop: down to the directory at hand */
};

struct stop {
	struct scan_dir *dir;
	uint32_t next;
};

static void builder_fini(struct builder *b)
{
	tree_encoder_fini(&b->enc);
	inlay_buf_fini(&b->entries);
	inlay_buf_fini(&b->sorted);
	inlay_buf_fini(&b->node);
	inlay_buf_fini(&b->way);
}
INLAY_DEFINE_FINI(struct builder, builder_fini)

/* ---- is it as it was? ---- */

static bool same_entry(const struct scan_block *a, uint32_t i, const struct scan_block *b,
		       uint32_t k)
{
	const struct scan_entry *x = &a->entries[i], *y = &b->entries[k];

	if (x->mode != y->mode || x->name_len != y->name_len ||
	    memcmp(scan_name(a, x), scan_name(b, y), x->name_len) != 0)
		return false;
	if (a->owners &&
	    (a->owners[i].uid != b->owners[k].uid || a->owners[i].gid != b->owners[k].gid))
		return false;
	if (S_ISDIR(x->mode))
		return true;
	if (x->size != y->size || x->mtime_ns != y->mtime_ns)
		return false;
	if (S_ISLNK(x->mode))
		return memcmp(scan_target(a, x), scan_target(b, y), x->size) == 0;
	return inlay_digest_equal(&x->id, &y->id);
}

static uint32_t skip_special(const struct scan_block *b, uint32_t i)
{
	while (i < b->count && scan_is_special(&b->entries[i]))
		i++;
	return i;
}

static bool same_entries(const struct scan_block *a, const struct scan_block *b)
{
	uint32_t i = skip_special(a, 0), k = skip_special(b, 0);

	if (a == b)
		return true;
	if ((a->owners != NULL) != (b->owners != NULL))
		return false;
	while (i < a->count && k < b->count) {
		if (!same_entry(a, i, b, k))
			return false;
		i = skip_special(a, i + 1);
		k = skip_special(b, k + 1);
	}
	return i == a->count && k == b->count;
}

/* The same bucket, with the same trees below. `*x` and `*y` are the numbers of the directories before
 * it; they move behind it. */
static bool same_bucket(const struct scan_dir *now, const struct scan_dir *before, uint32_t number,
			uint32_t *x, uint32_t *y)
{
	const struct scan_block *a = now->blocks[number], *b = before->blocks[number];
	bool same = same_entries(a, b);

	for (uint32_t i = 0; same && i < a->subdirs; i++) {
		const struct scan_dir *c = now->children[*x + i], *d = before->children[*y + i];
		same = c == d ||
		       (inlay_digest_equal(&c->tree.id, &d->tree.id) && c->mtime_ns == d->mtime_ns);
	}
	*x += a->subdirs;
	*y += b->subdirs;
	return same;
}

/* ---- encoding ---- */

static struct inlay_entry entry_for(const struct scan_dir *d, const struct scan_block *b,
				    uint32_t i, uint32_t child)
{
	const struct scan_entry *e = &b->entries[i];
	struct inlay_entry out = {
		.name = scan_name(b, e), .name_len = e->name_len, .mode = e->mode};

	if (b->owners) {
		out.uid = b->owners[i].uid;
		out.gid = b->owners[i].gid;
	}
	if (S_ISDIR(e->mode)) {
		const struct scan_dir *c = d->children[child];
		out.id = c->tree.id;
		out.below = c->tree.below;
		out.subdirs = c->tree.subdirs;
		out.mtime_ns = c->mtime_ns;
		return out;
	}
	out.size = e->size;
	out.mtime_ns = e->mtime_ns;
	if (S_ISLNK(e->mode)) {
		out.target = scan_target(b, e);
		out.target_len = (uint16_t)e->size;
	} else {
		out.id = e->id;
	}
	return out;
}

static int refuse(const struct scan_block *b, const struct scan_entry *e, const char *why,
		  struct inlay_error *err)
{
	auto_buf struct inlay_buf shown = {0};

	scan_show_path(&shown, scan_name(b, e), e->name_len);
	return inlay_error_set(err, -EINVAL, "'%s' %s", inlay_buf_cstr(&shown), why);
}

/* Encodes one block; *ret_own is the number of its entries in the tree. */
static int encode_block(struct builder *b, const struct scan_dir *d, uint32_t number,
			uint32_t child, struct inlay_tree_built *ret, uint32_t *ret_own,
			struct inlay_error *err)
{
	const struct scan_block *block = d->blocks[number];
	size_t room = block->count + (size_t)1;
	uint32_t own = 0;

	inlay_buf_clear(&b->entries);
	inlay_buf_clear(&b->sorted);
	struct inlay_entry *entries =
		(struct inlay_entry *)inlay_buf_reserve(&b->entries, room * sizeof *entries);
	struct tree_sorted *sorted =
		(struct tree_sorted *)inlay_buf_reserve(&b->sorted, room * sizeof *sorted);
	if (!entries || !sorted)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < block->count; i++) {
		const struct scan_entry *e = &block->entries[i];
		if (scan_is_special(e))
			continue;
		if (e->flags & SCAN_DIRTY)
			return refuse(block, e, "was not read", err);
		entries[own] = entry_for(d, block, i, child);
		if (!tree_entry_can_stand(&entries[own]))
			return refuse(block, e, "cannot stand in a tree", err);
		child += S_ISDIR(e->mode);
		sorted[own] = (struct tree_sorted){inlay_name_hash(entries[own].name, e->name_len),
						   &entries[own]};
		own++;
	}
	*ret_own = own;
	/* An empty bucket is no object, an empty directory is. */
	return own > 0 || d->bits == 0 ? tree_encode_leaf(&b->enc, sorted, own, ret, err) : 0;
}

static int build_leaf(struct builder *b, struct scan_dir *d, struct inlay_error *err)
{
	uint32_t own, x = 0, y = 0;

	if (d->before && d->before->bits == 0 && same_bucket(d, d->before, 0, &x, &y)) {
		d->tree = d->before->tree;
		return 0;
	}
	return encode_block(b, d, 0, 0, &d->tree, &own, err);
}

static uint32_t own_entries(const struct scan_block *b)
{
	return b->count - b->specials;
}

static int build_split(struct builder *b, struct scan_dir *d, struct inlay_error *err)
{
	const struct scan_dir *before = d->before && d->before->bits == d->bits ? d->before : NULL;
	uint32_t x = 0, y = 0, same = 0;

	inlay_buf_clear(&b->node);
	uint8_t *node = inlay_buf_reserve(&b->node, tree_split_bytes(d->bits));
	if (!node)
		return inlay_buf_check(&b->node, err);
	memset(node, 0, tree_split_bytes(d->bits));
	for (uint32_t i = 0; i < d->block_count; i++) {
		uint32_t child = x, own = own_entries(d->blocks[i]);
		if (!before)
			x += d->blocks[i]->subdirs;
		if (before && same_bucket(d, before, i, &x, &y)) {
			d->leaves[i] = before->leaves[i];
			same++;
		} else {
			int r = encode_block(b, d, i, child, &d->leaves[i], &own, err);
			if (r < 0)
				return r;
		}
		tree_set_bucket(node, i, &d->leaves[i], own);
	}
	if (same == d->block_count) {
		d->tree = before->tree;
		return 0;
	}
	return tree_encode_split(&b->enc, node, d->bits, &d->tree, err);
}

static int build_dir(struct builder *b, struct scan_dir *d, struct inlay_error *err)
{
	int r = d->bits ? build_split(b, d, err) : build_leaf(b, d, err);
	if (r < 0)
		return r;
	if (d->listing_is_new)
		d->mtime_ns = b->now_ns;
	d->listing_is_new = false;
	scan_dir_sum(d); /* files may have got another size when they were read */
	d->built = true;
	scan_dir_unref(take_ptr(d->before));
	return 0;
}

/* ---- the whole ---- */

static int visit(struct builder *b, struct scan_dir *d, struct inlay_error *err)
{
	struct stop stop = {d, 0};

	inlay_buf_add(&b->way, &stop, sizeof stop);
	return inlay_buf_check(&b->way, err);
}

/* Children before their directory, without recursion. */
static int build_all(struct builder *b, struct inlay_error *err)
{
	int r = b->snapshot->root->built ? 0 : visit(b, b->snapshot->root, err);

	while (r == 0 && b->way.len > 0) {
		struct stop *at = (struct stop *)(b->way.data + b->way.len) - 1;
		struct scan_dir *child = NULL;
		while (at->next < at->dir->child_count && !child) {
			child = at->dir->children[at->next++];
			if (child->built)
				child = NULL;
		}
		if (child) {
			r = visit(b, child, err);
		} else {
			r = build_dir(b, at->dir, err);
			b->way.len -= sizeof *at;
		}
	}
	return r;
}

bool inlay_snapshot_root(const struct inlay_snapshot *s, struct inlay_root *ret)
{
	if (!s->root->built)
		return false;
	*ret = (struct inlay_root){
		.tree = s->root->tree.id, .mode = s->mode, .mtime_ns = s->root->mtime_ns};
	return true;
}

int inlay_snapshot_build(struct inlay_snapshot *s, int64_t now_ns, inlay_tree_put_fn *put,
			 void *ctx, struct inlay_root *ret_root, struct inlay_error *err)
{
	auto_of(builder_fini) struct builder b = {
		.snapshot = s, .now_ns = now_ns, .enc = {.put = put, .ctx = ctx}};
	int r = build_all(&b, err);

	if (r < 0)
		return r;
	s->stats.bytes = s->root->sums.bytes;
	(void)inlay_snapshot_root(s, ret_root);
	return 0;
}
