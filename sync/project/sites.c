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
#include "inlay/run.h"

enum { CONNECT_ATTEMPTS = 2 };

static const int64_t build_timeout_ns = 3600ll * 1000000000;
static const int64_t reload_timeout_ns = 120ll * 1000000000;
static const int64_t stop_timeout_ns = 10ll * 1000000000;

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
	bool began, skipped, ok;
};

static int hook_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct step *s = ctx;
	struct message_hook m;
	int r = message_decode_hook(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	switch (m.kind) {
	case MESSAGE_HOOK_SKIPPED:
		s->skipped = s->ok = true;
		break;
	case MESSAGE_HOOK_BEGIN:
		s->began = s->p->began = true;
		tell(s->p, (struct site_event){.kind = SITE_BEGIN, .step = s->name});
		break;
	case MESSAGE_HOOK_END:
		s->ok = m.status == 0 && !m.timed_out;
		tell(s->p, (struct site_event){.kind = SITE_END,
					       .step = s->name,
					       .ok = s->ok,
					       .status = m.status,
					       .timed_out = m.timed_out,
					       .cut = m.cut,
					       .took_ns = (int64_t)m.took_ns});
		break;
	default:
		tell(s->p, (struct site_event){.kind = SITE_TEXT,
					       .step = s->name,
					       .text = m.text.bytes,
					       .len = m.text.len,
					       .errors = m.kind == MESSAGE_HOOK_ERRORS});
	}
	return 0;
}

/* "a\nb" from a list of patterns. */
static void join(const struct config_texts *list, struct inlay_buf *b)
{
	for (size_t i = 0; i < list->count; i++) {
		inlay_buf_printf(b, i ? "\n" : "");
		inlay_buf_add(b, list->items[i], strlen(list->items[i]));
	}
}

static struct inlay_run_spec spec_of(const struct site *p, const struct config_texts *command,
				     const char *dir, int64_t timeout_ns)
{
	struct inlay_run_spec s = {.argv = (char **)command->items,
				   .env = (char **)p->component->env.items,
				   .dir = (char *)dir,
				   .stop_signal = SIGTERM,
				   .stop_timeout_ns = timeout_ns};

	(void)snprintf(s.name, sizeof s.name, "%s", p->component->head.name);
	return s;
}

static int too_long(const struct inlay_buf *b, struct inlay_error *err)
{
	if (b->failed)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	return b->len > INLAY_MESSAGE_TEXT_MAX
		       ? inlay_error_set(err, -E2BIG, "a command with its variables is too long")
		       : 0;
}

/* Sends an order. 0: it went well, or nothing was to be done. */
static int do_step(struct step *s, struct message_order *order, uint64_t from, uint64_t to,
		   struct inlay_error *err)
{
	auto_buf struct inlay_buf body = {0};
	struct message_request m = {
		.verb = MESSAGE_VERB_HOOK, .flags = s->remember, .args = {from, to}};

	message_encode_order(&body, order);
	int r = too_long(&body, err);
	m.body = (struct message_text){(const char *)body.data, body.len};
	if (r == 0)
		r = ask(s->p, &m, hook_row, s, err);
	if (r == 0 && !s->ok)
		r = inlay_error_set(err, -ECHILD, "%s did not go well", s->name);
	return r;
}

static int run_command(struct step *s, const struct config_texts *command, const char *dir,
		       int64_t timeout_ns, const struct config_texts *patterns, const char *name,
		       uint64_t from, uint64_t to, struct inlay_error *err)
{
	auto_buf struct inlay_buf spec = {0};
	auto_buf struct inlay_buf lines = {0};
	struct inlay_run_spec run = spec_of(s->p, command, dir, timeout_ns);

	inlay_run_spec_encode(&run, &spec);
	join(patterns, &lines);
	struct message_order order = {.action = MESSAGE_ACTION_RUN,
				      .name = message_text_of(name),
				      .spec = {(const char *)spec.data, spec.len},
				      .patterns = {(const char *)lines.data, lines.len}};
	int r = too_long(&spec, err);
	return r < 0 ? r : do_step(s, &order, from, to, err);
}

static int run_hook(struct site *p, const char *step, const struct config_hook *hook, uint64_t from,
		    uint64_t to, bool *ret_done, struct inlay_error *err)
{
	struct step s = {.p = p, .name = step};
	char name[INLAY_RUN_NAME_MAX + 1];

	if (!hook->head.at)
		return 0;
	(void)snprintf(name, sizeof name, "%.40s.%.10s", p->component->head.name, step);
	int r = run_command(&s, &hook->run, hook->dir,
			    hook->timeout_ns ? hook->timeout_ns : build_timeout_ns, &hook->inputs,
			    name, from, to, err);
	*ret_done |= s.began;
	return r;
}

/* ---- the rounds ---- */

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
	const struct config_program *c = &p->component->run;
	auto_buf struct inlay_buf spec = {0};

	if (!c->head.at)
		return 0;
	bool own = c->command.count > 0;
	if (!own && p->image_command.count == 0)
		return inlay_error_set(err, -EINVAL,
				       "run has no command, and the image has none either");
	struct inlay_run_spec run = spec_of(
		p, own ? &c->command : &p->image_command, c->dir || own ? c->dir : p->image_dir,
		c->stop_timeout_ns ? c->stop_timeout_ns : stop_timeout_ns);
	run.wanted = true;
	if (c->restart)
		run.restart = (enum inlay_run_restart)(c->restart - 1);
	if (c->stop_signal) {
		int r = inlay_run_parse_signal(c->stop_signal, &run.stop_signal, err);
		if (r < 0)
			return r;
	}
	inlay_run_spec_encode(&run, &spec);
	int r = too_long(&spec, err);
	struct message_request m = {
		.verb = MESSAGE_VERB_RUN, .flags = 1, .body = {(const char *)spec.data, spec.len}};
	return r < 0 ? r : ask(p, &m, kept_row, ret_kept, err);
}

static int apply_rule(struct site *p, size_t i, uint64_t from, uint64_t to, uint8_t remember,
		      bool *ret_done, struct inlay_error *err)
{
	const struct config_reload *rule =
		(const struct config_reload *)p->component->reload.items + i;
	auto_buf struct inlay_buf lines = {0};
	char step[32], name[INLAY_RUN_NAME_MAX + 1];
	struct step s = {.p = p, .name = step, .remember = remember};
	int number = 0, r;

	(void)snprintf(step, sizeof step, "reload %zu", i + 1);
	(void)snprintf(name, sizeof name, "%.30s.reload%zu", p->component->head.name, i + 1);
	if (rule->run.count) {
		r = run_command(&s, &rule->run, NULL,
				rule->timeout_ns ? rule->timeout_ns : reload_timeout_ns,
				&rule->match, name, from, to, err);
	} else {
		join(&rule->match, &lines);
		struct message_order order = {.action = rule->signal ? MESSAGE_ACTION_SIGNAL
								     : MESSAGE_ACTION_RESTART,
					      .name = message_text_of(name),
					      .program = message_text_of(p->component->head.name),
					      .patterns = {(const char *)lines.data, lines.len}};
		r = rule->signal ? inlay_run_parse_signal(rule->signal, &number, err) : 0;
		order.signal = (uint8_t)number;
		if (r == 0)
			r = do_step(&s, &order, from, to, err);
	}
	*ret_done |= s.began;
	return r;
}

static int first_round(struct site *p, uint64_t to, struct inlay_error *err)
{
	bool done = false, kept = !p->component->run.head.at;
	int r = run_hook(p, "build", &p->component->build, MESSAGE_HOOK_SINCE_SUCCESS, to, &done,
			 err);

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
	int r = run_hook(p, "build", &p->component->build, MESSAGE_HOOK_SINCE_SUCCESS, to, &done,
			 err);

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
		if (r == 0 && !from)
			tell(p, (struct site_event){.kind = SITE_UP});
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

int site_build(struct site *p, struct inlay_error *err)
{
	struct config_hook hook = p->component->build;
	bool done = false;

	if (!hook.head.at)
		return 0;
	/* All of it counts as changed. */
	hook.inputs = (struct config_texts){0};
	int r = run_hook(p, "build", &hook, 0, p->shown, &done, err);
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
