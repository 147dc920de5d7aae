/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_CHANGING_H
#define MOUNT_CHANGING_H

/*
 * What the changes have in common. Each is made in three steps, all under `change`: look (read the store, find out
 * what is there), write the journal, and then, under `lock`, apply it to the upper and to the table. What fails,
 * fails before the journal is written.
 */

#include "mount/view_private.h"

/* A change that is being put together. */
struct changing {
	struct view *v;
	struct upper_txn txn;
	bool freeing;
	int64_t time_ns; /* of its record */
	/* Nodes of the table that get a node of the upper with it. */
	struct changing_adopt {
		uint32_t slot;
		uint64_t n;
	} * adopts;
	size_t adopt_count, adopt_cap;
	char *targets[2]; /* of the images of synced symlinks, of which at most two are in use */
};

void changing_fini(struct changing *c);
INLAY_DEFINE_FINI(struct changing, changing_fini)
#define auto_changing __attribute__((cleanup(inlay_cleanup_changing_fini)))

/* -EROFS where nothing may be written. */
int changing_allowed(const struct view *v, struct inlay_error *err) inlay_must_check;

/* The number that a directory has in the upper; made with it, and with those above, when it has none. */
int changing_dir(struct changing *c, uint32_t slot, uint64_t *ret_n, struct inlay_error *err)
	inlay_must_check;
int changing_adopt(struct changing *c, uint32_t slot, uint64_t n, struct inlay_error *err)
	inlay_must_check;
/* What a node of the table is now, as a node of the upper: its own number, or a new one. */
int changing_image(struct changing *c, uint32_t slot, struct upper_node *ret,
		   struct inlay_error *err) inlay_must_check;
/* Puts a changed image of a node that stays where it is; image->n is its number then. */
int changing_keep(struct changing *c, uint32_t slot, struct upper_node *image,
		  struct inlay_error *err) inlay_must_check;

/* Writes the journal. */
int changing_log(struct changing *c, struct inlay_error *err) inlay_must_check;
/* Applies it. `lock` held for writing. */
int changing_apply(struct changing *c, struct inlay_error *err) inlay_must_check;

/* A name in a directory and all that is known of it. */
struct spot {
	uint32_t dir; /* slot */
	const char *name;
	size_t len;
	struct inlay_dir tree; /* `entry` points into it */
	struct inlay_entry entry;
	const struct inlay_entry *lower; /* NULL, or entry */
	struct upper_dent *dent;
	enum view_shown shown;
	mode_t mode; /* of what is shown */
};

static inline void spot_fini(struct spot *s)
{
	inlay_dir_close(&s->tree);
}
INLAY_DEFINE_FINI(struct spot, spot_fini)
#define auto_spot __attribute__((cleanup(inlay_cleanup_spot_fini)))

/* -ENAMETOOLONG; -ENOENT when the directory was removed. *ret may be closed in any case. */
int spot_look(struct view *v, uint64_t dir, const char *name, struct spot *ret,
	      struct inlay_error *err) inlay_must_check;
/* The table's node of what is shown. Takes `lock`. */
int spot_node(struct view *v, const struct spot *s, uint32_t *ret_slot, struct inlay_error *err)
	inlay_must_check;
/* `lock` held for writing, after changing_apply: what is synced below the upper's dent, if there is one now. */
void spot_below(struct view *v, const struct spot *s);
/* Takes the name out of the table; gives the node's slot, 0 = it was not known. */
uint32_t spot_unlist(struct view *v, const struct spot *s);
/* The name went: both, and the node too when nothing else needs it. */
void spot_changed(struct view *v, const struct spot *s);

#endif
