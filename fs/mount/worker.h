/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_WORKER_H
#define MOUNT_WORKER_H

/*
 * The worker: the process that answers the kernel for one mount. It reads the store, keeps the node table and
 * does what its keeper says (worker_proto.h). It writes the upper, never the store, and never touches the mount.
 */

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/store.h"
#include "mount/control.h"
#include "mount/replay.h"
#include "mount/view.h"
#include "mount/worker_proto.h"

struct worker {
	struct inlay_store *store;
	struct inlay_trees *trees; /* for the control directory */
	struct upper *upper;
	struct seeking *seeking;
	struct view *view;
	struct control *control;
	struct fuse_session *session;
	bool xattrs;                    /* fixed */
	enum inlay_upper_policy policy; /* fixed */
	int store_fd;                   /* a directory of the file system that statfs tells about */
	int fuse_fd;
	int listen_fd;
	struct worker_stats stats; /* atomic, relaxed */
	struct replay replay;
	struct replay_stats replay_stats; /* atomic, relaxed */

	pthread_mutex_t lock; /* everything below */
	pthread_cond_t shown_cond;
	pthread_cond_t durable_cond;
	uint64_t durable; /* number of the newest generation that is */
	int conn;         /* the keeper's connection, -1 = none */
	bool shown;       /* the first generation is shown, or gone */
	bool gone;        /* the keeper went before that */
};

#define WORKER_FOREVER 1e9 /* seconds that an answer may be remembered */

static inline void worker_count(uint64_t *counter, uint64_t n)
{
	(void)__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static inline unsigned long long worker_counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* The table of operations, for fuse_session_new; their userdata is the worker. */
extern const struct fuse_lowlevel_ops worker_ops;

/* The body of the thread that listens to the keeper. */
void *worker_listen(void *worker);

/* Tells the keeper that the events of a generation are raised. */
void worker_tell_replayed(struct worker *w, uint64_t number);
/* Tells the keeper that an object is damaged or missing. */
void worker_report_damage(struct worker *w, const struct inlay_digest *id);

/* Waits until what is shown is durable; -EIO when that takes too long. */
int worker_wait_durable(struct worker *w) inlay_must_check;

#endif
