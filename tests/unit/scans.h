/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_SCANS_H
#define INLAY_TESTS_SCANS_H

/*
 * What tests of the scanner share: a whole scan, and two texts to compare. One tells what the tree
 * objects say, the other what the folder has, by opendir, lstat and read, with nothing of the scanner
 * in it. A line for each entry: path, mode, size, mtime (directories: what is below), content.
 */

#include "scratch.h"

#include "inlay/bytes.h"
#include "inlay/scan.h"
#include "inlay/tree.h"

/* ---- tree objects ---- */

struct scans_object {
	struct inlay_digest id;
	struct inlay_buf bytes;
};

struct scans_objects {
	struct scans_object *list;
	size_t count;
	unsigned puts; /* since somebody set it to 0 */
};

int scans_put(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
	      struct inlay_error *err);
void scans_objects_fini(struct scans_objects *o);
INLAY_DEFINE_FINI(struct scans_objects, scans_objects_fini)

/* ---- scans ---- */

/* Opens, reads and settles all that is dirty; gives their number. */
size_t scans_read(struct inlay_snapshot *s, int root);
/* Walks, reads, builds. `old` may be NULL, options too. *ret_root may be NULL. */
struct inlay_snapshot *scans_scan(int root, const struct inlay_scan_options *options,
				  struct inlay_snapshot *old, struct scans_objects *o,
				  struct inlay_root *ret_root);
/* Waits until nothing that was written before counts as racy. */
void scans_settle_down(void);
/* The time that scans_scan gives to new listings. */
extern int64_t scans_now;

/* ---- texts ---- */

enum scans_text {
	SCANS_DIR_TIMES = 1 << 0, /* with mtimes of directories */
	SCANS_OWNERS = 1 << 1,    /* with owners */
};

/* The caller frees. Fails the test when an object is missing. */
char *scans_tree_text(const struct scans_objects *o, const struct inlay_digest *tree,
		      enum scans_text what);
char *scans_folder_text(int root, enum scans_text what);
/* Both are the same; otherwise shows where they differ. */
void scans_assert_text(const char *got, const char *want);
/* The text of a snapshot's trees is that of the folder. */
void scans_assert_true(int root, const struct scans_objects *o, const struct inlay_root *tree);

void scans_assert_same_root(const struct inlay_root *a, const struct inlay_root *b);

#endif
