/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WATCH_LIVE_H
#define WATCH_LIVE_H

/*
 * A watch: a folder, its targets, and the loop between them.
 *
 *     watcher.c  what the kernel says about the folder
 *     survey.c   from there to a new state of it: one scan of what was named, one root
 *     peer.c     a thread for each target, which pushes the newest state
 *     desk.c     what other commands ask over the control socket
 *     live.c     the loop: waits for all of these, decides when to look
 *
 * One change set for one burst: the loop looks when nothing came for `settle`, and at the latest `max_delay` after the
 * first event. What it costs follows the names that were told, never the size of the folder.
 */

#include "watch/peer.h"

struct live_options {
	struct peer_options *targets; /* one for each */
	size_t target_count;
	int64_t settle_ns, max_delay_ns, poll_ns; /* poll: of directories that cannot be watched */
	bool force;                               /* accept another folder, and what would halt */
};

/* What is told; by one thread at a time. */
struct live_events {
	/* A target shows a change set (or its first state). */
	void (*visible)(void *ctx, const struct peer *p, const struct peer_goal *goal,
			const struct push_result *result, int64_t edit_ns);
	void (*state)(void *ctx, const struct peer *p, const struct peer_status *status);
	/* What runs on a target before a change set is shown says something. */
	void (*hook)(void *ctx, const struct peer *p, const struct message_hook *m);
	/* About the folder: a limit, an overflow, it is gone or back, a scan that failed. */
	void (*note)(void *ctx, const char *text);
	void *ctx;
};

/* Runs until SIGINT, SIGTERM or SIGHUP, which it blocks from then on, or a STOP over the control socket. SIGCONT makes
 * it look after its connections. The source is open and its lock held; nothing was walked yet.
 * Only what keeps the watch from running at all is an error. */
int live_run(struct source *source, const struct live_options *o, const struct live_events *events,
	     struct inlay_error *err) inlay_must_check;

#endif
