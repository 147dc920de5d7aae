/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/xattrs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char magic[4] = "iXAT";

static int by_name(const void *a, const void *b)
{
	const struct inlay_xattr *x = a, *y = b;
	size_t common = x->name_len < y->name_len ? x->name_len : y->name_len;
	int c = memcmp(x->name, y->name, common);

	return c ? c : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

static bool name_valid(const struct inlay_xattr *x)
{
	return x->name_len >= 1 && x->name_len <= INLAY_XATTR_NAME_MAX &&
	       !memchr(x->name, 0, x->name_len);
}

int inlay_xattrs_encode(struct inlay_xattr *list, size_t count, struct inlay_buf *b,
			struct inlay_error *err)
{
	size_t start = b->len;

	if (count > 1)
		qsort(list, count, sizeof *list, by_name);
	inlay_buf_add(b, magic, sizeof magic);
	inlay_buf_u8(b, INLAY_XATTRS_VERSION);
	for (size_t i = 0; i < count; i++) {
		if (!name_valid(&list[i]))
			return inlay_error_set(err, -EINVAL, "an attribute with a bad name");
		if (i > 0 && by_name(&list[i - 1], &list[i]) == 0)
			return inlay_error_set(err, -EINVAL,
					       "the attribute %.*s stands there twice",
					       (int)list[i].name_len, list[i].name);
		if (list[i].value_len > INLAY_XATTR_VALUE_MAX)
			return inlay_error_set(
				err, -E2BIG, "the attribute %.*s has more than %d bytes",
				(int)list[i].name_len, list[i].name, INLAY_XATTR_VALUE_MAX);
		inlay_buf_string(b, list[i].name, list[i].name_len);
		inlay_buf_string(b, list[i].value, list[i].value_len);
		if (b->len - start > INLAY_XATTRS_MAX)
			return inlay_error_set(err, -E2BIG, "more than %d bytes of attributes",
					       INLAY_XATTRS_MAX);
	}
	return inlay_buf_check(b, err);
}

static bool next(struct inlay_cursor *c, struct inlay_xattr *ret)
{
	ret->name = (const char *)inlay_cursor_string(c, INLAY_XATTR_NAME_MAX, &ret->name_len);
	ret->value = inlay_cursor_string(c, INLAY_XATTR_VALUE_MAX, &ret->value_len);
	return !c->failed && name_valid(ret);
}

static bool check(struct inlay_cursor c)
{
	struct inlay_xattr x, last = {0};
	bool first = true;

	while (c.left > 0) {
		if (!next(&c, &x) || (!first && by_name(&last, &x) >= 0))
			return false;
		last = x;
		first = false;
	}
	return !first;
}

int inlay_xattrs_each(const uint8_t *bytes, size_t len,
		      int (*fn)(void *ctx, const struct inlay_xattr *x, struct inlay_error *err),
		      void *ctx, struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	const uint8_t *m = inlay_cursor_bytes(&c, sizeof magic);
	uint8_t version = inlay_cursor_u8(&c);
	struct inlay_xattr x;
	int r = 0;

	if (!m || c.failed || memcmp(m, magic, sizeof magic) != 0 || len > INLAY_XATTRS_MAX)
		return inlay_error_set(err, -EBADMSG, "attributes: not such an object");
	if (version != INLAY_XATTRS_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "attributes: version %u, this program knows %d", version,
				       INLAY_XATTRS_VERSION);
	if (!check(c))
		return inlay_error_set(err, -EBADMSG, "attributes: damaged");
	while (r == 0 && c.left > 0 && next(&c, &x))
		r = fn(ctx, &x, err);
	return r;
}
