/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents on their way into a tree: each is a file in .incoming that has its digest as its name once it is whole.
 * What is there or in a tree already is not asked for again.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/text.h"
#include "keep/imagetrees.h"
#include "store/dirnames.h"

#define PART "part"
#define BOOT "boot"

enum {
	SMALL_BYTES = 64 << 10,
	PIECE_BYTES = 256 << 10,
	PATH_BYTES = 4096,      /* what can be opened in one go */
	SPARE_BYTES = 16 << 20, /* that are not used up */
	BOOT_ID_MAX = 64,
};

/* ---- what is here ---- */

static int add_place(struct inlay_imagepush *p, const struct inlay_digest *id, int64_t tree,
		     const char *path, size_t len, uint64_t size, struct inlay_error *err)
{
	int r = inlay_idset_add(&p->here, id, err);

	if (r != 0)
		return r < 0 ? r : 0;
	if (p->here.count > p->place_cap) {
		size_t cap = p->place_cap ? 2 * p->place_cap : 1024;
		struct imagepush_place *more = reallocarray(p->places, cap, sizeof *more);
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		p->places = more;
		p->place_cap = cap;
	}
	p->places[p->here.count - 1] = (struct imagepush_place){tree, p->paths.len, size};
	if (tree >= 0) {
		inlay_buf_add(&p->paths, path, len);
		inlay_buf_u8(&p->paths, 0);
	}
	return inlay_buf_check(&p->paths, err);
}

static int add_entry(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		     const struct inlay_entry *after, struct inlay_error *err)
{
	struct inlay_imagepush *p = ctx;

	(void)before;
	/* What we may not read, and what no path leads to, is no use. */
	if (!S_ISREG(after->mode) || len >= PATH_BYTES || (p->o.squash && !(after->mode & 0400)))
		return 0;
	return add_place(p, &after->id, (int64_t)p->held_count - 1, path, len, after->size, err);
}

/* Holds a tree that is here, and notes where its contents are. One that cannot be read is left alone. */
static int add_tree(void *ctx, const struct inlay_imagetree_info *info, struct inlay_error *err)
{
	struct inlay_imagepush *p = ctx;
	struct inlay_imagetree tree;
	auto_buf struct inlay_buf json = {0};
	struct inlay_entry root;
	int r = inlay_imagetree_open(p->t, &info->image.generation.root.tree, &tree, NULL);

	if (r != 0)
		return 0;
	struct inlay_imagetree *more = reallocarray(p->held, p->held_count + 1, sizeof *more);
	if (!more) {
		inlay_imagetree_close(&tree);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	p->held = more;
	p->held[p->held_count++] = tree;
	if (inlay_digest_equal(&tree.manifest, &p->o.basis) ||
	    (inlay_digest_is_zero(&p->o.basis) && info->newest &&
	     imagetrees_same_key(&info->image.key, &p->o.key)))
		p->like = p->held_count - 1;
	if (inlay_image_open(p->t->trees, p->t->store, &tree.manifest, &root, &json, NULL) != 0)
		return 0;
	r = inlay_tree_diff(p->t->trees, NULL, &root.id, add_entry, p, err);
	return r == -ENOMEM ? r : 0;
}

static int hash_file(int fd, struct inlay_digest *ret)
{
	auto_free uint8_t *piece = malloc(PIECE_BYTES);
	struct inlay_hasher h;
	size_t n = PIECE_BYTES;

	inlay_hasher_init(&h);
	for (uint64_t at = 0; piece && n == PIECE_BYTES; at += n) {
		if (inlay_pread_full(fd, piece, PIECE_BYTES, at, &n, "a content", NULL) < 0)
			return -EIO;
		inlay_hasher_add(&h, piece, n);
	}
	inlay_hasher_end(&h, ret);
	return piece ? 0 : -ENOMEM;
}

/* A content of an earlier push. Behind a power cut its name says nothing: then it is read. */
static int add_pooled(struct inlay_imagepush *p, const char *name, bool trusted,
		      struct inlay_error *err)
{
	auto_close int fd = openat(p->pool, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct inlay_digest id, is;
	struct stat st;

	if (!inlay_digest_from_hex(name, &id))
		return 0;
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (trusted || (hash_file(fd, &is) == 0 && inlay_digest_equal(&id, &is))))
		return add_place(p, &id, -1, NULL, 0, (uint64_t)st.st_size, err);
	if (unlinkat(p->pool, name, 0) < 0)
		return inlay_error_sys(err, -errno, "remove a damaged content");
	return 0;
}

static int same_boot(struct inlay_imagepush *p, bool *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf now = {0}, was = {0};
	int r = inlay_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", BOOT_ID_MAX, &now,
				err);

	if (r == 0)
		r = inlay_read_file(p->pool, BOOT, BOOT_ID_MAX, &was, err);
	if (r < 0)
		return r;
	*ret = was.len == now.len && memcmp(was.data, now.data, now.len) == 0;
	return *ret ? 0 : inlay_replace_file(p->pool, BOOT, now.data, now.len, 0600, 0, err);
}

static int open_pool(struct inlay_imagepush *p, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_dirnames_fini))) struct dirnames names = {0};
	bool trusted = false;
	int r = inlay_open_dir(p->t->fd, IMAGETREES_POOL, 0700, &p->pool, err);

	if (r == 0)
		r = same_boot(p, &trusted, err);
	if (r == 0)
		r = dirnames_read(p->pool, ".", &names, err);
	for (size_t i = 0; r == 0 && i < names.count; i++)
		r = add_pooled(p, names.names[i], trusted, err);
	return r;
}

int inlay_imagepush_begin(struct inlay_imagetrees *t, const struct inlay_imagepush_options *o,
			  struct inlay_imagepush **ret, struct inlay_error *err)
{
	int r = imagearch_check(o->key.platform, o->emulate, err);

	if (r < 0)
		return r;
	if (geteuid() != 0 && !o->squash) {
		(void)inlay_error_set(
			err, -EPERM,
			"inlayd is not root here, so files cannot keep their owners; with "
			"--owner squash all of them belong to the one who runs it");
		return inlay_error_set_exit(err, INLAY_EXIT_HALT);
	}
	r = imagetrees_take(t, o->owner, o->wait_ns, err);
	if (r != 0)
		return r;
	struct inlay_imagepush *p = calloc(1, sizeof *p);
	if (!p) {
		imagetrees_give(t);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	*p = (struct inlay_imagepush){.t = t, .o = *o, .pool = -1, .part = -1};
	p->o.squash = geteuid() != 0;
	r = inlay_remove_tree(t->fd, IMAGETREES_LAYING, err);
	if (r == 0)
		r = open_pool(p, err);
	if (r == 0)
		r = inlay_imagetrees_each(t, add_tree, p, err);
	if (r < 0) {
		inlay_imagepush_end(p);
		return r;
	}
	*ret = p;
	return 0;
}

void inlay_imagepush_end(struct inlay_imagepush *p)
{
	struct inlay_error ignored;

	if (!p)
		return;
	for (size_t i = 0; i < p->held_count; i++)
		inlay_imagetree_close(&p->held[i]);
	inlay_cleanup_close(&p->part);
	inlay_cleanup_close(&p->pool);
	if (p->done || p->full)
		(void)!inlay_remove_tree(p->t->fd, IMAGETREES_POOL, &ignored);
	if (p->done)
		(void)!imagetrees_prune(p->t, &ignored);
	imagetrees_give(p->t);
	free(p->held);
	free(p->places);
	inlay_idset_fini(&p->here);
	inlay_buf_fini(&p->paths);
	inlay_buf_fini(&p->small);
	free(p);
}

bool inlay_imagepush_has(struct inlay_imagepush *p, uint64_t prefix)
{
	/* Attributes and image.json are in the store. */
	return inlay_idset_find(&p->here, prefix) >= 0 ||
	       inlay_store_has_prefix(p->t->store, prefix);
}

uint64_t inlay_imagepush_objects(const struct inlay_imagepush *p)
{
	return p->here.count;
}

/* ---- space ---- */

int inlay_imagepush_space(struct inlay_imagepush *p, uint64_t bytes, uint64_t files,
			  struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct statvfs v;

	if (fstatvfs(p->t->fd, &v) < 0)
		return inlay_error_sys(err, -errno, "ask how much space is free");
	uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
	if (v.f_files > 0 && v.f_favail < files)
		return inlay_error_set(
			err, -ENOSPC,
			"the image needs %llu new files, and the disk it goes to has "
			"inodes for %llu",
			(unsigned long long)files, (unsigned long long)v.f_favail);
	if (bytes <= room && room - bytes >= SPARE_BYTES)
		return 0;
	inlay_buf_printf(&b, "not enough space for the image: it needs ");
	inlay_text_size(&b, bytes);
	inlay_buf_printf(&b, ", ");
	inlay_text_size(&b, room);
	inlay_buf_printf(&b, " are free, ");
	inlay_text_size(&b, bytes + SPARE_BYTES - room);
	inlay_buf_printf(&b, " are missing; remove an image that is not needed ('inlay image rm "
			     "--on HOST'), or keep inlay's state on another disk (--remote-state)");
	return inlay_error_set(err, -ENOSPC, "%s", inlay_buf_cstr(&b));
}

/* ---- contents that come ---- */

static int mind_full(struct inlay_imagepush *p, int r)
{
	p->full |= r == -ENOSPC || r == -EDQUOT;
	return r;
}

static int open_part(struct inlay_imagepush *p, struct inlay_error *err)
{
	(void)unlinkat(p->pool, PART, 0);
	p->part = openat(p->pool, PART, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return p->part < 0
		       ? mind_full(p, inlay_error_sys(err, -errno, "create a file for a content"))
		       : 0;
}

int inlay_imagepush_blob_begin(struct inlay_imagepush *p, uint64_t size, struct inlay_error *err)
{
	p->size = size;
	p->got = 0;
	inlay_buf_clear(&p->small);
	inlay_hasher_init(&p->hasher);
	return size < SMALL_BYTES ? 0 : open_part(p, err);
}

int inlay_imagepush_blob_bytes(struct inlay_imagepush *p, const void *bytes, size_t len,
			       struct inlay_error *err)
{
	p->got += len;
	inlay_hasher_add(&p->hasher, bytes, len);
	if (p->part >= 0)
		return mind_full(p, inlay_write_all(p->part, bytes, len, "a content", err));
	inlay_buf_add(&p->small, bytes, len);
	return inlay_buf_check(&p->small, err);
}

static int close_part(struct inlay_imagepush *p, struct inlay_error *err)
{
	return close(take_fd(p->part)) < 0
		       ? mind_full(p, inlay_error_sys(err, -errno, "write a content"))
		       : 0;
}

static int keep_part(struct inlay_imagepush *p, const struct inlay_digest *id,
		     struct inlay_error *err)
{
	char name[INLAY_DIGEST_HEX];
	int r = 0;

	if (p->part < 0) {
		r = open_part(p, err);
		if (r == 0)
			r = mind_full(p, inlay_write_all(p->part, p->small.data, p->small.len,
							 "a content", err));
	}
	if (r == 0)
		r = close_part(p, err);
	inlay_digest_hex(id, name);
	if (r == 0 && renameat(p->pool, PART, p->pool, name) < 0)
		r = mind_full(p, inlay_error_sys(err, -errno, "name a content"));
	return r == 0 ? add_place(p, id, -1, NULL, 0, p->size, err) : r;
}

int inlay_imagepush_blob_end(struct inlay_imagepush *p, bool keep, struct inlay_digest *ret,
			     struct inlay_error *err)
{
	struct inlay_digest id;

	if (!keep) {
		inlay_cleanup_close(&p->part);
		p->part = -1;
		return 0;
	}
	if (p->got != p->size)
		return inlay_error_set(err, -EPROTO, "a content has another size than was said");
	inlay_hasher_end(&p->hasher, &id);
	*ret = id;
	if (inlay_idset_has(&p->here, &id))
		return inlay_imagepush_blob_end(p, false, ret, err);
	return keep_part(p, &id, err);
}

/* ---- contents that are here ---- */

int imagepush_open(struct inlay_imagepush *p, int64_t number, int *ret_fd, struct inlay_error *err)
{
	const struct imagepush_place *at = &p->places[number];
	struct open_how how = {.flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					  RESOLVE_NO_MAGICLINKS};
	char name[INLAY_DIGEST_HEX];
	struct stat st;

	inlay_digest_hex(&p->here.members[number], name);
	auto_close int fd =
		at->tree < 0 ? openat(p->pool, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
			     : (int)syscall(SYS_openat2, p->held[at->tree].root_fd,
					    (char *)p->paths.data + at->path, &how, sizeof how);
	if (fd < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
		return inlay_error_sys(err, -errno, "open a content that is here");
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (uint64_t)st.st_size != at->size)
		return INLAY_IMAGETREE_MISSING;
	*ret_fd = take_fd(fd);
	return 0;
}

int inlay_imagepush_basis(struct inlay_imagepush *p, uint64_t prefix, size_t max,
			  struct inlay_buf *to, struct inlay_error *err)
{
	int64_t number = inlay_idset_find(&p->here, prefix);
	auto_close int fd = -1;
	struct inlay_digest is;
	size_t size, n;

	if (number < 0 || p->places[number].size > max)
		return INLAY_IMAGETREE_MISSING;
	size = (size_t)p->places[number].size;
	int r = imagepush_open(p, number, &fd, err);
	if (r != 0)
		return r;
	uint8_t *room = inlay_buf_reserve(to, size);
	r = room ? inlay_pread_full(fd, room, size, 0, &n, "a content", err)
		 : inlay_buf_check(to, err);
	if (r < 0)
		return r;
	inlay_digest_of(room, n, &is);
	if (n != size || !inlay_digest_equal(&is, &p->here.members[number]))
		return INLAY_IMAGETREE_MISSING;
	to->len += size;
	return 0;
}
