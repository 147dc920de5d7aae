/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_VIEW_PRIVATE_H
#define MOUNT_VIEW_PRIVATE_H

/*
 * Locks, in the order in which they are taken:
 *     change   whatever changes the upper or the generation: one at a time. Held over reading the store and
 *              writing the journal, so under it bases and the upper stay as they are
 *     lock     the table, the upper in memory, the generation: short, never over I/O but a stat of a data file
 *     upper->lock
 * What only looks takes `lock` for reading, and never `change`.
 */

#include "inlay/cleanup.h"
#include "mount/listed.h"
#include "mount/table.h"
#include "mount/view.h"
#include "upper/upper.h"

struct view {
	pthread_mutex_t change;
	pthread_rwlock_t lock; /* table, upper, gen, listed */
	struct table *table;
	struct upper *upper;
	struct inlay_generation gen;
	struct inlay_trees *trees;
	struct view_options options;
	struct listed_list listed;
};

static inline struct upper_node *view_upper(const struct view *v, uint32_t slot)
{
	uint64_t n = table_node(v->table, slot)->upper;

	return n ? upper_find(v->upper, n) : NULL;
}

/* What a directory's node says now. */
struct at_dir {
	uint32_t slot;
	struct inlay_digest tree; /* zeros: there is no base */
	bool dead;
};

enum { VIEW_RETRY = 1 };

/* Lock held. -ESTALE, -ENOTDIR. */
int view_at_dir(struct view *v, uint64_t number, struct at_dir *ret, struct inlay_error *err)
	inlay_must_check;
/* The directory still is what it was when its tree was opened. Lock held. */
bool view_still_at(struct view *v, uint64_t number, const struct at_dir *at);

/* What a name in a directory shows, given what lies below. */
enum view_shown { VIEW_NOTHING, VIEW_LOWER, VIEW_UPPER };
enum view_shown view_shown(const struct upper_dent *d, const struct inlay_entry *lower);
static inline enum upper_below view_below(const struct inlay_entry *lower)
{
	return !lower                      ? UPPER_BELOW_NOTHING
	       : inlay_entry_is_dir(lower) ? UPPER_BELOW_DIR
					   : UPPER_BELOW_OTHER;
}

/* Opens a directory's base; nothing to open is an empty one. Positive: nothing. A tree that is missing is -EIO. */
int view_open_base(struct view *v, const struct inlay_digest *tree, struct inlay_dir *ret,
		   struct inlay_error *err) inlay_must_check;

/* The node of what a name shows, made when the table does not know it: lower with the upper's node where a merged
 * directory lies over it (d may be NULL), or the upper's alone (lower NULL). Lock held for writing. */
int view_learn(struct view *v, uint32_t parent, const char *name, size_t len,
	       const struct inlay_entry *lower, struct upper_node *node, uint32_t *ret_slot,
	       struct inlay_error *err) inlay_must_check;
struct timespec view_time(int64_t ns);
/* Number and attributes. Lock held. */
void view_answer(const struct view *v, uint32_t slot, struct view_entry *ret);
void view_refer(struct node *n);
/* The directory's count of subdirectories is not known for the base that it has now. Lock held. */
bool view_is_unsettled(const struct view *v, uint32_t slot);

/* Gives a node the attributes and the content of an entry (not a symlink's target). Lock held for
 * writing. */
void view_set_node(struct view *v, struct node *n, const struct inlay_entry *e);
/* Waits until all that the journal has is on the disk. Takes `change`. */
int view_sync_journal(struct view *v, struct inlay_error *err) inlay_must_check;

/* Frees a node that nothing refers to any more. Lock held for writing. */
void view_drop_if_unused(struct view *v, uint32_t slot);

/* ---- settle.c: what a switch does with the names that changed ---- */

struct change {
	struct view *v;
	struct shapes *shapes;
	struct settle *settle;    /* NULL while only looking: then the lock is not held */
	struct view_drops *drops; /* while looking: what the source is to win; NULL = it does not */
	uint32_t dir; /* slot of the directory at hand; 0: the kernel does not know it */
	struct upper_node *upper; /* what the upper has of it; NULL = nothing */
	struct listed_dir *path;  /* its path, once it was needed */
	bool listing;             /* its listing changed */
	unsigned depth;
};

/* A name that is not there any more, is new, or has other content. Applied by settle_apply, since a name that
 * went here may have come there. */
int settle_name(struct change *c, uint32_t dent, const struct inlay_entry *before,
		const struct inlay_entry *after, struct inlay_error *err) inlay_must_check;
/* A name whose attributes alone changed. */
void settle_attrs(struct change *c, const struct inlay_entry *after);
/* While only looking, no lock held: reads the trees that settling a removed directory will need, and remembers
 * directories that went and came for shapes_compare. */
void settle_look(struct change *c, uint32_t dent, const struct inlay_entry *before,
		 const struct inlay_entry *after);
int settle_begin(struct view *v, const struct shapes *shapes, struct view_notes *notes,
		 struct settle **ret, struct inlay_error *err) inlay_must_check;
int settle_apply(struct settle *s, struct inlay_error *err) inlay_must_check;
void settle_free(struct settle *s); /* accepts NULL */
int settle_note(struct settle *s, enum view_note_kind kind, uint32_t slot, const char *name,
		size_t len, struct inlay_error *err) inlay_must_check;

/* The kernel is to forget a name, and all that it knows below. */
int settle_gone(struct settle *s, uint32_t dir, const char *name, size_t len,
		struct inlay_error *err) inlay_must_check;

/* switch.c: the directory's tree is another one, in which names and contents are the same. Lock held for
 * writing. */
int switch_kept_dir(struct settle *s, struct view *v, uint32_t slot,
		    const struct inlay_digest *before, const struct inlay_digest *after,
		    struct inlay_error *err) inlay_must_check;

/*
 * shapes.c: directories that went and came with the same names and contents. Their trees differ where they have
 * directories in them, since a directory's time is that of the generation that made it.
 */
struct shapes;
struct shapes *shapes_new(struct inlay_trees *trees); /* NULL: no memory; all below accept it */
void shapes_free(struct shapes *s);
INLAY_DEFINE_CLEANUP(struct shapes, shapes_free)
void shapes_add(struct shapes *s, const struct inlay_entry *e, bool goes);
void shapes_compare(struct shapes *s);
bool shapes_same(const struct shapes *s, const struct inlay_digest *a,
		 const struct inlay_digest *b);

#endif
