/* SPDX-License-Identifier: Apache-2.0 */
#include "image/imagefan.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

enum { PROGRESS_MS = 100, STACK_BYTES = 1 << 20 };

struct runner {
	const struct imagefan_options *o;
	struct imagestreams *streams;
	struct imagefan_host *host;
	int ended_fd; /* counts those that ended */
	pthread_t thread;
	bool started, told;
};

static void *run(void *arg)
{
	struct runner *r = arg;
	int64_t start = inlay_monotonic_ns();
	uint64_t one = 1;

	imagehost_run(r->o, r->streams, r->host);
	r->host->total_ns = inlay_monotonic_ns() - start;
	r->host->phase = IMAGEFAN_ENDED;
	(void)!write(r->ended_fd, &one, sizeof one);
	return NULL;
}

static void start(struct runner *r)
{
	pthread_attr_t attr;

	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	int failed = pthread_create(&r->thread, &attr, run, r);
	(void)pthread_attr_destroy(&attr);
	r->started = failed == 0;
	if (!failed)
		return;
	r->host->result = inlay_error_sys(&r->host->err, -failed, "start a thread");
	r->host->phase = IMAGEFAN_ENDED;
}

/* One that hangs keeps nobody from hearing of the others. */
static void tell_ended(struct runner *runners, size_t count, const struct imagefan_watch *watch)
{
	for (size_t i = 0; i < count; i++) {
		if (runners[i].told || runners[i].host->phase != IMAGEFAN_ENDED)
			continue;
		runners[i].told = true;
		watch->ended(watch->ctx, runners[i].host);
	}
}

int imagefan(const struct imagefan_options *o, struct imagefan_host *hosts, size_t count,
	     const struct imagefan_watch *watch, struct inlay_error *err)
{
	auto_free struct runner *runners = calloc(count, sizeof *runners);
	auto_close int ended = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	struct imagestreams streams;
	uint64_t one;
	size_t left = 0;

	if (!runners || ended < 0)
		return inlay_error_sys(err, -errno, "prepare the push");
	imagestreams_init(&streams, o->store, o->trees, o->spool_fd);
	for (size_t i = 0; i < count; i++) {
		runners[i] = (struct runner){
			.o = o, .streams = &streams, .host = &hosts[i], .ended_fd = ended};
		start(&runners[i]);
		left += runners[i].started;
	}
	while (left > 0) {
		struct pollfd p = {.fd = ended, .events = POLLIN};
		if (poll(&p, 1, watch->progress ? PROGRESS_MS : -1) > 0 &&
		    read(ended, &one, sizeof one) == sizeof one)
			left--;
		tell_ended(runners, count, watch);
		if (watch->progress && left > 0)
			watch->progress(watch->ctx, hosts, count);
	}
	tell_ended(runners, count, watch);
	for (size_t i = 0; i < count; i++)
		if (runners[i].started)
			(void)pthread_join(runners[i].thread, NULL);
	/* Figures are in the streams, which go. */
	imagestreams_fini(&streams);
	return 0;
}
