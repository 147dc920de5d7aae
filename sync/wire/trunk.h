/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_TRUNK_H
#define WIRE_TRUNK_H

/*
 * Several sessions over one connection. A channel is a pair of byte streams, at each end a socket to whoever speaks
 * there; between both ends its bytes travel in frames of the trunk's connection. What one end writes and the other
 * does not read is bounded by credit, so that a session that is slow stops itself and no other. Sessions know
 * nothing of it.
 *
 * The client makes channels (CHANNEL), both carry (CARRY), give credit for what was read (CREDIT), and tell that
 * their side of a channel has ended (HUNG_UP). Numbers are never used again. Used by one thread.
 */

#include "wire/conn.h"

enum {
	TRUNK_CHANNELS_MAX =
		512, /* half of it at the client, as the server may not know yet of some that ended */
	TRUNK_WINDOW = 2 << 20, /* bytes of a channel that are sent and not yet read there */
	TRUNK_PIECE = 32 << 10, /* bytes in one CARRY */
};

struct trunk_channel {
	uint64_t id;
	int fd;
	struct inlay_buf out; /* to be written to fd from out_at on */
	size_t out_at;
	uint64_t may_send; /* credit of the other side */
	uint64_t owed;     /* written to fd, and no credit given for it yet */
	bool ending;       /* the other side has ended: what is in `out` is the last */
};

struct trunk {
	struct conn conn;
	struct trunk_channel channels[TRUNK_CHANNELS_MAX];
	size_t count;
	uint64_t next; /* number of the next channel */
	bool serving;  /* the other side makes channels: */
	/* A channel was made; *ret is the socket of this end. */
	int (*open)(void *ctx, int *ret, struct inlay_error *err);
	void *ctx;
};

/* Takes the descriptors over. `open` NULL: this side makes the channels. */
int trunk_init(struct trunk *t, int rfd, int wfd,
	       int (*open)(void *ctx, int *ret, struct inlay_error *err), void *ctx,
	       struct inlay_error *err) inlay_must_check;
/* Ends all channels. */
void trunk_fini(struct trunk *t);

/* Makes a channel of a socket, which it takes over, also when it fails. -EMFILE: there are too many. */
int trunk_add(struct trunk *t, int fd, struct inlay_error *err) inlay_must_check;

/* Positive results. */
enum {
	TRUNK_WOKEN = 1, /* wake_fd is readable */
	TRUNK_END = 2,   /* the other side closed the connection */
};

/* Waits for something to do, at most until the deadline (monotonic, 0 = none), and does it. */
int trunk_turn(struct trunk *t, int wake_fd, int64_t deadline_ns, struct inlay_error *err)
	inlay_must_check;

#endif
