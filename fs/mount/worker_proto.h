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
 *                                    <-     DAMAGED id            (at any time)
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
	uint64_t count;   /* PINS: ids in the file; SHOWN: notes */
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

#endif
