/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_VIEW_PRIVATE_H
#define MOUNT_VIEW_PRIVATE_H

#include "inlay/cleanup.h"
#include "mount/listed.h"
#include "mount/table.h"
#include "mount/view.h"

struct view {
	pthread_rwlock_t lock; /* table, gen, listed */
	struct table *table;
	struct inlay_generation gen;
	struct inlay_trees *trees;
	struct view_options options;
	struct listed_list listed;
};

/* Gives a node the attributes and the content of an entry (not a symlink's target). Lock held for
 * writing. */
void view_set_node(struct view *v, struct node *n, const struct inlay_entry *e);
/* Says what a node is. Lock held. */
void view_answer(const struct view *v, uint32_t slot, struct view_entry *ret);
/* Frees a node that nothing refers to any more. Lock held for writing. */
void view_drop_if_unused(struct view *v, uint32_t slot);

/* ---- settle.c: what a switch does with the names that changed ---- */

struct change {
	struct view *v;
	struct shapes *shapes;
	struct settle *settle;   /* NULL while only looking: then the lock is not held */
	uint32_t dir;            /* slot of the directory at hand */
	struct listed_dir *path; /* its path, once it was needed */
	bool listing;            /* its listing changed */
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
