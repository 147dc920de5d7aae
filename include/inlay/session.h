/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_SESSION_H
#define INLAY_SESSION_H

/* The serving side of a session, as the keeper calls it. */

#include "inlay/host.h"

/*
 * Speaks the protocol over the two descriptors until the peer ends or breaks it; takes them over. One
 * session is one thread. What arrived whole stays in the store, also when the session breaks.
 */
void inlay_serve(struct inlay_host *host, int rfd, int wfd);

/*
 * Several sessions over one connection: each is given to hand_over(), in a thread of its own, as a socket that it takes
 * over unless it fails. Returns when the peer ends; the process shall end then, and with it what is still open.
 */
int inlay_serve_trunk(int rfd, int wfd,
		      int (*hand_over)(void *ctx, int fd, struct inlay_error *err), void *ctx,
		      struct inlay_error *err) inlay_must_check;

#endif
