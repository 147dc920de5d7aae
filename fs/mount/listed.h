/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_LISTED_H
#define MOUNT_LISTED_H

/*
 * The replay list of a view: names whose change is still to be raised as file system events (replay.h). It is
 * filled in the same critical section as the switch, so that from the first new answer on
 *   - every answer about a listed name, to anybody, may be remembered for no time, and
 *   - the helper alone sees what was there before: it cannot make what is there, nor remove what is not.
 * The helper's mknod, mkdir, symlink, unlink, rmdir and rename consume the entry; what the kernel then knows of the
 * name is right, since it comes from that operation.
 *
 * Every function is called with the view's lock held: for writing, unless it says reading.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "mount/view.h"

enum listed_kind {
	LISTED_NEW,      /* make it */
	LISTED_GONE,     /* remove it */
	LISTED_REPLACED, /* remove it, then make what has its name now: another type */
	LISTED_MOVED,    /* rename `at` to `to`; the node is the same */
	LISTED_TOUCHED,  /* content or attributes changed: no name of it is listed */
};

/* A changed directory's path from the root ("" = the root), shared by the entries in it. */
struct listed_dir {
	unsigned refs;
	size_t len;
	char path[];
};

/* What was there before. */
struct listed_was {
	uint64_t number; /* the list holds a reference; 0 = a node is made when the helper asks */
	uint64_t size;
	int64_t mtime_ns;
	struct inlay_digest id;
	uint32_t mode;
};

struct listed_name {
	uint64_t dir; /* number */
	struct listed_dir *path;
	const char *name; /* in the entry's memory, with a NUL */
	uint8_t len;
	bool hashed;
	bool old; /* `was` is to go */
	struct listed_was was;
	struct listed *entry;
	struct listed_name *next;
};

struct listed {
	TAILQ_ENTRY(listed) link;
	struct listed_queue *queue;
	enum listed_kind kind;
	uint64_t seq; /* of its switch */
	struct listed_name at, to;
	uint64_t node; /* TOUCHED, attrs: the node itself, which may be watched */
	uint32_t mode; /* of what is there now */
	bool empty;    /* NEW: a file without content */
	int64_t mtime_ns;
	bool make;       /* NEW, REPLACED: it is to be made */
	bool attrs;      /* TOUCHED: only attributes changed */
	bool close_only; /* TOUCHED: a file that was made, whose writer shall be seen to close it */
	bool in_dead;    /* its directory was removed by the same switch */
	bool failed;     /* the helper did not consume it once */
	bool overtaken; /* somebody else changed the name since: the helper cannot, and the kernel is told */
};

TAILQ_HEAD(listed_queue, listed);

enum { LISTED_HASH = 4096 };

struct listed_list {
	struct listed_queue waiting; /* for a look at who watches */
	struct listed_queue names;   /* to be raised: they correct what the kernel knows */
	struct listed_queue touches; /* to be raised after that */
	struct listed_queue running; /* the helper has them */
	size_t count;                /* entries in all */
	size_t hashed;               /* names in the table; atomic, so that 0 costs no look */
	struct listed_name *table[LISTED_HASH];
	uint64_t seq;      /* of the last switch */
	uint64_t skipped;  /* changes that had no room, since the start */
	uint64_t *watched; /* numbers of nodes that somebody watches, in order, as last seen */
	size_t watched_count;
};

void listed_init(struct listed_list *l);
void listed_fini(struct listed_list *l);

/* An entry with room for its names, in no queue. NULL: no memory, or the list is full; the caller then does
 * without events. `to` may be empty. Takes references of the paths. */
struct listed *listed_new(struct view *v, enum listed_kind kind, struct listed_dir *dir,
			  uint64_t at_dir, const char *name, size_t len);
/* MOVED: gives it the new name; false when memory is out. */
bool listed_set_to(struct listed *e, struct listed_dir *dir, uint64_t to_dir, const char *name,
		   size_t len);
/* Remembers what was there; the node, when the view has one, is kept until the entry goes. */
void listed_set_was(struct view *v, struct listed_name *n, uint32_t slot,
		    const struct listed_was *was);
/* Puts it into the table and into a queue. */
void listed_add(struct view *v, struct listed *e, struct listed_queue *queue);
/* Ends the entry: the truth is told from now on, and may be remembered. */
void listed_drop(struct view *v, struct listed *e);
void listed_requeue(struct listed *e, struct listed_queue *queue);

/* Lock held for reading. */
bool listed_is(const struct view *v, uint64_t dir, const char *name, size_t len);
struct listed_name *listed_find(const struct view *v, uint64_t dir, const char *name, size_t len);
/* Somebody changes the name through the mount. */
void listed_overtake(const struct view *v, uint64_t dir, const char *name, size_t len);
/* Somebody was seen to watch the node. Lock held for reading. */
bool listed_watched(const struct view *v, uint64_t number);

/* A path for entries; NULL when memory is out or the path is too long to be opened. */
struct listed_dir *listed_dir_new(const char *path, size_t len);
void listed_dir_unref(struct listed_dir *dir); /* accepts NULL */

/* ---- what the helper does; these take the view's lock themselves ---- */

enum { LISTED_NOT = 1 }; /* positive result: the name is not listed, or not so */

/* What the helper sees of a listed name: what was there, with a reference for the kernel, or nothing. */
int listed_lookup(struct view *v, uint64_t dir, const char *name, struct view_entry *ret,
		  struct inlay_error *err) inlay_must_check;
/* It makes a name: gives what is there, with a reference for the kernel. */
int listed_make(struct view *v, uint64_t dir, const char *name, uint32_t type,
		struct view_entry *ret, struct inlay_error *err) inlay_must_check;
int listed_remove(struct view *v, uint64_t dir, const char *name, bool is_dir) inlay_must_check;
int listed_rename(struct view *v, uint64_t dir, const char *name, uint64_t to_dir,
		  const char *to_name) inlay_must_check;

#endif
