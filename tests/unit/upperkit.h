/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_UPPERKIT_H
#define INLAY_TESTS_UPPERKIT_H

/* All that an upper in memory says, as text; and that its counts are those of what is in it. */

#include <stdlib.h>
#include <string.h>

#include "upper/upper.h"

static inline void upper_print_node(struct inlay_buf *b, const struct upper_node *n)
{
	inlay_buf_printf(b, " %llu from %u mode %o %u:%u attr %d exact %d",
			 (unsigned long long)n->n, n->from, n->mode, n->uid, n->gid, n->own_attr,
			 n->exact_time);
	if (!n->has_file)
		inlay_buf_printf(b, " times %lld %lld %lld size %llu", (long long)n->atime_ns,
				 (long long)n->mtime_ns, (long long)n->ctime_ns,
				 (unsigned long long)n->size);
	inlay_buf_printf(b, " links %u target %s", n->links, n->target ? n->target : "-");
	for (const struct upper_xattr *x = n->xattrs; x; x = x->next)
		inlay_buf_printf(b, " %s=%.*s", x->name, (int)x->len, upper_xattr_value(x));
}

static inline void upper_print(struct upper *u, struct inlay_buf *b)
{
	char shown[INLAY_DIGEST_HEX];

	inlay_digest_hex(&u->shown, shown);
	inlay_buf_printf(b, "over %s\n", shown);
	upper_print_node(b, u->root);
	inlay_buf_printf(b, "\n");
	for (struct upper_dent *d = upper_walk(u->root, NULL); d; d = upper_walk(u->root, d)) {
		inlay_buf_printf(b, "%llu/%.*s:", (unsigned long long)d->parent->n, d->name_len,
				 d->name);
		if (d->node)
			upper_print_node(b, d->node);
		inlay_buf_printf(b, "\n");
	}
}

/* False when a count is wrong. */
static inline bool upper_counts_are_right(struct upper *u)
{
	size_t dents = 0;

	for (struct upper_dent *d = upper_walk(u->root, NULL); d; d = upper_walk(u->root, d)) {
		const struct upper_node *n = d->node;
		uint32_t solid = 0, count = 0;
		dents++;
		if (!n)
			continue;
		uint32_t links = 0;
		for (const struct upper_dent *in = n->in; in; in = in->next_link)
			links++;
		for (const struct upper_dent *e = upper_from_hash(n, 0); e; e = upper_after(e)) {
			count++;
			solid += e->node && upper_is_solid(e->node);
		}
		if (links != n->links || count != n->count || solid != n->solid ||
		    upper_find(u, n->n) != n || (S_ISDIR(n->mode) && links != 1))
			return false;
	}
	return dents == u->dent_count;
}

#endif
