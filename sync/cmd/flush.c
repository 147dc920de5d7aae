/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/livestatus.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"

static const char help[] =
	"usage: inlay flush [options] [SRC [DST]]\n"
	"\n"
	"Returns when every target of the watch of SRC (or of every watch; or only DST) shows the "
	"folder as it is\n"
	"now: for scripts, between a change and what needs it.\n"
	"\n"
	"      --timeout D        wait no longer than D; the exit code is then 124\n" COMMON_HELP;

enum { OPT_TIMEOUT = OPT_FIRST_OWN };

struct options {
	struct common common;
	struct control_request request;
	size_t count;
};

static int on_packet(void *ctx, const struct control_packet *p, struct inlay_error *err)
{
	struct options *o = ctx;

	(void)err;
	if (o->common.json || o->common.verbose > 0)
		livestatus_print(o->common.json, p);
	return 0;
}

static int flush_one(void *ctx, int fd, struct inlay_error *err)
{
	struct options *o = ctx;
	auto_close int own = fd;

	o->count++;
	return control_ask(own, &o->request, on_packet, o, err);
}

static int flush_source(struct options *o, const char *src, const char *dst,
			struct inlay_error *err)
{
	auto_free char *real = realpath(src, NULL);
	auto_buf struct inlay_buf text = {0};
	struct target t;
	int fd, r = 0;

	if (dst) {
		r = target_parse(dst, &t, err);
		if (r < 0)
			return r;
		target_text(&t, &text);
		target_fini(&t);
		(void)snprintf(o->request.target, sizeof o->request.target, "%s",
			       inlay_buf_cstr(&text));
	}
	/* The folder may be gone while its watch waits for it. */
	r = control_connect(o->common.state, real ? real : src, &fd, err);
	if (r == CONTROL_NOBODY)
		return inlay_error_set(err, -ESRCH, "no watch of %s runs", src);
	return r < 0 ? r : flush_one(o, fd, err);
}

static int parse(struct options *o, int argc, char **argv, struct inlay_error *err)
{
	static const struct option table[] = {
		COMMON_OPTIONS, {"timeout", required_argument, NULL, OPT_TIMEOUT}, {0}};
	int64_t timeout_ns;
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (common_take(&o->common, c))
			continue;
		if (c != OPT_TIMEOUT)
			return inlay_error_set(err, -EINVAL, "bad options");
		int r = inlay_parse_duration(optarg, &timeout_ns, err);
		if (r < 0)
			return r;
		if (timeout_ns > 86400 * INT64_C(1000000000))
			return inlay_error_set(err, -EINVAL, "--timeout is at most a day");
		/* 0 asks whether it is so now. */
		o->request.timeout_ms = (uint64_t)(timeout_ns / 1000000) + 1;
	}
	return argc - optind > 2 ? inlay_error_set(err, -EINVAL, "SRC and DST at most") : 0;
}

int cmd_flush(int argc, char **argv)
{
	struct options o = {.request = {.verb = CONTROL_FLUSH}};
	struct inlay_error err = {0};
	int code = INLAY_EXIT_OK;

	if (parse(&o, argc, argv, &err) < 0)
		return common_usage("flush", err.text);
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	int r = common_finish(&o.common, &err);
	if (r == 0 && optind < argc)
		r = flush_source(&o, argv[optind], argc - optind > 1 ? argv[optind + 1] : NULL,
				 &err);
	else if (r == 0)
		r = control_each(o.common.state, flush_one, &o, &err);
	if (r == 0 && o.count == 0)
		r = inlay_error_set(&err, -ESRCH, "no watch runs");
	if (r < 0)
		code = common_fail(&o.common, &err);
	common_fini(&o.common);
	return code;
}
