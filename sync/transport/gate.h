/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_GATE_H
#define TRANSPORT_GATE_H

/*
 * So many connections are being made at once and no more, in this process: each costs a key exchange, and a machine
 * that makes a hundred of them at a time makes none of them soon. One that takes long (its host may be gone) does not
 * count any more, so that dead hosts keep nobody waiting.
 */

#include <stdint.h>

enum { GATE_WIDTH = 16 };

struct gate_pass {
	int64_t since_ns; /* monotonic; 0 = none */
	unsigned place;
};

/* Waits for a place. */
struct gate_pass gate_enter(void);
/* The connection is there, or it failed. Accepts a pass that was given back. */
void gate_leave(struct gate_pass *p);

#endif
