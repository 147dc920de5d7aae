/* SPDX-License-Identifier: Apache-2.0 */
/* fsck, gc: the store of a host. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

static const char fsck_help[] =
	"usage: inlay fsck [options] [DST]\n"
	"\n"
	"Reads and checks every byte of the store of DST's host (this machine's, without DST). "
	"What is damaged\n"
	"is sent again by the next sync. Ends with 1 when something was found.\n"
	"\n" COMMON_HELP;

static const char gc_help[] =
	"usage: inlay gc [options] [DST]\n"
	"\n"
	"Frees what no generation in any history needs. It runs by itself now and then.\n"
	"\n"
	"      --grace D          keep what is younger (1h)\n" COMMON_HELP;

enum { OPT_GRACE = OPT_FIRST_OWN };

struct options {
	struct common common;
	int64_t grace_ns;
	uint64_t found;
	bool drawn;
};

static int fsck_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct message_finding m;
	struct inlay_buf b = {0};
	int r = message_decode_finding(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (m.progress) {
		if (o->common.json || o->common.verbose < 0 || !isatty(2) || !m.total)
			return 0;
		o->drawn = true;
		inlay_buf_printf(&b, "\r\033[K%3llu%%  ",
				 (unsigned long long)(m.done * 100 / m.total));
		inlay_text_size(&b, m.done);
		inlay_buf_printf(&b, " of ");
		inlay_text_size(&b, m.total);
		print_text(stderr, &b);
		return 0;
	}
	o->found++;
	if (o->common.json) {
		print_json(json_pack("{s:i, s:o}", "schema", 1, "finding",
				     print_json_name(m.text.bytes, m.text.len)));
		return 0;
	}
	if (o->drawn)
		(void)fputs("\r\033[K", stderr);
	inlay_text_escape(&b, m.text.bytes, m.text.len);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	return 0;
}

static int gc_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct message_gc m;
	struct inlay_buf b = {0};
	int r = message_decode_gc(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (o->common.json) {
		print_json(json_pack("{s:i, s:I, s:I, s:I, s:I}", "schema", 1, "removed",
				     (json_int_t)m.removed, "removed_bytes",
				     (json_int_t)m.removed_bytes, "freed_bytes",
				     (json_int_t)m.freed_bytes, "young", (json_int_t)m.young));
		return 0;
	}
	inlay_text_count(&b, m.removed);
	inlay_buf_printf(&b, " objects removed, ");
	inlay_text_size(&b, m.freed_bytes);
	inlay_buf_printf(&b, " freed");
	if (m.young) {
		inlay_buf_printf(&b, "; ");
		inlay_text_count(&b, m.young);
		inlay_buf_printf(&b, " are too young to go");
	}
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	return 0;
}

static int ask(struct options *o, const char *dst, const struct message_request *request,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err))
{
	struct inlay_error err = {0};
	struct target t = {0};
	int r = common_finish(&o->common, &err);

	if (r == 0 && dst)
		r = target_parse(dst, &t, &err);
	if (r == 0)
		r = common_ask(&o->common, &t, NULL, request, row, o, &err);
	target_fini(&t);
	if (o->drawn)
		(void)fputs("\r\033[K", stderr);
	return r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
}

int cmd_fsck(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	static const struct message_request request = {.verb = MESSAGE_VERB_FSCK};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (!common_take(&o.common, c))
			return common_usage("fsck", "bad options");
	if (o.common.help) {
		(void)fputs(fsck_help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind > 1)
		return common_usage("fsck", "too many arguments");
	int code = ask(&o, argv[optind], &request, fsck_row);
	if (code == INLAY_EXIT_OK && o.common.json)
		print_json(json_pack("{s:i, s:I}", "schema", 1, "found", (json_int_t)o.found));
	else if (code == INLAY_EXIT_OK && o.common.verbose >= 0)
		(void)printf(o.found ? "%llu findings; 'inlay sync' sends what is damaged again\n"
				     : "no finding\n",
			     (unsigned long long)o.found);
	common_fini(&o.common);
	return code == INLAY_EXIT_OK && o.found ? INLAY_EXIT_FAILURE : code;
}

int cmd_gc(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS, {"grace", required_argument, NULL, OPT_GRACE}, {0}};
	struct options o = {.grace_ns = 3600ll * 1000000000};
	struct inlay_error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (c == OPT_GRACE) {
			if (inlay_parse_duration(optarg, &o.grace_ns, &err) < 0)
				return common_usage("gc", err.text);
		} else if (!common_take(&o.common, c)) {
			return common_usage("gc", "bad options");
		}
	}
	if (o.common.help) {
		(void)fputs(gc_help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind > 1)
		return common_usage("gc", "too many arguments");
	struct message_request request = {.verb = MESSAGE_VERB_GC, .args = {(uint64_t)o.grace_ns}};
	int code = ask(&o, argv[optind], &request, gc_row);
	common_fini(&o.common);
	return code;
}
