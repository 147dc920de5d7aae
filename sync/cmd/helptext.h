/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_HELPTEXT_H
#define CMD_HELPTEXT_H

/*
 * What a help text says: which commands, options and arguments there are. Completion knows of them from nowhere else,
 * and tests hold the manual against the same texts, so none of the three can drift.
 */

#include <stdbool.h>
#include <stddef.h>

#include "inlay/bytes.h"

struct help_option {
	char name[40];     /* "--exclude" or "-n" */
	char argument[40]; /* "PATTERN"; "" = it takes none */
	char choices
		[64]; /* "auto|openssh|libssh2": what the text begins with, if it is a list; else "" */
	const char *text; /* what it is for; not ended */
	size_t text_len;
};

/* Calls fn for each option of the text until it gives true. A name that is one letter comes before its long name. */
bool help_each_option(const char *help, bool (*fn)(void *ctx, const struct help_option *o),
		      void *ctx);
/* Likewise for the lines that list commands: two blanks, a name, blanks, what it is for. */
bool help_each_command(const char *help,
		       bool (*fn)(void *ctx, const char *name, const char *text, size_t text_len),
		       void *ctx);
/*
 * Calls fn with what each form of usage says about the argument at `index`, counted from 0 behind the first `skip`
 * words of the command: "DST", "COMPONENT", "check|show|schema". The last of a form that ends with ... is for all
 * that follow.
 */
void help_each_argument(const char *help, size_t skip, size_t index,
			void (*fn)(void *ctx, const char *kind), void *ctx);

/* The help of a command: words as of its command line, NULL-terminated. False when it cannot be had. */
bool help_of(const char *const *words, struct inlay_buf *ret);

#endif
