/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_LINK_H
#define KEEP_LINK_H

/*
 * The keeper's end of a worker's socket: questions with their answers, and what the worker says by
 * itself. A thread of its own reads; questions may be asked from any thread, one at a time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/error.h"
#include "mount/worker_proto.h"

struct link;

struct link_events {
	void (*damaged)(void *ctx, const struct inlay_digest *id);
	void (*replayed)(void *ctx, uint64_t number); /* events up to this generation are raised */
	void (*ended)(void *ctx);                     /* the worker went away; called once */
	void *ctx;
};

enum { LINK_NOBODY = 1 }; /* positive result of open: no worker listens */

/* Connects to the worker of the directory. *ret_hello is its greeting, *ret_fuse_fd a copy of its /dev/fuse
 * descriptor. -EPROTONOSUPPORT: a worker of another version. */
int link_open(int dirfd, const struct link_events *events, struct link **ret,
	      struct worker_msg *ret_hello, int *ret_fuse_fd, struct inlay_error *err)
	inlay_must_check;
/* Closes the connection; the worker goes on. `ended` is not called any more. Accepts NULL. */
void link_close(struct link *l);

/* Sends without waiting for an answer. */
int link_tell(struct link *l, struct worker_msg *m, struct inlay_error *err) inlay_must_check;
/* Sends, with a descriptor if fd is not -1, and waits for the answer, which replaces *m. *ret_fd (may be NULL): a
 * descriptor that came along, or -1. -ENOTCONN when the worker ended, -ETIMEDOUT, or the worker's own failure with
 * its text. */
int link_ask_with(struct link *l, struct worker_msg *m, int fd, int *ret_fd, int64_t timeout_ns,
		  struct inlay_error *err) inlay_must_check;
static inline int link_ask(struct link *l, struct worker_msg *m, int *ret_fd, int64_t timeout_ns,
			   struct inlay_error *err)
{
	return link_ask_with(l, m, -1, ret_fd, timeout_ns, err);
}

#endif
