/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "delta/blocks.h"
#include "inlay/cleanup.h"

enum { SIZE = 700001, ROUNDS = 60 };

static struct inlay_error err;
static uint64_t seed = 1;

static uint32_t random_below(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

static int append(void *ctx, const void *bytes, size_t len, struct inlay_error *e)
{
	inlay_buf_add(ctx, bytes, len);
	return inlay_buf_check(ctx, e);
}

static struct inlay_buf patched;
static const struct inlay_buf *basis;

static int read_basis(void *ctx, void *buf, size_t len, uint64_t off, size_t *ret_n,
		      struct inlay_error *e)
{
	(void)ctx;
	(void)e;
	size_t left = off < basis->len ? basis->len - (size_t)off : 0;
	*ret_n = len < left ? len : left;
	memcpy(buf, basis->data + basis->len - left, *ret_n);
	return 0;
}

static int write_patched(void *ctx, const void *bytes, size_t len, struct inlay_error *e)
{
	(void)ctx;
	return append(&patched, bytes, len, e);
}

static void fill(struct inlay_buf *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
		inlay_buf_u8(b, (uint8_t)random_below(256));
}

static const struct inlay_digest some_id = {{7}};

static void sums_of(const struct inlay_buf *content, struct inlay_buf *ret)
{
	struct blocks_maker m;

	blocks_begin(&m, content->len);
	for (size_t at = 0; at < content->len;) {
		size_t n = 1 + random_below(9000);
		n = n < content->len - at ? n : content->len - at;
		blocks_feed(&m, content->data + at, n);
		at += n;
	}
	assert_int_equal(blocks_encode(&m, &some_id, ret, &err), 0);
	blocks_maker_fini(&m);
}

/* Makes the delta and plays it with librsync itself; how long it is. */
static size_t there_and_back(const struct inlay_buf *old, const struct inlay_buf *now)
{
	struct inlay_buf sums = {0}, delta = {0};
	struct blocks_delta *d;
	struct rdiff_patch *p;
	struct blocks b;

	sums_of(old, &sums);
	assert_int_equal(blocks_decode(sums.data, sums.len, &some_id, &b, &err), 0);
	assert_int_equal(blocks_delta_new(&b, append, &delta, &d, &err), 0);
	for (size_t at = 0; at < now->len;) {
		size_t n = random_below(4) ? 1 + random_below(300000) : 1 + random_below(50);
		n = n < now->len - at ? n : now->len - at;
		assert_int_equal(blocks_delta_feed(d, now->data + at, n, &err), 0);
		at += n;
	}
	assert_int_equal(blocks_delta_end(d, &err), 0);
	blocks_delta_free(d);
	blocks_fini(&b);
	basis = old;
	inlay_buf_clear(&patched);
	assert_int_equal(rdiff_patch_new(now->len, read_basis, write_patched, NULL, &p, &err), 0);
	assert_int_equal(rdiff_patch_feed(p, delta.data, delta.len, &err), 0);
	assert_int_equal(rdiff_patch_end(p, &err), 0);
	rdiff_patch_free(p);
	assert_int_equal(patched.len, now->len);
	assert_memory_equal(patched.data, now->data, now->len);
	size_t len = delta.len;
	inlay_buf_fini(&delta);
	inlay_buf_fini(&sums);
	return len;
}

static void add_range(struct inlay_buf *to, const struct inlay_buf *from, size_t at, size_t len)
{
	inlay_buf_add(to, from->data + at, len);
}

static void edits_cost_their_blocks(void **state)
{
	struct inlay_buf old = {0}, now = {0};

	(void)state;
	fill(&old, SIZE);
	for (int round = 0; round < ROUNDS; round++) {
		size_t edits = random_below(6), at = 0, fresh = 0;
		inlay_buf_clear(&now);
		for (size_t i = 0; i < edits; i++) {
			size_t keep = random_below(SIZE / 6), gone = random_below(40);
			size_t come = random_below(60);
			if (at + keep + gone > SIZE)
				break;
			add_range(&now, &old, at, keep);
			at += keep + (random_below(2) ? gone : come);
			fill(&now, come);
			fresh += come;
		}
		if (at < SIZE)
			add_range(&now, &old, at, SIZE - at);
		if (random_below(3) == 0)
			fill(&now, fresh += 100);
		size_t len = there_and_back(&old, &now);
		assert_true(len <= 100 + fresh + (edits + 1) * (2 * BLOCKS_LENGTH_MIN + 60));
	}
	inlay_buf_fini(&now);
	inlay_buf_fini(&old);
}

static void all_kinds_of_successors(void **state)
{
	struct inlay_buf old = {0}, now = {0}, zeros = {0};

	(void)state;
	fill(&old, SIZE);
	inlay_buf_add(&zeros, old.data, 100);
	(void)inlay_buf_reserve(&zeros, SIZE);
	memset(zeros.data, 0, SIZE);
	zeros.len = SIZE;
	/* the same; one of which everything is new; all the same bytes */
	assert_true(there_and_back(&old, &old) < 100);
	fill(&now, 300000);
	assert_true(there_and_back(&old, &now) >= 300000);
	assert_true(there_and_back(&zeros, &old) > SIZE);
	assert_true(there_and_back(&old, &zeros) > SIZE / 2);
	assert_true(there_and_back(&zeros, &zeros) < 10000);
	/* halves exchanged, a part twice, nothing, one byte, a part of a block */
	inlay_buf_clear(&now);
	add_range(&now, &old, SIZE / 2, SIZE - SIZE / 2);
	add_range(&now, &old, 0, SIZE / 2);
	add_range(&now, &old, 100000, 200000);
	assert_true(there_and_back(&old, &now) < 6 * BLOCKS_LENGTH_MIN);
	for (size_t n = 0; n < 3 * BLOCKS_LENGTH_MIN; n += 1 + n) {
		inlay_buf_clear(&now);
		add_range(&now, &old, 0, n);
		(void)there_and_back(&old, &now);
		if (n > 0)
			(void)there_and_back(&now, &old);
	}
	inlay_buf_fini(&now);
	inlay_buf_fini(&zeros);
	inlay_buf_fini(&old);
	inlay_buf_fini(&patched);
}

static void damaged_sums_are_refused(void **state)
{
	static const struct inlay_digest other = {{8}};
	struct inlay_buf old = {0}, sums = {0};
	struct blocks b;

	(void)state;
	fill(&old, 3 * BLOCKS_LENGTH_MIN + 5);
	sums_of(&old, &sums);
	assert_int_equal(blocks_decode(sums.data, sums.len, &other, &b, &err), -EPROTO);
	for (size_t i = 0; i < sums.len; i++) {
		assert_int_equal(blocks_decode(sums.data, i, &some_id, &b, &err), -EPROTO);
		sums.data[i] ^= 1;
		assert_int_equal(blocks_decode(sums.data, sums.len, &some_id, &b, &err), -EPROTO);
		sums.data[i] ^= 1;
	}
	inlay_buf_u8(&sums, 0);
	assert_int_equal(blocks_decode(sums.data, sums.len, &some_id, &b, &err), -EPROTO);
	inlay_buf_fini(&sums);
	inlay_buf_fini(&old);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(edits_cost_their_blocks),
					   cmocka_unit_test(all_kinds_of_successors),
					   cmocka_unit_test(damaged_sums_are_refused)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
