/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/steps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cmd/print.h"
#include "inlay/text.h"

const char *steps_event_name(enum site_event_kind kind)
{
	static const char *const names[] = {"hook-begin", "hook-output", "hook-end", "up",
					    "failed",     "back",        "done"};

	return names[kind];
}

void steps_fill_result(json_t *j, int status, bool timed_out)
{
	(void)json_object_update_new(
		j, json_pack("{s:b, s:b, s:i}", "ok", status == 0 && !timed_out, "timed_out",
			     timed_out, "exit",
			     WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)));
}

void steps_fill_json(json_t *j, const struct site_event *e)
{
	if (e->step)
		(void)json_object_set_new(j, "step", json_string(e->step));
	if (e->text)
		(void)json_object_set_new(j, "text", print_json_name(e->text, e->len));
	if (e->kind == SITE_TEXT)
		(void)json_object_set_new(j, "stream",
					  json_string(e->errors ? "stderr" : "stdout"));
	if (e->kind == SITE_BACK)
		(void)json_object_update_new(
			j, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "folder", e->back->folder,
				     "brought", (json_int_t)e->back->brought, "bytes",
				     (json_int_t)e->back->bytes, "same", (json_int_t)e->back->same,
				     "conflicts", (json_int_t)e->back->conflicts, "failed",
				     (json_int_t)e->back->failures));
	if (e->kind == SITE_END) {
		steps_fill_result(j, e->status, e->timed_out);
		(void)json_object_update_new(j, json_pack("{s:b, s:o}", "cut", e->cut, "took_ms",
							  print_json_ms(e->took_ns)));
	}
}

void steps_put_result(struct inlay_buf *b, int status, bool timed_out)
{
	if (timed_out)
		inlay_buf_printf(b, "did not end in time");
	else if (WIFSIGNALED(status))
		inlay_buf_printf(b, "ended by SIG%s", sigabbrev_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		inlay_buf_printf(b, "failed with %d", WEXITSTATUS(status));
	else
		inlay_buf_printf(b, "ok");
}

void steps_put_end(struct inlay_buf *b, const struct site_event *e)
{
	steps_put_result(b, e->status, e->timed_out);
	inlay_buf_printf(b, ", ");
	inlay_text_duration(b, e->took_ns);
	if (e->cut)
		inlay_buf_printf(b, " (some of its output was left out)");
}

void steps_put_back(struct inlay_buf *b, const struct back_counts *c)
{
	inlay_buf_printf(b, "back to ");
	inlay_text_escape(b, c->folder, strlen(c->folder));
	inlay_buf_printf(b, ": %llu brought (", (unsigned long long)c->brought);
	inlay_text_size(b, c->bytes);
	inlay_buf_printf(b, "), %llu the same", (unsigned long long)c->same);
	if (c->conflicts)
		inlay_buf_printf(b,
				 ", %llu kept: changed here ('inlay pull --force' overwrites them)",
				 (unsigned long long)c->conflicts);
	if (c->failures)
		inlay_buf_printf(b, ", %llu failed", (unsigned long long)c->failures);
}

struct steps_partial {
	const void *of;
	struct inlay_buf rest[2]; /* of standard output, of error */
};

static struct steps_partial *find_partial(struct steps_lines *l, const void *of)
{
	for (size_t i = 0; i < l->count; i++)
		if (l->list[i].of == of)
			return &l->list[i];
	struct steps_partial *more = reallocarray(l->list, l->count + 1, sizeof *more);
	if (!more)
		return NULL;
	l->list = more;
	l->list[l->count] = (struct steps_partial){.of = of};
	return &l->list[l->count++];
}

static void cut_lines(struct inlay_buf *rest, const char *at, size_t len, bool last,
		      void (*line)(void *ctx, const struct inlay_buf *text), void *ctx)
{
	const char *end = at + len;

	while (at < end || (last && rest->len)) {
		const char *newline = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
		auto_buf struct inlay_buf text = {0};
		inlay_buf_add(rest, at, (size_t)((newline ? newline : end) - at));
		at = newline ? newline + 1 : end;
		if (!newline && !last)
			break;
		inlay_text_escape(&text, rest->data, rest->len);
		inlay_buf_clear(rest);
		line(ctx, &text);
	}
}

void steps_lines_add(struct steps_lines *l, const void *of, const struct site_event *e,
		     void (*line)(void *ctx, const struct inlay_buf *text), void *ctx)
{
	struct steps_partial *p = find_partial(l, of);

	if (!p)
		return;
	if (e->kind == SITE_TEXT)
		cut_lines(&p->rest[e->errors], e->text, e->len, false, line, ctx);
	for (int i = 0; i < 2 && e->kind == SITE_END; i++)
		cut_lines(&p->rest[i], "", 0, true, line, ctx);
}

void steps_lines_fini(struct steps_lines *l)
{
	for (size_t i = 0; i < l->count; i++) {
		inlay_buf_fini(&l->list[i].rest[0]);
		inlay_buf_fini(&l->list[i].rest[1]);
	}
	free(l->list);
	*l = (struct steps_lines){0};
}
