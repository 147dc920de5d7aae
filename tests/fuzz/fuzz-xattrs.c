/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes of an entry: any bytes are refused, or are the one encoding of what they say. */
#include <stdint.h>
#include <stdlib.h>

#include "inlay/xattrs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEEN_MAX = 64 };

struct seen {
	struct inlay_xattr list[SEEN_MAX];
	size_t count;
};

static int take(void *ctx, const struct inlay_xattr *x, struct inlay_error *err)
{
	struct seen *s = ctx;

	(void)err;
	if (s->count == SEEN_MAX)
		return 1;
	s->list[s->count++] = *x;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_buf struct inlay_buf b = {0};
	struct seen s = {.count = 0};

	if (inlay_xattrs_each(data, size, take, &s, NULL) != 0)
		return 0;
	if (inlay_xattrs_encode(s.list, s.count, &b, NULL) < 0 || b.len != size ||
	    memcmp(b.data, data, size) != 0)
		abort();
	return 0;
}
