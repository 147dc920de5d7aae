/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROJECT_SITES_H
#define PROJECT_SITES_H

/*
 * A site: one component on one host. What is done there behind a change set is done in a thread of its own, over a
 * connection of its own, so that a hook that takes long delays no sync and no other site. Change sets that come
 * meanwhile are taken together.
 *
 *     first:  build (unless nothing that it reads changed since it ended well), back, run, after
 *     later:  build, back, the rules of `reload` in the order of the file, after
 *
 * A site waits for the sites that it needs on the same host, or for all of them when there is none on it: the first
 * time until they are up, later until they are idle. What fails ends the round; the next change set begins
 * another.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "project/back.h"
#include "session/client.h"

enum site_event_kind {
	SITE_BEGIN, /* a step begins: `step` */
	SITE_TEXT,  /* what it writes: text, len, errors */
	SITE_END,   /* it ended: status, took_ns, timed_out; ok */
	SITE_UP,    /* the first round went well */
	SITE_FAIL,  /* a round ended here: text says why */
	SITE_BACK,  /* something came back: `back` */
	SITE_DONE,  /* a later round went well */
};

struct site;

struct site_event {
	enum site_event_kind kind;
	const struct site *site;
	const char *step; /* "build", "run", "reload 1", "after" */
	const char *text;
	size_t len;
	bool errors, ok, timed_out, cut;
	int status; /* as of waitpid */
	int64_t took_ns;
	const struct back_counts *back;
};

/* What a host says of a hook, as an event of a site that is still to be named. False: it was skipped. */
bool site_event_of(const struct message_hook *m, const char *step, struct site_event *ret);

struct site {
	const struct config_component *component;
	const struct config_host *host;
	struct target target;
	char *target_text;
	struct transport_options transport;
	bool no_hooks; /* sync only */
	/* what its image runs by itself, and where; borrowed, NULL = nothing */
	struct config_texts image_command;
	const char *image_dir;
	/* the set that it is in */
	struct sites *all;
	/* everything below: all->lock */
	uint64_t shown;   /* newest generation that is visible; 0 = none */
	uint64_t settled; /* the one that was dealt with, well or not */
	uint64_t good;    /* the last one that was dealt with well */
	bool busy, up, failed;
	bool blocked; /* the last round failed because of what it needs */
	uint64_t rounds;
	int fd; /* of the connection, -1 = none */
	/* the thread's own */
	struct client client;
	bool connected, began;
	int64_t answer_ns; /* how long the answer to the question at hand may take; 0 = any time */
	pthread_t thread;  /* 0 = none */
};

struct sites {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* something below `lock` changed */
	struct site *list;
	size_t count;
	bool ending;
	void (*tell)(void *ctx, const struct site_event *e); /* by one thread at a time */
	void (*settled)(void *ctx); /* a round is over; by any thread; may be NULL */
	void *ctx;
	pthread_mutex_t telling;
	struct backs *backs;
	/* `rebuild-base`: the image of a site is built anew, brought there, and its root; by its thread. */
	int (*rebuild)(void *ctx, struct site *p, struct inlay_error *err);
	void *rebuild_ctx;
};

/* Starts a thread for each site. The list was filled by the caller, zeroed but for what stands above `all`. */
int sites_start(struct sites *p, struct inlay_error *err) inlay_must_check;
/* Ends them: a hook that runs is ended, what `run` started goes on. */
void sites_stop(struct sites *p);
/* A generation is visible in a site. */
void sites_shown(struct sites *p, struct site *one, uint64_t generation);
/* It cannot be reached, or a safety halt keeps it from being synced, for now. */
void sites_lost(struct sites *p, struct site *one);

/* Instead of sites_start: the sites are used one by one, by this thread, with site_build and site_back. */
void sites_alone(struct sites *p, void (*tell)(void *ctx, const struct site_event *e), void *ctx);
/* Runs a component's build now, whatever changed, without a thread. */
int site_build(struct site *p, struct inlay_error *err) inlay_must_check;
/* Brings back what `back` of its component says, likewise. */
int site_back(struct site *p, struct inlay_error *err) inlay_must_check;
void site_fini(struct site *p);

/* Hosts that are reached over a network, each counted once: what the choice of a transport goes by. */
unsigned sites_host_count(const struct sites *s);

/* "7,0,9": the doors of a component's sites, in their order; 0 = none. A child that gets them inherits them. */
void sites_doors(const struct sites *s, const struct config_component *c, struct inlay_buf *b);

#endif
