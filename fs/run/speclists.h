/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_SPECLISTS_H
#define RUN_SPECLISTS_H

/* Texts and lists of texts in descriptions of programs and containers. */

#include "inlay/bytes.h"

void speclist_put(struct inlay_buf *b, char *const *list);
/* NULL, and c->failed, for a bad one; NULL alone when memory is out. */
char *speclist_get_text(struct inlay_cursor *c);
/* *ret is the caller's, also after a failure. */
int speclist_get(struct inlay_cursor *c, char ***ret, struct inlay_error *err) inlay_must_check;
/* Each is "NAME=value". */
bool speclist_are_vars(char *const *list);

#endif
