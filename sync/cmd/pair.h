/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_PAIR_H
#define CMD_PAIR_H

/* What commands that take SRC and DST share: rates, and that neither lies inside the other. */

#include <jansson.h>

#include "inlay/scan.h"
#include "session/client.h"
#include "session/push.h"

/* Bytes a second; as in rsync a bare number means KiB. */
int pair_parse_rate(const char *text, uint64_t *ret, struct inlay_error *err) inlay_must_check;

/* -EINVAL (usage) when the resolved source and a local target lie inside each other. */
int pair_check_nesting(const char *source, const struct target *t, struct inlay_error *err)
	inlay_must_check;

/* What travelled how: an object for each codec that was used. */
json_t *pair_codecs_json(const struct codecs *codecs);
/* "3 changed, 1 deleted" */
void pair_put_counts(struct inlay_buf *b, const struct push_result *r);

#endif
