/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_PROJECT_H
#define CMD_PROJECT_H

/* What the commands share that read inlay.yaml. */

#include "cmd/cmd.h"
#include "config/config.h"

/* Reads the project, or gives CONFIG_NONE when there is none. */
int project_find(const char *file, struct config_set *ret, struct inlay_error *err)
	inlay_must_check;
/* Reads the project; `file` NULL = look for it from the current directory up. Problems beyond the first are printed
 * to standard error. No project at all is a failure with a hint. */
int project_load(const char *file, struct config_set *ret, struct inlay_error *err)
	inlay_must_check;

#endif
