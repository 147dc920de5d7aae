/* SPDX-License-Identifier: Apache-2.0 */
#include "session/share.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"

#define LOOK_AFTER_NS INT64_C(20000000) /* at the connection, while the set is being made */

enum { PIECE_BYTES = 64 << 10 };

int share_init(struct share *s, struct source *source, struct inlay_error *err)
{
	*s = (struct share){.source = source, .planner = calloc(1, sizeof *s->planner)};
	encodings_init(&s->encodings, source->state_fd);
	(void)pthread_mutex_init(&s->making, NULL);
	return s->planner ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

static void end_planner(struct session *m)
{
	if (m->sending)
		sender_fini(&m->sender);
	plan_fini(&m->plan);
	inlay_idset_fini(&m->known);
	recent_fini(&m->recent);
	inlay_buf_fini(&m->moved_path);
}

void share_fini(struct share *s)
{
	if (s->planner)
		end_planner(s->planner);
	free(s->planner);
	encodings_fini(&s->encodings);
	(void)pthread_mutex_destroy(&s->making);
}

void share_stop(struct share *s)
{
	encodings_stop(&s->encodings);
}

void share_figures(struct share *s, uint64_t *ret_made, uint64_t *ret_taken)
{
	*ret_made = *ret_taken = 0;
	if (!s->source)
		return;
	scope_lock(&s->encodings.lock);
	*ret_made = s->encodings.made;
	*ret_taken = s->encodings.taken;
}

static void free_set(void *about)
{
	struct share_set *set = about;

	inlay_idset_fini(&set->ids);
	free(set->moved_path);
	free(set);
}

/* ---- making ---- */

/* What the plan says in numbers. */
static struct plan counts_of(const struct plan *p)
{
	return (struct plan){.against_base = p->against_base,
			     .added = p->added,
			     .modified = p->modified,
			     .removed = p->removed,
			     .entries = p->entries,
			     .bytes = p->bytes,
			     .file_count = 0};
}

static int encode(struct session *m, struct encoded *e, struct share_set *set,
		  struct inlay_error *err)
{
	int r = session_plan(m, PLAN_FILES | (inlay_digest_is_zero(&m->base) ? 0 : PLAN_GONE), err);

	if (r < 0)
		return r;
	set->counts = counts_of(&m->plan);
	encoded_begin(e, set, free_set);
	/* A signature comes from one target, and may take its time. */
	if (session_needs_signatures(m))
		return SHARE_ALONE;
	r = session_begin_sending(m, 0, err);
	if (r == 0)
		r = session_send_objects(m, err);
	if (r == SESSION_LATER)
		set->moved_path = strdup(inlay_buf_cstr(&m->moved_path));
	if (r == 0)
		r = sender_end(&m->sender, err);
	if (r != 0)
		return r;
	set->codecs = m->sender.codecs;
	m->sender.codecs = (struct codecs){0};
	set->ids = m->sender.out.ended;
	m->sender.out.ended = (struct inlay_idset){0};
	m->torn_set = false;
	return 0;
}

/* Makes the set that `p` needs in the session without a connection. */
static void make_with(struct session *m, const struct session *p, struct encoded *e)
{
	struct share_set *set = calloc(1, sizeof *set);
	struct inlay_error err = {0};

	m->source = p->source;
	m->o = p->o;
	m->result = &m->idle;
	m->given = p->given;
	m->built = true;
	m->base = p->base;
	m->root = m->goal = p->goal;
	m->onto = e;
	int r = set ? encode(m, e, set, &err) : -ENOMEM;
	if (set && !encoded_about(e))
		free_set(set);
	/* A stream that was not brought to its end cannot be the beginning of another. */
	if (r != 0 && m->sending) {
		sender_fini(&m->sender);
		m->sending = m->torn_set = false;
	}
	if (m->plan.file_count > SESSION_LARGE_SET)
		inlay_trees_forget(m->source->trees);
	inlay_idset_fini(&m->known);
	plan_fini(&m->plan);
	m->onto = NULL;
	encoded_end(e, r == 0);
}

static void make(struct share *s, const struct session *p, struct encoded *e)
{
	if (pthread_mutex_trylock(&s->making) == 0) {
		make_with(s->planner, p, e);
		(void)pthread_mutex_unlock(&s->making);
		return;
	}
	/* Another one is being made, which may be large. */
	auto_free struct session *m = calloc(1, sizeof *m);
	if (m) {
		make_with(m, p, e);
		end_planner(m);
	} else {
		encoded_end(e, false);
	}
}

/* ---- taking ---- */

void share_drop(struct session *p)
{
	encoded_unref(p->flight);
	p->flight = NULL;
}

const struct share_set *share_set(const struct session *p)
{
	return encoded_about(p->flight);
}

int share_take(struct session *p, struct inlay_error *err)
{
	struct share *s = p->o->share;
	struct encoded_key key = {.from = p->base, .to = p->goal.tree};

	share_drop(p);
	inlay_idset_fini(&p->known);
	p->sender.level = p->o->level;
	key.level = sender_level(&p->sender);
	int r = encodings_get(&s->encodings, &key, &p->flight, err);
	if (r < 0)
		return r;
	if (r == ENCODED_MAKE)
		make(s, p, p->flight);
	if (encoded_await(p->flight) == 0) {
		plan_fini(&p->plan);
		p->plan = share_set(p)->counts;
		return 0;
	}
	const struct share_set *set = share_set(p);
	bool later = set && set->moved_path;
	if (later) {
		inlay_buf_clear(&p->moved_path);
		inlay_buf_add(&p->moved_path, set->moved_path, strlen(set->moved_path));
	}
	share_drop(p);
	return later ? SESSION_LATER : SHARE_ALONE;
}

int share_send(struct session *p, struct inlay_error *err)
{
	auto_free uint8_t *piece = malloc(PIECE_BYTES);
	uint64_t at = 0;
	size_t n;
	int r = piece ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	while (r == 0) {
		r = encoded_read(p->flight, at, piece, PIECE_BYTES, LOOK_AFTER_NS, &n, err);
		if (r == ENCODED_SLOW) {
			r = client_drain(&p->client, SIZE_MAX, err);
			continue;
		}
		if (r == 0)
			r = sender_pass(&p->sender, piece, n, err);
		at += n;
	}
	/* Some of it was sent, and the rest will never come. */
	if (r == ENCODED_FAILED)
		return inlay_error_set(err, -ECONNABORTED, "the folder changed while it was sent");
	if (r != ENCODED_END)
		return r;
	codecs_add(&p->sender.codecs, &share_set(p)->codecs);
	return 0;
}
