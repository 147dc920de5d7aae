/* SPDX-License-Identifier: Apache-2.0 */
/* Keeping house: what may go (gc), and whether everything is there and right (fsck). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "inlay/imagetree.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "keep/host.h"
#include "upper/upper.h"

/* ---- gc ---- */

struct mark {
	struct inlay_host *host;
	struct inlay_idset live;
};

static int mark_object(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		       struct inlay_error *err)
{
	struct mark *m = ctx;
	int r = inlay_idset_add(&m->live, id, err);

	(void)size;
	/* What was seen before was seen with all that is below it. */
	return r == INLAY_IDSET_THERE ? (is_tree ? INLAY_TREES_NONE : 0) : r;
}

static int ignore_missing(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	(void)ctx;
	(void)id;
	(void)err;
	return 0;
}

static int mark_tree(struct mark *m, const struct inlay_digest *tree, struct inlay_error *err)
{
	return inlay_tree_reach(m->host->trees, tree, mark_object, ignore_missing, m, err);
}

static int mark_ref(void *ctx, const char *ref, struct inlay_error *err)
{
	struct mark *m = ctx;
	auto_free struct inlay_history *history = NULL;
	int r = inlay_store_history(m->host->store, ref, &history, err);

	for (size_t i = 0; r == 0 && i < history->count; i++)
		r = mark_tree(m, &history->gens[i].root.tree, err);
	return r;
}

/* What the kernel knows of a mount stays, also when no generation has it any more. */
static int mark_pins(struct mark *m, int fd, uint64_t count, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	size_t len = count * sizeof(struct worker_pin), n;
	uint8_t *room = inlay_buf_reserve(&b, len);
	int r = room ? inlay_pread_full(fd, room, len, 0, &n, "pins", err)
		     : inlay_buf_check(&b, err);

	if (r == 0 && n != len)
		r = inlay_error_set(err, -EPROTO, "the worker's pins are cut");
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		struct worker_pin pin;
		memcpy(&pin, room + i * sizeof pin, sizeof pin);
		r = pin.is_tree ? mark_tree(m, &pin.id, err)
				: mark_object(m, &pin.id, false, 0, err);
	}
	return r;
}

/* What the upper of a workspace needs that is not mounted. */
static int mark_upper(struct mark *m, struct inlay_workspace *ws, struct inlay_error *err)
{
	auto_of(upper_close) struct upper *u = NULL;
	int r = upper_open(ws->dir_fd, true, &u, err);

	for (struct upper_dent *d = r == 0 ? upper_walk(u->root, NULL) : NULL; d && r == 0;
	     d = upper_walk(u->root, d)) {
		if (!d->node || d->node->from != UPPER_OBJECT)
			continue;
		r = S_ISDIR(d->node->mode) ? mark_tree(m, &d->node->id, err)
					   : mark_object(m, &d->node->id, false, 0, err);
	}
	/* What changed since then is made up for by the next mount. */
	if (r == 0 && ws->state.policy.upper == INLAY_UPPER_SOURCE_WINS && u->dent_count > 0 &&
	    !inlay_digest_is_zero(&u->shown))
		r = mark_tree(m, &u->shown, err);
	return r < 0 ? inlay_error_prefix(err, r, "%s", ws->state.path) : 0;
}

static int mark_workspace(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	struct mark *m = ctx;
	struct worker_msg msg = {.type = WORKER_PINS};
	auto_close int fd = -1;
	int r = 0;

	scope_lock(&ws->change);
	if (ws->state.live.number)
		r = mark_tree(m, &ws->state.live.root.tree, err);
	if (r == 0 && !ws->link)
		return mark_upper(m, ws, err);
	if (r < 0)
		return r;
	r = link_ask(ws->link, &msg, &fd, 60ll * 1000000000, err);
	return r < 0 ? r : mark_pins(m, fd, msg.count, err);
}

static bool is_live(void *ctx, const struct inlay_digest *id)
{
	struct mark *m = ctx;

	return inlay_idset_has(&m->live, id);
}

int inlay_host_images(struct inlay_host *host, struct inlay_imagetrees **ret,
		      struct inlay_error *err)
{
	scope_lock(&host->lock);
	int r = host->images ? 0 : inlay_imagetrees_open(host->state_fd, &host->images, err);
	*ret = host->images;
	return r;
}

/* Images that are being pushed have their own time. */
static int gc_images(struct inlay_host *host, int64_t grace_ns, uint64_t *ret_freed,
		     struct inlay_error *err)
{
	struct inlay_imagetrees *images;

	if (faccessat(host->state_fd, "images", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	int r = inlay_host_images(host, &images, err);
	if (r == 0)
		r = inlay_imagetrees_gc(images, grace_ns, ret_freed, err);
	return r < 0 ? r : 0;
}

int inlay_host_gc(struct inlay_host *host, int64_t grace_ns, struct inlay_store_sweep *ret,
		  struct inlay_error *err)
{
	uint64_t images = 0;
	struct mark m = {.host = host};

	/* Objects of a change set that is on its way are nobody's yet: not while one is. */
	if (pthread_rwlock_trywrlock(&host->receiving) != 0)
		return inlay_error_set(err, -EBUSY, "a sync is under way");
	int r = inlay_store_each_ref(host->store, mark_ref, &m, err);
	if (r == 0)
		r = inlay_host_each(host, mark_workspace, &m, err);
	if (r == 0)
		r = inlay_store_sweep(host->store, is_live, &m, grace_ns, ret, err);
	(void)pthread_rwlock_unlock(&host->receiving);
	inlay_idset_fini(&m.live);
	if (r == 0)
		r = gc_images(host, grace_ns, &images, err);
	if (r == 0)
		ret->freed_bytes += images;
	return r;
}

void inlay_host_receive(struct inlay_host *host, bool begin)
{
	if (begin)
		(void)pthread_rwlock_rdlock(&host->receiving);
	else
		(void)pthread_rwlock_unlock(&host->receiving);
}

/* ---- fsck ---- */

struct fsck {
	struct inlay_host *host;
	void (*found)(void *ctx, const char *what);
	void (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
	uint64_t bad;
	struct inlay_idset dropped;
	struct inlay_idset seen;
	const char *ref;
};

static void on_found(void *ctx, const struct inlay_digest *id, const char *what)
{
	struct fsck *f = ctx;

	f->bad++;
	f->found(f->ctx, what);
	if (id)
		(void)!inlay_idset_add(&f->dropped, id, NULL);
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct fsck *f = ctx;

	if (f->progress)
		f->progress(f->ctx, done, total);
}

static void report_missing(struct fsck *f, const struct inlay_digest *id)
{
	char hex[INLAY_DIGEST_HEX], text[300];

	inlay_digest_hex(id, hex);
	(void)snprintf(text, sizeof text, "object %s, needed by %s, is missing", hex, f->ref);
	f->bad++;
	f->found(f->ctx, text);
}

static int check_reached(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
			 struct inlay_error *err)
{
	struct fsck *f = ctx;
	int r = inlay_idset_add(&f->seen, id, err);

	(void)size;
	if (r == INLAY_IDSET_THERE)
		return is_tree ? INLAY_TREES_NONE : 0;
	/* A tree that is missing is told by the walk itself. */
	if (r == 0 && !is_tree && !inlay_store_has(f->host->store, id))
		report_missing(f, id);
	return r;
}

static int tree_missing(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	(void)err;
	report_missing(ctx, id);
	return 0;
}

static int check_ref(void *ctx, const char *ref, struct inlay_error *err)
{
	struct fsck *f = ctx;
	auto_free struct inlay_history *history = NULL;
	struct inlay_error one = {0};
	int r = inlay_store_history(f->host->store, ref, &history, err);

	f->ref = ref;
	for (size_t i = 0; r == 0 && i < history->count; i++) {
		r = inlay_tree_reach(f->host->trees, &history->gens[i].root.tree, check_reached,
				     tree_missing, f, &one);
		if (r == -EBADMSG) {
			f->bad++;
			f->found(f->ctx, one.text);
			r = 0;
		} else if (r < 0) {
			*err = one;
		}
	}
	return r;
}

/* What the live generation lacks now is what the next sync is asked for. */
static int ask_for_missing(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	struct fsck *f = ctx;
	struct inlay_idset missing = {0};
	static const struct inlay_digest none;
	int r = 0;

	scope_lock(&ws->change);
	if (ws->state.live.number)
		r = host_missing(f->host, &none, &ws->state.live.root.tree, &missing, err);
	if (r == 0) {
		scope_lock(&ws->lock);
		for (size_t i = 0; r >= 0 && i < missing.count; i++)
			r = inlay_idset_add(&ws->damaged, &missing.members[i], err);
	}
	inlay_idset_fini(&missing);
	return r < 0 ? r : 0;
}

int inlay_host_fsck(struct inlay_host *host, void (*found)(void *ctx, const char *what),
		    void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
		    uint64_t *ret_bad, struct inlay_error *err)
{
	struct fsck f = {.host = host, .found = found, .progress = progress, .ctx = ctx};
	struct inlay_store_check check;
	int r = inlay_store_verify(host->store, on_found, on_progress, &f, &check, err);

	for (size_t i = 0; r == 0 && i < f.dropped.count; i++)
		r = inlay_store_drop(host->store, &f.dropped.members[i], err);
	if (r == 0 && f.dropped.count > 0)
		r = inlay_store_flush(host->store, err);
	if (r == 0 && check.bad > 0)
		r = inlay_store_mend(host->store, err);
	/* Trees in memory would hide what is gone from the disk. */
	if (r == 0)
		inlay_trees_forget(host->trees);
	if (r == 0)
		r = inlay_store_each_ref(host->store, check_ref, &f, err);
	if (r == 0)
		r = inlay_host_each(host, ask_for_missing, &f, err);
	inlay_idset_fini(&f.dropped);
	inlay_idset_fini(&f.seen);
	if (r == 0)
		*ret_bad = f.bad;
	return r;
}
