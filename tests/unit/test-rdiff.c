/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "delta/rdiff.h"
#include "inlay/bytes.h"

static struct inlay_error err;

/* An old content, and what comes out. */
struct side {
	const uint8_t *old;
	size_t old_len;
	struct inlay_buf out;
	bool read_fails;
};

static int read_old(void *ctx, void *buf, size_t len, uint64_t off, size_t *ret_n,
		    struct inlay_error *e)
{
	struct side *s = ctx;

	if (s->read_fails)
		return inlay_error_set(e, -EBADMSG, "damaged");
	size_t left = off < s->old_len ? s->old_len - (size_t)off : 0;
	*ret_n = len < left ? len : left;
	memcpy(buf, s->old + (off < s->old_len ? off : 0), *ret_n);
	return 0;
}

static int take(void *ctx, const void *bytes, size_t len, struct inlay_error *e)
{
	struct side *s = ctx;

	inlay_buf_add(&s->out, bytes, len);
	return inlay_buf_check(&s->out, e);
}

enum { OLD_BYTES = 300000 };

static uint8_t old_bytes[OLD_BYTES], new_bytes[OLD_BYTES + 100];

static int setup(void **state)
{
	uint32_t x = 1;

	(void)state;
	for (size_t i = 0; i < OLD_BYTES; i++) {
		x = x * 1664525 + 1013904223;
		old_bytes[i] = (uint8_t)(x >> 24);
	}
	/* 100 bytes more in the middle, one byte changed near the end */
	memcpy(new_bytes, old_bytes, 150000);
	memset(new_bytes + 150000, 'n', 100);
	memcpy(new_bytes + 150100, old_bytes + 150000, OLD_BYTES - 150000);
	new_bytes[sizeof new_bytes - 10] ^= 1;
	return 0;
}

static void make_signature(struct inlay_buf *ret)
{
	struct side s = {.old = old_bytes, .old_len = OLD_BYTES};

	assert_ok(rdiff_signature(OLD_BYTES, read_old, take, &s, &err));
	*ret = s.out;
}

static void make_delta(struct inlay_buf *ret)
{
	struct inlay_buf signature;
	struct side s = {0};
	struct rdiff_delta *d;

	make_signature(&signature);
	assert_ok(rdiff_delta_new(signature.data, signature.len, OLD_BYTES, take, &s, &d, &err));
	for (size_t at = 0; at < sizeof new_bytes; at += 777)
		assert_ok(rdiff_delta_feed(
			d, new_bytes + at,
			sizeof new_bytes - at < 777 ? sizeof new_bytes - at : 777, &err));
	assert_ok(rdiff_delta_end(d, &err));
	rdiff_delta_free(d);
	inlay_buf_fini(&signature);
	*ret = s.out;
}

static int apply(struct side *s, const struct inlay_buf *delta, uint64_t size, size_t piece)
{
	struct rdiff_patch *p;
	int r = 0;

	inlay_buf_fini(&s->out);
	assert_ok(rdiff_patch_new(size, read_old, take, s, &p, &err));
	for (size_t at = 0; r == 0 && at < delta->len; at += piece)
		r = rdiff_patch_feed(p, delta->data + at,
				     delta->len - at < piece ? delta->len - at : piece, &err);
	if (r == 0)
		r = rdiff_patch_end(p, &err);
	rdiff_patch_free(p);
	return r;
}

static void what_differs_travels(void **state)
{
	static const size_t pieces[] = {1, 100, 1 << 20};
	struct side s = {.old = old_bytes, .old_len = OLD_BYTES};
	struct inlay_buf signature, delta;

	(void)state;
	make_signature(&signature);
	make_delta(&delta);
	/* far below librsync's default, which has 32 bytes for each block */
	assert_true(signature.len < 8000);
	assert_true(delta.len < 4000);
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		assert_ok(apply(&s, &delta, sizeof new_bytes, pieces[i]));
		assert_int_equal(s.out.len, sizeof new_bytes);
		assert_memory_equal(s.out.data, new_bytes, sizeof new_bytes);
	}
	inlay_buf_fini(&s.out);
	inlay_buf_fini(&signature);
	inlay_buf_fini(&delta);
}

static void more_than_promised_is_refused(void **state)
{
	struct side s = {.old = old_bytes, .old_len = OLD_BYTES};
	struct inlay_buf delta;

	(void)state;
	make_delta(&delta);
	assert_result(apply(&s, &delta, sizeof new_bytes - 1, 4096), -EPROTO);
	assert_true(s.out.len < sizeof new_bytes);
	assert_result(apply(&s, &delta, sizeof new_bytes + 1, 4096), -EPROTO);
	inlay_buf_fini(&s.out);
	inlay_buf_fini(&delta);
}

static void a_cut_delta_is_refused(void **state)
{
	struct side s = {.old = old_bytes, .old_len = OLD_BYTES};
	struct inlay_buf delta;

	(void)state;
	make_delta(&delta);
	size_t whole = delta.len;
	for (delta.len = 0; delta.len < whole; delta.len += 1 + delta.len / 3)
		assert_result(apply(&s, &delta, sizeof new_bytes, 4096), -EPROTO);
	delta.len = whole;
	inlay_buf_u8(&delta, 0);
	assert_result(apply(&s, &delta, sizeof new_bytes, 1 << 20), -EPROTO);
	inlay_buf_fini(&s.out);
	inlay_buf_fini(&delta);
}

static void an_old_content_that_is_shorter_or_damaged_is_an_error(void **state)
{
	struct side s = {.old = old_bytes, .old_len = 1000};
	struct inlay_buf delta;

	(void)state;
	make_delta(&delta);
	assert_result(apply(&s, &delta, sizeof new_bytes, 4096), -EPROTO);
	s.old_len = OLD_BYTES;
	s.read_fails = true;
	assert_result(apply(&s, &delta, sizeof new_bytes, 4096), -EBADMSG);
	assert_result(rdiff_signature(OLD_BYTES, read_old, take, &s, &err), -EBADMSG);
	inlay_buf_fini(&s.out);
	inlay_buf_fini(&delta);
}

static void check_trim(const uint8_t *now, size_t len, bool want)
{
	struct side s = {.old = old_bytes, .old_len = OLD_BYTES};
	struct inlay_buf delta = {0};

	assert_int_equal(rdiff_trim(old_bytes, OLD_BYTES, now, len, &delta), want);
	if (want) {
		assert_ok(apply(&s, &delta, len, 4096));
		assert_int_equal(s.out.len, len);
		assert_memory_equal(s.out.data, now, len);
	}
	inlay_buf_fini(&s.out);
	inlay_buf_fini(&delta);
}

static void one_place_is_a_copy_a_place_and_a_copy(void **state)
{
	static uint8_t now[OLD_BYTES + 100];

	(void)state;
	memcpy(now, old_bytes, OLD_BYTES);
	check_trim(now, OLD_BYTES, true);
	check_trim(now, OLD_BYTES - 5, true); /* cut */
	memset(now + OLD_BYTES, 'a', 100);
	check_trim(now, OLD_BYTES + 100, true);         /* appended */
	check_trim(old_bytes + 3, OLD_BYTES - 3, true); /* cut at the start */
	now[150000] ^= 1;
	check_trim(now, OLD_BYTES, true); /* one byte */
	now[150000 + 3000] ^= 1;
	check_trim(now, OLD_BYTES, true); /* two that are near */
	now[0] ^= 1;
	check_trim(now, OLD_BYTES, false); /* and one far from them */
	/* repeated bytes: head and tail must not overlap */
	static uint8_t same[OLD_BYTES];
	struct inlay_buf delta = {0};
	assert_true(rdiff_trim(same, sizeof same, same, sizeof same - 7, &delta));
	struct side s = {.old = same, .old_len = sizeof same};
	assert_ok(apply(&s, &delta, sizeof same - 7, 100));
	assert_int_equal(s.out.len, sizeof same - 7);
	inlay_buf_fini(&s.out);
	inlay_buf_fini(&delta);
}

/* The size that the signature is of is known, so no count in it is believed. */
static void absurd_signatures_are_refused(void **state)
{
	struct side s = {0};
	struct inlay_buf signature;
	struct rdiff_delta *d;

	(void)state;
	make_signature(&signature);
	const struct {
		size_t at;
		uint32_t value;
	} bad[] = {{0, 0x72730137}, {0, 0}, {4, 0},  {4, 1}, {4, 0xffffffff},
		   {4, 0x01000001}, {8, 0}, {8, 33}, {8, 1}, {8, 0xffffffff}};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		uint32_t was, is = htobe32(bad[i].value);
		memcpy(&was, signature.data + bad[i].at, 4);
		memcpy(signature.data + bad[i].at, &is, 4);
		assert_result(rdiff_delta_new(signature.data, signature.len, OLD_BYTES, take, &s,
					      &d, &err),
			      -EPROTO);
		memcpy(signature.data + bad[i].at, &was, 4);
	}
	for (size_t cut = 0; cut < signature.len; cut += 1 + cut / 8)
		assert_result(rdiff_delta_new(signature.data, cut, OLD_BYTES, take, &s, &d, &err),
			      -EPROTO);
	assert_result(
		rdiff_delta_new(signature.data, signature.len, OLD_BYTES * 2, take, &s, &d, &err),
		-EPROTO);
	inlay_buf_fini(&signature);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_differs_travels),
		cmocka_unit_test(more_than_promised_is_refused),
		cmocka_unit_test(a_cut_delta_is_refused),
		cmocka_unit_test(an_old_content_that_is_shorter_or_damaged_is_an_error),
		cmocka_unit_test(one_place_is_a_copy_a_place_and_a_copy),
		cmocka_unit_test(absurd_signatures_are_refused),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
