/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_LIVESTATUS_H
#define CMD_LIVESTATUS_H

/* What running watches say about themselves and their targets, for `status`, `watch --list` and `flush`. */

#include "watch/control.h"
#include "watch/pathset.h"

/* "in sync", "syncing", "connecting", "reconnecting", "halted" */
const char *livestatus_word(enum peer_state state);

/* Prints a HEAD or a ROW. */
void livestatus_print(bool json, const struct control_packet *p);

/* Asks every watch that runs below the state directory and prints its targets. `told` (may be NULL) gets a name for
 * each pair, as livestatus_pair makes it. Returns how many rows there were. */
unsigned livestatus_all(const char *state, bool json, struct pathset *told);
void livestatus_pair(struct inlay_buf *b, const char *source, const char *target);

#endif
