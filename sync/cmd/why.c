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
#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "session/source.h"

static const char help[] =
	"usage: inlay why [options] PATH...\n"
	"       inlay why --build [options] DIR    what changed since an image was built\n"
	"\n"
	"Tells of each path whether it is synced, which rule decides that, and what every target "
	"of "
	"its\n"
	"folder has there. Asks nobody: targets are as they acknowledged it last.\n"
	"\n"
	"      --root DIR         the synced folder (else the innermost that was synced or has a "
	".git)\n"
	"      --exclude PATTERN, --include PATTERN, --exclude-from F, --no-gitignore  as in "
	"sync\n" COMMON_HELP;

enum {
	OPT_ROOT = OPT_FIRST_OWN,
};

struct options {
	struct common common;
	struct patterns patterns;
	struct inlay_ignore_options ignore;
	const char *root;
};

/* One path, and what was found out about it. */
struct question {
	struct options *o;
	const char *path;     /* as it was typed */
	const char *relative; /* inside the root */
	const char *root;
	int root_fd;
	struct place place;
	struct inlay_trees *trees; /* NULL: nothing is remembered */
	bool has_id;
	struct inlay_digest id; /* of the file's present content */
	struct inlay_buf text;
	json_t *targets;
};

/* ---- what a target has ---- */

enum { PLACE_NONE = 1, PLACE_UNKNOWN = 2 };

/* The entry at the path in a remembered tree. The name pointers of *ret are not valid. */
static int find_entry(struct inlay_trees *trees, const struct inlay_digest *root,
		      const char *relative, struct inlay_entry *ret, struct inlay_error *err)
{
	struct inlay_digest id = *root;

	*ret = (struct inlay_entry){.mode = S_IFDIR, .id = *root};
	for (const char *at = relative; *at;) {
		auto_of(inlay_dir_close) struct inlay_dir dir = {0};
		size_t len = strcspn(at, "/");
		int r = inlay_dir_open(trees, &id, &dir, err);
		if (r == 0)
			r = inlay_dir_find(&dir, at, len, ret, err);
		if (r == INLAY_TREES_NONE)
			return PLACE_NONE;
		if (r != 0)
			return r < 0 ? r : PLACE_UNKNOWN;
		at += len + (at[len] == '/');
		if (*at && !inlay_entry_is_dir(ret))
			return PLACE_NONE;
		id = ret->id;
	}
	return 0;
}

static bool same_content(struct question *q, const struct inlay_entry *e, struct inlay_error *err)
{
	auto_free uint8_t *buf = malloc(1 << 16);
	struct inlay_hasher h;
	size_t n = 1;

	if (S_ISDIR(e->mode))
		return true;
	if ((uint64_t)q->place.st.st_size != e->size)
		return false;
	if (S_ISLNK(e->mode)) {
		ssize_t len = buf ? readlinkat(q->root_fd, q->relative, (char *)buf, 1 << 16) : -1;
		return len == e->target_len && memcmp(buf, e->target, (size_t)len) == 0;
	}
	auto_close int fd =
		openat(q->root_fd, q->relative, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (q->has_id)
		return inlay_digest_equal(&q->id, &e->id);
	inlay_hasher_init(&h);
	while (buf && fd >= 0 && n > 0) {
		if (inlay_read_full(fd, buf, 1 << 16, &n, q->path, err) < 0)
			return false;
		inlay_hasher_add(&h, buf, n);
	}
	if (!buf || fd < 0)
		return false;
	inlay_hasher_end(&h, &q->id);
	q->has_id = true;
	return inlay_digest_equal(&q->id, &e->id);
}

static const char *compare(struct question *q, const struct acked *a, struct inlay_error *err)
{
	struct inlay_entry e;
	int r = q->trees ? find_entry(q->trees, &a->root.tree, q->relative, &e, err)
			 : PLACE_UNKNOWN;

	if (r < 0 || r == PLACE_UNKNOWN)
		return "unknown";
	if (r == PLACE_NONE)
		return "missing";
	if (!q->place.exists)
		return "extra";
	if ((e.mode & S_IFMT) != (q->place.st.st_mode & S_IFMT))
		return "type";
	return same_content(q, &e, err) ? "same" : "content";
}

static const struct {
	const char *state, *words;
} states[] = {
	{"same", "has it as it is here"},
	{"content", "has an older content; 'inlay sync' sends this one"},
	{"type", "has something else by that name; 'inlay sync' sends this one"},
	{"missing", "does not have it"},
	{"extra", "has it; it is gone here, and the next 'inlay sync' removes it there"},
	{"unknown", "is not remembered well enough to tell; the next 'inlay sync' will know"},
};

static int on_target(void *ctx, const struct acked *a, struct inlay_error *err)
{
	struct question *q = ctx;

	if (strcmp(a->source, q->root) != 0)
		return 0;
	const char *state = compare(q, a, err);
	if (q->o->common.json) {
		(void)json_array_append_new(q->targets,
					    json_pack("{s:o, s:I, s:s}", "target",
						      print_json_name(a->target, strlen(a->target)),
						      "generation", (json_int_t)a->generation,
						      "state", state));
		return 0;
	}
	inlay_buf_printf(&q->text, "  ");
	inlay_text_escape(&q->text, a->target, strlen(a->target));
	for (size_t i = 0; i < sizeof states / sizeof *states; i++)
		if (strcmp(state, states[i].state) == 0)
			inlay_buf_printf(&q->text, ": generation %llu %s\n",
					 (unsigned long long)a->generation, states[i].words);
	return 0;
}

/* ---- what the rules say ---- */

static bool is_special(const struct question *q)
{
	mode_t m = q->place.st.st_mode;

	return q->place.exists && !S_ISREG(m) && !S_ISDIR(m) && !S_ISLNK(m);
}

static const char *verdict(const struct question *q)
{
	return q->place.out       ? (q->place.above ? "ignored-above" : "ignored")
	       : is_special(q)    ? "special"
	       : !q->place.exists ? "absent"
				  : "synced";
}

static const char *verdict_words(const char *v)
{
	return strcmp(v, "ignored") == 0         ? "not synced: a rule leaves it out"
	       : strcmp(v, "ignored-above") == 0 ? "not synced: a rule leaves out a folder above it"
	       : strcmp(v, "special") == 0 ? "not synced: fifos, sockets and devices never are"
	       : strcmp(v, "absent") == 0  ? "it is not there; no rule would leave it out"
					   : "synced";
}

static void tell_rule(struct question *q)
{
	const struct place *p = &q->place;

	if (p->pattern.len == 0)
		return;
	inlay_buf_printf(&q->text, "  rule: ");
	inlay_text_escape(&q->text, p->source.data, p->source.len);
	if (p->line)
		inlay_buf_printf(&q->text, ":%u", p->line);
	inlay_buf_printf(&q->text, ": ");
	inlay_text_escape(&q->text, p->pattern.data, p->pattern.len);
	inlay_buf_printf(&q->text, "%s\n", p->negated ? " (takes it back in)" : "");
}

static int explain(struct question *q, struct inlay_error *err)
{
	const char *v = verdict(q);
	int r;

	inlay_text_escape(&q->text, q->path, strlen(q->path));
	inlay_buf_printf(&q->text, ": %s\n", verdict_words(v));
	tell_rule(q);
	if (q->o->common.json)
		q->targets = json_array();
	r = acked_each(q->o->common.state, on_target, q, err);
	if (r < 0)
		return r;
	if (!q->o->common.json) {
		print_text(stdout, &q->text);
		return 0;
	}
	json_t *j = json_pack("{s:i, s:o, s:o, s:s, s:b, s:O}", "schema", 1, "path",
			      print_json_name(q->path, strlen(q->path)), "root",
			      print_json_name(q->root, strlen(q->root)), "why", v, "synced",
			      strcmp(v, "synced") == 0, "targets", q->targets);
	if (j && q->place.pattern.len)
		(void)json_object_set_new(j, "rule",
					  json_pack("{s:o, s:i, s:o}", "source",
						    print_json_name((char *)q->place.source.data,
								    q->place.source.len),
						    "line", (int)q->place.line, "pattern",
						    print_json_name((char *)q->place.pattern.data,
								    q->place.pattern.len)));
	print_json(j);
	return 0;
}

static int ask(struct options *o, const char *path, struct inlay_error *err)
{
	auto_buf struct inlay_buf root = {0}, relative = {0};
	auto_of(inlay_store_close) struct inlay_store *store = NULL;
	auto_of(inlay_trees_free) struct inlay_trees *trees = NULL;
	struct question q = {.o = o, .path = path};
	bool slash;
	int r = place_root(o->root, path, o->common.state, &root, err);

	q.root = inlay_buf_cstr(&root);
	if (r == 0)
		r = place_relative(q.root, path, &relative, &slash, err);
	if (r < 0)
		return r;
	q.relative = inlay_buf_cstr(&relative);
	auto_close int fd = open(q.root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open %s", q.root);
	q.root_fd = fd;
	r = place_look(fd, &o->ignore, q.relative, slash, &q.place, err);
	if (r == 0)
		r = source_remembered(o->common.state, q.root, &store, &trees, err);
	q.trees = trees;
	if (r >= 0)
		r = explain(&q, err);
	place_fini(&q.place);
	inlay_buf_fini(&q.text);
	json_decref(q.targets);
	return r;
}

static int take(struct options *o, int c, struct inlay_error *err)
{
	int r;

	if (patterns_take(&o->patterns, c, optarg, &r, err))
		return r;
	if (c != OPT_ROOT)
		return inlay_error_set(err, -EINVAL, "unknown option");
	o->root = optarg;
	return 0;
}

static int run(struct options *o, int argc, char **argv)
{
	struct inlay_error err = {0};
	int r = common_finish(&o->common, &err);

	patterns_use(&o->patterns, &o->ignore);
	for (int i = optind; r == 0 && i < argc; i++)
		r = ask(o, argv[i], &err);
	return r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
}

int cmd_why(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS,
		{"root", required_argument, NULL, OPT_ROOT},
		PATTERNS_OPTIONS,
		{0},
	};
	struct options o = {0};
	struct inlay_error err = {0};
	int c, code = -1;

	if (argc > 1 && strcmp(argv[1], "--build") == 0)
		return cmd_why_build(argc - 1, argv + 1);
	while (code < 0 && (c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (!common_take(&o.common, c) && take(&o, c, &err) < 0)
			code = common_usage("why", err.text);
	if (code < 0 && o.common.help) {
		(void)fputs(help, stdout);
		code = INLAY_EXIT_OK;
	}
	if (code < 0 && optind == argc)
		code = common_usage("why", "PATH is needed");
	if (code < 0)
		code = run(&o, argc, argv);
	patterns_fini(&o.patterns);
	common_fini(&o.common);
	return code;
}
