/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_WRITTEN_H
#define INLAY_WRITTEN_H

/*
 * What was written on a target through a mount, and how a workspace treats it. Implemented by the keeper (fs/keep),
 * called by the serving side of sessions. Thread-safe like host.h.
 *
 * The upper is what lies over the synced generation: files that were made or changed, names that were removed. It
 * belongs to the target: no sync, rollback or gc takes anything out of it, but for the policy SOURCE_WINS.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"
#include "inlay/host.h"
#include "inlay/mount.h"

/* ---- how a workspace is set up; remembered with it ---- */

enum {
	INLAY_REDIRECTS_MAX = 64,
	INLAY_REDIRECT_PATH_MAX = 1000, /* bytes */
};

/*
 * Directories of the mount that lead to plain local storage, ws/<id>/redirect/PATH: a list of paths with a NUL
 * behind each, which replaces the one that is remembered. The storage stays when a path leaves the list. -EINVAL for a
 * path that is none inside the workspace, -EBUSY when one that is there now is in use.
 */
int inlay_workspace_set_redirects(struct inlay_workspace *ws, const char *list, size_t len,
				  struct inlay_error *err) inlay_must_check;
/* Appends the list. */
void inlay_workspace_redirects(struct inlay_workspace *ws, struct inlay_buf *ret);

/* ---- the upper ---- */

enum inlay_upper_kind {
	INLAY_UPPER_WHITEOUT = 1, /* a synced name that was removed */
	INLAY_UPPER_FILE,
	INLAY_UPPER_DIR,   /* that was made; what is in it has entries of its own */
	INLAY_UPPER_MOVED, /* a synced directory under another name */
	INLAY_UPPER_ATTR,  /* a synced directory whose attributes were changed */
	INLAY_UPPER_SYMLINK,
	INLAY_UPPER_SPECIAL, /* a fifo or a socket */
	INLAY_UPPER_KINDS = INLAY_UPPER_SPECIAL,
};

struct inlay_upper_entry {
	uint8_t kind;
	bool shadows; /* the generation shown has something else at that path */
	uint32_t mode;
	uint64_t size;
	int64_t mtime_ns;
	const char *path, *target; /* borrowed from the list, no NULs at the end */
	uint32_t path_len, target_len;
	uint64_t file;          /* where its bytes are; 0: in the object id, or there are none */
	struct inlay_digest id; /* zeros: none */
};

struct inlay_upper_list {
	size_t count;
	struct inlay_upper_entry *entries; /* parents before what is in them */
	void *bytes;                       /* private */
	size_t len;
};

/* All that the upper of the mount has. -ENOTCONN: it is not mounted. */
int inlay_workspace_upper(struct inlay_workspace *ws, struct inlay_upper_list *ret,
			  struct inlay_error *err) inlay_must_check;
void inlay_upper_list_fini(struct inlay_upper_list *list);
INLAY_DEFINE_FINI(struct inlay_upper_list, inlay_upper_list_fini)

/* The bytes of a file of the upper that has some of its own (e->file). -ENOENT: it is gone by now. */
int inlay_workspace_upper_open(struct inlay_workspace *ws, const struct inlay_upper_entry *e,
			       int *ret_fd, struct inlay_error *err) inlay_must_check;

/*
 * Drops what the upper has at a path and below it: what was synced there is seen again. An empty path means
 * all. Counts the entries that went in *ret_count. -ENOENT when the upper has nothing there.
 */
int inlay_workspace_reset(struct inlay_workspace *ws, const char *path, size_t len,
			  uint64_t *ret_count, struct inlay_error *err) inlay_must_check;

/* The content of a regular file of the live generation. Positive: MISSING, there is no such file. */
int inlay_workspace_synced(struct inlay_workspace *ws, const char *path, size_t len,
			   struct inlay_digest *ret, struct inlay_error *err) inlay_must_check;

/*
 * Started by the keeper as a process of its own, since it acts through the mount: makes the directory `rel` of the
 * mount at `mount` lead to `storage`. With mount rights by a bind mount, else by a symlink.
 */
int inlay_redirect(const char *mount, const char *rel, const char *storage, struct inlay_error *err)
	inlay_must_check;

#endif
