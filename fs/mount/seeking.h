/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_SEEKING_H
#define MOUNT_SEEKING_H

/*
 * SEEK_DATA and SEEK_HOLE in files with holes. What a program wrote through a mapping is in the kernel's cache alone,
 * which it does not send before it asks, so a hole might be one no more. The kernel sends it when it is told to
 * drop what it has cached; it waits for our answer to its WRITE meanwhile, so a thread of its own tells it, and
 * answers the question afterwards.
 */

#include <pthread.h>
#include <sys/queue.h>

#include "mount/worker.h"

struct seek;
TAILQ_HEAD(seek_queue, seek);

struct seeking {
	struct worker *worker;
	pthread_mutex_t lock; /* queue */
	pthread_cond_t cond;
	struct seek_queue queue;
};

int seeking_start(struct worker *w, struct inlay_error *err) inlay_must_check;
/* Answers the request. `file` is the data file's number. */
void seeking_ask(struct seeking *s, fuse_req_t req, fuse_ino_t ino, uint64_t file, off_t off,
		 int whence);

#endif
