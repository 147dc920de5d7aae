/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/text.h"

static struct inlay_error err;

static void varint_has_one_encoding(void **state)
{
	static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};

	(void)state;
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		auto_buf struct inlay_buf b = {0};
		inlay_buf_varint(&b, values[i]);
		struct inlay_cursor c = inlay_cursor_of(b.data, b.len);
		assert_true(inlay_cursor_varint(&c) == values[i]);
		assert_true(inlay_cursor_done(&c));
		for (size_t cut = 0; cut < b.len; cut++) {
			c = inlay_cursor_of(b.data, cut);
			(void)inlay_cursor_varint(&c);
			assert_true(c.failed);
		}
	}
	static const uint8_t longer[] = {0x80, 0x00};
	struct inlay_cursor c = inlay_cursor_of(longer, sizeof longer);
	(void)inlay_cursor_varint(&c);
	assert_true(c.failed);
	static const uint8_t too_large[] = {0xff, 0xff, 0xff, 0xff, 0xff,
					    0xff, 0xff, 0xff, 0xff, 2};
	c = inlay_cursor_of(too_large, sizeof too_large);
	(void)inlay_cursor_varint(&c);
	assert_true(c.failed);
}

static void cursor_failure_is_sticky(void **state)
{
	static const uint8_t bytes[] = {1, 2, 3, 4, 5};

	(void)state;
	struct inlay_cursor c = inlay_cursor_of(bytes, sizeof bytes);
	assert_int_equal(inlay_cursor_u32(&c), 0x04030201);
	assert_int_equal(inlay_cursor_u16(&c), 0);
	assert_int_equal(inlay_cursor_u8(&c),
			 0); /* one byte is left, but nothing is given any more */
	assert_false(inlay_cursor_done(&c));
}

static void string_over_its_limit_is_refused(void **state)
{
	(void)state;
	auto_buf struct inlay_buf b = {0};
	inlay_buf_string(&b, "abcdef", 6);
	size_t len;
	struct inlay_cursor c = inlay_cursor_of(b.data, b.len);
	assert_non_null(inlay_cursor_string(&c, 6, &len));
	assert_int_equal(len, 6);
	c = inlay_cursor_of(b.data, b.len);
	assert_null(inlay_cursor_string(&c, 5, &len));
	assert_true(c.failed);
}

static void digest_is_sha256(void **state)
{
	char hex[INLAY_DIGEST_HEX];
	struct inlay_digest d, back;

	(void)state;
	/* FIPS 180-4, the example "abc" */
	inlay_digest_of("abc", 3, &d);
	inlay_digest_hex(&d, hex);
	assert_string_equal(hex,
			    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_true(inlay_digest_from_hex(hex, &back));
	assert_true(inlay_digest_equal(&d, &back));
	struct inlay_hasher h;
	inlay_hasher_init(&h);
	inlay_hasher_add(&h, "a", 1);
	inlay_hasher_add(&h, "bc", 2);
	inlay_hasher_end(&h, &back);
	assert_true(inlay_digest_equal(&d, &back));
	hex[5] = 'g';
	assert_false(inlay_digest_from_hex(hex, &back));
	assert_false(inlay_digest_from_hex("abc", &back));
}

static const char *escaped(struct inlay_buf *b, const char *text)
{
	inlay_buf_clear(b);
	inlay_text_escape(b, text, strlen(text));
	return inlay_buf_cstr(b);
}

static void escaped_text_cannot_drive_a_terminal(void **state)
{
	auto_buf struct inlay_buf b = {0};

	(void)state;
	assert_string_equal(escaped(&b, "a\nb\x1b[2J\x7f"), "a\\nb\\x1b[2J\\x7f");
	assert_string_equal(escaped(&b, "gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
	assert_string_equal(escaped(&b, "\xc2\x9b"
					"2J"),
			    "\\xc2\\x9b2J"); /* CSI as one C1 byte */
	assert_string_equal(escaped(&b, "\xff\xc3"), "\\xff\\xc3");
	assert_string_equal(escaped(&b, "\xed\xa0\x80"), "\\xed\\xa0\\x80"); /* a surrogate */
	assert_true(inlay_text_is_utf8("\xe2\x82\xac", 3));
	assert_false(inlay_text_is_utf8("\xc0\xaf", 2));
}

static void sizes_and_durations_are_strict(void **state)
{
	uint64_t size;
	int64_t ns;

	(void)state;
	assert_ok(inlay_parse_size("1.5M", &size, &err));
	assert_int_equal(size, 1572864);
	assert_ok(inlay_parse_size("2kB", &size, &err));
	assert_int_equal(size, 2000);
	assert_result(inlay_parse_size("2x", &size, &err), -EINVAL);
	assert_result(inlay_parse_size("-2", &size, &err), -EINVAL);
	assert_result(inlay_parse_size("", &size, &err), -EINVAL);
	assert_result(inlay_parse_size("1.2.3", &size, &err), -EINVAL);
	assert_result(inlay_parse_size("99999999999T", &size, &err), -ERANGE);
	assert_ok(inlay_parse_duration("250ms", &ns, &err));
	assert_int_equal(ns, 250000000);
	assert_ok(inlay_parse_duration("2", &ns, &err));
	assert_int_equal(ns, 2000000000);
	assert_result(inlay_parse_duration("5 s", &ns, &err), -EINVAL);
	assert_result(inlay_parse_u64("18446744073709551616", &size, &err), -ERANGE);
	auto_buf struct inlay_buf b = {0};
	inlay_text_size(&b, 999);
	inlay_buf_u8(&b, ' ');
	inlay_text_size(&b, 999999);
	inlay_buf_u8(&b, ' ');
	inlay_text_size(&b, 1234567);
	inlay_buf_u8(&b, ' ');
	inlay_text_duration(&b, 41300000);
	inlay_buf_u8(&b, ' ');
	inlay_text_count(&b, 1234567);
	inlay_buf_u8(&b, ' ');
	inlay_text_time(&b, 1000000042000000);
	assert_string_equal(inlay_buf_cstr(&b),
			    "999 B 1.00 MB 1.23 MB 41 ms 1,234,567 1970-01-12T13:46:40.042Z");
}

static int scratch_dir(void **state)
{
	char name[] = "/tmp/inlay-test-XXXXXX";
	static int fd;

	if (!mkdtemp(name))
		return -1;
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &fd;
	return fd < 0 ? -1 : 0;
}

static int scratch_gone(void **state)
{
	char path[64], name[256];
	int fd = *(int *)*state;

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, name, sizeof name - 1);
	(void)close(fd);
	if (n < 0)
		return -1;
	name[n] = 0;
	return inlay_remove_tree(AT_FDCWD, name, &err);
}

static void replaced_file_is_whole(void **state)
{
	int dir = *(int *)*state;
	auto_buf struct inlay_buf b = {0};

	assert_result(inlay_read_file(dir, "f", 100, &b, &err), INLAY_IO_MISSING);
	assert_ok(inlay_replace_file(dir, "f", "one", 3, 0600, 0, &err));
	assert_ok(inlay_replace_file(dir, "f", "second", 6, 0600, INLAY_REPLACE_DURABLE, &err));
	assert_ok(inlay_read_file(dir, "f", 6, &b, &err));
	assert_string_equal(inlay_buf_cstr(&b), "second");
	inlay_buf_clear(&b);
	assert_result(inlay_read_file(dir, "f", 5, &b, &err), -E2BIG);
	assert_int_equal(faccessat(dir, ".f.new", F_OK, 0), -1);
}

static void directories_are_made_and_removed(void **state)
{
	int dir = *(int *)*state;
	int fd;

	assert_ok(inlay_open_dir(dir, "a/b//c/", 0700, &fd, &err));
	assert_ok(inlay_replace_file(fd, "f", "x", 1, 0600, 0, &err));
	assert_int_equal(symlinkat("/etc", fd, "link"), 0);
	close(fd);
	assert_int_equal(symlinkat("a", dir, "out"), 0);
	assert_result(inlay_open_dir(dir, "out", 0700, &fd, &err), -ENOTDIR);
	assert_ok(inlay_remove_tree(dir, "a", &err));
	assert_int_equal(faccessat(dir, "a", F_OK, 0), -1);
	assert_int_equal(access("/etc/passwd", F_OK), 0);
	assert_ok(inlay_remove_tree(dir, "a", &err));
}

static void sockets_carry_descriptors(void **state)
{
	int dir = *(int *)*state, server, client, fds[INLAY_UNIX_FDS];
	char text[8];
	size_t n;

	assert_result(inlay_unix_connect(dir, "s", SOCK_STREAM, &client, &err), INLAY_UNIX_NOBODY);
	assert_ok(inlay_unix_listen(dir, "s", SOCK_STREAM, &server, &err));
	assert_ok(inlay_unix_connect(dir, "s", SOCK_STREAM, &client, &err));
	int peer = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	assert_true(peer >= 0);
	int give[2] = {dir, client};
	assert_ok(inlay_unix_send(client, "hello", 5, give, 2, &err));
	assert_ok(inlay_unix_recv(peer, text, sizeof text, &n, fds, &err));
	assert_int_equal(n, 5);
	struct stat a, b;
	assert_int_equal(fstat(fds[0], &a), 0);
	assert_int_equal(fstat(dir, &b), 0);
	assert_true(a.st_ino == b.st_ino);
	assert_true(fds[1] >= 0);
	assert_int_equal(fds[2], -1);
	close(fds[0]);
	close(fds[1]);
	close(client);
	assert_ok(inlay_unix_recv(peer, text, sizeof text, &n, fds, &err));
	assert_int_equal(n, 0);
	close(peer);
	close(server);
}

static void error_keeps_its_cause(void **state)
{
	struct inlay_error e = {0};
	char path[2000];

	(void)state;
	memset(path, 'p', sizeof path - 1);
	path[sizeof path - 1] = 0;
	assert_int_equal(inlay_error_sys(&e, -ENOSPC, "write %s", "x"), -ENOSPC);
	assert_string_equal(e.text, "write x: No space left on device");
	assert_int_equal(inlay_error_prefix(&e, -ENOSPC, "%s", path), -ENOSPC);
	assert_string_equal(e.text + strlen(e.text) - 33, " write x: No space left on device");
	assert_int_equal(inlay_error_exit(&e), INLAY_EXIT_LIMIT);
	assert_int_equal(inlay_error_set_exit(&e, INLAY_EXIT_CONNECT), -ENOSPC);
	assert_int_equal(inlay_error_exit(&e), INLAY_EXIT_CONNECT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(varint_has_one_encoding),
		cmocka_unit_test(cursor_failure_is_sticky),
		cmocka_unit_test(string_over_its_limit_is_refused),
		cmocka_unit_test(digest_is_sha256),
		cmocka_unit_test(escaped_text_cannot_drive_a_terminal),
		cmocka_unit_test(sizes_and_durations_are_strict),
		cmocka_unit_test_setup_teardown(replaced_file_is_whole, scratch_dir, scratch_gone),
		cmocka_unit_test_setup_teardown(directories_are_made_and_removed, scratch_dir,
						scratch_gone),
		cmocka_unit_test_setup_teardown(sockets_carry_descriptors, scratch_dir,
						scratch_gone),
		cmocka_unit_test(error_keeps_its_cause),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
