/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/xattrs.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "unit.h"

static struct inlay_xattr attr(const char *name, const char *value)
{
	return (struct inlay_xattr){name, (const uint8_t *)value, strlen(name), strlen(value)};
}

static const char golden[] = "iXAT\1"
			     "\6user.a\1x"
			     "\6user.b\0";

static void one_encoding(void **state)
{
	struct inlay_xattr list[] = {attr("user.b", ""), attr("user.a", "x")};
	auto_buf struct inlay_buf b = {0};

	(void)state;
	assert_int_equal(inlay_xattrs_encode(list, 2, &b, NULL), 0);
	assert_int_equal(b.len, sizeof golden - 1);
	assert_memory_equal(b.data, golden, b.len);
}

static int join(void *ctx, const struct inlay_xattr *x, struct inlay_error *err)
{
	(void)err;
	inlay_buf_printf(ctx, "%.*s=%.*s;", (int)x->name_len, x->name, (int)x->value_len,
			 (const char *)x->value);
	return 0;
}

static void read_back(void **state)
{
	auto_buf struct inlay_buf b = {0};
	const uint8_t *bytes = (const uint8_t *)golden;

	(void)state;
	assert_int_equal(inlay_xattrs_each(bytes, sizeof golden - 1, join, &b, NULL), 0);
	assert_string_equal(inlay_buf_cstr(&b), "user.a=x;user.b=;");
	for (size_t len = 0; len < sizeof golden - 1; len++)
		if (len != 14) /* there the first one ends */
			assert_int_equal(inlay_xattrs_each(bytes, len, join, &b, NULL), -EBADMSG);
}

static int each(const char *bytes, size_t len)
{
	auto_buf struct inlay_buf b = {0};

	return inlay_xattrs_each((const uint8_t *)bytes, len, join, &b, NULL);
}

static void bad_bytes(void **state)
{
	(void)state;
	assert_int_equal(each("iXAT\1\1b\1x\1a\1x", 13), -EBADMSG); /* order */
	assert_int_equal(each("iXAT\1\1a\1x\1a\1y", 13), -EBADMSG); /* twice */
	assert_int_equal(each("iXAT\1\0\1x", 8), -EBADMSG);         /* no name */
	assert_int_equal(each("iXAT\1\3a\0b\1x", 11), -EBADMSG);    /* NUL in it */
	assert_int_equal(each("iXAT\2\1a\1x", 9), -EPROTONOSUPPORT);
}

static void limits(void **state)
{
	struct inlay_xattr twice[] = {attr("user.a", "1"), attr("user.a", "2")};
	struct inlay_xattr one = attr("user.a", "1");
	auto_buf struct inlay_buf b = {0};
	auto_free uint8_t *large = calloc(1, INLAY_XATTR_VALUE_MAX + 1);

	(void)state;
	assert_int_equal(inlay_xattrs_encode(twice, 2, &b, NULL), -EINVAL);
	one.value = large;
	one.value_len = INLAY_XATTR_VALUE_MAX;
	assert_int_equal(inlay_xattrs_encode(&one, 1, &b, NULL), 0);
	one.value_len++;
	assert_int_equal(inlay_xattrs_encode(&one, 1, &b, NULL), -E2BIG);
	one = (struct inlay_xattr){"", large, 0, 1};
	assert_int_equal(inlay_xattrs_encode(&one, 1, &b, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_encoding),
		cmocka_unit_test(read_back),
		cmocka_unit_test(bad_bytes),
		cmocka_unit_test(limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
