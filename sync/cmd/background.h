/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_BACKGROUND_H
#define CMD_BACKGROUND_H

/*
 * A command that goes on in the background: the process forks, the child leaves the terminal and does the work, and
 * the parent waits until the child says how it began.
 */

#include <stdbool.h>

#include "inlay/error.h"

struct background {
	int report_fd; /* the child's; -1 when it was told, or when we are in the foreground */
	int log_dirfd; /* borrowed */
};

/* In the parent: waits, prints what the child says, and ends the process with its exit code. Returns in the child. To
 * be called before there are threads. */
int background_begin(struct background *b, struct inlay_error *err) inlay_must_check;
/* The child's first result; without a text nothing is printed. Later calls do nothing. */
void background_report(struct background *b, enum inlay_exit code, const char *text);
/* Standard output and error go to <dirfd>/watch.log from here on. */
int background_log(struct background *b, int dirfd, struct inlay_error *err) inlay_must_check;
/* Called now and then: a log that became long is put aside, so that two pieces of 1 MiB are kept. */
void background_bound(struct background *b);

#endif
