/* SPDX-License-Identifier: Apache-2.0 */
#include "session/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "session/share.h"

enum {
	ATTEMPTS_MAX = 8,     /* conversations until a push gives up */
	ASK_AFTER = 64 << 10, /* bytes of a cut change set for which it is worth a round trip */
};

/* A kept session asks for a sign of life after the first, and takes the peer for dead after the second. */
#define PING_AFTER_NS   INT64_C(10000000000)
#define DEAD_AFTER_NS   INT64_C(15000000000)
#define ANSWER_AFTER_NS INT64_C(120000000000)

int session_init(struct session *s, struct source *source, const struct target *t,
		 const struct transport_options *transport, uint64_t bwlimit,
		 const struct push_options *o, struct inlay_error *err)
{
	auto_buf struct inlay_buf text = {0};

	*s = (struct session){
		.source = source, .target = t, .transport = transport, .o = o, .bwlimit = bwlimit};
	s->result = &s->idle;
	target_text(t, &text);
	(void)snprintf(s->target_text, sizeof s->target_text, "%s", inlay_buf_cstr(&text));
	if (getrandom(&s->lease, sizeof s->lease, 0) != sizeof s->lease)
		return inlay_error_sys(err, -errno, "make a random number");
	int r = acked_read(source->targets_fd, source->path, s->target_text, &s->acked, err);
	/* Remembered trees may be gone with the cache that held them. */
	s->has_acked = r == 0 && inlay_store_has(source->store, &s->acked.root.tree);
	return r < 0 ? r : 0;
}

int64_t session_patience(const struct session *p)
{
	int64_t ns = p->o->patience_ns ? p->o->patience_ns : p->given ? ANSWER_AFTER_NS : 0;

	return ns ? ns + p->o->before_ns : 0;
}

/* Adds what the connection carried since the last time to the result. */
static void count(struct session *s)
{
	const struct conn *c = &s->client.conn;

	if (!s->connected)
		return;
	s->result->sent_bytes += c->sent - s->counted_sent;
	s->result->received_bytes += c->received - s->counted_received;
	s->counted_sent = c->sent;
	s->counted_received = c->received;
	if (!s->sending)
		return;
	codecs_add(&s->result->codecs, &s->sender.codecs);
	s->sender.codecs = (struct codecs){0};
}

void session_hang_up(struct session *s, bool now)
{
	count(s);
	share_drop(s);
	if (s->sending)
		sender_fini(&s->sender);
	if (s->connected && now)
		client_kill(&s->client);
	client_close(&s->client);
	inlay_idset_fini(&s->known);
	inlay_idset_fini(&s->lost);
	s->connected = s->sending = s->live = s->torn_set = false;
	s->counted_sent = s->counted_received = 0;
	s->commits = 0;
	s->pinged_ns = 0;
	s->base = (struct inlay_digest){0};
	s->opened = (struct message_opened){0};
}

/* ---- pushing ---- */

static int converse_until_done(struct session *s, struct inlay_error *err)
{
	for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
		int r = session_converse(s, err);
		if (r <= 0 || r == CLIENT_FAILED || r == SESSION_LATER)
			return r == CLIENT_FAILED ? err->code : r;
		s->distrust |= r == PUSH_DISTRUST || r == PUSH_NO_BASIS;
		s->no_basis |= r == PUSH_NO_BASIS;
		session_hang_up(s, false);
	}
	return inlay_error_set(err, -EAGAIN, "the target changes all the time");
}

/* What the target is known to have, for the next connection. */
static int remember(struct session *s, struct inlay_error *err)
{
	struct acked *a = &s->acked;

	if (s->result->changed || !s->has_acked) {
		a->time_ns = inlay_now_ns();
		a->visible_ns = s->result->visible_ns;
		a->sent_bytes = s->result->sent_bytes;
	}
	a->root = s->goal;
	a->generation = s->result->generation;
	(void)snprintf(a->source, sizeof a->source, "%s", s->source->path);
	(void)snprintf(a->target, sizeof a->target, "%s", s->target_text);
	s->has_acked = true;
	s->distrust = s->no_basis = s->broken = false;
	s->generation = a->generation;
	if (!s->until_durable)
		return 0;
	return session_save(s, err);
}

int session_save(struct session *s, struct inlay_error *err)
{
	if (!s->has_acked || s->remembered == s->generation)
		return 0;
	int r = inlay_store_flush(s->source->store, err);
	if (r == 0)
		r = acked_write(s->source->targets_fd, &s->acked, err);
	if (r == 0)
		s->remembered = s->generation;
	return r;
}

/* What a large change set needed is not needed for the next one. */
static void let_go(struct session *s)
{
	plan_fini(&s->plan);
	inlay_idset_fini(&s->known);
	inlay_idset_fini(&s->sender.out.ended);
	inlay_trees_forget(s->source->trees);
	inlay_give_memory_back();
}

int session_push(struct session *s, const struct inlay_root *root, bool durable,
		 struct push_result *ret, struct inlay_error *err)
{
	int64_t start = inlay_monotonic_ns();

	*ret = (struct push_result){0};
	s->result = ret;
	s->until_durable = durable;
	share_drop(s);
	/* Others find out anew: what is shared knows nothing of this target's losses. */
	if (s->o->share)
		inlay_idset_fini(&s->lost);
	s->given = s->built = root != NULL;
	if (root)
		s->root = s->goal = *root;
	if (s->live) {
		ret->mounted = s->opened.mounted;
		(void)snprintf(ret->path, sizeof ret->path, "%s", s->idle.path);
	}
	int r = converse_until_done(s, err);
	count(s);
	if (r == 0 && !s->o->dry_run) {
		s->live = true;
		s->opened.mounted = ret->mounted;
		ret->durable = s->opened.durable >= ret->generation;
		ret->root = s->goal;
		r = remember(s, err);
	}
	if (r == 0 && s->plan.file_count > SESSION_LARGE_SET)
		let_go(s);
	/* What arrived of a large change set that was cut is asked for next time. */
	if (r != 0 && (s->torn_set || s->commits > 0) && ret->sent_bytes > ASK_AFTER)
		s->broken = true;
	ret->total_ns = inlay_monotonic_ns() - start;
	/* OPEN was said, and its answer not heard. */
	if (r == SESSION_LATER && !s->live)
		session_hang_up(s, false);
	/* A halt of ours comes before anything is sent: what was agreed on still holds. */
	if (r < 0 && !(s->live && s->commits == 0 && inlay_error_exit(err) == INLAY_EXIT_HALT))
		session_hang_up(s, true);
	s->idle = *ret;
	s->result = &s->idle;
	return r;
}

/* ---- in between ---- */

static int take_messages(struct session *s, struct inlay_error *err)
{
	struct frame f;
	int r;

	while ((r = conn_next(&s->client.conn, &f, err)) == 0) {
		if (f.type == MESSAGE_FAILED) {
			r = client_hear_failed(&s->client, &f, err);
			if (r < 0 || session_robbed(s))
				return r < 0 ? r : err->code;
			/* It shows what was sent but cannot write it to its disk yet; it goes on trying. */
			continue;
		}
		r = session_hear(s, &f, err);
		if (r == 0)
			r = client_drain(&s->client, SIZE_MAX, err);
		if (r != 0)
			return r < 0 ? r : inlay_error_set(err, -ECONNRESET, "the session broke");
	}
	if (r == CONN_END)
		return inlay_error_set(err, -ECONNRESET, "the connection was lost");
	return r < 0 ? r : 0;
}

bool session_robbed(const struct session *s)
{
	return s->client.failed.reason == MESSAGE_REASON_ROBBED;
}

static int keep_alive(struct session *s, struct inlay_error *err)
{
	struct inlay_buf none = {0};
	int64_t now = inlay_monotonic_ns();

	if (s->pinged_ns && now - s->pinged_ns > DEAD_AFTER_NS)
		return inlay_error_set(err, -ETIMEDOUT, "the host does not answer any more");
	if (s->pinged_ns || now - s->heard_ns < PING_AFTER_NS)
		return 0;
	s->pinged_ns = now;
	int r = client_send(&s->client, MESSAGE_PING, &none, err);
	return r < 0 ? r : client_drain(&s->client, SIZE_MAX, err);
}

void session_doubt(struct session *s)
{
	if (!s->pinged_ns)
		s->heard_ns = 0;
}

int session_wait(struct session *s, int wake_fd, int64_t deadline_ns, struct inlay_error *err)
{
	for (;;) {
		int r = take_messages(s, err);
		if (r == 0)
			r = keep_alive(s, err);
		if (r < 0)
			return r;
		if (s->remembered != s->generation && s->opened.durable >= s->generation)
			return SESSION_DURABLE;
		int64_t now = inlay_monotonic_ns();
		if (deadline_ns && now >= deadline_ns)
			return 0;
		int64_t next =
			s->pinged_ns ? s->pinged_ns + DEAD_AFTER_NS : s->heard_ns + PING_AFTER_NS;
		if (deadline_ns && deadline_ns < next)
			next = deadline_ns;
		r = conn_wait(&s->client.conn, wake_fd, next, err);
		if (r == 1)
			return SESSION_WOKEN;
		if (r < 0 && r != -ETIMEDOUT)
			return r;
	}
}

void session_close(struct session *s)
{
	session_hang_up(s, false);
	plan_fini(&s->plan);
	recent_fini(&s->recent);
	inlay_buf_fini(&s->moved_path);
}
