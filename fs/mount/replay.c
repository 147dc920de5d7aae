/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "mount/view_private.h"
#include "mount/worker.h"

enum {
	BATCH = 64,       /* entries for the helper at a time */
	FAILURES_MAX = 3, /* helpers in a row that came to nothing; then a pause */
	LOOK_SHARE = 10,  /* of the time at most one part in so many is spent looking into /proc */
	NAMES_WAIT_MS =
		20 /* a switch waits that long for the helper, then tells the kernel itself */
};

static const int64_t look_gap_max_ns = 1000000000;
static const int64_t pause_ns = 2ll * 1000000000;

/* ---- a batch ---- */

/* What the helper is to do for one entry, copied out of the list. */
struct order {
	enum helper_verb verbs[3];
	struct listed_dir *dir, *dir_to; /* references */
	char name[2 * INLAY_NAME_MAX + 2];
	size_t len;
	int64_t mtime_ns;
};

static enum helper_verb making(uint32_t mode)
{
	return S_ISDIR(mode)   ? HELPER_MAKE_DIR
	       : S_ISLNK(mode) ? HELPER_MAKE_LINK
			       : HELPER_MAKE_FILE;
}

static void write_order(const struct listed *e, struct order *o)
{
	unsigned n = 0;

	*o = (struct order){.dir = e->at.path, .mtime_ns = e->mtime_ns};
	o->dir->refs++;
	memcpy(o->name, e->at.name, (size_t)e->at.len + 1);
	o->len = e->at.len;
	switch (e->kind) {
	case LISTED_MOVED:
		o->verbs[0] = HELPER_MOVE;
		o->dir_to = e->to.path;
		o->dir_to->refs++;
		memcpy(o->name + o->len + 1, e->to.name, (size_t)e->to.len + 1);
		o->len += 1u + e->to.len;
		break;
	case LISTED_TOUCHED:
		o->verbs[0] = e->close_only && e->empty ? HELPER_CLOSE
			      : e->attrs                ? HELPER_ATTRS
							: HELPER_MODIFY;
		break;
	case LISTED_NEW:
	case LISTED_GONE:
	case LISTED_REPLACED:
		if (e->at.old)
			o->verbs[n++] = S_ISDIR(e->at.was.mode) ? HELPER_RMDIR : HELPER_UNLINK;
		if (e->make)
			o->verbs[n++] = making(e->mode);
		/* At once, as who makes a file writes it at once: a watcher that looks at the new name in
		 * between would take the rest for a second change. */
		if (e->make && S_ISREG(e->mode))
			o->verbs[n] = e->empty ? HELPER_CLOSE : HELPER_MODIFY;
		break;
	}
}

static size_t take_orders(struct view *v, struct order orders[static BATCH])
{
	struct listed_list *l = &v->listed;
	size_t n = 0;

	scope_wrlock(&v->lock);
	/* Names first: somebody waits for what the kernel knows of them. */
	struct listed_queue *from = !TAILQ_EMPTY(&l->names) ? &l->names : &l->touches;
	for (struct listed *e; n < BATCH && (e = TAILQ_FIRST(from));) {
		listed_requeue(e, &l->running);
		write_order(e, &orders[n++]);
	}
	return n;
}

static int give_orders(struct replay *p, const struct order *orders, size_t count)
{
	const struct listed_dir *dir = NULL, *dir_to = NULL;
	int r = replay_say_open(p);

	for (size_t i = 0; r == 0 && i < count; i++) {
		const struct order *o = &orders[i];
		if (o->dir != dir)
			r = replay_say_text(p, HELPER_DIR, o->dir->path);
		dir = o->dir;
		if (r == 0 && o->dir_to && o->dir_to != dir_to)
			r = replay_say_text(p, HELPER_DIR_TO, o->dir_to->path);
		dir_to = o->dir_to ? o->dir_to : dir_to;
		for (unsigned k = 0; r == 0 && k < 3 && o->verbs[k]; k++)
			r = replay_say(p, o->verbs[k], o->mtime_ns, o->name, o->len + 1);
	}
	return r;
}

static void end_orders(struct view *v, struct order *orders, size_t count)
{
	scope_wrlock(&v->lock);
	for (size_t i = 0; i < count; i++) {
		listed_dir_unref(orders[i].dir);
		listed_dir_unref(orders[i].dir_to);
	}
}

/* ---- names that the kernel is told of, because the helper does not ---- */

struct told {
	uint64_t dir;
	uint8_t len;
	char name[INLAY_NAME_MAX + 1];
};

struct told_list {
	struct told *names;
	size_t count, cap;
};

/* Without memory the name stays as the kernel knows it until its directory changes again: nothing better is
 * left to do. */
static void add_told(struct told_list *t, const struct listed_name *n)
{
	if (!n->name || !n->hashed)
		return;
	if (t->count == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		struct told *more = reallocarray(t->names, cap, sizeof *more);
		if (!more)
			return;
		t->names = more;
		t->cap = cap;
	}
	struct told *told = &t->names[t->count++];
	told->dir = n->dir;
	told->len = n->len;
	memcpy(told->name, n->name, (size_t)n->len + 1);
}

static void tell(struct worker *w, struct told_list *t)
{
	for (size_t i = 0; i < t->count; i++)
		(void)fuse_lowlevel_notify_inval_entry(w->session, t->names[i].dir,
						       t->names[i].name, t->names[i].len);
	worker_count(&w->stats.notes, t->count);
	free(t->names);
	*t = (struct told_list){0};
}

/* What the helper left undone: told to the kernel; once more, then without events. */
static void settle_running(struct replay *p, bool helper_lives)
{
	struct view *v = p->worker->view;
	struct listed_list *l = &v->listed;
	struct told_list told = {0};
	{
		scope_wrlock(&v->lock);
		for (struct listed *e; (e = TAILQ_FIRST(&l->running));) {
			if (e->kind == LISTED_TOUCHED && helper_lives) {
				worker_count(&p->worker->replay_stats.raised, 1);
				listed_drop(v, e);
				continue;
			}
			add_told(&told, &e->at);
			add_told(&told, &e->to);
			if (e->failed) {
				worker_count(&p->worker->replay_stats.missed, 1);
				listed_drop(v, e);
			} else {
				e->failed = true;
				listed_requeue(e,
					       e->kind == LISTED_TOUCHED ? &l->touches : &l->names);
			}
		}
	}
	tell(p->worker, &told);
}

/* Ends the whole list without events. */
static void close_list(struct replay *p)
{
	struct view *v = p->worker->view;
	struct listed_list *l = &v->listed;
	struct listed_queue *queues[] = {&l->running, &l->names, &l->touches, &l->waiting};
	struct told_list told = {0};
	{
		scope_wrlock(&v->lock);
		for (size_t i = 0; i < sizeof queues / sizeof *queues; i++)
			for (struct listed *e; (e = TAILQ_FIRST(queues[i]));) {
				add_told(&told, &e->at);
				add_told(&told, &e->to);
				worker_count(&p->worker->replay_stats.missed, 1);
				listed_drop(v, e);
			}
	}
	tell(p->worker, &told);
}

/* Tells the kernel the names of switches up to seq that are not raised yet; they stay listed. */
static void tell_unraised(struct replay *p, uint64_t seq)
{
	struct view *v = p->worker->view;
	struct listed_queue *queues[] = {&v->listed.running, &v->listed.names};
	struct told_list told = {0};
	{
		scope_rdlock(&v->lock);
		for (size_t i = 0; i < 2; i++) {
			struct listed *e;
			TAILQ_FOREACH(e, queues[i], link)
			{
				if (e->seq > seq)
					continue;
				add_told(&told, &e->at);
				add_told(&told, &e->to);
			}
		}
	}
	tell(p->worker, &told);
}

/* ---- who watches ---- */

static bool entry_watched(const struct view *v, const struct listed *e)
{
	const uint64_t numbers[] = {e->at.dir, e->to.dir, e->at.was.number, e->to.was.number,
				    e->node};

	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (numbers[i] && listed_watched(v, numbers[i]))
			return true;
	return false;
}

/* What waited and is watched is raised now; of the rest the truth may be remembered again. */
static void use_watched(struct replay *p, uint64_t *numbers, size_t count, uint64_t seq)
{
	struct view *v = p->worker->view;
	struct listed_list *l = &v->listed;

	scope_wrlock(&v->lock);
	free(l->watched);
	l->watched = numbers;
	l->watched_count = count;
	for (struct listed *e = TAILQ_FIRST(&l->waiting), *next; e; e = next) {
		next = TAILQ_NEXT(e, link);
		if (entry_watched(v, e))
			listed_requeue(e, e->kind == LISTED_TOUCHED ? &l->touches : &l->names);
		else if (e->seq <= seq)
			listed_drop(v, e);
	}
}

static int look(struct replay *p)
{
	struct view *v = p->worker->view;
	auto_close int fd = -1;
	struct helper_msg done;
	uint64_t seq;
	{
		/* A later change may be watched by somebody who came during the look. */
		scope_rdlock(&v->lock);
		seq = v->listed.seq;
	}
	int r = replay_say_open(p);
	if (r == 0)
		r = replay_say_text(p, HELPER_WATCHED, "");
	if (r == 0)
		r = replay_wait_done(p, &done, &fd);
	if (r < 0)
		return r;
	size_t n = 0, len = done.count * sizeof(uint64_t);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size != len)
		return -EPIPE;
	uint64_t *numbers = malloc(len + 1);
	if (!numbers)
		return -ENOMEM;
	r = inlay_pread_full(fd, numbers, len, 0, &n, "watches", NULL);
	if (r < 0 || n != len) {
		free(numbers);
		return -EPIPE;
	}
	use_watched(p, numbers, done.count, seq);
	struct replay_stats *stats = &p->worker->replay_stats;
	(void)__atomic_add_fetch(&stats->looks, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&stats->look_ns, done.took_ns, __ATOMIC_RELAXED);
	__atomic_store_n(&stats->watched, done.count, __ATOMIC_RELAXED);
	p->looked_at_ns = inlay_monotonic_ns();
	p->stale = false;
	int64_t gap = (int64_t)done.took_ns * (LOOK_SHARE - 1);
	p->look_at_ns = p->looked_at_ns + (gap < look_gap_max_ns ? gap : look_gap_max_ns);
	return 0;
}

/* ---- the thread ---- */

enum todo { NOTHING, RAISE, LOOK };

static enum todo find_todo(struct replay *p)
{
	struct view *v = p->worker->view;
	const struct listed_list *l = &v->listed;

	scope_rdlock(&v->lock);
	if (!TAILQ_EMPTY(&l->names) || !TAILQ_EMPTY(&l->touches))
		return RAISE;
	return TAILQ_EMPTY(&l->waiting) ? NOTHING : LOOK;
}

/* The last switch of which nothing is left in the queues. */
static uint64_t done_up_to(struct view *v, bool names_only)
{
	const struct listed_list *l = &v->listed;
	const struct listed_queue *queues[] = {&l->names, &l->running, &l->touches, &l->waiting};
	uint64_t seq = UINT64_MAX;

	scope_rdlock(&v->lock);
	for (size_t i = 0; i < (names_only ? 2u : 4u); i++) {
		const struct listed *e;
		TAILQ_FOREACH(e, queues[i], link)
		{
			if (names_only && e->kind == LISTED_TOUCHED)
				continue;
			if (e->seq - 1 < seq)
				seq = e->seq - 1;
		}
	}
	return seq;
}

/* Tells who waits how far it is. */
static void tell_progress(struct replay *p)
{
	uint64_t named = done_up_to(p->worker->view, true);
	uint64_t all = done_up_to(p->worker->view, false);
	uint64_t number = 0;
	{
		scope_lock(&p->lock);
		p->named = named < p->switched ? named : p->switched;
		if (p->shown_seq > p->told_seq && all >= p->shown_seq) {
			p->told_seq = p->shown_seq;
			number = p->shown_number;
		}
		(void)pthread_cond_broadcast(&p->cond);
	}
	if (!number)
		return;
	__atomic_store_n(&p->worker->replay_stats.replayed, number, __ATOMIC_RELAXED);
	worker_tell_replayed(p->worker, number);
}

static int raise_batch(struct replay *p)
{
	struct order orders[BATCH];
	struct helper_msg done;
	auto_close int fd = -1;
	size_t n = take_orders(p->worker->view, orders);

	int r = give_orders(p, orders, n);
	end_orders(p->worker->view, orders, n);
	if (r == 0)
		r = replay_wait_done(p, &done, &fd);
	settle_running(p, r == 0);
	p->stale = true;
	return r;
}

/* One step; how long to sleep when there is nothing to do, in ns, -1 = until woken. */
static int64_t step(struct replay *p)
{
	enum todo todo = find_todo(p);
	int64_t now = inlay_monotonic_ns();
	int r;

	/* What was seen is looked at again now and then while there are events to raise. */
	if (todo == NOTHING && p->stale && now - p->looked_at_ns > look_gap_max_ns &&
	    p->failures == 0)
		todo = LOOK;
	if (todo == NOTHING)
		return -1;
	if (p->failures >= FAILURES_MAX && now < p->look_at_ns) {
		close_list(p);
		return 0;
	}
	if (todo == LOOK && now < p->look_at_ns)
		return p->look_at_ns - now;
	r = replay_start_helper(p, NULL);
	if (r == 0)
		r = todo == RAISE ? raise_batch(p) : look(p);
	if (r == 0) {
		p->failures = 0;
		return 0;
	}
	replay_end_helper(p);
	if (++p->failures >= FAILURES_MAX) {
		p->look_at_ns = now + pause_ns;
		close_list(p);
	}
	return 0;
}

static void *run(void *arg)
{
	struct replay *p = arg;

	for (;;) {
		uint64_t switched, shown;
		{
			scope_lock(&p->lock);
			switched = p->switched;
			shown = p->shown_seq;
		}
		int64_t pause = step(p);
		tell_progress(p);
		if (pause == 0)
			continue;
		struct timespec until;
		(void)clock_gettime(CLOCK_MONOTONIC, &until);
		if (pause > 0) {
			int64_t ns = until.tv_nsec + pause % 1000000000;
			until.tv_sec += pause / 1000000000 + ns / 1000000000;
			until.tv_nsec = ns % 1000000000;
		}
		scope_lock(&p->lock);
		int r = 0;
		while (p->switched == switched && p->shown_seq == shown && r == 0)
			r = pause < 0 ? pthread_cond_wait(&p->cond, &p->lock)
				      : pthread_cond_timedwait(&p->cond, &p->lock, &until);
	}
	return NULL;
}

int replay_start(struct replay *p, struct worker *w, const char *point, struct inlay_error *err)
{
	pthread_condattr_t attr;
	pthread_t thread;

	p->worker = w;
	p->point = point;
	p->sock = -1;
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_mutex_init(&p->greeting, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&p->cond, &attr);
	(void)pthread_condattr_destroy(&attr);
	int r = pthread_create(&thread, NULL, run, p);
	return r ? inlay_error_sys(err, -r, "start a thread") : 0;
}

void replay_switched(struct replay *p, const struct view_notes *notes)
{
	struct timespec until;
	bool named;

	if (notes->listed == 0)
		return;
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t ns = until.tv_nsec + NAMES_WAIT_MS * 1000000ll;
	until.tv_sec += ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	{
		scope_lock(&p->lock);
		p->switched = notes->seq;
		(void)pthread_cond_broadcast(&p->cond);
		int r = 0;
		while (notes->unnoted > 0 && p->named < notes->seq && r == 0)
			r = pthread_cond_timedwait(&p->cond, &p->lock, &until);
		named = notes->unnoted == 0 || p->named >= notes->seq;
	}
	if (!named)
		tell_unraised(p, notes->seq);
}

void replay_shown(struct replay *p, const struct view_notes *notes, uint64_t number)
{
	scope_lock(&p->lock);
	p->switched = p->shown_seq = notes->seq;
	p->shown_number = number;
	(void)pthread_cond_broadcast(&p->cond);
}

void replay_get_stats(struct replay *p, struct replay_stats *ret)
{
	struct view *v = p->worker->view;
	struct replay_stats *now = &p->worker->replay_stats;

	*ret = (struct replay_stats){.raised = __atomic_load_n(&now->raised, __ATOMIC_RELAXED),
				     .missed = __atomic_load_n(&now->missed, __ATOMIC_RELAXED),
				     .watched = __atomic_load_n(&now->watched, __ATOMIC_RELAXED),
				     .looks = __atomic_load_n(&now->looks, __ATOMIC_RELAXED),
				     .look_ns = __atomic_load_n(&now->look_ns, __ATOMIC_RELAXED),
				     .replayed = __atomic_load_n(&now->replayed, __ATOMIC_RELAXED)};
	scope_rdlock(&v->lock);
	ret->waiting = v->listed.count;
	ret->missed += v->listed.skipped;
}
