/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A journal of any bytes, and, since few of them have right checksums, the same bytes as assignments: what is
 * accepted has right counts, and written down anew it gives the same.
 */
#include <stdint.h>

#include "upperkit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(struct upper *u)
{
	struct inlay_buf before = {0}, after = {0};
	struct upper again;

	if (!upper_counts_are_right(u) || upper_init(&again, NULL) < 0)
		abort();
	struct upper_txn t = {0};
	upper_txn_shown(&t, &u->shown);
	upper_txn_node(&t, u->root);
	for (const struct upper_xattr *x = u->root->xattrs; x; x = x->next)
		upper_txn_xattr(&t, 1, x->name, upper_xattr_value(x), x->len);
	upper_txn_node(&t, u->root);
	for (struct upper_dent *d = upper_walk(u->root, NULL); d; d = upper_walk(u->root, d)) {
		if (d->node) {
			upper_txn_node(&t, d->node);
			if (upper_find(&again, d->node->n) == NULL)
				for (const struct upper_xattr *x = d->node->xattrs; x; x = x->next)
					upper_txn_xattr(&t, d->node->n, x->name,
							upper_xattr_value(x), x->len);
			upper_txn_node(&t, d->node);
		}
		upper_txn_name(&t, d->parent->n, d->name, d->name_len, d->node ? d->node->n : 0,
			       true);
	}
	if (upper_apply(&again, t.ops.data, t.ops.len, 0, NULL) < 0)
		abort();
	upper_print(u, &before);
	upper_print(&again, &after);
	if (before.len != after.len || memcmp(before.data, after.data, before.len) != 0)
		abort();
	inlay_buf_fini(&before);
	inlay_buf_fini(&after);
	inlay_buf_fini(&t.ops);
	upper_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct upper u;
	uint64_t end;

	if (upper_init(&u, NULL) < 0)
		abort();
	if (upper_replay(&u, data, size, &end, NULL) == 0) {
		if (end > ((size + 7) & ~(size_t)7))
			abort();
		check_again(&u);
	}
	upper_fini(&u);
	if (upper_init(&u, NULL) < 0)
		abort();
	/* Each record's length in one byte. */
	while (size > 0) {
		size_t len = data[0] < size - 1 ? data[0] : size - 1;
		(void)!upper_apply(&u, data + 1, len, 3, NULL);
		data += 1 + len;
		size -= 1 + len;
	}
	check_again(&u);
	upper_fini(&u);
	return 0;
}
