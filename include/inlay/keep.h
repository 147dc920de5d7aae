/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_KEEP_H
#define INLAY_KEEP_H

/*
 * The keeper: the one long-lived process on a target. It is the only writer of the store, holds the
 * mounts, and runs one thread for each session. A session's connection comes from `inlayd serve`, which
 * hands its own standard input and output over the keeper's socket and waits.
 *
 * In the state directory:
 *     keeper.lock   flock()ed while a keeper lives
 *     keeper.sock   where serve connects
 *     keeper.log    what happened, bounded
 *     store/        store.h
 *     ws/<id>/      one for each workspace: `workspace` (its description), worker.sock
 */

#include <stdbool.h>

#include "inlay/error.h"
#include "inlay/host.h"

struct inlay_keep_options {
	const char *state; /* the state directory; made when missing, 0700 */
	int ready_fd; /* a byte is written when the socket listens and all is mounted; -1 = none */
	/* Serves one session and returns; runs in a thread of its own. Takes the descriptors over. */
	void (*session)(struct inlay_host *host, int rfd, int wfd);
	int64_t idle_ns; /* ends when nothing was mounted and nobody connected that long; 0 = never */
};

/* Runs until it is told to end. Positive: INLAY_HOST_LOCKED, another keeper has the state directory. */
int inlay_keep(const struct inlay_keep_options *options, struct inlay_error *err) inlay_must_check;

/*
 * The body of `inlayd serve`: finds the keeper of the state directory, or starts one, hands it the
 * descriptors and waits until the session is over.
 */
int inlay_keep_connect(const char *state, int rfd, int wfd, struct inlay_error *err)
	inlay_must_check;

/* Tells a living keeper to end; its workers go on. Waits until it did. */
int inlay_keep_stop(const char *state, struct inlay_error *err) inlay_must_check;

/* The default: $INLAY_STATE, $XDG_STATE_HOME/inlay or ~/.local/state/inlay, with /host behind. Appends. */
int inlay_keep_default_state(struct inlay_buf *b, struct inlay_error *err) inlay_must_check;

/*
 * Becomes a command in the workspace at `path` (as a user gives it), in its directory and, when `program` is not
 * NULL, with the directory and the variables of that program. argv NULL or empty: the user's login shell.
 * In a workspace with a root the command runs in there, and this returns when it ended, *ret_status as of waitpid;
 * otherwise only when it fails.
 */
int inlay_keep_enter(const char *state, const char *path, const char *program, char **argv,
		     int *ret_status, struct inlay_error *err) inlay_must_check;

#endif
