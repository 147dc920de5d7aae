/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_COMPLETION_H
#define CMD_COMPLETION_H

/* The command that the scripts of `inlay completion` ask; not for people. */
#define COMPLETE_COMMAND "_complete"

int cmd_complete(int argc, char **argv);

#endif
