/* SPDX-License-Identifier: Apache-2.0 */
#include "watch/live.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "inlay/io.h"
#include "watch/loop.h"

#define MS INT64_C(1000000)

enum { FD_SIGNAL, FD_EVENTS, FD_WAKE, FD_CLOCK, FD_LISTEN, FD_CLIENTS };

void live_note(struct live *l, const char *fmt, ...)
{
	char text[2048];
	va_list args;

	va_start(args, fmt);
	if (vsnprintf(text, sizeof text, fmt, args) < 0)
		text[0] = 0;
	va_end(args);
	scope_lock(&l->reports);
	l->events->note(l->events->ctx, text);
}

/* ---- what peers tell, in their threads ---- */

static void ring(struct live *l)
{
	uint64_t one = 1;

	(void)!write(l->wake_fd, &one, sizeof one);
}

static void on_visible(void *ctx, const struct peer *p, const struct peer_goal *goal,
		       const struct push_result *result, int64_t edit_ns)
{
	struct live *l = ctx;

	scope_lock(&l->reports);
	l->events->visible(l->events->ctx, p, goal, result, edit_ns);
}

static void on_state(void *ctx, const struct peer *p, const struct peer_status *status)
{
	struct live *l = ctx;

	{
		scope_lock(&l->reports);
		l->events->state(l->events->ctx, p, status);
	}
	ring(l);
}

static void on_hook(void *ctx, const struct peer *p, const struct message_hook *m)
{
	struct live *l = ctx;

	scope_lock(&l->reports);
	l->events->hook(l->events->ctx, p, m);
}

static void on_moved_on(void *ctx, const char *path)
{
	struct live *l = ctx;

	(void)pthread_mutex_lock(&l->lock);
	pathset_add(&l->suspects, path, strlen(path), "", 0);
	(void)pthread_mutex_unlock(&l->lock);
	ring(l);
}

static int start_peers(struct live *l, struct inlay_error *err)
{
	int r = 0;

	l->peer_events = (struct peer_events){.visible = on_visible,
					      .state = on_state,
					      .hook = on_hook,
					      .moved_on = on_moved_on,
					      .ctx = l};
	l->peers = calloc(l->o->target_count + 1, sizeof(struct peer *));
	if (!l->peers)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (l->o->target_count > 1)
		r = share_init(&l->share, l->source, err);
	for (size_t i = 0; r == 0 && i < l->o->target_count; i++) {
		if (l->o->target_count > 1)
			l->o->targets[i].push.share = &l->share;
		r = peer_start(&l->peers[i], l->source, &l->o->targets[i], &l->peer_events, err);
		l->peer_count += r == 0;
	}
	return r;
}

static void stop_peers(struct live *l)
{
	if (l->share.source)
		share_stop(&l->share);
	for (size_t i = 0; i < l->peer_count; i++)
		peer_ask_stop(l->peers[i]);
	for (size_t i = 0; i < l->peer_count; i++)
		peer_stop(l->peers[i]);
	if (l->share.source)
		share_fini(&l->share);
	free(l->peers);
}

/* ---- time that jumps ---- */

/* A timer that fires when the clock is set, which a machine also does when it wakes up. */
static int watch_clock(int fd)
{
	struct itimerspec far = {.it_value.tv_sec = INT64_C(0x1ffffffff)};

	return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL);
}

static void wake_peers(struct live *l)
{
	for (size_t i = 0; i < l->peer_count; i++)
		peer_wake(l->peers[i]);
}

static void clock_jumped(struct live *l, int fd)
{
	uint64_t n;

	(void)!read(fd, &n, sizeof n);
	(void)watch_clock(fd);
	wake_peers(l);
}

/* ---- signals ---- */

static int open_signals(struct live *l, struct inlay_error *err)
{
	static const int heard[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT, 0};

	return inlay_signal_fd(heard, &l->signal_fd, err);
}

static void hear_signal(struct live *l)
{
	struct signalfd_siginfo info;

	while (read(l->signal_fd, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGCONT)
			wake_peers(l);
		else
			l->ending = true;
	}
}

/* ---- the loop ---- */

static int timeout_of(const struct live *l)
{
	int64_t due = survey_due(l), desk = desk_due(l);

	if (desk && desk < due)
		due = desk;
	if (l->save_ns && l->save_ns < due)
		due = l->save_ns;
	int64_t left = due - inlay_monotonic_ns();
	return left <= 0 ? 0 : (int)((left + MS - 1) / MS);
}

/* Waits more finely than poll's milliseconds: a settle time of 5 ms shall not become 6. */
static int wait_for(const struct live *l, struct pollfd *fds, size_t count)
{
	int64_t due = survey_due(l), left;
	int ms = timeout_of(l);

	if (ms > 20)
		return poll(fds, count, ms);
	left = due - inlay_monotonic_ns();
	left = left < 0 ? 0 : left > ms * MS ? ms * MS : left;
	struct timespec ts = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
	return ppoll(fds, count, &ts, NULL);
}

static int turn(struct live *l, int clock_fd, int64_t *busy_since, struct inlay_error *err)
{
	struct pollfd fds[FD_CLIENTS + LIVE_CLIENTS_MAX] = {
		[FD_SIGNAL] = {.fd = l->signal_fd, .events = POLLIN},
		[FD_EVENTS] = {.fd = watcher_fd(l->watcher), .events = POLLIN},
		[FD_WAKE] = {.fd = l->wake_fd, .events = POLLIN},
		[FD_CLOCK] = {.fd = clock_fd, .events = POLLIN},
		[FD_LISTEN] = {.fd = l->listen_fd, .events = POLLIN},
	};
	size_t clients = l->client_count;
	uint64_t count;
	int r = 0;

	for (size_t i = 0; i < clients; i++)
		fds[FD_CLIENTS + i] = (struct pollfd){.fd = l->clients[i].fd, .events = POLLIN};
	int64_t before = inlay_monotonic_ns();
	if (wait_for(l, fds, FD_CLIENTS + clients) < 0 && errno != EINTR)
		return inlay_error_sys(err, -errno, "wait for events");
	int64_t now = inlay_monotonic_ns();
	if (fds[FD_SIGNAL].revents)
		hear_signal(l);
	if (fds[FD_WAKE].revents)
		(void)!read(l->wake_fd, &count, sizeof count);
	if (fds[FD_CLOCK].revents)
		clock_jumped(l, clock_fd);
	/* What was in the queue when we came back to it may be as old as our absence. */
	if (fds[FD_EVENTS].revents)
		r = watcher_read(l->watcher, now - before < MS / 20 ? *busy_since : now, err);
	if (fds[FD_LISTEN].revents)
		desk_accept(l);
	for (size_t i = clients; i-- > 0;)
		if (fds[FD_CLIENTS + i].revents)
			desk_hear(l, i);
	*busy_since = inlay_monotonic_ns();
	if (r == 0 && survey_wanted(l))
		survey(l);
	else if (r == 0 && inlay_monotonic_ns() >= l->place_ns)
		survey_place(l);
	desk_answer(l);
	return r;
}

static void save(struct live *l)
{
	struct inlay_error err = {0};

	l->save_ns = 0;
	if (source_save(l->source, &err) < 0)
		live_note(l, "the stat cache was not saved: %s", err.text);
}

static int loop(struct live *l, struct inlay_error *err)
{
	auto_close int clock_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	int64_t busy_since = inlay_monotonic_ns();
	int r = 0;

	if (clock_fd < 0 || watch_clock(clock_fd) < 0)
		return inlay_error_sys(err, -errno, "watch the clock");
	survey(l);
	if (l->seq > 0)
		save(l);
	/* What the first scan needed is not needed again. */
	inlay_give_memory_back();
	while (r == 0 && !l->ending) {
		r = turn(l, clock_fd, &busy_since, err);
		if (l->save_ns && inlay_monotonic_ns() >= l->save_ns)
			save(l);
	}
	return r;
}

int live_run(struct source *source, const struct live_options *o, const struct live_events *events,
	     struct inlay_error *err)
{
	auto_free struct live *l = calloc(1, sizeof *l);

	if (!l)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*l = (struct live){.source = source,
			   .o = o,
			   .events = events,
			   .started_ns = inlay_now_ns(),
			   .listen_fd = -1,
			   .signal_fd = -1,
			   .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	(void)pthread_mutex_init(&l->lock, NULL);
	(void)pthread_mutex_init(&l->reports, NULL);
	int r = open_signals(l, err);
	if (r == 0)
		r = watcher_new(&l->watcher, err);
	if (r == 0) {
		source->scan.enter = watcher_enter;
		source->scan.enter_ctx = l->watcher;
		source->accept = o->force;
		r = desk_open(l, err);
	}
	if (r == 0)
		r = start_peers(l, err);
	if (r == 0)
		r = loop(l, err);
	stop_peers(l);
	if (l->seq > 0 && (l->save_ns || r < 0))
		save(l);
	desk_close(l);
	source->scan.enter = NULL;
	survey_fini(l);
	watcher_free(l->watcher);
	pathset_fini(&l->suspects);
	(void)pthread_mutex_destroy(&l->lock);
	(void)pthread_mutex_destroy(&l->reports);
	inlay_cleanup_close(&l->wake_fd);
	inlay_cleanup_close(&l->signal_fd);
	return r;
}
