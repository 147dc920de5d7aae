/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROJECT_UPSTATE_H
#define PROJECT_UPSTATE_H

/*
 * How each site of a project is, as `inlay up` heard it: for its view on a terminal, and for `inlay status`, which asks
 * nobody. It is written down as a whole in projects/<id> of the state, once when a round is over and not once for each
 * of its steps; whoever reads it sees by the file's lock whether that `up` still runs.
 */

#include "project/raise.h"

enum {
	UPSTATE_SAMPLES = 64,
	UPSTATE_STEPS = 12, /* whose last end is kept for each site */
	UPSTATE_TEXT = 200,
};

enum upstate_word {
	UPSTATE_CONNECTING,
	UPSTATE_WORKING, /* `step` runs */
	UPSTATE_SYNCED,  /* visible, nothing was done behind it yet */
	UPSTATE_UP,
	UPSTATE_FAILED, /* `why` */
	UPSTATE_LOST,   /* likewise: not reached, or halted */
};

struct upstate_step {
	char name[32];
	int status; /* as of waitpid */
	bool timed_out;
	int64_t took_ns, time_ns;
};

struct upstate_row {
	enum upstate_word word, before; /* before: what UPSTATE_WORKING goes back to */
	char step[32];
	char why[UPSTATE_TEXT];
	uint64_t generation;
	int64_t shown_ns; /* CLOCK_REALTIME of the last change set; 0 = none */
	uint64_t added, modified, removed;
	int64_t samples[UPSTATE_SAMPLES]; /* from the edit to visible */
	uint64_t sample_count;
	struct upstate_step steps[UPSTATE_STEPS];
	size_t step_count;
};

struct upstate {
	const struct up *up;
	struct upstate_row *rows; /* as up->sites.list */
	bool changed;             /* since it was written */
	int fd;                   /* the file, locked; -1 = it is not written */
	int dirfd;
	char name[20];
};

/* `state` is the dev side's. Failing to write only leaves `inlay status` without it. */
int upstate_init(struct upstate *u, const struct up *up, const char *state, struct inlay_error *err)
	inlay_must_check;
void upstate_fini(struct upstate *u);
/* Takes an event in. */
void upstate_hear(struct upstate *u, const struct up_event *e);
/* Writes it down, if anything changed. */
void upstate_save(struct upstate *u);

const char *upstate_word(const struct upstate_row *r);
/* Of the latest samples, 0 = there are none. */
int64_t upstate_p50(const struct upstate_row *r);

/* The project was taken down: nothing is told of it any more. */
void upstate_forget(const struct config *c, const char *state);

/* Calls fn for each project that is written down: `told` is its json_t, `runs` says whether that `up` still does. */
int upstate_each(const char *state, int (*fn)(void *ctx, const void *told, bool runs), void *ctx,
		 struct inlay_error *err) inlay_must_check;

#endif
