/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/livestatus.h"
#include "cmd/print.h"
#include "cmd/setup.h"
#include "cmd/steps.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"
#include "project/upstate.h"
#include "session/source.h"

static const char help[] = "usage: inlay status [options] [DST...]\n"
			   "\n"
			   "With DST, asks that host. Without, tells what is remembered here of "
			   "every project and target,\n"
			   "without asking anybody.\n"
			   "\n" COMMON_HELP;

struct options {
	struct common common;
	unsigned rows;
	struct pathset live; /* pairs that a watch told about */
	const char *dst;
};

/* ---- asking a host ---- */

static const char *mount_word(const struct message_status *m)
{
	return m->mounted        ? "mounted"
	       : m->mount_wanted ? "not mounted, but should be"
				 : "not mounted";
}

static void put_text(struct inlay_buf *b, const char *label, struct message_text t)
{
	if (t.len == 0)
		return;
	inlay_buf_printf(b, "  %-11s ", label);
	inlay_text_escape(b, t.bytes, t.len);
	inlay_buf_u8(b, '\n');
}

/* What was written there, and how the workspace treats it. */
static void put_written(struct inlay_buf *b, const struct message_status *m)
{
	struct message_text paths = m->shadowed_paths, redirects = m->config.redirects;

	inlay_buf_printf(b, "  %-11s %s", "upper", setup_upper_word(&m->config));
	if (m->mounted) {
		inlay_buf_printf(b, ", ");
		inlay_text_count(b, m->upper_entries);
		inlay_buf_printf(b, " entries, ");
		inlay_text_count(b, m->shadowed);
		inlay_buf_printf(b, " of them hide%s what was synced", m->shadowed == 1 ? "s" : "");
	}
	inlay_buf_u8(b, '\n');
	for (size_t at = 0; at < paths.len; at += strlen(paths.bytes + at) + 1)
		put_text(b, at ? "" : "hidden", message_text_of(paths.bytes + at));
	for (size_t at = 0; at < redirects.len; at += strlen(redirects.bytes + at) + 1)
		put_text(b, at ? "" : "redirected", message_text_of(redirects.bytes + at));
}

/* How each hook ended last. */
static void put_hooks(struct inlay_buf *b, const struct message_status *m)
{
	struct message_text rest = m->hooks, one;
	const char *label = "hooks";

	while (message_next_text(&rest, &one)) {
		struct message_outcome h;
		if (message_decode_outcome(one.bytes, one.len, &h, NULL) < 0)
			return;
		inlay_buf_printf(b, "  %-11s ", label);
		inlay_text_escape(b, h.name.bytes, h.name.len);
		inlay_buf_printf(b, ": ");
		steps_put_result(b, h.status, h.timed_out);
		inlay_buf_printf(b, ", ");
		inlay_text_duration(b, (int64_t)h.took_ns);
		if (h.generation)
			inlay_buf_printf(b, ", generation %llu", (unsigned long long)h.generation);
		inlay_buf_printf(b, ", ");
		print_local_time(b, h.time_ns);
		inlay_buf_u8(b, '\n');
		label = "";
	}
}

static json_t *hooks_json(const struct message_status *m)
{
	struct message_text rest = m->hooks, one;
	json_t *list = json_array();

	while (message_next_text(&rest, &one)) {
		struct message_outcome h;
		if (message_decode_outcome(one.bytes, one.len, &h, NULL) < 0)
			break;
		json_t *j = json_pack(
			"{s:o, s:o, s:o, s:I}", "hook", print_json_name(h.name.bytes, h.name.len),
			"time", print_json_time(h.time_ns), "took_ms",
			print_json_ms((int64_t)h.took_ns), "generation", (json_int_t)h.generation);
		steps_fill_result(j, h.status, h.timed_out);
		(void)json_array_append_new(list, j);
	}
	return list;
}

static void print_row(const struct message_status *m)
{
	struct inlay_buf b = {0};

	inlay_text_escape(&b, m->path.bytes, m->path.len);
	inlay_buf_printf(&b, "\n  %-11s %llu%s (", "generation", (unsigned long long)m->live.number,
			 m->live.number > m->durable ? "~, not durable yet" : "");
	print_short_id(&b, &m->live.root.tree);
	inlay_buf_printf(&b, "), ");
	inlay_text_count(&b, m->live.entries);
	inlay_buf_printf(&b, " entries, ");
	inlay_text_size(&b, m->live.bytes);
	if (m->live.number) {
		inlay_buf_printf(&b, "\n  %-11s ", "published");
		print_local_time(&b, m->live.time_ns);
		inlay_buf_printf(&b, " by ");
		inlay_text_escape(&b, m->live.origin, strlen(m->live.origin));
	}
	inlay_buf_printf(&b, "\n  %-11s %s%s", "mount", mount_word(m),
			 m->mounted ? (m->everybody ? ", for everybody" : ", for its owner only")
				    : "");
	if (m->mounted)
		inlay_buf_printf(
			&b, ", worker %llu, started %llu time%s", (unsigned long long)m->worker_pid,
			(unsigned long long)m->worker_starts, m->worker_starts == 1 ? "" : "s");
	inlay_buf_u8(&b, '\n');
	put_text(&b, "", m->mount_text);
	put_written(&b, m);
	put_hooks(&b, m);
	if (m->durable_failed)
		put_text(&b, "disk", m->durable_text);
	if (m->damaged)
		inlay_buf_printf(&b, "  %-11s %llu objects; the next sync sends them again\n",
				 "damaged", (unsigned long long)m->damaged);
	put_text(&b, "in use by", m->owner);
	inlay_buf_printf(&b, "  %-11s ", "store");
	inlay_text_count(&b, m->store_objects);
	inlay_buf_printf(&b, " objects, ");
	inlay_text_size(&b, m->store_bytes);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

static json_t *names(struct message_text list)
{
	json_t *array = json_array();

	for (size_t at = 0; at < list.len; at += strlen(list.bytes + at) + 1)
		(void)json_array_append_new(
			array, print_json_name(list.bytes + at, strlen(list.bytes + at)));
	return array;
}

static void print_row_json(const char *dst, const struct message_status *m)
{
	json_t *j = print_json_generation(&m->live);

	(void)json_object_update_new(
		j, json_pack("{s:i, s:o, s:o, s:I, s:b, s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:I}",
			     "schema", 1, "target", print_json_name(dst, strlen(dst)), "path",
			     print_json_name(m->path.bytes, m->path.len), "durable",
			     (json_int_t)m->durable, "durable_failed", m->durable_failed, "mounted",
			     m->mounted, "mount_wanted", m->mount_wanted, "everybody", m->everybody,
			     "worker_pid", (json_int_t)m->worker_pid, "worker_starts",
			     (json_int_t)m->worker_starts, "damaged", (json_int_t)m->damaged,
			     "store_objects", (json_int_t)m->store_objects, "store_bytes",
			     (json_int_t)m->store_bytes));
	(void)json_object_update_new(
		j, json_pack("{s:s, s:b, s:s, s:o, s:I, s:I, s:o}", "upper",
			     setup_upper_word(&m->config), "xattrs", m->config.xattrs == 2,
			     "owner_policy", setup_owner_word(&m->config), "redirects",
			     names(m->config.redirects), "upper_entries",
			     (json_int_t)m->upper_entries, "shadowed", (json_int_t)m->shadowed,
			     "shadowed_paths", names(m->shadowed_paths)));
	(void)json_object_set_new(j, "hooks", hooks_json(m));
	if (m->mount_text.len)
		(void)json_object_set_new(j, "mount_text",
					  print_json_name(m->mount_text.bytes, m->mount_text.len));
	if (m->durable_text.len)
		(void)json_object_set_new(
			j, "durable_text",
			print_json_name(m->durable_text.bytes, m->durable_text.len));
	if (m->owner.len)
		(void)json_object_set_new(j, "owner",
					  print_json_name(m->owner.bytes, m->owner.len));
	print_json(j);
}

static int on_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct message_status m;
	int r = message_decode_status(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (o->common.json)
		print_row_json(o->dst, &m);
	else
		print_row(&m);
	o->rows++;
	return 0;
}

static int ask(struct options *o, const char *dst)
{
	static const struct message_request request = {.verb = MESSAGE_VERB_STATUS};
	struct inlay_error err = {0};
	struct target t;
	int r = target_parse(dst, &t, &err);

	if (r < 0)
		return common_fail(&o->common, &err);
	struct message_open open = {.path = message_text_of(t.path)};
	o->dst = dst;
	r = common_ask(&o->common, &t, &open, &request, on_row, o, &err);
	target_fini(&t);
	return r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
}

/* ---- what is remembered ---- */

static void print_acked_json(const struct acked *a)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&a->root.tree, hex);
	print_json(json_pack("{s:i, s:o, s:o, s:I, s:s, s:o, s:o, s:I}", "schema", 1, "target",
			     print_json_name(a->target, strlen(a->target)), "source",
			     print_json_name(a->source, strlen(a->source)), "generation",
			     (json_int_t)a->generation, "root", hex, "time",
			     print_json_time(a->time_ns), "visible_ms",
			     print_json_ms(a->visible_ns), "sent_bytes",
			     (json_int_t)a->sent_bytes));
}

static int on_acked(void *ctx, const struct acked *a, struct inlay_error *err)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	(void)err;
	livestatus_pair(&b, a->source, a->target);
	bool live = !b.failed && pathset_has(&o->live, inlay_buf_cstr(&b));
	inlay_buf_clear(&b);
	if (live) {
		inlay_buf_fini(&b);
		return 0;
	}
	o->rows++;
	if (o->common.json) {
		inlay_buf_fini(&b);
		print_acked_json(a);
		return 0;
	}
	inlay_text_escape(&b, a->target, strlen(a->target));
	inlay_buf_printf(&b, "\n  %-11s ", "from");
	inlay_text_escape(&b, a->source, strlen(a->source));
	inlay_buf_printf(&b, "\n  %-11s %llu (", "generation", (unsigned long long)a->generation);
	print_short_id(&b, &a->root.tree);
	inlay_buf_printf(&b, "), ");
	print_local_time(&b, a->time_ns);
	inlay_buf_printf(&b, ", visible after ");
	inlay_text_duration(&b, a->visible_ns);
	inlay_buf_printf(&b, ", ");
	inlay_text_size(&b, a->sent_bytes);
	inlay_buf_printf(&b, " sent\n");
	print_text(stdout, &b);
	return 0;
}

/* ---- projects ---- */

static const char *text_of(const json_t *j, const char *key)
{
	const char *text = json_string_value(json_object_get(j, key));

	return text ? text : "";
}

static void put_escaped(struct inlay_buf *b, const char *text)
{
	inlay_text_escape(b, text, strlen(text));
}

static void put_site_hooks(struct inlay_buf *b, const json_t *hooks)
{
	const json_t *h;
	size_t i;

	json_array_foreach(hooks, i, h)
	{
		inlay_buf_printf(b, i ? ", " : "; ");
		put_escaped(b, text_of(h, "step"));
		inlay_buf_u8(b, ' ');
		steps_put_result(b, (int)json_integer_value(json_object_get(h, "status")),
				 json_is_true(json_object_get(h, "timed_out")));
		inlay_buf_u8(b, ' ');
		inlay_text_duration(
			b, (int64_t)(json_number_value(json_object_get(h, "took_ms")) * 1e6));
	}
}

static void put_site(const json_t *j)
{
	double p50 = json_number_value(json_object_get(j, "visible_p50_ms"));
	struct inlay_buf b = {0};

	inlay_buf_printf(&b, "  ");
	put_escaped(&b, text_of(j, "host"));
	inlay_buf_u8(&b, ' ');
	put_escaped(&b, text_of(j, "component"));
	inlay_buf_printf(&b, ": ");
	put_escaped(&b, text_of(j, "state"));
	inlay_buf_printf(&b, ", generation %lld",
			 (long long)json_integer_value(json_object_get(j, "generation")));
	if (p50 > 0)
		inlay_buf_printf(&b, ", visible after the edit p50 %.1f ms", p50);
	put_site_hooks(&b, json_object_get(j, "hooks"));
	if (*text_of(j, "why")) {
		inlay_buf_printf(&b, ": ");
		put_escaped(&b, text_of(j, "why"));
	}
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

static int on_project(void *ctx, const void *told, bool runs)
{
	struct options *o = ctx;
	const json_t *sites = json_object_get(told, "sites");
	struct inlay_buf b = {0};
	json_t *one;
	size_t i;

	if (!o->common.json) {
		put_escaped(&b, text_of(told, "project"));
		inlay_buf_printf(&b, " (up %s ", runs ? "runs; written" : "ended");
		put_escaped(&b, text_of(told, "time"));
		inlay_buf_printf(&b, ")\n");
		print_text(stdout, &b);
	}
	json_array_foreach(sites, i, one)
	{
		o->rows++;
		if (!o->common.json) {
			put_site(one);
			continue;
		}
		json_t *j = json_pack("{s:i, s:s, s:s, s:b}", "schema", 1, "kind", "site",
				      "project", text_of(told, "project"), "runs", runs);
		(void)json_object_update_missing(j, one);
		print_json(j);
	}
	return 0;
}

static int remembered(struct options *o)
{
	struct inlay_error err = {0};

	int r = upstate_each(o->common.state, on_project, o, &err);

	o->rows += livestatus_all(o->common.state, o->common.json, &o->live);
	if (r == 0)
		r = acked_each(o->common.state, on_acked, o, &err);
	pathset_fini(&o->live);
	if (r < 0)
		return common_fail(&o->common, &err);
	if (o->rows == 0 && !o->common.json && o->common.verbose >= 0)
		(void)puts("nothing was synced from here yet");
	return INLAY_EXIT_OK;
}

int cmd_status(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	struct options o = {0};
	struct inlay_error err = {0};
	int c, code = INLAY_EXIT_OK, failures = 0;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (!common_take(&o.common, c))
			return common_usage("status", "bad options");
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (common_finish(&o.common, &err) < 0)
		return common_fail(&o.common, &err);
	o.common.hosts = (unsigned)(argc - optind);
	if (optind == argc)
		code = remembered(&o);
	for (int i = optind; i < argc; i++) {
		int one = ask(&o, argv[i]);
		failures += one != INLAY_EXIT_OK;
		code = one != INLAY_EXIT_OK ? one : code;
	}
	if (failures > 0 && argc - optind > 1)
		code = failures < argc - optind ? INLAY_EXIT_SOME_HOSTS : code;
	common_fini(&o.common);
	return code;
}
