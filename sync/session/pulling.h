/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_PULLING_H
#define SESSION_PULLING_H

/*
 * What was written on a target comes into a local folder (landing.h): the entries of the workspace's upper that match,
 * listed first, then the contents of its files.
 */

#include "inlay/ignore.h"
#include "session/client.h"
#include "session/landing.h"

enum pulling_event {
	PULLING_ADDED,
	PULLING_CHANGED,
	PULLING_CONFLICT, /* somebody's work is here: it stays */
	PULLING_FAILED,
	PULLING_SKIPPED, /* it cannot, or must not, be brought */
	PULLING_REMOVED, /* it is gone there, and stays here */
};

struct item;

struct pulling {
	/* set by the caller, the rest zeroed */
	const char *const *patterns; /* gitignore lines: only these; none = everything */
	size_t pattern_count;
	bool force, dry_run;
	/* May be NULL. */
	void (*say)(void *ctx, enum pulling_event event, const char *path, const char *why);
	/* Whether that file may come; a negative result ends it all, before anything was written. May be NULL. */
	int (*allow)(void *ctx, const char *path, struct inlay_error *err);
	void *ctx, *allow_ctx;
	/* results */
	uint64_t brought, bytes, same, conflicts, failures, skipped, removed;
	/* its own */
	struct inlay_ignore *rules; /* NULL: everything */
	struct item *items;
	size_t count, cap;
	struct landing landing;
	bool landed; /* the landing is open */
	/* while files come */
	struct item **asked; /* of the request at hand */
	size_t asked_count;
	struct item *current;
	struct landing_file file;
	uint64_t left;
	bool writing;
	struct inlay_error trouble; /* of the current file, on this side */
};

/* Opens the folder (not in a dry run); `state` is the dev side's. pulling_close is needed in any case. */
int pulling_open(struct pulling *p, const char *folder, const char *state, struct inlay_error *err)
	inlay_must_check;
/* Over a connection with an open workspace. Positive results as of client_request. */
int pulling_run(struct pulling *p, struct client *c, struct inlay_error *err) inlay_must_check;
/* Remembers what was brought. */
int pulling_close(struct pulling *p, struct inlay_error *err) inlay_must_check;

#endif
