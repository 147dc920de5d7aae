/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_SYNCALL_H
#define CMD_SYNCALL_H

/* `inlay sync [COMPONENT...]`: components of inlay.yaml to all their hosts. */

#include "cmd/cmd.h"

struct syncall {
	const struct common *common;
	const char *file;         /* --file; NULL = look for inlay.yaml */
	const char *const *hosts; /* --host; NULL-terminated, NULL = all */
	char *const *options;     /* what each single sync is given, too; NULL-terminated */
	char **components;        /* NULL-terminated; empty = all */
};

/* One `inlay sync` for each site, a few at a time, and a line for each. Gives the exit code: 3 when some failed. */
int syncall(const struct syncall *s);

#endif
