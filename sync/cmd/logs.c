/* SPDX-License-Identifier: Apache-2.0 */
/* logs: the last lines of programs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

static const char help[] =
	"usage: inlay logs [options] DST [NAME]\n"
	"\n"
	"The last lines that the programs of the workspace DST wrote, or that one of them wrote. "
	"What a host kept of\n"
	"a program is bounded; older lines are gone.\n"
	"\n"
	"  -f, --follow           go on with what is written from now on\n"
	"  -n, --lines N          how many lines of each program (100)\n"
	"  -t, --timestamps       print the time of each line\n" COMMON_HELP;

struct options {
	struct common common;
	bool follow, timestamps, names;
	uint64_t lines;
};

/* "2026-11-21T12:04:11.042Z o text": time, stream, text. False when a line is not of that form. */
static bool split(const char *line, size_t len, size_t *ret_time_len, char *ret_stream,
		  const char **ret_text)
{
	const char *blank = memchr(line, ' ', len);

	if (!blank || (size_t)(blank - line) + 3 > len || blank[2] != ' ')
		return false;
	*ret_time_len = (size_t)(blank - line);
	*ret_stream = blank[1];
	*ret_text = blank + 3;
	return true;
}

static const char *stream_name(char stream)
{
	return stream == 'o' ? "stdout" : stream == 'e' ? "stderr" : "inlay";
}

static void print_line(const struct options *o, const struct message_log *m, const char *line,
		       size_t len, struct inlay_buf *b)
{
	size_t time_len;
	const char *text;
	char stream;

	if (!split(line, len, &time_len, &stream, &text))
		return;
	size_t text_len = len - (size_t)(text - line);
	if (o->common.json) {
		print_json(json_pack("{s:i, s:o, s:o, s:s, s:o}", "schema", 1, "program",
				     print_json_name(m->name.bytes, m->name.len), "time",
				     print_json_name(line, time_len), "stream", stream_name(stream),
				     "text", print_json_name(text, text_len)));
		return;
	}
	if (o->timestamps) {
		inlay_text_escape(b, line, time_len);
		inlay_buf_u8(b, ' ');
	}
	if (o->names) {
		inlay_text_escape(b, m->name.bytes, m->name.len);
		inlay_buf_printf(b, " | ");
	}
	if (stream == '-')
		inlay_buf_printf(b, "-- ");
	/* Tabs are harmless and usual; all else that could drive a terminal is not printed as it is. */
	for (const char *end = text + text_len, *tab; text < end; text = tab + 1) {
		tab = memchr(text, '\t', (size_t)(end - text));
		inlay_text_escape(b, text, (size_t)((tab ? tab : end) - text));
		if (!tab)
			break;
		inlay_buf_u8(b, '\t');
	}
	inlay_buf_u8(b, '\n');
}

static int row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};
	struct message_log m;
	int r = message_decode_log(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	const char *at = m.lines.bytes, *end = at + m.lines.len;
	while (at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		size_t len = (size_t)((newline ? newline : end) - at);
		print_line(o, &m, at, len, &b);
		at += len + 1;
	}
	print_text(stdout, &b);
	return ferror(stdout) ? inlay_error_set(err, -32, "nobody reads the lines any more") : 0;
}

int cmd_logs(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"follow", no_argument, NULL, 'f'},
					      {"lines", required_argument, NULL, 'n'},
					      {"timestamps", no_argument, NULL, 't'},
					      {0}};
	struct options o = {.lines = 100};
	struct inlay_error err = {0};
	struct target t = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "fn:t", table, NULL)) >= 0) {
		if (c == 'f')
			o.follow = true;
		else if (c == 't')
			o.timestamps = true;
		else if (c == 'n' && inlay_parse_u64(optarg, &o.lines, &err) < 0)
			return common_usage("logs", err.text);
		else if (c != 'n' && !common_take(&o.common, c))
			return common_usage("logs", "bad options");
	}
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	int count = argc - optind;
	if (count < 1 || count > 2)
		return common_usage("logs", count < 1 ? "DST is needed" : "too many arguments");
	int r = common_finish(&o.common, &err);
	if (r == 0)
		r = target_parse(argv[optind], &t, &err);
	if (r == 0) {
		struct message_open open = {.path = message_text_of(t.path)};
		struct message_request request = {
			.verb = MESSAGE_VERB_LOGS, .flags = o.follow, .args = {o.lines}};
		if (count == 2)
			request.body = message_text_of(argv[optind + 1]);
		o.names = count == 1;
		r = common_ask(&o.common, &t, &open, &request, row, &o, &err);
	}
	int code = r < 0 ? common_fail(&o.common, &err) : INLAY_EXIT_OK;
	target_fini(&t);
	common_fini(&o.common);
	return code;
}
