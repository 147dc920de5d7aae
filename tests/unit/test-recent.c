/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "session/recent.h"

static struct inlay_error err;

static struct inlay_digest id(unsigned n)
{
	return (struct inlay_digest){{(uint8_t)n, 1}};
}

/* One step of a file: what the target has at its place, and what it is now; what it is compared with. */
static struct plan_file step(struct recent *r, const char *path, struct inlay_digest before,
			     uint64_t before_size, struct inlay_digest now, uint64_t now_size)
{
	struct plan_file f = {.id = now,
			      .size = now_size,
			      .basis = before,
			      .basis_size = before_size,
			      .path_len = (uint32_t)strlen(path)};
	struct plan p = {.files = &f, .file_count = 1};

	inlay_buf_add(&p.paths, path, strlen(path) + 1);
	assert_ok(recent_apply(r, &p, &err));
	inlay_buf_fini(&p.paths);
	return f;
}

static void lose(struct recent *r, const char *path, struct inlay_digest was, uint64_t size)
{
	struct plan_file f = {.id = was, .size = size, .path_len = (uint32_t)strlen(path)};
	struct plan p = {.lost = &f, .lost_count = 1};

	inlay_buf_add(&p.paths, path, strlen(path) + 1);
	assert_ok(recent_apply(r, &p, &err));
	inlay_buf_fini(&p.paths);
}

static void assert_basis(struct plan_file f, struct inlay_digest want, uint64_t size)
{
	assert_true(inlay_digest_equal(&f.basis, &want));
	assert_int_equal(f.basis_size, size);
}

static void a_file_that_is_written_in_steps(void **state)
{
	struct recent r = {0};

	(void)state;
	assert_basis(step(&r, "a", id(1), 1000, id(2), 0), id(1), 1000); /* emptied */
	assert_basis(step(&r, "a", id(2), 0, id(3), 400), id(1), 1000);  /* half */
	assert_basis(step(&r, "a", id(3), 400, id(6), 600), id(3), 400); /* nearer */
	assert_basis(step(&r, "a", id(6), 600, id(4), 1010), id(1), 1000);
	/* An ordinary edit is compared with what is there. */
	assert_basis(step(&r, "a", id(4), 1010, id(5), 1012), id(4), 1010);
	recent_fini(&r);
}

static void a_file_that_went_and_came_back(void **state)
{
	struct recent r = {0};
	struct inlay_digest none = {0};

	(void)state;
	assert_basis(step(&r, "dir/a", none, 0, id(1), 500), none, 0);
	lose(&r, "dir/a", id(1), 500);
	assert_basis(step(&r, "dir/b", none, 0, id(2), 500), none, 0);
	assert_basis(step(&r, "dir/a", none, 0, id(2), 510), id(1), 500);
	recent_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_that_is_written_in_steps),
		cmocka_unit_test(a_file_that_went_and_came_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
