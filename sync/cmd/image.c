/* SPDX-License-Identifier: Apache-2.0 */
/* image: the verbs for base images; list, inspect and rm themselves. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/images.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

static const char list_help[] = "usage: inlay image list [options] [NAME]\n"
				"\n"
				"The images that were imported or built here, or those of a host.\n"
				"\n"
				"      --on HOST          what was pushed there\n" COMMON_HELP;

static const char inspect_help[] =
	"usage: inlay image inspect [options] NAME\n"
	"\n"
	"What an image is and how it is run: its manifest, size and configuration.\n"
	"\n"
	"      --variant V, --platform P   which one, where there are several\n"
	"      --on HOST          that which a host has\n" COMMON_HELP;

static const char rm_help[] =
	"usage: inlay image rm [options] NAME\n"
	"\n"
	"Forgets an image, and frees what no other image needs.\n"
	"\n"
	"      --variant V, --platform P   only these\n"
	"      --on HOST          the one that a host has; not while it is in use\n" COMMON_HELP;

enum { OPT_VARIANT = OPT_FIRST_OWN, OPT_PLATFORM, OPT_ON };

struct options {
	struct common common;
	const char *name, *variant, *platform, *on;
	struct inlay_image_key want;
};

/* 0 = go on; otherwise *ret_code is the exit code. */
static int parse(struct options *o, int argc, char **argv, bool name_needed, const char *help,
		 int *ret_code)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"variant", required_argument, NULL, OPT_VARIANT},
					      {"platform", required_argument, NULL, OPT_PLATFORM},
					      {"on", required_argument, NULL, OPT_ON},
					      {0}};
	struct inlay_error err = {0};
	int c;

	*ret_code = INLAY_EXIT_USAGE;
	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (c == OPT_VARIANT)
			o->variant = optarg;
		else if (c == OPT_PLATFORM)
			o->platform = optarg;
		else if (c == OPT_ON)
			o->on = optarg;
		else if (!common_take(&o->common, c))
			return common_usage(argv[0], "bad options");
	}
	if (o->common.help) {
		(void)fputs(help, stdout);
		*ret_code = INLAY_EXIT_OK;
		return 1;
	}
	if (argc - optind > 1 || (name_needed && argc - optind < 1))
		return common_usage(argv[0], "one NAME is needed");
	o->name = argv[optind];
	int r = inlay_image_key_make(o->name ? o->name : "x", o->variant ? o->variant : "",
				     o->platform ? o->platform : "", &o->want, &err);
	if (r < 0)
		return common_usage(argv[0], err.text);
	if (!o->name)
		o->want.name[0] = 0;
	if (common_finish(&o->common, &err) < 0) {
		*ret_code = common_fail(&o->common, &err);
		return 1;
	}
	return 0;
}

static int find(struct options *o, struct images *im, bool write, struct image_list *ret,
		struct inlay_error *err)
{
	int r = images_open(im, &o->common, write, err);

	*ret = (struct image_list){0};
	if (r == 0)
		r = images_find(im, &o->want, ret, err);
	if (r < 0)
		return r;
	if (o->name && ret->count == 0)
		return inlay_error_set(err, -ENOENT, "there is no such image: %s%s%s%s%s", o->name,
				       *o->want.variant ? ", " : "", o->want.variant,
				       *o->want.platform ? ", " : "", o->want.platform);
	return 0;
}

/* The same of a host. */
static int on_host(const struct options *o,
		   int (*fn)(const struct common *c, const char *host,
			     const struct inlay_image_key *want, struct inlay_error *err))
{
	struct inlay_error err = {0};

	return fn(&o->common, o->on, &o->want, &err) < 0 ? common_fail(&o->common, &err)
							 : INLAY_EXIT_OK;
}

/* ---- list ---- */

void images_line(struct inlay_buf *b, const struct inlay_image *image)
{
	const struct inlay_generation *g = &image->generation;

	inlay_buf_printf(b, "%-24s %-8s %-14s ", image->key.name,
			 *image->key.variant ? image->key.variant : "-", image->key.platform);
	print_short_id(b, &g->root.tree);
	inlay_buf_printf(b, "  ");
	print_local_time(b, g->time_ns);
	inlay_buf_printf(b, "  ");
	inlay_text_count(b, g->entries);
	inlay_buf_printf(b, " entries, ");
	inlay_text_size(b, g->bytes);
}

static void list_one(const struct options *o, const struct inlay_image *image)
{
	struct inlay_buf b = {0};

	if (o->common.json) {
		json_t *j = images_json(image);
		(void)json_object_set_new(j, "schema", json_integer(1));
		print_json(j);
		return;
	}
	images_line(&b, image);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

static int cmd_list(int argc, char **argv)
{
	struct images im = {.fd = -1};
	struct inlay_error err = {0};
	struct image_list list = {0};
	struct options o = {0};
	int code;
	int parsed = parse(&o, argc, argv, false, list_help, &code);

	if (parsed == 0 && o.on) {
		code = on_host(&o, images_list_on);
	} else if (parsed == 0) {
		code = find(&o, &im, false, &list, &err) < 0 ? common_fail(&o.common, &err)
							     : INLAY_EXIT_OK;
		for (size_t i = 0; code == INLAY_EXIT_OK && i < list.count; i++)
			list_one(&o, &list.items[i]);
	}
	free(list.items);
	images_close(&im);
	common_fini(&o.common);
	return code;
}

/* ---- inspect ---- */

int images_print_inspected(const struct common *c, json_t *j, const struct inlay_buf *json,
			   struct inlay_error *err)
{
	json_t *doc = json_loadb((const char *)json->data, json->len, 0, NULL);

	if (!doc) {
		json_decref(j);
		return inlay_error_set(err, -EBADMSG, "image.json is not JSON");
	}
	(void)json_object_set(j, "config", json_object_get(doc, "config"));
	json_decref(doc);
	if (c->json) {
		print_json(j);
		return 0;
	}
	char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	(void)printf("%s\n", text ? text : "");
	free(text);
	json_decref(j);
	return 0;
}

static int inspect(struct options *o, struct images *im, const struct image_list *list,
		   struct inlay_error *err)
{
	auto_buf struct inlay_buf json = {0}, names = {0};
	const struct inlay_image *image = list->items;
	struct inlay_entry root;

	for (size_t i = 0; list->count > 1 && i < list->count; i++) {
		inlay_buf_printf(&names, i ? ", " : "");
		images_text(&names, &list->items[i]);
	}
	if (list->count > 1)
		return inlay_error_set(err, -EINVAL, "choose one with --variant or --platform: %s",
				       inlay_buf_cstr(&names));
	int r = inlay_image_open(im->trees, im->store, &image->generation.root.tree, &root, &json,
				 err);
	if (r > 0)
		return inlay_error_set(err, -EBADMSG, "the image's tree is not complete");
	if (r < 0)
		return r;
	json_t *j = images_json(image);
	(void)json_object_set_new(j, "schema", json_integer(1));
	return images_print_inspected(&o->common, j, &json, err);
}

static int cmd_inspect(int argc, char **argv)
{
	struct images im = {.fd = -1};
	struct inlay_error err = {0};
	struct image_list list = {0};
	struct options o = {0};
	int code;

	int parsed = parse(&o, argc, argv, true, inspect_help, &code);
	if (parsed == 0 && o.on) {
		code = on_host(&o, images_inspect_on);
	} else if (parsed == 0) {
		int r = find(&o, &im, false, &list, &err);
		if (r == 0)
			r = inspect(&o, &im, &list, &err);
		code = r < 0 ? common_fail(&o.common, &err) : INLAY_EXIT_OK;
	}
	free(list.items);
	images_close(&im);
	common_fini(&o.common);
	return code;
}

/* ---- rm ---- */

void images_print_removed(const struct common *c, size_t count, uint64_t freed_bytes)
{
	struct inlay_buf b = {0};

	if (c->json) {
		print_json(json_pack("{s:i, s:I, s:I}", "schema", 1, "removed", (json_int_t)count,
				     "freed_bytes", (json_int_t)freed_bytes));
		return;
	}
	if (c->verbose < 0)
		return;
	inlay_text_count(&b, count);
	inlay_buf_printf(&b, count == 1 ? " image removed, " : " images removed, ");
	inlay_text_size(&b, freed_bytes);
	inlay_buf_printf(&b, " freed\n");
	print_text(stdout, &b);
}

static int rm(struct options *o, struct images *im, const struct image_list *list,
	      struct inlay_error *err)
{
	struct inlay_store_sweep sweep = {0};
	int r = 0;

	for (size_t i = 0; r >= 0 && i < list->count; i++)
		r = inlay_image_remove(im->store, &list->items[i].key, err);
	if (r >= 0)
		r = inlay_image_gc(im->store, &sweep, err);
	if (r < 0)
		return r;
	images_print_removed(&o->common, list->count, sweep.freed_bytes);
	return 0;
}

static int cmd_rm(int argc, char **argv)
{
	struct images im = {.fd = -1};
	struct inlay_error err = {0};
	struct image_list list = {0};
	struct options o = {0};
	int code;

	int parsed = parse(&o, argc, argv, true, rm_help, &code);
	if (parsed == 0 && o.on) {
		code = on_host(&o, images_remove_on);
	} else if (parsed == 0) {
		int r = find(&o, &im, true, &list, &err);
		if (r == 0)
			r = rm(&o, &im, &list, &err);
		code = r < 0 ? common_fail(&o.common, &err) : INLAY_EXIT_OK;
	}
	free(list.items);
	images_close(&im);
	common_fini(&o.common);
	return code;
}

/* ---- the verbs ---- */

static const struct command verbs[] = {
	{"build", cmd_image_build, "build what a recipe says, unless nothing changed"},
	{"import", cmd_image_import, "take an archive in, or unpack it"},
	{"push", cmd_image_push, "bring an image to hosts, without a registry"},
	{"list", cmd_list, "the images that are here"},
	{"inspect", cmd_inspect, "what an image is and how it is run"},
	{"rm", cmd_rm, "forget an image"},
};

static void usage(FILE *f)
{
	(void)fputs("usage: inlay image VERB [options] ...\n\n", f);
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
		(void)fprintf(f, "  %-10s %s\n", verbs[i].name, verbs[i].help);
	(void)fputs("\n'inlay image VERB --help' tells more.\n", f);
}

int cmd_image(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
		usage(stdout);
		return INLAY_EXIT_OK;
	}
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
		if (strcmp(name, verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	if (*name)
		(void)fprintf(stderr, "inlay image: there is no verb '%s'\n\n", name);
	usage(stderr);
	return INLAY_EXIT_USAGE;
}
