/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_SETUP_H
#define CMD_SETUP_H

/* Options of sync and mount that say how a workspace treats what is written in it. The target remembers them. */

#include <getopt.h>
#include <stdbool.h>

#include "wire/message.h"

struct setup {
	struct message_config config; /* its redirects are set by setup_finish */
	struct inlay_buf redirects;
};

enum setup_option {
	SETUP_UPPER = 2000,
	SETUP_XATTRS,
	SETUP_OWNER,
	SETUP_REDIRECT,
	SETUP_NO_REDIRECT,
};
#define SETUP_OPTIONS                                                  \
	{"upper", required_argument, NULL, SETUP_UPPER},               \
		{"xattrs", required_argument, NULL, SETUP_XATTRS},     \
		{"owner", required_argument, NULL, SETUP_OWNER},       \
		{"redirect", required_argument, NULL, SETUP_REDIRECT}, \
	{                                                              \
		"no-redirect", no_argument, NULL, SETUP_NO_REDIRECT    \
	}
#define SETUP_HELP                                                                                 \
	"      --upper POLICY     what is written on the target: keep (it stays, also over what\n" \
	"                         comes later; the default), source-wins (a path that a sync\n"    \
	"                         changes drops it), read-only\n"                                  \
	"      --redirect DIR     plain local storage in the place of this directory, for what\n"  \
	"                         is written heavily; may be given more than once, and replaces\n" \
	"                         what was redirected before      --no-redirect  nothing is\n"     \
	"      --xattrs on|off    extended attributes (off)\n"                                     \
	"      --owner WHO        squash (all belongs to the one who mounts) or keep (root "       \
	"only)\n"

/* Takes one option that getopt_long gave. False when it is not one of these; *ret_why is set when its value is bad. */
bool setup_take(struct setup *s, int option, const char *value, const char **ret_why);
/* After the options; the config borrows from s. */
const struct message_config *setup_finish(struct setup *s);
void setup_fini(struct setup *s);

/* The words for status. */
const char *setup_upper_word(const struct message_config *c);
const char *setup_owner_word(const struct message_config *c);

#endif
