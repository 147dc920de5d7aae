/* SPDX-License-Identifier: Apache-2.0 */
/* The base images that are here. What is removed goes by way of .laying: what has a manifest's name is whole. */
#include "keep/imagetrees.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "image/imageref.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/text.h"
#include "store/dirnames.h"

enum { TREE_CACHE_BYTES = 8 << 20, MOUNTINFO_MAX = 16 << 20, POOL_DAYS = 7 };
#define PATIENCE_NS (10ll * 1000000000) /* a push that ends takes away what it is done with */

int inlay_imagetrees_open(int state_fd, struct inlay_imagetrees **ret, struct inlay_error *err)
{
	auto_of(inlay_imagetrees_close) struct inlay_imagetrees *t = calloc(1, sizeof *t);
	pthread_condattr_t attr;

	if (!t)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	t->fd = -1;
	(void)pthread_mutex_init(&t->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&t->free, &attr);
	(void)pthread_condattr_destroy(&attr);
	int r = inlay_open_dir(state_fd, "images", 0700, &t->fd, err);
	if (r == 0)
		r = inlay_store_open(t->fd, "store", INLAY_STORE_CREATE | INLAY_STORE_WRITE,
				     &t->store, err);
	if (r == INLAY_STORE_LOCKED)
		return inlay_error_set(err, -EWOULDBLOCK, "another process writes to the images");
	if (r == 0)
		r = inlay_trees_new(t->store, TREE_CACHE_BYTES, &t->trees, err);
	if (r < 0)
		return r;
	*ret = take_ptr(t);
	return 0;
}

void inlay_imagetrees_close(struct inlay_imagetrees *t)
{
	if (!t)
		return;
	inlay_trees_free(t->trees);
	inlay_store_close(t->store);
	inlay_cleanup_close(&t->fd);
	(void)pthread_cond_destroy(&t->free);
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
}

struct inlay_store *inlay_imagetrees_store(struct inlay_imagetrees *t)
{
	return t->store;
}

struct inlay_trees *inlay_imagetrees_trees(struct inlay_imagetrees *t)
{
	return t->trees;
}

/* ---- one at a time ---- */

int imagetrees_take(struct inlay_imagetrees *t, const char *owner, int64_t wait_ns,
		    struct inlay_error *err)
{
	int64_t until = inlay_monotonic_ns() + wait_ns;
	struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

	scope_lock(&t->lock);
	while (t->busy) {
		if (pthread_cond_timedwait(&t->free, &t->lock, &ts) == ETIMEDOUT && t->busy) {
			(void)inlay_error_set(err, -EWOULDBLOCK,
					      "the images here are being changed by %s", t->owner);
			(void)inlay_error_set_exit(err, INLAY_EXIT_LOCKED);
			return INLAY_IMAGETREE_BUSY;
		}
	}
	t->busy = true;
	(void)snprintf(t->owner, sizeof t->owner, "%s", owner);
	return 0;
}

void imagetrees_give(struct inlay_imagetrees *t)
{
	scope_lock(&t->lock);
	t->busy = false;
	(void)pthread_cond_signal(&t->free);
}

/* ---- one ---- */

static int open_dir_at(int dir, const char *name)
{
	return openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int inlay_imagetree_open(struct inlay_imagetrees *t, const struct inlay_digest *manifest,
			 struct inlay_imagetree *ret, struct inlay_error *err)
{
	__attribute__((
		cleanup(inlay_cleanup_inlay_imagetree_close))) struct inlay_imagetree tree = {
		.manifest = *manifest, .fd = -1, .root_fd = -1};
	struct stat held, named;

	inlay_digest_hex(manifest, tree.name);
	tree.fd = open_dir_at(t->fd, tree.name);
	if (tree.fd < 0)
		return errno == ENOENT
			       ? INLAY_IMAGETREE_MISSING
			       : inlay_error_sys(err, -errno, "open the image %s", tree.name);
	/* Whoever removes one holds it exclusively until it has lost its name; who looks holds it for a moment. */
	while (flock(tree.fd, LOCK_SH) < 0)
		if (errno != EINTR)
			return inlay_error_sys(err, -errno, "hold the image %s", tree.name);
	if (fstat(tree.fd, &held) < 0 ||
	    fstatat(t->fd, tree.name, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
	    held.st_ino != named.st_ino)
		return INLAY_IMAGETREE_MISSING;
	tree.root_fd = open_dir_at(tree.fd, "root");
	if (tree.root_fd < 0)
		return inlay_error_sys(err, -errno, "open the root of the image %s", tree.name);
	int r = inlay_read_file(tree.fd, "image.json", INLAY_ARCHIVE_JSON_MAX, &tree.json, err);
	if (r > 0)
		return inlay_error_set(err, -EBADMSG, "the image %s has no image.json", tree.name);
	if (r < 0)
		return r;
	*ret = tree;
	tree = (struct inlay_imagetree){.fd = -1, .root_fd = -1};
	return 0;
}

void inlay_imagetree_close(struct inlay_imagetree *tree)
{
	inlay_cleanup_close(&tree->root_fd);
	inlay_cleanup_close(&tree->fd);
	inlay_buf_fini(&tree->json);
	tree->fd = tree->root_fd = -1;
}

/* A mount has it as its lower side, or shows some of it elsewhere. Its name is in no other path. */
static bool is_mounted(const char *name)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &b, NULL);

	/* What cannot be known counts as in use. */
	return r != 0 || strstr(inlay_buf_cstr(&b), name);
}

/* True when it is there and nobody holds it; *ret_fd then holds it exclusively. With the lock, so that two who look
 * do not take each other for users. */
static bool hold_alone(struct inlay_imagetrees *t, const char *name, int *ret_fd)
{
	int fd = open_dir_at(t->fd, name);

	if (fd < 0)
		return false;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0 || is_mounted(name)) {
		(void)close(fd);
		return false;
	}
	*ret_fd = fd;
	return true;
}

static bool is_held(struct inlay_imagetrees *t, const char *name)
{
	auto_close int fd = -1;

	scope_lock(&t->lock);
	bool held = !hold_alone(t, name, &fd);
	inlay_cleanup_close(&fd);
	fd = -1;
	return held;
}

/* ---- all ---- */

struct each {
	struct inlay_imagetrees *t;
	int (*fn)(void *ctx, const struct inlay_imagetree_info *info, struct inlay_error *err);
	void *ctx;
};

static int each_generation(void *ctx, const char *ref, struct inlay_error *err)
{
	struct each *e = ctx;
	auto_free struct inlay_history *h = NULL;
	struct inlay_imagetree_info info = {0};
	int r = inlay_store_history(e->t->store, ref, &h, err);

	if (r != 0)
		return r < 0 ? r : 0;
	for (size_t i = 0; r == 0 && i < h->count; i++) {
		char name[INLAY_DIGEST_HEX];
		info.image.generation = h->gens[i];
		info.newest = i == 0;
		inlay_digest_hex(&h->gens[i].root.tree, name);
		info.whole = faccessat(e->t->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
		info.in_use = info.whole && is_held(e->t, name);
		if (!inlay_image_key_parse(h->gens[i].origin, &info.image.key))
			return inlay_error_set(err, -EBADMSG, "the ref %s is not that of an image",
					       ref);
		r = e->fn(e->ctx, &info, err);
	}
	return r;
}

int inlay_imagetrees_each(struct inlay_imagetrees *t,
			  int (*fn)(void *ctx, const struct inlay_imagetree_info *info,
				    struct inlay_error *err),
			  void *ctx, struct inlay_error *err)
{
	struct each e = {t, fn, ctx};

	return inlay_store_each_ref(t->store, each_generation, &e, err);
}

/* ---- what goes ---- */

static int add_manifest(void *ctx, const struct inlay_imagetree_info *info, struct inlay_error *err)
{
	int r = inlay_idset_add(ctx, &info->image.generation.root.tree, err);

	return r < 0 ? r : 0;
}

/* Removes one tree, if nobody uses it. */
static int drop_tree(struct inlay_imagetrees *t, const char *name, struct inlay_error *err)
{
	{
		auto_close int held = -1;
		scope_lock(&t->lock);
		if (!hold_alone(t, name, &held))
			return 0;
		if (renameat(t->fd, name, t->fd, IMAGETREES_LAYING) < 0)
			return inlay_error_sys(err, -errno, "remove the image %s", name);
	}
	return inlay_remove_tree(t->fd, IMAGETREES_LAYING, err);
}

int imagetrees_prune(struct inlay_imagetrees *t, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_idset_fini))) struct inlay_idset live = {0};
	__attribute__((cleanup(inlay_cleanup_dirnames_fini))) struct dirnames names = {0};
	struct inlay_digest id;
	int r = inlay_imagetrees_each(t, add_manifest, &live, err);

	if (r == 0)
		r = inlay_remove_tree(t->fd, IMAGETREES_LAYING, err);
	if (r == 0)
		r = dirnames_read(t->fd, ".", &names, err);
	for (size_t i = 0; r == 0 && i < names.count; i++)
		if (inlay_digest_from_hex(names.names[i], &id) && !inlay_idset_has(&live, &id))
			r = drop_tree(t, names.names[i], err);
	return r;
}

static uint64_t free_bytes(struct inlay_imagetrees *t)
{
	struct statvfs v;

	return fstatvfs(t->fd, &v) == 0 ? (uint64_t)v.f_bfree * v.f_frsize : 0;
}

static int sweep(struct inlay_imagetrees *t, uint64_t before, uint64_t *ret_freed,
		 struct inlay_error *err)
{
	struct inlay_store_sweep swept;
	int r = imagetrees_prune(t, err);

	if (r == 0)
		r = inlay_image_gc(t->store, &swept, err);
	uint64_t after = free_bytes(t);
	*ret_freed = after > before ? after - before : 0;
	return r;
}

struct using
{
	struct inlay_imagetrees *t;
	const struct inlay_image_key *key;
	char name[INLAY_DIGEST_HEX];
	bool found;
};

bool imagetrees_same_key(const struct inlay_image_key *a, const struct inlay_image_key *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->variant, b->variant) == 0 &&
	       strcmp(a->platform, b->platform) == 0;
}

static int find_used(void *ctx, const struct inlay_imagetree_info *info, struct inlay_error *err)
{
	struct using *u = ctx;

	(void)err;
	if (info->in_use && imagetrees_same_key(&info->image.key, u->key)) {
		u->found = true;
		inlay_digest_hex(&info->image.generation.root.tree, u->name);
	}
	return 0;
}

static int remove_key(struct inlay_imagetrees *t, const struct inlay_image_key *key,
		      uint64_t *ret_freed, struct inlay_error *err)
{
	struct using u = {.t = t, .key = key};
	uint64_t before = free_bytes(t);
	int r = inlay_imagetrees_each(t, find_used, &u, err);

	if (r == 0 && u.found) {
		(void)inlay_error_set(err, -EBUSY, "the image %s (%.12s) is in use", key->name,
				      u.name);
		return inlay_error_set_exit(err, INLAY_EXIT_HALT);
	}
	if (r == 0)
		r = inlay_image_remove(t->store, key, err);
	if (r == INLAY_IMAGE_MISSING)
		return INLAY_IMAGETREE_MISSING;
	return r < 0 ? r : sweep(t, before, ret_freed, err);
}

int inlay_imagetrees_remove(struct inlay_imagetrees *t, const struct inlay_image_key *key,
			    uint64_t *ret_freed, struct inlay_error *err)
{
	int r = imagetrees_take(t, "somebody who removes one", PATIENCE_NS, err);

	if (r != 0)
		return r;
	r = remove_key(t, key, ret_freed, err);
	imagetrees_give(t);
	return r;
}

/* What a push that ended early brought is kept for the next one, for some days unless all shall go. */
static int drop_pool(struct inlay_imagetrees *t, int64_t grace_ns, struct inlay_error *err)
{
	int64_t kept_ns = grace_ns > 0 ? POOL_DAYS * 86400ll * 1000000000 : 0;
	struct stat st;

	if (fstatat(t->fd, IMAGETREES_POOL, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : inlay_error_sys(err, -errno, "look at what came");
	int64_t age = inlay_now_ns() - (st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec);
	return age >= kept_ns ? inlay_remove_tree(t->fd, IMAGETREES_POOL, err) : 0;
}

int inlay_imagetrees_gc(struct inlay_imagetrees *t, int64_t grace_ns, uint64_t *ret_freed,
			struct inlay_error *err)
{
	uint64_t before = free_bytes(t);
	int r = imagetrees_take(t, "gc", PATIENCE_NS, err);

	if (r != 0)
		return r;
	r = drop_pool(t, grace_ns, err);
	if (r == 0)
		r = sweep(t, before, ret_freed, err);
	imagetrees_give(t);
	return r;
}
