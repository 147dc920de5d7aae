/* SPDX-License-Identifier: Apache-2.0 */
#include "watch/pathset.h"

#include <stdlib.h>

#include "inlay/digest.h"

enum { KEEP_CAP = 4096 };

void pathset_fini(struct pathset *s)
{
	inlay_buf_fini(&s->text);
	free(s->at);
	free(s->slots);
	*s = (struct pathset){0};
}

void pathset_clear(struct pathset *s)
{
	/* What a burst took is not kept for ever. */
	if (s->cap > KEEP_CAP) {
		pathset_fini(s);
		return;
	}
	inlay_buf_clear(&s->text);
	if (s->slots)
		memset(s->slots, 0, s->slot_count * sizeof *s->slots);
	s->count = 0;
	s->failed = false;
}

/* The slot of the path, or the free one where it belongs. */
static size_t slot_of(const struct pathset *s, const char *path, size_t len)
{
	size_t i = inlay_xxh3(path, len) & (s->slot_count - 1);

	while (s->slots[i] && strcmp(pathset_get(s, s->slots[i] - 1), path) != 0)
		i = (i + 1) & (s->slot_count - 1);
	return i;
}

static bool grow(struct pathset *s)
{
	size_t cap = s->cap ? s->cap * 2 : 64;
	uint32_t *at = reallocarray(s->at, cap, sizeof *at);

	if (at)
		s->at = at;
	uint32_t *slots = at ? calloc(cap * 2, sizeof *slots) : NULL;
	if (!slots)
		return false;
	free(s->slots);
	s->slots = slots;
	s->slot_count = cap * 2;
	s->cap = cap;
	for (size_t i = 0; i < s->count; i++) {
		const char *path = pathset_get(s, i);
		s->slots[slot_of(s, path, strlen(path))] = (uint32_t)i + 1;
	}
	return true;
}

void pathset_add(struct pathset *s, const char *dir, size_t dir_len, const char *name,
		 size_t name_len)
{
	size_t start = s->text.len, len = dir_len + name_len + (dir_len && name_len);

	if (s->failed || start > UINT32_MAX - len - 1 || (s->count == s->cap && !grow(s))) {
		s->failed = true;
		return;
	}
	inlay_buf_add(&s->text, dir, dir_len);
	if (dir_len && name_len)
		inlay_buf_u8(&s->text, '/');
	inlay_buf_add(&s->text, name, name_len);
	inlay_buf_u8(&s->text, 0);
	if (s->text.failed) {
		s->failed = true;
		return;
	}
	size_t slot = slot_of(s, (const char *)s->text.data + start, len);
	if (s->slots[slot]) {
		s->text.len = start;
		return;
	}
	s->at[s->count] = (uint32_t)start;
	s->slots[slot] = (uint32_t)++s->count;
}

bool pathset_has(const struct pathset *s, const char *path)
{
	return s->count > 0 && s->slots[slot_of(s, path, strlen(path))];
}

const char **pathset_list(const struct pathset *s)
{
	const char **list = calloc(s->count + 1, sizeof *list);

	for (size_t i = 0; list && i < s->count; i++)
		list[i] = pathset_get(s, i);
	return list;
}
