/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be sent, and what has to be asked before. */
#include "session/session.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/io.h"
#include "session/share.h"

enum {
	ATTEMPTS_MAX = 8,        /* to read a folder that changes */
	DELETE_HALT_COUNT = 100, /* more than this many, and more than half: halt */
	DELETE_BURST_S = 60,     /* deletions nearer than this to each other are one */
	HAVE_PER_FRAME = INLAY_FRAME_MAX / 8,
};

/* ---- the local side ---- */

int session_walk(struct session *p, struct inlay_error *err)
{
	int64_t start = inlay_monotonic_ns();

	session_tell(p, PUSH_SCANNING);
	int r = source_walk(p->source, p->o->force, err);
	p->result->scan_ns += inlay_monotonic_ns() - start;
	if (r < 0)
		return r;
	const struct inlay_scan_stats *st = inlay_snapshot_stats(p->source->now);
	p->progress.files_done = p->progress.bytes_done = 0;
	p->progress.files_total = st->dirty;
	p->progress.bytes_total = st->dirty_bytes;
	p->result->files_read = st->dirty;
	p->result->read_bytes = st->dirty_bytes;
	p->result->cache_hits = st->files - st->dirty;
	p->result->special = st->special;
	p->result->hardlinked = st->hardlinked;
	return 0;
}

/* Reads what is dirty, until nothing vanishes any more. */
static int read_all(struct session *p, struct source_consumer *c, struct inlay_error *err)
{
	struct source_consumer hash_only = {0};
	int64_t start = inlay_monotonic_ns();
	int r = SOURCE_AGAIN;

	c = c ? c : &hash_only;
	c->done = session_file_done;
	c->done_ctx = p;
	for (int attempt = 0; attempt < ATTEMPTS_MAX && r == SOURCE_AGAIN; attempt++) {
		if (attempt > 0) {
			r = session_walk(p, err);
			if (r < 0)
				return r;
		}
		r = source_read(p->source, c, err);
	}
	p->result->read_ns += inlay_monotonic_ns() - start;
	if (r == SOURCE_AGAIN)
		return inlay_error_set(err, -EBUSY, "%s changes all the time", p->source->path);
	return r;
}

static int build(struct session *p, struct inlay_error *err)
{
	int r = source_build(p->source, &p->root, err);

	if (r < 0)
		return r;
	p->built = true;
	p->goal = p->root;
	return 0;
}

static int hash_and_build(struct session *p, struct inlay_error *err)
{
	if (p->built)
		return 0;
	session_tell(p, PUSH_READING);
	int r = read_all(p, NULL, err);
	return r < 0 ? r : build(p, err);
}

int session_scan(struct session *p, struct inlay_error *err)
{
	p->built = false;
	int r = session_walk(p, err);
	return r < 0 ? r : hash_and_build(p, err);
}

/* ---- safety halts ---- */

static int halt(struct inlay_error *err, const char *why, uint64_t removed, uint64_t of)
{
	int r = inlay_error_set(
		err, -ECANCELED,
		"%s: %llu of %llu entries would go. Nothing was changed; --force does it", why,
		(unsigned long long)removed, (unsigned long long)of);

	(void)inlay_error_set_exit(err, INLAY_EXIT_HALT);
	return r;
}

/* How many entries are gone since a deletion began, and of how many: a kept session sees a slow one in slices. */
static uint64_t gone_since(struct session *p, uint64_t had, uint64_t has)
{
	int64_t now = inlay_monotonic_ns();
	bool over =
		!p->deleting_halted && now - p->deleted_ns > DELETE_BURST_S * INT64_C(1000000000);

	if (over || had > p->most_entries)
		p->most_entries = had;
	if (has < had)
		p->deleted_ns = now;
	return p->most_entries > has ? p->most_entries - has : 0;
}

static int check_deletes(struct session *p, struct inlay_error *err)
{
	uint64_t had = p->opened.live.entries, has = p->plan.entries, removed = p->plan.removed;

	if (p->o->force) {
		p->most_entries = has;
		p->deleting_halted = false;
	}
	if (p->o->force || p->o->keep_extra || had == 0)
		return 0;
	uint64_t gone = gone_since(p, had, has);
	/* Without the target's trees only the numbers can be compared. */
	if (!p->plan.against_base)
		removed = had > has ? had - has : 0;
	if (has == 0)
		return halt(err, "the source is empty", had, had);
	if (removed > DELETE_HALT_COUNT && removed > had / 2)
		return halt(err, "more than half of the target is missing in the source", removed,
			    had);
	p->deleting_halted = gone > DELETE_HALT_COUNT && gone > p->most_entries / 2;
	if (p->deleting_halted)
		return halt(err, "more than half of the target went in a short time", gone,
			    p->most_entries);
	return 0;
}

/* ---- what is to be done ---- */

static bool none(const struct inlay_digest *d)
{
	return inlay_digest_is_zero(d);
}

int session_plan(struct session *p, enum plan_flags flags, struct inlay_error *err)
{
	plan_fini(&p->plan);
	int r = plan_make(&p->plan, p->source, none(&p->base) ? NULL : &p->base, &p->goal.tree,
			  flags, err);
	if (r < 0)
		return r;
	/* What the target has at another place need not be sent: a rename costs nothing. */
	if (flags & PLAN_GONE) {
		inlay_idset_fini(&p->known);
		p->known = p->plan.gone;
		p->plan.gone = (struct inlay_idset){0};
	}
	r = p->given ? recent_apply(&p->recent, &p->plan, err) : 0;
	if (r == 0)
		plan_match_renamed(&p->plan);
	return r;
}

/* Can other targets need the very same bytes? */
static bool is_shared(const struct session *p, enum plan_flags flags)
{
	return p->o->share && !p->o->dry_run && !p->torn_set && !p->no_basis &&
	       !(flags & PLAN_NEEDED) && !inlay_digest_equal(&p->base, &p->goal.tree);
}

/* Positive: SESSION_LATER. */
static int make_plan(struct session *p, enum plan_flags flags, struct inlay_error *err)
{
	int r = is_shared(p, flags) ? share_take(p, err) : SHARE_ALONE;

	if (r == SHARE_ALONE)
		r = session_plan(p, flags, err);
	if (r != 0)
		return r;
	p->result->changes_known = p->plan.against_base || p->opened.live.number == 0;
	p->result->added = p->plan.added;
	p->result->modified = p->plan.modified;
	p->result->removed = p->plan.removed;
	p->result->entries = p->plan.entries;
	p->result->bytes = p->plan.bytes;
	return check_deletes(p, err);
}

/* ---- asking ---- */

static int say_open(struct session *p, const struct inlay_digest *root, struct inlay_error *err)
{
	char owner[256], origin[INLAY_ORIGIN_MAX + 1];
	struct message_open m = {.path = message_text_of(p->target->path),
				 .lock_wait_ms = (uint64_t)(p->o->lock_wait_ns / 1000000),
				 .lease = p->lease};

	client_owner(owner, sizeof owner);
	client_origin(origin, sizeof origin, p->source->path);
	m.owner = message_text_of(owner);
	m.origin = message_text_of(origin);
	if (root)
		m.root = *root;
	if (p->o->config && !p->o->dry_run)
		m.config = *p->o->config;
	if (!p->o->dry_run)
		m.before = p->o->before;
	if (!p->o->dry_run)
		m.flags = MESSAGE_OPEN_CREATE | MESSAGE_OPEN_WRITE |
			  (p->o->no_mount ? 0 : MESSAGE_OPEN_MOUNT) |
			  (p->o->boot ? MESSAGE_OPEN_BOOT : 0) |
			  (p->o->steal ? MESSAGE_OPEN_STEAL : 0) |
			  (p->o->adopt ? MESSAGE_OPEN_ADOPT : 0) |
			  (p->given ? MESSAGE_OPEN_ALIVE : 0);
	return client_open_workspace(&p->client, &m, err);
}

/* Waits for OPENED. A dry run of a target that does not exist yet finds an empty one. */
static int wait_opened(struct session *p, struct inlay_error *err)
{
	struct frame f;
	int r = client_recv(&p->client, session_patience(p), &f, err);

	if (r == CLIENT_FAILED && p->o->dry_run && p->client.failed.code == -ENOENT) {
		p->opened = (struct message_opened){0};
		return 0;
	}
	if (r == 0 && f.type != MESSAGE_OPENED)
		return inlay_error_set(err, -EPROTO, "no OPENED came, but message %u", f.type);
	return r == 0 ? session_hear_opened(p, &f, err) : r;
}

/* Which of the objects that would be sent are there already? */
static int ask_have(struct session *p, struct inlay_error *err)
{
	const struct inlay_idset *need = &p->plan.needed;
	auto_buf struct inlay_buf b = {0};
	struct frame f;
	int r = 0;

	for (size_t at = 0; r == 0 && at < need->count; at += HAVE_PER_FRAME) {
		size_t count =
			need->count - at < HAVE_PER_FRAME ? need->count - at : HAVE_PER_FRAME;
		inlay_buf_clear(&b);
		for (size_t i = 0; i < count; i++) {
			uint64_t prefix = inlay_digest_prefix(&need->members[at + i]);
			inlay_buf_add(&b, &prefix, sizeof prefix);
		}
		r = client_send(&p->client, MESSAGE_HAVE, &b, err);
		if (r == 0)
			r = client_recv(&p->client, session_patience(p), &f, err);
		if (r == 0 && (f.type != MESSAGE_HAS || f.len != (count + 7) / 8))
			r = inlay_error_set(err, -EPROTO, "a bad answer to HAVE");
		for (size_t i = 0; r == 0 && i < count; i++)
			if (f.payload[i / 8] >> i % 8 & 1)
				r = inlay_idset_add(&p->known, &need->members[at + i], err);
		if (r == INLAY_IDSET_THERE)
			r = 0;
	}
	return r;
}

/* ---- the three conversations ---- */

/* What the target has is known: everything in one flight. */
static int converse_known(struct session *p, struct inlay_error *err)
{
	int r = hash_and_build(p, err);

	if (r < 0)
		return r;
	p->base = p->acked.root.tree;
	if (p->o->keep_extra) {
		r = plan_union(p->source, &p->base, &p->root, &p->goal, err);
		if (r < 0)
			return r;
	}
	bool same = session_same_root(&p->goal, &p->acked.root);
	/* For the halts: what the target is taken to have. */
	p->opened.live.number = p->acked.generation;
	r = plan_count(p->source, &p->base, &p->opened.live.entries, err);
	if (r == 0)
		r = make_plan(p, PLAN_FILES | PLAN_GONE, err);
	bool ask = r == 0 && !p->o->dry_run && session_needs_signatures(p);
	if (r == 0)
		r = say_open(p, &p->goal.tree, err);
	/* What has to be asked needs a round trip; all else is one flight. */
	if (r == 0 && ask)
		r = wait_opened(p, err);
	if (r == 0 && !same && !p->o->dry_run)
		r = session_send_set(p, &p->base, err);
	if (r == 0 && !ask)
		r = wait_opened(p, err);
	if (r != 0)
		return r == CLIENT_FAILED ? session_by_reason(p) : r;
	p->result->generation = p->opened.live.number;
	/* Nothing was sent, but the target shows something else by now. */
	if ((same || p->o->dry_run) && !session_same_root(&p->opened.live.root, &p->acked.root))
		return PUSH_DISTRUST;
	return p->o->dry_run ? 0 : session_wait_settled(p, err);
}

/* A fresh target: files go out while they are read. */
static int stream_all(struct session *p, struct inlay_error *err)
{
	static const struct inlay_digest nothing;
	const struct inlay_scan_stats *st = inlay_snapshot_stats(p->source->now);
	bool all_dirty = st->dirty == st->files;
	int r = session_begin_sending(p, st->bytes, err);

	if (r < 0)
		return r;
	struct source_consumer c = sender_consumer(&p->sender);
	r = read_all(p, &c, err);
	if (r == 0)
		r = build(p, err);
	/* What was read at an earlier sync to another target is not dirty, and was not sent yet. */
	if (r == 0)
		r = make_plan(p, all_dirty ? 0 : PLAN_FILES, err);
	if (r == 0)
		r = session_send_files(p, err);
	if (r == SOURCE_AGAIN) {
		p->built = false;
		return PUSH_AGAIN;
	}
	if (r == 0)
		r = sender_tree(&p->sender, NULL, &p->goal.tree, err);
	return r == 0 ? session_send_commit(p, &nothing, err) : r;
}

static int fetch_trees(struct session *p, struct inlay_error *err)
{
	int r = plan_fetch_trees(p->source, &p->client, err);

	return r == 0 && !inlay_store_has(p->source->store, &p->opened.live.root.tree)
		       ? inlay_error_set(err, -EPROTO, "the target did not send its trees")
		       : r;
}

/* A target that has something: it is asked which objects. */
static int send_missing(struct session *p, struct inlay_error *err)
{
	const struct inlay_root *live = &p->opened.live.root;
	int r = hash_and_build(p, err);

	/* What was adopted is what the files are compared with, so it must be known. */
	if (r == 0 && (p->o->keep_extra || p->o->adopt) && p->opened.live.number)
		r = fetch_trees(p, err);
	if (r == 0 && p->o->keep_extra && p->opened.live.number)
		r = plan_union(p->source, &live->tree, &p->root, &p->goal, err);
	if (r != 0)
		return r;
	bool known = !p->no_basis && !none(&live->tree) && plan_has_tree(p->source, &live->tree);
	p->base = known ? live->tree : (struct inlay_digest){0};
	bool ask = (!known || p->broken) && p->opened.objects > 0;
	r = make_plan(p, PLAN_FILES | (known ? PLAN_GONE : 0) | (ask ? PLAN_NEEDED : 0), err);
	if (r != 0 || p->o->dry_run)
		return r;
	if (p->opened.live.number && session_same_root(live, &p->goal))
		return 0;
	if (ask)
		r = ask_have(p, err);
	return r == 0 ? session_send_set(p, &live->tree, err) : r;
}

/* What the target has is not known: it is asked first. */
static int converse_unknown(struct session *p, struct inlay_error *err)
{
	int r = say_open(p, p->built ? &p->goal.tree : NULL, err);

	if (r == 0)
		r = wait_opened(p, err);
	if (r != 0)
		return r == CLIENT_FAILED ? session_by_reason(p) : r;
	p->result->generation = p->opened.live.number;
	bool empty = p->opened.live.number == 0 && p->opened.objects == 0;
	if (empty && !p->built && !p->o->dry_run)
		r = stream_all(p, err);
	else
		r = send_missing(p, err);
	if (r != 0)
		return r == CLIENT_FAILED ? session_by_reason(p) : r;
	return p->o->dry_run ? 0 : session_wait_settled(p, err);
}

/* The connection holds, so what the target shows is known and what it has need not be asked. */
static int converse_live(struct session *p, struct inlay_error *err)
{
	p->base = p->opened.live.root.tree;
	if (p->o->keep_extra) {
		int r = plan_union(p->source, &p->base, &p->root, &p->goal, err);
		if (r < 0)
			return r;
	}
	p->result->generation = p->opened.live.number;
	int r = make_plan(p, PLAN_FILES | PLAN_GONE, err);
	if (r == 0 && !session_same_root(&p->goal, &p->opened.live.root))
		r = session_send_set(p, &p->base, err);
	if (r != 0)
		return r == CLIENT_FAILED ? session_by_reason(p) : r;
	return session_wait_settled(p, err);
}

int session_converse(struct session *p, struct inlay_error *err)
{
	bool known = p->has_acked && !p->distrust && !p->broken;
	int r = 0;

	if (!p->connected) {
		r = client_open(&p->client, p->transport, p->bwlimit, err);
		p->connected = r == 0;
	}
	/* The way to the host is being opened while the folder is walked. */
	if (r == 0 && !p->built)
		r = session_walk(p, err);
	if (r < 0)
		return r;
	if (p->live)
		r = converse_live(p, err);
	else
		r = known ? converse_known(p, err) : converse_unknown(p, err);
	if (r < 0 && p->sending && p->sender.interrupted)
		r = p->sender.interrupted == CLIENT_FAILED ? session_by_reason(p)
							   : p->sender.interrupted;
	/* A tree that was to be built on is not remembered after all. */
	return (known || p->live) && r == -ESTALE ? PUSH_DISTRUST : r;
}
