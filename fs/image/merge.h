/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_MERGE_H
#define IMAGE_MERGE_H

/*
 * The layers of an image, merged in memory. No path of an archive ever reaches the kernel: it is
 * resolved here, among the entries that came before it.
 *
 *   - ".." and absolute paths are refused, so is a path that leads through a symlink which is
 *     absolute or leaves the tree. A relative one inside (lib -> usr/lib) is followed.
 *   - A directory over a directory changes its attributes; anything else over anything takes its place
 *     with all that was below. Within one layer the last one wins.
 *   - Names that are links of each other share one struct merge_inode.
 *   - Each entry knows the layer that set it: a whiteout or an opaque directory takes out what lower
 *     layers set, wherever in its layer it stands.
 *
 * One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"

struct merge_inode {
	uint32_t names; /* that refer to it */
	uint32_t mode;  /* S_IFREG, S_IFDIR, S_IFLNK and 07777 */
	uint32_t uid, gid;
	int64_t mtime_ns;
	uint64_t size;
	uint64_t group; /* 0 = not decided, or no links */
	struct inlay_digest id, xattrs;
	uint16_t target_len;
	char target[]; /* symlink; with a NUL behind */
};

struct merge_node {
	struct merge_node *parent; /* NULL in the root */
	struct merge_node *children, *prev, *next;
	struct merge_node *chain;  /* in the table of names */
	struct merge_inode *inode; /* a directory's is its own */
	uint64_t hash;
	size_t child_count;
	uint16_t layer; /* that set it */
	uint16_t depth;
	bool implicit; /* a directory that no entry described */
	uint8_t name_len;
	char name[]; /* no NUL behind */
};

struct merge;

int merge_new(struct merge **ret, struct inlay_error *err) inlay_must_check;
void merge_free(struct merge *m); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct merge, merge_free)

struct merge_node *merge_root(struct merge *m);

/* What comes next belongs to the layer after the present one. The first one is begun already. */
void merge_next_layer(struct merge *m);

/* A place in the tree: a directory and a name in it. name_len 0: the root itself. */
struct merge_place {
	struct merge_node *dir;
	const char *name; /* borrowed from the path */
	size_t name_len;
};

/*
 * Finds the place of an archive's path; directories on the way that are missing are made. -EINVAL
 * with the reason for a path that cannot be, -E2BIG for a limit.
 */
int merge_locate(struct merge *m, const char *path, struct merge_place *ret,
		 struct inlay_error *err) inlay_must_check;

/* What stands at the path of a hard link's target, or NULL. Makes nothing. Fails as merge_locate. */
int merge_lookup(struct merge *m, const char *path, struct merge_node **ret,
		 struct inlay_error *err) inlay_must_check;

/* A new inode without names; free() until a node has it. */
struct merge_inode *merge_inode_new(const char *target, size_t target_len);

/* Puts an entry there, as the layer at hand. Takes the inode, also on failure. */
int merge_set(struct merge *m, const struct merge_place *at, struct merge_inode *inode,
	      struct inlay_error *err) inlay_must_check;
/* Puts another name of what `to` is. */
int merge_link(struct merge *m, const struct merge_place *at, struct merge_node *to,
	       struct inlay_error *err) inlay_must_check;
/* Takes out what is there, whatever set it: for an entry that is not kept (a device). */
void merge_clear(struct merge *m, const struct merge_place *at);

/* Takes out what lower layers have at that place, or below that directory. */
void merge_whiteout(struct merge *m, const struct merge_place *at);
void merge_opaque(struct merge *m, struct merge_node *dir);

#endif
