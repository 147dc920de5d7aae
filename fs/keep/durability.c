/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Becoming durable happens behind the visible switch, in one thread: all that was put is synced once for
 * whatever became live meanwhile, then each workspace's ref is published. While it fails (the disk is
 * full), it is tried again from time to time; the old durable generation stays what a crash leaves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "inlay/io.h"
#include "keep/host.h"

enum { RETRY_S = 5 };

void workspace_want_durable(struct inlay_workspace *ws)
{
	struct inlay_host *host = ws->host;

	ws->publish = true;
	scope_lock(&host->lock);
	host->durable_wanted = true;
	host->commits++;
	(void)pthread_cond_signal(&host->durable_cond);
}

static void tell(struct inlay_workspace *ws)
{
	uint64_t one = 1;

	if (ws->watch_fd >= 0)
		(void)!write(ws->watch_fd, &one, sizeof one);
}

/* The live generation as it is before the sync: what comes later is not covered by it. */
static bool take_wanted(struct inlay_workspace *ws, struct inlay_generation *ret)
{
	scope_lock(&ws->lock);
	if (!ws->publish || ws->removed)
		return false;
	ws->publish = false;
	*ret = ws->state.live;
	return true;
}

static void tell_worker(struct inlay_workspace *ws, const struct inlay_generation *gen)
{
	struct worker_msg m = {.type = WORKER_DURABLE, .gen = *gen};

	if (ws->link)
		(void)!link_tell(ws->link, &m, NULL);
}

static void done(struct inlay_workspace *ws, const struct inlay_generation *gen, int r,
		 const struct inlay_error *err)
{
	scope_lock(&ws->lock);
	if (r == 0) {
		ws->state.durable = gen->number;
		ws->state.durable_failed = false;
		tell_worker(ws, gen);
	} else {
		ws->publish = true;
		ws->state.durable_failed = true;
		(void)snprintf(ws->state.durable_text, sizeof ws->state.durable_text, "%.255s",
			       err->text);
	}
	tell(ws);
}

struct round {
	struct inlay_host *host;
	bool failed;
};

static int publish(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	struct round *round = ctx;
	struct inlay_generation gen;
	struct inlay_error one = {0};

	(void)err;
	if (!take_wanted(ws, &gen))
		return 0;
	uint64_t reserved = gen.number + KEEP_NUMBERS_AHEAD;
	int r = inlay_store_sync(round->host->store, &one);
	if (r == 0)
		r = inlay_store_publish(round->host->store, ws->state.id, &gen, INLAY_HOST_KEEP,
					reserved, &one);
	if (r < 0) {
		host_log(round->host, "%s: generation %llu is not durable: %s", ws->state.path,
			 (unsigned long long)gen.number, one.text);
		round->failed = true;
	}
	done(ws, &gen, r, &one);
	return 0;
}

static bool wait_for_work(struct inlay_host *host, bool retry)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += RETRY_S;
	scope_lock(&host->lock);
	while (!host->durable_wanted && !host->ending) {
		if (!retry)
			(void)pthread_cond_wait(&host->durable_cond, &host->lock);
		else if (pthread_cond_timedwait(&host->durable_cond, &host->lock, &ts) == ETIMEDOUT)
			break;
	}
	bool go_on = host->durable_wanted || !host->ending;
	host->durable_wanted = false;
	return go_on;
}

void *host_durable_thread(void *arg)
{
	struct inlay_host *host = arg;
	bool retry = false;

	while (wait_for_work(host, retry)) {
		struct round round = {.host = host};
		(void)!inlay_host_each(host, publish, &round, NULL);
		retry = round.failed;
	}
	return NULL;
}
