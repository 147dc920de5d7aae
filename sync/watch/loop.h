/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WATCH_LOOP_H
#define WATCH_LOOP_H

/* What the parts of a watch share; see live.h. All of it belongs to the main thread, but for what `lock` guards. */

#include "session/share.h"
#include "watch/control.h"
#include "watch/live.h"
#include "watch/watcher.h"

enum {
	LIVE_HELD_MAX = 64,
	LIVE_CLIENTS_MAX = 32,
};

/* A file that changes all the time: the others go on without it, and it is tried again. */
struct live_held {
	char *path;
	int64_t until_ns; /* monotonic */
	int64_t pause_ns;
};

/* Somebody on the control socket. */
struct live_client {
	int fd;
	bool waiting; /* for a flush, or for the end of the watch */
	uint64_t seq; /* that the targets are to show */
	int64_t deadline_ns;
	struct control_request request;
	uint64_t *generations; /* of each target when it asked */
};

struct live {
	struct source *source;
	const struct live_options *o;
	const struct live_events *events;
	struct peer_events peer_events;
	struct watcher *watcher;
	struct peer **peers;
	size_t peer_count;
	struct share share; /* of several targets; source NULL = there is one */
	uint64_t seq;       /* of states; 0 = none yet */
	struct inlay_root root;
	int64_t started_ns; /* CLOCK_REALTIME */
	bool ending;
	/* the folder */
	int64_t place_ns; /* when to see whether it is there */
	bool away;        /* it is not where it was */
	char why[512];    /* it is away, or the last scan failed; "" = all is well */
	bool failed;
	int64_t retry_ns, pause_ns; /* failed: when to try again */
	int64_t cold_ns;            /* when to poll; 0 = nothing is cold */
	size_t cold_told;
	uint64_t overflows_told;
	int64_t save_ns; /* when to save the stat cache; 0 = it is saved */
	struct live_held held[LIVE_HELD_MAX];
	size_t held_count;
	/* the control socket */
	int listen_fd;
	struct live_client clients[LIVE_CLIENTS_MAX];
	size_t client_count;
	/* from the peers' threads */
	int wake_fd, signal_fd;
	pthread_mutex_t reports; /* held over calls of events */
	pthread_mutex_t lock;
	struct pathset suspects; /* files that are not as they were hashed */
};

void live_note(struct live *l, const char *fmt, ...) inlay_printf(2, 3) __attribute__((nonnull(2)));

/* survey.c: looks at what changed and gives the result to the peers. A failure is told and tried again. */
void survey(struct live *l);
/* Is the folder where it was? Tells when that changes. */
void survey_place(struct live *l);
/* Files that are held are looked at by the next survey. */
void survey_unhold(struct live *l);
/* Accepts the folder that is there now. */
int survey_accept(struct live *l, struct inlay_error *err) inlay_must_check;
/* True when there is something to look at at once, whatever time it is. */
bool survey_wanted(struct live *l);
/* When there is something to be done without an event; 0 = never. */
int64_t survey_due(const struct live *l);
void survey_fini(struct live *l);

/* desk.c */
int desk_open(struct live *l, struct inlay_error *err) inlay_must_check;
void desk_close(struct live *l);
void desk_accept(struct live *l);
void desk_hear(struct live *l, size_t client);
/* Answers those whose wish is fulfilled, or cannot be. */
void desk_answer(struct live *l);
int64_t desk_due(const struct live *l);

#endif
