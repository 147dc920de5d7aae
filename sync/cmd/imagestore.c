/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/images.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"

enum { TREE_CACHE_BYTES = 16 << 20 };

int images_open(struct images *im, const struct common *c, bool write, struct inlay_error *err)
{
	enum inlay_store_flags flags = write ? INLAY_STORE_CREATE | INLAY_STORE_WRITE : 0;
	auto_close int state = -1;

	*im = (struct images){.fd = -1};
	int r = inlay_open_dir(AT_FDCWD, c->state, 0700, &state, err);
	if (r == 0)
		r = inlay_open_dir(state, "images", 0700, &im->fd, err);
	if (r == 0)
		r = inlay_store_open(im->fd, "store", flags, &im->store, err);
	if (r == INLAY_STORE_LOCKED) {
		r = inlay_error_set(err, -EWOULDBLOCK, "another inlay is working on the images");
		(void)inlay_error_set_exit(err, INLAY_EXIT_LOCKED);
	}
	if (r == 0)
		r = inlay_trees_new(im->store, TREE_CACHE_BYTES, &im->trees, err);
	if (r != 0)
		images_close(im);
	return r == INLAY_STORE_MISSING ? IMAGES_NONE : r;
}

void images_close(struct images *im)
{
	inlay_trees_free(im->trees);
	inlay_store_close(im->store);
	inlay_cleanup_close(&im->fd);
	*im = (struct images){.fd = -1};
}

struct finding {
	const struct inlay_image_key *want;
	struct image_list *list;
};

static int take(void *ctx, const struct inlay_image *image, struct inlay_error *err)
{
	struct finding *f = ctx;
	const struct inlay_image_key *w = f->want, *k = &image->key;

	if ((*w->name && strcmp(w->name, k->name) != 0) ||
	    (*w->variant && strcmp(w->variant, k->variant) != 0) ||
	    (*w->platform && strcmp(w->platform, k->platform) != 0))
		return 0;
	struct inlay_image *grown =
		reallocarray(f->list->items, f->list->count + 1, sizeof *f->list->items);
	if (!grown)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	f->list->items = grown;
	grown[f->list->count++] = *image;
	return 0;
}

static int by_key(const void *a, const void *b)
{
	const struct inlay_image_key *x = &((const struct inlay_image *)a)->key;
	const struct inlay_image_key *y = &((const struct inlay_image *)b)->key;
	int c = strcmp(x->name, y->name);

	c = c ? c : strcmp(x->variant, y->variant);
	return c ? c : strcmp(x->platform, y->platform);
}

int images_find(struct images *im, const struct inlay_image_key *want, struct image_list *ret,
		struct inlay_error *err)
{
	struct finding f = {want, ret};

	*ret = (struct image_list){0};
	int r = inlay_image_each(im->store, take, &f, err);
	if (r < 0) {
		free(ret->items);
		*ret = (struct image_list){0};
		return r;
	}
	if (ret->count > 1)
		qsort(ret->items, ret->count, sizeof *ret->items, by_key);
	return 0;
}

json_t *images_json(const struct inlay_image *image)
{
	const struct inlay_generation *g = &image->generation;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&g->root.tree, hex);
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:o, s:I, s:I}", "name", image->key.name,
			 "variant", image->key.variant, "platform", image->key.platform, "manifest",
			 hex, "generation", (json_int_t)g->number, "time",
			 print_json_time(g->time_ns), "entries", (json_int_t)g->entries, "bytes",
			 (json_int_t)g->bytes);
}

void images_text(struct inlay_buf *b, const struct inlay_image *image)
{
	inlay_buf_printf(b, "%s (%s%s%s)", image->key.name, image->key.variant,
			 *image->key.variant ? ", " : "", image->key.platform);
}
