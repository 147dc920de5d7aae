/* SPDX-License-Identifier: Apache-2.0 */
/* The images that a store has: their refs, what is in one, what none needs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image/imageref.h"
#include "inlay/idset.h"
#include "inlay/image.h"
#include "inlay/limits.h"

enum { TREE_CACHE_BYTES = 4 << 20 };

struct each {
	struct inlay_store *store;
	int (*fn)(void *ctx, const struct inlay_image *image, struct inlay_error *err);
	void *ctx;
};

static int each_ref(void *ctx, const char *ref, struct inlay_error *err)
{
	struct each *e = ctx;
	auto_free struct inlay_history *h = NULL;
	struct inlay_image image = {0};

	if (strncmp(ref, IMAGEREF_PREFIX, sizeof IMAGEREF_PREFIX - 1) != 0)
		return 0;
	int r = inlay_store_history(e->store, ref, &h, err);
	if (r == INLAY_STORE_MISSING)
		return 0;
	if (r < 0)
		return r;
	if (!inlay_image_key_parse(h->gens[0].origin, &image.key))
		return inlay_error_set(err, -EBADMSG, "the ref %s is not that of an image", ref);
	image.generation = h->gens[0];
	return e->fn(e->ctx, &image, err);
}

int inlay_image_each(struct inlay_store *store,
		     int (*fn)(void *ctx, const struct inlay_image *image, struct inlay_error *err),
		     void *ctx, struct inlay_error *err)
{
	struct each e = {store, fn, ctx};

	return inlay_store_each_ref(store, each_ref, &e, err);
}

int inlay_image_open(struct inlay_trees *trees, struct inlay_store *store,
		     const struct inlay_digest *manifest, struct inlay_entry *ret_root,
		     struct inlay_buf *ret_json, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_dir_close))) struct inlay_dir dir = {0};
	struct inlay_entry e;
	int r = inlay_dir_open(trees, manifest, &dir, err);

	if (r == 0)
		r = inlay_dir_find(&dir, "image.json", 10, &e, err);
	if (r == 0 && !S_ISREG(e.mode))
		return inlay_error_set(err, -EBADMSG, "image.json is not a file");
	if (r == 0)
		r = inlay_store_get(store, &e.id, INLAY_ARCHIVE_JSON_MAX, 0, ret_json, err);
	if (r == 0)
		r = inlay_dir_find(&dir, "root", 4, ret_root, err);
	if (r > 0)
		return INLAY_IMAGE_MISSING;
	/* Nothing of what is behind is borrowed: the directory ends here. */
	ret_root->name = "root";
	ret_root->target = NULL;
	return r;
}

int inlay_image_publish(struct inlay_store *store, struct inlay_image *image, size_t keep,
			bool *ret_changed, struct inlay_error *err)
{
	struct inlay_generation *g = &image->generation;
	auto_free struct inlay_history *h = NULL;
	char ref[IMAGEREF_NAME];

	imageref_name(&image->key, ref);
	inlay_image_key_text(&image->key, g->origin);
	*ret_changed = false;
	int r = inlay_store_history(store, ref, &h, err);
	/* A damaged history is replaced: what it said cannot be known any more. */
	if (r < 0 && r != -EBADMSG)
		return r;
	if (h && inlay_digest_equal(&h->gens[0].root.tree, &g->root.tree)) {
		*g = h->gens[0];
		return 0;
	}
	g->parent = h ? h->gens[0].number : 0;
	g->number = g->parent + 1;
	r = inlay_store_sync(store, err);
	if (r == 0)
		r = inlay_store_publish(store, ref, g, keep, 0, err);
	*ret_changed = r == 0;
	return r;
}

int inlay_image_remove(struct inlay_store *store, const struct inlay_image_key *key,
		       struct inlay_error *err)
{
	auto_free struct inlay_history *h = NULL;
	char ref[IMAGEREF_NAME];

	imageref_name(key, ref);
	int r = inlay_store_history(store, ref, &h, err);
	if (r == INLAY_STORE_MISSING)
		return INLAY_IMAGE_MISSING;
	if (r < 0 && r != -EBADMSG)
		return r;
	return inlay_store_remove_ref(store, ref, err);
}

/* ---- gc ---- */

struct marking {
	struct inlay_store *store;
	struct inlay_trees *trees;
	struct inlay_idset live;
};

static int mark(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		struct inlay_error *err)
{
	struct marking *m = ctx;
	int r = inlay_idset_add(&m->live, id, err);

	(void)size;
	if (r < 0)
		return r;
	return r == INLAY_IDSET_THERE && is_tree ? INLAY_TREES_NONE : 0;
}

static int lost(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	(void)ctx;
	(void)id;
	(void)err;
	return 0;
}

static int mark_ref(void *ctx, const char *ref, struct inlay_error *err)
{
	struct marking *m = ctx;
	auto_free struct inlay_history *h = NULL;
	int r = inlay_store_history(m->store, ref, &h, err);

	if (r == INLAY_STORE_MISSING)
		return 0;
	for (size_t i = 0; r == 0 && i < h->count; i++)
		r = inlay_tree_reach(m->trees, &h->gens[i].root.tree, mark, lost, m, err);
	return r;
}

static bool is_live(void *ctx, const struct inlay_digest *id)
{
	const struct marking *m = ctx;

	return inlay_idset_has(&m->live, id);
}

int inlay_image_gc(struct inlay_store *store, struct inlay_store_sweep *ret,
		   struct inlay_error *err)
{
	auto_of(inlay_trees_free) struct inlay_trees *trees = NULL;
	struct marking m = {.store = store};
	int r = inlay_trees_new(store, TREE_CACHE_BYTES, &trees, err);

	m.trees = trees;
	if (r == 0)
		r = inlay_store_each_ref(store, mark_ref, &m, err);
	if (r == 0)
		r = inlay_store_sweep(store, is_live, &m, 0, ret, err);
	inlay_idset_fini(&m.live);
	return r;
}
