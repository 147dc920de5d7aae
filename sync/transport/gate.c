/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/gate.h"

#include <pthread.h>
#include <time.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

#define PATIENCE_NS INT64_C(1000000000)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static int64_t since[GATE_WIDTH]; /* 0 = free */

/* The place that is free, or will be first; it is old when that is one of a connection that takes long. */
static unsigned best(void)
{
	unsigned at = 0;

	for (unsigned i = 1; i < GATE_WIDTH; i++)
		if (since[i] < since[at])
			at = i;
	return at;
}

struct gate_pass gate_enter(void)
{
	scope_lock(&lock);
	for (;;) {
		int64_t now = inlay_monotonic_ns();
		unsigned at = best();
		int64_t wait = since[at] ? since[at] + PATIENCE_NS - now : 0;
		if (wait <= 0) {
			since[at] = now;
			return (struct gate_pass){.since_ns = now, .place = at};
		}
		int64_t until = inlay_now_ns() + wait;
		struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
		(void)pthread_cond_timedwait(&left, &lock, &ts);
	}
}

void gate_leave(struct gate_pass *p)
{
	if (!p->since_ns)
		return;
	scope_lock(&lock);
	/* Another one may have it by now. */
	if (since[p->place] == p->since_ns)
		since[p->place] = 0;
	p->since_ns = 0;
	(void)pthread_cond_signal(&left);
}
