/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TREE_H
#define INLAY_TREE_H

/*
 * A tree object is the listing of one directory: names, attributes and the ids of what they name.
 * Equal listings have equal bytes, hence equal ids, so equal ids skip whole subtrees in diff and
 * sync.
 *
 *     leaf   header | records (64 bytes each) | heap: names and extensions
 *     split  header | buckets (56 bytes each), each naming a leaf
 *
 * Entries are ordered by (XXH3-64 of the name, name bytes). That order makes a lookup a binary
 * search over numbers, gives directory streams positions that survive a change of the listing (the
 * hash itself), and cuts a large directory into buckets by the top bits of the hash: above
 * INLAY_TREE_SPLIT entries it is split, so that one edit among 100,000 files costs no more than one
 * among ten. docs/format.md has the bytes.
 *
 * This module is pure: bytes <-> structs, no I/O, any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"
#include "inlay/limits.h"

enum {
	INLAY_TREE_VERSION = 1,
	INLAY_TREE_SPLIT = 1024,  /* entries above which a directory is split */
	INLAY_TREE_BUCKET = 512,  /* entries that a bucket holds on average, at most */
	INLAY_TREE_BITS_MAX = 16, /* log2 of the number of buckets, at most */
	INLAY_TREE_HEADER_BYTES = 40,
	INLAY_TREE_RECORD_BYTES = 64,
	INLAY_TREE_BUCKET_BYTES = 56,
};

/* What is below a directory, itself not counted. */
struct inlay_tree_totals {
	uint64_t entries; /* recursive */
	uint64_t bytes;   /* sum of file sizes, recursive */
};

/*
 * One entry. Pointers are borrowed: from the tree's bytes when it was read from one, from the
 * caller when it is given to a builder.
 */
struct inlay_entry {
	const char *name;   /* name_len bytes, no NUL at the end */
	const char *target; /* symlink: target_len bytes */
	uint8_t name_len;
	uint16_t target_len;
	uint32_t mode;          /* S_IFREG, S_IFDIR or S_IFLNK, and 07777 */
	uint64_t size;          /* file: bytes; symlink: target_len; directory: 0 */
	int64_t mtime_ns;       /* directory: the time of the generation that changed its listing */
	struct inlay_digest id; /* file: content; directory: tree object; symlink: zeros */
	/* directory only */
	struct inlay_tree_totals below;
	uint32_t subdirs; /* directories directly in it: its link count is 2 + subdirs */
	/* 0 unless they were asked for (images, owners) */
	uint32_t uid, gid;
	uint64_t link_group; /* files with the same number are links of each other; 0 = none */
	struct inlay_digest xattrs; /* object with the encoded xattrs; zeros = none */
};

static inline bool inlay_entry_is_dir(const struct inlay_entry *e)
{
	return S_ISDIR(e->mode);
}

/* The order of entries, and the position of a name in a directory stream. */
static inline uint64_t inlay_name_hash(const char *name, size_t len)
{
	return inlay_xxh3(name, len);
}

/* True for a name that may stand in a tree: 1..255 bytes, no '/' or NUL, not "." or "..". */
bool inlay_name_valid(const char *name, size_t len);

/* Everything but the name is the same. */
bool inlay_entry_equal(const struct inlay_entry *a, const struct inlay_entry *b);
/* The same content: type and id, or target. Mode, times and owners may differ. */
bool inlay_entry_same_content(const struct inlay_entry *a, const struct inlay_entry *b);

/* ---- reading one object ---- */

/* A view of checked bytes: a leaf or a split node. */
struct inlay_tree {
	const uint8_t *bytes; /* borrowed */
	size_t len;
	uint32_t count;   /* leaf: entries in it; split: buckets */
	uint32_t own;     /* entries of the directory itself (split: of all its buckets) */
	uint32_t subdirs; /* of them directories */
	uint8_t bits;     /* split: log2 of the number of buckets; leaf: 0 */
	bool split;
	struct inlay_tree_totals below;
};

/*
 * Checks everything: version, sizes, offsets, order, names, modes, totals, and that the encoding is
 * the canonical one. -EBADMSG with the reason, -EPROTONOSUPPORT for a newer version. `bytes` must
 * live as long as the view.
 */
int inlay_tree_decode(const uint8_t *bytes, size_t len, struct inlay_tree *ret_tree,
		      struct inlay_error *err) inlay_must_check;

/* Entry i of a leaf, 0 <= i < count. */
void inlay_tree_entry(const struct inlay_tree *leaf, uint32_t i, struct inlay_entry *ret);
/* The index of the first entry of a leaf whose hash is >= hash; count when there is none. */
uint32_t inlay_tree_seek(const struct inlay_tree *leaf, uint64_t hash);
/* True and *ret when the leaf has the name. */
bool inlay_tree_find(const struct inlay_tree *leaf, const char *name, size_t len,
		     struct inlay_entry *ret);

/* Bucket i of a split node: false when it is empty. The leaf holds the entries whose hash's top
 * `bits` bits are i. */
bool inlay_tree_bucket(const struct inlay_tree *split, uint32_t i, struct inlay_digest *ret_leaf);

/* ---- building a directory ---- */

struct inlay_tree_builder {
	struct inlay_entry *entries; /* names and targets borrowed until build() returned */
	size_t count, cap;
};

/* What building gives for the record in the parent. */
struct inlay_tree_built {
	struct inlay_digest id;
	struct inlay_tree_totals below;
	uint32_t subdirs;
};

/* Called for each object of the directory, buckets before the split node; `bytes` are borrowed. */
typedef int inlay_tree_put_fn(void *ctx, const struct inlay_digest *id, const uint8_t *bytes,
			      size_t len, struct inlay_error *err);

/* Adds a copy of *e, in any order. -EINVAL when it could not stand in a tree. */
int inlay_tree_builder_add(struct inlay_tree_builder *b, const struct inlay_entry *e,
			   struct inlay_error *err) inlay_must_check;
/* Sorts, encodes, hands each object to put (which may be NULL: only ids are wanted) and forgets the
 * entries. -EEXIST when a name stands there twice. */
int inlay_tree_build(struct inlay_tree_builder *b, inlay_tree_put_fn *put, void *ctx,
		     struct inlay_tree_built *ret, struct inlay_error *err) inlay_must_check;
void inlay_tree_builder_fini(struct inlay_tree_builder *b);
INLAY_DEFINE_FINI(struct inlay_tree_builder, inlay_tree_builder_fini)

#endif
