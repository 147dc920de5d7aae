/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "session/encoded.h"

enum { TAKERS = 8, SMALL = 1000, LARGE = ENCODED_MEMORY + 3 * 65536 + 17, PIECE = 65536 };

static struct encodings all;
static unsigned made, freed;

struct taker {
	pthread_t thread;
	struct encoded_key key;
	size_t size;
	bool fail;
	int result;
	uint64_t sum, got;
};

static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)(at * 2654435761u >> 13);
}

static void free_about(void *about)
{
	free(about);
	__atomic_fetch_add(&freed, 1, __ATOMIC_SEQ_CST);
}

static void make(const struct taker *t, struct encoded *e)
{
	struct inlay_error err = {0};
	uint8_t piece[PIECE];
	uint64_t *about = malloc(sizeof *about);

	__atomic_fetch_add(&made, 1, __ATOMIC_SEQ_CST);
	*about = t->size;
	encoded_begin(e, about, free_about);
	for (uint64_t at = 0; at < t->size;) {
		size_t n = t->size - at < PIECE ? (size_t)(t->size - at) : PIECE;
		for (size_t i = 0; i < n; i++)
			piece[i] = byte_at(at + i);
		if (encoded_append(e, piece, n, &err) < 0)
			break;
		at += n;
	}
	encoded_end(e, !t->fail && err.code == 0);
}

static void *take(void *arg)
{
	struct taker *t = arg;
	struct inlay_error err = {0};
	struct encoded *e;
	uint8_t piece[10000];
	size_t n = 0;

	int r = encodings_get(&all, &t->key, &e, &err);
	if (r == ENCODED_MAKE)
		make(t, e);
	r = encoded_await(e);
	while (r == 0 || r == ENCODED_SLOW) {
		r = encoded_read(e, t->got, piece, sizeof piece, 1000000, &n, &err);
		for (size_t i = 0; r == 0 && i < n; i++)
			t->sum += piece[i] != byte_at(t->got + i);
		t->got += r == 0 ? n : 0;
	}
	t->result = r;
	encoded_unref(e);
	return NULL;
}

static void run(size_t size, bool fail, unsigned keys)
{
	struct taker takers[TAKERS] = {0};

	made = 0;
	for (unsigned i = 0; i < TAKERS; i++) {
		takers[i].size = size;
		takers[i].fail = fail;
		takers[i].key.to.b[0] = (uint8_t)(i % keys);
		takers[i].key.from.b[0] = (uint8_t)(size >> 8);
		assert_int_equal(pthread_create(&takers[i].thread, NULL, take, &takers[i]), 0);
	}
	for (unsigned i = 0; i < TAKERS; i++) {
		assert_int_equal(pthread_join(takers[i].thread, NULL), 0);
		assert_int_equal(takers[i].sum, 0);
		assert_int_equal(takers[i].result, fail ? ENCODED_FAILED : ENCODED_END);
		if (!fail)
			assert_int_equal(takers[i].got, size);
	}
}

static int setup(void **state)
{
	(void)state;
	freed = 0;
	encodings_init(&all, open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)close(all.dir);
	encodings_fini(&all);
	return 0;
}

static void one_makes_it_all_take_it(void **state)
{
	(void)state;
	run(SMALL, false, 1);
	assert_int_equal(made, 1);
	run(LARGE, false, 1);
	assert_int_equal(made, 1);
	run(LARGE + 256, false, 3);
	assert_int_equal(made, 3);
}

static void what_nobody_holds_goes(void **state)
{
	struct encoded_key key = {.level = 3};
	struct encoded *e;

	(void)state;
	for (unsigned i = 0; i < 20; i++)
		run(SMALL + (i << 8), false, 1);
	/* One is let go when the next is made. */
	assert_true(freed >= 20 - ENCODED_KEPT - 1 && freed < 20);
	/* The last is still there, for one who comes late; the first is made anew. */
	key = (struct encoded_key){.from.b[0] = (SMALL + (19 << 8)) >> 8 & 0xff};
	assert_int_equal(encodings_get(&all, &key, &e, NULL), 0);
	encoded_unref(e);
	key.from.b[0] = SMALL >> 8;
	assert_int_equal(encodings_get(&all, &key, &e, NULL), ENCODED_MAKE);
	encoded_end(e, false);
	encoded_unref(e);
}

static void a_failure_is_everybodys_and_is_forgotten(void **state)
{
	(void)state;
	run(SMALL, true, 1);
	run(LARGE, true, 1);
	run(SMALL, false, 1);
	assert_int_equal(made, 1);
}

static void it_can_be_stopped(void **state)
{
	struct encoded_key key = {0};
	struct inlay_error err = {0};
	struct encoded *e;

	(void)state;
	assert_int_equal(encodings_get(&all, &key, &e, &err), ENCODED_MAKE);
	assert_ok(encoded_append(e, "x", 1, &err));
	encodings_stop(&all);
	assert_int_equal(encoded_append(e, "x", 1, &err), -ECANCELED);
	encoded_end(e, false);
	assert_int_equal(encoded_await(e), ENCODED_FAILED);
	encoded_unref(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_makes_it_all_take_it, setup, teardown),
		cmocka_unit_test_setup_teardown(what_nobody_holds_goes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failure_is_everybodys_and_is_forgotten, setup,
						teardown),
		cmocka_unit_test_setup_teardown(it_can_be_stopped, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
