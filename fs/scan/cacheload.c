/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stat cache becomes a snapshot. The checksum finds what a disk or a crash did. Beyond it, every
 * number is checked before it is used and every rule that walks rely on is checked too, so that no
 * file whatsoever makes a snapshot that a walk could not have made: at worst one that nobody's files
 * fit, and they are read again.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "scan/cachefile.h"
#include "tree/encode.h"

static_assert(sizeof(struct cache_header) == 80 && sizeof(struct cache_dir) == 72 &&
		      sizeof(struct cache_block) == 24,
	      "no hidden padding in the file");

struct loader {
	const uint8_t *map;
	size_t len;
	struct cache_header h;
	const struct cache_dir *dirs;
	const struct inlay_digest *leaf_ids;
	const struct cache_block *blocks;
	struct scan_arena *arena;
	uint16_t *depth;
};

static bool header_is_good(struct loader *l, uint64_t key)
{
	static const char magic[] = CACHE_MAGIC;
	struct cache_header *h = &l->h;
	size_t from = offsetof(struct cache_header, version);

	if (l->len < sizeof *h)
		return false;
	memcpy(h, l->map, sizeof *h);
	return memcmp(h->magic, magic, sizeof h->magic) == 0 && h->version == CACHE_VERSION &&
	       h->byte_order == CACHE_BYTE_ORDER && h->len == l->len && h->key == key &&
	       h->owners <= 1 && h->unused == 0 && h->mode <= 07777 && h->dir_count > 0 &&
	       h->dir_count <= INLAY_ENTRIES_MAX &&
	       h->checksum == inlay_xxh3(l->map + from, l->len - from);
}

/* The tables behind the header; their sizes are less than 2^40, so nothing wraps. */
static bool tables_fit(struct loader *l)
{
	uint64_t dirs = (uint64_t)l->h.dir_count * sizeof(struct cache_dir);
	uint64_t leaves = (uint64_t)l->h.leaf_count * INLAY_DIGEST_BYTES;
	uint64_t blocks = (uint64_t)l->h.block_count * sizeof(struct cache_block);

	if (sizeof l->h + dirs + leaves + blocks > l->len)
		return false;
	l->dirs = (const struct cache_dir *)(l->map + sizeof l->h);
	l->leaf_ids = (const struct inlay_digest *)(l->map + sizeof l->h + dirs);
	l->blocks = (const struct cache_block *)(l->map + sizeof l->h + dirs + leaves);
	return true;
}

/* ---- blocks ---- */

static bool entry_is_good(const struct scan_block *b, const struct scan_entry *e)
{
	uint64_t end = (uint64_t)e->name_off + e->name_len;

	if (end > b->heap_len || !inlay_name_valid(scan_name(b, e), e->name_len))
		return false;
	switch (e->mode & S_IFMT) {
	case S_IFREG:
		return e->size <= INLAY_OBJECT_MAX && !(e->flags & ~SCAN_LINKED);
	case S_IFLNK:
		return e->flags == 0 && e->size > 0 && e->size <= INLAY_LINK_MAX &&
		       e->size <= b->heap_len - end && !memchr(scan_target(b, e), 0, e->size);
	case S_IFDIR:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return e->flags == 0 && e->size == 0;
	default:
		return false;
	}
}

/* Entries ascend by (name hash, name), and belong to bucket `number` of 1 << bits. */
static bool entries_are_good(struct scan_block *b, uint32_t number, uint8_t bits)
{
	const struct scan_entry *last = NULL;
	uint64_t last_hash = 0;

	for (uint32_t i = 0; i < b->count; i++) {
		const struct scan_entry *e = &b->entries[i];
		if (!entry_is_good(b, e))
			return false;
		const char *name = scan_name(b, e);
		uint64_t hash = inlay_name_hash(name, e->name_len);
		if (hash >> 32 != b->hashes[i] || (bits && hash >> (64 - bits) != number) ||
		    (last && hash < last_hash))
			return false;
		if (last && hash == last_hash) {
			size_t len = last->name_len < e->name_len ? last->name_len : e->name_len;
			int c = memcmp(scan_name(b, last), name, len);
			if (c > 0 || (c == 0 && last->name_len >= e->name_len))
				return false;
		}
		b->subdirs += S_ISDIR(e->mode);
		b->specials += scan_is_special(e);
		last = e;
		last_hash = hash;
	}
	return true;
}

static bool load_block(struct loader *l, uint32_t at, uint32_t number, uint8_t bits)
{
	const struct cache_block *c = &l->blocks[at];
	struct scan_block *b = &l->arena->blocks[at];

	if (c->off % CACHE_ALIGN != 0 || c->off > l->len ||
	    cache_block_bytes(c->count, c->heap_len, l->h.owners) > l->len - c->off)
		return false;
	const uint8_t *p = l->map + c->off;
	*b = (struct scan_block){.refs = 1,
				 .count = c->count,
				 .heap_len = c->heap_len,
				 .seen_ns = c->seen_ns,
				 .arena = l->arena};
	/* Not written to: what may be written is only ever in blocks of a walk. */
	b->entries = (struct scan_entry *)p;
	p += c->count * sizeof(struct scan_entry);
	if (l->h.owners) {
		b->owners = (const struct scan_owner *)p;
		p += c->count * sizeof(struct scan_owner);
	}
	b->hashes = (const uint32_t *)p;
	b->heap = (const char *)(p + c->count * sizeof(uint32_t));
	return entries_are_good(b, number, bits);
}

/* ---- directories ---- */

struct places {
	uint32_t block, leaf, child; /* the next ones that nobody has */
	void **pointer;
};

static bool load_dir(struct loader *l, uint32_t at, struct places *next)
{
	const struct cache_dir *c = &l->dirs[at];
	struct scan_dir *d = &l->arena->dirs[at];
	uint32_t blocks = c->bits <= INLAY_TREE_BITS_MAX ? 1u << c->bits : 0;
	uint64_t visible = 0, subdirs = 0;

	/* Everything has one owner, in order; so nothing is shared, and no directory is in itself. */
	if (blocks == 0 || c->first_block != next->block || c->first_leaf != next->leaf ||
	    c->first_child != next->child || blocks > l->h.block_count - next->block ||
	    (c->bits && blocks > l->h.leaf_count - next->leaf) ||
	    (c->rule_files & ~(SCAN_HAS_GITIGNORE | SCAN_HAS_INLAYIGNORE)))
		return false;
	for (uint32_t i = 0; i < blocks; i++) {
		const struct scan_block *b = &l->arena->blocks[next->block + i];
		if (!load_block(l, next->block + i, i, c->bits))
			return false;
		visible += b->count - b->specials;
		subdirs += b->subdirs;
	}
	if (tree_split_bits(visible) != c->bits || subdirs > l->h.dir_count - next->child ||
	    (subdirs > 0 && l->depth[at] > INLAY_DEPTH_MAX))
		return false;
	*d = (struct scan_dir){.refs = 1,
			       .block_count = blocks,
			       .child_count = (uint32_t)subdirs,
			       .ignored = c->ignored,
			       .bits = c->bits,
			       .rule_files = c->rule_files,
			       .built = true,
			       .rules = c->rules,
			       .mtime_ns = c->mtime_ns,
			       .arena = l->arena};
	d->tree.id = c->tree;
	d->blocks = (struct scan_block **)next->pointer;
	d->children = (struct scan_dir **)(d->blocks + blocks);
	d->leaves = c->bits ? l->arena->leaves + next->leaf : NULL;
	for (uint32_t i = 0; i < blocks; i++)
		d->blocks[i] = &l->arena->blocks[next->block + i];
	for (uint32_t i = 0; i < d->child_count; i++) {
		d->children[i] = &l->arena->dirs[next->child + i];
		l->depth[next->child + i] = (uint16_t)(l->depth[at] + 1);
	}
	next->pointer += blocks + d->child_count;
	next->block += blocks;
	next->leaf += c->bits ? blocks : 0;
	next->child += d->child_count;
	return true;
}

/* What a tree says about all that is below, from the entries. */
static void total(struct loader *l, struct scan_dir *d)
{
	uint32_t child = 0;

	for (uint32_t n = 0; n < d->block_count; n++) {
		const struct scan_block *b = d->blocks[n];
		struct inlay_tree_built sum = {.subdirs = b->subdirs};
		sum.below.entries = b->count - b->specials;
		for (uint32_t i = 0; i < b->count; i++) {
			const struct scan_entry *e = &b->entries[i];
			if (S_ISREG(e->mode)) {
				sum.below.bytes += e->size;
			} else if (S_ISDIR(e->mode)) {
				const struct scan_dir *c = d->children[child++];
				sum.below.entries += c->tree.below.entries;
				sum.below.bytes += c->tree.below.bytes;
			}
		}
		d->tree.subdirs += sum.subdirs;
		d->tree.below.entries += sum.below.entries;
		d->tree.below.bytes += sum.below.bytes;
		if (d->leaves) {
			sum.id = l->leaf_ids[d->leaves - l->arena->leaves + n];
			d->leaves[n] = sum;
		}
	}
	scan_dir_sum(d);
}

static bool load_dirs(struct loader *l)
{
	struct places next = {.child = 1, .pointer = l->arena->pointers};

	for (uint32_t i = 0; i < l->h.dir_count; i++)
		/* Each is in one that comes before it. */
		if (i >= next.child || !load_dir(l, i, &next))
			return false;
	if (next.block != l->h.block_count || next.leaf != l->h.leaf_count ||
	    next.child != l->h.dir_count)
		return false;
	for (uint32_t i = l->h.dir_count; i-- > 0;)
		total(l, &l->arena->dirs[i]);
	return true;
}

/* ---- the whole ---- */

static void drop_arena(struct scan_arena *a)
{
	if (!a)
		return;
	free(a->dirs);
	free(a->blocks);
	free(a->pointers);
	free(a->leaves);
	free(a);
}
INLAY_DEFINE_CLEANUP(struct scan_arena, drop_arena)

static struct scan_arena *new_arena(const struct loader *l)
{
	auto_of(drop_arena) struct scan_arena *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	a->dirs = calloc(l->h.dir_count, sizeof *a->dirs);
	a->blocks = calloc(l->h.block_count + 1u, sizeof *a->blocks);
	a->pointers = calloc((size_t)l->h.dir_count + l->h.block_count, sizeof(void *));
	a->leaves = calloc(l->h.leaf_count + 1u, sizeof *a->leaves);
	if (!a->dirs || !a->blocks || !a->pointers || !a->leaves)
		return NULL;
	a->refs = l->h.dir_count + l->h.block_count;
	a->map = (void *)l->map;
	a->map_len = l->len;
	return take_ptr(a);
}

int scan_cache_decode(void *map, size_t len, uint64_t key, struct inlay_snapshot **ret,
		      struct inlay_error *err)
{
	struct loader l = {.map = map, .len = len};

	if (!header_is_good(&l, key) || !tables_fit(&l))
		return INLAY_SNAPSHOT_NONE;
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = scan_snapshot_new();
	auto_of(drop_arena) struct scan_arena *arena = new_arena(&l);
	auto_free uint16_t *depth = calloc(l.h.dir_count, sizeof *depth);
	if (!s || !arena || !depth)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	l.arena = arena;
	l.depth = depth;
	if (!load_dirs(&l))
		return INLAY_SNAPSHOT_NONE;
	s->owners = l.h.owners;
	s->mode = l.h.mode;
	s->dev = l.h.dev;
	s->ino = l.h.ino;
	s->root = arena->dirs;
	int r = scan_snapshot_count(s, err);
	if (r < 0) {
		s->root = NULL; /* it still belongs to the arena */
		return r;
	}
	(void)take_ptr(arena);
	*ret = take_ptr(s);
	return 0;
}

int inlay_snapshot_load(int dirfd, const char *name, uint64_t key, struct inlay_snapshot **ret,
			struct inlay_error *err)
{
	struct stat st, dir;
	auto_close int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == EACCES || errno == ENXIO))
		return INLAY_SNAPSHOT_NONE;
	if (fd < 0 || fstat(fd, &st) < 0 || fstat(dirfd, &dir) < 0)
		return inlay_error_sys(err, -errno, "open the stat cache %s", name);
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct cache_header))
		return INLAY_SNAPSHOT_NONE;
	size_t len = (size_t)st.st_size;
	void *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		return inlay_error_sys(err, -errno, "map the stat cache %s", name);
	struct inlay_snapshot *s;
	int r = scan_cache_decode(map, len, key, &s, err);
	if (r != 0) {
		(void)munmap(map, len);
		return r;
	}
	s->saved = (struct scan_saved){.dev = dir.st_dev,
				       .ino = dir.st_ino,
				       .name = inlay_xxh3(name, strlen(name)),
				       .key = key,
				       .size = len};
	*ret = s;
	return 0;
}
