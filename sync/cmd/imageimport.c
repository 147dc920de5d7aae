/* SPDX-License-Identifier: Apache-2.0 */
/* image import: an archive into the store of images, or into a directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/images.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/lay.h"
#include "inlay/text.h"

static const char help[] =
	"usage: inlay image import [options] ARCHIVE [DIR]\n"
	"\n"
	"Takes a base image in: an OCI layout directory, an oci-archive or docker-archive, or a "
	"tar of\n"
	"a root filesystem or of one layer; plain, gzip or zstd. Digests and sizes are checked "
	"before\n"
	"anything is visible. With DIR it is unpacked there instead; DIR must not exist, or be "
	"empty.\n"
	"\n"
	"Devices, pipes and sockets are not kept: they are counted, and the runtime makes the "
	"devices\n"
	"that a container needs.\n"
	"\n"
	"      --name NAME        what to call it (the archive's own tag, or its file's name)\n"
	"      --variant V        e.g. dev, prod\n"
	"      --platform P       e.g. linux/arm64; which one of several, or what a plain tar is "
	"for\n"
	"      --tag T            which image of an archive with several\n" COMMON_HELP;

enum { OPT_NAME = OPT_FIRST_OWN, OPT_VARIANT, OPT_PLATFORM, OPT_TAG };

struct options {
	struct common common;
	struct inlay_image_import import;
	const char *dir;
	int64_t took_ns;
};

/* ---- what is told ---- */

static const char *number_of(uint64_t n, const char *one, const char *many)
{
	return n == 1 ? one : many;
}

static void tell_skipped(const struct inlay_image_skipped *s, struct inlay_buf *b)
{
	const struct {
		uint64_t count;
		const char *one, *many;
	} rows[] = {
		{s->devices, "device", "devices"},
		{s->pipes, "pipe or socket", "pipes and sockets"},
		{s->acls, "access list", "access lists"},
		{s->xattrs, "attribute of overlayfs", "attributes of overlayfs"},
		{s->metadata, "file of a storage driver", "files of a storage driver"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (!rows[i].count)
			continue;
		inlay_buf_printf(b, "not kept: ");
		inlay_text_count(b, rows[i].count);
		inlay_buf_printf(b, " %s\n", number_of(rows[i].count, rows[i].one, rows[i].many));
	}
}

static json_t *skipped_json(const struct inlay_image_skipped *s)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "devices", (json_int_t)s->devices, "pipes",
			 (json_int_t)s->pipes, "acls", (json_int_t)s->acls, "xattrs",
			 (json_int_t)s->xattrs, "metadata", (json_int_t)s->metadata);
}

static void tell_json(const struct options *o, const struct inlay_image_imported *done,
		      const struct inlay_lay_result *laid)
{
	json_t *j = images_json(&done->image);

	(void)json_object_set_new(j, "schema", json_integer(1));
	(void)json_object_set_new(j, "layers", json_integer((json_int_t)done->layers));
	(void)json_object_set_new(j, "skipped", skipped_json(&done->skipped));
	(void)json_object_set_new(j, "total_ms", print_json_ms(o->took_ns));
	if (!o->dir) {
		(void)json_object_set_new(j, "changed", json_boolean(done->changed));
		print_json(j);
		return;
	}
	(void)json_object_set_new(j, "dir", print_json_name(o->dir, strlen(o->dir)));
	(void)json_object_set_new(j, "links", json_integer((json_int_t)laid->links));
	(void)json_object_set_new(j, "xattrs_not_set", json_integer((json_int_t)laid->xattrs));
	print_json(j);
}

static void tell(const struct options *o, const struct inlay_image_imported *done,
		 const struct inlay_lay_result *laid)
{
	const struct inlay_generation *g = &done->image.generation;
	struct inlay_buf b = {0};

	if (o->common.json) {
		tell_json(o, done, laid);
		return;
	}
	if (o->common.verbose < 0)
		return;
	tell_skipped(&done->skipped, &b);
	if (laid && laid->xattrs)
		inlay_buf_printf(&b, "not set: %llu attributes\n",
				 (unsigned long long)laid->xattrs);
	images_text(&b, &done->image);
	if (o->dir) {
		inlay_buf_printf(&b, " in ");
		inlay_text_escape(&b, o->dir, strlen(o->dir));
	} else {
		inlay_buf_printf(&b, done->changed ? ": manifest " : ": unchanged, manifest ");
		print_short_id(&b, &g->root.tree);
	}
	inlay_buf_printf(&b, ", ");
	inlay_text_count(&b, g->entries);
	inlay_buf_printf(&b, " entries, ");
	inlay_text_size(&b, g->bytes);
	inlay_buf_printf(&b, ", %llu %s, ", (unsigned long long)done->layers,
			 number_of(done->layers, "layer", "layers"));
	inlay_text_duration(&b, o->took_ns);
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

/* ---- into the store ---- */

static int import(struct options *o, struct inlay_image_imported *done, struct inlay_error *err)
{
	auto_buf struct inlay_buf spool = {0};
	struct images im;
	int r = images_open(&im, &o->common, true, err);

	if (r < 0)
		return r;
	inlay_buf_printf(&spool, "%s/images", o->common.state);
	o->import.spool = inlay_buf_cstr(&spool);
	r = inlay_image_import(im.store, &o->import, done, err);
	images_close(&im);
	return r;
}

/* ---- into a directory ---- */

/* A store and a tree beside the directory: until all is checked and written, nothing has its name. */
struct workplace {
	int parent, fd;
	char name[64]; /* of the workplace in the parent */
	char base[INLAY_NAME_MAX + 1];
	struct inlay_buf path; /* of the parent */
};

static int refuse_taken(const char *dir, struct inlay_error *err)
{
	int r = inlay_error_set(err, -ENOTEMPTY, "%s is there already, and not empty", dir);

	(void)inlay_error_set_exit(err, INLAY_EXIT_HALT);
	return r;
}

/* Nothing is there, or an empty directory. Asked early; the rename at the end decides. */
static bool is_free(const char *dir)
{
	struct dirent *e;
	size_t count = 0;
	DIR *d = opendir(dir);

	if (!d)
		return errno == ENOENT;
	while ((e = readdir(d)))
		count++;
	(void)closedir(d);
	return count <= 2;
}

static int open_workplace(struct workplace *w, const char *dir, struct inlay_error *err)
{
	size_t len = strlen(dir);

	while (len > 1 && dir[len - 1] == '/')
		len--;
	const char *slash = memrchr(dir, '/', len);
	size_t start = slash ? (size_t)(slash - dir) + 1 : 0;
	if (!inlay_name_valid(dir + start, len - start))
		return inlay_error_set(err, -EINVAL, "%s cannot be the name of a new directory",
				       dir);
	memcpy(w->base, dir + start, len - start);
	inlay_buf_add(&w->path, start ? dir : ".", start ? start : 1);
	w->parent = open(inlay_buf_cstr(&w->path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->parent < 0)
		return inlay_error_sys(err, -errno, "the directory for %s", dir);
	(void)snprintf(w->name, sizeof w->name, ".inlay-%d-%llx", (int)getpid(),
		       (unsigned long long)inlay_now_ns());
	if (mkdirat(w->parent, w->name, 0700) < 0)
		return inlay_error_sys(err, -errno, "make a directory beside %s", dir);
	w->fd = openat(w->parent, w->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return w->fd < 0 ? inlay_error_sys(err, -errno, "open a directory beside %s", dir) : 0;
}

static void close_workplace(struct workplace *w)
{
	struct inlay_error ignored;

	if (w->fd >= 0)
		(void)!inlay_remove_tree(w->parent, w->name, &ignored);
	inlay_cleanup_close(&w->fd);
	inlay_cleanup_close(&w->parent);
	inlay_buf_fini(&w->path);
}

static int lay(struct workplace *w, struct inlay_store *store, const struct inlay_digest *manifest,
	       struct inlay_lay_result *ret, struct inlay_error *err)
{
	struct inlay_lay_options o = {.owners = geteuid() == 0};
	auto_of(inlay_trees_free) struct inlay_trees *trees = NULL;
	auto_buf struct inlay_buf json = {0};
	auto_close int fd = -1;
	struct inlay_entry root;
	int r = inlay_trees_new(store, 16 << 20, &trees, err);

	if (r == 0)
		r = inlay_image_open(trees, store, manifest, &root, &json, err);
	if (r == INLAY_IMAGE_MISSING)
		return inlay_error_set(err, -EBADMSG, "the image's tree is not complete");
	if (r == 0)
		r = inlay_open_dir(w->fd, "tree", 0700, &fd, err);
	return r == 0 ? inlay_lay(trees, store, &root, fd, &o, ret, err) : r;
}

static int unpack_at(struct workplace *w, struct options *o, struct inlay_image_imported *done,
		     struct inlay_lay_result *laid, struct inlay_error *err)
{
	auto_of(inlay_store_close) struct inlay_store *store = NULL;
	int r = inlay_store_open(w->fd, "store", INLAY_STORE_CREATE | INLAY_STORE_WRITE, &store,
				 err);

	o->import.spool = inlay_buf_cstr(&w->path);
	if (r == 0)
		r = inlay_image_read(store, &o->import, done, err);
	if (r == 0)
		r = lay(w, store, &done->image.generation.root.tree, laid, err);
	/* Takes the place of an empty directory, and of nothing else. */
	if (r == 0 && renameat(w->fd, "tree", w->parent, w->base) < 0)
		r = errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR
			    ? refuse_taken(o->dir, err)
			    : inlay_error_sys(err, -errno, "give it the name %s", o->dir);
	return r;
}

static int unpack(struct options *o, struct inlay_image_imported *done,
		  struct inlay_lay_result *laid, struct inlay_error *err)
{
	struct workplace w = {.parent = -1, .fd = -1};

	if (!is_free(o->dir))
		return refuse_taken(o->dir, err);
	int r = open_workplace(&w, o->dir, err);
	if (r == 0)
		r = unpack_at(&w, o, done, laid, err);
	close_workplace(&w);
	return r;
}

static int run(struct options *o)
{
	struct inlay_image_imported done;
	struct inlay_lay_result laid = {0};
	struct inlay_error err = {0};
	int64_t start = inlay_monotonic_ns();
	int r = common_finish(&o->common, &err);

	if (r == 0)
		r = o->dir ? unpack(o, &done, &laid, &err) : import(o, &done, &err);
	if (r < 0)
		return common_fail(&o->common, &err);
	o->took_ns = inlay_monotonic_ns() - start;
	tell(o, &done, o->dir ? &laid : NULL);
	return INLAY_EXIT_OK;
}

int cmd_image_import(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"name", required_argument, NULL, OPT_NAME},
					      {"variant", required_argument, NULL, OPT_VARIANT},
					      {"platform", required_argument, NULL, OPT_PLATFORM},
					      {"tag", required_argument, NULL, OPT_TAG},
					      {0}};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (c == OPT_NAME)
			o.import.name = optarg;
		else if (c == OPT_VARIANT)
			o.import.variant = optarg;
		else if (c == OPT_PLATFORM)
			o.import.platform = optarg;
		else if (c == OPT_TAG)
			o.import.tag = optarg;
		else if (!common_take(&o.common, c))
			return common_usage("image import", "bad options");
	}
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind < 1 || argc - optind > 2)
		return common_usage("image import", "ARCHIVE is needed, and at most DIR");
	o.import.path = argv[optind];
	o.dir = argv[optind + 1];
	int code = run(&o);
	common_fini(&o.common);
	return code;
}
