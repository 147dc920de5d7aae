/* SPDX-License-Identifier: Apache-2.0 */
/* log, diff, rollback: the generations of a target. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/dst.h"
#include "cmd/print.h"
#include "cmd/upper.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

static const char log_help[] = "usage: inlay log [options] DST\n"
			       "\n"
			       "The generations that DST can go back to, newest first.\n"
			       "\n" COMMON_HELP;

static const char diff_help[] = "usage: inlay diff [options] DST [A [B]]\n"
				"       inlay diff [options] --upper DST\n"
				"\n"
				"What differs between two generations of DST: A and B, or A and "
				"the newest, or the last two.\n"
				"\n"
				"      --upper            what was written on DST, over what was "
				"synced\n" COMMON_HELP;

static const char rollback_help[] = "usage: inlay rollback [options] DST [GENERATION]\n"
				    "\n"
				    "Shows an earlier generation of DST again (without a number, "
				    "the one before), as a new generation.\n"
				    "\n"
				    "      --image            the base image that DST had before, "
				    "with what was written there; its programs\n"
				    "                         are started in it\n" COMMON_HELP;

enum { OPT_UPPER = OPT_FIRST_OWN, OPT_IMAGE };

static const struct option table[] = {COMMON_OPTIONS, {0}};
static const struct option diff_table[] = {
	COMMON_OPTIONS, {"upper", no_argument, NULL, OPT_UPPER}, {0}};

static const struct option rollback_table[] = {
	COMMON_OPTIONS, {"image", no_argument, NULL, OPT_IMAGE}, {0}};

struct options {
	struct common common;
	const char *dst;
	uint64_t numbers[2];
	bool upper, image;
};

/* Parses DST and up to `max` generation numbers. 0 = go on; otherwise *ret_code is the exit code. */
static int parse(struct options *o, int argc, char **argv, const struct option *options, int max,
		 const char *help, int *ret_code)
{
	struct inlay_error err = {0};
	int c;

	*ret_code = INLAY_EXIT_USAGE;
	while ((c = getopt_long(argc, argv, COMMON_SHORT, options, NULL)) >= 0) {
		if (c == OPT_UPPER)
			o->upper = true;
		else if (c == OPT_IMAGE)
			o->image = true;
		else if (!common_take(&o->common, c)) {
			(void)common_usage(argv[0], "bad options");
			return 1;
		}
	}
	if (o->common.help) {
		(void)fputs(help, stdout);
		*ret_code = INLAY_EXIT_OK;
		return 1;
	}
	int count = argc - optind;
	if (count < 1 || count > 1 + max) {
		(void)common_usage(argv[0], count < 1 ? "DST is needed" : "too many arguments");
		return 1;
	}
	o->dst = argv[optind];
	for (int i = 1; i < count; i++) {
		if (inlay_parse_u64(argv[optind + i], &o->numbers[i - 1], &err) < 0) {
			(void)common_usage(argv[0], err.text);
			return 1;
		}
	}
	if (common_finish(&o->common, &err) < 0) {
		*ret_code = common_fail(&o->common, &err);
		return 1;
	}
	return 0;
}

static int ask(struct options *o, const struct message_request *request, uint8_t open_flags,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err))
{
	struct inlay_error err = {0};
	struct target t;
	char owner[256], origin[INLAY_ORIGIN_MAX + 1];
	int r = dst_parse(o->dst, &t, NULL, &err);

	if (r < 0)
		return common_fail(&o->common, &err);
	client_owner(owner, sizeof owner);
	client_origin(origin, sizeof origin, NULL);
	struct message_open open = {.flags = open_flags,
				    .path = message_text_of(t.path),
				    .owner = message_text_of(owner),
				    .origin = message_text_of(origin),
				    .lock_wait_ms = 60000};
	r = common_ask(&o->common, &t, &open, request, row, o, &err);
	target_fini(&t);
	return r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
}

/* ---- log ---- */

static int log_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct inlay_generation g;
	struct inlay_buf b = {0};
	int r = message_decode_generation(f->payload, f->len, &g, err);

	if (r < 0)
		return r;
	if (o->common.json) {
		json_t *j = print_json_generation(&g);
		(void)json_object_set_new(j, "schema", json_integer(1));
		print_json(j);
		return 0;
	}
	inlay_buf_printf(&b, "%5llu  ", (unsigned long long)g.number);
	print_short_id(&b, &g.root.tree);
	inlay_buf_printf(&b, "  ");
	print_local_time(&b, g.time_ns);
	inlay_buf_printf(&b, "  ");
	inlay_text_count(&b, g.changed);
	inlay_buf_printf(&b, " changed, ");
	inlay_text_count(&b, g.entries);
	inlay_buf_printf(&b, " entries  ");
	if (g.rollback_of)
		inlay_buf_printf(&b, "back to %llu  ", (unsigned long long)g.rollback_of);
	inlay_text_escape(&b, g.origin, strlen(g.origin));
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	return 0;
}

int cmd_log(int argc, char **argv)
{
	static const struct message_request request = {.verb = MESSAGE_VERB_LOG};
	struct options o = {0};
	int code;

	if (parse(&o, argc, argv, table, 0, log_help, &code) == 0)
		code = ask(&o, &request, 0, log_row);
	common_fini(&o.common);
	return code;
}

/* ---- diff ---- */

static int diff_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	static const char *const types[] = {"none", "file", "directory", "symlink"};
	struct options *o = ctx;
	struct message_change m;
	struct inlay_buf b = {0};
	int r = message_decode_change(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	const char *what = !m.before_type ? "added" : !m.after_type ? "removed" : "modified";
	if (o->common.json) {
		json_t *j = json_pack("{s:i, s:s, s:o, s:s, s:b, s:b, s:b}", "schema", 1, "change",
				      what, "path", print_json_name(m.path.bytes, m.path.len),
				      "type", types[m.after_type ? m.after_type : m.before_type],
				      "content", m.content, "mode", m.mode, "mtime", m.mtime);
		if (m.before_type == 1)
			(void)json_object_set_new(j, "before_size",
						  json_integer((json_int_t)m.before_size));
		if (m.after_type == 1)
			(void)json_object_set_new(j, "after_size",
						  json_integer((json_int_t)m.after_size));
		print_json(j);
		return 0;
	}
	inlay_buf_printf(&b, "%c ", *what == 'a' ? '+' : *what == 'r' ? '-' : 'M');
	inlay_text_escape(&b, m.path.bytes, m.path.len);
	if ((m.after_type ? m.after_type : m.before_type) == 2)
		inlay_buf_u8(&b, '/');
	if (*what == 'm' && !m.content)
		inlay_buf_printf(&b, "  (%s%s%s)", m.mode ? "mode" : "",
				 m.mode && m.mtime ? ", " : "", m.mtime ? "time" : "");
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	return 0;
}

static int upper_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	return upper_diff_row(&((struct options *)ctx)->common, f, err);
}

int cmd_diff(int argc, char **argv)
{
	struct options o = {0};
	int code;

	if (parse(&o, argc, argv, diff_table, 2, diff_help, &code) == 0) {
		struct message_request request = {.verb = o.upper ? MESSAGE_VERB_UPPER
								  : MESSAGE_VERB_DIFF,
						  .args = {o.numbers[0], o.numbers[1]}};
		code = ask(&o, &request, 0, o.upper ? upper_row : diff_row);
	}
	common_fini(&o.common);
	return code;
}

/* ---- rollback ---- */

static int rollback_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct message_visible m;
	struct inlay_buf b = {0};
	char hex[INLAY_DIGEST_HEX];
	int r = message_decode_visible(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	inlay_digest_hex(&m.root, hex);
	if (o->common.json) {
		print_json(json_pack("{s:i, s:o, s:I, s:s, s:o}", "schema", 1, "target",
				     print_json_name(o->dst, strlen(o->dst)), "generation",
				     (json_int_t)m.number, "root", hex, "visible_ms",
				     print_json_ms((int64_t)m.took_ns)));
		return 0;
	}
	if (o->common.verbose < 0)
		return 0;
	inlay_text_escape(&b, o->dst, strlen(o->dst));
	inlay_buf_printf(&b, ": generation %llu shows ", (unsigned long long)m.number);
	print_short_id(&b, &m.root);
	inlay_buf_printf(&b, " again, visible after ");
	inlay_text_duration(&b, (int64_t)m.took_ns);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	return 0;
}

int cmd_rollback(int argc, char **argv)
{
	struct options o = {0};
	int code;

	if (parse(&o, argc, argv, rollback_table, 1, rollback_help, &code) == 0) {
		struct message_request request = {.verb = o.image ? MESSAGE_VERB_ROOT
								  : MESSAGE_VERB_ROLLBACK,
						  .args = {o.numbers[0]}};
		code = o.image && argc - optind > 1
			       ? common_usage("rollback", "an image has no generations here")
			       : ask(&o, &request, o.image ? 0 : MESSAGE_OPEN_WRITE, rollback_row);
	}
	common_fini(&o.common);
	return code;
}
