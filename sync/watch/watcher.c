/* SPDX-License-Identifier: Apache-2.0 */
#include "watch/watcher.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "inlay/io.h"

enum {
	/* IN_MODIFY for files that are kept open while they are written; IN_CLOSE_WRITE for the end of a save. */
	EVENTS = IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM |
		 IN_MOVED_TO | IN_ONLYDIR | IN_EXCL_UNLINK,
	ROOT_EVENTS = EVENTS | IN_DELETE_SELF | IN_MOVE_SELF,
	READ_BYTES = 64 << 10,
	PATHS_MAX = 200000, /* above that a walk is as good */
	BUCKETS_MIN = 256,
};

/* A watched directory. */
struct watched {
	struct watched *next;
	int wd;
	uint32_t len;
	char path[]; /* with a NUL; "" is the root */
};

struct watcher {
	int fd;
	pthread_mutex_t lock; /* guards all but fd and changes */
	struct watched **buckets;
	size_t bucket_count, count;
	int root_wd; /* -1: not watched */
	struct pathset cold;
	int cold_errno;
	struct watch_changes changes;
};

int watcher_new(struct watcher **ret, struct inlay_error *err)
{
	struct watcher *w = calloc(1, sizeof *w);

	if (w)
		w->buckets = calloc(BUCKETS_MIN, sizeof *w->buckets);
	if (!w || !w->buckets) {
		free(w);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	w->bucket_count = BUCKETS_MIN;
	w->root_wd = -1;
	(void)pthread_mutex_init(&w->lock, NULL);
	w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->fd < 0) {
		int r = inlay_error_sys(err, -errno, "watch a folder%s",
					errno == EMFILE ? " (sysctl fs.inotify.max_user_instances "
							  "is too small)"
							: "");
		watcher_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

void watcher_free(struct watcher *w)
{
	if (!w)
		return;
	inlay_cleanup_close(&w->fd);
	for (size_t i = 0; i < w->bucket_count; i++)
		for (struct watched *d = w->buckets[i], *next; d; d = next) {
			next = d->next;
			free(d);
		}
	free(w->buckets);
	pathset_fini(&w->cold);
	pathset_fini(&w->changes.paths);
	(void)pthread_mutex_destroy(&w->lock);
	free(w);
}

int watcher_fd(const struct watcher *w)
{
	return w->fd;
}

struct watch_changes *watcher_changes(struct watcher *w)
{
	return &w->changes;
}

/* ---- which watch is which directory ---- */

static struct watched **place_of(struct watcher *w, int wd)
{
	struct watched **p = &w->buckets[(unsigned)wd & (w->bucket_count - 1)];

	while (*p && (*p)->wd != wd)
		p = &(*p)->next;
	return p;
}

static void drop(struct watcher *w, int wd)
{
	struct watched **p = place_of(w, wd), *d = *p;

	if (!d)
		return;
	*p = d->next;
	free(d);
	w->count--;
}

/* Without memory the chains just become longer. */
static void spread(struct watcher *w)
{
	size_t count = w->bucket_count * 2;
	struct watched **old = w->buckets, **buckets = calloc(count, sizeof *buckets);

	if (!buckets)
		return;
	for (size_t i = 0; i < w->bucket_count; i++)
		for (struct watched *d = old[i], *next; d; d = next) {
			struct watched **to = &buckets[(unsigned)d->wd & (count - 1)];
			next = d->next;
			d->next = *to;
			*to = d;
		}
	free(old);
	w->buckets = buckets;
	w->bucket_count = count;
}

static bool put(struct watcher *w, int wd, const char *path, size_t len)
{
	struct watched *d = *place_of(w, wd);

	if (d && d->len == len && memcmp(d->path, path, len) == 0)
		return true;
	d = malloc(sizeof *d + len + 1);
	if (!d)
		return false;
	drop(w, wd);
	if (w->count >= w->bucket_count)
		spread(w);
	*d = (struct watched){.wd = wd, .len = (uint32_t)len};
	memcpy(d->path, path, len);
	d->path[len] = 0;
	*place_of(w, wd) = d; /* the end of its chain */
	w->count++;
	return true;
}

void watcher_enter(void *ctx, int dirfd, const char *path, size_t len)
{
	struct watcher *w = ctx;
	char proc[32];

	/* By the descriptor: a path could lead elsewhere by now. */
	(void)snprintf(proc, sizeof proc, "/proc/self/fd/%d", dirfd);
	scope_lock(&w->lock);
	int wd = inotify_add_watch(w->fd, proc, len ? EVENTS : ROOT_EVENTS);
	if (wd >= 0 && put(w, wd, path, len)) {
		if (len == 0)
			w->root_wd = wd;
		return;
	}
	w->cold_errno = wd < 0 ? errno : ENOMEM;
	pathset_add(&w->cold, path, len, "", 0);
}

void watcher_tidy(struct watcher *w, const struct inlay_snapshot *now)
{
	scope_lock(&w->lock);
	for (size_t i = 0; i < w->bucket_count; i++)
		for (struct watched **p = &w->buckets[i], *d; (d = *p);) {
			if (inlay_snapshot_has_dir(now, d->path)) {
				p = &d->next;
				continue;
			}
			(void)inotify_rm_watch(w->fd, d->wd);
			*p = d->next;
			free(d);
			w->count--;
		}
	w->changes.left = false;
}

/* ---- events ---- */

static void touch(struct watch_changes *c, int64_t now_ns)
{
	if (c->first_ns == 0)
		c->first_ns = now_ns;
	c->last_ns = now_ns;
}

static void name_changed(struct watcher *w, const struct watched *d, const struct inotify_event *e)
{
	struct watch_changes *c = &w->changes;
	size_t len = e->len ? strnlen(e->name, e->len) : 0;

	/* What happens to a directory itself is also told by the one above it, but for the root. */
	if (len == 0 && d->len > 0)
		return;
	if ((e->mask & IN_ISDIR) && (e->mask & (IN_DELETE | IN_MOVED_FROM)))
		c->left = true;
	if ((len == 10 && memcmp(e->name, ".gitignore", 10) == 0) ||
	    (len == 12 && memcmp(e->name, ".inlayignore", 12) == 0))
		c->left = true;
	if (c->paths.count < PATHS_MAX)
		pathset_add(&c->paths, d->path, d->len, e->name, len);
	else
		c->everything = true;
}

static void take_one(struct watcher *w, const struct inotify_event *e, int64_t now_ns)
{
	struct watch_changes *c = &w->changes;

	if (e->mask & IN_Q_OVERFLOW) {
		c->everything = c->left = true;
		c->overflows++;
		touch(c, now_ns);
		return;
	}
	scope_lock(&w->lock);
	const struct watched *d = *place_of(w, e->wd);
	if (!d)
		return;
	bool is_root = e->wd == w->root_wd;
	if (is_root && (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)))
		c->root = true;
	if (e->mask & IN_UNMOUNT)
		pathset_add(&c->paths, d->path, d->len, "", 0);
	else if (!(e->mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF)))
		name_changed(w, d, e);
	if (!(e->mask & IN_IGNORED) || is_root)
		touch(c, now_ns);
	if (e->mask & IN_IGNORED) {
		if (is_root)
			w->root_wd = -1;
		drop(w, e->wd);
	}
}

void watcher_take(struct watcher *w, const void *events, size_t len, int64_t now_ns)
{
	const char *at = events, *end = at + len;

	while ((size_t)(end - at) >= sizeof(struct inotify_event)) {
		const struct inotify_event *e = (const struct inotify_event *)at;
		if ((size_t)(end - at) - sizeof *e < e->len)
			break;
		take_one(w, e, now_ns);
		at += sizeof *e + e->len;
	}
	/* A path that could not be noted is looked at with everything else. */
	w->changes.everything |= w->changes.paths.failed;
}

int watcher_read(struct watcher *w, int64_t since_ns, struct inlay_error *err)
{
	_Alignas(struct inotify_event) char buf[READ_BYTES];

	for (;;) {
		ssize_t n = read(w->fd, buf, sizeof buf);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return inlay_error_sys(err, -errno, "read what happened in the folder");
		watcher_take(w, buf, (size_t)n, since_ns);
		since_ns = inlay_monotonic_ns();
	}
}

void watcher_forget(struct watcher *w)
{
	struct watch_changes *c = &w->changes;

	pathset_clear(&c->paths);
	c->everything = c->root = false;
	c->first_ns = c->last_ns = 0;
}

/* ---- the cold part ---- */

size_t watcher_count(struct watcher *w)
{
	scope_lock(&w->lock);
	return w->count;
}

size_t watcher_cold_count(struct watcher *w)
{
	scope_lock(&w->lock);
	return w->cold.count;
}

int watcher_cold_reason(struct watcher *w)
{
	scope_lock(&w->lock);
	return w->cold_errno;
}

void watcher_poll_cold(struct watcher *w)
{
	scope_lock(&w->lock);
	for (size_t i = 0; i < w->cold.count; i++) {
		const char *path = pathset_get(&w->cold, i);
		pathset_add(&w->changes.paths, path, strlen(path), "", 0);
	}
	w->changes.everything |= w->changes.paths.failed;
	/* Those that are entered and cannot be watched come back. */
	pathset_clear(&w->cold);
}
