/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WATCH_WATCHER_H
#define WATCH_WATCHER_H

/*
 * inotify on every directory of a folder that the scanner enters, and what its events say: which paths may have
 * changed.
 *
 * A directory is watched before it is listed: watcher_enter fits inlay_scan_options.enter. So a scan and the events
 * after it leave no gap, also for directories that came into being, were moved or came in by other rules. What a rule
 * leaves out is never entered and costs nothing. A moved directory keeps its kernel watch; the walk of it under its
 * new name gives the watch its new path, and events until then name the old one, which is harmless, since the whole
 * directory is walked.
 *
 * When the kernel's limit of watches is reached, the directories that are left are *cold*: they are to be
 * polled. When its queue overflows, everything is to be looked at.
 *
 * watcher_enter may be called from any thread, all else from one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/scan.h"
#include "watch/pathset.h"

struct watcher;

/* What happened since watcher_forget. */
struct watch_changes {
	struct pathset paths;      /* relative to the root; "" is the root */
	bool everything;           /* the kernel's queue overflowed, or too much came */
	bool root;                 /* the root itself was moved, removed or unmounted */
	bool left;                 /* a directory went away or rules changed: watcher_tidy */
	int64_t first_ns, last_ns; /* monotonic, of the events; 0 = none came */
	uint64_t overflows;        /* since the beginning */
};

int watcher_new(struct watcher **ret, struct inlay_error *err) inlay_must_check;
void watcher_free(struct watcher *w); /* accepts NULL */

/* Becomes readable when there are events. */
int watcher_fd(const struct watcher *w);

void watcher_enter(void *watcher, int dirfd, const char *path, size_t len);

/* Takes all events that have come. `since_ns`: they may have come as early as that (monotonic). */
int watcher_read(struct watcher *w, int64_t since_ns, struct inlay_error *err) inlay_must_check;
/* One piece of what an inotify descriptor gives; for tests of what events mean. */
void watcher_take(struct watcher *w, const void *events, size_t len, int64_t now_ns);

struct watch_changes *watcher_changes(struct watcher *w);
/* Begins anew: what was told is being looked at. */
void watcher_forget(struct watcher *w);

/* Ends watches of directories that are not in the snapshot any more. */
void watcher_tidy(struct watcher *w, const struct inlay_snapshot *now);

/* Directories that are watched, and those that could not be. */
size_t watcher_count(struct watcher *w);
size_t watcher_cold_count(struct watcher *w);
/* Adds the cold directories to the changes; entering them tries to watch them again. */
void watcher_poll_cold(struct watcher *w);
/* The errno of the last watch that could not be had; 0 = none. */
int watcher_cold_reason(struct watcher *w);

#endif
