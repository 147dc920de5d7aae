/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/basis.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"

static struct inlay_error err;
static char dir_name[] = "/tmp/inlay-basis-XXXXXX";
static int dir = -1;

static int setup(void **state)
{
	(void)state;
	memcpy(dir_name, "/tmp/inlay-basis-XXXXXX", sizeof dir_name);
	if (!mkdtemp(dir_name))
		return -1;
	dir = open(dir_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)close(dir);
	return inlay_remove_tree(AT_FDCWD, dir_name, NULL);
}

static struct inlay_digest content(uint8_t *buf, size_t len, unsigned n)
{
	struct inlay_digest id;

	memset(buf, (int)n, len);
	memcpy(buf, &n, sizeof n);
	inlay_digest_of(buf, len, &id);
	return id;
}

static void contents_come_back_also_later(void **state)
{
	struct basis b;
	struct inlay_buf got = {0};
	static uint8_t buf[100000];

	(void)state;
	basis_init(&b, dir, BASIS_DEFAULT_BYTES);
	struct inlay_digest small = content(buf, 5000, 1);
	assert_false(basis_has(&b, &small));
	basis_put(&b, buf, 5000);
	struct inlay_digest large = content(buf, sizeof buf, 2);
	basis_put_begin(&b, sizeof buf, NULL);
	basis_put_bytes(&b, buf, 40000);
	basis_put_bytes(&b, buf + 40000, sizeof buf - 40000);
	basis_put_end(&b, &large);
	basis_put_begin(&b, 7, NULL);
	basis_put_bytes(&b, "dropped", 7);
	basis_put_end(&b, NULL);
	struct inlay_digest dropped;
	inlay_digest_of("dropped", 7, &dropped);
	basis_fini(&b);
	basis_init(&b, dir, BASIS_DEFAULT_BYTES);
	assert_true(basis_has(&b, &small) && basis_has(&b, &large));
	assert_false(basis_has(&b, &dropped));
	inlay_buf_add(&got, "before", 6);
	assert_true(basis_get(&b, &large, &got));
	assert_int_equal(got.len, 6 + sizeof buf);
	assert_memory_equal(got.data + 6, buf, sizeof buf);
	inlay_buf_fini(&got);
	basis_fini(&b);
}

static void the_cap_holds_and_what_is_used_stays(void **state)
{
	enum { CAP = 4 << 20, SIZE = 50000, COUNT = 400 };
	static uint8_t buf[SIZE];
	struct basis b;

	(void)state;
	basis_init(&b, dir, CAP);
	struct inlay_digest used = content(buf, SIZE, 0);
	basis_put(&b, buf, SIZE);
	struct inlay_digest unused = content(buf, SIZE, 1000), last = unused;
	basis_put(&b, buf, SIZE);
	for (unsigned i = 1; i < COUNT; i++) {
		struct inlay_buf got = {0};
		last = content(buf, SIZE, i);
		basis_put(&b, buf, SIZE);
		assert_true(basis_get(&b, &used, &got));
		inlay_buf_fini(&got);
	}
	assert_true(basis_has(&b, &last));
	assert_true(basis_has(&b, &used));
	assert_false(basis_has(&b, &unused));
	struct inlay_store_usage young, old;
	assert_ok(inlay_store_usage(b.young, &young, &err));
	assert_ok(inlay_store_usage(b.old, &old, &err));
	assert_true(young.pack_bytes + old.pack_bytes <= CAP);
	assert_true(young.objects + old.objects > CAP / SIZE / 3);
	basis_fini(&b);
}

static void what_is_too_large_is_not_kept(void **state)
{
	struct basis b;
	static uint8_t buf[1 << 20];

	(void)state;
	basis_init(&b, dir, 4 << 20);
	struct inlay_digest id = content(buf, sizeof buf, 1);
	basis_put(&b, buf, sizeof buf);
	assert_false(basis_has(&b, &id));
	basis_put_begin(&b, BASIS_OBJECT_MAX + 1, NULL);
	basis_put_bytes(&b, buf, sizeof buf);
	basis_put_end(&b, &id);
	basis_fini(&b);
	/* a cap of nothing makes nothing */
	basis_init(&b, dir, 0);
	id = content(buf, 10, 2);
	basis_put(&b, buf, 10);
	assert_false(basis_has(&b, &id));
	basis_fini(&b);
}

/* Bytes of the first pack are destroyed: what they were cannot be had, and nothing else happens. */
static void damage_is_no_content(void **state)
{
	struct basis b;
	struct inlay_buf got = {0};
	static uint8_t buf[5000];

	(void)state;
	basis_init(&b, dir, BASIS_DEFAULT_BYTES);
	struct inlay_digest id = content(buf, sizeof buf, 1);
	basis_put(&b, buf, sizeof buf);
	basis_fini(&b);
	int fd = openat(dir, "basis/packs/00000001.pack", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "damage", 6, 2000), 6);
	(void)close(fd);
	basis_init(&b, dir, BASIS_DEFAULT_BYTES);
	inlay_buf_add(&got, "kept", 4);
	assert_false(basis_get(&b, &id, &got));
	assert_int_equal(got.len, 4);
	/* It can be put again. */
	basis_put(&b, buf, sizeof buf);
	assert_true(basis_get(&b, &id, &got));
	inlay_buf_fini(&got);
	basis_fini(&b);
}

/* It is a cache: it may be deleted or be no store at all. */
static void a_lost_cache_is_made_anew(void **state)
{
	struct basis b;
	static uint8_t buf[5000];
	struct inlay_digest id = content(buf, sizeof buf, 1);

	(void)state;
	assert_int_equal(mkdirat(dir, "basis", 0700), 0);
	int fd = openat(dir, "basis/format", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "nonsense", 8), 8);
	(void)close(fd);
	basis_init(&b, dir, BASIS_DEFAULT_BYTES);
	basis_put(&b, buf, sizeof buf);
	assert_true(basis_has(&b, &id));
	basis_fini(&b);
	assert_ok(inlay_remove_tree(dir, "basis", &err));
	basis_init(&b, dir, BASIS_DEFAULT_BYTES);
	assert_false(basis_has(&b, &id));
	basis_put(&b, buf, sizeof buf);
	assert_true(basis_has(&b, &id));
	basis_fini(&b);
}

enum { THREADS = 3, STEPS = 300 };

struct worker {
	struct basis *b;
	unsigned first;
};

static void *work(void *arg)
{
	const struct worker *w = arg;
	uint8_t buf[20000];

	for (unsigned i = 0; i < STEPS; i++) {
		struct inlay_buf got = {0};
		struct inlay_digest id = content(buf, sizeof buf, w->first + i);
		basis_put(w->b, buf, sizeof buf);
		/* Another thread may have pushed it out; but what comes is right. */
		if (basis_get(w->b, &id, &got) &&
		    (got.len != sizeof buf || memcmp(got.data, buf, sizeof buf) != 0))
			abort();
		inlay_buf_fini(&got);
	}
	return NULL;
}

static void threads_share_it(void **state)
{
	struct basis b;
	struct worker workers[THREADS];
	pthread_t threads[THREADS];

	(void)state;
	basis_init(&b, dir, 1 << 20);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){&b, i * STEPS};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_non_null(b.old);
	basis_fini(&b);
}

static void the_size_can_be_configured(void **state)
{
	uint64_t size;

	(void)state;
	(void)unsetenv("INLAY_BASIS_SIZE");
	assert_ok(basis_configured(&size, &err));
	assert_true(size == BASIS_DEFAULT_BYTES);
	(void)setenv("INLAY_BASIS_SIZE", "0", 1);
	assert_ok(basis_configured(&size, &err));
	assert_int_equal(size, 0);
	(void)setenv("INLAY_BASIS_SIZE", "much", 1);
	assert_result(basis_configured(&size, &err), -EINVAL);
	assert_non_null(strstr(err.text, "INLAY_BASIS_SIZE"));
	(void)unsetenv("INLAY_BASIS_SIZE");
}

static struct inlay_digest put_large(struct basis *b, const uint8_t *buf, size_t len,
				     const struct inlay_digest *old)
{
	struct inlay_digest id;

	inlay_digest_of(buf, len, &id);
	basis_put_begin(b, len, old);
	for (size_t at = 0; at < len; at += 50000)
		basis_put_bytes(b, buf + at, len - at < 50000 ? len - at : 50000);
	basis_put_end(b, &id);
	return id;
}

/* Of what is too large to be kept: sums, and what its successor has that is new. */
static void successors_of_large_ones(void **state)
{
	static uint8_t buf[3 << 20];
	struct inlay_buf delta = {0};
	struct blocks sums;
	struct basis b;

	(void)state;
	for (size_t i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)(i * i >> 7);
	basis_init(&b, dir, 1 << 20);
	struct inlay_digest first = put_large(&b, buf, sizeof buf, NULL);
	assert_true(!basis_has(&b, &first) && basis_has_blocks(&b, &first));
	buf[1000000] ^= 1;
	struct inlay_digest second = put_large(&b, buf, sizeof buf, &first);
	assert_false(basis_get_delta(&b, &second, &first, &delta));
	assert_true(basis_get_delta(&b, &first, &second, &delta));
	assert_true(delta.len > BLOCKS_LENGTH_MIN && delta.len < BLOCKS_LENGTH_MIN + 100);
	/* much of it is new; there is nothing of the old one; the sums stay */
	for (size_t i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)((i * 2654435761u) >> 13);
	struct inlay_digest third = put_large(&b, buf, sizeof buf, &second);
	assert_false(basis_get_delta(&b, &second, &third, &delta));
	struct inlay_digest unknown = {{1}}, fourth = put_large(&b, buf, sizeof buf - 1, &unknown);
	assert_false(basis_get_delta(&b, &unknown, &fourth, &delta));
	basis_fini(&b);
	basis_init(&b, dir, 1 << 20);
	assert_false(basis_get_delta(&b, &first, &second, &delta));
	assert_true(basis_get_blocks(&b, &third, &sums) && sums.size == sizeof buf);
	blocks_fini(&sums);
	/* so many, and no more */
	for (unsigned i = 0; i < BASIS_BLOCKS_FILES + 3; i++) {
		memcpy(buf, &i, sizeof i);
		fourth = put_large(&b, buf, 200000, NULL);
	}
	assert_true(basis_has_blocks(&b, &fourth) && !basis_has_blocks(&b, &first));
	basis_fini(&b);
	inlay_buf_fini(&delta);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(contents_come_back_also_later, setup, teardown),
		cmocka_unit_test_setup_teardown(the_cap_holds_and_what_is_used_stays, setup,
						teardown),
		cmocka_unit_test_setup_teardown(what_is_too_large_is_not_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(damage_is_no_content, setup, teardown),
		cmocka_unit_test_setup_teardown(a_lost_cache_is_made_anew, setup, teardown),
		cmocka_unit_test_setup_teardown(threads_share_it, setup, teardown),
		cmocka_unit_test_setup_teardown(successors_of_large_ones, setup, teardown),
		cmocka_unit_test(the_size_can_be_configured),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
