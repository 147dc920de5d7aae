/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_SCAN_H
#define INLAY_SCAN_H

/*
 * From a folder to a tree. The steps, each of which costs what it must and no more:
 *
 *     walk     getdents + statx of every name that is not ignored, compared with the last snapshot:
 *              a file whose size, mtime, ctime, inode, device and mode are the same, and whose
 *              times were older than that snapshot by a margin, keeps its id and is not opened
 *              (git's racy rule)
 *     read     the caller opens, reads and hashes each file that is left ("dirty"), and sets its id
 *     trees    directories with something new are built bottom-up; the others keep their tree's id
 *     save     the snapshot becomes the stat cache of the next walk
 *
 * A snapshot is that whole: for each directory its entries with stat data and ids. Directories in
 * it are immutable once the trees are built, and are shared between snapshots, so that a later
 * snapshot costs what changed. Names are bytes. Symlinks are data, never followed, also not at the
 * root of the scan (the caller resolves what the user typed). Hard links are separate files.
 *
 * A directory that cannot be listed or a name that cannot be read is an error, never a deletion.
 * Names that vanish between listing and statx are simply not there.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/ignore.h"
#include "inlay/tree.h"

/* What decides whether a file is the same as last time. */
struct inlay_stat {
	uint64_t size;
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint64_t ino;
	uint64_t dev;
	uint32_t mode; /* with the type */
};

struct inlay_scan_options {
	struct inlay_ignore_options ignore;
	bool checksum;    /* every file is dirty: content decides, not stat (mmap writers, restored
			     times) */
	bool owners;      /* carry uid and gid; otherwise both are 0 in the trees */
	unsigned threads; /* that walk; 0 = 2 */
	/*
	 * Called before a directory is listed whole, with an open descriptor and its path ("" is the root; a NUL
	 * follows), from any thread of the walk: what a watch sees from then on and what the listing gives
	 * leaves no gap. May be NULL.
	 */
	void (*enter)(void *ctx, int dirfd, const char *path, size_t len);
	void *enter_ctx;
	/* Paths that are left as the old snapshot has them, or out when it does not have them as files: what
	 * changes all the time and shall not keep the rest from being taken. */
	const char *const *held;
	size_t held_count;
};

/* Names of things that are left out or worth a word, for messages: at most INLAY_SCAN_NAMES of
 * each. */
enum { INLAY_SCAN_NAMES = 8 };

struct inlay_scan_stats {
	uint64_t files, dirs, symlinks; /* in the snapshot; the root is not counted */
	uint64_t bytes;                 /* of the files */
	uint64_t dirty;                 /* files to be read */
	uint64_t dirty_bytes;
	uint64_t ignored;    /* names left out by a rule (what is below them is not counted) */
	uint64_t special;    /* fifos, sockets, devices left out */
	uint64_t hardlinked; /* files with more than one link, carried as separate files */
	char *special_names[INLAY_SCAN_NAMES]; /* paths, owned by the snapshot */
};

struct inlay_snapshot;

/*
 * Walks the folder rootfd. `old` (may be NULL) is the last snapshot of the same folder with the
 * same options. Errors name the first path and count the others. A mount of inlay inside the folder
 * is an error (-EXDEV) that says to exclude or unmount it. Positive: none.
 */
int inlay_scan_walk(int rootfd, const struct inlay_scan_options *options,
		    struct inlay_snapshot *old, struct inlay_snapshot **ret,
		    struct inlay_error *err) inlay_must_check;

/*
 * The same for names that may have changed, as a watch tells them: paths relative to the root. What
 * is named is looked at again; of a directory all names are ("" is the root), but not what lies in
 * directories below it that were there before. What came into being is walked whole. Where rules
 * have changed, everything under them is walked. All else is taken from `old`, so the cost follows
 * the number of paths and not the size of the folder. A path whose parents are gone is no error.
 * stats.ignored of directories that were not listed is what it was. -EINVAL: not such a path.
 */
int inlay_scan_update(int rootfd, const struct inlay_scan_options *options,
		      struct inlay_snapshot *old, const char *const *paths, size_t count,
		      struct inlay_snapshot **ret, struct inlay_error *err) inlay_must_check;

struct inlay_snapshot *inlay_snapshot_ref(struct inlay_snapshot *s);
void inlay_snapshot_unref(struct inlay_snapshot *s); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct inlay_snapshot, inlay_snapshot_unref)

const struct inlay_scan_stats *inlay_snapshot_stats(const struct inlay_snapshot *s);
/* Device and inode of the folder that was walked: another one is a reason to halt. */
void inlay_snapshot_identity(const struct inlay_snapshot *s, uint64_t *ret_dev, uint64_t *ret_ino);

/* True when the path (no slash at its end, "" is the root) is a directory in the snapshot. */
bool inlay_snapshot_has_dir(const struct inlay_snapshot *s, const char *path);

/* ---- reading what is dirty ---- */

/* One dirty file. Handles are valid while the snapshot is referenced; different ones may be used by
 * different threads at a time. */
struct inlay_dirty {
	struct inlay_snapshot *snapshot; /* borrowed */
	uint64_t size;                   /* as the walk saw it */
	/* private */
	struct scan_place *place;
	uint32_t entry;
	uint32_t uid, gid;
	bool linked;
	struct inlay_stat opened; /* what open noted, for settle */
};

/* All dirty files, ordered for compression: by extension, then directory by directory (each before
 * those in it), then name. *ret is the caller's (free). */
int inlay_snapshot_dirty(struct inlay_snapshot *s, struct inlay_dirty **ret, size_t *ret_count,
			 struct inlay_error *err) inlay_must_check;

/* Appends the path of the file, relative to the root, to buf. */
void inlay_dirty_path(const struct inlay_dirty *d, struct inlay_buf *buf);

/* Positive results of open and settle. */
enum {
	INLAY_SCAN_GONE = 1,    /* no longer there, or no longer a regular file: walk again */
	INLAY_SCAN_CHANGED = 2, /* it changed while it was read: read it again */
};

/*
 * Opens the file below rootfd without following any symlink, and notes its stat data. Read it to
 * its end; *ret_size is what fstat says now and may differ from d->size.
 */
int inlay_dirty_open(struct inlay_dirty *d, int rootfd, int *ret_fd, uint64_t *ret_size,
		     struct inlay_error *err) inlay_must_check;

/*
 * After reading: compares fstat(fd) with what open noted. The same -> the entry's id, size, mode
 * and times are set and the file is no longer dirty. CHANGED: nothing was set; the bytes read are
 * torn.
 */
int inlay_dirty_settle(struct inlay_dirty *d, int fd, const struct inlay_digest *id,
		       struct inlay_error *err) inlay_must_check;

/* ---- trees ---- */

/*
 * Builds the trees of all directories that have something new and gives the root. Every dirty file
 * must have been settled. A directory whose set of names and types is the same as in the old
 * snapshot keeps its mtime there; a changed one gets `now_ns`; without an old snapshot, it is the
 * folder's own mtime. put is called for each new object, children before parents (see tree.h).
 */
int inlay_snapshot_build(struct inlay_snapshot *s, int64_t now_ns, inlay_tree_put_fn *put,
			 void *ctx, struct inlay_root *ret_root, struct inlay_error *err)
	inlay_must_check;

/* The root that build gave, and true when it was built (a loaded snapshot is). */
bool inlay_snapshot_root(const struct inlay_snapshot *s, struct inlay_root *ret);

/* Finds a file by the id of its content, to send it again: appends its path to buf. False when
 * there is none. Costs a look at every entry. */
bool inlay_snapshot_find(struct inlay_snapshot *s, const struct inlay_digest *id,
			 struct inlay_dirty *ret);

/* ---- the stat cache ---- */

/* Writes the built snapshot to <dirfd>/<name>, atomically. `key` (what it belongs to: the options
 * that change what a walk gives) must be the same when it is loaded. Not fsynced: losing it costs a
 * rehash. */
int inlay_snapshot_save(struct inlay_snapshot *s, int dirfd, const char *name, uint64_t key,
			struct inlay_error *err) inlay_must_check;

enum { INLAY_SNAPSHOT_NONE = 1 }; /* positive: missing, damaged, another version or another key */

/* The file is mapped and checked; bad bytes give NONE, never an error: the walk just hashes
 * everything. */
int inlay_snapshot_load(int dirfd, const char *name, uint64_t key, struct inlay_snapshot **ret,
			struct inlay_error *err) inlay_must_check;

#endif
