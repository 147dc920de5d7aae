/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_UPPER_H
#define CMD_UPPER_H

#include "cmd/cmd.h"

/* "file", "removed", ...: enum inlay_upper_kind */
const char *upper_kind_word(uint8_t kind);
/* Prints one row of MESSAGE_VERB_UPPER. ctx: struct common. */
int upper_diff_row(void *ctx, const struct frame *f, struct inlay_error *err);

#endif
