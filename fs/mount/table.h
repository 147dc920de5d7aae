/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_TABLE_H
#define MOUNT_TABLE_H

/*
 * The node table: what the kernel knows of the mount. A node is an inode (attributes and content), a
 * dent is a name in a directory. Both are numbered slots in one memory file, and no pointer is stored in
 * it, so that another process can map the file and go on with the same numbers.
 *
 * A node's number for the kernel, and st_ino, is its slot with a count of the slot's reuses above, so that
 * no number ever comes to mean other content.
 *
 *     +--------+----------------+----------------+--------------+---------------------+
 *     | header | nodes          | dents          | hash heads   | names, link targets |
 *     +--------+----------------+----------------+--------------+---------------------+
 * Each part has its fixed place in a sparse file and is filled from its start; only what was used takes
 * memory: 104 bytes a node, 36 a dent, the name in steps of 16 bytes.
 *
 * Not thread-safe: the caller holds its lock (view.h) for writing, or for reading where it only looks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"

enum {
	TABLE_ROOT = 1, /* the root's slot, and its number: FUSE_ROOT_ID */
	TABLE_SLOTS_MAX = 1 << 25,
};

enum node_flags {
	NODE_DEAD = 1 << 0,     /* a directory that was removed: it is empty for good */
	NODE_NEGATIVE = 1 << 1, /* a directory in which some name was answered as not there */
	NODE_CONTROL = 1 << 2,  /* .inlay/ and what is in it */
};

struct node {
	uint64_t nlookup; /* references that the kernel holds; atomic */
	uint64_t size;
	int64_t mtime_ns;
	struct inlay_digest id; /* file: content; directory: its tree in the generation shown */
	uint32_t reuse;         /* of this slot */
	uint32_t dents;    /* its names, chained by dent.next_link; 0 = it has none (any more) */
	uint32_t children; /* directory: known names in it, chained by dent.next_sibling */
	uint32_t mode;
	uint32_t uid, gid;
	uint32_t target;     /* symlink: its target in the arena */
	uint16_t target_len; /* symlink */
	uint16_t flags;      /* enum node_flags */
	uint32_t subdirs;    /* directory: directories in its tree */
	uint32_t next_free;
	uint64_t upper; /* its number in the upper (upper/upper.h), 0 = it is as it was synced */
};

struct dent {
	uint32_t parent; /* slot of the directory; 0 = a free dent */
	uint32_t node;   /* slot of what it names */
	uint32_t name;   /* in the arena */
	uint32_t hash;   /* of parent and name */
	uint32_t next_in_hash;
	uint32_t next_sibling, prev_sibling;
	uint32_t next_link;
	uint8_t name_len;
	uint8_t flags;
	uint16_t unused;
};

struct table {
	int fd; /* the memory file */
	struct table_header *header;
	struct node *nodes;
	struct dent *dents;
	uint32_t *heads;
	uint8_t *arena;
};

/* Makes an empty table with a root node (a directory, mode 0, one reference of the kernel). */
int table_new(struct table **ret, struct inlay_error *err) inlay_must_check;
void table_free(struct table *t); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct table, table_free)

static inline struct node *table_node(const struct table *t, uint32_t slot)
{
	return &t->nodes[slot];
}

static inline struct dent *table_dent(const struct table *t, uint32_t dent)
{
	return &t->dents[dent];
}

static inline uint64_t table_number(const struct table *t, uint32_t slot)
{
	return (uint64_t)t->nodes[slot].reuse << 32 | slot;
}

/* One more than the highest slot ever used. */
uint32_t table_end(const struct table *t);

/* The slot of a number that the kernel gave, 0 when there is no such node. */
uint32_t table_slot(const struct table *t, uint64_t number);

/* A new node with everything 0 but its reuse count. */
int table_add_node(struct table *t, uint32_t *ret_slot, struct inlay_error *err) inlay_must_check;
/* The node must have no names, no children and no references. */
void table_free_node(struct table *t, uint32_t slot);
/* Sets a symlink's target. */
int table_set_target(struct table *t, uint32_t slot, const char *target, size_t len,
		     struct inlay_error *err) inlay_must_check;

/* The dent of a name, 0 when it is not known. */
uint32_t table_find(const struct table *t, uint32_t parent, const char *name, size_t len);
/* Names the node; the name must not be known there. */
int table_add_dent(struct table *t, uint32_t parent, const char *name, size_t len, uint32_t node,
		   uint32_t *ret_dent, struct inlay_error *err) inlay_must_check;
void table_remove_dent(struct table *t, uint32_t dent);

static inline const char *table_name(const struct table *t, uint32_t dent)
{
	return (const char *)t->arena + (size_t)t->dents[dent].name * 16;
}

static inline const char *table_target(const struct table *t, uint32_t slot)
{
	return (const char *)t->arena + (size_t)t->nodes[slot].target * 16;
}

struct table_usage {
	uint64_t nodes, dents;
	uint64_t bytes; /* memory taken */
};

void table_usage(const struct table *t, struct table_usage *ret);

#endif
