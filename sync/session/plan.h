/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_PLAN_H
#define SESSION_PLAN_H

/*
 * What a change set consists of: the difference between the target's tree and the one that it shall get, as
 * counts, as files to be sent in the order that compresses best, and as ids.
 */

#include "inlay/idset.h"
#include "session/client.h"
#include "session/source.h"

struct plan_file {
	struct inlay_digest id;
	uint64_t size;
	/* What the target has at that place, or at one that looks like it; zeros = nothing. */
	struct inlay_digest basis;
	uint64_t basis_size;
	uint32_t path; /* offset in plan.paths; NUL-terminated there */
	uint32_t path_len;
};

struct plan {
	bool against_base; /* compared with a base; otherwise everything is "added" */
	uint64_t added, modified, removed; /* entries */
	uint64_t entries, bytes;           /* of the new tree */
	struct plan_file *files;           /* content that the base does not have at that place */
	size_t file_count, file_cap;
	uint64_t file_bytes;
	struct inlay_buf paths;
	struct plan_file *lost; /* files of the base that are not at their place any more */
	size_t lost_count, lost_cap;
	struct inlay_idset needed; /* ids of files and trees that may have to be sent */
	struct inlay_idset
		gone; /* ids that the base has and the new tree does not have at that place: a
				    * renamed file is found here and not sent */
};

static inline const char *plan_path(const struct plan *p, const struct plan_file *f)
{
	return (const char *)p->paths.data + f->path;
}

enum plan_flags {
	PLAN_FILES = 1 << 0,  /* files */
	PLAN_NEEDED = 1 << 1, /* needed */
	PLAN_GONE = 1 << 2,   /* gone */
};

typedef void plan_change_fn(void *ctx, const char *path, size_t len,
			    const struct inlay_entry *before, const struct inlay_entry *after);

/* `base` NULL = none. The counts are always made, the lists as the flags say. */
int plan_make(struct plan *p, struct source *s, const struct inlay_digest *base,
	      const struct inlay_digest *goal, enum plan_flags flags, struct inlay_error *err)
	inlay_must_check;
void plan_fini(struct plan *p);

/* Gives the files that have no old content at their place a likely one among those that went: of the
 * same name, or of one that looks like it. For renamed and edited files. */
void plan_match_renamed(struct plan *p);

/* Tells each difference between two remembered trees. */
int plan_tell(struct source *s, const struct inlay_digest *base, const struct inlay_digest *goal,
	      plan_change_fn *change, void *ctx, struct inlay_error *err) inlay_must_check;

/* True when the whole tree (not the files) is in the source's store. */
bool plan_has_tree(struct source *s, const struct inlay_digest *root);
/* How many entries a remembered tree has. */
int plan_count(struct source *s, const struct inlay_digest *root, uint64_t *ret_entries,
	       struct inlay_error *err) inlay_must_check;

/* The tree of `over` with what only `base` has kept; for syncs that do not delete. */
int plan_union(struct source *s, const struct inlay_digest *base, const struct inlay_root *over,
	       struct inlay_root *ret, struct inlay_error *err) inlay_must_check;

/* Gets the trees of the target's live generation into the source's store. */
int plan_fetch_trees(struct source *s, struct client *c, struct inlay_error *err) inlay_must_check;

#endif
