/* SPDX-License-Identifier: Apache-2.0 */
/* Every call that can fail does so once: an error, nothing leaked, no rule lost in silence. */
#include "faults.h"
#include "scratch.h"

#include <errno.h>

#include "inlay/ignore.h"

static struct inlay_error err;

static int rules_of_two_directories(int dir, int sub, bool *ret_right)
{
	static const char *const patterns[] = {"/sub/x", "*.o"};
	const struct inlay_ignore_options options = {.patterns = patterns, .pattern_count = 2};
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = NULL;
	auto_of(inlay_ignore_unref) struct inlay_ignore *inner = NULL;
	int r = inlay_ignore_root(dir, &options, &rules, &err);

	if (r == 0)
		r = inlay_ignore_enter(rules, sub, "sub", 3, true, true, &inner, &err);
	if (r < 0)
		return r;
	*ret_right = inlay_ignore_match(rules, "a.o", 3, false, NULL) &&
		     inlay_ignore_match(rules, "k7", 2, false, NULL) &&
		     inlay_ignore_match(inner, "x", 1, false, NULL) &&
		     inlay_ignore_match(inner, "deep", 4, false, NULL) &&
		     inlay_ignore_match(inner, "in", 2, false, NULL) &&
		     !inlay_ignore_match(inner, "k1", 2, false, NULL);
	return 0;
}

static void every_call_may_fail(void **state)
{
	static const enum fault kinds[] = {FAULT_MEMORY, FAULT_OPEN, FAULT_STAT, FAULT_READ};
	int dir = scratch_dir(state);

	put_dir(dir, "sub");
	put_file(dir, ".gitignore", "k1\nk2\nk3\nk4\nk5\nk6\nk7\nk8\nk9\n/sub/**/deep\n");
	put_file(dir, ".inlayignore", "/sub/in\n");
	put_file(dir, "sub/.gitignore", "!k1\n");
	put_file(dir, "sub/.inlayignore", "a/b\n");
	auto_close int sub = open_dir(dir, "sub");
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		unsigned n = 1;
		for (;; n++) {
			bool right = false;
			unsigned fds = count_fds();
			fault_arm(kinds[k], n, kinds[k] == FAULT_MEMORY ? ENOMEM : EIO);
			int r = rules_of_two_directories(dir, sub, &right);
			bool reached = fault_disarm();
			assert_int_equal(count_fds(), fds);
			assert_true(r == 0 ? right
					   : r == (kinds[k] == FAULT_MEMORY ? -ENOMEM : -EIO));
			if (!reached) {
				assert_int_equal(r, 0);
				break;
			}
			assert_true(r < 0);
		}
		print_message("%s: %u calls\n", fault_names[kinds[k]], n - 1);
		assert_true(n > 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {scratch_test(every_call_may_fail)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
