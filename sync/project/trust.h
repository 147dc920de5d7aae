/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROJECT_TRUST_H
#define PROJECT_TRUST_H

/*
 * A project that came from somewhere must not run commands on hosts because somebody typed `inlay up` in it: its
 * commands are run only after it was trusted once. What is remembered is the project's directory, below the state
 * directory, where nothing that is synced can reach.
 */

#include "config/config.h"

/* True when the project would run anything. */
bool trust_needed(const struct config *c);
/* Appends the commands, a line each, for the question. */
void trust_list(const struct config *c, struct inlay_buf *b);

enum { TRUST_NO = 1 }; /* positive result */
int trust_check(const char *state, const struct config *c, struct inlay_error *err)
	inlay_must_check;
int trust_give(const char *state, const struct config *c, struct inlay_error *err) inlay_must_check;

#endif
