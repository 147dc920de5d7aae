/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_WALK_H
#define SCAN_WALK_H

/*
 * The parts of a walk.
 *
 *     walk.c     threads, the queue of directories, putting results together
 *     node.c     one directory on its way: path, descriptor, what is wrong with it
 *     list.c     which names a directory has
 *     look.c     one name: is it as it was?
 *     compose.c  from these names to blocks, sharing the old ones
 *     update.c   which names to look at when only some may have changed
 *
 * A node is a directory on its way. It is pushed when its parent has been listed, worked on by one
 * thread, and waits until all directories in it are done; whoever ends the last of them puts the
 * node's result together. So no result depends on the order in which threads came.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inlay/bytes.h"
#include "inlay/scan.h"
#include "scan/mounts.h"
#include "scan/snapshot.h"
#include "scan/trouble.h"

enum { SCAN_THREADS_MAX = 16 };

/* A range of the sorted paths of an update, those at or below one directory. */
struct scan_wants {
	const char *const *paths; /* NULL: everything is looked at */
	size_t first, end;
	size_t skip; /* bytes of the directory's own path, with the slash behind it */
	bool itself; /* the directory is asked for too: all its names are looked at */
};

struct scan_node {
	struct scan_node *parent; /* NULL: the root */
	struct scan_node *next;   /* in the queue */
	unsigned pending;         /* atomic: directories in it that are not done, and itself */
	unsigned openers;         /* atomic: the same, not opened; then fd is closed */
	int fd;                   /* -1: not opened, or closed to save descriptors */
	uint32_t index;           /* among the directories of the parent */
	uint32_t depth;           /* directories above it */
	uint32_t path_len;        /* bytes of its path with a slash behind it */
	uint64_t dev;
	int64_t folder_mtime_ns;
	struct inlay_ignore *rules;
	struct scan_dir *before; /* borrowed from the last snapshot; NULL: there was none */
	struct scan_wants wants;
	/* what listing it gave */
	bool listed;      /* false: it failed, or it is gone */
	bool same_blocks; /* blocks are those of `before` */
	bool listing_is_new;
	uint8_t bits, rule_files;
	uint32_t ignored;
	uint32_t child_count;
	struct scan_block **blocks; /* 1 << bits; NULL when they are the same */
	struct scan_dir **children;
	uint8_t name_len;
	char name[]; /* with a NUL */
};

struct scan_walk {
	const struct inlay_scan_options *options;
	int rootfd;
	int64_t start_ns;
	bool had_before;
	struct stat root_stat;
	struct scan_mounts mounts;
	struct scan_trouble trouble;
	bool failed;   /* atomic: the result is not wanted any more */
	bool stop;     /* atomic: nor is any further message */
	bool retry;    /* atomic: a name became something else between two looks */
	unsigned open; /* atomic: descriptors of nodes */
	unsigned open_max;
	unsigned helpers_max;
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t wake;
	struct scan_node *queue; /* the last one pushed is the next one taken */
	unsigned queued, busy, idle, helpers;
	pthread_t threads[SCAN_THREADS_MAX];
	struct scan_dir *result;
};

/* Times outside of what 64 bits of nanoseconds hold, the years 1677 to 2262, become the nearest that
 * they do; a change of such a file is still told by its ctime, which nobody can set. */
int64_t scan_time_ns(int64_t sec, uint32_t nsec);

/* The racy rule: times that are older than the last look by a margin. An edit within the same tick as
 * that look, or shortly after it, can leave the same times behind; such a file is read again. */
bool scan_times_are_old(int64_t mtime_ns, int64_t ctime_ns, int64_t seen_ns);

/* inlay_scan_walk and inlay_scan_update. */
int scan_walk_wants(int rootfd, const struct inlay_scan_options *options,
		    struct inlay_snapshot *old, const struct scan_wants *wants,
		    struct inlay_snapshot **ret, struct inlay_error *err);

/* ---- nodes (walk.c) ---- */

/* A directory below `parent` that is to be listed; it is not in the queue yet. */
struct scan_node *scan_node_new(struct scan_node *parent, const char *name, size_t len);
void scan_node_free(struct scan_node *node);
/* Appends the path of the directory with a slash behind it; nothing for the root. */
void scan_node_path(const struct scan_node *node, struct inlay_buf *path);

/* Opens the directory, below the descriptor of its parent. False when it cannot be listed; why was
 * told, or it is gone, or the walk is to be made again. */
bool scan_node_open(struct scan_walk *walk, struct scan_node *node);
/* One of those who may want to open something in the directory has done so: `openers` counts them. */
void scan_node_opened(struct scan_walk *walk, struct scan_node *node);
/* Gives the descriptor up to save some; whoever needs the directory opens it again from the root. */
void scan_node_close(struct scan_walk *walk, struct scan_node *node);
/* How many descriptors a walk keeps open before it does that. */
unsigned scan_open_limit(void);

/* Something is wrong with a name in the directory, NULL: with the directory itself. `what` is put
 * before the name, e.g. "cannot list"; `why` behind it, NULL: the text of the error number. The walk
 * goes on to count the others, but there will be no snapshot. */
void scan_walk_trouble(struct scan_walk *walk, const struct scan_node *node, const char *name,
		       size_t len, int code, const char *what, const char *why);
/* Nothing can go on. */
void scan_walk_give_up(struct scan_walk *walk, const struct inlay_error *e);
void scan_walk_no_memory(struct scan_walk *walk);

/* ---- what listing gives ---- */

/* A name in a directory. */
struct scan_item {
	uint64_t hash;
	const char *name;
	uint32_t old_block; /* where it stood, when it did */
	int32_t old_entry;  /* -1: it is new */
	uint32_t target;    /* a symlink that is not clean: where its target is in lister.targets */
	uint16_t type;      /* S_IFMT */
	uint8_t name_len;
	bool clean;    /* as it was: the old entry holds */
	bool was_same; /* there was one of that name and type */
	struct scan_entry entry;
	struct scan_owner owner;
	int64_t folder_mtime_ns; /* directory */
};

/* The work space of a thread, used for one directory after another. */
struct scan_lister {
	struct scan_walk *walk;
	struct inlay_buf records; /* of getdents64 */
	struct inlay_buf targets;
	struct inlay_buf items; /* struct scan_item */
	struct inlay_buf order; /* struct scan_order: the items in the order of trees */
	struct inlay_buf seen;  /* a bit for each old entry */
	uint32_t *first;        /* the number of the first old entry of each old block */
	uint32_t first_cap;
	uint32_t old_count;
	bool whole;                 /* all names were looked at */
	struct inlay_buf asked;     /* otherwise: a bit for each old entry that was looked at, */
	struct inlay_buf touched;   /* and one for each old block that has items */
	int64_t seen_ns;            /* for new blocks */
	struct scan_node *children; /* to be pushed */
	uint32_t child_nodes;
};

struct scan_order {
	uint64_t hash;
	const struct scan_item *item;
};

static inline size_t scan_item_count(const struct scan_lister *l)
{
	return l->items.len / sizeof(struct scan_item);
}

/* Lists the directory: fd is open and the parent has rules. Sets what listing gives. 0 also when
 * something was wrong (scan_walk_trouble was told then); negative: nothing can go on. */
int scan_list(struct scan_lister *l, struct scan_node *node, struct inlay_error *err);
void scan_lister_fini(struct scan_lister *l);
INLAY_DEFINE_FINI(struct scan_lister, scan_lister_fini)

/* Looks at one name and adds an item, unless it is ignored or not there. `type` is a DT_ value. */
int scan_look(struct scan_lister *l, struct scan_node *node, const char *name, size_t len,
	      unsigned char type, struct inlay_error *err);
/* Makes blocks from the items, and nodes for the directories among them. */
int scan_compose(struct scan_lister *l, struct scan_node *node, struct inlay_error *err);

/* ---- when only some names are looked at (update.c) ---- */

/* Those of the files of rules that are asked for. */
uint8_t scan_wants_rule_files(const struct scan_node *node);
/* True when a directory that was there before has to be looked at; *ret is what for. */
bool scan_wants_child(const struct scan_node *node, const char *name, size_t len,
		      struct scan_wants *ret);
/* Looks at the names asked for, and adds what else stands in their blocks as clean items. */
int scan_look_at_wants(struct scan_lister *l, struct scan_node *node, struct inlay_error *err);
/* Adds all other blocks too. */
int scan_take_untouched(struct scan_lister *l, struct scan_node *node, struct inlay_error *err);

#endif
