/* SPDX-License-Identifier: Apache-2.0 */
/* image push: an image to hosts, without a registry. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/images.h"
#include "cmd/pair.h"
#include "image/imagefan.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"

static const char help[] =
	"usage: inlay image push [options] NAME HOST...\n"
	"\n"
	"Brings an image to hosts (user@host, an ssh alias, ssh://user@host:port, or local), as a "
	"tree of\n"
	"real files for each. Only what a host lacks is sent, changed files as differences to "
	"what it has;\n"
	"the new tree is made of links of the old one wherever nothing changed. Each host gets the "
	"platform\n"
	"that it is. What arrived before a push was cut is not sent again.\n"
	"\n"
	"      --variant V, --platform P   which one, where there are several\n"
	"      --emulate          a platform that the host is not, where qemu-user runs it\n"
	"      --owner WHO        keep (inlayd has to be root there; the default), or squash: all\n"
	"                         belongs to the one who runs inlayd\n"
	"      --bwlimit RATE     bytes a second to each host, at most\n"
	"      --lock-wait D      wait that long for another push to the host (60s)\n"
	"      --stats            figures at the end     --progress  show it also when it is no\n"
	"                         terminal               --no-progress\n" COMMON_HELP
	"\nEnds with 3 when some hosts failed and others did not.\n";

enum {
	OPT_VARIANT = OPT_FIRST_OWN,
	OPT_PLATFORM,
	OPT_EMULATE,
	OPT_OWNER,
	OPT_BWLIMIT,
	OPT_LOCK_WAIT,
	OPT_STATS,
	OPT_PROGRESS,
	OPT_NO_PROGRESS,
};

struct options {
	struct common common;
	const char *name, *variant, *platform;
	struct imagefan_options fan;
	bool stats, progress;
	bool shown; /* a progress line is */
	struct target *targets;
	struct imagefan_host *hosts;
	size_t count;
};

/* ---- while it runs ---- */

static double fraction(const struct imagefan_host *h)
{
	struct imagestream *s = h->stream;

	if (!s || s->encode.plan->content_bytes == 0)
		return h->phase >= IMAGEFAN_LAYING ? 1 : 0;
	double read = (double)s->encode.done / (double)s->encode.plan->content_bytes;
	uint64_t written;
	{
		scope_lock(&s->lock);
		written = s->written;
	}
	return written ? read * (double)h->sent / (double)written : 0;
}

static void on_progress(void *ctx, struct imagefan_host *hosts, size_t count)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};
	unsigned phases[IMAGEFAN_ENDED + 1] = {0};
	uint64_t sent = 0;
	double least = 1;

	for (size_t i = 0; i < count; i++) {
		phases[hosts[i].phase]++;
		sent += hosts[i].sent;
		double f = hosts[i].phase == IMAGEFAN_SENDING ? fraction(&hosts[i]) : 1;
		least = f < least ? f : least;
	}
	inlay_buf_printf(&b, "\r\033[K");
	if (phases[IMAGEFAN_CONNECTING])
		inlay_buf_printf(&b, "connecting %u  ", phases[IMAGEFAN_CONNECTING]);
	if (phases[IMAGEFAN_SENDING]) {
		inlay_buf_printf(&b, "sending %u  %3.0f%%  ", phases[IMAGEFAN_SENDING],
				 least > 1 ? 100 : least * 100);
		inlay_text_size(&b, sent);
		inlay_buf_printf(&b, "  ");
	}
	if (phases[IMAGEFAN_LAYING])
		inlay_buf_printf(&b, "laying %u  ", phases[IMAGEFAN_LAYING]);
	if (count > 1)
		inlay_buf_printf(&b, "done %u/%zu", phases[IMAGEFAN_ENDED], count);
	o->shown = true;
	print_text(stderr, &b);
}

/* ---- what is told ---- */

static json_t *ways_json(const struct imagefan_host *h)
{
	json_t *all = json_object();

	for (size_t i = 0; i < IMAGE_WAYS; i++)
		(void)json_object_set_new(all, image_way_name((enum image_way)i),
					  json_pack("{s:I, s:I, s:I}", "objects",
						    (json_int_t)h->figures.by[i].objects, "bytes",
						    (json_int_t)h->figures.by[i].raw, "wire_bytes",
						    (json_int_t)h->figures.by[i].wire));
	return all;
}

static void tell_json(const struct imagefan_host *h)
{
	enum inlay_exit code = h->result < 0 ? inlay_error_exit(&h->err) : INLAY_EXIT_OK;
	json_t *j = h->result < 0 ? json_object() : images_json(&h->image);

	(void)json_object_set_new(j, "schema", json_integer(1));
	(void)json_object_set_new(j, "host", print_json_name(h->name, strlen(h->name)));
	(void)json_object_set_new(j, "exit", json_integer(code));
	(void)json_object_set_new(j, "sent_bytes", json_integer((json_int_t)h->sent_bytes));
	(void)json_object_set_new(j, "received_bytes", json_integer((json_int_t)h->received_bytes));
	(void)json_object_set_new(j, "total_ms", print_json_ms(h->total_ns));
	if (h->result < 0) {
		(void)json_object_set_new(j, "error",
					  print_json_name(h->err.text, strlen(h->err.text)));
		print_json(j);
		return;
	}
	(void)json_object_set_new(j, "changed", json_boolean(!h->there));
	(void)json_object_set_new(j, "generation", json_integer((json_int_t)h->generation));
	(void)json_object_set_new(j, "sent_objects", json_integer((json_int_t)h->objects));
	(void)json_object_set_new(j, "had_basis", json_boolean(h->had_basis));
	(void)json_object_set_new(j, "shared_stream", json_boolean(h->shared_stream));
	(void)json_object_set_new(j, "laid_entries", json_integer((json_int_t)h->entries));
	(void)json_object_set_new(j, "shared_files", json_integer((json_int_t)h->shared));
	(void)json_object_set_new(j, "written_bytes", json_integer((json_int_t)h->written_bytes));
	(void)json_object_set_new(j, "xattrs_not_set", json_integer((json_int_t)h->xattrs));
	(void)json_object_set_new(j, "laid_ms", print_json_ms(h->laid_ns));
	(void)json_object_set_new(j, "disk_ms", print_json_ms(h->sync_ns));
	(void)json_object_set_new(j, "ways", ways_json(h));
	print_json(j);
}

static void tell_stats(const struct imagefan_host *h)
{
	struct inlay_buf b = {0};

	for (size_t i = 0; i < IMAGE_WAYS; i++) {
		inlay_buf_printf(&b, "  %-8s ", image_way_name((enum image_way)i));
		inlay_text_count(&b, h->figures.by[i].objects);
		inlay_buf_printf(&b, " objects, ");
		inlay_text_size(&b, h->figures.by[i].raw);
		inlay_buf_printf(&b, " as ");
		inlay_text_size(&b, h->figures.by[i].wire);
		inlay_buf_u8(&b, '\n');
	}
	inlay_buf_printf(&b, "  laid in ");
	inlay_text_duration(&b, h->laid_ns);
	inlay_buf_printf(&b, ", disk ");
	inlay_text_duration(&b, h->sync_ns);
	inlay_buf_printf(&b, ", ");
	inlay_text_count(&b, h->entries);
	inlay_buf_printf(&b, " entries, ");
	inlay_text_count(&b, h->shared);
	inlay_buf_printf(&b, " files shared, ");
	inlay_text_size(&b, h->written_bytes);
	inlay_buf_printf(&b, " written\n");
	print_text(stdout, &b);
}

static void tell(void *ctx, const struct imagefan_host *h)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	if (o->shown)
		(void)fputs("\r\033[K", stderr);
	o->shown = false;
	if (o->common.json) {
		tell_json(h);
		return;
	}
	if (o->common.verbose < 0 && h->result == 0)
		return;
	inlay_text_escape(&b, h->name, strlen(h->name));
	inlay_buf_printf(&b, ": ");
	if (h->result < 0) {
		inlay_text_escape(&b, h->err.text, strlen(h->err.text));
		inlay_buf_u8(&b, '\n');
		print_text(stderr, &b);
		return;
	}
	images_text(&b, &h->image);
	inlay_buf_printf(&b, h->there ? ": unchanged, manifest " : ": manifest ");
	print_short_id(&b, &h->image.generation.root.tree);
	if (!h->there) {
		inlay_buf_printf(&b, ", ");
		inlay_text_count(&b, h->objects);
		inlay_buf_printf(&b, " new contents, ");
		inlay_text_size(&b, h->sent_bytes);
		inlay_buf_printf(&b, " sent");
	}
	if (h->xattrs)
		inlay_buf_printf(&b, ", %llu attributes could not be set",
				 (unsigned long long)h->xattrs);
	inlay_buf_printf(&b, ", ");
	inlay_text_duration(&b, h->total_ns);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
	if (o->stats && !h->there)
		tell_stats(h);
	(void)fflush(stdout);
}

static int exit_code(const struct options *o)
{
	size_t failed = 0;
	int code = INLAY_EXIT_OK;

	for (size_t i = 0; i < o->count; i++) {
		if (o->hosts[i].result == 0)
			continue;
		failed++;
		code = inlay_error_exit(&o->hosts[i].err);
	}
	return failed > 0 && failed < o->count ? INLAY_EXIT_SOME_HOSTS : code;
}

/* ---- what is done ---- */

static int find_images(struct options *o, struct images *im, struct image_list *list,
		       struct inlay_error *err)
{
	struct inlay_image_key want;
	int r = inlay_image_key_make(o->name, o->variant ? o->variant : "",
				     o->platform ? o->platform : "", &want, err);

	if (r < 0)
		return inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	r = images_open(im, &o->common, false, err);
	if (r == 0)
		r = images_find(im, &want, list, err);
	if (r < 0)
		return r;
	if (list->count == 0)
		return inlay_error_set(err, -ENOENT,
				       "there is no such image here: %s ('inlay image list')",
				       o->name);
	for (size_t i = 1; i < list->count; i++)
		if (strcmp(list->items[i].key.variant, list->items[0].key.variant) != 0)
			return inlay_error_set(err, -EINVAL,
					       "%s has several variants; choose one with --variant",
					       o->name);
	return 0;
}

static int prepare_hosts(struct options *o, char **names, struct inlay_error *err)
{
	int r = 0;

	o->targets = calloc(o->count, sizeof *o->targets);
	o->hosts = calloc(o->count, sizeof *o->hosts);
	if (!o->targets || !o->hosts)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; r == 0 && i < o->count; i++) {
		r = images_host(names[i], &o->targets[i], err);
		o->hosts[i].name = names[i];
		o->hosts[i].transport = common_transport(&o->common, &o->targets[i]);
	}
	return r;
}

static int run(struct options *o, char **names)
{
	struct images im = {.fd = -1};
	struct image_list list = {0};
	struct inlay_error err = {0};
	int r = common_finish(&o->common, &err);

	o->common.hosts = (unsigned)o->count;
	if (r == 0)
		r = prepare_hosts(o, names, &err);
	if (r == 0)
		r = find_images(o, &im, &list, &err);
	if (r == 0) {
		o->fan.store = im.store;
		o->fan.trees = im.trees;
		o->fan.spool_fd = im.fd;
		o->fan.images = list.items;
		o->fan.image_count = list.count;
		const struct imagefan_watch watch = {
			.progress = o->progress ? on_progress : NULL, .ended = tell, .ctx = o};
		r = imagefan(&o->fan, o->hosts, o->count, &watch, &err);
	}
	int code = r < 0 ? common_fail(&o->common, &err) : exit_code(o);
	for (size_t i = 0; o->targets && i < o->count; i++)
		target_fini(&o->targets[i]);
	free(o->targets);
	free(o->hosts);
	free(list.items);
	images_close(&im);
	return code;
}

static int take(struct options *o, int c, struct inlay_error *err)
{
	switch (c) {
	case OPT_VARIANT:
		o->variant = optarg;
		return 0;
	case OPT_PLATFORM:
		o->platform = optarg;
		return 0;
	case OPT_EMULATE:
		o->fan.emulate = true;
		return 0;
	case OPT_OWNER:
		o->fan.squash = strcmp(optarg, "squash") == 0;
		return o->fan.squash || strcmp(optarg, "keep") == 0
			       ? 0
			       : inlay_error_set(err, -EINVAL, "--owner is keep or squash");
	case OPT_BWLIMIT:
		return pair_parse_rate(optarg, &o->fan.bwlimit, err);
	case OPT_LOCK_WAIT:
		return inlay_parse_duration(optarg, &o->fan.lock_wait_ns, err);
	case OPT_STATS:
		o->stats = true;
		return 0;
	case OPT_PROGRESS:
	case OPT_NO_PROGRESS:
		o->progress = c == OPT_PROGRESS;
		return 0;
	default:
		return common_take(&o->common, c) ? 0
						  : inlay_error_set(err, -EINVAL, "bad options");
	}
}

int cmd_image_push(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"variant", required_argument, NULL, OPT_VARIANT},
					      {"platform", required_argument, NULL, OPT_PLATFORM},
					      {"emulate", no_argument, NULL, OPT_EMULATE},
					      {"owner", required_argument, NULL, OPT_OWNER},
					      {"bwlimit", required_argument, NULL, OPT_BWLIMIT},
					      {"lock-wait", required_argument, NULL, OPT_LOCK_WAIT},
					      {"stats", no_argument, NULL, OPT_STATS},
					      {"progress", no_argument, NULL, OPT_PROGRESS},
					      {"no-progress", no_argument, NULL, OPT_NO_PROGRESS},
					      {0}};
	struct options o = {.fan = {.lock_wait_ns = 60ll * 1000000000},
			    .progress = isatty(STDERR_FILENO)};
	struct inlay_error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (take(&o, c, &err) < 0)
			return common_usage("image push", err.text);
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind < 2)
		return common_usage("image push", "NAME and at least one HOST are needed");
	o.name = argv[optind];
	o.count = (size_t)(argc - optind - 1);
	o.progress &= !o.common.json && o.common.verbose >= 0;
	int code = run(&o, argv + optind + 1);
	common_fini(&o.common);
	return code;
}
