/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROJECT_RAISE_H
#define PROJECT_RAISE_H

/*
 * A project on all its hosts: for each component one `inlay watch` as a child, which syncs it to its hosts and tells on
 * its standard output what is visible where; and for each site (sites.h) what is done behind a change set.
 *
 * The children are watches like any other: `inlay flush`, `sync` and `status` go through them.
 */

#include "project/sites.h"

struct up_options {
	const struct config_set *set;
	const char *const *components; /* only these; NULL-terminated, NULL = all */
	const char *const *hosts;      /* likewise */
	const char *state;             /* --state, as it was given; NULL = the default */
	const char *rsh;               /* -e */
	const char *transport;         /* --transport */
	const char *dev_state;         /* where the dev side's state is */
	bool no_hooks;                 /* sync only */
	bool once;                     /* end when all is up */
	bool no_boot;
	bool steal; /* workspaces that others hold */
	/* The way to a host; borrowed strings. */
	struct transport_options (*reach)(void *ctx, const struct target *t);
	void *ctx;
};

enum up_event_kind {
	UP_SITE,    /* `step` */
	UP_VISIBLE, /* a target shows a change set: the child's own words in `told` */
	UP_STATE,   /* likewise: a connection was lost, a halt */
	UP_NOTE,    /* about the folder */
	UP_READY,   /* every site is up, or failed */
};

struct up_event {
	enum up_event_kind kind;
	const struct site_event *step;
	const char *component;
	const char *host; /* NULL = of no host in particular */
	const void *told; /* UP_VISIBLE, UP_STATE, UP_NOTE: a json_t */
};

struct up {
	const struct up_options *o;
	struct sites sites;
	struct backs backs;
	void (*tell)(void *ctx, const struct up_event *e); /* by one thread at a time */
	void (*settled)(void *ctx); /* likewise: a round is over, or a host was lost; may be NULL */
	void *ctx;
};

/* Fills up->sites. -ENOENT: no such component or host. Ended with up_fini. */
int up_init(struct up *up, const struct up_options *o, struct inlay_error *err) inlay_must_check;
void up_fini(struct up *up);

/* Runs until SIGINT or SIGTERM, or with `once` until all is up. *ret_failed counts sites that are not up. */
int up_run(struct up *up, size_t *ret_failed, struct inlay_error *err) inlay_must_check;

/* "host:path", or a local path, for a component on a host. The caller frees it. */
int up_target(const struct config_component *c, const struct config_host *h, char **ret,
	      struct inlay_error *err) inlay_must_check;

#endif
