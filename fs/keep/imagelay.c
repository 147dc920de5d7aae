/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree of a manifest: complete, laid, on the disk, published, in this order. A content of the pool gets its name in
 * the tree as a second one, so that a push that ends here loses nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inlay/io.h"
#include "inlay/lay.h"
#include "inlay/limits.h"
#include "keep/imagetrees.h"

enum { MISSING_MAX = 16384, PIECE_BYTES = 256 << 10 };

/* ---- is everything here? ---- */

struct checking {
	struct inlay_imagepush *p;
	struct inlay_idset *missing;
};

static int lacks(struct checking *c, const struct inlay_digest *id, struct inlay_error *err)
{
	int r = inlay_idset_add(c->missing, id, err);

	if (r < 0)
		return r;
	return c->missing->count >= MISSING_MAX ? INLAY_TREES_STOP : 0;
}

/* What the store shall have came as a content, like all else. */
static int promote(struct checking *c, const struct inlay_digest *id, size_t max,
		   struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	if (inlay_store_has(c->p->t->store, id))
		return 0;
	int r = inlay_imagepush_basis(c->p, inlay_digest_prefix(id), max, &b, err);
	if (r == INLAY_IMAGETREE_MISSING)
		return lacks(c, id, err);
	return r < 0 ? r : inlay_store_put(c->p->t->store, b.data, b.len, NULL, err);
}

static int check_tree(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		      struct inlay_error *err)
{
	(void)size;
	return is_tree ? promote(ctx, id, INLAY_TREE_BYTES_MAX, err) : 0;
}

static int tree_lacks(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	return lacks(ctx, id, err);
}

static int check_entry(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		       const struct inlay_entry *e, struct inlay_error *err)
{
	struct checking *c = ctx;
	int r = 0;

	(void)before;
	if (!inlay_digest_is_zero(&e->xattrs))
		r = promote(c, &e->xattrs, INLAY_XATTRS_MAX, err);
	if (r != 0 || !S_ISREG(e->mode))
		return r;
	if (len == 10 && memcmp(path, "image.json", 10) == 0)
		return promote(c, &e->id, INLAY_ARCHIVE_JSON_MAX, err);
	int64_t number = inlay_idset_number(&c->p->here, &e->id);
	if (number < 0)
		return lacks(c, &e->id, err);
	if (c->p->places[number].size != e->size)
		return inlay_error_set(err, -EPROTO,
				       "'%.*s' names a content of another size than it says",
				       (int)(len < 300 ? len : 300), path);
	return 0;
}

static int check(struct inlay_imagepush *p, struct inlay_idset *missing, struct inlay_error *err)
{
	struct checking c = {p, missing};
	int r = inlay_tree_reach(p->t->trees, &p->o.manifest, check_tree, tree_lacks, &c, err);

	if (r >= 0 && missing->count == 0)
		r = inlay_tree_diff(p->t->trees, NULL, &p->o.manifest, check_entry, &c, err);
	if (r < 0)
		return r;
	return missing->count > 0 ? INLAY_IMAGETREE_MISSING : 0;
}

/* ---- contents ---- */

static int copy(int from, int to, const struct inlay_entry *e, struct inlay_error *err)
{
	auto_free uint8_t *piece = malloc(PIECE_BYTES);
	struct inlay_hasher h;
	struct inlay_digest is;
	size_t n = 0;
	int r = piece ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	inlay_hasher_init(&h);
	for (uint64_t at = 0; r == 0 && at < e->size; at += n) {
		r = inlay_pread_full(from, piece, PIECE_BYTES, at, &n, "a content", err);
		if (r == 0 && n == 0)
			break;
		if (r == 0)
			r = inlay_write_all(to, piece, n, "a content", err);
		inlay_hasher_add(&h, piece, r == 0 ? n : 0);
	}
	inlay_hasher_end(&h, &is);
	if (r == 0 && !inlay_digest_equal(&is, &e->id))
		r = inlay_error_set(err, -EBADMSG, "its content in another tree is damaged");
	return r;
}

/* A file of the pool that is in no tree yet becomes the tree's; another name is no copy. */
static bool link_pooled(struct inlay_imagepush *p, const struct inlay_entry *e, int from, int dir,
			const char *name)
{
	char pooled[INLAY_DIGEST_HEX];
	struct stat st;

	inlay_digest_hex(&e->id, pooled);
	return fstat(from, &st) == 0 && st.st_nlink == 1 &&
	       linkat(p->pool, pooled, dir, name, 0) == 0;
}

static int make(void *ctx, const struct inlay_entry *e, int dir, const char *name, int *ret_fd,
		struct inlay_error *err)
{
	struct inlay_imagepush *p = ctx;
	int64_t number = inlay_idset_number(&p->here, &e->id);
	auto_close int from = -1;
	int r = imagepush_open(p, number, &from, err);

	if (r == INLAY_IMAGETREE_MISSING)
		return inlay_error_set(err, -ESTALE, "its content is not here any more");
	if (r < 0)
		return r;
	if (p->places[number].tree < 0 && link_pooled(p, e, from, dir, name)) {
		*ret_fd = take_fd(from);
		return 0;
	}
	*ret_fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*ret_fd < 0)
		return inlay_error_sys(err, -errno, "create");
	return copy(from, *ret_fd, e, err);
}

/* ---- the tree ---- */

/* The tree that the new one is linked from, and the entry of its root. */
static int find_basis(struct inlay_imagepush *p, struct inlay_entry *ret_root, int *ret_fd,
		      struct inlay_error *err)
{
	auto_buf struct inlay_buf json = {0};

	if (p->held_count == 0)
		return INLAY_IMAGE_MISSING;
	*ret_fd = p->held[p->like].root_fd;
	return inlay_image_open(p->t->trees, p->t->store, &p->held[p->like].manifest, ret_root,
				&json, err);
}

static int lay(struct inlay_imagepush *p, const struct inlay_entry *root, int dir,
	       struct inlay_imagepush_result *ret, struct inlay_error *err)
{
	struct inlay_lay_options o = {.owners = !p->o.squash, .make = make, .ctx = p};
	struct inlay_lay_result laid;
	struct inlay_entry old;
	auto_close int fd = -1;

	if (mkdirat(dir, "root", 0700) < 0)
		return inlay_error_sys(err, -errno, "make the root of a tree");
	fd = openat(dir, "root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open the root of a tree");
	int r = find_basis(p, &old, &o.old_fd, err);
	if (r < 0)
		return r;
	if (r == 0)
		o.old = &old;
	r = inlay_lay(p->t->trees, p->t->store, root, fd, &o, &laid, err);
	if (r < 0)
		return r;
	ret->entries = laid.entries;
	ret->shared = laid.shared;
	ret->written_bytes = laid.bytes;
	ret->xattrs = laid.xattrs;
	return 0;
}

/* All of it is on the disk before it gets its name, and the name before the image has it. */
static int settle(struct inlay_imagepush *p, int dir, const struct inlay_buf *json,
		  struct inlay_error *err)
{
	char name[INLAY_DIGEST_HEX];
	int r = inlay_replace_file(dir, "image.json", json->data, json->len, 0444, 0, err);

	inlay_digest_hex(&p->o.manifest, name);
	if (r == 0)
		r = inlay_store_sync(p->t->store, err);
	if (r == 0 && syncfs(dir) < 0)
		r = inlay_error_sys(err, -errno, "bring the tree to the disk");
	if (r == 0 && renameat(p->t->fd, IMAGETREES_LAYING, p->t->fd, name) < 0)
		r = inlay_error_sys(err, -errno, "give the tree its name");
	if (r == 0 && fsync(p->t->fd) < 0)
		r = inlay_error_sys(err, -errno, "bring the tree's name to the disk");
	return r;
}

static int make_tree(struct inlay_imagepush *p, const struct inlay_entry *root,
		     const struct inlay_buf *json, struct inlay_imagepush_result *ret,
		     struct inlay_error *err)
{
	int64_t start = inlay_monotonic_ns();
	auto_close int dir = -1;
	int r = inlay_remove_tree(p->t->fd, IMAGETREES_LAYING, err);

	if (r == 0)
		r = inlay_open_dir(p->t->fd, IMAGETREES_LAYING, 0700, &dir, err);
	if (r == 0)
		r = lay(p, root, dir, ret, err);
	ret->laid_ns = inlay_monotonic_ns() - start;
	if (r == 0)
		r = settle(p, dir, json, err);
	ret->sync_ns = inlay_monotonic_ns() - start - ret->laid_ns;
	if (r < 0)
		(void)!inlay_remove_tree(p->t->fd, IMAGETREES_LAYING, &(struct inlay_error){0});
	return r;
}

int inlay_imagepush_finish(struct inlay_imagepush *p, struct inlay_idset *missing,
			   struct inlay_imagepush_result *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf json = {0};
	struct inlay_imagetree there;
	struct inlay_entry root;
	int r = check(p, missing, err);

	*ret = (struct inlay_imagepush_result){0};
	if (r != 0)
		return r;
	r = inlay_image_open(p->t->trees, p->t->store, &p->o.manifest, &root, &json, err);
	if (r == INLAY_IMAGE_MISSING || (r == 0 && !S_ISDIR(root.mode)))
		return inlay_error_set(err, -EPROTO, "what was pushed is not an image");
	if (r < 0)
		return r;
	r = inlay_imagetree_open(p->t, &p->o.manifest, &there, err);
	if (r == 0)
		inlay_imagetree_close(&there);
	else
		r = make_tree(p, &root, &json, ret, err);
	if (r < 0)
		return r;
	struct inlay_image image = {
		.key = p->o.key,
		.generation = {.time_ns = inlay_now_ns(),
			       .entries = root.below.entries + 1,
			       .bytes = root.below.bytes,
			       .root = {.tree = p->o.manifest, .mode = 0755}},
	};
	r = inlay_image_publish(p->t->store, &image, INLAY_IMAGETREE_KEEP, &ret->changed, err);
	ret->generation = image.generation;
	p->done = r == 0;
	return r;
}
