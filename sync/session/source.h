/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_SOURCE_H
#define SESSION_SOURCE_H

/*
 * A source folder on the dev machine, with what is remembered of it below the state directory:
 *
 *     sources/<id>/lock       flock()ed while the folder is being scanned
 *     sources/<id>/path       the folder, for people
 *     sources/<id>/snapshot   the stat cache (scan.h)
 *     sources/<id>/store/     the trees of what was sent: what a target has is known from them
 *     sources/<id>/basis/, basis.old/   contents of files, for deltas (delta/basis.h)
 *     sources/<id>/blocks/    sums of those that are too large for that (delta/blocks.h)
 *     targets/<id>            what a target of this folder acknowledged last
 *
 * All of it can be lost without harm: then the next sync asks the target what it has.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "delta/basis.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/scan.h"
#include "inlay/store.h"
#include "inlay/trees.h"

struct source {
	char path[4096]; /* resolved */
	int root_fd;
	int state_fd;   /* sources/<id> */
	int targets_fd; /* targets */
	int lock_fd;
	struct inlay_store *store;
	struct inlay_trees *trees;
	struct basis basis;         /* what is read goes there */
	uint64_t key;               /* of the options that shape a scan */
	struct inlay_snapshot *old; /* the last one; NULL = none */
	struct inlay_snapshot *now; /* after source_walk */
	bool accept;                /* source_update: whatever folder it is */
	pthread_mutex_t lock;
	struct inlay_snapshot *built; /* lock: the last one whose trees were built */
	struct inlay_scan_options scan;
};

struct source_options {
	const char *state; /* the dev side's state directory */
	struct inlay_scan_options scan;
	int64_t lock_wait_ns;
	void (*waiting)(void *ctx); /* called once when the lock is held by another process */
	void *ctx;
};

enum { SOURCE_LOCKED = 1 }; /* positive result of open: another inlay works on the folder */

/* Resolves and opens the folder and its state. -ENOTDIR when it is a file; -ENOENT when it is missing. */
int source_open(struct source *s, const char *path, const struct source_options *o,
		struct inlay_error *err) inlay_must_check;
void source_close(struct source *s);

/* The name of a folder's directory below sources/; the path is resolved. */
void source_id(const char *path, char ret[static 17]);

/*
 * Walks the folder. A halt (exit code 4) when it is another folder than last time (device, inode), unless
 * `force`.
 */
int source_walk(struct source *s, bool force, struct inlay_error *err) inlay_must_check;

/*
 * The same for a folder that is watched: looks again at the paths (NULL: at everything) and takes all else from the
 * last built snapshot, or with `again` from the last walk, which was not read to its end.
 */
int source_update(struct source *s, const char *const *paths, size_t count, bool again,
		  struct inlay_error *err) inlay_must_check;

/* Takes a file's content, for hashing alone or for sending. May be NULL as a whole. */
struct source_consumer {
	/* The whole file, when it is small. */
	int (*whole)(void *ctx, const void *bytes, size_t len, const struct inlay_digest *id,
		     struct inlay_error *err);
	/* A large one in pieces: exactly `size` bytes between begin and end. id NULL: it changed meanwhile, forget
	 * it. */
	int (*begin)(void *ctx, uint64_t size, struct inlay_error *err);
	int (*bytes)(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
	int (*end)(void *ctx, const struct inlay_digest *id, struct inlay_error *err);
	void *ctx;
	/* After each file. */
	void (*done)(void *done_ctx, uint64_t size);
	void *done_ctx;
	/* A file that could not be taken: it is gone, or (torn) changes all the time. When this is set, the latter is
	 * no failure, and is found out soon. May be NULL. */
	void (*skipped)(void *skipped_ctx, const char *path, bool torn);
	void *skipped_ctx;
};

enum { SOURCE_AGAIN = 1 }; /* positive result: something vanished, or was skipped; walk again */

/* Reads every dirty file in the order that compresses best, and settles it. A file that changes while it is read
 * is read again some times; then it is an error that names it. */
int source_read(struct source *s, const struct source_consumer *consumer, struct inlay_error *err)
	inlay_must_check;

/* Reads one file again, by its content: what a target lost. -ESTALE when the folder does not have that content any
 * more. Any thread. */
int source_read_again(struct source *s, const struct inlay_digest *id,
		      const struct source_consumer *consumer, struct inlay_error *err)
	inlay_must_check;

/* Reads a file by its path, expecting a content. Positive: SOURCE_AGAIN when it changed. Any thread. */
int source_read_path(struct source *s, const char *path, const struct inlay_digest *id,
		     const struct source_consumer *consumer, struct inlay_error *err)
	inlay_must_check;

/* Builds the trees into the store. */
int source_build(struct source *s, struct inlay_root *ret, struct inlay_error *err)
	inlay_must_check;

/* Remembers the snapshot for the next time. */
int source_save(struct source *s, struct inlay_error *err) inlay_must_check;

/*
 * The trees that are remembered of a folder (its resolved path), for reading beside whoever works on it. The
 * caller frees both, the trees first. Positive: SOURCE_UNKNOWN, nothing is remembered.
 */
enum { SOURCE_UNKNOWN = 1 };
int source_remembered(const char *state, const char *path, struct inlay_store **ret_store,
		      struct inlay_trees **ret_trees, struct inlay_error *err) inlay_must_check;

/* ---- what targets have ---- */

struct acked {
	struct inlay_root root;
	uint64_t generation;
	int64_t time_ns;    /* CLOCK_REALTIME */
	int64_t visible_ns; /* how long the last change set took to be visible */
	uint64_t sent_bytes;
	char source[4096], target[4096]; /* for status; escaped where it is printed */
};

enum { ACKED_NONE = 1 };

/* Positive: NONE. Bytes that are not right count as none. */
int acked_read(int targets_fd, const char *source, const char *target, struct acked *ret,
	       struct inlay_error *err) inlay_must_check;
int acked_write(int targets_fd, const struct acked *a, struct inlay_error *err) inlay_must_check;
/* Every target that is remembered. */
int acked_each(const char *state,
	       int (*fn)(void *ctx, const struct acked *a, struct inlay_error *err), void *ctx,
	       struct inlay_error *err) inlay_must_check;

/* $INLAY_STATE, $XDG_STATE_HOME/inlay or ~/.local/state/inlay, with /dev behind. Appends. */
int source_default_state(struct inlay_buf *b, struct inlay_error *err) inlay_must_check;

#endif
