/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WATCH_PATHSET_H
#define WATCH_PATHSET_H

/* A set of paths, in the order in which they came. Used by one thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"

struct pathset {
	struct inlay_buf text; /* each with a NUL */
	uint32_t *at;          /* offsets in text */
	uint32_t *slots;       /* number + 1, 0 = empty */
	size_t count, cap, slot_count;
	bool failed; /* sticky: memory was out, and a path was lost */
};

void pathset_fini(struct pathset *s);
void pathset_clear(struct pathset *s);
/* Adds a path that consists of two parts with a slash between them; either may be empty. */
void pathset_add(struct pathset *s, const char *dir, size_t dir_len, const char *name,
		 size_t name_len);
bool pathset_has(const struct pathset *s, const char *path);

static inline const char *pathset_get(const struct pathset *s, size_t i)
{
	return (const char *)s->text.data + s->at[i];
}

/* Pointers to all of them, valid until the next change. The caller frees the array. NULL: no memory. */
const char **pathset_list(const struct pathset *s);

#endif
