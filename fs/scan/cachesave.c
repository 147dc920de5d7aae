/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/cachefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inlay/bytes.h"
#include "inlay/io.h"

/* All directories, level by level: the order of the file. */
struct levels {
	const struct scan_dir **dirs;
	uint32_t *first_child;
	size_t count, cap;
};

static void levels_fini(struct levels *l)
{
	free(l->dirs);
	free(l->first_child);
}
INLAY_DEFINE_FINI(struct levels, levels_fini)

static int make_levels(struct levels *l, const struct scan_dir *root, struct inlay_error *err)
{
	l->cap = (size_t)root->sums.dirs + 1;
	l->dirs = calloc(l->cap, sizeof *l->dirs);
	l->first_child = calloc(l->cap, sizeof *l->first_child);
	if (!l->dirs || !l->first_child)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	l->dirs[l->count++] = root;
	for (size_t i = 0; i < l->count; i++) {
		l->first_child[i] = (uint32_t)l->count;
		for (uint32_t c = 0; c < l->dirs[i]->child_count; c++)
			l->dirs[l->count++] = l->dirs[i]->children[c];
	}
	return 0;
}

static void put_dirs(const struct levels *l, struct inlay_buf *out, struct cache_header *h)
{
	for (size_t i = 0; i < l->count; i++) {
		const struct scan_dir *d = l->dirs[i];
		struct cache_dir c = {
			.tree = d->tree.id,
			.rules = d->rules,
			.mtime_ns = d->mtime_ns,
			.first_block = h->block_count,
			.first_child = l->first_child[i],
			.first_leaf = h->leaf_count,
			.ignored = d->ignored,
			.bits = d->bits,
			.rule_files = d->rule_files,
		};
		inlay_buf_add(out, &c, sizeof c);
		h->block_count += d->block_count;
		h->leaf_count += d->bits ? d->block_count : 0;
	}
	h->dir_count = (uint32_t)l->count;
	for (size_t i = 0; i < l->count; i++)
		for (uint32_t b = 0; l->dirs[i]->bits && b < l->dirs[i]->block_count; b++)
			inlay_buf_add(out, &l->dirs[i]->leaves[b].id, INLAY_DIGEST_BYTES);
}

static uint64_t aligned(uint64_t off)
{
	return (off + CACHE_ALIGN - 1) / CACHE_ALIGN * CACHE_ALIGN;
}

/* Gives the length of the file. */
static uint64_t put_blocks(const struct levels *l, struct inlay_buf *out,
			   const struct cache_header *h)
{
	uint64_t off = aligned(out->len + h->block_count * sizeof(struct cache_block));

	for (size_t i = 0; i < l->count; i++) {
		for (uint32_t n = 0; n < l->dirs[i]->block_count; n++) {
			const struct scan_block *b = l->dirs[i]->blocks[n];
			struct cache_block c = {.off = off,
						.seen_ns = b->seen_ns,
						.count = b->count,
						.heap_len = b->heap_len};
			inlay_buf_add(out, &c, sizeof c);
			off = aligned(off + cache_block_bytes(b->count, b->heap_len, h->owners));
		}
	}
	return off;
}

static void align(struct inlay_buf *out)
{
	static const uint8_t zeros[CACHE_ALIGN];

	inlay_buf_add(out, zeros, aligned(out->len) - out->len);
}

static void put_content(const struct levels *l, struct inlay_buf *out)
{
	for (size_t i = 0; i < l->count; i++) {
		for (uint32_t n = 0; n < l->dirs[i]->block_count; n++) {
			const struct scan_block *b = l->dirs[i]->blocks[n];
			align(out);
			inlay_buf_add(out, b->entries, b->count * sizeof *b->entries);
			if (b->owners)
				inlay_buf_add(out, b->owners, b->count * sizeof *b->owners);
			inlay_buf_add(out, b->hashes, b->count * sizeof *b->hashes);
			inlay_buf_add(out, b->heap, b->heap_len);
		}
	}
	align(out);
}

static int encode(const struct inlay_snapshot *s, uint64_t key, struct inlay_buf *out,
		  struct inlay_error *err)
{
	auto_of(levels_fini) struct levels l = {0};
	struct cache_header h = {.magic = CACHE_MAGIC,
				 .version = CACHE_VERSION,
				 .byte_order = CACHE_BYTE_ORDER,
				 .key = key,
				 .dev = s->dev,
				 .ino = s->ino,
				 .mode = s->mode,
				 .owners = s->owners};
	int r = make_levels(&l, s->root, err);

	if (r < 0)
		return r;
	inlay_buf_add(out, &h, sizeof h);
	put_dirs(&l, out, &h);
	h.len = put_blocks(&l, out, &h);
	/* One growth instead of many: this is nearly all of it. */
	if (out->len < h.len)
		(void)inlay_buf_reserve(out, (size_t)h.len - out->len);
	put_content(&l, out);
	r = inlay_buf_check(out, err);
	if (r < 0)
		return r;
	memcpy(out->data, &h, sizeof h);
	size_t from = offsetof(struct cache_header, version);
	h.checksum = inlay_xxh3(out->data + from, out->len - from);
	memcpy(out->data, &h, sizeof h);
	return 0;
}

/* What identifies the place where a cache is written. */
static int place_of(int dirfd, const char *name, uint64_t key, struct scan_saved *ret,
		    struct inlay_error *err)
{
	struct stat st;

	if (fstat(dirfd, &st) < 0)
		return inlay_error_sys(err, -errno, "stat the directory of %s", name);
	*ret = (struct scan_saved){.dev = st.st_dev,
				   .ino = st.st_ino,
				   .name = inlay_xxh3(name, strlen(name)),
				   .key = key};
	return 0;
}

static bool is_saved(struct inlay_snapshot *s, int dirfd, const char *name,
		     const struct scan_saved *place)
{
	struct scan_saved was = scan_snapshot_saved(s);
	struct stat st;

	return was.ino == place->ino && was.dev == place->dev && was.name == place->name &&
	       was.key == place->key && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       (uint64_t)st.st_size == was.size;
}

int inlay_snapshot_save(struct inlay_snapshot *s, int dirfd, const char *name, uint64_t key,
			struct inlay_error *err)
{
	auto_buf struct inlay_buf out = {0};
	struct scan_saved place;

	if (!s->root->built)
		return inlay_error_set(err, -EINVAL, "the trees of this snapshot are not built");
	int r = place_of(dirfd, name, key, &place, err);
	if (r < 0 || is_saved(s, dirfd, name, &place))
		return r;
	r = encode(s, key, &out, err);
	if (r == 0)
		r = inlay_replace_file(dirfd, name, out.data, out.len, 0600, 0, err);
	if (r < 0)
		return r;
	place.size = out.len;
	scope_lock(&s->lock);
	s->saved = place;
	return 0;
}
