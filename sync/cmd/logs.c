/* SPDX-License-Identifier: Apache-2.0 */
/* logs: the last lines of programs. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/dst.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

static const char help[] = "usage: inlay logs [options] [DST [NAME]]\n"
			   "\n"
			   "The last lines that the programs of the workspace DST wrote, or that "
			   "one of them wrote. DST is "
			   "host:path, a\n"
			   "local path, or a component of the project (NAME or NAME@HOST); without "
			   "one, all components. What "
			   "a host kept\n"
			   "of a program is bounded; older lines are gone.\n"
			   "\n"
			   "  -f, --follow           go on with what is written from now on\n"
			   "  -n, --lines N          how many lines of each program (100)\n"
			   "  -t, --timestamps       print the time of each line\n" COMMON_HELP;

struct options {
	struct common common;
	bool follow, timestamps, names;
	uint64_t lines;
	const char *program;   /* NULL = all */
	const struct dst *dst; /* the one that is asked */
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
		json_t *j = json_pack("{s:i, s:o, s:o, s:s, s:o}", "schema", 1, "program",
				      print_json_name(m->name.bytes, m->name.len), "time",
				      print_json_name(line, time_len), "stream",
				      stream_name(stream), "text", print_json_name(text, text_len));
		if (o->dst->component) {
			(void)json_object_set_new(j, "component", json_string(o->dst->component));
			(void)json_object_set_new(j, "host", json_string(o->dst->host));
		}
		print_json(j);
		return;
	}
	if (o->timestamps) {
		inlay_text_escape(b, line, time_len);
		inlay_buf_u8(b, ' ');
	}
	const struct dst *d = o->dst;
	bool own = d->component && strlen(d->component) == m->name.len &&
		   memcmp(d->component, m->name.bytes, m->name.len) == 0;
	if (d->component)
		inlay_buf_printf(b, "%s %s%s", d->host, d->component, own ? " | " : " ");
	if (o->names && !own) {
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

static int ask(struct options *o, const struct dst *d)
{
	struct message_open open = {.path = message_text_of(d->target.path)};
	struct message_request request = {
		.verb = MESSAGE_VERB_LOGS, .flags = o->follow, .args = {o->lines}};
	struct inlay_error err = {0};

	if (o->program)
		request.body = message_text_of(o->program);
	o->dst = d;
	int r = common_ask(&o->common, &d->target, &open, &request, row, o, &err);
	return r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
}

/* One after the other; or, where none of them ends, a process for each. */
static int ask_all(struct options *o, const struct dst_list *list)
{
	bool aside = o->follow && list->count > 1;
	int code = INLAY_EXIT_OK, status;

	for (size_t i = 0; i < list->count; i++) {
		pid_t pid = aside ? fork() : 0;
		if (aside && pid == 0)
			(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
		int one = pid < 0 ? INLAY_EXIT_FAILURE : pid > 0 ? 0 : ask(o, &list->items[i]);
		if (aside && pid == 0) {
			(void)fflush(NULL);
			_exit(one);
		}
		code = one ? one : code;
	}
	while (wait(&status) > 0)
		if (WIFEXITED(status) && WEXITSTATUS(status))
			code = WEXITSTATUS(status);
	return code;
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
	auto_of(dst_list_fini) struct dst_list list = {0};
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
	if (count > 2)
		return common_usage("logs", "too many arguments");
	int r = common_finish(&o.common, &err);
	if (r == 0)
		r = dst_find(count > 0 ? argv[optind] : NULL, &list, &err);
	o.program = count == 2 ? argv[optind + 1] : NULL;
	o.names = count < 2;
	int code = r < 0 ? common_fail(&o.common, &err) : ask_all(&o, &list);
	common_fini(&o.common);
	return code;
}
