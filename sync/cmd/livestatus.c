/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/livestatus.h"

#include <stdio.h>

#include "cmd/pair.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"

const char *livestatus_word(enum peer_state state)
{
	static const char *const words[] = {"?",       "connecting",   "syncing",
					    "in sync", "reconnecting", "halted"};

	return words[state <= PEER_HALTED ? state : 0];
}

/* ---- JSON ---- */

static void head_json(const struct control_head *h)
{
	json_t *j = json_pack(
		"{s:i, s:s, s:o, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "schema", 1, "kind",
		"watch", "source", print_json_name(h->source, strlen(h->source)), "pid",
		(json_int_t)h->pid, "since", print_json_time(h->since_ns), "watches",
		(json_int_t)h->watches, "polled", (json_int_t)h->cold, "overflows",
		(json_int_t)h->overflows, "held", (json_int_t)h->held, "encoded",
		(json_int_t)h->encoded, "shared", (json_int_t)h->shared, "halted", h->halted);

	if (h->why[0])
		(void)json_object_set_new(j, "why", print_json_name(h->why, strlen(h->why)));
	print_json(j);
}

static void row_json(const struct control_row *m)
{
	const struct peer_status *s = &m->status;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&s->root.tree, hex);
	json_t *j = json_pack(
		"{s:i, s:s, s:o, s:s, s:o, s:I, s:s, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:o, s:b}",
		"schema", 1, "kind", "target", "target",
		print_json_name(m->target, strlen(m->target)), "state", livestatus_word(s->state),
		"state_since", print_json_time(s->since_ns), "generation",
		(json_int_t)s->generation, "root", hex, "durable", (json_int_t)s->durable, "behind",
		(json_int_t)(s->goal_seq - s->seq), "mounted", s->mounted, "change_sets",
		(json_int_t)s->change_sets, "connections", (json_int_t)s->connections, "sent_bytes",
		(json_int_t)s->sent_bytes, "received_bytes", (json_int_t)s->received_bytes,
		"codecs", pair_codecs_json(&s->codecs), "changed", m->changed);
	if (s->samples) {
		(void)json_object_set_new(j, "visible_p50_ms", print_json_ms(s->visible_p50_ns));
		(void)json_object_set_new(j, "visible_p95_ms", print_json_ms(s->visible_p95_ns));
	}
	if (s->last_ns)
		(void)json_object_set_new(j, "last", print_json_time(s->last_ns));
	if (s->why[0])
		(void)json_object_set_new(j, "why", print_json_name(s->why, strlen(s->why)));
	print_json(j);
}

/* ---- text ---- */

static void head_text(const struct control_head *h)
{
	struct inlay_buf b = {0};

	inlay_text_escape(&b, h->source, strlen(h->source));
	inlay_buf_printf(&b, " (watch %llu since ", (unsigned long long)h->pid);
	print_local_time(&b, h->since_ns);
	inlay_buf_printf(&b, ", ");
	inlay_text_count(&b, h->watches);
	inlay_buf_printf(&b, " directories");
	if (h->cold) {
		inlay_buf_printf(&b, ", ");
		inlay_text_count(&b, h->cold);
		inlay_buf_printf(&b, " more are polled");
	}
	if (h->held)
		inlay_buf_printf(&b, ", %llu files change all the time",
				 (unsigned long long)h->held);
	inlay_buf_printf(&b, ")\n");
	if (h->why[0]) {
		inlay_buf_printf(&b, "  %s: ", h->halted ? "halted" : "not sent");
		inlay_text_escape(&b, h->why, strlen(h->why));
		inlay_buf_u8(&b, '\n');
	}
	print_text(stdout, &b);
}

static void row_text(const struct control_row *m)
{
	const struct peer_status *s = &m->status;
	struct inlay_buf b = {0};

	inlay_buf_printf(&b, "  ");
	inlay_text_escape(&b, m->target, strlen(m->target));
	inlay_buf_printf(&b, ": %s", livestatus_word(s->state));
	if (s->state != PEER_WATCHING) {
		inlay_buf_printf(&b, " since ");
		print_clock(&b, s->since_ns);
	}
	if (s->why[0]) {
		inlay_buf_printf(&b, ": ");
		inlay_text_escape(&b, s->why, strlen(s->why));
	}
	inlay_buf_printf(&b, "\n    generation %llu%s (", (unsigned long long)s->generation,
			 s->durable < s->generation ? "~" : "");
	print_short_id(&b, &s->root.tree);
	inlay_buf_printf(&b, "), behind %llu", (unsigned long long)(s->goal_seq - s->seq));
	if (s->last_ns) {
		inlay_buf_printf(&b, ", last ");
		print_local_time(&b, s->last_ns);
	}
	inlay_buf_printf(&b, "\n    ");
	inlay_text_count(&b, s->change_sets);
	inlay_buf_printf(&b, " change sets over %llu connections, ",
			 (unsigned long long)s->connections);
	inlay_text_size(&b, s->sent_bytes);
	inlay_buf_printf(&b, " sent");
	if (s->samples) {
		inlay_buf_printf(&b, ", visible after the edit p50 ");
		inlay_text_duration(&b, s->visible_p50_ns);
		inlay_buf_printf(&b, ", p95 ");
		inlay_text_duration(&b, s->visible_p95_ns);
	}
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

void livestatus_print(bool json, const struct control_packet *p)
{
	if (p->kind == CONTROL_HEAD)
		(json ? head_json : head_text)(&p->head);
	else
		(json ? row_json : row_text)(&p->row);
}

/* ---- all of them ---- */

void livestatus_pair(struct inlay_buf *b, const char *source, const char *target)
{
	inlay_buf_printf(b, "%s\n%s", source, target);
}

enum { ASKED_MAX = 256 }; /* at a time */

struct all {
	bool json;
	struct pathset *told;
	unsigned rows;
	char source[CONTROL_TEXT_MAX];
	int asked[ASKED_MAX]; /* watches whose answers are to come */
	size_t asked_count;
};

static int on_packet(void *ctx, const struct control_packet *p, struct inlay_error *err)
{
	struct all *a = ctx;
	auto_buf struct inlay_buf pair = {0};

	(void)err;
	livestatus_print(a->json, p);
	if (p->kind == CONTROL_HEAD) {
		(void)snprintf(a->source, sizeof a->source, "%s", p->head.source);
		return 0;
	}
	a->rows++;
	livestatus_pair(&pair, a->source, p->row.target);
	if (a->told && !pair.failed)
		pathset_add(a->told, inlay_buf_cstr(&pair), pair.len, "", 0);
	return 0;
}

static void hear_all(struct all *a)
{
	for (size_t i = 0; i < a->asked_count; i++) {
		auto_close int own = a->asked[i];
		/* One that ends just now is not there. */
		(void)!control_hear(own, on_packet, a, NULL);
	}
	a->asked_count = 0;
}

static int on_watch(void *ctx, int fd, struct inlay_error *err)
{
	static const struct control_request request = {.verb = CONTROL_STATUS};
	struct all *a = ctx;

	(void)err;
	if (control_say(fd, &request, NULL) < 0) {
		inlay_cleanup_close(&fd);
		return 0;
	}
	a->asked[a->asked_count++] = fd;
	if (a->asked_count == ASKED_MAX)
		hear_all(a);
	return 0;
}

unsigned livestatus_all(const char *state, bool json, struct pathset *told)
{
	struct all a = {.json = json, .told = told};

	(void)!control_each(state, on_watch, &a, NULL);
	hear_all(&a);
	return a.rows;
}
