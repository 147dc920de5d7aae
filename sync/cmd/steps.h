/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_STEPS_H
#define CMD_STEPS_H

/* How the steps of a site are printed: as JSON, and the words of an end. */

#include <jansson.h>

#include "inlay/bytes.h"
#include "project/sites.h"

/* "hook-begin", "hook-output", "hook-end", "up", "failed", "back", "done". */
const char *steps_event_name(enum site_event_kind kind);
/* Puts what the event says into the object. */
void steps_fill_json(json_t *j, const struct site_event *e);
/* How a hook ended, in the same keys. */
void steps_fill_result(json_t *j, int status, bool timed_out);
/* "ok, 1.2 s", "failed with 3, 20 ms". */
void steps_put_end(struct inlay_buf *b, const struct site_event *e);
/* "ok", "failed with 3", "ended by SIGTERM", "did not end in time": the last of a hook. */
void steps_put_result(struct inlay_buf *b, int status, bool timed_out);

/* "back to out/: 3 brought (12 kB), 1 the same". */
void steps_put_back(struct inlay_buf *b, const struct back_counts *c);

/* What hooks write, as whole lines; an end without a newline waits for the rest. */
struct steps_lines {
	struct steps_partial *list;
	size_t count;
};

/* Calls line() for each whole line, escaped; `of` tells one hook from another. At SITE_END also for what waits. */
void steps_lines_add(struct steps_lines *l, const void *of, const struct site_event *e,
		     void (*line)(void *ctx, const struct inlay_buf *text), void *ctx);
void steps_lines_fini(struct steps_lines *l);

#endif
