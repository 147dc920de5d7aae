/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_SHARE_H
#define SESSION_SHARE_H

/*
 * Several targets of one source: a change set is planned and encoded once for all of them that have the same state,
 * by a session without a connection, so that no target's line or disk slows it down (session/encoded.h). What
 * cannot be shared each session makes by itself: when the target was asked what it has, when librsync's signatures
 * are needed, behind a NAK.
 */

#include "session/encoded.h"
#include "session/session.h"

struct share {
	struct source *source;
	struct encodings encodings;
	pthread_mutex_t making; /* of the next */
	struct session *
		planner; /* has no connection; kept for its zstd context and what it saw recently */
};

/* A set as its sessions know it: what plan and result need of it. */
struct share_set {
	struct plan counts; /* no lists */
	struct codecs codecs;
	struct inlay_idset ids; /* of its objects, in their order: what a NAK counts */
	char *moved_path;       /* SESSION_LATER: the file that is another by now */
};

int share_init(struct share *s, struct source *source, struct inlay_error *err) inlay_must_check;
void share_fini(struct share *s);
/* Sets that are being made fail: it ends. */
void share_stop(struct share *s);
/* How many were made, and how often another session took one. Also for {0}. */
void share_figures(struct share *s, uint64_t *ret_made, uint64_t *ret_taken);

/* Positive results. */
enum { SHARE_ALONE = 1 }; /* the session makes it by itself */

/* Gives the session the set that leads from its base to its goal: p->flight. Positive: ALONE, SESSION_LATER. */
int share_take(struct session *p, struct inlay_error *err) inlay_must_check;
/* Sends it, without COMMIT. */
int share_send(struct session *p, struct inlay_error *err) inlay_must_check;
void share_drop(struct session *p);
const struct share_set *share_set(const struct session *p);

#endif
