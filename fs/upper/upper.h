/* SPDX-License-Identifier: Apache-2.0 */
#ifndef UPPER_UPPER_H
#define UPPER_UPPER_H

/*
 * The writable upper of a workspace: what was written on the target through the mount.
 *
 *     ws/<id>/journal      names and attributes, an append-only log (docs/format.md)
 *     ws/<id>/upper/<n>    the bytes of the regular files, named by number
 *
 * In memory it is a forest of *nodes* (numbered; 1 is the root) and *dents*, the names in a directory. A dent
 * without a node is a whiteout: the synced name is gone. A directory is one of
 *     UPPER_MERGED   what is synced at this place, with the dents laid over it
 *     UPPER_OBJECT   the same over a tree that does not change any more: it was moved away from its place
 *     UPPER_OWN      made here: the dents alone
 * and a regular file one of
 *     UPPER_OBJECT   the bytes of an object, other attributes or another name
 *     UPPER_OWN      bytes in upper/<n>; empty while there is no such file
 *
 * Each change is a list of assignments (node, name, drop, xattr), encoded once: the same bytes go to the journal
 * as one record and through upper_apply() into memory, there and when the journal is replayed. So what is in
 * memory is what a replay gives.
 *
 * Not thread-safe, but for the data files; the view's locks order the rest (mount/view_private.h).
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"
#include "inlay/limits.h"
#include "store/fdcache.h"

enum {
	UPPER_ROOT = 1,
	UPPER_VERSION = 1,
	UPPER_RECORD_HEADER = 32,
	UPPER_FILE_HEADER = 32,
	UPPER_RECORD_MAX = INLAY_FRAME_MAX, /* bytes of the assignments of one record */
	UPPER_LINKS_MAX = 65000,            /* names of one file, as on ext4 */
};

#define UPPER_JOURNAL "journal"
#define UPPER_FILES   "upper"

enum upper_from { UPPER_OWN = 0, UPPER_OBJECT = 1, UPPER_MERGED = 2 };

struct upper_xattr {
	struct upper_xattr *next;
	size_t len;
	uint8_t name_len;
	char name[]; /* name_len bytes and a NUL, then len bytes */
};

static inline const char *upper_xattr_value(const struct upper_xattr *x)
{
	return x->name + x->name_len + 1;
}

/* What lies below a dent in the generation shown. */
enum upper_below { UPPER_BELOW_NOTHING, UPPER_BELOW_OTHER, UPPER_BELOW_DIR };

struct upper_node;

struct upper_dent {
	struct upper_node *parent;
	struct upper_node *node; /* NULL: a whiteout */
	struct upper_dent *left, *right, *next_link;
	uint64_t hash; /* of the name: the order of listings */
	uint32_t rank; /* of the treap */
	uint8_t below; /* enum upper_below; right while parent->settled_for is the parent's base */
	uint8_t name_len;
	char name[];
};

struct upper_node {
	uint64_t n;
	struct upper_node *next_in_hash;
	struct upper_dent *in; /* its names, chained by next_link */
	uint32_t links;        /* how many */
	uint32_t slot;         /* of its node in the mount's table, 0 = none */
	uint32_t mode, uid, gid;
	uint8_t from;    /* enum upper_from */
	bool own_attr;   /* MERGED: mode, uid, gid and xattrs are these, not the synced ones */
	bool exact_time; /* MERGED: the times are these; otherwise the newer ones count */
	bool has_file;   /* upper/<n> is there: size, blocks and times are its own */
	bool whole;      /* what upper_stat() found is still true */
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint64_t size, blocks;  /* blocks of 512 bytes; kept for data files alone */
	struct inlay_digest id; /* OBJECT: content or tree */
	char *target;           /* symlink */
	struct upper_xattr *xattrs;
	/* directory */
	struct upper_dent *dents;        /* the root of a treap */
	uint32_t count;                  /* of dents */
	uint32_t solid;                  /* of them such as show something by themselves */
	int32_t subdirs;                 /* directories more than in the base */
	struct inlay_digest settled_for; /* the base for which `below` and `subdirs` are right */
};

struct upper {
	struct upper_node **heads;
	size_t head_count, node_count, dent_count;
	uint64_t next; /* the number of the next node */
	struct upper_node *root;
	uint64_t *nameless; /* numbers of nodes that have no name, by the record at hand */
	size_t nameless_count, nameless_cap;
	uint64_t orphans; /* files that were written to without having a name */
	/* The tree that the root had when the latest change was made; zeros = that is not known. */
	struct inlay_digest shown;
	bool shown_due; /* the journal has it with the next record */
	/* the journal */
	int dir_fd; /* ws/<id>; -1: in memory only */
	int lock_fd;
	int journal_fd;
	uint64_t end, room, seq; /* of the journal; disk space is there up to `room` */
	uint64_t next_compact;   /* not before it has grown to this */
	bool broken;             /* it cannot be appended to any more */
	bool read_only;
	uint64_t damaged;    /* places of the journal that were stepped over */
	uint64_t synced_seq; /* up to this record it is on the disk */
	/* the data files */
	int files_fd;
	struct fdcache fds;
	bool fds_ready;
	uint64_t names_made,
		names_synced; /* files that were made, and that have their names on the disk */
	/* dead, ahead, synced_seq, names_made and _synced, and the sizes and times of data files */
	pthread_mutex_t lock;
	pthread_mutex_t ahead_lock; /* held over syncing `ahead`; taken before `lock` */
	pthread_cond_t work;        /* dead or ahead */
	struct upper_dead {
		uint64_t n, seq; /* the file may go when the journal is on the disk up to seq */
	} * dead;                /* oldest first */
	size_t dead_first, dead_end, dead_cap;
	uint64_t *ahead; /* numbers whose files are to be on the disk before the journal is */
	size_t ahead_count, ahead_cap;
};

/* ---- memory (model.c) ---- */

int upper_init(struct upper *u, struct inlay_error *err) inlay_must_check;
void upper_fini(struct upper *u);

struct upper_node *upper_find(const struct upper *u, uint64_t n);
struct upper_dent *upper_name(const struct upper_node *dir, const char *name, size_t len);
/* The first dent whose hash is >= hash; the one after d; NULL = there is none. */
struct upper_dent *upper_from_hash(const struct upper_node *dir, uint64_t hash);
struct upper_dent *upper_after(const struct upper_dent *d);
/* Below `top`, parents first; start with NULL. */
struct upper_dent *upper_walk(const struct upper_node *top, struct upper_dent *d);
const struct upper_xattr *upper_xattr(const struct upper_node *node, const char *name);

static inline bool upper_is_merged(const struct upper_node *node)
{
	return node->from == UPPER_MERGED;
}

/* The node shows something also where nothing is synced. */
static inline bool upper_is_solid(const struct upper_node *node)
{
	return !upper_is_merged(node) || node->own_attr || node->solid > 0;
}

/* Does the dent, over what is below it, show something of the upper's? A merged directory over a synced one does. */
bool upper_shows(const struct upper_dent *d, enum upper_below below);
/* Tells what is below a dent. */
void upper_set_below(struct upper_dent *d, enum upper_below below);

/* The mount does not know the node any more. Without a name it ends with the next upper_settle_nameless(). */
void upper_forgotten(struct upper *u, struct upper_node *node);

/* A node without a name, for a file that has none any more. */
int upper_add_orphan(struct upper *u, const struct upper_node *image, struct upper_node **ret,
		     struct inlay_error *err) inlay_must_check;

/* ---- for record.c ---- */

struct upper_node *upper_add_node(struct upper *u, uint64_t n);
int upper_set_name(struct upper *u, struct upper_node *dir, const char *name, size_t len,
		   struct upper_node *node, struct inlay_error *err) inlay_must_check;
void upper_drop_name(struct upper *u, struct upper_dent *d);
/* own_attr is to change. */
void upper_set_own_attr(struct upper_node *node, bool own);
/* The node has no name; that may change until the record ends. */
void upper_note_nameless(struct upper *u, const struct upper_node *node);
/* After a record: ends what has no name, with all below it. */
void upper_settle_nameless(struct upper *u);

/* ---- changes (record.c) ---- */

struct upper_txn {
	struct inlay_buf ops;
};

static inline void inlay_cleanup_upper_txn(struct upper_txn *t)
{
	inlay_buf_fini(&t->ops);
}
#define auto_txn __attribute__((cleanup(inlay_cleanup_upper_txn)))

/* Makes or changes the node image->n: everything but names, dents, xattrs. */
void upper_txn_node(struct upper_txn *t, const struct upper_node *image);
/* n = 0: a whiteout. quiet: no times change; otherwise the directory's, and the node's ctime. */
void upper_txn_name(struct upper_txn *t, uint64_t dir, const char *name, size_t len, uint64_t n,
		    bool quiet);
void upper_txn_drop(struct upper_txn *t, uint64_t dir, const char *name, size_t len);
/* value NULL: removes it */
void upper_txn_xattr(struct upper_txn *t, uint64_t n, const char *name, const void *value,
		     size_t len);
/* What is synced at the root from now on. */
void upper_txn_shown(struct upper_txn *t, const struct inlay_digest *tree);
/* -EBADMSG when the bytes are not a list of assignments that fits to what there is; then some of them may
 * have been made. */
int upper_apply(struct upper *u, const uint8_t *ops, size_t len, int64_t time_ns,
		struct inlay_error *err) inlay_must_check;

/* ---- the journal (journal.c) ---- */

/*
 * Opens the upper of a workspace: takes the lock (another worker of the same workspace may be about to end: it
 * waits some seconds, then -EBUSY), replays the journal, cuts a torn record, removes data files without a node.
 * read_only: nothing is made or changed, and no lock is taken.
 */
int upper_open(int ws_fd, bool read_only, struct upper **ret, struct inlay_error *err)
	inlay_must_check;
void upper_close(struct upper *u); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct upper, upper_close)
/* Nothing is written any more: another worker may begin. What is left is to reap, whose numbers it does not use. */
void upper_unlock(struct upper *u);

/* Replays the bytes of a journal. *ret_end is where the last whole record ends. -EPROTONOSUPPORT: of a newer
 * version; -EBADMSG: not a journal. Places in the middle that are damaged are stepped over and counted. */
int upper_replay(struct upper *u, const uint8_t *bytes, size_t len, uint64_t *ret_end,
		 struct inlay_error *err) inlay_must_check;

/*
 * Writes a change to the journal. It is in the page cache when this returns: what is answered then survives a
 * kill. freeing: may use the space that is kept back for such changes, so that a full disk does not
 * keep anybody from removing files. On failure nothing was written. Followed by upper_apply with the same time.
 */
int upper_append(struct upper *u, const struct upper_txn *t, bool freeing, int64_t *ret_time_ns,
		 struct inlay_error *err) inlay_must_check;
/*
 * Another tree is shown at the root. The journal has it before anything that is written over it, and at once where
 * something was written before.
 */
void upper_show(struct upper *u, const struct inlay_digest *tree);
/* Writes the journal anew, with what there is now, durably; on failure the old one stays. */
int upper_rewrite(struct upper *u) inlay_must_check;
/* The same when most of it is of no use any more, and it is large. */
void upper_compact(struct upper *u);
/* Syncing goes on without a lock: *ret_fd is a copy of the journal's descriptor, -1 when there is nothing to do;
 * upper_synced() says that it was synced. */
int upper_sync_begin(struct upper *u, int *ret_fd, uint64_t *ret_seq, struct inlay_error *err)
	inlay_must_check;
void upper_synced(struct upper *u, uint64_t seq);

/* ---- data files (datafiles.c); any thread, but only while the node is known ---- */

int upper_open_files(struct upper *u, struct inlay_error *err) inlay_must_check;
/* Removes what no node names; stats the others. */
int upper_check_files(struct upper *u, struct inlay_error *err) inlay_must_check;
/* A descriptor of upper/<n>, for fdcache_release(&u->fds, ...). create: makes it, empty. */
int upper_file(struct upper *u, uint64_t n, bool create, struct fdref *ret, struct inlay_error *err)
	inlay_must_check;
/* Its size, blocks and times, in the node. */
void upper_stat(struct upper *u, struct upper_node *node);
/* The file was written to: upper_stat looks again. */
void upper_touched(struct upper *u, struct upper_node *node);
/* Removes upper/<n>, which nothing ever named. */
void upper_discard(struct upper *u, uint64_t n);
/* upper/<n> is of no use any more: upper_reap() removes it. */
void upper_bury(struct upper *u, uint64_t n);
bool upper_has_dead(struct upper *u);
/* Waits until a file is to be removed, or to be synced ahead. */
void upper_wait_work(struct upper *u);
/* Removes the files of nodes that ended, when the journal that says so is on the disk. True: some went. */
bool upper_reap(struct upper *u);
/* There is no space: syncs the journal and reaps. Call like upper_append(). True: it can be tried again. */
bool upper_make_space(struct upper *u);
/* Data, and the names of new files. fd -1: the names alone. */
int upper_sync_file(struct upper *u, int fd, bool data_only, struct inlay_error *err)
	inlay_must_check;
/* What upper/<n> has takes the place of what was there, and of what may have been safe: it is to be on the disk before
 * the journal is, and soon. */
void upper_put_ahead(struct upper *u, uint64_t n);
/* Syncs those, before the journal is. */
int upper_sync_ahead(struct upper *u, struct inlay_error *err) inlay_must_check;

#endif
