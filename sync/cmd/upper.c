/* SPDX-License-Identifier: Apache-2.0 */
/* diff --upper and reset: what was written on a target, and giving back what was synced. */
#include "cmd/dst.h"
#include "cmd/upper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"
#include "inlay/written.h"

static const char help[] =
	"usage: inlay reset [options] DST PATH...\n"
	"\n"
	"Drops what was written on the target at each PATH (inside the workspace; a directory with "
	"all in it),\n"
	"so that what was synced is seen there again.\n"
	"\n"
	"      --all              everything that was written\n" COMMON_HELP;

enum { OPT_ALL = OPT_FIRST_OWN };

const char *upper_kind_word(uint8_t kind)
{
	static const char *const words[] = {"?",     "removed",    "file",    "directory",
					    "moved", "attributes", "symlink", "special"};

	return words[kind < sizeof words / sizeof *words ? kind : 0];
}

static void print_row_json(const struct message_upper *m)
{
	json_t *j = json_pack("{s:i, s:s, s:o, s:b, s:I, s:I, s:o}", "schema", 1, "kind",
			      upper_kind_word(m->kind), "path",
			      print_json_name(m->path.bytes, m->path.len), "shadows", m->shadows,
			      "mode", (json_int_t)(m->mode & 07777), "size", (json_int_t)m->size,
			      "mtime", print_json_time(m->mtime_ns));
	if (m->kind == INLAY_UPPER_SYMLINK)
		(void)json_object_set_new(j, "target",
					  print_json_name(m->target.bytes, m->target.len));
	print_json(j);
}

int upper_diff_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	const struct common *common = ctx;
	struct message_upper m;
	struct inlay_buf b = {0};
	int r = message_decode_upper(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (common->json) {
		print_row_json(&m);
		return 0;
	}
	inlay_buf_printf(&b, "%c ",
			 m.kind == INLAY_UPPER_WHITEOUT            ? '-'
			 : m.shadows || m.kind == INLAY_UPPER_ATTR ? 'M'
								   : '+');
	inlay_text_escape(&b, m.path.bytes, m.path.len);
	if (m.kind == INLAY_UPPER_DIR || m.kind == INLAY_UPPER_MOVED || m.kind == INLAY_UPPER_ATTR)
		inlay_buf_u8(&b, '/');
	if (m.kind == INLAY_UPPER_SYMLINK) {
		inlay_buf_printf(&b, " -> ");
		inlay_text_escape(&b, m.target.bytes, m.target.len);
	}
	if (m.kind == INLAY_UPPER_MOVED)
		inlay_buf_printf(&b, "  (renamed there)");
	else if (m.kind == INLAY_UPPER_ATTR)
		inlay_buf_printf(&b, "  (attributes)");
	else if (m.shadows)
		inlay_buf_printf(&b, "  (hides what was synced)");
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	return 0;
}

/* ---- reset ---- */

struct options {
	struct common common;
	bool all;
	uint64_t count;
};

static int on_reset(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct message_reset m;
	int r = message_decode_reset(f->payload, f->len, &m, err);

	if (r == 0)
		((struct options *)ctx)->count = m.count;
	return r;
}

static int reset_one(struct options *o, const struct target *t, const char *path,
		     struct inlay_error *err)
{
	struct message_open open = {.path = message_text_of(t->path)};
	struct inlay_buf b = {0};

	while (strncmp(path, "./", 2) == 0)
		path += 2;
	size_t len = strlen(path);
	while (len > 0 && path[len - 1] == '/')
		len--;
	if (len == 0 && !o->all)
		return inlay_error_set(err, -EINVAL, "an empty path (--all resets everything)");
	struct message_request request = {.verb = MESSAGE_VERB_RESET, .body = {path, len}};
	int r = common_ask(&o->common, t, &open, &request, on_reset, o, err);
	if (r < 0)
		return r;
	if (o->common.json) {
		print_json(json_pack("{s:i, s:o, s:I}", "schema", 1, "path",
				     print_json_name(path, len), "entries", (json_int_t)o->count));
	} else if (o->common.verbose >= 0) {
		inlay_text_escape(&b, len ? path : "everything", len ? len : strlen("everything"));
		inlay_buf_printf(&b, ": %llu entr%s dropped\n", (unsigned long long)o->count,
				 o->count == 1 ? "y" : "ies");
		print_text(stdout, &b);
	}
	return 0;
}

int cmd_reset(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS, {"all", no_argument, NULL, OPT_ALL}, {0}};
	struct options o = {0};
	struct inlay_error err = {0};
	struct target t = {0};
	int c, code = INLAY_EXIT_OK;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (c == OPT_ALL)
			o.all = true;
		else if (!common_take(&o.common, c))
			return common_usage("reset", "bad options");
	}
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind < 1 || (argc - optind < 2) != o.all)
		return common_usage("reset", "DST and what to reset are needed: PATH..., or --all");
	if (common_finish(&o.common, &err) < 0)
		return common_fail(&o.common, &err);
	int r = dst_parse(argv[optind], &t, NULL, &err);
	if (r < 0)
		code = common_fail(&o.common, &err);
	for (int i = optind + 1; r == 0 && (i < argc || o.all); i++) {
		struct inlay_error one = {0};
		if (reset_one(&o, &t, o.all ? "" : argv[i], &one) < 0)
			code = common_fail(&o.common, &one);
		if (o.all)
			break;
	}
	target_fini(&t);
	common_fini(&o.common);
	return code;
}
