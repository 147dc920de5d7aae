/* SPDX-License-Identifier: Apache-2.0 */
/* What a workspace runs in: its description, and who is who in an image. */
#include <errno.h>

#include "inlay/container.h"
#include "run/users.h"
#include "scratch.h"

static char user[] = "nav:video", path_var[] = "PATH=/bin", entry[] = "/entry";
static char *env[] = {path_var, NULL}, *entrypoint[] = {entry, NULL};

static struct inlay_container_spec spec(void)
{
	return (struct inlay_container_spec){.image = {.b = {1, 2, 3}},
					     .runtime = INLAY_RUNTIME_RUNC,
					     .user = user,
					     .env = env,
					     .entrypoint = entrypoint};
}

static void a_description_has_these_bytes(void **state)
{
	static const uint8_t head[] =
		"iCNT\x01\x02\x01\x02\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
		"\0\0\0\0\0\0\x09nav:video\x01\x09PATH=/bin\x01\x06/entry";
	auto_buf struct inlay_buf b = {0};
	struct inlay_container_spec s = spec(), got;
	struct inlay_error err = {0};

	(void)state;
	inlay_container_spec_encode(&s, &b);
	assert_int_equal(b.len, sizeof head - 1 + 8);
	assert_memory_equal(b.data, head, sizeof head - 1);
	assert_int_equal(inlay_container_spec_decode(b.data, b.len, &got, &err), 0);
	assert_true(inlay_digest_equal(&got.image, &s.image));
	assert_int_equal(got.runtime, INLAY_RUNTIME_RUNC);
	assert_string_equal(got.user, user);
	assert_string_equal(got.env[0], path_var);
	assert_string_equal(got.entrypoint[0], entry);
	assert_null(got.entrypoint[1]);
	inlay_container_spec_fini(&got);
}

static void damaged_descriptions_are_refused(void **state)
{
	static char no_sign[] = "PATH";
	char *bad[] = {no_sign, NULL};
	auto_buf struct inlay_buf b = {0}, c = {0};
	struct inlay_container_spec s = spec(), got;
	struct inlay_error err = {0};

	(void)state;
	inlay_container_spec_encode(&s, &b);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 1;
		assert_true(inlay_container_spec_decode(b.data, b.len, &got, &err) < 0);
		b.data[i] ^= 1;
		assert_true(inlay_container_spec_decode(b.data, i, &got, &err) < 0);
	}
	b.data[4] = 2;
	assert_int_equal(inlay_container_spec_decode(b.data, b.len, &got, &err), -EPROTONOSUPPORT);
	s.env = bad;
	inlay_container_spec_encode(&s, &c);
	assert_int_equal(inlay_container_spec_decode(c.data, c.len, &got, &err), -EBADMSG);
}

/* ---- users ---- */

static const char passwd_text[] = "root:x:0:0:root:/root:/bin/sh\n"
				  "broken\n"
				  "nav:x:1000:1000:Nav,,,:/home/nav:/bin/sh\n"
				  "twin:x:1000:50::/:/bin/sh\n"
				  "bad:x:12a:1::/:/bin/sh\n"
				  "7:x:70:71::/:\n"
				  "last:x:5:6::/:"; /* no newline */
static const char group_text[] = "root:x:0:\n"
				 "nav:x:1000:\n"
				 "video:x:44:other,nav\n"
				 "navy:x:45:navy,navigator\n"
				 "dialout:x:20:nav\n";

static int look(const char *who, struct users_id *ret)
{
	auto_buf struct inlay_buf passwd = {0}, group = {0};
	struct inlay_error err = {0};

	inlay_buf_add(&passwd, passwd_text, sizeof passwd_text - 1);
	inlay_buf_add(&group, group_text, sizeof group_text - 1);
	return users_find(who, &passwd, &group, ret, &err);
}

static void is(const char *who, uint32_t uid, uint32_t gid, size_t others)
{
	struct users_id id;

	assert_int_equal(look(who, &id), 0);
	assert_int_equal(id.uid, uid);
	assert_int_equal(id.gid, gid);
	assert_int_equal(id.extra_count, others);
}

static void users_are_found(void **state)
{
	struct users_id id;

	(void)state;
	is("", 0, 0, 0);
	is("root", 0, 0, 0);
	is("nav", 1000, 1000, 2);
	is("1000", 1000, 1000, 2);
	is("last", 5, 6, 0);
	is("7", 70, 71, 0);
	is("4711", 4711, 0, 0);
	is("nav:video", 1000, 44, 0);
	is("nav:9", 1000, 9, 0);
	is("4711:dialout", 4711, 20, 0);
	is("2147483647", 2147483647, 0, 0);
	assert_int_equal(look("nav", &id), 0);
	assert_int_equal(id.extra[0], 44);
	assert_int_equal(id.extra[1], 20);
}

static void unknown_users_are_refused(void **state)
{
	static const char *const bad[] = {"nobody", "bad",        "broken",     "nav:nobody", "-1",
					  "0x10",   "2147483648", "4294967296", "nav:",       "na"};
	struct users_id id;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(look(bad[i], &id), -ENOENT);
}

/* A container with an empty passwd, or none at all. */
static void numbers_need_no_files(void **state)
{
	struct inlay_buf none = {0};
	struct inlay_error err = {0};
	struct users_id id;

	(void)state;
	assert_int_equal(users_find("1000:20", &none, &none, &id, &err), 0);
	assert_int_equal(id.uid, 1000);
	assert_int_equal(id.gid, 20);
	assert_int_equal(users_find("nav", &none, &none, &id, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_description_has_these_bytes),
		cmocka_unit_test(damaged_descriptions_are_refused),
		cmocka_unit_test(users_are_found),
		cmocka_unit_test(unknown_users_are_refused),
		cmocka_unit_test(numbers_need_no_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
