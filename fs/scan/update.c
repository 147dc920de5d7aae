/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking only at names that may have changed. The paths are sorted so that those below one directory
 * are a range; a walk goes down the ranges and leaves everything else as the last snapshot has it.
 * Of the entries that share a block with a changed one nothing new is known, so the new block keeps
 * the time at which the old one was seen.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scan/walk.h"

/* A slash comes before every other byte, so that what is below a directory follows it at once. */
static int by_component(const void *a, const void *b)
{
	const uint8_t *x = *(const uint8_t *const *)a, *y = *(const uint8_t *const *)b;

	while (*x && *x == *y) {
		x++;
		y++;
	}
	unsigned cx = *x == '/' ? 1 : *x ? *x + 1u : 0;
	unsigned cy = *y == '/' ? 1 : *y ? *y + 1u : 0;
	return (cx > cy) - (cx < cy);
}

/* The next component of a path that belongs to the wants; length 0 for the directory itself. */
static const char *component(const struct scan_wants *w, size_t i, size_t *ret_len)
{
	const char *name = w->paths[i] + w->skip;

	*ret_len = strcspn(name, "/");
	return name;
}

/* The end of the paths that go on with the same component as path i. */
static size_t range_end(const struct scan_wants *w, size_t i)
{
	size_t len, other;
	const char *name = component(w, i, &len);

	for (i++; i < w->end; i++) {
		const char *next = component(w, i, &other);
		if (other != len || memcmp(name, next, len) != 0)
			break;
	}
	return i;
}

uint8_t scan_wants_rule_files(const struct scan_node *node)
{
	const struct scan_wants *w = &node->wants;
	uint8_t files = 0;

	for (size_t i = w->first; i < w->end; i++) {
		const char *name = w->paths[i] + w->skip;
		if (strcmp(name, ".gitignore") == 0)
			files |= SCAN_HAS_GITIGNORE;
		else if (strcmp(name, ".inlayignore") == 0)
			files |= SCAN_HAS_INLAYIGNORE;
	}
	return files;
}

bool scan_wants_child(const struct scan_node *node, const char *name, size_t len,
		      struct scan_wants *ret)
{
	const struct scan_wants *w = &node->wants;
	size_t low = w->first, high = w->end;

	while (low < high) {
		size_t mid = low + (high - low) / 2, n;
		const char *other = component(w, mid, &n);
		int c = memcmp(other, name, n < len ? n : len);
		if (c < 0 || (c == 0 && n < len))
			low = mid + 1;
		else
			high = mid;
	}
	if (low == w->end)
		return false;
	size_t n;
	const char *found = component(w, low, &n);
	if (n != len || memcmp(found, name, len) != 0)
		return false;
	/* It is the first of its range: its own path, when it is there, is the shortest. */
	bool itself = w->paths[low][w->skip + len] == 0;
	*ret = (struct scan_wants){.paths = w->paths,
				   .first = low + itself,
				   .end = range_end(w, low),
				   .skip = w->skip + len + 1,
				   .itself = itself};
	return true;
}

/* ---- items ---- */

static bool bit(const struct inlay_buf *bits, uint64_t i)
{
	return bits->data[i / 8] >> i % 8 & 1;
}

static void set_bit(struct inlay_buf *bits, uint64_t i)
{
	bits->data[i / 8] |= (uint8_t)(1u << i % 8);
}

static int clear_bits(struct inlay_buf *bits, size_t count, struct inlay_error *err)
{
	inlay_buf_clear(bits);
	uint8_t *at = inlay_buf_reserve(bits, count / 8 + 1);
	if (!at)
		return inlay_buf_check(bits, err);
	memset(at, 0, count / 8 + 1);
	return 0;
}

/* Adds the entries of an old block that were not asked for. */
static int take_block(struct scan_lister *l, const struct scan_node *node, uint32_t number,
		      struct inlay_error *err)
{
	const struct scan_block *b = node->before->blocks[number];

	for (uint32_t i = 0; i < b->count; i++) {
		const struct scan_entry *e = &b->entries[i];
		if (bit(&l->asked, l->first[number] + i))
			continue;
		struct scan_item item = {
			.hash = inlay_name_hash(scan_name(b, e), e->name_len),
			.name = scan_name(b, e),
			.name_len = e->name_len,
			.old_block = number,
			.old_entry = (int32_t)i,
			.type = e->mode & S_IFMT,
			.was_same = true,
			.clean = !(e->flags & SCAN_DIRTY),
			.entry = *e,
		};
		if (b->owners)
			item.owner = b->owners[i];
		inlay_buf_add(&l->items, &item, sizeof item);
	}
	return inlay_buf_check(&l->items, err);
}

int scan_take_untouched(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < node->before->block_count; i++)
		if (!bit(&l->touched, i))
			r = take_block(l, node, i, err);
	l->whole = true;
	return r;
}

/* Notes where the name stood, and asks the folder. `name` has a NUL. */
static int look_at(struct scan_lister *l, struct scan_node *node, const char *name, size_t len,
		   struct inlay_error *err)
{
	const struct scan_dir *d = node->before;
	uint64_t hash = inlay_name_hash(name, len);
	uint32_t number = scan_block_of(d, hash);
	int64_t at = scan_block_find(d->blocks[number], d->bits, hash, name, len);

	if (at >= 0)
		set_bit(&l->asked, l->first[number] + (uint64_t)at);
	set_bit(&l->touched, number);
	return scan_look(l, node, name, len, DT_UNKNOWN, err);
}

int scan_look_at_wants(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	const struct scan_wants *w = &node->wants;
	const struct scan_dir *d = node->before;
	size_t len, bytes = 0;
	int r = clear_bits(&l->touched, d->block_count, err);

	if (r == 0)
		r = clear_bits(&l->asked, l->old_count, err);
	/* The names get a NUL each, in one piece of memory, as the items point to them. */
	for (size_t i = w->first; i < w->end; i = range_end(w, i)) {
		(void)component(w, i, &len);
		bytes += len + 1;
	}
	inlay_buf_clear(&l->records);
	if (r == 0 && !inlay_buf_reserve(&l->records, bytes))
		r = inlay_buf_check(&l->records, err);
	for (size_t i = w->first; r == 0 && i < w->end; i = range_end(w, i)) {
		const char *from = component(w, i, &len);
		char *name = (char *)l->records.data + l->records.len;
		memcpy(name, from, len);
		name[len] = 0;
		l->records.len += len + 1;
		r = look_at(l, node, name, len, err);
	}
	l->seen_ns = l->walk->start_ns;
	for (uint32_t i = 0; r == 0 && i < d->block_count; i++) {
		if (d->blocks[i]->seen_ns < l->seen_ns)
			l->seen_ns = d->blocks[i]->seen_ns;
		if (bit(&l->touched, i))
			r = take_block(l, node, i, err);
	}
	return r;
}

/* ---- the paths ---- */

static bool is_path(const char *path)
{
	if (!*path)
		return true;
	for (;;) {
		size_t len = strcspn(path, "/");
		if (!inlay_name_valid(path, len))
			return false;
		if (!path[len])
			return true;
		path += len + 1;
	}
}

int inlay_scan_update(int rootfd, const struct inlay_scan_options *options,
		      struct inlay_snapshot *old, const char *const *paths, size_t count,
		      struct inlay_snapshot **ret, struct inlay_error *err)
{
	auto_free const char **sorted = calloc(count + 1, sizeof *sorted);
	size_t to = 0;

	if (!sorted)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++) {
		if (!is_path(paths[i]))
			return inlay_error_set(err, -EINVAL, "not a path below the folder");
		sorted[i] = paths[i];
	}
	qsort(sorted, count, sizeof *sorted, by_component);
	for (size_t i = 0; i < count; i++)
		if (to == 0 || strcmp(sorted[to - 1], sorted[i]) != 0)
			sorted[to++] = sorted[i];
	struct scan_wants wants = {.paths = sorted, .end = to};
	wants.itself = to > 0 && sorted[0][0] == 0;
	wants.first = wants.itself;
	return scan_walk_wants(rootfd, options, old, &wants, ret, err);
}
