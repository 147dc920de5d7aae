/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_REPLAY_H
#define MOUNT_REPLAY_H

/*
 * Raises inotify events for what a switch changed. The kernel raises none for notifications, so a helper process
 * (helper.h) repeats the changes through the mount, where this side recognises it and changes nothing:
 *
 *     made      mknod, mkdir, symlink answered with what is there; a file is then opened for writing and closed
 *     removed   unlink, rmdir
 *     renamed   rename
 *     changed   utimensat with the time that it has, then open for writing and close
 *
 * The list of what is to be raised belongs to the view (listed.h). A thread of its own feeds the helper; it notifies
 * the kernel where the helper could not, and holds no lock while it does, nor while it waits for the helper.
 *
 * The helper is known by its process id as FUSE tells it, learned from a lookup of a random name that only it was
 * told (helper.h). It is our child and not waited for while it is trusted, so nobody else gets its id.
 *
 * Whose names are raised: those in directories, and of files, that some inotify watch is on. Which these are is
 * looked up in /proc by the helper after a switch, away from the hot path. What was seen last time is raised
 * at once; what is new to us waits for the look.
 *
 * Threads: the listening one calls switched and shown; libfuse's call the rest.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "inlay/generation.h"
#include "mount/helper.h"
#include "mount/view.h"

struct worker;

struct replay {
	struct worker *worker;
	const char *point;        /* the mount point, borrowed */
	pid_t helper;             /* as FUSE tells it, 0 = none is known; atomic */
	pthread_mutex_t greeting; /* token */
	char token[HELPER_TOKEN_HEX];

	pthread_mutex_t lock; /* everything below */
	pthread_cond_t cond;  /* something below changed */
	uint64_t switched;    /* the newest switch that was told to us */
	uint64_t
		named; /* names of switches up to this one are raised, or were told to the kernel */
	uint64_t shown_seq, told_seq; /* SHOWN was answered; REPLAYED was sent */
	uint64_t shown_number;        /* the generation of shown_seq */
	bool cure;                    /* the list is to be closed without events */

	/* the thread's own */
	pid_t child;
	int sock;
	int64_t look_at_ns, looked_at_ns; /* not before; last */
	unsigned failures;                /* helpers in a row that did nothing */
	bool stale;                       /* events were raised since the last look */
};

struct replay_stats {
	uint64_t raised;         /* changes that the helper repeated */
	uint64_t missed;         /* changes whose events were not raised though somebody watches */
	uint64_t watched;        /* nodes that somebody watches, as last seen */
	uint64_t looks, look_ns; /* into /proc; the last one */
	uint64_t replayed;       /* the last generation whose events are all raised */
	uint64_t waiting;
};

/* Starts the thread. point NULL: no events. */
int replay_start(struct replay *p, struct worker *w, const char *point, struct inlay_error *err)
	inlay_must_check;

/* After a switch and its notes: begins, and waits a bounded time until what the kernel knows of names is right. */
void replay_switched(struct replay *p, const struct view_notes *notes);
/* The keeper was told that the generation is shown. */
void replay_shown(struct replay *p, const struct view_notes *notes, uint64_t number);
void replay_get_stats(struct replay *p, struct replay_stats *ret);

/* ---- requests (replay_ops.c) ---- */

/* The request is the helper's. */
bool replay_is_helper(const struct replay *p, fuse_req_t req);
/* A name in .inlay that may be the helper's greeting; the errno to answer with, 0 = it is none. */
int replay_greeted(struct replay *p, fuse_req_t req, const char *name);

/* Each answers the request and gives true when it is the helper's. */
bool replay_setattr(struct replay *p, fuse_req_t req, fuse_ino_t ino);
bool replay_make(struct replay *p, fuse_req_t req, fuse_ino_t parent, const char *name,
		 mode_t type);
bool replay_remove(struct replay *p, fuse_req_t req, fuse_ino_t parent, const char *name,
		   bool is_dir);
bool replay_rename(struct replay *p, fuse_req_t req, fuse_ino_t parent, const char *name,
		   fuse_ino_t to, const char *to_name);

/* ---- the helper's process (helper_link.c); the replay's thread alone ---- */

int replay_start_helper(struct replay *p, struct inlay_error *err) inlay_must_check;
void replay_end_helper(struct replay *p);
int replay_say(struct replay *p, enum helper_verb verb, int64_t mtime_ns, const char *text,
	       size_t len) inlay_must_check;
int replay_say_text(struct replay *p, enum helper_verb verb, const char *text) inlay_must_check;
/* Lets it open the mount; a new random name each time. */
int replay_say_open(struct replay *p) inlay_must_check;
/* Ends what was said and waits until it is done. *ret_fd: what came along, or -1. */
int replay_wait_done(struct replay *p, struct helper_msg *ret, int *ret_fd) inlay_must_check;

#endif
