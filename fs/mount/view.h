/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_VIEW_H
#define MOUNT_VIEW_H

/*
 * What the mount shows: the tree of one generation, as nodes. Directories are read from the store when the
 * kernel first asks; what the kernel knows stays in the table, so that numbers are stable.
 *
 * New content is a new node, for files and symlinks: an open file keeps its bytes, and no page of the
 * kernel's cache ever has to be dropped. A directory keeps its node while its path stays a directory. A change of
 * attributes alone keeps the node.
 *
 * Threads: every function may be called from any thread, except that view_switch belongs to one. The
 * lock is never held while the store is read, the kernel is written to, or a caller's callback blocks.
 *
 * Why an answer from before a switch cannot outlive it: the kernel holds the directory's lock over LOOKUP and
 * READDIR and takes it for the invalidation of a name, so an invalidation that comes after the switch
 * waits for every answer that was computed before it.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/mount.h"
#include "inlay/store.h"
#include "inlay/trees.h"

struct view;

struct view_options {
	struct inlay_store *store; /* outlives the view */
	uint32_t uid, gid;         /* squash: every entry belongs to them */
	bool keep_owners;          /* ... unless the entry's own are kept */
	size_t tree_cache_bytes;
	struct upper *upper; /* outlives the view */
	enum inlay_upper_policy policy;
	bool callers_own; /* new files belong to who makes them; otherwise to uid and gid */
};

int view_new(const struct view_options *options, struct view **ret, struct inlay_error *err)
	inlay_must_check;
void view_free(struct view *v); /* accepts NULL */

/* A name's answer. */
struct view_entry {
	uint64_t number; /* 0: there is no such name, and that may be remembered */
	struct stat attr;
	bool listed; /* the name waits for its replay (listed.h): not to be remembered at all */
};

/* Looks a name up and takes one reference for the kernel. -ENOENT: not there, and not to be remembered; -ESTALE:
 * no such directory. */
int view_lookup(struct view *v, uint64_t dir, const char *name, struct view_entry *ret,
		struct inlay_error *err) inlay_must_check;
/* Gives back references; a node that has no name any more ends with the last one. */
void view_forget(struct view *v, uint64_t number, uint64_t count);
int view_getattr(struct view *v, uint64_t number, struct stat *ret, struct inlay_error *err)
	inlay_must_check;
/* Copies a symlink's target, with a NUL. */
int view_readlink(struct view *v, uint64_t number, char ret[static INLAY_LINK_MAX + 1],
		  struct inlay_error *err) inlay_must_check;

/* A regular file's content: an object, or a data file of the upper. */
struct view_content {
	struct inlay_digest id;
	uint64_t size; /* of the object */
	struct upper_node
		*own; /* not NULL: it is upper/<file>; valid while the kernel knows the node */
	uint64_t file;
	bool has_file; /* own: there is one; otherwise the file is empty */
};

int view_content(struct view *v, uint64_t number, struct view_content *ret, struct inlay_error *err)
	inlay_must_check;

/*
 * Lists a directory from a position on (0 = the start): fn gets each entry with the position behind it and
 * answers false when it has no room. plus: the entry's number is looked up like view_lookup does, one
 * reference for each entry that fn took, but for "." and "..". fn runs under the lock: it only copies. An
 * entry with the number 0 is to be given without one: it has to be looked up to be known.
 * The list may end before the directory does; it is complete when fn was not called at all.
 */
typedef bool view_list_fn(void *ctx, const char *name, const struct view_entry *entry,
			  uint64_t next_position);
int view_list(struct view *v, uint64_t dir, uint64_t position, bool plus, view_list_fn *fn,
	      void *ctx, struct inlay_error *err) inlay_must_check;

/* The generation that is shown. */
void view_generation(struct view *v, struct inlay_generation *ret);

/* ---- the switch ---- */

enum view_note_kind {
	VIEW_NOTE_NAME, /* what the kernel knows of a name in `number` ends */
	VIEW_NOTE_GONE, /* the same, and so does the node `child`, which has no other name */
	VIEW_NOTE_ATTR, /* the attributes of `number` changed */
	VIEW_NOTE_LIST, /* the listing of the directory `number` changed, and its attributes */
};

struct view_note {
	enum view_note_kind kind;
	uint64_t number, child;
	uint32_t name; /* NAME: offset in names */
	uint8_t name_len;
};

/* What the kernel is to be told, in this order, after the switch. */
struct view_notes {
	struct view_note *notes;
	size_t count, cap;
	struct inlay_buf names;
	uint64_t seq;   /* of this switch, in the replay list */
	size_t listed;  /* changes that went into it */
	size_t unnoted; /* names of them that have no note: their replay tells the kernel */
};

void view_notes_fini(struct view_notes *notes);

/*
 * Shows another generation. The caller then tells the kernel the notes, without any lock. A tree that is
 * missing or damaged is found before anything changed: -EIO, -EBADMSG, the old one stays. -ENOMEM and
 * -ENOSPC may come half-way: then the view is not to be used any more.
 */
int view_switch(struct view *v, const struct inlay_generation *gen, struct view_notes *ret,
		struct inlay_error *err) inlay_must_check;

/* Drops what the upper has at a path (bytes, without a slash at the start; none: everywhere), so that what is
 * synced is seen again. The caller tells the kernel the notes. -ENOENT: the upper has nothing there. */
int view_reset(struct view *v, const char *path, size_t len, struct view_notes *ret,
	       struct inlay_error *err) inlay_must_check;

/* ---- changes, as the kernel asks for them ---- */

/* Who makes a name. */
struct view_caller {
	uint32_t uid, gid;
};

struct view_make {
	mode_t mode;        /* S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO or S_IFSOCK, and 07777 */
	const char *target; /* symlink */
	struct view_caller caller;
};

/* All of them: -EROFS under the read-only policy; -ENOSPC when the disk is full: then nothing changed. They take one
 * reference for an entry that they give. */
int view_make(struct view *v, uint64_t dir, const char *name, const struct view_make *make,
	      struct view_entry *ret, struct inlay_error *err) inlay_must_check;
int view_link(struct view *v, uint64_t number, uint64_t dir, const char *name,
	      struct view_entry *ret, struct inlay_error *err) inlay_must_check;
int view_remove(struct view *v, uint64_t dir, const char *name, bool is_dir,
		struct inlay_error *err) inlay_must_check;
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE; others are -EINVAL. */
int view_rename(struct view *v, uint64_t dir, const char *name, uint64_t new_dir,
		const char *new_name, unsigned flags, struct inlay_error *err) inlay_must_check;

enum view_set {
	VIEW_SET_MODE = 1 << 0,
	VIEW_SET_UID = 1 << 1,
	VIEW_SET_GID = 1 << 2,
	VIEW_SET_ATIME = 1 << 3,
	VIEW_SET_MTIME = 1 << 4,
	VIEW_SET_ATIME_NOW = 1 << 5,
	VIEW_SET_MTIME_NOW = 1 << 6,
};

int view_set_attr(struct view *v, uint64_t number, const struct stat *attr, enum view_set set,
		  struct inlay_error *err) inlay_must_check;

/*
 * Gives a file a data file of its own in the upper, with the first `keep` bytes of what it has; its number stays.
 * What is written then, is written to upper/<file>; view_wrote() says so afterwards.
 */
int view_own(struct view *v, uint64_t number, uint64_t keep, struct view_content *ret,
	     struct inlay_error *err) inlay_must_check;
void view_wrote(struct view *v, const struct view_content *content);

/* *ret_len: the value's length; at most `size` bytes are copied, none when it is longer. -ENODATA. */
int view_get_xattr(struct view *v, uint64_t number, const char *name, void *value, size_t size,
		   size_t *ret_len, struct inlay_error *err) inlay_must_check;
/* Appends the names, each with a NUL. */
int view_list_xattrs(struct view *v, uint64_t number, struct inlay_buf *ret,
		     struct inlay_error *err) inlay_must_check;
/* value NULL: removes it. flags: XATTR_CREATE, XATTR_REPLACE. */
int view_set_xattr(struct view *v, uint64_t number, const char *name, const void *value, size_t len,
		   int flags, struct inlay_error *err) inlay_must_check;

/* Set-id bits and security.capability end, as on a write by somebody without rights to them. Other than regular
 * files have none. */
int view_end_privs(struct view *v, uint64_t number, struct inlay_error *err) inlay_must_check;

/* Waits until all that was answered is on the disk: the journal, and of the file its bytes (data_only: not its
 * times). */
int view_sync(struct view *v, uint64_t number, bool data_only, struct inlay_error *err)
	inlay_must_check;

/* Starts the thread that removes data files which are of no use any more, a moment after the fact. */
int view_start_reaping(struct view *v, struct inlay_error *err) inlay_must_check;
/* Removes them now. True: some went. */
bool view_reap(struct view *v);
/* What a full disk answers: then removed files may hold space yet. */
static inline bool view_is_full(int64_t r)
{
	return r == -ENOSPC || r == -EDQUOT;
}

/* ---- for status ---- */

struct view_usage {
	uint64_t nodes, dents, table_bytes;
	uint64_t upper_names;   /* whiteouts too */
	uint64_t orphans;       /* files that were written to after their name had gone */
	uint64_t upper_damaged; /* damaged places of the journal that were stepped over */
	uint64_t journal_bytes;
};

void view_usage(struct view *v, struct view_usage *ret);

/* upper/report.h, over the generation shown. */
int view_report_upper(struct view *v, struct inlay_trees *trees, struct inlay_buf *ret,
		      uint64_t *ret_count, struct inlay_error *err) inlay_must_check;

/* Ids of contents and trees that nodes with references, and the upper, need: they must not be collected. */
typedef int view_pin_fn(void *ctx, const struct inlay_digest *id, bool is_tree);
int view_pins(struct view *v, view_pin_fn *fn, void *ctx);

#endif
