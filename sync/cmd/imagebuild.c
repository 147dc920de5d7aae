/* SPDX-License-Identifier: Apache-2.0 */
/* image build, why --build: images from recipes, and what changed since the last build. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "build/buildjobs.h"
#include "build/imagetargets.h"
#include "cmd/images.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"

#define BUILD_HELP                                                                            \
	"      --name NAME        what to call the images (DIR's own name)\n"                 \
	"      --variant V,...    which variants (all that the recipe names)\n"               \
	"      --platform P,...   e.g. linux/amd64,linux/arm64 (this machine's)\n"            \
	"      --build-arg N=V    an argument of the recipe; may be repeated\n"               \
	"      --builder B        buildah, podman, docker or mmdebstrap (the first there)\n"  \
	"      --on HOST          build there, over ssh, for its own platform unless one is " \
	"named\n"

static const char build_help[] =
	"usage: inlay image build [options] DIR\n"
	"\n"
	"Builds what the Containerfile (or Dockerfile, or file 'mmdebstrap') in DIR says, and "
	"imports "
	"it. When\n"
	"nothing has changed since the last time, nothing is started. Tags are resolved once, and "
	"kept "
	"in\n"
	"DIR/inlay.lock.\n"
	"\n" BUILD_HELP "      --force            build also when nothing has changed\n"
	"      --refresh-base     resolve tags anew\n"
	"      --jobs N           builds side by side (2)\n" COMMON_HELP;

static const char why_help[] =
	"usage: inlay why --build [options] DIR\n"
	"\n"
	"Tells what changed since the images of DIR were built last. Starts nothing.\n"
	"\n" BUILD_HELP COMMON_HELP;

enum {
	OPT_NAME = OPT_FIRST_OWN,
	OPT_VARIANT,
	OPT_PLATFORM,
	OPT_ARG,
	OPT_BUILDER,
	OPT_ON,
	OPT_FORCE,
	OPT_REFRESH,
	OPT_JOBS,
};

enum { LIST_MAX = 64, JOBS_MAX = 64 };

struct list {
	const char *items[LIST_MAX];
	size_t count;
};

struct options {
	struct common common;
	struct image_targets_options build;
	struct list variants, platforms, args;
	char *on;
	struct build_host host;
	bool force;
	uint64_t at_once;
	struct image_targets targets;
	struct image_target *running[LIST_MAX]; /* by job */
	struct build_job jobs[LIST_MAX];
	size_t failed;
	int64_t start_ns;
};

/* ---- parsing ---- */

/* "a,b" as two items; the text is cut in place. */
static int add(struct list *l, char *text, bool split, struct inlay_error *err)
{
	for (char *next; text; text = next) {
		next = split ? strchr(text, ',') : NULL;
		if (next)
			*next++ = 0;
		if (l->count == LIST_MAX)
			return inlay_error_set(err, -E2BIG, "more than %d of an option", LIST_MAX);
		l->items[l->count++] = text;
	}
	return 0;
}

static int take(struct options *o, int c, struct inlay_error *err)
{
	switch (c) {
	case OPT_NAME:
		o->build.name = optarg;
		return 0;
	case OPT_BUILDER:
		o->build.builder = optarg;
		return 0;
	case OPT_ON:
		o->on = optarg;
		return 0;
	case OPT_FORCE:
		o->force = true;
		return 0;
	case OPT_REFRESH:
		o->build.refresh = true;
		return 0;
	case OPT_VARIANT:
		return add(&o->variants, optarg, true, err);
	case OPT_PLATFORM:
		return add(&o->platforms, optarg, true, err);
	case OPT_ARG:
		if (!strchr(optarg, '='))
			return inlay_error_set(err, -EINVAL, "--build-arg %s: NAME=VALUE is needed",
					       optarg);
		return add(&o->args, optarg, false, err);
	case OPT_JOBS:
		if (inlay_parse_u64(optarg, &o->at_once, err) < 0)
			return err->code;
		return o->at_once >= 1 && o->at_once <= JOBS_MAX
			       ? 0
			       : inlay_error_set(err, -EINVAL, "--jobs is 1 to %d", JOBS_MAX);
	default:
		return inlay_error_set(err, -EINVAL, "bad options");
	}
}

/* 0 = go on; otherwise *ret_code is the exit code. */
static int parse(struct options *o, int argc, char **argv, const char *what, const char *help,
		 int *ret_code)
{
	static const struct option table[] = {
		COMMON_OPTIONS,
		{"name", required_argument, NULL, OPT_NAME},
		{"variant", required_argument, NULL, OPT_VARIANT},
		{"platform", required_argument, NULL, OPT_PLATFORM},
		{"build-arg", required_argument, NULL, OPT_ARG},
		{"builder", required_argument, NULL, OPT_BUILDER},
		{"on", required_argument, NULL, OPT_ON},
		{"force", no_argument, NULL, OPT_FORCE},
		{"refresh-base", no_argument, NULL, OPT_REFRESH},
		{"jobs", required_argument, NULL, OPT_JOBS},
		{0},
	};
	struct inlay_error err = {0};
	int c;

	*ret_code = INLAY_EXIT_USAGE;
	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (!common_take(&o->common, c) && take(o, c, &err) < 0)
			return common_usage(what, err.text);
	if (o->common.help) {
		(void)fputs(help, stdout);
		*ret_code = INLAY_EXIT_OK;
		return 1;
	}
	if (argc - optind != 1)
		return common_usage(what, "one DIR is needed");
	if (common_finish(&o->common, &err) < 0) {
		*ret_code = common_fail(&o->common, &err);
		return 1;
	}
	o->build.dir = argv[optind];
	o->build.state = o->common.state;
	o->build.variants = o->variants.items;
	o->build.variant_count = o->variants.count;
	o->build.platforms = o->platforms.items;
	o->build.platform_count = o->platforms.count;
	o->build.args = o->args.items;
	o->build.arg_count = o->args.count;
	return 0;
}

/* ---- telling ---- */

static void label(struct inlay_buf *b, const struct image_target *t)
{
	inlay_buf_printf(b, "[%s%s%s] ", t->key.variant, *t->key.variant ? " " : "",
			 t->key.platform);
}

/* What the builder says, with who says it. With -q nothing. */
static void builder_line(void *ctx, size_t job, const char *text, size_t len)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	if (o->common.verbose < 0)
		return;
	while (len > 0 && text[len - 1] == '\r')
		len--;
	label(&b, o->running[job]);
	inlay_text_escape(&b, text, len);
	inlay_buf_u8(&b, '\n');
	print_text(stderr, &b);
}

static void tell(struct options *o, const struct image_target *t, const char *result,
		 const struct inlay_digest *manifest)
{
	struct inlay_buf b = {0};
	char hex[INLAY_DIGEST_HEX] = "";

	if (manifest)
		inlay_digest_hex(manifest, hex);
	if (o->common.json) {
		print_json(json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:o}", "schema", 1, "name",
				     t->key.name, "variant", t->key.variant, "platform",
				     t->key.platform, "result", result, "manifest", hex, "total_ms",
				     print_json_ms(inlay_monotonic_ns() - o->start_ns)));
		return;
	}
	if (o->common.verbose < 0)
		return;
	inlay_buf_printf(&b, "%s (%s%s%s): %s", t->key.name, t->key.variant,
			 *t->key.variant ? ", " : "", t->key.platform, result);
	if (manifest) {
		inlay_buf_printf(&b, ", manifest ");
		print_short_id(&b, manifest);
	}
	inlay_buf_printf(&b, ", ");
	inlay_text_duration(&b, inlay_monotonic_ns() - o->start_ns);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

/* ---- building ---- */

struct here {
	const struct image_target *t;
	bool found;
};

static int look(void *ctx, const struct inlay_image *image, struct inlay_error *err)
{
	struct here *h = ctx;

	(void)err;
	h->found |= strcmp(image->key.name, h->t->key.name) == 0 &&
		    strcmp(image->key.variant, h->t->key.variant) == 0 &&
		    strcmp(image->key.platform, h->t->key.platform) == 0 &&
		    inlay_digest_equal(&image->generation.root.tree, &h->t->manifest);
	return 0;
}

/* Nothing to do, when also what was built then is what the image is now. */
static int is_current(struct options *o, struct images *im, const struct image_target *t, bool *ret,
		      struct inlay_error *err)
{
	struct here h = {.t = t};
	int r = 0;

	if (!o->force && im->store && image_target_same(t))
		r = inlay_image_each(im->store, look, &h, err);
	*ret = h.found;
	return r;
}

static int import(struct options *o, const struct image_target *t,
		  struct inlay_image_imported *done, struct inlay_error *err)
{
	struct inlay_image_import import = {.path = t->out,
					    .name = t->key.name,
					    .variant = t->key.variant,
					    .platform = t->key.platform,
					    .spool = o->targets.work};
	struct images im;
	int r = images_open(&im, &o->common, true, err);

	if (r < 0)
		return r;
	r = inlay_image_import(im.store, &import, done, err);
	images_close(&im);
	return r;
}

/* A failed build is told and leaves the others alone. */
static int job_ended(void *ctx, size_t job, struct inlay_error *err)
{
	struct options *o = ctx;
	struct image_target *t = o->running[job];
	struct inlay_image_imported done;
	int status = o->jobs[job].status;

	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		o->failed++;
		tell(o, t, "failed", NULL);
		return 0;
	}
	int r = import(o, t, &done, err);
	if (r < 0)
		return r;
	const struct inlay_digest *manifest = &done.image.generation.root.tree;
	r = image_target_remember(&o->targets, t, manifest, err);
	if (r == 0)
		tell(o, t, done.changed ? "built" : "built alike", manifest);
	return r;
}

static int run_jobs(struct options *o, size_t count, struct inlay_error *err)
{
	struct build_jobs_options run = {.at_once = o->at_once ? (size_t)o->at_once : 2,
					 .line = builder_line,
					 .ended = job_ended,
					 .ctx = o};

	return build_jobs_run(o->jobs, count, &run, err);
}

static int open_targets(struct options *o, struct inlay_error *err)
{
	if (o->on) {
		struct target target = {.host = o->on};
		struct transport_options transport = common_transport(&o->common, &target);
		int r = build_host_open(&o->host, &transport, err);
		if (r < 0)
			return r;
		o->build.on = &o->host;
	}
	return image_targets_open(&o->targets, &o->build, err);
}

static int build(struct options *o, struct inlay_error *err)
{
	auto_buf struct inlay_buf work = {0};
	struct images im;
	size_t count = 0;
	int r = open_targets(o, err);

	if (r == 0)
		r = images_open(&im, &o->common, false, err);
	if (r < 0)
		return r;
	inlay_buf_printf(&work, "%s/images", o->common.state);
	o->targets.work = inlay_buf_cstr(&work);
	r = 0;
	for (size_t i = 0; r == 0 && i < o->targets.count; i++) {
		struct image_target *t = &o->targets.items[i];
		bool current;
		r = is_current(o, &im, t, &current, err);
		if (r == 0 && current) {
			tell(o, t, "unchanged", &t->manifest);
			continue;
		}
		if (r == 0)
			r = image_target_prepare(&o->targets, t, &o->jobs[count], err);
		o->running[count++] = t;
	}
	images_close(&im);
	if (r == 0 && count > 0)
		r = run_jobs(o, count, err);
	if (r == 0 && o->failed > 0)
		return inlay_error_set(err, -EREMOTEIO, "%zu of %zu builds failed", o->failed,
				       o->targets.count);
	return r;
}

int cmd_image_build(int argc, char **argv)
{
	struct options o = {.targets = {.dirfd = -1, .builds = -1},
			    .start_ns = inlay_monotonic_ns()};
	struct inlay_error err = {0};
	int code;

	if (parse(&o, argc, argv, "image build", build_help, &code) == 0)
		code = build(&o, &err) < 0 ? common_fail(&o.common, &err) : INLAY_EXIT_OK;
	image_targets_close(&o.targets);
	build_host_fini(&o.host);
	common_fini(&o.common);
	return code;
}

/* ---- why --build ---- */

struct difference {
	struct options *o;
	const struct image_target *t;
	json_t *list;
};

static void differ(void *ctx, char sign, const char *line, size_t len)
{
	struct difference *d = ctx;
	struct inlay_buf b = {0};

	if (d->o->common.json) {
		(void)json_array_append_new(d->list,
					    json_pack("{s:s#, s:o}", "sign", &sign, 1, "input",
						      print_json_name(line, len)));
		return;
	}
	label(&b, d->t);
	inlay_buf_printf(&b, "%c ", sign);
	inlay_buf_add(&b, line, len);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

static int why_one(struct options *o, struct image_target *t, struct inlay_error *err)
{
	struct difference d = {.o = o, .t = t, .list = json_array()};
	const char *state = !t->before.len         ? "never built"
			    : image_target_same(t) ? "unchanged"
						   : "changed";
	struct inlay_buf b = {0};
	int r = 0;

	if (t->before.len)
		r = build_inputs_differ(inlay_buf_cstr(&t->before), inlay_buf_cstr(&t->inputs),
					differ, &d, err);
	if (r < 0 || o->common.json) {
		json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:o}", "schema", 1, "name",
				      t->key.name, "variant", t->key.variant, "platform",
				      t->key.platform, "state", state, "differs", d.list);
		if (r == 0)
			print_json(j);
		else
			json_decref(j);
		return r;
	}
	json_decref(d.list);
	label(&b, t);
	inlay_buf_printf(&b, "%s\n", state);
	print_text(stdout, &b);
	return 0;
}

int cmd_why_build(int argc, char **argv)
{
	struct options o = {.targets = {.dirfd = -1, .builds = -1}, .build.offline = true};
	struct inlay_error err = {0};
	int code, r;

	if (parse(&o, argc, argv, "why --build", why_help, &code) == 0) {
		r = open_targets(&o, &err);
		for (size_t i = 0; r == 0 && i < o.targets.count; i++)
			r = why_one(&o, &o.targets.items[i], &err);
		code = r < 0 ? common_fail(&o.common, &err) : INLAY_EXIT_OK;
	}
	image_targets_close(&o.targets);
	build_host_fini(&o.host);
	common_fini(&o.common);
	return code;
}
