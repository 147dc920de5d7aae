/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptions of programs, and their logs. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/run.h"
#include "scratch.h"

static char sh[] = "sh", c[] = "-c", loop[] = "exec sleep 9", colour[] = "COLOUR=blue",
	    dir[] = "sub";
static char *argv[] = {sh, c, loop, NULL}, *env[] = {colour, NULL};
static char device[] = "/dev/null", *devices[] = {device, NULL};

static struct inlay_run_spec spec_of(const char *name)
{
	struct inlay_run_spec s = {.argv = argv,
				   .env = env,
				   .devices = devices,
				   .dir = dir,
				   .stop_signal = SIGTERM,
				   .stop_timeout_ns = 5000000000ll,
				   .restart = INLAY_RUN_ON_FAILURE,
				   .wanted = true};

	(void)snprintf(s.name, sizeof s.name, "%s", name);
	return s;
}

static void a_spec_has_these_bytes(void **state)
{
	static const uint8_t head[] =
		"iRUN\x01\x01\x01\x0f\x00\xf2\x05\x2a\x01\x00\x00\x00\x03svc\x03sub"
		"\x03\x02sh\x02-c\x0c"
		"exec sleep 9\x01\x0b"
		"COLOUR=blue\x01\x09/dev/null";
	auto_buf struct inlay_buf b = {0};
	struct inlay_run_spec s = spec_of("svc"), got;
	struct inlay_error err = {0};

	(void)state;
	inlay_run_spec_encode(&s, &b);
	assert_int_equal(b.len, sizeof head - 1 + 8);
	assert_memory_equal(b.data, head, sizeof head - 1);
	assert_int_equal(inlay_run_spec_decode(b.data, b.len, &got, &err), 0);
	assert_string_equal(got.name, "svc");
	assert_string_equal(got.argv[2], loop);
	assert_null(got.argv[3]);
	assert_string_equal(got.env[0], colour);
	assert_string_equal(got.devices[0], device);
	assert_null(got.devices[1]);
	assert_string_equal(got.dir, "sub");
	assert_int_equal(got.stop_signal, SIGTERM);
	assert_int_equal(got.restart, INLAY_RUN_ON_FAILURE);
	assert_true(got.wanted);
	inlay_run_spec_fini(&got);
}

static void damaged_specs_are_refused(void **state)
{
	auto_buf struct inlay_buf b = {0};
	struct inlay_run_spec s = spec_of("svc"), got;
	struct inlay_error err = {0};

	(void)state;
	inlay_run_spec_encode(&s, &b);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 1;
		assert_true(inlay_run_spec_decode(b.data, b.len, &got, &err) < 0);
		b.data[i] ^= 1;
		assert_true(inlay_run_spec_decode(b.data, i, &got, &err) < 0);
	}
	b.data[4] = 2;
	assert_int_equal(inlay_run_spec_decode(b.data, b.len, &got, &err), -EPROTONOSUPPORT);
}

/* Whole and with a right checksum, but not what can be run. */
static void senseless_specs_are_refused(void **state)
{
	static char none[] = "", no_sign[] = "COLOUR";
	char *no_argv[] = {NULL}, *empty[] = {none, NULL}, *bad_env[] = {no_sign, NULL};
	struct inlay_run_spec cases[6], got;
	struct inlay_error err = {0};

	(void)state;
	for (size_t i = 0; i < 6; i++)
		cases[i] = spec_of("svc");
	cases[0].argv = no_argv;
	cases[1].argv = empty;
	cases[2].env = bad_env;
	cases[3].stop_signal = 200;
	cases[4].stop_timeout_ns = -1;
	(void)snprintf(cases[5].name, sizeof cases[5].name, "a/b");
	for (size_t i = 0; i < 6; i++) {
		auto_buf struct inlay_buf b = {0};
		inlay_run_spec_encode(&cases[i], &b);
		assert_int_equal(inlay_run_spec_decode(b.data, b.len, &got, &err), -EBADMSG);
	}
}

static void names(void **state)
{
	static const char long_name[] =
		"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff12345";

	(void)state;
	assert_true(inlay_run_name_valid("a.B-9_", 6));
	assert_true(inlay_run_name_valid(long_name, 64));
	assert_false(inlay_run_name_valid(long_name, 65));
	assert_false(inlay_run_name_valid("", 0));
	assert_false(inlay_run_name_valid(".a", 2));
	assert_false(inlay_run_name_valid("a b", 3));
	assert_false(inlay_run_name_valid("a/b", 3));
	assert_false(inlay_run_name_valid("\xc3\xa4", 2));
}

static void signals(void **state)
{
	struct inlay_error err = {0};
	int n;

	(void)state;
	assert_int_equal(inlay_run_parse_signal("HUP", &n, &err), 0);
	assert_int_equal(n, SIGHUP);
	assert_int_equal(inlay_run_parse_signal("SIGUSR1", &n, &err), 0);
	assert_int_equal(n, SIGUSR1);
	assert_int_equal(inlay_run_parse_signal("9", &n, &err), 0);
	assert_int_equal(n, 9);
	assert_int_equal(inlay_run_parse_signal("0", &n, &err), -EINVAL);
	assert_int_equal(inlay_run_parse_signal("hup", &n, &err), -EINVAL);
}

static size_t count_lines(const struct inlay_buf *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->len; i++)
		n += b->data[i] == '\n';
	return n;
}

static void read_all(struct inlay_runlog_reader *r, struct inlay_buf *b)
{
	struct inlay_error err = {0};
	int got = 0;

	while (got == 0)
		got = inlay_runlog_read(r, b, &err);
	assert_int_equal(got, INLAY_RUNLOG_NONE);
}

static void lines_are_whole_and_a_reader_follows(void **state)
{
	struct inlay_runlog log;
	struct inlay_runlog_reader r;
	auto_buf struct inlay_buf b = {0};
	int dirfd = scratch_dir(state);
	struct inlay_error err = {0};

	assert_int_equal(inlay_runlog_open(dirfd, &log, &err), 0);
	inlay_runlog_add(&log, 'o', "one\ntw", 6);
	inlay_runlog_add(&log, 'e', "other\n", 6);
	assert_int_equal(inlay_runlog_reader_open(dirfd, 1, &r, &err), 0);
	read_all(&r, &b);
	assert_int_equal(count_lines(&b), 1);
	assert_non_null(memmem(b.data, b.len, " e other\n", 9));
	inlay_runlog_add(&log, 'o', "o\n", 2);
	inlay_runlog_add(&log, 'o', "no end", 6);
	read_all(&r, &b);
	assert_int_equal(count_lines(&b), 2);
	assert_non_null(memmem(b.data, b.len, " o two\n", 7));
	inlay_runlog_end(&log, 'o');
	read_all(&r, &b);
	assert_non_null(memmem(b.data, b.len, " o no end\n", 10));
	inlay_runlog_reader_close(&r);
	inlay_runlog_close(&log);
}

/* Over three changes of files a reader that keeps up sees every line once, in order. */
static void a_reader_follows_over_the_change_of_files(void **state)
{
	enum { LINES = 3 * (INLAY_RUN_LOG_BYTES / 1000) };
	struct inlay_runlog log;
	struct inlay_runlog_reader r;
	auto_buf struct inlay_buf b = {0};
	int dirfd = scratch_dir(state);
	struct inlay_error err = {0};
	char line[1001];
	unsigned next = 0;
	struct stat st;

	assert_int_equal(inlay_runlog_open(dirfd, &log, &err), 0);
	assert_int_equal(inlay_runlog_reader_open(dirfd, 0, &r, &err), 0);
	for (unsigned i = 0; i < LINES; i++) {
		(void)snprintf(line, sizeof line, "%06u %992s", i, "x");
		line[999] = '\n';
		inlay_runlog_add(&log, 'o', line, 1000);
		if (i % 1000 != 999 && i + 1 < LINES)
			continue;
		inlay_buf_clear(&b);
		read_all(&r, &b);
		for (const char *at = (const char *)b.data, *end = at + b.len; at < end;
		     at = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1)
			assert_int_equal(atoi(strstr(at, " o ") + 3), next++);
	}
	assert_int_equal(next, LINES);
	assert_int_equal(fstatat(dirfd, "log", &st, 0), 0);
	assert_true(st.st_size <= INLAY_RUN_LOG_BYTES);
	assert_int_equal(fstatat(dirfd, "log.1", &st, 0), 0);
	assert_true(st.st_size <= INLAY_RUN_LOG_BYTES);
	inlay_runlog_reader_close(&r);
	inlay_runlog_close(&log);
}

static void old_lines_come_from_both_files(void **state)
{
	struct inlay_runlog log;
	struct inlay_runlog_reader r;
	auto_buf struct inlay_buf b = {0};
	int dirfd = scratch_dir(state);
	struct inlay_error err = {0};

	assert_int_equal(inlay_runlog_open(dirfd, &log, &err), 0);
	inlay_runlog_add(&log, 'o', "a\nb\nc\n", 6);
	assert_int_equal(renameat(dirfd, "log", dirfd, "log.1"), 0);
	inlay_runlog_close(&log);
	assert_int_equal(inlay_runlog_open(dirfd, &log, &err), 0);
	inlay_runlog_add(&log, 'o', "d\n", 2);
	for (size_t lines = 0; lines < 7; lines++) {
		inlay_buf_clear(&b);
		assert_int_equal(inlay_runlog_reader_open(dirfd, lines, &r, &err), 0);
		read_all(&r, &b);
		assert_int_equal(count_lines(&b), lines < 4 ? lines : 4);
		inlay_runlog_reader_close(&r);
	}
	inlay_runlog_close(&log);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_spec_has_these_bytes),
		cmocka_unit_test(damaged_specs_are_refused),
		cmocka_unit_test(senseless_specs_are_refused),
		cmocka_unit_test(names),
		cmocka_unit_test(signals),
		scratch_test(lines_are_whole_and_a_reader_follows),
		scratch_test(a_reader_follows_over_the_change_of_files),
		scratch_test(old_lines_come_from_both_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
