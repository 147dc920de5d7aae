/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "inlay/text.h"
#include "session/session.h"
#include "watch/loop.h"

#define MS          INT64_C(1000000)
#define PLACE_EVERY (2000 * MS)
#define PAUSE_MIN   (500 * MS)
#define PAUSE_MAX   (10000 * MS)
#define SAVE_AFTER  (600000 * MS)

enum { ATTEMPTS_MAX = 6 };

/* ---- where the folder is ---- */

static bool is_there(const struct live *l)
{
	struct stat was, is;

	return fstat(l->source->root_fd, &was) == 0 && stat(l->source->path, &is) == 0 &&
	       was.st_dev == is.st_dev && was.st_ino == is.st_ino && S_ISDIR(is.st_mode);
}

void survey_place(struct live *l)
{
	bool away = !is_there(l);
	struct stat st;

	l->place_ns = inlay_monotonic_ns() + PLACE_EVERY;
	if (away == l->away)
		return;
	l->away = away;
	if (!away) {
		/* Events of the time in between went to nobody. */
		watcher_changes(l->watcher)->everything = true;
		l->why[0] = 0;
		live_note(l, "%s is back", l->source->path);
		return;
	}
	(void)snprintf(
		l->why, sizeof l->why,
		stat(l->source->path, &st) == 0
			? "%.300s is another folder than before (exit code 4). Nothing is "
			  "changed until the old one is back; 'inlay sync --force' accepts it"
			: "%.300s is gone: moved, removed or unmounted (exit code 4). Nothing "
			  "is changed until it is back",
		l->source->path);
	live_note(l, "halted: %s", l->why);
}

int survey_accept(struct live *l, struct inlay_error *err)
{
	if (!l->away)
		return 0;
	auto_close int fd = open(l->source->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct watcher *w;
	if (fd < 0)
		return inlay_error_sys(err, -errno, "the source %s", l->source->path);
	int r = watcher_new(&w, err);
	if (r < 0)
		return r;
	/* The number stays the same for the threads that read files by it. */
	if (dup3(fd, l->source->root_fd, O_CLOEXEC) < 0) {
		watcher_free(w);
		return inlay_error_sys(err, -errno, "take over %s", l->source->path);
	}
	watcher_free(l->watcher);
	l->watcher = w;
	l->source->scan.enter_ctx = w;
	l->source->accept = true;
	survey_place(l);
	return 0;
}

/* ---- files that change all the time ---- */

static void hold(struct live *l, const char *path)
{
	int64_t now = inlay_monotonic_ns();
	size_t i = 0;

	while (i < l->held_count && strcmp(l->held[i].path, path) != 0)
		i++;
	if (i == LIVE_HELD_MAX)
		return; /* the scan fails, and is tried again */
	struct live_held *h = &l->held[i];
	if (i == l->held_count) {
		*h = (struct live_held){.path = strdup(path)};
		if (!h->path)
			return;
		l->held_count++;
	}
	h->pause_ns = !h->pause_ns                  ? PAUSE_MIN
		      : h->pause_ns * 2 < PAUSE_MAX ? h->pause_ns * 2
						    : PAUSE_MAX;
	h->until_ns = now + h->pause_ns;
}

/* Those whose time has come are looked at. */
static void release(struct live *l, struct pathset *paths, int64_t now)
{
	for (size_t i = 0; i < l->held_count; i++)
		if (l->held[i].until_ns <= now)
			pathset_add(paths, l->held[i].path, strlen(l->held[i].path), "", 0);
}

void survey_unhold(struct live *l)
{
	for (size_t i = 0; i < l->held_count; i++)
		l->held[i].until_ns = 0;
}

/* Those that went through this time. */
static void forget_held(struct live *l, int64_t now)
{
	size_t to = 0;

	for (size_t i = 0; i < l->held_count; i++) {
		if (l->held[i].until_ns > now)
			l->held[to++] = l->held[i];
		else
			free(l->held[i].path);
	}
	l->held_count = to;
}

/* ---- one look ---- */

struct look {
	struct live *l;
	struct pathset paths; /* to be looked at */
	struct pathset gone;  /* could not be read any more */
	bool everything, torn, suspects;
	int64_t first_ns, now_ns;
};

static void skipped(void *ctx, const char *path, bool torn)
{
	struct look *k = ctx;

	if (torn) {
		hold(k->l, path);
		k->torn = true;
	}
	pathset_add(torn ? &k->paths : &k->gone, path, strlen(path), "", 0);
}

static int look_once(struct look *k, bool again, struct inlay_error *err)
{
	struct live *l = k->l;
	const char *held[LIVE_HELD_MAX];
	size_t held_count = 0;
	struct pathset *paths = again ? &k->gone : &k->paths;
	auto_free const char **list = pathset_list(paths);
	struct source_consumer c = {.skipped = skipped, .skipped_ctx = k};

	if (!list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < l->held_count; i++)
		if (l->held[i].until_ns > k->now_ns)
			held[held_count++] = l->held[i].path;
	l->source->scan.held = held;
	l->source->scan.held_count = held_count;
	l->source->scan.checksum = k->suspects;
	int r = source_update(l->source, k->everything && !again ? NULL : list, paths->count, again,
			      err);
	l->source->scan.held_count = 0;
	l->source->scan.checksum = false;
	k->torn = false;
	struct pathset gone = {0};
	if (again) {
		gone = k->gone;
		k->gone = (struct pathset){0};
	}
	free(take_ptr(list));
	pathset_fini(&gone);
	return r == 0 ? source_read(l->source, &c, err) : r;
}

/* Takes over what is to be looked at. */
static void begin(struct look *k)
{
	struct live *l = k->l;
	struct watch_changes *c = watcher_changes(l->watcher);

	k->everything = c->everything || l->seq == 0 || c->paths.failed;
	k->first_ns = c->first_ns;
	k->paths = c->paths;
	c->paths = (struct pathset){0};
	watcher_forget(l->watcher);
	k->now_ns = inlay_monotonic_ns();
	release(l, &k->paths, k->now_ns);
	scope_lock(&l->lock);
	k->suspects = l->suspects.count > 0;
	for (size_t i = 0; i < l->suspects.count; i++) {
		const char *path = pathset_get(&l->suspects, i);
		pathset_add(&k->paths, path, strlen(path), "", 0);
	}
	pathset_clear(&l->suspects);
}

/* What was to be looked at still is. */
static void put_back(struct look *k)
{
	struct watch_changes *c = watcher_changes(k->l->watcher);

	/* Directories that were polled and not entered would be forgotten otherwise. */
	c->everything = true;
	if (c->first_ns == 0 || (k->first_ns && k->first_ns < c->first_ns))
		c->first_ns = k->first_ns;
}

static void publish(struct live *l, const struct look *k, const struct inlay_root *root)
{
	if (l->seq > 0 && session_same_root(root, &l->root))
		return;
	l->root = *root;
	struct peer_goal goal = {.seq = ++l->seq,
				 .root = *root,
				 .changed_ns = l->seq > 1 ? k->first_ns : 0,
				 .paths = k->paths.count};
	for (size_t i = 0; i < l->peer_count; i++)
		peer_set_goal(l->peers[i], &goal);
	l->save_ns = inlay_monotonic_ns() + SAVE_AFTER;
}

static int look(struct look *k, struct inlay_root *ret, struct inlay_error *err)
{
	bool again = false;
	int r = SOURCE_AGAIN;

	for (int i = 0; i < ATTEMPTS_MAX && r == SOURCE_AGAIN; i++) {
		r = look_once(k, again, err);
		/* Without the torn ones all starts from the last whole state; what is gone is looked at in the
		 * one at hand. */
		again = !k->torn;
	}
	if (r == SOURCE_AGAIN)
		return inlay_error_set(err, -EBUSY, "%s changes all the time", k->l->source->path);
	return r == 0 ? source_build(k->l->source, ret, err) : r;
}

static void told_failure(struct live *l, const struct inlay_error *err)
{
	char why[sizeof l->why];

	(void)snprintf(why, sizeof why, "%.511s", err->text);
	l->pause_ns = !l->failed                    ? PAUSE_MIN
		      : l->pause_ns * 2 < PAUSE_MAX ? l->pause_ns * 2
						    : PAUSE_MAX;
	l->retry_ns = inlay_monotonic_ns() + l->pause_ns;
	if (!l->failed || strcmp(why, l->why) != 0)
		live_note(l, "%s; nothing is sent until that is cured", why);
	memcpy(l->why, why, sizeof why);
	l->failed = true;
}

static void tell_limits(struct live *l)
{
	size_t cold = watcher_cold_count(l->watcher), warm = watcher_count(l->watcher);
	uint64_t overflows = watcher_changes(l->watcher)->overflows;
	auto_buf struct inlay_buf pause = {0};

	if (overflows != l->overflows_told)
		live_note(l,
			  "more happened than the kernel's queue holds; everything was looked at "
			  "again");
	l->overflows_told = overflows;
	if (cold > l->cold_told) {
		int reason = watcher_cold_reason(l->watcher);
		uint64_t need = 1024;
		while (need < 2 * (cold + warm))
			need *= 2;
		inlay_text_duration(&pause, l->o->poll_ns);
		if (reason == ENOSPC)
			live_note(l,
				  "cannot watch %zu of %zu directories: the limit of this user is "
				  "reached; "
				  "they are polled every %s. Cure: sysctl "
				  "fs.inotify.max_user_watches=%llu",
				  cold, cold + warm, inlay_buf_cstr(&pause),
				  (unsigned long long)need);
		else
			live_note(l,
				  "cannot watch %zu of %zu directories (%s); they are polled every "
				  "%s",
				  cold, cold + warm, strerror(reason), inlay_buf_cstr(&pause));
	}
	l->cold_told = cold;
	l->cold_ns = cold ? inlay_monotonic_ns() + l->o->poll_ns : 0;
}

void survey(struct live *l)
{
	struct look k = {.l = l};
	struct inlay_error err = {0};
	struct inlay_root root;

	survey_place(l);
	if (l->away)
		return;
	begin(&k);
	int r = look(&k, &root, &err);
	/* It may have gone while it was looked at: then what was seen is not the folder. */
	survey_place(l);
	if (r < 0 || l->away) {
		put_back(&k);
		if (!l->away)
			told_failure(l, &err);
	} else {
		l->source->accept = false;
		if (l->failed)
			l->why[0] = 0;
		l->failed = false;
		forget_held(l, k.now_ns);
		if (watcher_changes(l->watcher)->left)
			watcher_tidy(l->watcher, l->source->built);
		publish(l, &k, &root);
		/* The one that was saved is of no use any more. */
		inlay_snapshot_unref(take_ptr(l->source->old));
		tell_limits(l);
	}
	pathset_fini(&k.paths);
	pathset_fini(&k.gone);
}

/* ---- when ---- */

bool survey_wanted(struct live *l)
{
	struct watch_changes *c = watcher_changes(l->watcher);
	int64_t now = inlay_monotonic_ns();

	if (l->away)
		return false;
	if (l->failed && now < l->retry_ns)
		return false;
	if (l->failed || l->seq == 0)
		return true;
	for (size_t i = 0; i < l->held_count; i++)
		if (l->held[i].until_ns <= now)
			return true;
	if (l->cold_ns && now >= l->cold_ns) {
		watcher_poll_cold(l->watcher);
		return true;
	}
	if (c->first_ns == 0) {
		scope_lock(&l->lock);
		return c->everything || l->suspects.count > 0;
	}
	return now >= c->last_ns + l->o->settle_ns || now >= c->first_ns + l->o->max_delay_ns;
}

static int64_t sooner(int64_t a, int64_t b)
{
	return a == 0 ? b : b == 0 ? a : a < b ? a : b;
}

int64_t survey_due(const struct live *l)
{
	struct watch_changes *c = watcher_changes(l->watcher);
	int64_t due = l->place_ns;

	if (l->away)
		return due;
	if (l->failed)
		return sooner(due, l->retry_ns);
	due = sooner(due, l->cold_ns);
	for (size_t i = 0; i < l->held_count; i++)
		due = sooner(due, l->held[i].until_ns);
	if (c->first_ns) {
		int64_t settle = c->last_ns + l->o->settle_ns,
			most = c->first_ns + l->o->max_delay_ns;
		due = sooner(due, settle < most ? settle : most);
	}
	return due;
}

void survey_fini(struct live *l)
{
	for (size_t i = 0; i < l->held_count; i++)
		free(l->held[i].path);
	l->held_count = 0;
}
