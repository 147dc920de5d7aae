/* SPDX-License-Identifier: Apache-2.0 */
/* The tree loader: any bytes are refused or can be read without harm, and what is accepted is canonical. */
#include <stdint.h>
#include <stdlib.h>

#include "inlay/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void rebuild(const struct inlay_tree *t)
{
	struct inlay_tree_builder b = {0};
	struct inlay_tree_built built;
	struct inlay_digest id;

	for (uint32_t i = 0; i < t->count; i++) {
		struct inlay_entry e;
		inlay_tree_entry(t, i, &e);
		if (inlay_tree_builder_add(&b, &e, NULL) < 0)
			abort();
	}
	if (inlay_tree_build(&b, NULL, NULL, &built, NULL) < 0)
		abort();
	inlay_digest_of(t->bytes, t->len, &id);
	/* A bucket may be larger than a directory of its own would be. */
	if (t->count <= INLAY_TREE_SPLIT && !inlay_digest_equal(&id, &built.id))
		abort();
	inlay_tree_builder_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct inlay_tree t;
	struct inlay_entry e;

	if (inlay_tree_decode(data, size, &t, NULL) < 0)
		return 0;
	for (uint32_t i = 0; t.split && i < t.count; i++) {
		struct inlay_digest leaf;
		(void)inlay_tree_bucket(&t, i, &leaf);
	}
	if (t.split)
		return 0;
	for (uint32_t i = 0; i < t.count; i++) {
		struct inlay_entry found;
		inlay_tree_entry(&t, i, &e);
		if (!inlay_tree_find(&t, e.name, e.name_len, &found) || found.name != e.name)
			abort();
	}
	rebuild(&t);
	return 0;
}
