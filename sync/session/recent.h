/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_RECENT_H
#define SESSION_RECENT_H

/*
 * What was at a path a moment ago. A watch may see a file while it is being written: empty, half, or gone
 * between its deletion and its new creation. What the target has at that place is then of little use to the
 * next state of it; what it had before is. A hint, bounded, of a kept session.
 */

#include "session/plan.h"

struct recent_entry {
	uint64_t path; /* its hash; 0 = empty */
	struct inlay_digest id;
	uint64_t size;
};

enum { RECENT_SLOTS = 4096 };

struct recent {
	struct recent_entry *slots; /* NULL: nothing yet */
};

void recent_fini(struct recent *r);

/* Gives the files of the plan the better of what is there and what was there, and notes what they replace. */
int recent_apply(struct recent *r, struct plan *p, struct inlay_error *err) inlay_must_check;

#endif
