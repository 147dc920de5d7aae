/* SPDX-License-Identifier: Apache-2.0 */
/* kill -9 at random moments: the last acknowledged generation is there, with all its objects. */
#include "storekit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "store/state.h"

enum {
	KILLS = 80,
	KEEP = 3,
	SHARED = 1000000, /* numbers of objects that all generations have */
};

/* Generation k has these objects: some of its own, some of all. */
static size_t own_count(uint64_t k)
{
	return 3 + (size_t)(k * 7 % 20);
}

static size_t size_of(uint64_t number)
{
	return number % 23 == 5 ? 66000 + number % 50000 : number * 37 % 5000;
}

static uint64_t object_of(uint64_t k, size_t i)
{
	return i < own_count(k) ? k * 100 + i : SHARED + i - own_count(k);
}

static size_t count_of(uint64_t k)
{
	return own_count(k) + 10;
}

static bool is_live(void *ctx, const struct inlay_digest *id)
{
	uint64_t newest = *(uint64_t *)ctx;

	for (uint64_t k = newest > KEEP ? newest - KEEP + 1 : 1; k <= newest; k++)
		for (size_t i = 0; i < count_of(k); i++) {
			struct inlay_digest mine =
				kit_id(object_of(k, i), size_of(object_of(k, i)));
			if (inlay_digest_equal(&mine, id))
				return true;
		}
	return false;
}

static void put_generation(struct inlay_store *store, uint64_t k)
{
	struct inlay_generation gen = {.number = k, .parent = k - 1, .origin = "kill"};

	for (size_t i = 0; i < count_of(k); i++)
		(void)kit_put(store, object_of(k, i), size_of(object_of(k, i)));
	assert_ok(inlay_store_sync(store, &err));
	assert_ok(inlay_store_publish(store, "w", &gen, KEEP, k, &err));
}

/* Puts generation after generation and tells each when it is published; first that it is open. */
static void work(int dir, int tell)
{
	struct inlay_store *store = kit_open(dir, "s", KIT_WRITE);
	struct inlay_history *h = NULL;
	struct inlay_store_sweep swept;
	uint64_t k = 1;

	store->pack_max = 100000;
	if (inlay_store_history(store, "w", &h, &err) == 0)
		k = h->gens[0].number + 1;
	free(h);
	static const uint64_t ready;
	if (write(tell, &ready, sizeof ready) != sizeof ready)
		_exit(1);
	for (;; k++) {
		put_generation(store, k);
		if (write(tell, &k, sizeof k) != sizeof k)
			_exit(1);
		if (k % 5 == 0)
			assert_ok(inlay_store_sweep(store, is_live, &k, 0, &swept, &err));
	}
}

/* Kills at a random moment after it has told `wait` times: a slow machine is waited for. */
static uint64_t run_and_kill(int dir, unsigned wait, uint64_t *seed)
{
	int tell[2], status;
	uint64_t k, acked = 0;

	assert_int_equal(pipe2(tell, O_CLOEXEC), 0);
	pid_t child = fork();
	if (child == 0) {
		close(tell[0]);
		work(dir, tell[1]);
	}
	close(tell[1]);
	while (wait > 0 && read(tell[0], &k, sizeof k) == sizeof k) {
		acked = k;
		wait--;
	}
	usleep((useconds_t)(kit_random(seed) % 40000));
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	while (read(tell[0], &k, sizeof k) == sizeof k)
		acked = k;
	close(tell[0]);
	return acked;
}

/* Gives the newest generation. */
static uint64_t check_store(int dir, uint64_t acked)
{
	struct inlay_store *store = NULL;
	struct inlay_history *h = NULL;

	int r = inlay_store_open(dir, "s", INLAY_STORE_WRITE, &store, &err);
	if (r == INLAY_STORE_MISSING) {
		assert_int_equal(acked, 0);
		return 0;
	}
	assert_ok(r);
	r = inlay_store_history(store, "w", &h, &err);
	assert_true(r == 0 || (r == INLAY_STORE_MISSING && acked == 0));
	uint64_t newest = h ? h->gens[0].number : 0;
	assert_true(newest >= acked && newest <= acked + 1);
	for (size_t g = 0; h && g < h->count; g++)
		for (size_t i = 0; i < count_of(h->gens[g].number); i++) {
			uint64_t number = object_of(h->gens[g].number, i);
			kit_assert_has(store, number, size_of(number));
		}
	free(h);
	kit_assert_clean(store);
	kit_assert_no_leftovers(dir, "s");
	inlay_store_close(store);
	return newest;
}

static void acknowledged_survives_kills(void **state)
{
	int dir = kit_dir(state);
	uint64_t seed = kit_seed(4711), newest = 0, unclean = 0;

	for (int i = 0; i < KILLS; i++) {
		uint64_t acked = run_and_kill(dir, (unsigned)i % 3, &seed);
		unclean += acked > newest;
		newest = check_store(dir, acked > newest ? acked : newest);
	}
	print_message("%d kills, generation %llu\n", KILLS, (unsigned long long)newest);
	assert_true(unclean > KILLS / 4); /* not all of them before anything was done */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(acknowledged_survives_kills, kit_setup,
						kit_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
