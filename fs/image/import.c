/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image/imagechoice.h"
#include "image/imagejson.h"
#include "image/imageref.h"
#include "image/layer.h"
#include "image/plant.h"
#include "inlay/image.h"
#include "inlay/io.h"
#include "inlay/limits.h"

struct importing {
	struct inlay_store *store;
	const struct inlay_image_import *o;
	struct inlay_image_imported *ret;
	struct inlay_image_key wanted; /* its platform, normalised; "" = any */
	struct shelf *shelf;
	bool plain;
	struct imagechoice choice;
	struct layer_reader reader;
};

/* ---- layers ---- */

static int check_sums(const struct imagechoice_layer *l, const struct blob *blob,
		      const struct feed_sums *sums, struct inlay_error *err)
{
	if (l->described && l->size != blob->size)
		return inlay_error_set(err, -EBADMSG, "it has %llu bytes, its descriptor says %llu",
				       (unsigned long long)blob->size, (unsigned long long)l->size);
	if (l->described && !inlay_digest_equal(&l->digest, &sums->packed))
		return inlay_error_set(err, -EBADMSG, "it has another digest than its descriptor");
	if (!inlay_digest_equal(&l->diff_id, &sums->plain))
		return inlay_error_set(err, -EBADMSG,
				       "it unpacks to something else than the diff_id of the "
				       "configuration");
	return 0;
}

/* `l` NULL: a plain tar, which nothing describes. */
static int read_layer(struct importing *im, const struct imagechoice_layer *l,
		      const struct blob *blob, struct inlay_error *err)
{
	auto_of(feed_close) struct feed *feed = NULL;
	struct feed_sums sums = {0};
	struct inlay_error why = {0};

	if (l && l->described && l->size != blob->size)
		return check_sums(l, blob, &sums, err);
	int r = feed_open(blob->fd, blob->off, blob->size, l ? FEED_HASH : 0, &feed, err);
	if (r == 0)
		r = layer_apply(&im->reader, feed, blob->size, l != NULL, err);
	if (r == 0 && l)
		r = feed_finish(feed, &sums, err);
	/* When the bytes are not those that were promised, that is what is wrong. */
	if (r == -EBADMSG && l && feed && feed_finish(feed, &sums, &why) == 0 &&
	    check_sums(l, blob, &sums, &why) < 0)
		return inlay_error_set(err, r, "%s", why.text);
	return r == 0 && l ? check_sums(l, blob, &sums, err) : r;
}

static int read_layers(struct importing *im, struct inlay_error *err)
{
	for (size_t i = 0; i < im->choice.layer_count; i++) {
		__attribute__((cleanup(inlay_cleanup_blob_fini))) struct blob blob = {.fd = -1};
		const struct imagechoice_layer *l = &im->choice.layers[i];
		int r = shelf_find(im->shelf, l->member, &blob, err);
		if (r == SHELF_MISSING)
			r = inlay_error_set(err, -EBADMSG, "it is missing");
		if (i > 0)
			merge_next_layer(im->reader.merge);
		if (r == 0)
			r = read_layer(im, l, &blob, err);
		if (r < 0)
			return inlay_error_prefix(err, r, "layer %zu (%.200s)", i + 1, l->member);
	}
	im->ret->layers = im->choice.layer_count;
	return 0;
}

static int read_plain(struct importing *im, struct inlay_error *err)
{
	struct blob blob;

	shelf_whole(im->shelf, &blob);
	im->ret->layers = 1;
	return read_layer(im, NULL, &blob, err);
}

/* ---- the image's tree ---- */

static int put_tree(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		    struct inlay_error *err)
{
	(void)id;
	return inlay_store_put(ctx, bytes, len, NULL, err);
}

static const char *platform_of(struct importing *im)
{
	const uint32_t *seen = im->reader.machines;

	if (*im->choice.platform)
		return im->choice.platform;
	if (*im->wanted.platform)
		return im->wanted.platform;
	/* Nothing but data runs anywhere. */
	if (!seen[0] && !seen[1])
		return "linux/any";
	return seen[1] > seen[0] ? "linux/arm64" : "linux/amd64";
}

static int wrap(struct importing *im, struct inlay_entry *root, struct inlay_generation *g,
		struct inlay_error *err)
{
	__attribute__((
		cleanup(inlay_cleanup_inlay_tree_builder_fini))) struct inlay_tree_builder b = {0};
	auto_buf struct inlay_buf json = {0};
	struct inlay_entry file = {.name = "image.json", .name_len = 10, .mode = S_IFREG | 0444};
	struct inlay_tree_built built;
	int r = imagejson_make(im->choice.config, im->ret->image.key.platform, &json, err);

	if (r == 0)
		r = inlay_store_put(im->store, json.data, json.len, &file.id, err);
	file.size = json.len;
	root->name = "root";
	root->name_len = 4;
	if (r == 0)
		r = inlay_tree_builder_add(&b, root, err);
	if (r == 0)
		r = inlay_tree_builder_add(&b, &file, err);
	if (r == 0)
		r = inlay_tree_build(&b, put_tree, im->store, &built, err);
	if (r < 0)
		return r;
	*g = (struct inlay_generation){.time_ns = inlay_now_ns(),
				       .entries = root->below.entries + 1,
				       .bytes = root->below.bytes,
				       .root = {.tree = built.id, .mode = 0755}};
	return 0;
}

/* "dir/robot-base.tar.gz" -> "robot-base" */
static void name_of_file(const char *path, char *ret, size_t size)
{
	static const char *const ends[] = {".gz", ".tgz", ".zst", ".tzst", ".tar", ".oci"};
	size_t len = strlen(path), start;

	while (len > 1 && path[len - 1] == '/')
		len--;
	start = len;
	while (start > 0 && path[start - 1] != '/')
		start--;
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		size_t n = strlen(ends[i]);
		if (len - start > n && memcmp(path + len - n, ends[i], n) == 0)
			len -= n;
	}
	(void)snprintf(ret, size, "%.*s", (int)(len - start), path + start);
}

static int name_it(struct importing *im, struct inlay_error *err)
{
	char from_file[256];
	const char *name = im->o->name ? im->o->name : im->choice.tag;

	name_of_file(im->o->path, from_file, sizeof from_file);
	int r = inlay_image_key_make(name ? name : from_file, im->o->variant ? im->o->variant : "",
				     platform_of(im), &im->ret->image.key, err);
	return r < 0 ? inlay_error_prefix(err, r, "give it a name with --name") : r;
}

static int build(struct importing *im, struct inlay_error *err)
{
	struct inlay_entry root;
	int r = im->plain ? read_plain(im, err) : read_layers(im, err);

	if (r == 0)
		r = name_it(im, err);
	if (r == 0)
		r = plant(im->reader.merge, im->store, &root, err);
	if (r == 0)
		r = wrap(im, &root, &im->ret->image.generation, err);
	if (r < 0)
		return r;
	im->ret->skipped = im->reader.skipped;
	im->ret->archive_entries = im->reader.entries;
	im->ret->content_bytes = im->reader.content_bytes;
	return 0;
}

static int open_archive(struct importing *im, struct inlay_error *err)
{
	const char *want = im->o->platform;
	int r = inlay_image_key_make("x", "", want ? want : "", &im->wanted, err);

	if (r == 0)
		r = shelf_open(im->o->path, im->o->spool, &im->shelf, err);
	if (r < 0)
		return r;
	im->plain = r == SHELF_PLAIN;
	if (im->plain)
		return 0;
	return imagechoice_make(im->shelf, want ? im->wanted.platform : NULL, im->o->tag,
				&im->choice, err);
}

/* After a failure nothing of the archive shall be left in the store. */
static int clean_up(struct inlay_store *store, int failed)
{
	struct inlay_store_sweep sweep;
	struct inlay_error ignored = {0};

	(void)!inlay_image_gc(store, &sweep, &ignored);
	return failed;
}

static int read_archive(struct inlay_store *store, const struct inlay_image_import *o,
			struct inlay_image_imported *ret, struct inlay_error *err)
{
	auto_of(merge_free) struct merge *m = NULL;
	struct importing im = {.store = store, .o = o, .ret = ret};

	*ret = (struct inlay_image_imported){0};
	int r = merge_new(&m, err);
	if (r == 0)
		r = layer_reader_init(&im.reader, store, m, err);
	if (r == 0)
		r = open_archive(&im, err);
	if (r == 0)
		r = build(&im, err);
	layer_reader_fini(&im.reader);
	imagechoice_fini(&im.choice);
	shelf_close(im.shelf);
	return r < 0 ? inlay_error_prefix(err, r, "%s", o->path) : 0;
}

int inlay_image_read(struct inlay_store *store, const struct inlay_image_import *o,
		     struct inlay_image_imported *ret, struct inlay_error *err)
{
	return read_archive(store, o, ret, err);
}

int inlay_image_import(struct inlay_store *store, const struct inlay_image_import *o,
		       struct inlay_image_imported *ret, struct inlay_error *err)
{
	int r = read_archive(store, o, ret, err);

	if (r == 0)
		r = inlay_image_publish(store, &ret->image, INLAY_IMAGE_KEEP, &ret->changed, err);
	return r < 0 ? clean_up(store, r) : 0;
}
