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

#endif
