/* SPDX-License-Identifier: Apache-2.0 */
/* What has no counterpart in git, and errors. That patterns mean what they mean to git is shown by
 * property/ignore-like-git.py. */
#include "scratch.h"

#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>

#include "inlay/ignore.h"
#include "inlay/limits.h"

static struct inlay_error err;

static struct inlay_ignore *root_rules(int dir, const struct inlay_ignore_options *options)
{
	struct inlay_ignore *rules = NULL;

	assert_ok(inlay_ignore_root(dir, options, &rules, &err));
	return rules;
}

static struct inlay_ignore *below(struct inlay_ignore *parent, int dir, const char *name, bool git,
				  bool inlay)
{
	struct inlay_ignore *rules = NULL;

	assert_ok(inlay_ignore_enter(parent, dir, name, strlen(name), git, inlay, &rules, &err));
	return rules;
}

static bool file_out(const struct inlay_ignore *rules, const char *name)
{
	return inlay_ignore_match(rules, name, strlen(name), false, NULL);
}

static bool dir_out(const struct inlay_ignore *rules, const char *name)
{
	return inlay_ignore_match(rules, name, strlen(name), true, NULL);
}

static void builtin_list_leaves_out_what_is_temporary(void **state)
{
	static const char *const out[] = {
		".git",
		".a.swp",
		".a.swx",
		".a.swo",
		".a.swn",
		"a~",
		"4913",
		".#a",
		"#a#",
		".a.kate-swp",
		".inlay",
		"a-go-tmp-umask",
		"a.c___jb_tmp___",
		"a.c___jb_old___",
	};
	static const char *const in[] = {
		"a.swp",      "swp",     "~a",         "#a",    "49130",
		".gitignore", ".github", "a.kate-swp", ".idea", ".swpx",
	};
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules =
		root_rules(scratch_dir(state), NULL);

	for (size_t i = 0; i < sizeof out / sizeof *out; i++)
		assert_true(file_out(rules, out[i]));
	for (size_t i = 0; i < sizeof in / sizeof *in; i++)
		assert_false(file_out(rules, in[i]));
	assert_true(dir_out(rules, ".git"));
	auto_of(inlay_ignore_unref) struct inlay_ignore *sub = below(rules, -1, "d", false, false);
	assert_true(file_out(sub, ".git"));
	assert_false(file_out(sub, ".inlay")); /* only at the root */
	struct inlay_ignore_why why;
	assert_true(inlay_ignore_match(sub, "x~", 2, false, &why));
	assert_string_equal(why.source, "built-in");
	assert_string_equal(why.pattern, "*~");
	assert_int_equal(why.line, 0);
}

static void user_rules_take_back_the_builtin_ones_but_one(void **state)
{
	static const char *const patterns[] = {"!*", "!/.inlay"};
	int dir = scratch_dir(state);

	put_file(dir, ".gitignore", "!.git\n");
	auto_of(inlay_ignore_unref) struct inlay_ignore *a = root_rules(dir, NULL);
	assert_false(dir_out(a, ".git"));
	assert_true(file_out(a, "x~"));
	auto_of(inlay_ignore_unref) struct inlay_ignore *b = root_rules(
		dir, &(struct inlay_ignore_options){.patterns = patterns, .pattern_count = 2});
	assert_false(file_out(b, "x~"));
	assert_true(dir_out(b, ".inlay"));
	struct inlay_ignore_why why;
	assert_true(inlay_ignore_match(b, ".inlay", 6, true, &why));
	assert_string_equal(why.pattern, "/.inlay");
	auto_of(inlay_ignore_unref) struct inlay_ignore *c =
		root_rules(dir, &(struct inlay_ignore_options){.no_builtin = true});
	assert_false(file_out(c, "x~"));
	assert_true(file_out(c, ".inlay"));
}

static void later_sources_win(void **state)
{
	static const char *const patterns[] = {"*.a", "!k.a", "# no rule", "sub/o  "};
	const struct inlay_ignore_options options = {.patterns = patterns, .pattern_count = 4};
	int dir = scratch_dir(state);
	struct inlay_ignore_why why;

	put_dir(dir, "sub");
	put_file(dir, ".gitignore", "*.b\n!*.c\n*.d\n!k.a\n");
	put_file(dir, ".inlayignore", "\n!*.b\n*.c\n");
	put_file(dir, "sub/.gitignore", "!*.d\n!x.a\n*.e\n");
	put_file(dir, "sub/.inlayignore", "y.d\n");
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = root_rules(dir, &options);
	assert_false(inlay_ignore_match(rules, "x.b", 3, false, &why));
	assert_string_equal(why.source, ".inlayignore");
	assert_string_equal(why.pattern, "!*.b");
	assert_int_equal(why.line, 2);
	assert_true(why.negated);
	assert_true(file_out(rules, "x.c"));
	assert_true(file_out(rules, "x.d"));
	assert_false(file_out(rules, "x.e"));
	assert_true(inlay_ignore_match(rules, "x.a", 3, false, &why));
	assert_string_equal(why.source, "--exclude");
	assert_false(file_out(rules, "k.a"));
	assert_false(inlay_ignore_match(rules, "nothing", 7, false, &why));
	assert_null(why.pattern);

	auto_close int fd = open_dir(dir, "sub");
	auto_of(inlay_ignore_unref) struct inlay_ignore *sub = below(rules, fd, "sub", true, true);
	assert_true(file_out(sub, "x.a")); /* options win over the deepest file */
	assert_true(file_out(sub, "o"));
	assert_false(file_out(sub, "x.d"));
	assert_true(inlay_ignore_match(sub, "y.d", 3, false, &why));
	assert_string_equal(why.source, "sub/.inlayignore");
	assert_true(file_out(sub, "x.e"));
	assert_true(file_out(sub, "x.c")); /* still the root's */
}

static void gitignore_can_be_left_unread(void **state)
{
	const struct inlay_ignore_options options = {.no_gitignore = true};
	int dir = scratch_dir(state);

	put_dir(dir, "sub");
	put_file(dir, ".gitignore", "a\n");
	put_file(dir, ".inlayignore", "b\n");
	put_file(dir, "sub/.gitignore", "c\n");
	auto_close int fd = open_dir(dir, "sub");
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = root_rules(dir, &options);
	auto_of(inlay_ignore_unref) struct inlay_ignore *sub = below(rules, fd, "sub", true, false);
	assert_false(file_out(rules, "a"));
	assert_true(file_out(rules, "b"));
	assert_false(file_out(sub, "c"));
}

/* A listing may be older than what is opened now. */
static void file_that_went_away_is_no_error(void **state)
{
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules =
		root_rules(scratch_dir(state), NULL);
	auto_of(inlay_ignore_unref) struct inlay_ignore *sub =
		below(rules, scratch_dir(state), "sub", true, true);

	assert_false(file_out(sub, "a"));
}

static void refuse(int dir, int want, const char *text)
{
	struct inlay_ignore *rules = NULL;
	unsigned fds = count_fds();

	assert_result(inlay_ignore_root(dir, NULL, &rules, &err), want);
	if (!strstr(err.text, text))
		fail_msg("'%s' is not in '%s'", text, err.text);
	assert_null(rules);
	assert_int_equal(count_fds(), fds);
}

static void what_is_no_file_is_refused_by_name(void **state)
{
	int dir = scratch_dir(state);

	put_file(dir, "real", "x\n");
	assert_int_equal(symlinkat("real", dir, ".gitignore"), 0);
	refuse(dir, -ELOOP, ".gitignore: ");
	assert_int_equal(unlinkat(dir, ".gitignore", 0), 0);
	assert_int_equal(mkfifoat(dir, ".inlayignore", 0644), 0);
	refuse(dir, -EINVAL, ".inlayignore: the ignore rules are not a regular file");
	assert_int_equal(unlinkat(dir, ".inlayignore", 0), 0);
	put_dir(dir, ".gitignore");
	refuse(dir, -EINVAL, ".gitignore: ");
}

static void place_of_a_bad_file_is_told_escaped(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_ignore *ret = NULL;

	put_dir(dir, "a\n");
	put_dir(dir, "a\n/\xff");
	put_dir(dir, "a\n/\xff/.gitignore");
	auto_close int one = open_dir(dir, "a\n");
	auto_close int two = open_dir(one, "\xff");
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = root_rules(dir, NULL);
	auto_of(inlay_ignore_unref) struct inlay_ignore *sub =
		below(rules, one, "a\n", false, false);
	assert_result(inlay_ignore_enter(sub, two, "\xff", 1, true, false, &ret, &err), -EINVAL);
	assert_non_null(strstr(err.text, "a\\n/\\xff/.gitignore: "));
}

static void limits_hold_at_their_last_byte(void **state)
{
	int dir = scratch_dir(state);
	auto_free char *text = malloc(INLAY_IGNORE_FILE_MAX + 2);

	assert_non_null(text);
	memset(text, '#', INLAY_IGNORE_FILE_MAX + 1);
	text[INLAY_IGNORE_FILE_MAX + 1] = 0;
	put_file(dir, ".gitignore", text);
	refuse(dir, -E2BIG, ".gitignore: ");
	memcpy(text + INLAY_IGNORE_FILE_MAX - 3, "\nxy", 4);
	put_file(dir, ".gitignore", text);
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = root_rules(dir, NULL);
	assert_true(file_out(rules, "xy"));
	assert_int_equal(unlinkat(dir, ".gitignore", 0), 0);
	memset(text, 'a', INLAY_IGNORE_FILE_MAX + 1);
	const char *patterns[] = {text};
	struct inlay_ignore_options options = {.patterns = patterns, .pattern_count = 1};
	struct inlay_ignore *ret = NULL;
	assert_result(inlay_ignore_root(dir, &options, &ret, &err), -E2BIG);

	char name[INLAY_NAME_MAX + 1];
	memset(name, 'n', sizeof name);
	assert_false(inlay_ignore_match(rules, name, INLAY_NAME_MAX, false, NULL));
	assert_ok(inlay_ignore_enter(rules, -1, name, INLAY_NAME_MAX, false, false, &ret, &err));
	inlay_ignore_unref(ret);
	assert_result(inlay_ignore_enter(rules, -1, name, sizeof name, false, false, &ret, &err),
		      -E2BIG);
}

static void unreadable_file_is_an_error(void **state)
{
	int dir = scratch_dir(state);

	put_file(dir, ".gitignore", "a\n");
	assert_int_equal(fchmodat(dir, ".gitignore", 0, 0), 0);
	assert_int_equal(fchmod(dir, 0755), 0);
	pid_t child = fork();
	if (child == 0) {
		struct inlay_ignore *rules = NULL;
		if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
			_exit(2);
		int r = inlay_ignore_root(dir, NULL, &rules, &err);
		_exit(r == -EACCES && strstr(err.text, ".gitignore: ") ? 0 : 1);
	}
	int status;
	assert_true(waitpid(child, &status, 0) == child);
	assert_int_equal(status, 0);
}

static void fingerprint_follows_the_rules_in_force(void **state)
{
	int dir = scratch_dir(state);

	put_dir(dir, "d");
	auto_close int fd = open_dir(dir, "d");
	auto_of(inlay_ignore_unref) struct inlay_ignore *none = root_rules(dir, NULL);
	auto_of(inlay_ignore_unref) struct inlay_ignore *none_d =
		below(none, fd, "d", false, false);
	assert_true(inlay_ignore_fingerprint(none) == inlay_ignore_fingerprint(none_d));

	put_file(dir, "d/.gitignore", "/a\n");
	auto_of(inlay_ignore_unref) struct inlay_ignore *low = below(none, fd, "d", true, false);
	put_file(dir, ".gitignore", "/a\n");
	auto_of(inlay_ignore_unref) struct inlay_ignore *top = root_rules(dir, NULL);
	auto_of(inlay_ignore_unref) struct inlay_ignore *top_d = below(top, fd, "d", false, false);
	/* The same lines in another place mean something else. */
	assert_true(inlay_ignore_fingerprint(low) != inlay_ignore_fingerprint(none));
	assert_true(inlay_ignore_fingerprint(low) != inlay_ignore_fingerprint(top_d));
	assert_int_equal(renameat(dir, "d/.gitignore", dir, "d/.inlayignore"), 0);
	auto_of(inlay_ignore_unref) struct inlay_ignore *other = below(none, fd, "d", false, true);
	assert_true(inlay_ignore_fingerprint(other) != inlay_ignore_fingerprint(low));
	const char *patterns[] = {"x"};
	auto_of(inlay_ignore_unref) struct inlay_ignore *opt = root_rules(
		dir, &(struct inlay_ignore_options){.patterns = patterns, .pattern_count = 1});
	assert_true(inlay_ignore_fingerprint(opt) != inlay_ignore_fingerprint(top));
}

/* More than 64 components, so that a state takes more than one word. */
static void long_patterns_keep_their_state(void **state)
{
	char pattern[1000] = "", *at = pattern;
	const char *patterns[] = {pattern, "**/z/**/z/**/end"};

	(void)state;
	for (int i = 0; i < 150; i++)
		at += sprintf(at, "d%d/", i);
	(void)sprintf(at, "last");
	struct inlay_ignore_options options = {.patterns = patterns, .pattern_count = 2};
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules =
		root_rules(scratch_dir(state), &options);
	for (int i = 0; i < 150; i++) {
		char name[16];
		(void)sprintf(name, "d%d", i);
		assert_false(file_out(rules, "last"));
		struct inlay_ignore *next = below(rules, -1, name, false, false);
		inlay_ignore_unref(rules);
		rules = next;
	}
	assert_true(file_out(rules, "last"));
	assert_false(file_out(rules, "end"));
	for (int i = 0; i < 2; i++) {
		struct inlay_ignore *next = below(rules, -1, "z", false, false);
		inlay_ignore_unref(rules);
		rules = next;
		assert_true(file_out(rules, "end") == (i == 1));
	}
	assert_false(file_out(rules, "last"));
}

/* git's own algorithm needs exponential time for the like. */
static void hostile_patterns_take_bounded_time(void **state)
{
	char stars[1200] = "", *at = stars, deep[2000] = "", name[256];
	const char *patterns[] = {stars, deep};

	for (int i = 0; i < 250; i++)
		at += sprintf(at, "*a");
	(void)sprintf(at, "b");
	at = deep;
	for (int i = 0; i < 200; i++)
		at += sprintf(at, "**/a/");
	(void)sprintf(at, "b");
	memset(name, 'a', 255);
	struct inlay_ignore_options options = {.patterns = patterns, .pattern_count = 2};
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules =
		root_rules(scratch_dir(state), &options);
	clock_t start = clock();
	for (int i = 0; i < 300; i++) {
		assert_false(inlay_ignore_match(rules, name, 255, false, NULL));
		struct inlay_ignore *next = below(rules, -1, "a", false, false);
		inlay_ignore_unref(rules);
		rules = next;
	}
	assert_true(file_out(rules, "b"));
	assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
}

static void *match_for_a_while(void *arg)
{
	struct inlay_ignore *rules = arg;

	for (int i = 0; i < 2000; i++) {
		struct inlay_ignore *sub = NULL;
		if (!file_out(rules, "x.o") || file_out(rules, "x.c"))
			return rules;
		if (inlay_ignore_enter(rules, -1, "sub", 3, false, false, &sub, NULL) < 0)
			return rules;
		bool wrong = !file_out(sub, "only-here");
		inlay_ignore_unref(sub);
		if (wrong)
			return rules;
	}
	return NULL;
}

static void threads_share_rules(void **state)
{
	int dir = scratch_dir(state);
	pthread_t threads[4];
	void *wrong;

	put_file(dir, ".gitignore", "*.o\n/sub/only-here\n");
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = root_rules(dir, NULL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, match_for_a_while, rules), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
}

static void deep_directories_are_let_go_without_recursion(void **state)
{
	struct inlay_ignore *rules = root_rules(scratch_dir(state), NULL), *ret = NULL;

	for (int i = 0; i <= INLAY_DEPTH_MAX; i++) {
		struct inlay_ignore *next = below(rules, -1, "d", false, false);
		inlay_ignore_unref(rules);
		rules = next;
	}
	assert_result(inlay_ignore_enter(rules, -1, "d", 1, false, false, &ret, &err), -E2BIG);
	inlay_ignore_unref(rules);
	inlay_ignore_unref(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		scratch_test(builtin_list_leaves_out_what_is_temporary),
		scratch_test(user_rules_take_back_the_builtin_ones_but_one),
		scratch_test(later_sources_win),
		scratch_test(gitignore_can_be_left_unread),
		scratch_test(file_that_went_away_is_no_error),
		scratch_test(what_is_no_file_is_refused_by_name),
		scratch_test(place_of_a_bad_file_is_told_escaped),
		scratch_test(limits_hold_at_their_last_byte),
		scratch_test(unreadable_file_is_an_error),
		scratch_test(fingerprint_follows_the_rules_in_force),
		scratch_test(long_patterns_keep_their_state),
		scratch_test(hostile_patterns_take_bounded_time),
		scratch_test(threads_share_rules),
		scratch_test(deep_directories_are_let_go_without_recursion),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
