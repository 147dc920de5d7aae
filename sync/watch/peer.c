/* SPDX-License-Identifier: Apache-2.0 */
#include "watch/peer.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/timerfd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "session/session.h"

#define MS          INT64_C(1000000)
#define BACKOFF_MIN (250 * MS)
#define BACKOFF_MAX (30000 * MS)
#define CHANGE_RETRY \
	(1000 * MS) /* changes of the folder bring an attempt forward to this after the last */
#define MOVED_ON_RETRY (1000 * MS)
#define STOP_GRACE_S   2 /* for a change set that is on its way when the watch ends */

struct peer {
	struct source *source;
	struct peer_options o;
	const struct peer_events *events;
	struct session session;
	int wake_fd;
	int stop_fd; /* a timer: what is on its way may be finished, what hangs is left */
	pthread_t thread;
	pthread_mutex_t lock; /* everything below; not held over a call of events */
	bool ending, force, steal, woken;
	struct peer_goal goal;
	int64_t changed_ns; /* the first event that the target does not show yet; 0 = none */
	struct peer_status status;
	int64_t samples[PEER_SAMPLES];
};

/* ---- from outside ---- */

static void ring(struct peer *p)
{
	uint64_t one = 1;

	(void)!write(p->wake_fd, &one, sizeof one);
}

const char *peer_target(const struct peer *p)
{
	return p->session.target_text;
}

void peer_set_goal(struct peer *p, const struct peer_goal *goal)
{
	(void)pthread_mutex_lock(&p->lock);
	p->goal = *goal;
	if (p->changed_ns == 0)
		p->changed_ns = goal->changed_ns;
	p->status.goal_seq = goal->seq;
	(void)pthread_mutex_unlock(&p->lock);
	ring(p);
}

void peer_force(struct peer *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->force = true;
	(void)pthread_mutex_unlock(&p->lock);
	ring(p);
}

void peer_steal(struct peer *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->steal = true;
	(void)pthread_mutex_unlock(&p->lock);
	ring(p);
}

void peer_wake(struct peer *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->woken = true;
	(void)pthread_mutex_unlock(&p->lock);
	ring(p);
}

void peer_ask_stop(struct peer *p)
{
	const struct itimerspec grace = {.it_value.tv_sec = STOP_GRACE_S};

	(void)pthread_mutex_lock(&p->lock);
	bool first = !p->ending;
	p->ending = true;
	(void)pthread_mutex_unlock(&p->lock);
	if (first)
		(void)timerfd_settime(p->stop_fd, 0, &grace, NULL);
	ring(p);
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

void peer_get_status(struct peer *p, struct peer_status *ret)
{
	int64_t sorted[PEER_SAMPLES];

	(void)pthread_mutex_lock(&p->lock);
	*ret = p->status;
	ret->force_pending = p->force || p->steal;
	memcpy(sorted, p->samples, sizeof sorted);
	(void)pthread_mutex_unlock(&p->lock);
	size_t n = ret->samples < PEER_SAMPLES ? ret->samples : PEER_SAMPLES;
	if (n == 0)
		return;
	qsort(sorted, n, sizeof *sorted, by_value);
	ret->visible_p50_ns = sorted[(n - 1) / 2];
	ret->visible_p95_ns = sorted[(n * 95 + 99) / 100 - 1];
}

/* ---- reports ---- */

static void set_state(struct peer *p, enum peer_state state, const struct inlay_error *why)
{
	struct peer_status told;

	(void)pthread_mutex_lock(&p->lock);
	struct peer_status *s = &p->status;
	const char *text = why ? why->text : "";
	bool same = s->state == state && strncmp(s->why, text, sizeof s->why - 1) == 0;
	if (s->state != state)
		s->since_ns = inlay_now_ns();
	s->state = state;
	s->exit_code = why ? inlay_error_exit(why) : 0;
	(void)snprintf(s->why, sizeof s->why, "%.511s", text);
	told = *s;
	(void)pthread_mutex_unlock(&p->lock);
	if (same)
		return;
	p->events->state(p->events->ctx, p, &told);
}

static void count_result(struct peer *p, const struct push_result *r)
{
	p->status.sent_bytes += r->sent_bytes;
	p->status.received_bytes += r->received_bytes;
	codecs_add(&p->status.codecs, &r->codecs);
}

static void shown(struct peer *p, const struct peer_goal *goal, const struct push_result *r,
		  int64_t changed_ns)
{
	int64_t now = inlay_monotonic_ns(), edit_ns = changed_ns ? now - changed_ns : 0;

	(void)pthread_mutex_lock(&p->lock);
	struct peer_status *s = &p->status;
	p->force = p->steal = false;
	s->tried_seq = goal->seq;
	count_result(p, r);
	s->seq = goal->seq;
	s->generation = r->generation;
	s->root = r->root;
	s->mounted = r->mounted;
	if (r->changed) {
		s->change_sets++;
		s->last_ns = inlay_now_ns();
		if (edit_ns)
			p->samples[s->samples++ % PEER_SAMPLES] = edit_ns;
	}
	(void)pthread_mutex_unlock(&p->lock);
	if (r->changed || goal->seq == 1) {
		p->events->visible(p->events->ctx, p, goal, r, r->changed ? edit_ns : 0);
	}
}

/* ---- the thread ---- */

/* What the thread alone knows. */
struct course {
	uint64_t done, halted, tried; /* numbers of goals */
	int64_t retry_ns, last_try_ns, backoff;
	bool forced;
	bool robbed; /* nothing is done until the target is stolen back */
};

static int64_t jitter(int64_t ns)
{
	uint16_t r = 0;

	(void)!getrandom(&r, sizeof r, 0);
	return ns - ns / 4 + (int64_t)((uint64_t)ns / 2 * r / 65536);
}

/* Another client took the target with --steal: it is his, whatever happens here. */
static bool was_robbed(struct peer *p, struct course *c, const struct inlay_error *err)
{
	if (!session_robbed(&p->session))
		return false;
	c->robbed = true;
	session_hang_up(&p->session, true);
	set_state(p, PEER_HALTED, err);
	return true;
}

static void lost(struct peer *p, struct course *c, const struct inlay_error *err)
{
	if (was_robbed(p, c, err))
		return;
	session_hang_up(&p->session, true);
	c->retry_ns = inlay_monotonic_ns() + (c->backoff ? jitter(c->backoff) : 0);
	c->backoff = !c->backoff                    ? BACKOFF_MIN
		     : c->backoff * 2 < BACKOFF_MAX ? c->backoff * 2
						    : BACKOFF_MAX;
	set_state(p, p->status.connections ? PEER_RECONNECTING : PEER_CONNECTING, err);
}

static void attempt(struct peer *p, struct course *c, const struct peer_goal *goal)
{
	struct push_result result;
	struct inlay_error err = {0};
	bool was_live = p->session.live;

	(void)pthread_mutex_lock(&p->lock);
	int64_t changed_ns = p->changed_ns;
	p->changed_ns = 0;
	c->forced |= p->force;
	p->o.push.steal |= p->steal;
	c->robbed = false;
	(void)pthread_mutex_unlock(&p->lock);
	p->o.push.force = c->forced;
	c->tried = goal->seq;
	c->last_try_ns = inlay_monotonic_ns();
	if (was_live)
		set_state(p, PEER_SYNCING, NULL);
	int r = session_push(&p->session, &goal->root, false, &result, &err);
	if (r == 0) {
		if (!was_live) {
			(void)pthread_mutex_lock(&p->lock);
			p->status.connections++;
			(void)pthread_mutex_unlock(&p->lock);
		}
		c->done = goal->seq;
		c->backoff = c->halted = 0;
		c->forced = p->o.push.steal = false;
		shown(p, goal, &result, changed_ns);
		set_state(p, PEER_WATCHING, NULL);
		return;
	}
	(void)pthread_mutex_lock(&p->lock);
	p->force = p->steal = false;
	count_result(p, &result);
	p->status.tried_seq = goal->seq;
	if (changed_ns && (p->changed_ns == 0 || changed_ns < p->changed_ns))
		p->changed_ns = changed_ns;
	bool ending = p->ending;
	(void)pthread_mutex_unlock(&p->lock);
	if (ending)
		return;
	if (r == SESSION_LATER) {
		c->retry_ns = inlay_monotonic_ns() + MOVED_ON_RETRY;
		p->events->moved_on(p->events->ctx, inlay_buf_cstr(&p->session.moved_path));
	} else if (inlay_error_exit(&err) == INLAY_EXIT_HALT) {
		c->halted = goal->seq;
		c->forced = false;
		set_state(p, PEER_HALTED, &err);
	} else {
		lost(p, c, &err);
	}
}

/* When the goal is to be pushed: now (0), at a time, or not before something happens (INT64_MAX). */
static int64_t due(struct peer *p, const struct course *c, const struct peer_goal *goal, bool force)
{
	if (c->robbed)
		return INT64_MAX;
	if (goal->seq == 0 || (goal->seq == c->done && p->session.live))
		return INT64_MAX;
	if (c->halted == goal->seq)
		return force ? 0 : INT64_MAX;
	if (goal->seq == c->tried)
		return c->retry_ns;
	/* A newer state than the one that failed. */
	int64_t soon = p->session.live ? 0 : c->last_try_ns + CHANGE_RETRY;
	return c->last_try_ns == 0 ? 0 : soon < c->retry_ns ? soon : c->retry_ns;
}

static void drain(struct peer *p)
{
	uint64_t n;

	(void)!read(p->wake_fd, &n, sizeof n);
}

static void rest(struct peer *p, struct course *c, int64_t until)
{
	struct inlay_error err = {0};
	int64_t deadline = until == INT64_MAX ? 0 : until;

	if (!p->session.live) {
		struct pollfd fd = {.fd = p->wake_fd, .events = POLLIN};
		int64_t left = deadline ? deadline - inlay_monotonic_ns() : 0;
		int ms = !deadline ? -1 : left <= 0 ? 0 : (int)(left / MS + 1);
		(void)poll(&fd, 1, ms);
		drain(p);
		return;
	}
	int r = session_wait(&p->session, p->wake_fd, deadline, &err);
	if (r == SESSION_WOKEN)
		drain(p);
	if (r == SESSION_DURABLE)
		r = session_save(&p->session, &err);
	if (r < 0) {
		lost(p, c, &err);
		return;
	}
	(void)pthread_mutex_lock(&p->lock);
	p->status.durable = p->session.opened.durable;
	(void)pthread_mutex_unlock(&p->lock);
}

static void *run(void *arg)
{
	struct peer *p = arg;
	struct course c = {0};

	set_state(p, PEER_CONNECTING, NULL);
	for (;;) {
		(void)pthread_mutex_lock(&p->lock);
		struct peer_goal goal = p->goal;
		bool ending = p->ending, force = p->force, woken = p->woken;
		p->woken = false;
		c.robbed &= !p->steal;
		if (c.robbed)
			p->status.tried_seq = goal.seq;
		(void)pthread_mutex_unlock(&p->lock);
		if (ending)
			break;
		if (woken) {
			session_doubt(&p->session);
			c.retry_ns = c.backoff = 0;
		}
		int64_t at = due(p, &c, &goal, force);
		if (at <= inlay_monotonic_ns())
			attempt(p, &c, &goal);
		else
			rest(p, &c, at);
	}
	if (p->session.live && p->session.opened.durable >= p->session.generation)
		(void)!session_save(&p->session, NULL);
	session_close(&p->session);
	return NULL;
}

static void on_hook(void *ctx, const struct message_hook *m)
{
	struct peer *p = ctx;

	p->events->hook(p->events->ctx, p, m);
}

static int start_thread(struct peer *p, struct inlay_error *err)
{
	sigset_t all, old;

	/* Signals belong to the main thread. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(&p->thread, NULL, run, p);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r ? inlay_error_sys(err, -r, "start a thread") : 0;
}

int peer_start(struct peer **ret, struct source *source, const struct peer_options *o,
	       const struct peer_events *events, struct inlay_error *err)
{
	struct peer *p = calloc(1, sizeof *p);

	if (!p)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*p = (struct peer){.source = source, .o = *o, .events = events};
	p->o.push.hook = on_hook;
	p->o.push.ctx = p;
	(void)pthread_mutex_init(&p->lock, NULL);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->stop_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int r = p->wake_fd < 0 || p->stop_fd < 0 ? inlay_error_sys(err, -errno, "make an eventfd")
						 : 0;
	p->o.transport.stop_fd = p->stop_fd;
	if (r == 0)
		r = session_init(&p->session, source, o->target, &p->o.transport, o->bwlimit,
				 &p->o.push, err);
	p->force = o->push.force;
	if (r == 0)
		r = start_thread(p, err);
	if (r < 0) {
		inlay_cleanup_close(&p->wake_fd);
		inlay_cleanup_close(&p->stop_fd);
		(void)pthread_mutex_destroy(&p->lock);
		free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void peer_stop(struct peer *p)
{
	if (!p)
		return;
	peer_ask_stop(p);
	(void)pthread_join(p->thread, NULL);
	inlay_cleanup_close(&p->wake_fd);
	inlay_cleanup_close(&p->stop_fd);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}
