/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_OUTCOMES_H
#define SESSION_OUTCOMES_H

/* How each hook of a workspace ended last: a small file for each in the workspace's hooks/ (docs/format.md). */

#include "inlay/run.h"
#include "wire/message.h"

/* What is remembered of the hook; nothing (all zeros but the name) when there is no file, or a damaged one. The name is
 * borrowed, from the caller. */
void outcome_read(int dirfd, const char *name, struct message_outcome *ret);
/* Losing it costs a run. */
void outcome_write(int dirfd, const struct message_outcome *m);
/* All of them, as STATUS tells them. What cannot be read is left out. */
void outcomes_list(int dirfd, struct inlay_buf *b);

#endif
