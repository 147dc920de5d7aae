/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/table.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
	UNIT = 16,                 /* the arena is given out in multiples of this */
	CLASSES = 4096 / UNIT + 1, /* pieces of up to 4,096 bytes: names and link targets */
	HEADS_MIN = 1024,          /* hash heads at first; doubled as dents come */
};

#define TABLE_MAGIC 0x4254414c4e490001ull /* "INLATB", version 1 */

static const size_t header_bytes = 64 << 10;
static const size_t nodes_bytes = (size_t)TABLE_SLOTS_MAX * sizeof(struct node);
static const size_t dents_bytes = (size_t)TABLE_SLOTS_MAX * sizeof(struct dent);
static const size_t heads_bytes = (size_t)TABLE_SLOTS_MAX * sizeof(uint32_t);
static const size_t arena_bytes = (size_t)4 << 30;

struct table_header {
	uint64_t magic;
	uint32_t node_end, node_free, node_count; /* end: slots ever used */
	uint32_t dent_end, dent_free, dent_count;
	uint32_t head_count;           /* a power of two */
	uint32_t arena_end;            /* in units */
	uint32_t free_pieces[CLASSES]; /* chains of free arena pieces, by units */
};

static_assert(sizeof(struct node) == 104 && sizeof(struct dent) == 36, "the sizes in table.h");
static_assert(sizeof(struct table_header) <= 64 << 10, "the header has its room");

static size_t file_bytes(void)
{
	return header_bytes + nodes_bytes + dents_bytes + heads_bytes + arena_bytes;
}

static int map_file(struct table *t, struct inlay_error *err)
{
	t->fd = memfd_create("inlay-nodes", MFD_CLOEXEC);
	if (t->fd < 0)
		return inlay_error_sys(err, -errno, "make the node table");
	if (ftruncate(t->fd, (off_t)file_bytes()) < 0)
		return inlay_error_sys(err, -errno, "size the node table");
	uint8_t *base = mmap(NULL, file_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			     t->fd, 0);
	if (base == MAP_FAILED)
		return inlay_error_sys(err, -errno, "map the node table");
	t->header = (struct table_header *)base;
	t->nodes = (struct node *)(base + header_bytes);
	t->dents = (struct dent *)(base + header_bytes + nodes_bytes);
	t->heads = (uint32_t *)(base + header_bytes + nodes_bytes + dents_bytes);
	t->arena = base + header_bytes + nodes_bytes + dents_bytes + heads_bytes;
	return 0;
}

int table_new(struct table **ret, struct inlay_error *err)
{
	auto_of(table_free) struct table *t = calloc(1, sizeof *t);

	if (!t)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	t->fd = -1;
	int r = map_file(t, err);
	if (r < 0)
		return r;
	*t->header = (struct table_header){.magic = TABLE_MAGIC,
					   .node_end = TABLE_ROOT,
					   .dent_end = 1,
					   .head_count = HEADS_MIN,
					   .arena_end = 1};
	uint32_t root;
	r = table_add_node(t, &root, err);
	if (r < 0)
		return r;
	t->nodes[root].mode = S_IFDIR;
	t->nodes[root].nlookup = 1;
	*ret = take_ptr(t);
	return 0;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	if (t->header)
		(void)munmap(t->header, file_bytes());
	inlay_cleanup_close(&t->fd);
	free(t);
}

/* ---- the arena ---- */

static uint32_t units_of(size_t len)
{
	return len ? (uint32_t)((len + UNIT - 1) / UNIT) : 1;
}

static uint32_t *free_link(struct table *t, uint32_t piece)
{
	return (uint32_t *)(t->arena + (size_t)piece * UNIT);
}

static int arena_put(struct table *t, const char *bytes, size_t len, uint32_t *ret,
		     struct inlay_error *err)
{
	struct table_header *h = t->header;
	uint32_t units = units_of(len), piece = h->free_pieces[units];

	if (piece) {
		h->free_pieces[units] = *free_link(t, piece);
	} else {
		if (((size_t)h->arena_end + units) * UNIT > arena_bytes)
			return inlay_error_set(err, -ENOSPC,
					       "the node table has no room for names");
		piece = h->arena_end;
		h->arena_end += units;
	}
	memcpy(t->arena + (size_t)piece * UNIT, bytes, len);
	*ret = piece;
	return 0;
}

static void arena_drop(struct table *t, uint32_t piece, size_t len)
{
	uint32_t units = units_of(len);

	*free_link(t, piece) = t->header->free_pieces[units];
	t->header->free_pieces[units] = piece;
}

/* ---- nodes ---- */

uint32_t table_end(const struct table *t)
{
	return t->header->node_end;
}

uint32_t table_slot(const struct table *t, uint64_t number)
{
	uint32_t slot = (uint32_t)number;

	if (slot == 0 || slot >= t->header->node_end || t->nodes[slot].reuse != number >> 32)
		return 0;
	return slot;
}

int table_add_node(struct table *t, uint32_t *ret_slot, struct inlay_error *err)
{
	struct table_header *h = t->header;
	uint32_t slot = h->node_free, reuse = 0;

	if (slot) {
		h->node_free = t->nodes[slot].next_free;
		reuse = t->nodes[slot].reuse;
	} else {
		if (h->node_end == TABLE_SLOTS_MAX)
			return inlay_error_set(err, -ENOSPC, "the node table is full");
		slot = h->node_end++;
	}
	t->nodes[slot] = (struct node){.reuse = reuse};
	h->node_count++;
	*ret_slot = slot;
	return 0;
}

void table_free_node(struct table *t, uint32_t slot)
{
	struct node *n = &t->nodes[slot];

	if (n->target)
		arena_drop(t, n->target, n->target_len);
	/* The count moves when the slot is given back, so that its number is dead from now on. */
	*n = (struct node){.reuse = n->reuse + 1, .next_free = t->header->node_free};
	t->header->node_free = slot;
	t->header->node_count--;
}

int table_set_target(struct table *t, uint32_t slot, const char *target, size_t len,
		     struct inlay_error *err)
{
	struct node *n = &t->nodes[slot];
	uint32_t piece;
	int r = arena_put(t, target, len, &piece, err);

	if (r < 0)
		return r;
	if (n->target)
		arena_drop(t, n->target, n->target_len);
	n->target = piece;
	n->target_len = (uint16_t)len;
	return 0;
}

/* ---- dents ---- */

static uint32_t hash_of(uint32_t parent, const char *name, size_t len)
{
	return (uint32_t)(inlay_xxh3(name, len) ^ parent * 0x9e3779b97f4a7c15ull >> 20);
}

static uint32_t *head_of(const struct table *t, uint32_t hash)
{
	return &t->heads[hash & (t->header->head_count - 1)];
}

uint32_t table_find(const struct table *t, uint32_t parent, const char *name, size_t len)
{
	uint32_t hash = hash_of(parent, name, len);
	uint32_t d = *head_of(t, hash);

	while (d) {
		const struct dent *e = &t->dents[d];
		if (e->hash == hash && e->parent == parent && e->name_len == len &&
		    memcmp(table_name(t, d), name, len) == 0)
			break;
		d = e->next_in_hash;
	}
	return d;
}

/* Doubles the heads: those of the upper half take over the dents whose next bit is set. */
static void grow_heads(struct table *t)
{
	uint32_t old = t->header->head_count;

	t->header->head_count = old * 2;
	for (uint32_t i = 0; i < old; i++) {
		uint32_t d = t->heads[i], next;
		t->heads[i] = 0;
		t->heads[i + old] = 0;
		for (; d; d = next) {
			next = t->dents[d].next_in_hash;
			uint32_t *head = head_of(t, t->dents[d].hash);
			t->dents[d].next_in_hash = *head;
			*head = d;
		}
	}
}

static int take_dent(struct table *t, uint32_t *ret, struct inlay_error *err)
{
	struct table_header *h = t->header;

	if (h->dent_free) {
		*ret = h->dent_free;
		h->dent_free = t->dents[*ret].next_in_hash;
	} else if (h->dent_end == TABLE_SLOTS_MAX) {
		return inlay_error_set(err, -ENOSPC, "the node table is full");
	} else {
		*ret = h->dent_end++;
	}
	if (++h->dent_count > h->head_count && h->head_count < TABLE_SLOTS_MAX)
		grow_heads(t);
	return 0;
}

int table_add_dent(struct table *t, uint32_t parent, const char *name, size_t len, uint32_t node,
		   uint32_t *ret_dent, struct inlay_error *err)
{
	uint32_t d, piece;
	int r = arena_put(t, name, len, &piece, err);

	if (r < 0)
		return r;
	r = take_dent(t, &d, err);
	if (r < 0) {
		arena_drop(t, piece, len);
		return r;
	}
	uint32_t hash = hash_of(parent, name, len);
	uint32_t *head = head_of(t, hash), *children = &t->nodes[parent].children;
	t->dents[d] = (struct dent){.parent = parent,
				    .node = node,
				    .name = piece,
				    .hash = hash,
				    .next_in_hash = *head,
				    .next_sibling = *children,
				    .next_link = t->nodes[node].dents,
				    .name_len = (uint8_t)len};
	*head = d;
	if (*children)
		t->dents[*children].prev_sibling = d;
	*children = d;
	t->nodes[node].dents = d;
	*ret_dent = d;
	return 0;
}

void table_remove_dent(struct table *t, uint32_t dent)
{
	struct dent *e = &t->dents[dent];
	uint32_t *at = head_of(t, e->hash);

	while (*at != dent)
		at = &t->dents[*at].next_in_hash;
	*at = e->next_in_hash;
	for (at = &t->nodes[e->node].dents; *at != dent;)
		at = &t->dents[*at].next_link;
	*at = e->next_link;
	if (e->prev_sibling)
		t->dents[e->prev_sibling].next_sibling = e->next_sibling;
	else
		t->nodes[e->parent].children = e->next_sibling;
	if (e->next_sibling)
		t->dents[e->next_sibling].prev_sibling = e->prev_sibling;
	arena_drop(t, e->name, e->name_len);
	*e = (struct dent){.next_in_hash = t->header->dent_free};
	t->header->dent_free = dent;
	t->header->dent_count--;
}

void table_usage(const struct table *t, struct table_usage *ret)
{
	struct stat st;

	*ret = (struct table_usage){.nodes = t->header->node_count, .dents = t->header->dent_count};
	if (fstat(t->fd, &st) == 0)
		ret->bytes = (uint64_t)st.st_blocks * 512;
}
