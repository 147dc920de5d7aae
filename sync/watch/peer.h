/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WATCH_PEER_H
#define WATCH_PEER_H

/*
 * One target of a watch: a session in a thread of its own, so that a host that is slow or gone delays no other. It is
 * given the newest state of the folder, as a root; while it sends one, newer ones replace each other, so after a
 * break it catches up with the latest and not with the history.
 *
 * A connection that breaks is made anew: at once, then after 0.25 s, 0.5 s, ... 30 s (and up to a quarter more or
 * less, so that many do not come together), and sooner when the folder changes or the machine wakes up.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/generation.h"
#include "session/push.h"
#include "session/source.h"

enum peer_state {
	PEER_CONNECTING = 1, /* for the first time */
	PEER_SYNCING,        /* a change set is on its way */
	PEER_WATCHING,       /* the target shows the newest state */
	PEER_RECONNECTING,   /* why says what went wrong */
	PEER_HALTED, /* a safety halt: nothing is changed until the folder is, or --force; or another
			      * client took the target: until --steal */
};

/* The folder's newest state. */
struct peer_goal {
	uint64_t seq; /* 1, 2, ...; 0 = none yet */
	struct inlay_root root;
	int64_t changed_ns; /* monotonic: the first event that led to it; 0 = it is no answer to an event */
	uint64_t paths; /* that were looked at */
};

/* For status. */
struct peer_status {
	enum peer_state state;
	int64_t since_ns;             /* CLOCK_REALTIME: of the state */
	char why[512];                /* of the last failure, while it lasts */
	int exit_code;                /* likewise */
	uint64_t seq;                 /* of the goal that the target shows; 0 = none */
	uint64_t goal_seq, tried_seq; /* the newest one, the last one that was pushed or refused */
	bool force_pending;           /* the next attempt accepts what would halt */
	uint64_t generation, durable;
	struct inlay_root root;
	uint64_t change_sets, connections;
	uint64_t sent_bytes, received_bytes;
	struct codecs codecs;
	int64_t visible_p50_ns, visible_p95_ns; /* from the edit; of the last PEER_SAMPLES */
	uint64_t samples;
	int64_t last_ns; /* CLOCK_REALTIME: the last change set became visible */
	bool mounted;
};

enum { PEER_SAMPLES = 512 };

struct peer;

/* What a peer tells, in its thread. */
struct peer_events {
	/* A change set is visible. edit_ns: from the first event to visible, 0 = there was no event. */
	void (*visible)(void *ctx, const struct peer *p, const struct peer_goal *goal,
			const struct push_result *result, int64_t edit_ns);
	/* The state changed, or the same one has another reason. */
	void (*state)(void *ctx, const struct peer *p, const struct peer_status *status);
	/* What runs on the target before a change set is shown says something (push_options.before). */
	void (*hook)(void *ctx, const struct peer *p, const struct message_hook *m);
	/* A file of the goal is not as it was hashed: it is to be read again. */
	void (*moved_on)(void *ctx, const char *path);
	void *ctx;
};

struct peer_options {
	const struct target *target;
	struct transport_options transport;
	struct push_options push; /* force, steal: for the first change set */
	uint64_t bwlimit;
};

/* Starts the thread. The source outlives it, and so do events and what options point to. */
int peer_start(struct peer **ret, struct source *source, const struct peer_options *o,
	       const struct peer_events *events, struct inlay_error *err) inlay_must_check;
/* Ends the session in order and waits for the thread. Accepts NULL. */
void peer_stop(struct peer *p);
/* Makes it end soon, without waiting. */
void peer_ask_stop(struct peer *p);

const char *peer_target(const struct peer *p);
void peer_set_goal(struct peer *p, const struct peer_goal *goal);
/* Whatever halts it is accepted once. */
void peer_force(struct peer *p);
/* The target is taken from whoever took it. */
void peer_steal(struct peer *p);
/* The machine woke up, or the network changed: connections are doubted, and made anew at once. */
void peer_wake(struct peer *p);
void peer_get_status(struct peer *p, struct peer_status *ret);

#endif
