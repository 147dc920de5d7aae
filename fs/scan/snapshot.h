/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_SNAPSHOT_H
#define SCAN_SNAPSHOT_H

/*
 * How a snapshot lies in memory.
 *
 *     snapshot -> directory -> blocks of entries
 *                     `-----> directories directly in it, in the order of their entries
 *
 * A block is an array of entries in the order of trees (name hash, name). A directory has one, or
 * above INLAY_TREE_SPLIT entries one for each bucket of its tree, so a change of one name makes one
 * new block, whatever the size of the directory. A block says nothing about what is below its
 * directories; so a change deep below makes new directories up to the root, but no new blocks.
 *
 * Blocks and directories are reference counted and shared between snapshots. They do not change
 * once the trees are built; before that, only those that this walk made do (settled files, ids).
 * They are either in memory of their own or in an arena, the mapping of a stat cache; the arrays of
 * a block look the same in both, and hold no pointers.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>

#include "inlay/cleanup.h"
#include "inlay/scan.h"
#include "inlay/tree.h"

enum scan_entry_flags {
	SCAN_DIRTY = 1 << 0,  /* a file whose content is not known */
	SCAN_LINKED = 1 << 1, /* a file with more than one link */
};

/* In the stat cache as here. Of directories mtime is not kept, as it changes with every temporary file,
 * and ctime_ns is the time of birth: with ino and dev it tells one from another that was moved to its
 * place, or got its number. */
struct scan_entry {
	uint64_t size; /* file: bytes; symlink: bytes of its target, which follows the name */
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint64_t ino;
	uint64_t dev;
	struct inlay_digest id; /* file */
	uint32_t name_off;      /* in the heap */
	uint16_t mode; /* with the type; fifos, sockets and devices are kept to be counted */
	uint8_t name_len;
	uint8_t flags; /* enum scan_entry_flags */
};

struct scan_owner {
	uint32_t uid, gid;
};

struct scan_arena;

struct scan_block {
	unsigned refs; /* atomic */
	uint32_t count;
	uint32_t subdirs;  /* directories among the entries */
	uint32_t specials; /* fifos, sockets, devices among them */
	uint32_t heap_len;
	int64_t seen_ns;          /* what is older than this (by a margin) was not changed since */
	struct scan_arena *arena; /* NULL: one piece of memory with the arrays */
	const uint32_t *hashes;   /* top halves of the name hashes */
	struct scan_entry *entries;
	const struct scan_owner *owners; /* NULL: without */
	const char *heap;
};

/* Sums over a directory and all below it; the directory itself not counted. */
struct scan_sums {
	uint64_t files, dirs, symlinks, special, linked, bytes, dirty, dirty_bytes, ignored;
};

enum scan_rule_files {
	SCAN_HAS_GITIGNORE = 1 << 0,
	SCAN_HAS_INLAYIGNORE = 1 << 1,
};

struct scan_dir {
	unsigned refs; /* atomic */
	uint32_t block_count;
	uint32_t child_count;
	uint32_t ignored;    /* names left out here */
	uint8_t bits;        /* log2 of block_count */
	uint8_t rule_files;  /* enum scan_rule_files */
	bool built;          /* tree, leaves and mtime_ns are final */
	bool listing_is_new; /* names or types differ from the last snapshot: gets a new mtime when
			      * it is built */
	uint64_t rules;      /* inlay_ignore_fingerprint */
	int64_t mtime_ns;    /* of the listing, for the tree */
	struct scan_arena *arena;
	struct scan_block **blocks;
	struct scan_dir **children;
	struct inlay_tree_built tree;
	struct inlay_tree_built *leaves; /* split: one for each block */
	struct scan_sums sums;
	struct scan_dir *before; /* the same directory in the last snapshot, until built */
	struct scan_dir *next;   /* while it is taken down */
};

/* A stat cache in use: its mapping and the structs that point into it. */
struct scan_arena {
	unsigned refs; /* atomic: one for each directory and block in it */
	void *map;
	size_t map_len;
	struct scan_dir *dirs;
	struct scan_block *blocks;
	void *pointers;                  /* of all directories */
	struct inlay_tree_built *leaves; /* likewise */
};

/* Where a directory lies. Made on demand, lives as long as the snapshot. */
struct scan_place {
	struct scan_place *parent; /* NULL: the root */
	struct scan_place *next;   /* all places of the snapshot */
	struct scan_dir *dir;
	const char *name; /* borrowed from the parent's block */
	uint8_t name_len;
};

/* A file with the same bytes was written here: saving again would change nothing. */
struct scan_saved {
	uint64_t dev, ino; /* of the directory, 0 = none */
	uint64_t name;     /* hash of the name */
	uint64_t key;
	uint64_t size;
};

struct inlay_snapshot {
	unsigned refs; /* atomic */
	bool owners;
	uint32_t mode; /* of the root, 07777 */
	uint64_t dev, ino;
	struct scan_dir *root;
	struct inlay_scan_stats stats;
	pthread_mutex_t lock; /* guards places and saved */
	struct scan_place *places;
	struct scan_saved saved;
};

/* ---- entries ---- */

static inline bool scan_is_special(const struct scan_entry *e)
{
	return !S_ISREG(e->mode) && !S_ISDIR(e->mode) && !S_ISLNK(e->mode);
}

static inline const char *scan_name(const struct scan_block *b, const struct scan_entry *e)
{
	return b->heap + e->name_off;
}

static inline const char *scan_target(const struct scan_block *b, const struct scan_entry *e)
{
	return b->heap + e->name_off + e->name_len;
}

/* The block of a directory in which a name with that hash stands. */
static inline uint32_t scan_block_of(const struct scan_dir *d, uint64_t hash)
{
	return d->bits ? (uint32_t)(hash >> (64 - d->bits)) : 0;
}

/* The number of the entry in the block, -1 when there is none. `bits` as in the directory. */
int64_t scan_block_find(const struct scan_block *b, uint8_t bits, uint64_t hash, const char *name,
			size_t len);

/* ---- references ---- */

struct scan_block *scan_block_ref(struct scan_block *b);
void scan_block_unref(struct scan_block *b); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct scan_block, scan_block_unref)
/* With room for `count` entries and the heap, hashes included; owners when asked for. NULL when
 * memory is out. */
struct scan_block *scan_block_new(uint32_t count, uint32_t heap_len, bool owners);
/* A copy without the entries for which drop[i] is set. */
struct scan_block *scan_block_without(const struct scan_block *b, const bool *drop);

struct scan_dir *scan_dir_ref(struct scan_dir *d);
void scan_dir_unref(struct scan_dir *d); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct scan_dir, scan_dir_unref)
/* With empty places for blocks and children, and leaves when it is split. */
struct scan_dir *scan_dir_new(uint8_t bits, uint32_t child_count);
/* Sets the sums from the blocks, the children and `ignored`. */
void scan_dir_sum(struct scan_dir *d);

struct inlay_snapshot *scan_snapshot_new(void);
/* Fills the stats from the root. */
int scan_snapshot_count(struct inlay_snapshot *s, struct inlay_error *err);
struct scan_saved scan_snapshot_saved(struct inlay_snapshot *s);

/* ---- going through ---- */

/* A way through the directories of a snapshot, each before those in it, by name. */
struct scan_tour {
	struct inlay_snapshot *snapshot;
	bool (*into)(const struct scan_dir *d); /* NULL: all; otherwise those where it holds */
	struct scan_stop *stops;                /* the way down to the directory at hand */
	size_t depth, cap;
	bool started;
};

void scan_tour_fini(struct scan_tour *t);
INLAY_DEFINE_FINI(struct scan_tour, scan_tour_fini)

enum { SCAN_TOUR_END = 1 };
int scan_tour_next(struct scan_tour *t, struct scan_dir **ret, struct inlay_error *err);
/* Where the directory at hand lies. NULL when memory is out. */
struct scan_place *scan_tour_place(struct scan_tour *t);
/* Appends the path of the directory at hand, with a slash behind it unless it is the root. */
void scan_tour_path(const struct scan_tour *t, struct inlay_buf *path);

/* The same for a place. */
void scan_place_path(const struct scan_place *p, struct inlay_buf *path);

/* ---- text ---- */

/* A path for people: escaped, and cut in the middle when it would not fit an error's text. */
void scan_show_path(struct inlay_buf *shown, const void *path, size_t len);

#endif
