/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_WORKER_PROTO_H
#define MOUNT_WORKER_PROTO_H

/*
 * What the keeper and the worker of a mount say to each other: packets over a unix socket on which the
 * worker listens (worker.sock in the workspace's directory). A worker goes on when its keeper dies, and
 * the next keeper connects to it. Both are on one machine, so the structs travel as they are; the version
 * guards against a worker of an older inlayd.
 *
 *     keeper                                worker
 *        connect                     ->
 *                                    <-     HELLO gen, pid        + the /dev/fuse descriptor
 *        SHOW gen                    ->     switch, tell the kernel
 *                                    <-     SHOWN gen | error
 *        DURABLE gen                 ->     (no answer)
 *        STATS, PINS                 ->
 *                                    <-     STATS stats, PINS    + a memory file with the ids
 *        UPPER                       ->
 *                                    <-     UPPER count           + a memory file with struct worker_upper
 *        RESET + a memory file       ->     drops what the upper has there, tells the kernel
 *                                    <-     RESET | error
 *                                    <-     DAMAGED id            (at any time)
 *                                    <-     REPLAYED count        (after SHOWN: the events of all generations up
 *                                                                  to this number are raised)
 */

#include <stdint.h>

#include "inlay/generation.h"

enum { WORKER_VERSION = 1 };

enum worker_type {
	WORKER_HELLO = 1,
	WORKER_SHOW,
	WORKER_SHOWN,
	WORKER_DURABLE,
	WORKER_STATS,
	WORKER_PINS,
	WORKER_DAMAGED,
	WORKER_UPPER, /* all that was written on the target, see struct worker_upper */
	/* The path (bytes without a leading slash, count of them in `count`, in the memory file that comes
	 * along) shows what was synced again. -ENOENT: the upper has nothing there. */
	WORKER_RESET,
	WORKER_REPLAYED,
};

struct worker_stats {
	uint64_t requests;          /* from the kernel, since the start */
	uint64_t reads, read_bytes; /* of them READ */
	uint64_t nodes, dents, table_bytes;
	uint64_t errors;          /* answers other than ENOENT and ENOSYS */
	uint64_t switches, notes; /* generations shown, kernel notes for them */
};

struct worker_msg {
	uint32_t version; /* WORKER_VERSION */
	uint32_t type;    /* enum worker_type */
	uint64_t seq;     /* an answer carries its question's */
	int32_t result;   /* 0 or a negative errno; then text says why */
	int32_t pid;      /* HELLO */
	int64_t took_ns;  /* SHOWN: from SHOW to the last note */
	/* PINS: ids in the file; UPPER: entries; SHOWN: notes; RESET: bytes of the path; REPLAYED: the
	 * generation */
	uint64_t count;
	union {
		struct inlay_generation gen;
		struct worker_stats stats;
		struct inlay_digest id;
		char text[480];
	};
};

/* A record of the PINS file. */
struct worker_pin {
	struct inlay_digest id;
	uint32_t is_tree;
};

enum worker_upper_kind {
	WORKER_UPPER_WHITEOUT = 1, /* a synced name that was removed */
	WORKER_UPPER_FILE,         /* a regular file */
	WORKER_UPPER_DIR,   /* a directory that was made; what is in it has entries of its own */
	WORKER_UPPER_MOVED, /* a synced directory that was renamed: `id` is the tree that it keeps */
	WORKER_UPPER_ATTR,  /* a synced directory whose mode, owner, times or xattrs were changed */
	WORKER_UPPER_SYMLINK, /* its target stands behind the path */
	WORKER_UPPER_SPECIAL, /* a fifo or a socket */
};

/*
 * An entry of the UPPER file, parents before what is in them. A file's bytes are those of `upper/<file>`
 * in the workspace's directory; file 0: those of the object `id`, whose attributes alone were changed
 * (an empty file has neither).
 */
struct worker_upper {
	uint32_t bytes;   /* of this entry with path and target; a multiple of 8 */
	uint32_t kind;    /* enum worker_upper_kind */
	uint32_t shadows; /* 1: the generation shown has something else at that path */
	uint32_t mode, uid, gid;
	uint32_t path_len, target_len; /* both follow the struct, without NULs */
	uint64_t size;
	int64_t mtime_ns;
	uint64_t file; /* a number, 0 = none */
	struct inlay_digest id;
};

#endif
