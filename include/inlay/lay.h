/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_LAY_H
#define INLAY_LAY_H

/*
 * A tree as real files: everything below a directory that is empty and ours. Nothing is resolved by
 * path: each name is made in the directory that is held open, O_EXCL and without following links. Owner
 * before mode before attributes before times, since each can change the one before; a directory gets
 * its own when all is in it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/error.h"
#include "inlay/store.h"
#include "inlay/tree.h"
#include "inlay/trees.h"

struct inlay_lay_options {
	bool owners; /* give each entry its uid and gid; without, setuid and setgid are left out */
	/* Another tree, laid with the same `owners` in the directory old_fd of the same filesystem: a file whose
	 * whole record is the same at the same path becomes a link of the one there. NULL = none. */
	const struct inlay_entry *old;
	int old_fd;
	/* Makes the file `name` in the directory with the entry's content and gives it open. It is to be a file that
	 * nobody else has, since it gets its attributes then. NULL: contents are in the store. */
	int (*make)(void *ctx, const struct inlay_entry *e, int dir, const char *name, int *ret_fd,
		    struct inlay_error *err);
	void *ctx;
};

struct inlay_lay_result {
	uint64_t entries, bytes;
	uint64_t links;  /* names of files that were there under another name */
	uint64_t shared; /* files that are links of the old tree's */
	uint64_t xattrs; /* that could not be set: for want of rights, or not known here */
};

/* `root` is the entry of the directory that `fd` is. -EEXIST when something is there already. */
int inlay_lay(struct inlay_trees *trees, struct inlay_store *store, const struct inlay_entry *root,
	      int fd, const struct inlay_lay_options *o, struct inlay_lay_result *ret,
	      struct inlay_error *err) inlay_must_check;

#endif
