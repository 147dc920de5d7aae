/* SPDX-License-Identifier: Apache-2.0 */
/* Directories in a store: edits, comparisons and walks against a plain list of names as the model. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/idset.h"
#include "inlay/io.h"
#include "inlay/store.h"
#include "inlay/trees.h"

enum { NAMES = 6000 };

static struct inlay_error err;
static char scratch[] = "/tmp/inlay-trees-XXXXXX";
static struct inlay_store *store;
static struct inlay_trees *trees;
static char names[NAMES][16];

/* The model: for each name 0 = not there, otherwise a version of its content. */
typedef uint8_t model[NAMES];

static int put(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
	       struct inlay_error *e)
{
	struct inlay_digest got;

	(void)ctx;
	int r = inlay_store_put(store, bytes, len, &got, e);
	assert_true(r < 0 || inlay_digest_equal(id, &got));
	return r;
}

static struct inlay_entry entry_of(int i, uint8_t version)
{
	struct inlay_entry e = {.name = names[i],
				.name_len = (uint8_t)strlen(names[i]),
				.mode = S_IFREG | 0644,
				.size = version,
				.mtime_ns = version};

	if (i % 7 == 0) {
		e.mode = S_IFLNK | 0777;
		e.target = version == 1 ? "a" : version == 2 ? "bb" : "ccc";
		e.target_len = (uint16_t)strlen(e.target);
		e.size = e.target_len;
	} else {
		inlay_digest_of(&version, 1, &e.id);
	}
	return e;
}

static void build(const model m, struct inlay_digest *ret)
{
	struct inlay_tree_builder b = {0};
	struct inlay_tree_built built;

	for (int i = 0; i < NAMES; i++) {
		struct inlay_entry e = entry_of(i, m[i]);
		if (m[i])
			assert_ok(inlay_tree_builder_add(&b, &e, &err));
	}
	assert_ok(inlay_tree_build(&b, put, NULL, &built, &err));
	inlay_tree_builder_fini(&b);
	*ret = built.id;
}

static int open_store(void **state)
{
	(void)state;
	for (int i = 0; i < NAMES; i++)
		(void)snprintf(names[i], sizeof names[i], "name-%d", i * 37);
	return !mkdtemp(scratch) ||
	       inlay_store_open(AT_FDCWD, scratch, INLAY_STORE_CREATE | INLAY_STORE_WRITE, &store,
				&err) != 0 ||
	       inlay_trees_new(store, 1 << 20, &trees, &err) != 0;
}

static int close_store(void **state)
{
	(void)state;
	inlay_trees_free(trees);
	inlay_store_close(store);
	return inlay_remove_tree(AT_FDCWD, scratch, &err);
}

/* Changes about `rate` in a thousand of the first `span` names. */
static void mutate(const model from, model to, int span, int rate)
{
	memcpy(to, from, NAMES);
	for (int i = 0; i < span; i++)
		if (rand() % 1000 < rate)
			to[i] = (uint8_t)(rand() % 4);
}

struct seen {
	const uint8_t *before, *after;
	model told;
	size_t count;
};

static int number_of(const struct inlay_entry *e)
{
	char text[16];

	assert_true(e->name_len < sizeof text);
	memcpy(text, e->name, e->name_len);
	text[e->name_len] = 0;
	int i = (int)strtol(text + 5, NULL, 10) / 37;
	assert_string_equal(names[i], text);
	return i;
}

static int on_difference(void *ctx, const struct inlay_entry *before,
			 const struct inlay_entry *after, struct inlay_error *e)
{
	struct seen *s = ctx;
	int i = number_of(after ? after : before);

	(void)e;
	assert_int_equal(before ? before->mtime_ns : 0, s->before[i]);
	assert_int_equal(after ? after->mtime_ns : 0, s->after[i]);
	assert_int_equal(s->told[i], 0);
	s->told[i] = 1;
	s->count++;
	return 0;
}

static void check_diff(const model a, const model b, const struct inlay_digest *ia,
		       const struct inlay_digest *ib)
{
	struct seen s = {.before = a, .after = b};
	size_t want = 0;

	assert_ok(inlay_dir_diff(trees, ia, ib, on_difference, &s, &err));
	for (int i = 0; i < NAMES; i++) {
		want += a[i] != b[i];
		assert_int_equal(s.told[i], a[i] != b[i]);
	}
	assert_int_equal(s.count, want);
}

static void check_edit(const model a, const model b, const struct inlay_digest *ia,
		       const struct inlay_digest *ib)
{
	struct inlay_tree_op *ops = calloc(NAMES, sizeof *ops);
	struct inlay_tree_built built;
	size_t count = 0;

	for (int i = 0; i < NAMES; i++)
		if (a[i] != b[i])
			ops[count++] =
				(struct inlay_tree_op){entry_of(i, b[i] ? b[i] : 1), b[i] == 0};
	assert_ok(inlay_tree_edit(trees, ia, ops, count, put, NULL, &built, &err));
	assert_true(inlay_digest_equal(&built.id, ib));
	free(ops);
}

static void check_listing(const model m, const struct inlay_digest *id)
{
	struct inlay_dir dir;
	struct inlay_entry e;
	uint64_t last = 0;
	size_t count = 0, want = 0;
	int r;

	assert_ok(inlay_dir_open(trees, id, &dir, &err));
	while ((r = inlay_dir_next(&dir, &e, &err)) == 0) {
		uint64_t hash = inlay_name_hash(e.name, e.name_len);
		assert_true(count == 0 || hash > last);
		assert_int_equal(m[number_of(&e)], e.mtime_ns);
		last = hash;
		count++;
	}
	assert_int_equal(r, INLAY_TREES_NONE);
	for (int i = 0; i < NAMES; i++)
		want += m[i] != 0;
	assert_int_equal(count, want);
	for (int k = 0; k < 200; k++) {
		int i = rand() % NAMES;
		r = inlay_dir_find(&dir, names[i], strlen(names[i]), &e, &err);
		assert_int_equal(r, m[i] ? 0 : INLAY_TREES_NONE);
		/* A listing goes on behind any name, whether it is there or not. */
		uint64_t hash = inlay_name_hash(names[i], strlen(names[i]));
		assert_ok(inlay_dir_seek(&dir, hash, &err));
		r = inlay_dir_next(&dir, &e, &err);
		if (m[i])
			assert_int_equal(number_of(&e), i);
		else if (r == 0)
			assert_true(inlay_name_hash(e.name, e.name_len) > hash);
	}
	inlay_dir_close(&dir);
}

/* Sizes on both sides of the limits where a directory is split, and edits that cross them. */
static void edits_and_diffs_follow_the_model(void **state)
{
	static const int spans[] = {3, 50, 1365, 1370, 2800, NAMES};
	static model a, b;
	struct inlay_digest ia, ib;

	(void)state;
	srand(42);
	for (size_t s = 0; s < sizeof spans / sizeof *spans; s++) {
		for (int round = 0; round < 6; round++) {
			memset(a, 0, sizeof a);
			mutate(a, a, spans[s], 1000);
			build(a, &ia);
			mutate(a, b, round % 2 ? spans[s] : NAMES,
			       round < 4 ? 2 << 2 * round : 500);
			build(b, &ib);
			check_diff(a, b, &ia, &ib);
			check_diff(b, a, &ib, &ia);
			check_edit(a, b, &ia, &ib);
			check_edit(b, a, &ib, &ia);
			check_listing(b, &ib);
		}
	}
}

static void an_edit_checks_its_ops(void **state)
{
	static model m;
	struct inlay_digest id;
	struct inlay_tree_built built;
	struct inlay_tree_op ops[2] = {{.entry = entry_of(1, 1)}, {.entry = entry_of(1, 2)}};

	(void)state;
	memset(m, 0, sizeof m);
	m[2] = 1;
	build(m, &id);
	assert_result(inlay_tree_edit(trees, &id, ops, 2, put, NULL, &built, &err), -EEXIST);
	ops[0].remove = true;
	assert_result(inlay_tree_edit(trees, &id, ops, 1, put, NULL, &built, &err), -ESTALE);
	ops[0] = (struct inlay_tree_op){.entry = {.name = "..", .name_len = 2, .mode = S_IFREG}};
	assert_result(inlay_tree_edit(trees, &id, ops, 1, put, NULL, &built, &err), -EINVAL);
	inlay_digest_of("nothing", 7, &id);
	ops[0] = (struct inlay_tree_op){.entry = entry_of(1, 1)};
	assert_result(inlay_tree_edit(trees, &id, ops, 1, put, NULL, &built, &err),
		      INLAY_TREES_MISSING);
}

static void one_edit_in_a_large_directory_is_small(void **state)
{
	static model a, b;
	struct inlay_digest ia, ib;
	struct inlay_store_usage before, after;

	(void)state;
	memset(a, 1, sizeof a);
	memset(b, 1, sizeof b);
	b[1234] = 2;
	build(a, &ia);
	assert_ok(inlay_store_usage(store, &before, &err));
	build(b, &ib);
	assert_ok(inlay_store_usage(store, &after, &err));
	assert_int_equal(after.objects - before.objects, 2); /* its bucket and the split node */
	assert_true(after.object_bytes - before.object_bytes < 64 << 10);
}

/* ---- whole trees ---- */

static void tree_of(const char *leaf_content, struct inlay_digest *ret)
{
	struct inlay_tree_builder b = {0};
	struct inlay_tree_built built;
	struct inlay_entry e = {.name = "file", .name_len = 4, .mode = S_IFREG | 0644, .size = 1};

	inlay_digest_of(leaf_content, strlen(leaf_content), &e.id);
	for (int depth = 0; depth < 3; depth++) {
		assert_ok(inlay_tree_builder_add(&b, &e, &err));
		struct inlay_entry same = {.name = "same", .name_len = 4, .mode = S_IFREG | 0644};
		inlay_digest_of("same", 4, &same.id);
		assert_ok(inlay_tree_builder_add(&b, &same, &err));
		assert_ok(inlay_tree_build(&b, put, NULL, &built, &err));
		e = (struct inlay_entry){.name = "dir",
					 .name_len = 3,
					 .mode = S_IFDIR | 0755,
					 .id = built.id,
					 .below = built.below,
					 .subdirs = built.subdirs};
	}
	inlay_tree_builder_fini(&b);
	*ret = built.id;
}

static int collect(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		   const struct inlay_entry *after, struct inlay_error *e)
{
	(void)e;
	inlay_buf_printf(ctx, "%c%.*s ", !before ? '+' : !after ? '-' : 'M', (int)len, path);
	return 0;
}

static void diff_of_trees_names_paths(void **state)
{
	struct inlay_digest a, b;
	struct inlay_buf text = {0};

	(void)state;
	tree_of("a", &a);
	tree_of("b", &b);
	assert_ok(inlay_tree_diff(trees, &a, &b, collect, &text, &err));
	assert_string_equal(inlay_buf_cstr(&text), "Mdir Mdir/dir Mdir/dir/file ");
	inlay_buf_clear(&text);
	assert_ok(inlay_tree_diff(trees, NULL, &a, collect, &text, &err));
	assert_non_null(strstr(inlay_buf_cstr(&text), "+dir/dir/file "));
	assert_non_null(strstr(inlay_buf_cstr(&text), "+same "));
	inlay_buf_fini(&text);
}

static int count_objects(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
			 struct inlay_error *e)
{
	size_t *counts = ctx;

	(void)id;
	(void)size;
	(void)e;
	counts[is_tree]++;
	return 0;
}

static int count_missing(void *ctx, const struct inlay_digest *id, struct inlay_error *e)
{
	(void)id;
	(void)e;
	((size_t *)ctx)[2]++;
	return 0;
}

static void reach_visits_all_and_tells_what_is_missing(void **state)
{
	struct inlay_digest a;
	struct inlay_dir dir;
	struct inlay_entry e;
	size_t counts[3] = {0};

	(void)state;
	tree_of("reach", &a);
	assert_ok(inlay_tree_reach(trees, &a, count_objects, count_missing, counts, &err));
	assert_int_equal(counts[0], 4); /* "file" once, "same" three times */
	assert_int_equal(counts[1], 3);
	assert_int_equal(counts[2], 0);
	assert_ok(inlay_dir_open(trees, &a, &dir, &err));
	assert_ok(inlay_dir_find(&dir, "dir", 3, &e, &err));
	assert_ok(inlay_store_drop(store, &e.id, &err));
	inlay_dir_close(&dir);
	inlay_trees_forget(trees);
	memset(counts, 0, sizeof counts);
	assert_ok(inlay_tree_reach(trees, &a, count_objects, count_missing, counts, &err));
	assert_int_equal(counts[2], 1);
	assert_result(inlay_tree_reach(trees, &a, count_objects, NULL, counts, &err),
		      INLAY_TREES_MISSING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(edits_and_diffs_follow_the_model),
		cmocka_unit_test(an_edit_checks_its_ops),
		cmocka_unit_test(one_edit_in_a_large_directory_is_small),
		cmocka_unit_test(diff_of_trees_names_paths),
		cmocka_unit_test(reach_visits_all_and_tells_what_is_missing),
	};

	return cmocka_run_group_tests(tests, open_store, close_store);
}
