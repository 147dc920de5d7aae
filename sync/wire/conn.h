/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_CONN_H
#define WIRE_CONN_H

/*
 * A connection: frames over a pair of descriptors. Nothing here blocks but conn_wait and what is built on
 * it, and those always read and write at once, so that two peers that send much to each other cannot
 * block one another. Used by one thread; many connections fit into one poll loop.
 *
 * The descriptors are made non-blocking only where that cannot hurt another process (sockets and pipes of
 * our own); conn_init sets O_NONBLOCK.
 */

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "wire/frame.h"

struct conn {
	int rfd, wfd;        /* owned; may be the same */
	struct inlay_buf in; /* received; in_at.. is not yet taken */
	size_t in_at;
	struct inlay_buf out; /* to be sent from out_at on */
	size_t out_at;
	struct inlay_buf noise;  /* what came before the magic, for a message when it never comes */
	bool greeted;            /* the peer's magic was seen */
	bool ended;              /* the peer closed */
	uint64_t received, sent; /* bytes, for figures */
	uint64_t bwlimit;        /* bytes a second that may be sent, 0 = no limit */
	int64_t send_from_ns;    /* bwlimit: not before this (monotonic) */
	int stop_fd;             /* once it is readable, waiting fails with -ECANCELED; 0 = none */
	void (*moved)(void *ctx); /* bytes were written while waiting; may be NULL */
	void *moved_ctx;
};

/* Takes the descriptors over and queues our magic. */
int conn_init(struct conn *c, int rfd, int wfd, struct inlay_error *err) inlay_must_check;
void conn_fini(struct conn *c);

/* Queues a frame; nothing is written yet. */
int conn_send(struct conn *c, uint8_t type, const void *payload, size_t len,
	      struct inlay_error *err) inlay_must_check;
/* Bytes that are queued and not yet written. */
static inline size_t conn_queued(const struct conn *c)
{
	return c->out.len - c->out_at;
}

/* What poll() shall watch; fds[0] the reading side, fds[1] the writing side (may have fd -1). Gives the time in
 * ms after which to go on although nothing happened, -1 = none. */
int conn_poll_set(const struct conn *c, struct pollfd fds[static 2]);
/* Reads and writes what is possible now. -EPIPE, -ECONNRESET when the connection broke. */
int conn_pump(struct conn *c, struct inlay_error *err) inlay_must_check;

/* Positive results of conn_next and conn_recv. */
enum {
	CONN_NOTHING = 1, /* no whole frame has come */
	CONN_END = 2,     /* the peer closed, and all its frames were taken */
};

/* Takes the next frame that has come; its payload is valid until the next call on c. Positive: NOTHING, END. */
int conn_next(struct conn *c, struct frame *ret, struct inlay_error *err) inlay_must_check;

/* Waits until something came, something was written, `deadline_ns` (monotonic, 0 = none) passed (-ETIMEDOUT)
 * or `wake_fd` (-1 = none) became readable (result 1). -ECANCELED: stop_fd is. */
int conn_wait(struct conn *c, int wake_fd, int64_t deadline_ns, struct inlay_error *err)
	inlay_must_check;

/* The next frame, waiting for it. Positive: END. */
int conn_recv(struct conn *c, int64_t deadline_ns, struct frame *ret, struct inlay_error *err)
	inlay_must_check;

/* Waits until at most `queued` bytes are still to be written. A peer that closed fails with -EPIPE. */
int conn_drain(struct conn *c, size_t queued, int64_t deadline_ns, struct inlay_error *err)
	inlay_must_check;

#endif
