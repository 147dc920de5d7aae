/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROJECT_BACK_H
#define PROJECT_BACK_H

/*
 * `back:` of a component: what was written on a host, by a build for instance, comes into a folder of the project.
 *
 * A file that lands where it is an input of a build is what makes that build run; when that build brings something back
 * in turn, and so on until it comes to the one that began, nothing would ever end. Such a file is refused, with the
 * components on the way.
 */

#include <pthread.h>

#include "config/config.h"
#include "session/pulling.h"

struct backs {
	const struct config *config;
	const char *state; /* the dev side's */
	bool force, dry_run;
	void (*say)(void *ctx, enum pulling_event event, const char *path,
		    const char *why); /* may be NULL */
	void *ctx;
	/* its own */
	pthread_mutex_t lock;
	bool *feeds; /* [from * components + to]: what `from` brings back starts the build of `to` */
};

/* What came by one rule. */
struct back_counts {
	const char *folder; /* as the project calls it */
	uint64_t brought, bytes, same, conflicts, failures, skipped;
};

int backs_init(struct backs *b, const struct config *c, const char *state, struct inlay_error *err)
	inlay_must_check;
void backs_fini(struct backs *b);

/* Each rule of the component, over a connection on which its workspace there is open. told() after each rule. -ELOOP:
 * the loop is named. Positive results as of client_request. */
int back_bring(struct backs *b, const struct config_component *c, const struct config_host *h,
	       struct client *client, void (*told)(void *ctx, const struct back_counts *counts),
	       void *ctx, struct inlay_error *err) inlay_must_check;

#endif
