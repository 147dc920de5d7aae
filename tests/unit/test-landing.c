/* SPDX-License-Identifier: Apache-2.0 */
/* Where pull writes: never outside of its folder, never over somebody's work. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "session/landing.h"
#include "unit.h"

static char top[64];
static struct inlay_error err;

static const char *at(const char *name)
{
	static char path[4][256];
	static unsigned turn;
	char *p = path[turn++ % 4];

	(void)snprintf(p, sizeof path[0], "%s/%s", top, name);
	return p;
}

static int set_up(void **state)
{
	(void)state;
	strcpy(top, "/tmp/inlay-landing-XXXXXX");
	return mkdtemp(top) && mkdir(at("outside"), 0755) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return inlay_remove_tree(AT_FDCWD, top, &err);
}

static struct landing open_landing(bool force)
{
	struct landing l;

	assert_ok(landing_open(&l, at("home"), at("state"), force, &err));
	return l;
}

static int land(struct landing *l, const char *path, const char *text,
		const struct inlay_digest *synced)
{
	struct landing_file f;

	int r = landing_begin(l, path, &f, &err);
	if (r == 0)
		r = landing_write(&f, text, strlen(text), &err);
	return r < 0 ? r : landing_end(&f, 0104755, 1, synced, &err);
}

static void local(const char *name, const char *text)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	(void)close(fd);
}

static void expect(const char *name, const char *text)
{
	struct inlay_buf b = {0};

	assert_ok(inlay_read_file(AT_FDCWD, at(name), 1000, &b, &err));
	assert_string_equal(inlay_buf_cstr(&b), text);
	inlay_buf_fini(&b);
}

static void paths_with_a_meaning_are_refused(void **state)
{
	static const char *const bad[] = {
		"",  "/",   "/etc/passwd", "..",     "../x",   "a/../b",   "a/..",   "a//b", "a/",
		".", "./a", ".git",        ".git/x", "a/.git", "a/.GIT/x", ".gIt/x", "a/./b"};
	static const char *const good[] = {"a",   "a/b", ".gitignore", "a/.gitx",
					   "...", "..a", "a\nb",       ".inlay-x"};
	char deep[4000];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_false(landing_path_allowed(bad[i], strlen(bad[i])));
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(landing_path_allowed(good[i], strlen(good[i])));
	assert_false(landing_path_allowed("a\0b", 3));
	for (size_t i = 0; i < sizeof deep; i++)
		deep[i] = i % 2 ? '/' : 'd';
	assert_false(landing_path_allowed(deep, sizeof deep - 1));
	memset(deep, 'n', 300);
	assert_false(landing_path_allowed(deep, 256));
	assert_true(landing_path_allowed(deep, 255));
}

static void symlinks_of_the_folder_are_not_followed(void **state)
{
	struct landing l = open_landing(true);

	(void)state;
	assert_int_equal(symlink(at("outside"), at("home/dir")), 0);
	assert_int_equal(symlink(at("outside/file"), at("home/file")), 0);
	assert_true(land(&l, "dir/x", "x", NULL) < 0);
	assert_true(landing_dir(&l, "dir/sub", &err) < 0);
	assert_true(landing_symlink(&l, "dir/l", "t", &err) < 0);
	assert_int_equal(landing_dir(&l, "dir", &err), LANDING_CONFLICT);
	assert_int_equal(land(&l, "file", "x", NULL), LANDING_CHANGED);
	assert_true(access(at("outside/file"), F_OK) < 0 && access(at("outside/x"), F_OK) < 0);
	expect("home/file", "x");
	landing_close(&l);
}

static void nobodys_work_is_overwritten(void **state)
{
	struct inlay_digest synced;
	struct landing l = open_landing(false);
	struct stat st;

	(void)state;
	assert_int_equal(land(&l, "a/b", "one", NULL), LANDING_NEW);
	assert_int_equal(stat(at("home/a/b"), &st), 0);
	assert_int_equal(st.st_mode & 07777 & 07022, 0); /* no set-id bits; the umask counts */
	assert_int_equal(land(&l, "a/b", "one", NULL), LANDING_SAME);
	assert_int_equal(land(&l, "a/b", "two", NULL), LANDING_CHANGED);
	assert_ok(landing_save(&l, &err));
	landing_close(&l);
	/* What an earlier pull brought is remembered. */
	l = open_landing(false);
	assert_int_equal(land(&l, "a/b", "three", NULL), LANDING_CHANGED);
	local("home/a/b", "edited");
	assert_int_equal(land(&l, "a/b", "four", NULL), LANDING_CONFLICT);
	expect("home/a/b", "edited");
	/* What was synced may be replaced. */
	inlay_digest_of("edited", 6, &synced);
	assert_int_equal(land(&l, "a/b", "four", &synced), LANDING_CHANGED);
	local("home/mine", "mine");
	assert_int_equal(landing_symlink(&l, "mine", "t", &err), LANDING_CONFLICT);
	assert_int_equal(landing_dir(&l, "mine", &err), LANDING_CONFLICT);
	expect("home/mine", "mine");
	assert_int_equal(landing_symlink(&l, "link", "/etc", &err), LANDING_NEW);
	assert_int_equal(landing_symlink(&l, "link", "/etc", &err), LANDING_SAME);
	assert_int_equal(landing_symlink(&l, "link", "/usr", &err), LANDING_CONFLICT);
	landing_close(&l);
}

static void what_fails_leaves_nothing(void **state)
{
	struct landing l = open_landing(false);
	struct landing_file f;
	struct inlay_buf b = {0};

	(void)state;
	assert_ok(landing_begin(&l, "x", &f, &err));
	assert_ok(landing_write(&f, "abc", 3, &err));
	landing_drop(&f);
	assert_int_equal(rmdir(at("home")), 0);
	/* A damaged list counts as none. */
	assert_int_equal(mkdir(at("home"), 0755), 0);
	assert_true(landing_decode(&l, "iPUL\1\1", 6, &err) < 0);
	landing_encode(&l, &b);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 1;
		assert_true(landing_decode(&l, b.data, b.len, &err) < 0);
		b.data[i] ^= 1;
	}
	inlay_buf_fini(&b);
	landing_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(paths_with_a_meaning_are_refused, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(symlinks_of_the_folder_are_not_followed, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(nobodys_work_is_overwritten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_fails_leaves_nothing, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
