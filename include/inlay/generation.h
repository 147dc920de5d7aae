/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_GENERATION_H
#define INLAY_GENERATION_H

/*
 * A generation: one state of a workspace, the unit that is published and rolled back to. Small
 * values, no pointers: copied freely.
 */

#include <stdint.h>

#include "inlay/digest.h"
#include "inlay/limits.h"

/* The root directory of a generation. Its own attributes are kept here, as it has no parent to keep
 * them. */
struct inlay_root {
	struct inlay_digest tree; /* the root's tree object (tree.h) */
	uint32_t mode;            /* permission bits of the root directory, 07777 */
	int64_t mtime_ns;
};

struct inlay_generation {
	uint64_t number; /* 1, 2, ...; may skip after an unclean end; 0 = there is none yet */
	uint64_t parent; /* the generation that this one followed, 0 = none */
	uint64_t
		rollback_of; /* the generation whose root this one took back, 0 = an ordinary one */
	int64_t time_ns;     /* CLOCK_REALTIME of the commit on the target */
	uint64_t entries;    /* files, directories and symlinks in it */
	uint64_t bytes;      /* sum of the sizes of its files */
	uint64_t changed;    /* entries added, changed or removed against the parent */
	struct inlay_root root;
	char origin[INLAY_ORIGIN_MAX + 1]; /* "user@host:/path" of the sender; any bytes but NUL */
};

#endif
