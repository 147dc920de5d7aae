/* SPDX-License-Identifier: Apache-2.0 */
#include "session/push.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "session/plan.h"
#include "session/sender.h"

enum {
	ATTEMPTS_MAX = 8, /* conversations until a push gives up */
	DEFAULT_LEVEL = 3,
	DELETE_HALT_COUNT = 100, /* more than this many, and more than half: halt */
	HAVE_PER_FRAME = INLAY_FRAME_MAX / 8,
};

/* Results of a conversation, above those of client.h. */
enum {
	PUSH_AGAIN = 10,    /* once more, with what is known by now */
	PUSH_DISTRUST = 11, /* once more, without taking the remembered state for granted */
	PUSH_NO_BASIS = 12, /* once more, without building on anything */
};

struct push {
	struct source *source;
	const struct target *target;
	const struct transport_options *transport;
	const struct push_options *o;
	struct push_result *result;
	uint64_t bwlimit;
	char target_text[4096];
	struct client client;
	bool connected;
	struct sender sender;
	bool sending;
	struct acked acked;
	bool has_acked, distrust, no_basis;
	bool built;             /* root is valid */
	struct inlay_root root; /* of the source */
	struct inlay_root
		goal; /* what the target shall have: root, or a union with what is there */
	struct message_opened opened;
	char opened_path[4096];
	struct inlay_digest base; /* tree of the target whose trees are here; zeros = none */
	struct inlay_idset known; /* on the target */
	struct plan plan;
	struct push_progress progress;
	unsigned commits; /* sent and not yet answered */
	int64_t sent_from_ns;
};

/* ---- progress ---- */

static void tell(struct push *p, enum push_phase phase)
{
	p->progress.phase = phase;
	p->progress.sent_bytes = p->client.conn.sent;
	if (p->o->progress)
		p->o->progress(p->o->ctx, &p->progress);
}

static void moved(void *ctx)
{
	struct push *p = ctx;

	tell(p, PUSH_SENDING);
}

static void file_done(void *ctx, uint64_t size)
{
	struct push *p = ctx;

	p->progress.files_done++;
	p->progress.bytes_done += size;
	tell(p, p->progress.phase);
}

/* ---- the local side ---- */

static int walk(struct push *p, struct inlay_error *err)
{
	tell(p, PUSH_SCANNING);
	int r = source_walk(p->source, p->o->force, err);
	if (r < 0)
		return r;
	const struct inlay_scan_stats *st = inlay_snapshot_stats(p->source->now);
	p->progress.files_done = p->progress.bytes_done = 0;
	p->progress.files_total = st->dirty;
	p->progress.bytes_total = st->dirty_bytes;
	p->result->files_read = st->dirty;
	p->result->read_bytes = st->dirty_bytes;
	p->result->special = st->special;
	p->result->hardlinked = st->hardlinked;
	return 0;
}

/* Reads what is dirty, until nothing vanishes any more. */
static int read_all(struct push *p, struct source_consumer *c, struct inlay_error *err)
{
	struct source_consumer hash_only = {0};
	int r = SOURCE_AGAIN;

	c = c ? c : &hash_only;
	c->done = file_done;
	c->done_ctx = p;
	for (int attempt = 0; attempt < ATTEMPTS_MAX && r == SOURCE_AGAIN; attempt++) {
		if (attempt > 0) {
			r = walk(p, err);
			if (r < 0)
				return r;
		}
		r = source_read(p->source, c, err);
	}
	if (r == SOURCE_AGAIN)
		return inlay_error_set(err, -EBUSY, "%s changes all the time", p->source->path);
	return r;
}

static int build(struct push *p, struct inlay_error *err)
{
	int r = source_build(p->source, &p->root, err);

	if (r < 0)
		return r;
	p->built = true;
	p->goal = p->root;
	return 0;
}

static int hash_and_build(struct push *p, struct inlay_error *err)
{
	if (p->built)
		return 0;
	tell(p, PUSH_READING);
	int r = read_all(p, NULL, err);
	return r < 0 ? r : build(p, err);
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

static int check_deletes(struct push *p, struct inlay_error *err)
{
	uint64_t had = p->opened.live.entries, has = p->plan.entries, removed = p->plan.removed;

	if (p->o->force || p->o->keep_extra || had == 0)
		return 0;
	/* Without the target's trees only the numbers can be compared. */
	if (!p->plan.against_base)
		removed = had > has ? had - has : 0;
	if (has == 0)
		return halt(err, "the source is empty", had, had);
	if (removed > DELETE_HALT_COUNT && removed > had / 2)
		return halt(err, "more than half of the target is missing in the source", removed,
			    had);
	return 0;
}

/* ---- what is to be done ---- */

static bool none(const struct inlay_digest *d)
{
	return inlay_digest_is_zero(d);
}

static int make_plan(struct push *p, enum plan_flags flags, struct inlay_error *err)
{
	plan_fini(&p->plan);
	int r = plan_make(&p->plan, p->source, none(&p->base) ? NULL : &p->base, &p->goal.tree,
			  flags, err);
	if (r < 0)
		return r;
	p->result->changes_known = p->plan.against_base || p->opened.live.number == 0;
	p->result->added = p->plan.added;
	p->result->modified = p->plan.modified;
	p->result->removed = p->plan.removed;
	p->result->entries = p->plan.entries;
	p->result->bytes = p->plan.bytes;
	/* What the target has at another place need not be sent: a rename costs nothing. */
	if (flags & PLAN_GONE) {
		inlay_idset_fini(&p->known);
		p->known = p->plan.gone;
		p->plan.gone = (struct inlay_idset){0};
	}
	return check_deletes(p, err);
}

/* ---- asking ---- */

static int say_open(struct push *p, const struct inlay_digest *root, struct inlay_error *err)
{
	char owner[256], origin[INLAY_ORIGIN_MAX + 1];
	struct message_open m = {.path = message_text_of(p->target->path),
				 .lock_wait_ms = (uint64_t)(p->o->lock_wait_ns / 1000000)};

	client_owner(owner, sizeof owner);
	client_origin(origin, sizeof origin, p->source->path);
	m.owner = message_text_of(owner);
	m.origin = message_text_of(origin);
	if (root)
		m.root = *root;
	if (!p->o->dry_run)
		m.flags = MESSAGE_OPEN_CREATE | MESSAGE_OPEN_WRITE |
			  (p->o->no_mount ? 0 : MESSAGE_OPEN_MOUNT) |
			  (p->o->boot ? MESSAGE_OPEN_BOOT : 0);
	return client_open_workspace(&p->client, &m, err);
}

static void copy_text(char *to, size_t size, struct message_text t)
{
	(void)snprintf(to, size, "%.*s", (int)(t.len < size ? t.len : size - 1), t.bytes);
}

static int hear_opened(struct push *p, const struct frame *f, struct inlay_error *err)
{
	int r = message_decode_opened(f->payload, f->len, &p->opened, err);

	if (r < 0)
		return r;
	copy_text(p->result->path, sizeof p->result->path, p->opened.path);
	copy_text(p->result->mount_text, sizeof p->result->mount_text, p->opened.mount_text);
	p->result->mounted = p->opened.mounted;
	return 0;
}

/* Waits for OPENED. A dry run of a target that does not exist yet finds an empty one. */
static int wait_opened(struct push *p, struct inlay_error *err)
{
	struct frame f;
	int r = client_recv(&p->client, 0, &f, err);

	if (r == CLIENT_FAILED && p->o->dry_run && p->client.failed.code == -ENOENT) {
		p->opened = (struct message_opened){0};
		return 0;
	}
	if (r == 0 && f.type != MESSAGE_OPENED)
		return inlay_error_set(err, -EPROTO, "no OPENED came, but message %u", f.type);
	return r == 0 ? hear_opened(p, &f, err) : r;
}

/* Which of the objects that would be sent are there already? */
static int ask_have(struct push *p, struct inlay_error *err)
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
			r = client_recv(&p->client, 0, &f, err);
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

/* ---- sending ---- */

static int begin_sending(struct push *p, uint64_t bytes, struct inlay_error *err)
{
	int r = sender_init(&p->sender, p->source, &p->client, err);

	if (r < 0)
		return r;
	p->sending = true;
	p->sender.known = &p->known;
	p->sender.moved = moved;
	p->sender.ctx = p;
	p->sent_from_ns = inlay_monotonic_ns();
	return objects_out_tune(&p->sender.out, bytes, p->o->level ? p->o->level : DEFAULT_LEVEL,
				err);
}

static int send_planned_files(struct push *p, struct inlay_error *err)
{
	struct source_consumer c = sender_consumer(&p->sender);
	int r = 0;

	p->progress.files_done = p->progress.bytes_done = 0;
	p->progress.files_total = p->plan.file_count;
	p->progress.bytes_total = p->plan.file_bytes;
	for (size_t i = 0; r == 0 && i < p->plan.file_count; i++) {
		const struct plan_file *f = &p->plan.files[i];
		if (!sender_has(&p->sender, &f->id))
			r = source_read_path(p->source, plan_path(&p->plan, f), &f->id, &c, err);
		file_done(p, f->size);
	}
	return r;
}

static int send_commit(struct push *p, const struct inlay_digest *expect, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct message_commit m = {.expect = *expect,
				   .root = p->goal,
				   .changed = p->plan.added + p->plan.modified + p->plan.removed};
	int r = sender_end(&p->sender, err);

	message_encode_commit(&b, &m);
	if (r == 0)
		r = client_send(&p->client, MESSAGE_COMMIT, &b, err);
	if (r == 0)
		r = client_drain(&p->client, SIZE_MAX, err);
	p->commits += r == 0;
	return r;
}

/* Everything of the plan, then COMMIT. */
static int send_change_set(struct push *p, const struct inlay_digest *expect,
			   struct inlay_error *err)
{
	int r = begin_sending(p, p->plan.file_bytes, err);

	if (r == 0)
		r = send_planned_files(p, err);
	if (r == SOURCE_AGAIN) {
		/* A file is no longer what was hashed: the state to be sent is a newer one. */
		p->built = false;
		return PUSH_AGAIN;
	}
	if (r == 0)
		r = sender_tree(&p->sender, none(&p->base) ? NULL : &p->base, &p->goal.tree, err);
	return r == 0 ? send_commit(p, expect, err) : r;
}

/* ---- what a target lost ---- */

struct resend {
	struct push *p;
	const struct inlay_idset *wanted;
	struct inlay_idset trees; /* of the wanted ones */
};

static int sort_out(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		    struct inlay_error *err)
{
	struct resend *w = ctx;

	(void)size;
	if (!is_tree || !inlay_idset_has(w->wanted, id))
		return 0;
	int r = inlay_idset_add(&w->trees, id, err);
	return r < 0 ? r : 0;
}

/* Wanted trees are sent whole, with the trees below them; wanted files are read again. */
static int send_wanted(struct push *p, const struct frame *f, struct inlay_error *err)
{
	struct inlay_idset wanted = {0}, nothing = {0};
	struct resend w = {.p = p, .wanted = &wanted};
	struct source_consumer c = sender_consumer(&p->sender);
	int r = message_decode_want(f->payload, f->len, &wanted, err);

	if (r == 0)
		r = inlay_tree_reach(p->source->trees, &p->goal.tree, sort_out, NULL, &w, err);
	p->sender.known = &nothing;
	for (size_t i = 0; r == 0 && i < wanted.count; i++) {
		const struct inlay_digest *id = &wanted.members[i];
		if (!inlay_idset_has(&w.trees, id) && !sender_has(&p->sender, id))
			r = source_read_again(p->source, id, &c, err);
	}
	for (size_t i = 0; r == 0 && i < w.trees.count; i++)
		r = sender_tree(&p->sender, NULL, &w.trees.members[i], err);
	p->sender.known = &p->known;
	inlay_idset_fini(&w.trees);
	inlay_idset_fini(&wanted);
	return r;
}

static int hear_want(struct push *p, const struct frame *f, struct inlay_error *err)
{
	/* Before the change set's own COMMIT was answered, or as its answer? Either way it is followed by one
	 * COMMIT more, and the target asks again for what is still missing. */
	bool is_answer = p->opened.wanted == 0 && p->commits > 0;
	struct inlay_digest expect = p->opened.live.root.tree;
	int r = p->sending ? 0 : begin_sending(p, 0, err);

	if (r == 0)
		r = send_wanted(p, f, err);
	if (r < 0)
		return r;
	if (is_answer)
		p->commits--;
	else if (p->commits > 0 || p->result->changed)
		expect = p->goal.tree;
	p->opened.wanted = 0;
	return send_commit(p, &expect, err);
}

/* ---- the answers ---- */

static int hear_visible(struct push *p, const struct frame *f, struct inlay_error *err)
{
	struct message_visible m;
	int r = message_decode_visible(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (!inlay_digest_equal(&m.root, &p->goal.tree))
		return inlay_error_set(err, -EPROTO, "the target shows another root than was sent");
	p->commits -= p->commits > 0;
	p->result->changed |= m.number != p->opened.live.number;
	p->result->generation = m.number;
	if (p->result->visible_ns == 0)
		p->result->visible_ns = inlay_monotonic_ns() - p->sent_from_ns;
	copy_text(p->result->mount_text, sizeof p->result->mount_text, m.mount_text);
	p->result->mounted = m.mounted;
	p->opened.live.root = p->goal;
	return 0;
}

static int hear_durable(struct push *p, const struct frame *f, struct inlay_error *err)
{
	struct message_durable m;
	int r = message_decode_durable(f->payload, f->len, &m, err);

	if (r == 0 && m.number > p->opened.durable)
		p->opened.durable = m.number;
	return r;
}

static int by_reason(const struct push *p)
{
	switch (p->client.failed.reason) {
	case MESSAGE_REASON_STALE:
		return PUSH_DISTRUST;
	case MESSAGE_REASON_BASIS:
		return PUSH_NO_BASIS;
	default:
		return CLIENT_FAILED;
	}
}

static bool settled(const struct push *p)
{
	return p->commits == 0 && p->opened.wanted == 0 &&
	       p->opened.durable >= p->result->generation;
}

/* Until all that was sent is answered and durable. `opened`: OPENED has come already. */
static int wait_settled(struct push *p, struct inlay_error *err)
{
	struct frame f;
	int r = 0;

	tell(p, PUSH_WAITING);
	while (r == 0 && !settled(p)) {
		r = client_recv(&p->client, 0, &f, err);
		if (r == CLIENT_FAILED)
			return by_reason(p);
		if (r != 0)
			return r;
		if (f.type == MESSAGE_WANT)
			r = hear_want(p, &f, err);
		else if (f.type == MESSAGE_VISIBLE)
			r = hear_visible(p, &f, err);
		else if (f.type == MESSAGE_DURABLE)
			r = hear_durable(p, &f, err);
		else
			r = inlay_error_set(err, -EPROTO, "an unexpected message %u", f.type);
	}
	return r;
}

static bool same_root(const struct inlay_root *a, const struct inlay_root *b)
{
	return inlay_digest_equal(&a->tree, &b->tree) && a->mode == b->mode &&
	       a->mtime_ns == b->mtime_ns;
}

/* ---- the three conversations ---- */

/* What the target has is known: everything in one flight. */
static int converse_known(struct push *p, struct inlay_error *err)
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
	bool same = same_root(&p->goal, &p->acked.root);
	/* For the halts: what the target is taken to have. */
	p->opened.live.number = p->acked.generation;
	r = plan_count(p->source, &p->base, &p->opened.live.entries, err);
	if (r == 0)
		r = make_plan(p, PLAN_FILES | PLAN_GONE, err);
	if (r == 0)
		r = say_open(p, &p->goal.tree, err);
	if (r == 0 && !same && !p->o->dry_run)
		r = send_change_set(p, &p->base, err);
	if (r == 0)
		r = wait_opened(p, err);
	if (r != 0)
		return r == CLIENT_FAILED ? by_reason(p) : r;
	p->result->generation = p->opened.live.number;
	/* Nothing was sent, but the target shows something else by now. */
	if ((same || p->o->dry_run) && !same_root(&p->opened.live.root, &p->acked.root))
		return PUSH_DISTRUST;
	return p->o->dry_run ? 0 : wait_settled(p, err);
}

/* A fresh target: files go out while they are read. */
static int stream_all(struct push *p, struct inlay_error *err)
{
	static const struct inlay_digest nothing;
	const struct inlay_scan_stats *st = inlay_snapshot_stats(p->source->now);
	bool all_dirty = st->dirty == st->files;
	int r = begin_sending(p, st->bytes, err);

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
		r = send_planned_files(p, err);
	if (r == SOURCE_AGAIN) {
		p->built = false;
		return PUSH_AGAIN;
	}
	if (r == 0)
		r = sender_tree(&p->sender, NULL, &p->goal.tree, err);
	return r == 0 ? send_commit(p, &nothing, err) : r;
}

static int fetch_trees(struct push *p, struct inlay_error *err)
{
	int r = plan_fetch_trees(p->source, &p->client, err);

	return r == 0 && !inlay_store_has(p->source->store, &p->opened.live.root.tree)
		       ? inlay_error_set(err, -EPROTO, "the target did not send its trees")
		       : r;
}

/* A target that has something: it is asked which objects. */
static int send_missing(struct push *p, struct inlay_error *err)
{
	const struct inlay_root *live = &p->opened.live.root;
	int r = hash_and_build(p, err);

	if (r == 0 && p->o->keep_extra && p->opened.live.number) {
		r = fetch_trees(p, err);
		if (r == 0)
			r = plan_union(p->source, &live->tree, &p->root, &p->goal, err);
	}
	if (r != 0)
		return r;
	bool known = !p->no_basis && !none(&live->tree) && plan_has_tree(p->source, &live->tree);
	p->base = known ? live->tree : (struct inlay_digest){0};
	r = make_plan(p, PLAN_FILES | (known ? PLAN_GONE : PLAN_NEEDED), err);
	if (r < 0 || p->o->dry_run)
		return r;
	if (p->opened.live.number && same_root(live, &p->goal))
		return 0;
	if (!known && p->opened.objects > 0)
		r = ask_have(p, err);
	return r == 0 ? send_change_set(p, &live->tree, err) : r;
}

/* What the target has is not known: it is asked first. */
static int converse_unknown(struct push *p, struct inlay_error *err)
{
	int r = say_open(p, p->built ? &p->goal.tree : NULL, err);

	if (r == 0)
		r = wait_opened(p, err);
	if (r != 0)
		return r == CLIENT_FAILED ? by_reason(p) : r;
	p->result->generation = p->opened.live.number;
	bool empty = p->opened.live.number == 0 && p->opened.objects == 0;
	if (empty && !p->built && !p->o->dry_run)
		r = stream_all(p, err);
	else
		r = send_missing(p, err);
	if (r != 0)
		return r == CLIENT_FAILED ? by_reason(p) : r;
	return p->o->dry_run ? 0 : wait_settled(p, err);
}

static void end_conversation(struct push *p)
{
	if (p->connected) {
		p->result->sent_bytes += p->client.conn.sent;
		p->result->received_bytes += p->client.conn.received;
		p->result->files_sent += p->sending ? p->sender.files : 0;
		p->result->sent_file_bytes += p->sending ? p->sender.file_bytes : 0;
	}
	if (p->sending)
		sender_fini(&p->sender);
	client_close(&p->client);
	inlay_idset_fini(&p->known);
	p->connected = p->sending = false;
	p->commits = 0;
	p->base = (struct inlay_digest){0};
	p->opened = (struct message_opened){0};
}

static int converse(struct push *p, struct inlay_error *err)
{
	int r = 0;

	if (!p->connected) {
		r = client_open(&p->client, p->transport, p->bwlimit, err);
		p->connected = r == 0;
	}
	/* The way to the host is being opened while the folder is walked. */
	if (r == 0 && !p->built)
		r = walk(p, err);
	if (r < 0)
		return r;
	bool known = p->has_acked && !p->distrust;
	r = known ? converse_known(p, err) : converse_unknown(p, err);
	if (r < 0 && p->sending && p->sender.interrupted)
		r = p->sender.interrupted == CLIENT_FAILED ? by_reason(p) : p->sender.interrupted;
	/* A tree that was to be built on is not remembered after all. */
	return known && r == -ESTALE ? PUSH_DISTRUST : r;
}

static int converse_until_done(struct push *p, struct inlay_error *err)
{
	for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
		int r = converse(p, err);
		if (r <= 0 || r == CLIENT_FAILED)
			return r == CLIENT_FAILED ? err->code : r;
		p->distrust |= r == PUSH_DISTRUST || r == PUSH_NO_BASIS;
		p->no_basis |= r == PUSH_NO_BASIS;
		end_conversation(p);
	}
	return inlay_error_set(err, -EAGAIN, "the target changes all the time");
}

/* ---- afterwards ---- */

static int remember(struct push *p, struct inlay_error *err)
{
	struct acked a = {.root = p->goal,
			  .generation = p->result->generation,
			  .time_ns = inlay_now_ns(),
			  .visible_ns = p->result->visible_ns,
			  .sent_bytes = p->client.conn.sent};

	(void)snprintf(a.source, sizeof a.source, "%s", p->source->path);
	(void)snprintf(a.target, sizeof a.target, "%s", p->target_text);
	if (!p->result->changed && p->has_acked) {
		a.time_ns = p->acked.time_ns;
		a.visible_ns = p->acked.visible_ns;
		a.sent_bytes = p->acked.sent_bytes;
	}
	int r = source_save(p->source, err);
	return r == 0 ? acked_write(p->source->targets_fd, &a, err) : r;
}

int push(struct source *s, const struct target *t, const struct transport_options *transport,
	 uint64_t bwlimit, const struct push_options *o, struct push_result *ret,
	 struct inlay_error *err)
{
	auto_buf struct inlay_buf text = {0};
	struct push p = {.source = s,
			 .target = t,
			 .transport = transport,
			 .o = o,
			 .result = ret,
			 .bwlimit = bwlimit};
	int64_t start = inlay_monotonic_ns();

	*ret = (struct push_result){0};
	target_text(t, &text);
	(void)snprintf(p.target_text, sizeof p.target_text, "%s", inlay_buf_cstr(&text));
	int r = acked_read(s->targets_fd, s->path, p.target_text, &p.acked, err);
	/* Remembered trees may be gone with the cache that held them. */
	p.has_acked = r == 0 && inlay_store_has(s->store, &p.acked.root.tree);
	if (r >= 0)
		r = converse_until_done(&p, err);
	if (r == 0 && o->change)
		r = plan_tell(s, none(&p.base) ? NULL : &p.base, &p.goal.tree, o->change, o->ctx,
			      err);
	if (r == 0 && !o->dry_run) {
		ret->durable = true;
		ret->root = p.goal;
		r = remember(&p, err);
	} else if (p.built && !o->dry_run) {
		/* What was hashed need not be hashed again. */
		(void)!source_save(s, NULL);
	}
	end_conversation(&p);
	plan_fini(&p.plan);
	ret->total_ns = inlay_monotonic_ns() - start;
	return r;
}
