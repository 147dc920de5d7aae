/* SPDX-License-Identifier: Apache-2.0 */
#include "project/sites.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "project/orders.h"

enum { CONNECT_ATTEMPTS = 2 };

/* ---- telling ---- */

static void tell(struct site *p, struct site_event e)
{
	e.site = p;
	scope_lock(&p->all->telling);
	p->all->tell(p->all->ctx, &e);
}

/* ---- asking the host ---- */

/* For sites_stop, which cuts the connection under a hook. */
static void set_fd(struct site *p, int fd)
{
	scope_lock(&p->all->lock);
	p->fd = fd;
}

static void disconnect(struct site *p)
{
	set_fd(p, -1);
	if (p->connected)
		client_close(&p->client);
	p->connected = false;
}

static int call_host(struct site *p, struct inlay_error *err)
{
	struct message_open open = {.path = message_text_of(p->target.path)};
	struct frame f;
	int r = CLIENT_AGAIN;

	for (int i = 0; i < CONNECT_ATTEMPTS && r == CLIENT_AGAIN; i++) {
		disconnect(p);
		r = client_open(&p->client, &p->transport, 0, err);
		p->connected = r == 0;
		if (r == 0)
			set_fd(p, p->client.conn.rfd);
		if (r == 0)
			r = client_open_workspace(&p->client, &open, err);
		if (r == 0)
			r = client_recv(&p->client, 0, &f, err);
	}
	if (r != 0)
		disconnect(p);
	return r == CLIENT_FAILED ? err->code
	       : r > 0            ? inlay_error_set(err, -EREMOTEIO, "inlayd is not found there")
				  : r;
}

/* One request; a connection that broke since the last one is made anew. */
static int ask(struct site *p, const struct message_request *m,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err), void *ctx,
	       struct inlay_error *err)
{
	for (int attempt = 0;; attempt++) {
		bool fresh = !p->connected;
		int r = fresh ? call_host(p, err) : 0;
		if (r < 0)
			return r;
		p->began = false;
		p->client.answer_ns = p->answer_ns;
		r = client_request(&p->client, m, row, ctx, err);
		if (r >= 0)
			return r == CLIENT_FAILED ? err->code : 0;
		disconnect(p);
		/* What began there must not be done twice. */
		if (fresh || p->began || attempt > 0)
			return r;
	}
}

/* ---- a step ---- */

struct step {
	struct site *p;
	const char *name;
	uint8_t remember; /* enum message_hook_flags */
	bool quiet;       /* it is told by whoever asks */
	bool began, ok;
};

bool site_event_of(const struct message_hook *m, const char *step, struct site_event *ret)
{
	*ret = (struct site_event){.step = step};
	switch (m->kind) {
	case MESSAGE_HOOK_SKIPPED:
		return false;
	case MESSAGE_HOOK_BEGIN:
		ret->kind = SITE_BEGIN;
		break;
	case MESSAGE_HOOK_END:
		ret->kind = SITE_END;
		ret->ok = m->status == 0 && !m->timed_out;
		ret->status = m->status;
		ret->timed_out = m->timed_out;
		ret->cut = m->cut;
		ret->took_ns = (int64_t)m->took_ns;
		break;
	default:
		ret->kind = SITE_TEXT;
		ret->text = m->text.bytes;
		ret->len = m->text.len;
		ret->errors = m->kind == MESSAGE_HOOK_ERRORS;
	}
	return true;
}

static int hook_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct step *s = ctx;
	struct message_hook m;
	struct site_event e;
	int r = message_decode_hook(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (!site_event_of(&m, s->name, &e)) {
		s->ok = true;
		return 0;
	}
	s->began |= e.kind == SITE_BEGIN;
	s->p->began |= s->began;
	s->ok = e.kind == SITE_END && e.ok;
	if (!s->quiet)
		tell(s->p, e);
	return 0;
}

/* Sends an order. 0: it went well, or nothing was to be done. */
static int do_step(struct step *s, const struct inlay_buf *order, uint64_t from, uint64_t to,
		   struct inlay_error *err)
{
	struct message_request m = {.verb = MESSAGE_VERB_HOOK,
				    .flags = s->remember,
				    .args = {from, to},
				    .body = {(const char *)order->data, order->len}};
	int r = ask(s->p, &m, hook_row, s, err);

	if (r == 0 && !s->ok)
		r = inlay_error_set(err, -ECHILD, "%s did not go well", s->name);
	return r;
}

static int run_hook(struct site *p, const char *step, const struct config_hook *hook, uint64_t from,
		    uint64_t to, bool *ret_done, struct inlay_error *err)
{
	auto_buf struct inlay_buf order = {0};
	struct step s = {.p = p, .name = step};

	if (!hook->head.at)
		return 0;
	int r = order_run(&order, p->component, step, hook, err);
	if (r == 0)
		r = do_step(&s, &order, from, to, err);
	*ret_done |= s.began;
	return r;
}

/* ---- what comes back ---- */

static void tell_back(void *ctx, const struct back_counts *counts)
{
	struct site *p = ctx;

	tell(p, (struct site_event){.kind = SITE_BACK, .step = "back", .back = counts});
}

static int bring_back(struct site *p, struct inlay_error *err)
{
	int r = p->connected || p->component->back.count == 0 ? 0 : call_host(p, err);

	if (r == 0)
		r = back_bring(p->all->backs, p->component, p->host, &p->client, tell_back, p, err);
	/* Rows may be left that nobody reads. */
	if (r != 0)
		disconnect(p);
	return r == CLIENT_FAILED ? err->code : r;
}

/* ---- the rounds ---- */

static int build_and_bring(struct site *p, uint64_t to, bool *ret_done, struct inlay_error *err)
{
	bool built = false;
	int r = run_hook(p, "build", &p->component->build, MESSAGE_HOOK_SINCE_SUCCESS, to, &built,
			 err);

	*ret_done |= built;
	return r == 0 && built ? bring_back(p, err) : r;
}

static int kept_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	if (f->len != 1)
		return inlay_error_set(err, -EPROTO, "a bad answer to RUN");
	*(bool *)ctx = f->payload[0];
	return 0;
}

/* *ret_kept: it ran already, in just this way, so what changed since was not told to it yet. */
static int run_program(struct site *p, bool *ret_kept, struct inlay_error *err)
{
	auto_buf struct inlay_buf spec = {0};

	if (!p->component->run.head.at)
		return 0;
	int r = order_program(&spec, p->component, &p->image_command, p->image_dir, err);
	struct message_request m = {
		.verb = MESSAGE_VERB_RUN, .flags = 1, .body = {(const char *)spec.data, spec.len}};
	if (r < 0)
		return r;
	p->answer_ns = order_start_time(p->component);
	r = ask(p, &m, kept_row, ret_kept, err);
	p->answer_ns = 0;
	return r;
}

static int rebuild_base(struct site *p, const char *step, struct inlay_error *err)
{
	int64_t start = inlay_monotonic_ns();
	bool kept;

	tell(p, (struct site_event){.kind = SITE_BEGIN, .step = step});
	int r = p->all->rebuild(p->all->rebuild_ctx, p, err);
	/* Its own command may be another one. */
	if (r == 0)
		r = run_program(p, &kept, err);
	tell(p, (struct site_event){.kind = SITE_END,
				    .step = step,
				    .ok = r == 0,
				    .status = r == 0 ? 0 : 1 << 8,
				    .took_ns = inlay_monotonic_ns() - start});
	return r;
}

static int apply_rule(struct site *p, size_t i, uint64_t from, uint64_t to, uint8_t remember,
		      bool *ret_done, struct inlay_error *err)
{
	auto_buf struct inlay_buf order = {0};
	char step[32];
	const struct config_reload *rule =
		(const struct config_reload *)p->component->reload.items + i;
	bool rebuild = rule->rebuild_base == CONFIG_YES;
	struct step s = {.p = p, .name = step, .remember = remember, .quiet = rebuild};

	(void)snprintf(step, sizeof step, "reload %zu", i + 1);
	int r = order_reload(&order, p->component, i, err);
	/* A command has its own time, and the host minds it. */
	if (!rule->run.count)
		p->answer_ns = order_start_time(p->component);
	if (r == 0)
		r = do_step(&s, &order, from, to, err);
	if (r == 0 && rebuild && s.began)
		r = rebuild_base(p, step, err);
	p->answer_ns = 0;
	*ret_done |= s.began;
	return r;
}

/* What it ran in by an earlier inlay.yaml; up_images gives the others theirs before anything is synced. */
static int leave_root(struct site *p, struct inlay_error *err)
{
	struct message_request m = {.verb = MESSAGE_VERB_ROOT, .args = {1}};

	return p->component->base ? 0 : ask(p, &m, NULL, NULL, err);
}

static int first_round(struct site *p, uint64_t to, struct inlay_error *err)
{
	bool done = false, kept = !p->component->run.head.at;
	int r = leave_root(p, err);

	if (r == 0)
		r = build_and_bring(p, to, &done, err);
	if (r == 0)
		r = run_program(p, &kept, err);
	/* A program that was just started has seen everything. */
	for (size_t i = 0; r == 0 && i < p->component->reload.count; i++)
		r = apply_rule(p, i, MESSAGE_HOOK_SINCE_SUCCESS, to,
			       kept ? MESSAGE_HOOK_REMEMBER_FIRST : MESSAGE_HOOK_REMEMBER, &done,
			       err);
	if (r == 0)
		r = run_hook(p, "after", &p->component->after, 0, to, &done, err);
	return r;
}

static int later_round(struct site *p, uint64_t from, uint64_t to, struct inlay_error *err)
{
	bool done = false;
	int r = build_and_bring(p, to, &done, err);

	for (size_t i = 0; r == 0 && i < p->component->reload.count; i++)
		r = apply_rule(p, i, from, to, 0, &done, err);
	if (r == 0 && done)
		r = run_hook(p, "after", &p->component->after, from, to, &done, err);
	return r;
}

static bool needs(const struct site *p, const struct site *other)
{
	for (size_t i = 0; i < p->component->needs.count; i++)
		if (strcmp(p->component->needs.items[i], other->component->head.name) == 0)
			return true;
	return false;
}

static bool is_on(const struct sites *all, const struct config_component *c,
		  const struct config_host *h)
{
	for (size_t i = 0; i < all->count; i++)
		if (all->list[i].component == c && all->list[i].host == h)
			return true;
	return false;
}

/* Lock held. What `p` waits for is ready; *ret_failed: it will not be. */
static bool needs_are_ready(struct site *p, const struct site **ret_failed)
{
	struct sites *all = p->all;

	*ret_failed = NULL;
	for (size_t i = 0; i < all->count; i++) {
		struct site *o = &all->list[i];
		if (!needs(p, o) || (o->host != p->host && is_on(all, o->component, p->host)))
			continue;
		if (o->failed && !o->up)
			*ret_failed = o;
		else if (!o->up || o->busy)
			return false;
	}
	return true;
}

/* Lock held. What was given up because of what it needs is tried again when that is up. */
static bool has_work(struct site *p, const struct site **ret_failed)
{
	if (p->shown == 0 || (p->shown == p->settled && !p->blocked))
		return false;
	return needs_are_ready(p, ret_failed) && !(p->blocked && *ret_failed);
}

/* False when there is nothing more to do. */
static bool wait_for_work(struct site *p, uint64_t *ret_from, uint64_t *ret_to,
			  const struct site **ret_failed)
{
	scope_lock(&p->all->lock);
	while (!p->all->ending && !has_work(p, ret_failed))
		(void)pthread_cond_wait(&p->all->changed, &p->all->lock);
	if (p->all->ending)
		return false;
	p->busy = true;
	*ret_from = p->good;
	*ret_to = p->shown;
	return true;
}

static void round_done(struct site *p, uint64_t to, bool ok, bool blocked)
{
	scope_lock(&p->all->lock);
	p->busy = false;
	p->settled = to;
	p->failed = !ok;
	p->blocked = blocked;
	p->rounds++;
	if (ok) {
		p->good = to;
		p->up = true;
	}
	(void)pthread_cond_broadcast(&p->all->changed);
}

static void *work(void *arg)
{
	struct site *p = arg;
	const struct site *failed;
	uint64_t from, to;

	while (wait_for_work(p, &from, &to, &failed)) {
		struct inlay_error err = {0};
		int r = 0;
		if (failed)
			r = inlay_error_set(&err, -ECHILD, "'%s', which it needs, is not up",
					    failed->component->head.name);
		else if (!p->no_hooks)
			r = from ? later_round(p, from, to, &err) : first_round(p, to, &err);
		bool ending;
		{
			scope_lock(&p->all->lock);
			ending = p->all->ending;
		}
		if (r < 0 && !ending)
			tell(p, (struct site_event){.kind = SITE_FAIL,
						    .text = err.text,
						    .len = strlen(err.text)});
		if (r == 0)
			tell(p, (struct site_event){.kind = from ? SITE_DONE : SITE_UP});
		round_done(p, to, r == 0, failed);
		if (p->all->settled)
			p->all->settled(p->all->ctx);
	}
	disconnect(p);
	return NULL;
}

/* ---- the set ---- */

int sites_start(struct sites *all, struct inlay_error *err)
{
	sigset_t every, old;
	int r = 0;

	(void)pthread_mutex_init(&all->lock, NULL);
	(void)pthread_mutex_init(&all->telling, NULL);
	(void)pthread_cond_init(&all->changed, NULL);
	/* Signals belong to the main thread. */
	(void)sigfillset(&every);
	(void)pthread_sigmask(SIG_SETMASK, &every, &old);
	for (size_t i = 0; r == 0 && i < all->count; i++) {
		all->list[i].all = all;
		all->list[i].fd = -1;
		r = pthread_create(&all->list[i].thread, NULL, work, &all->list[i]);
	}
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r ? inlay_error_sys(err, -r, "start a thread") : 0;
}

void sites_stop(struct sites *all)
{
	{
		scope_lock(&all->lock);
		all->ending = true;
		(void)pthread_cond_broadcast(&all->changed);
	}
	for (size_t i = 0; i < all->count; i++) {
		struct site *p = &all->list[i];
		{
			/* A hook under way ends with its connection. */
			scope_lock(&all->lock);
			if (p->fd >= 0)
				(void)shutdown(p->fd, SHUT_RDWR);
		}
		if (p->thread)
			(void)pthread_join(p->thread, NULL);
	}
}

void sites_shown(struct sites *all, struct site *one, uint64_t generation)
{
	scope_lock(&all->lock);
	one->shown = generation;
	(void)pthread_cond_broadcast(&all->changed);
}

void sites_lost(struct sites *all, struct site *one)
{
	scope_lock(&all->lock);
	if (!one->up) {
		one->failed = true;
		one->rounds++;
	}
	(void)pthread_cond_broadcast(&all->changed);
}

void sites_alone(struct sites *all, void (*say)(void *ctx, const struct site_event *e), void *ctx)
{
	all->tell = say;
	all->ctx = ctx;
	(void)pthread_mutex_init(&all->lock, NULL);
	(void)pthread_mutex_init(&all->telling, NULL);
	for (size_t i = 0; i < all->count; i++)
		all->list[i].all = all;
}

int site_build(struct site *p, struct inlay_error *err)
{
	struct config_hook hook = p->component->build;
	bool done = false;

	if (!hook.head.at)
		return 0;
	/* All of it counts as changed. */
	hook.inputs = (struct config_texts){0};
	int r = run_hook(p, "build", &hook, 0, p->shown, &done, err);
	if (r == 0)
		r = bring_back(p, err);
	disconnect(p);
	return r;
}

int site_back(struct site *p, struct inlay_error *err)
{
	int r = bring_back(p, err);

	disconnect(p);
	return r;
}

void site_fini(struct site *p)
{
	target_fini(&p->target);
	free(p->target_text);
}

unsigned sites_host_count(const struct sites *s)
{
	unsigned n = 0;

	for (size_t i = 0; i < s->count; i++) {
		bool again = !s->list[i].target.host;
		for (size_t j = 0; j < i && !again; j++)
			again = s->list[j].host == s->list[i].host;
		n += !again;
	}
	return n;
}

void sites_doors(const struct sites *s, const struct config_component *c, struct inlay_buf *b)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].component == c)
			inlay_buf_printf(b, b->len ? ",%d" : "%d", s->list[i].transport.door);
}
