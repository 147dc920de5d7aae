/* SPDX-License-Identifier: Apache-2.0 */
#include "session/fanout.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "session/share.h"

enum { ROUNDS_MAX = 8 }; /* of a folder that changes while it is sent */

struct fanout {
	struct source *source;
	const struct push_options *o;
	uint64_t bwlimit;
	struct share share;
	struct inlay_root root;
	struct push_result scanned; /* what the scan counted */
	pthread_mutex_t lock;       /* of done() */
	void (*done)(void *ctx, const struct fanout_host *h);
	void *ctx;
};

static void tell(struct fanout_host *h, const struct session *s)
{
	struct fanout *f = h->all;
	const struct push_options *o = f->o;

	h->result.files_read = f->scanned.files_read;
	h->result.read_bytes = f->scanned.read_bytes;
	h->result.cache_hits = f->scanned.cache_hits;
	h->result.scan_ns = f->scanned.scan_ns;
	h->result.read_ns = f->scanned.read_ns;
	h->result.special = f->scanned.special;
	h->result.hardlinked = f->scanned.hardlinked;
	scope_lock(&f->lock);
	if (h->code == 0 && o->change)
		h->code = plan_tell(f->source, inlay_digest_is_zero(&s->base) ? NULL : &s->base,
				    &s->goal.tree, o->change, o->ctx, &h->err);
	f->done(f->ctx, h);
}

static void *run(void *arg)
{
	struct fanout_host *h = arg;
	struct fanout *f = h->all;
	auto_free struct session *s = malloc(sizeof *s);

	h->push = *f->o;
	h->push.share = &f->share;
	h->push.progress = NULL;
	h->err = (struct inlay_error){0};
	if (!s) {
		h->code = inlay_error_set(&h->err, -ENOMEM, "out of memory");
		h->pending = false;
		return NULL;
	}
	h->code =
		session_init(s, f->source, h->target, &h->transport, f->bwlimit, &h->push, &h->err);
	if (h->code == 0)
		h->code = session_push(s, &f->root, true, &h->result, &h->err);
	/* Otherwise the folder is another one by now: once more, with what it has then. */
	h->pending = h->code == SESSION_LATER;
	if (!h->pending)
		tell(h, s);
	session_close(s);
	return NULL;
}

static int scan(struct fanout *f, struct inlay_error *err)
{
	struct session *m = f->share.planner;

	m->source = f->source;
	m->o = f->o;
	m->result = &m->idle;
	int r = session_scan(m, err);
	f->root = m->root;
	f->scanned = m->idle;
	return r;
}

/* All that are pending, each in its thread. Gives how many still are. */
static size_t push_all(struct fanout *f, struct fanout_host *hosts, size_t count)
{
	auto_free pthread_t *threads = calloc(count, sizeof *threads);
	auto_free bool *started = calloc(count, sizeof *started);
	size_t pending = 0;

	for (size_t i = 0; i < count; i++) {
		if (!hosts[i].pending)
			continue;
		hosts[i].all = f;
		if (threads && started)
			started[i] = pthread_create(&threads[i], NULL, run, &hosts[i]) == 0;
		if (!started || !started[i])
			(void)run(&hosts[i]);
	}
	for (size_t i = 0; i < count; i++) {
		if (started && started[i])
			(void)pthread_join(threads[i], NULL);
		pending += hosts[i].pending;
	}
	return pending;
}

static void give_up(struct fanout *f, struct fanout_host *hosts, size_t count,
		    const struct inlay_error *why)
{
	for (size_t i = 0; i < count; i++) {
		if (!hosts[i].pending)
			continue;
		hosts[i].err = *why;
		hosts[i].code = why->code;
		f->done(f->ctx, &hosts[i]);
	}
}

int fanout_push(struct source *s, const struct push_options *o, uint64_t bwlimit,
		struct fanout_host *hosts, size_t count,
		void (*done)(void *ctx, const struct fanout_host *h), void *ctx,
		struct inlay_error *err)
{
	struct fanout f = {.source = s, .o = o, .bwlimit = bwlimit, .done = done, .ctx = ctx};
	struct inlay_error why = {0};
	size_t pending = count;
	int r = share_init(&f.share, s, err);

	(void)pthread_mutex_init(&f.lock, NULL);
	for (size_t i = 0; i < count; i++)
		hosts[i].pending = true;
	if (r == 0)
		r = scan(&f, err);
	if (r == 0)
		pending = push_all(&f, hosts, count);
	for (int round = 1; r == 0 && pending > 0 && why.code == 0; round++) {
		if (round == ROUNDS_MAX)
			(void)inlay_error_set(&why, -EBUSY, "%s changes all the time", s->path);
		else if (scan(&f, &why) == 0)
			pending = push_all(&f, hosts, count);
	}
	if (why.code)
		give_up(&f, hosts, count, &why);
	/* What was hashed need not be hashed again, also when no push went well. */
	if (r == 0 && !o->dry_run)
		r = source_save(s, err);
	share_fini(&f.share);
	(void)pthread_mutex_destroy(&f.lock);
	return r;
}
