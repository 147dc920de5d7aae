/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An edit is a merge of two sorted lists: the entries of the base and the operations. If the directory is
 * split and its new size asks for the same number of buckets, the merge is done for each bucket that an
 * operation falls into, and the other buckets keep their ids.
 */
#include <errno.h>

#include "inlay/trees.h"
#include "tree/cache.h"
#include "tree/encode.h"

struct op {
	uint64_t hash;
	const struct inlay_tree_op *op;
};

struct edit {
	struct inlay_trees *trees;
	struct tree_encoder enc;
	struct op *ops; /* sorted */
	size_t op_count;
	/* the merged entries of the directory, or of the bucket at hand */
	struct inlay_entry *entries;
	struct tree_sorted *sorted;
	size_t count, cap;
};

static int order(uint64_t hash_a, const struct inlay_entry *a, uint64_t hash_b,
		 const struct inlay_entry *b)
{
	struct tree_sorted x = {hash_a, a}, y = {hash_b, b};

	return tree_by_hash_and_name(&x, &y);
}

static int by_name(const void *a, const void *b)
{
	const struct op *x = a, *y = b;

	return order(x->hash, &x->op->entry, y->hash, &y->op->entry);
}

static int sort_ops(struct edit *ed, const struct inlay_tree_op *ops, struct inlay_error *err)
{
	for (size_t i = 0; i < ed->op_count; i++) {
		const struct inlay_entry *e = &ops[i].entry;
		if (ops[i].remove ? !inlay_name_valid(e->name, e->name_len)
				  : !tree_entry_can_stand(e))
			return inlay_error_set(err, -EINVAL,
					       "an entry that cannot stand in a tree");
		ed->ops[i] = (struct op){inlay_name_hash(e->name, e->name_len), &ops[i]};
	}
	qsort(ed->ops, ed->op_count, sizeof *ed->ops, by_name);
	for (size_t i = 1; i < ed->op_count; i++)
		if (by_name(&ed->ops[i - 1], &ed->ops[i]) == 0)
			return inlay_error_set(err, -EEXIST, "a name is changed twice");
	return 0;
}

static int keep(struct edit *ed, const struct inlay_entry *e, struct inlay_error *err)
{
	if (ed->count == ed->cap) {
		size_t cap = ed->cap ? ed->cap * 2 : 64;
		struct inlay_entry *entries = reallocarray(ed->entries, cap, sizeof *entries);
		if (!entries)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		ed->entries = entries;
		ed->cap = cap;
	}
	ed->entries[ed->count++] = *e;
	return 0;
}

/* Appends the merge of a leaf (NULL = nothing) with some of the ops. */
static int merge_leaf(struct edit *ed, const struct inlay_tree *leaf, const struct op *ops,
		      size_t count, struct inlay_error *err)
{
	uint32_t at = 0, end = leaf ? leaf->count : 0;
	int r = 0;

	while (r == 0 && (at < end || count > 0)) {
		struct inlay_entry e;
		int c = 1;
		if (at < end) {
			inlay_tree_entry(leaf, at, &e);
			c = count == 0 ? -1
				       : order(inlay_name_hash(e.name, e.name_len), &e, ops->hash,
					       &ops->op->entry);
		}
		if (c < 0) {
			r = keep(ed, &e, err);
			at++;
			continue;
		}
		if (!ops->op->remove)
			r = keep(ed, &ops->op->entry, err);
		else if (c > 0)
			return inlay_error_set(err, -ESTALE, "a name to remove is not there");
		at += c == 0;
		ops++;
		count--;
	}
	return r;
}

/* Encodes the merged entries, which are in order, as one leaf. */
static int finish_leaf(struct edit *ed, struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct tree_sorted *sorted =
		reallocarray(ed->sorted, ed->cap ? ed->cap : 1, sizeof *sorted);

	if (!sorted)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	ed->sorted = sorted;
	for (size_t i = 0; i < ed->count; i++) {
		const struct inlay_entry *e = &ed->entries[i];
		sorted[i] = (struct tree_sorted){inlay_name_hash(e->name, e->name_len), e};
	}
	return tree_encode_leaf(&ed->enc, sorted, ed->count, ret, err);
}

static int get_leaf(struct edit *ed, const struct inlay_tree *split, uint32_t i,
		    struct tree_pin **ret, struct inlay_error *err)
{
	struct inlay_digest id;

	*ret = NULL;
	if (!inlay_tree_bucket(split, i, &id))
		return 0;
	int r = tree_pin_get(ed->trees, &id, ret, err);
	if (r == 0 && (*ret)->tree.split) {
		tree_pin_put(ed->trees, take_ptr(*ret));
		r = inlay_error_set(err, -EBADMSG, "tree: a bucket that is split");
	}
	return r;
}

static uint32_t bucket_of(const struct op *op, uint8_t bits)
{
	return (uint32_t)(op->hash >> (64 - bits));
}

static int edit_bucket(struct edit *ed, const struct inlay_tree *split, uint8_t *node, size_t first,
		       size_t count, struct inlay_error *err)
{
	uint32_t i = bucket_of(&ed->ops[first], split->bits);
	struct tree_pin *leaf;
	struct inlay_tree_built built;
	int r = get_leaf(ed, split, i, &leaf, err);

	if (r != 0)
		return r;
	ed->count = 0;
	r = merge_leaf(ed, leaf ? &leaf->tree : NULL, ed->ops + first, count, err);
	if (r == 0 && ed->count > 0)
		r = finish_leaf(ed, &built, err);
	if (r == 0)
		tree_set_bucket(node, i, &built, ed->count);
	tree_pin_put(ed->trees, leaf);
	return r;
}

static int edit_buckets(struct edit *ed, const struct inlay_tree *split,
			struct inlay_tree_built *ret, struct inlay_error *err)
{
	auto_free uint8_t *node = malloc(split->len);
	size_t at = 0;

	if (!node)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	memcpy(node, split->bytes, split->len);
	while (at < ed->op_count) {
		size_t end = at + 1;
		while (end < ed->op_count && bucket_of(&ed->ops[end], split->bits) ==
						     bucket_of(&ed->ops[at], split->bits))
			end++;
		int r = edit_bucket(ed, split, node, at, end - at, err);
		if (r != 0)
			return r;
		at = end;
	}
	return tree_encode_split(&ed->enc, node, split->bits, ret, err);
}

/* How many entries the directory will have: the ops that add less those that remove. */
static int count_after(struct edit *ed, struct inlay_dir *base, uint64_t *ret,
		       struct inlay_error *err)
{
	uint64_t count = inlay_dir_tree(base)->own;

	for (size_t i = 0; i < ed->op_count; i++) {
		const struct inlay_tree_op *op = ed->ops[i].op;
		struct inlay_entry e;
		int r = inlay_dir_find(base, op->entry.name, op->entry.name_len, &e, err);
		if (r != 0 && r != INLAY_TREES_NONE)
			return r;
		if (r == INLAY_TREES_NONE && op->remove)
			return inlay_error_set(err, -ESTALE, "a name to remove is not there");
		count += r == INLAY_TREES_NONE;
		count -= op->remove;
	}
	*ret = count;
	return 0;
}

/* The shape changes, or there was none: every entry is merged, and the builder decides. */
static int edit_whole(struct edit *ed, const struct inlay_tree *base, inlay_tree_put_fn *put,
		      void *ctx, struct inlay_tree_built *ret, struct inlay_error *err)
{
	uint32_t leaves = base && base->split ? base->count : 0;
	auto_free struct tree_pin **pins = calloc(leaves + 1, sizeof *pins);
	struct inlay_tree_builder b = {0};
	size_t at = 0;
	int r = 0;

	if (!pins)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (uint32_t i = 0; r == 0 && i < leaves; i++) {
		size_t end = at;
		while (end < ed->op_count && bucket_of(&ed->ops[end], base->bits) == i)
			end++;
		r = get_leaf(ed, base, i, &pins[i], err);
		if (r == 0)
			r = merge_leaf(ed, pins[i] ? &pins[i]->tree : NULL, ed->ops + at, end - at,
				       err);
		at = end;
	}
	if (leaves == 0)
		r = merge_leaf(ed, base, ed->ops, ed->op_count, err);
	for (size_t i = 0; r == 0 && i < ed->count; i++)
		r = inlay_tree_builder_add(&b, &ed->entries[i], err);
	if (r == 0)
		r = inlay_tree_build(&b, put, ctx, ret, err);
	inlay_tree_builder_fini(&b);
	for (uint32_t i = 0; i < leaves; i++)
		tree_pin_put(ed->trees, pins[i]);
	return r;
}

static int edit_base(struct edit *ed, const struct inlay_digest *base, inlay_tree_put_fn *put,
		     void *ctx, struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct inlay_dir dir;
	int r = inlay_dir_open(ed->trees, base, &dir, err);

	if (r != 0)
		return r;
	const struct inlay_tree *top = inlay_dir_tree(&dir);
	uint64_t count = 0;
	if (top->split)
		r = count_after(ed, &dir, &count, err);
	if (r == 0)
		r = top->split && tree_split_bits(count) == top->bits
			    ? edit_buckets(ed, top, ret, err)
			    : edit_whole(ed, top, put, ctx, ret, err);
	inlay_dir_close(&dir);
	return r;
}

int inlay_tree_edit(struct inlay_trees *trees, const struct inlay_digest *base,
		    const struct inlay_tree_op *ops, size_t count, inlay_tree_put_fn *put,
		    void *ctx, struct inlay_tree_built *ret, struct inlay_error *err)
{
	struct edit ed = {.trees = trees, .enc = {.put = put, .ctx = ctx}, .op_count = count};
	struct inlay_tree_built built;

	if (count > INLAY_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d changes", INLAY_ENTRIES_MAX);
	ed.ops = reallocarray(NULL, count ? count : 1, sizeof *ed.ops);
	if (!ed.ops)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = sort_ops(&ed, ops, err);
	if (r == 0)
		r = base ? edit_base(&ed, base, put, ctx, &built, err)
			 : edit_whole(&ed, NULL, put, ctx, &built, err);
	free(ed.ops);
	free(ed.entries);
	free(ed.sorted);
	tree_encoder_fini(&ed.enc);
	if (r == 0)
		*ret = built;
	return r;
}
