/* SPDX-License-Identifier: Apache-2.0 */
/* A change set on its way, and the answers to it. */
#include "session/session.h"

#include <errno.h>
#include <stdio.h>

#include "inlay/io.h"
#include "session/share.h"

/* ---- progress ---- */

void session_tell(struct session *p, enum push_phase phase)
{
	p->progress.phase = phase;
	p->progress.sent_bytes = p->client.conn.sent;
	p->progress.queued_bytes = conn_queued(&p->client.conn);
	if (p->o->progress)
		p->o->progress(p->o->ctx, &p->progress);
}

static void moved(void *ctx)
{
	struct session *p = ctx;
	bool all = p->progress.phase == PUSH_WAITING && conn_queued(&p->client.conn) == 0;

	session_tell(p, all ? PUSH_WAITING : PUSH_SENDING);
}

void session_file_done(void *ctx, uint64_t size)
{
	struct session *p = ctx;

	p->progress.files_done++;
	p->progress.bytes_done += size;
	session_tell(p, p->progress.phase);
}

static void copy_text(char *to, size_t size, struct message_text t)
{
	(void)snprintf(to, size, "%.*s", (int)(t.len < size ? t.len : size - 1), t.bytes);
}

int session_hear_opened(struct session *p, const struct frame *f, struct inlay_error *err)
{
	int r = message_decode_opened(f->payload, f->len, &p->opened, err);

	if (r < 0)
		return r;
	copy_text(p->result->path, sizeof p->result->path, p->opened.path);
	copy_text(p->result->mount_text, sizeof p->result->mount_text, p->opened.mount_text);
	if (p->opened.aside.len > 0)
		copy_text(p->result->aside, sizeof p->result->aside, p->opened.aside);
	p->result->mounted = p->opened.mounted;
	return 0;
}

/* ---- sending ---- */

static bool none(const struct inlay_digest *d)
{
	return inlay_digest_is_zero(d);
}

static int get_sender(struct session *p, struct inlay_error *err)
{
	int r = p->sending ? 0 : sender_init(&p->sender, p->source, &p->client, err);

	if (r < 0)
		return r;
	p->sending = true;
	p->client.conn.moved = moved;
	p->client.conn.moved_ctx = p;
	p->sender.onto = p->onto;
	p->sender.out.apart = p->onto || p->o->share;
	p->sender.known = &p->known;
	p->sender.moved = moved;
	p->sender.ctx = p;
	p->sent_from_ns = inlay_monotonic_ns();
	return 0;
}

int session_begin_sending(struct session *p, uint64_t bytes, struct inlay_error *err)
{
	int r = get_sender(p, err);

	if (r < 0)
		return r;
	/* What was sent for a state that is no more stays numbered, and the stream goes on. */
	if (p->torn_set)
		return 0;
	p->torn_set = true;
	p->sender.level = p->o->level;
	return sender_whole(&p->sender, bytes, err);
}

static int say_commit(struct session *p, const struct inlay_digest *expect, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct message_commit m = {.expect = *expect,
				   .root = p->goal,
				   .changed = p->plan.added + p->plan.modified + p->plan.removed};

	message_encode_commit(&b, &m);
	int r = client_send(&p->client, MESSAGE_COMMIT, &b, err);
	if (r == 0)
		r = client_drain(&p->client, SIZE_MAX, err);
	p->commits += r == 0;
	p->torn_set = false;
	return r;
}

int session_send_commit(struct session *p, const struct inlay_digest *expect,
			struct inlay_error *err)
{
	int r = sender_end(&p->sender, err);

	return r == 0 ? say_commit(p, expect, err) : r;
}

int session_send_objects(struct session *p, struct inlay_error *err)
{
	int r = session_send_files(p, err);

	if (r == SOURCE_AGAIN) {
		/* A file is no longer what was hashed: the state to be sent is a newer one. */
		p->built = p->given;
		return p->given ? SESSION_LATER : PUSH_AGAIN;
	}
	return r == 0 ? sender_tree(&p->sender, none(&p->base) ? NULL : &p->base, &p->goal.tree,
				    err)
		      : r;
}

static int send_flight(struct session *p, const struct inlay_digest *expect,
		       struct inlay_error *err)
{
	int r = get_sender(p, err);

	p->torn_set = true;
	if (r == 0)
		r = share_send(p, err);
	return r == 0 ? say_commit(p, expect, err) : r;
}

int session_send_set(struct session *p, const struct inlay_digest *expect, struct inlay_error *err)
{
	if (p->flight)
		return send_flight(p, expect, err);
	int r = session_begin_sending(p, 0, err);
	if (r == 0)
		r = session_send_objects(p, err);
	return r == 0 ? session_send_commit(p, expect, err) : r;
}

/* ---- what a target lost ---- */

struct resend {
	struct session *p;
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
static int send_wanted(struct session *p, const struct frame *f, struct inlay_error *err)
{
	struct inlay_idset wanted = {0}, nothing = {0};
	struct resend w = {.p = p, .wanted = &wanted};
	struct source_consumer c = sender_consumer(&p->sender);
	int r = message_decode_want(f->payload, f->len, &wanted, err);

	if (r == 0)
		r = inlay_tree_reach(p->source->trees, &p->goal.tree, sort_out, NULL, &w, err);
	p->sender.known = &nothing;
	if (r == 0)
		r = sender_whole(&p->sender, 0, err);
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

static int hear_want(struct session *p, const struct frame *f, struct inlay_error *err)
{
	/* Before the change set's own COMMIT was answered, or as its answer? Either way it is followed by one
	 * COMMIT more, and the target asks again for what is still missing. */
	bool is_answer = p->opened.wanted == 0 && p->commits > 0;
	struct inlay_digest expect = p->opened.live.root.tree;
	int r = p->sending ? 0 : session_begin_sending(p, 0, err);

	if (r == 0)
		r = send_wanted(p, f, err);
	if (r < 0)
		return r;
	if (is_answer)
		p->commits--;
	else if (p->commits > 0 || p->result->changed)
		expect = p->goal.tree;
	p->opened.wanted = 0;
	return session_send_commit(p, &expect, err);
}

/* The rest of a set that others send, too, is this session's own. What had arrived of it stays known. */
static int plan_alone(struct session *p, struct inlay_error *err)
{
	struct inlay_idset taken = p->known;

	p->known = (struct inlay_idset){0};
	share_drop(p);
	int r = session_plan(p, PLAN_FILES | (none(&p->base) ? 0 : PLAN_GONE), err);
	for (size_t i = 0; r >= 0 && i < taken.count; i++)
		r = inlay_idset_add(&p->known, &taken.members[i], err);
	inlay_idset_fini(&taken);
	return r < 0 ? r : 0;
}

/* An old content that the change set builds on is not there, or another one. What came before it stays; the
 * rest is sent again, without those. */
static int hear_nak(struct session *p, const struct frame *f, struct inlay_error *err)
{
	const struct inlay_idset *sent = p->flight ? &share_set(p)->ids : &p->sender.out.ended;
	struct message_nak m;
	bool news = false;
	int r = message_decode_nak(f->payload, f->len, &m, err);

	if (r == 0 && (p->commits != 1 || !p->sending || m.taken > sent->count || m.count == 0))
		r = inlay_error_set(err, -EPROTO, "a NAK for nothing");
	if (r < 0)
		return r;
	for (size_t i = 0; r >= 0 && i < m.taken; i++)
		r = inlay_idset_add(&p->known, &sent->members[i], err);
	for (size_t i = 0; r >= 0 && i < m.count; i++) {
		struct inlay_digest lost = {0};
		memcpy(lost.b, m.prefixes + 8 * i, 8);
		r = inlay_idset_add(&p->lost, &lost, err);
		news |= r == 0;
	}
	/* Each one costs it a basis, so this ends. */
	if (r >= 0 && !news)
		r = inlay_error_set(err, -EPROTO, "a NAK that tells nothing new");
	if (r >= 0)
		r = sender_restart(&p->sender, err);
	if (r >= 0 && p->flight)
		r = plan_alone(p, err);
	if (r < 0)
		return r;
	p->commits = 0;
	return session_send_set(p, none(&p->base) ? &p->opened.live.root.tree : &p->base, err);
}

/* ---- the answers ---- */

static int hear_visible(struct session *p, const struct frame *f, struct inlay_error *err)
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
	p->generation = m.number;
	p->visible_ns = p->result->visible_ns;
	copy_text(p->result->mount_text, sizeof p->result->mount_text, m.mount_text);
	p->result->mounted = m.mounted;
	p->opened.live.root = p->goal;
	p->opened.live.number = m.number;
	p->opened.live.entries = p->plan.entries;
	return 0;
}

static int hear_durable(struct session *p, const struct frame *f, struct inlay_error *err)
{
	struct message_durable m;
	int r = message_decode_durable(f->payload, f->len, &m, err);

	if (r == 0 && m.number > p->opened.durable)
		p->opened.durable = m.number;
	return r;
}

int session_by_reason(const struct session *p)
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

/* `before` runs there. */
static int hear_row(struct session *p, const struct frame *f, struct inlay_error *err)
{
	struct message_hook m;
	int r = message_decode_hook(f->payload, f->len, &m, err);

	if (r == 0 && p->o->before.len == 0)
		return inlay_error_set(err, -EPROTO, "a row that nobody asked for");
	if (r == 0 && p->o->hook)
		p->o->hook(p->o->ctx, &m);
	return r;
}

int session_hear(struct session *p, const struct frame *f, struct inlay_error *err)
{
	p->heard_ns = inlay_monotonic_ns();
	switch (f->type) {
	case MESSAGE_WANT:
		return hear_want(p, f, err);
	case MESSAGE_NAK:
		return hear_nak(p, f, err);
	case MESSAGE_VISIBLE:
		return hear_visible(p, f, err);
	case MESSAGE_ROW:
		return hear_row(p, f, err);
	case MESSAGE_DURABLE:
		return hear_durable(p, f, err);
	case MESSAGE_PONG:
		p->pinged_ns = 0;
		return 0;
	default:
		return inlay_error_set(err, -EPROTO, "an unexpected message %u", f->type);
	}
}

static bool settled(const struct session *p)
{
	return p->commits == 0 && p->opened.wanted == 0 &&
	       (!p->until_durable || p->opened.durable >= p->result->generation);
}

int session_wait_settled(struct session *p, struct inlay_error *err)
{
	struct frame f;
	int r = 0;

	session_tell(p, conn_queued(&p->client.conn) > 0 ? PUSH_SENDING : PUSH_WAITING);
	while (r == 0 && !settled(p)) {
		r = client_recv(&p->client, session_patience(p), &f, err);
		if (r == CLIENT_FAILED)
			return session_by_reason(p);
		if (r != 0)
			return r;
		r = session_hear(p, &f, err);
	}
	return r;
}

bool session_same_root(const struct inlay_root *a, const struct inlay_root *b)
{
	return inlay_digest_equal(&a->tree, &b->tree) && a->mode == b->mode &&
	       a->mtime_ns == b->mtime_ns;
}
