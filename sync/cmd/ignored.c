/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/patterns.h"
#include "session/place.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

static const char help[] =
	"usage: inlay check-ignore [options] PATH...\n"
	"\n"
	"Prints those of the paths that are left out, as 'git check-ignore' does; with -v the rule "
	"that\n"
	"decided, also one that takes back in: source:line:pattern<TAB>path.\n"
	"\n"
	"      --root DIR         the synced folder (else the innermost that was synced or has a "
	".git)\n"
	"  -n, --non-matching     with -v: also paths that no rule matches\n"
	"      --stdin            paths from standard input, one for each line\n"
	"  -z                     NUL ends each path, in and out\n"
	"      --exclude PATTERN, --include PATTERN, --exclude-from F, --no-gitignore  as in "
	"sync\n" COMMON_HELP "\n"
	"Ends with 0 when a path is left out (with -v: a rule matched), with 1 when none is, with "
	"128 when\n"
	"that cannot be told.\n";

enum {
	OPT_ROOT = OPT_FIRST_OWN,
	OPT_STDIN,
	EXIT_NONE = 1,
	EXIT_FATAL = 128,
};

struct options {
	struct common common;
	struct patterns patterns;
	struct inlay_ignore_options ignore;
	const char *root;
	bool verbose, non_matching, zero, from_stdin, found;
};

static int take(struct options *o, int c, struct inlay_error *err)
{
	int r;

	if (patterns_take(&o->patterns, c, optarg, &r, err))
		return r;
	switch (c) {
	case 'n':
		o->non_matching = true;
		return 0;
	case 'z':
		o->zero = true;
		return 0;
	case OPT_STDIN:
		o->from_stdin = true;
		return 0;
	case OPT_ROOT:
		o->root = optarg;
		return 0;
	default:
		return inlay_error_set(err, -EINVAL, "unknown option");
	}
}

/* The bytes themselves with -z, and where they can do a terminal no harm: a pattern has backslashes. */
static void put(const struct options *o, struct inlay_buf *b, const char *text, size_t len)
{
	bool plain = inlay_text_is_utf8(text, len);

	for (size_t i = 0; plain && i < len; i++)
		plain = (unsigned char)text[i] >= ' ' && text[i] != 127;
	if (o->zero || plain)
		inlay_buf_add(b, text, len);
	else
		inlay_text_escape(b, text, len);
}

static void print_place(const struct options *o, const char *path, const struct place *p)
{
	struct inlay_buf b = {0};
	bool matched = p->pattern.len > 0;

	if (o->common.json) {
		json_t *j = json_pack("{s:i, s:o, s:b}", "schema", 1, "path",
				      print_json_name(path, strlen(path)), "ignored", p->out);
		if (j && matched)
			(void)json_object_update_new(
				j, json_pack("{s:o, s:i, s:o}", "source",
					     print_json_name((char *)p->source.data, p->source.len),
					     "line", (int)p->line, "pattern",
					     print_json_name((char *)p->pattern.data,
							     p->pattern.len)));
		print_json(j);
		return;
	}
	if (o->verbose) {
		put(o, &b, (char *)p->source.data, p->source.len);
		inlay_buf_u8(&b, o->zero ? 0 : ':');
		if (p->line)
			inlay_buf_printf(&b, "%u", p->line);
		inlay_buf_u8(&b, o->zero ? 0 : ':');
		put(o, &b, (char *)p->pattern.data, p->pattern.len);
		inlay_buf_u8(&b, o->zero ? 0 : '\t');
	}
	put(o, &b, path, strlen(path));
	inlay_buf_u8(&b, o->zero ? 0 : '\n');
	print_text(stdout, &b);
}

static int check(struct options *o, const char *path, struct inlay_error *err)
{
	auto_buf struct inlay_buf root = {0}, relative = {0};
	auto_of(place_fini) struct place p = {0};
	bool slash;
	int r = place_root(o->root, path, o->common.state, &root, err);

	if (r == 0)
		r = place_relative(inlay_buf_cstr(&root), path, &relative, &slash, err);
	if (r < 0)
		return r;
	auto_close int fd =
		open(inlay_buf_cstr(&root), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open %s", inlay_buf_cstr(&root));
	r = place_look(fd, &o->ignore, inlay_buf_cstr(&relative), slash, &p, err);
	if (r < 0)
		return r;
	bool matched = o->verbose ? p.pattern.len > 0 : p.out;
	o->found |= matched;
	if (matched || o->common.json || (o->verbose && o->non_matching))
		print_place(o, path, &p);
	return 0;
}

static int check_stdin(struct options *o, struct inlay_error *err)
{
	auto_free char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int r = 0, end = o->zero ? 0 : '\n';

	while (r == 0 && (n = getdelim(&line, &cap, end, stdin)) > 0) {
		if (line[n - 1] == end)
			line[--n] = 0;
		if (n > 0)
			r = check(o, line, err);
	}
	return r;
}

static int run(struct options *o, int argc, char **argv)
{
	struct inlay_error err = {0};
	int r = common_finish(&o->common, &err);

	patterns_use(&o->patterns, &o->ignore);
	o->verbose = o->common.verbose > 0;
	for (int i = optind; r == 0 && i < argc; i++)
		r = check(o, argv[i], &err);
	if (r == 0 && o->from_stdin)
		r = check_stdin(o, &err);
	if (r < 0) {
		(void)common_fail(&o->common, &err);
		return EXIT_FATAL;
	}
	return o->found ? INLAY_EXIT_OK : EXIT_NONE;
}

int cmd_check_ignore(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS,
		{"non-matching", no_argument, NULL, 'n'},
		{"stdin", no_argument, NULL, OPT_STDIN},
		{"root", required_argument, NULL, OPT_ROOT},
		PATTERNS_OPTIONS,
		{0},
	};
	struct options o = {0};
	struct inlay_error err = {0};
	int c, code = -1;

	while (code < 0 && (c = getopt_long(argc, argv, COMMON_SHORT "nz", table, NULL)) >= 0)
		if (!common_take(&o.common, c) && take(&o, c, &err) < 0)
			code = common_usage("check-ignore", err.text);
	if (code < 0 && o.common.help) {
		(void)fputs(help, stdout);
		code = INLAY_EXIT_OK;
	}
	if (code < 0 && (optind < argc) == o.from_stdin)
		code = common_usage("check-ignore", "either paths or --stdin");
	if (code < 0)
		code = run(&o, argc, argv);
	patterns_fini(&o.patterns);
	common_fini(&o.common);
	return code;
}
