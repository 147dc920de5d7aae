/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_MOUNT_H
#define INLAY_MOUNT_H

/*
 * Serving one mount: the body of the process `inlayd mount`. The mount itself was made by the keeper, which holds
 * the /dev/fuse descriptor too.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/error.h"

/* The socket in the workspace's directory on which the worker listens to its keeper. */
#define INLAY_MOUNT_SOCKET "worker.sock"

/* What becomes of what was written on the target when a generation has something else there. */
enum inlay_upper_policy {
	INLAY_UPPER_KEEP = 0,    /* it stays, and hides what is synced */
	INLAY_UPPER_SOURCE_WINS, /* a change set replaces it wherever the change set has a change */
	INLAY_UPPER_READ_ONLY,   /* nothing is written: EROFS */
};

/* How a workspace is mounted; remembered with it. */
struct inlay_mount_policy {
	enum inlay_upper_policy upper;
	bool xattrs;      /* extended attributes */
	bool keep_owners; /* synced entries keep their owners; otherwise they belong to who mounts */
};

struct inlay_mount_options {
	int fuse_fd;                /* mounted; taken over */
	int ready_fd;               /* a byte is written when the socket listens; -1 = none */
	const char *store_path;     /* the store, read only */
	const char *workspace_path; /* the workspace's directory, for the socket */
	const char *mount_point;    /* where it is mounted, for the replay of events; NULL = none */
	uint32_t uid, gid;          /* to whom everything belongs */
	struct inlay_mount_policy policy;
};

/* Returns when the mount has ended. Once for each process. */
int inlay_mount_serve(const struct inlay_mount_options *options, struct inlay_error *err)
	inlay_must_check;

/*
 * The body of the process `inlayd replay`, which a worker starts with its socket at a fixed descriptor: repeats changes
 * through the mount, so that the kernel raises events for them. Returns when the worker has ended.
 */
int inlay_replay_serve(const char *mount_point, struct inlay_error *err) inlay_must_check;

#endif
