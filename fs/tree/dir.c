/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/trees.h"

#include <errno.h>

#include "tree/cache.h"

int inlay_dir_open(struct inlay_trees *trees, const struct inlay_digest *id, struct inlay_dir *ret,
		   struct inlay_error *err)
{
	struct inlay_dir dir = {.trees = trees};
	int r = tree_pin_get(trees, id, &dir.top, err);

	if (r != 0)
		return r;
	if (!dir.top->tree.split && dir.top->tree.count > INLAY_TREE_SPLIT) {
		inlay_dir_close(&dir);
		return inlay_error_set(err, -EBADMSG, "tree: a large directory that is not split");
	}
	*ret = dir;
	return 0;
}

void inlay_dir_close(struct inlay_dir *dir)
{
	tree_pin_put(dir->trees, dir->bucket);
	tree_pin_put(dir->trees, dir->top);
	*dir = (struct inlay_dir){0};
}

const struct inlay_tree *inlay_dir_tree(const struct inlay_dir *dir)
{
	return &dir->top->tree;
}

/* The leaf at hand; NULL when it is an empty bucket. */
static const struct inlay_tree *leaf_of(const struct inlay_dir *dir)
{
	if (!dir->top->tree.split)
		return &dir->top->tree;
	return dir->bucket ? &dir->bucket->tree : NULL;
}

/* Puts bucket i at hand; an empty one is none. */
static int load_bucket(struct inlay_dir *dir, uint32_t i, struct inlay_error *err)
{
	struct inlay_digest id;
	struct tree_pin *pin;

	dir->next_bucket = i + 1;
	dir->at = 0;
	bool there = inlay_tree_bucket(&dir->top->tree, i, &id);
	if (there && dir->bucket && inlay_digest_equal(&dir->bucket->id, &id))
		return 0;
	tree_pin_put(dir->trees, take_ptr(dir->bucket));
	if (!there)
		return 0;
	int r = tree_pin_get(dir->trees, &id, &pin, err);
	if (r != 0)
		return r;
	dir->bucket = pin;
	return pin->tree.split ? inlay_error_set(err, -EBADMSG, "tree: a bucket that is split") : 0;
}

static int load_bucket_of(struct inlay_dir *dir, uint64_t hash, struct inlay_error *err)
{
	if (!dir->top->tree.split)
		return 0;
	return load_bucket(dir, (uint32_t)(hash >> (64 - dir->top->tree.bits)), err);
}

int inlay_dir_find(struct inlay_dir *dir, const char *name, size_t len, struct inlay_entry *ret,
		   struct inlay_error *err)
{
	int r = load_bucket_of(dir, inlay_name_hash(name, len), err);

	if (r != 0)
		return r;
	const struct inlay_tree *leaf = leaf_of(dir);
	return leaf && inlay_tree_find(leaf, name, len, ret) ? 0 : INLAY_TREES_NONE;
}

int inlay_dir_seek(struct inlay_dir *dir, uint64_t hash, struct inlay_error *err)
{
	int r = load_bucket_of(dir, hash, err);

	if (r == 0 && leaf_of(dir))
		dir->at = inlay_tree_seek(leaf_of(dir), hash);
	return r;
}

bool inlay_dir_at_hand(const struct inlay_dir *dir)
{
	const struct inlay_tree *leaf = dir->top ? leaf_of(dir) : NULL;

	return leaf && dir->at < leaf->count;
}

int inlay_dir_fetch(struct inlay_dir *dir, struct inlay_error *err)
{
	while (!inlay_dir_at_hand(dir)) {
		if (!dir->top->tree.split || dir->next_bucket >= dir->top->tree.count)
			return 0;
		int r = load_bucket(dir, dir->next_bucket, err);
		if (r != 0)
			return r;
	}
	return 0;
}

int inlay_dir_next(struct inlay_dir *dir, struct inlay_entry *ret, struct inlay_error *err)
{
	int r = inlay_dir_fetch(dir, err);

	if (r != 0)
		return r;
	if (!inlay_dir_at_hand(dir))
		return INLAY_TREES_NONE;
	inlay_tree_entry(leaf_of(dir), dir->at++, ret);
	return 0;
}
