/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_PROGRESS_H
#define CMD_PROGRESS_H

/* One line on a terminal that tells how far a sync is. */

#include "session/push.h"

struct progress_line {
	bool on;
	bool shown;
	enum push_phase phase;
	int64_t phase_from_ns; /* monotonic */
	int64_t next_ns;       /* not drawn again before */
	uint64_t done;         /* bytes; an estimate that never goes back within a phase */
};

/* Fits push_options.progress; ctx is the line. */
void progress_update(void *line, const struct push_progress *p);
/* Takes the line away. */
void progress_clear(struct progress_line *line);

#endif
