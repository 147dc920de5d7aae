/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_CHILDREN_H
#define TRANSPORT_CHILDREN_H

/* Programs that are started for a transport: their arguments, their descriptors, their end. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"

enum {
	CHILD_ARGS_MAX = 1024,
	CHILD_EXTRA_FD = 3,
};

struct child_args {
	char *argv[CHILD_ARGS_MAX];
	size_t count;
	bool failed; /* sticky: too many, or memory was out */
};

void child_args_fini(struct child_args *a);
INLAY_DEFINE_FINI(struct child_args, child_args_fini)
void child_add(struct child_args *a, const char *text);
/* "ssh -p 22": split at blanks, as rsync's -e is; quotes group. */
void child_add_split(struct child_args *a, const char *command);
/* A blank, and the text between single quotes: every shell takes it as it is. */
void child_add_quoted(struct inlay_buf *b, const char *text);

struct child_fds {
	int in, out, err;
	int extra; /* becomes CHILD_EXTRA_FD; 0 = none */
};

/* Starts argv[0], looked up in PATH. A failure has the exit code CONNECT. */
int child_spawn(struct child_args *a, const struct child_fds *fds, pid_t *ret,
		struct inlay_error *err) inlay_must_check;
/* Waits at most that long (-1 = any time), and not after stop_fd (0 = none) became readable, for its end; false when it
 * still runs. */
bool child_wait(pid_t pid, int ms, int stop_fd, int *ret_status);
/* Ends it: waits for as long, asks it to go, and kills it when it does not. */
void child_end(pid_t pid, int ms, int *ret_status);

#endif
