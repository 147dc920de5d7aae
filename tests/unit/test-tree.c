/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/idset.h"
#include "inlay/tree.h"

static struct inlay_error err;

/* All objects of a directory, as a store would get them. */
struct objects {
	struct inlay_buf bytes[80];
	struct inlay_digest ids[80];
	size_t count;
};

static int keep(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		struct inlay_error *e)
{
	struct objects *o = ctx;

	(void)e;
	assert_true(o->count < 80);
	inlay_buf_add(&o->bytes[o->count], bytes, len);
	o->ids[o->count++] = *id;
	return 0;
}

static void forget(struct objects *o)
{
	for (size_t i = 0; i < o->count; i++)
		inlay_buf_fini(&o->bytes[i]);
	o->count = 0;
}

static struct inlay_entry file_entry(const char *name, uint64_t size)
{
	struct inlay_entry e = {.name = name,
				.name_len = (uint8_t)strlen(name),
				.mode = S_IFREG | 0644,
				.size = size,
				.mtime_ns = 1700000000123456789};
	inlay_digest_of(name, strlen(name), &e.id);
	return e;
}

/* One of each kind, with every extension. */
static void add_sample(struct inlay_tree_builder *b)
{
	struct inlay_entry e = file_entry("README.md", 1234);
	assert_ok(inlay_tree_builder_add(b, &e, &err));
	e = file_entry("src", 0);
	e.mode = S_IFDIR | 0755;
	e.subdirs = 2;
	e.below = (struct inlay_tree_totals){7, 9000};
	assert_ok(inlay_tree_builder_add(b, &e, &err));
	e = (struct inlay_entry){.name = "link",
				 .name_len = 4,
				 .mode = S_IFLNK | 0777,
				 .target = "../elsewhere",
				 .target_len = 12,
				 .mtime_ns = -5};
	assert_ok(inlay_tree_builder_add(b, &e, &err));
	e = file_entry("ping\n\xff", 64);
	e.mode = S_IFREG | 04755;
	e.uid = 1000;
	e.gid = 50;
	e.link_group = 77;
	inlay_digest_of("xattrs", 6, &e.xattrs);
	assert_ok(inlay_tree_builder_add(b, &e, &err));
}

static void build_sample(struct objects *o, struct inlay_tree_built *built)
{
	struct inlay_tree_builder b = {0};

	add_sample(&b);
	assert_ok(inlay_tree_build(&b, keep, o, built, &err));
	inlay_tree_builder_fini(&b);
}

static void entries_come_back(void **state)
{
	struct objects o = {0};
	struct inlay_tree_built built;
	struct inlay_tree t;
	struct inlay_entry e;

	(void)state;
	build_sample(&o, &built);
	assert_int_equal(o.count, 1);
	assert_ok(inlay_tree_decode(o.bytes[0].data, o.bytes[0].len, &t, &err));
	assert_int_equal(t.count, 4);
	assert_int_equal(t.subdirs, 1);
	assert_int_equal(t.below.entries, 4 + 7);
	assert_int_equal(t.below.bytes, 1234 + 64 + 9000);
	assert_int_equal(built.below.entries, 11);
	assert_true(inlay_tree_find(&t, "ping\n\xff", 6, &e));
	assert_int_equal(e.mode, S_IFREG | 04755);
	assert_int_equal(e.uid, 1000);
	assert_int_equal(e.gid, 50);
	assert_int_equal(e.link_group, 77);
	assert_false(inlay_digest_is_zero(&e.xattrs));
	assert_true(inlay_tree_find(&t, "link", 4, &e));
	assert_int_equal(e.target_len, 12);
	assert_memory_equal(e.target, "../elsewhere", 12);
	assert_int_equal(e.mtime_ns, -5);
	assert_true(inlay_tree_find(&t, "src", 3, &e));
	assert_int_equal(e.subdirs, 2);
	assert_int_equal(e.below.bytes, 9000);
	assert_false(inlay_tree_find(&t, "lin", 3, &e));
	assert_false(inlay_tree_find(&t, "linkk", 5, &e));
	forget(&o);
}

/* The bytes are a promise to every store that exists: this id may only change with the version. */
static void encoding_is_pinned(void **state)
{
	struct objects o = {0};
	struct inlay_tree_built built;
	char hex[INLAY_DIGEST_HEX];

	(void)state;
	build_sample(&o, &built);
	inlay_digest_hex(&built.id, hex);
	assert_string_equal(hex,
			    "b8a03afbc00f66d9998a554cc794a51b7c077e5e7890bd363dd235013dd27933");
	assert_int_equal(o.bytes[0].len, 40 + 4 * 64 + 9 + 3 + 23 + 4 + 15 + 6 + 11 + 35 + 11);
	assert_memory_equal(o.bytes[0].data, "iTRE\1\1\0\0\4\0\0\0", 12);
	forget(&o);
}

static void order_of_adding_does_not_matter(void **state)
{
	struct inlay_tree_built one, two;
	struct inlay_tree_builder b = {0};
	char names[50][8];

	(void)state;
	for (int i = 0; i < 50; i++) {
		(void)snprintf(names[i], sizeof names[i], "f%d", i);
		struct inlay_entry e = file_entry(names[i], 1);
		assert_ok(inlay_tree_builder_add(&b, &e, &err));
	}
	assert_ok(inlay_tree_build(&b, NULL, NULL, &one, &err));
	for (int i = 49; i >= 0; i--) {
		struct inlay_entry e = file_entry(names[i], 1);
		assert_ok(inlay_tree_builder_add(&b, &e, &err));
	}
	assert_ok(inlay_tree_build(&b, NULL, NULL, &two, &err));
	assert_true(inlay_digest_equal(&one.id, &two.id));
	inlay_tree_builder_fini(&b);
}

static void bad_entries_are_refused(void **state)
{
	struct inlay_tree_builder b = {0};
	static const char *const names[] = {"", ".", "..", "a/b"};
	char longest[257];

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct inlay_entry e = file_entry(names[i], 1);
		assert_result(inlay_tree_builder_add(&b, &e, &err), -EINVAL);
	}
	struct inlay_entry e = file_entry("nul", 1);
	e.name = "a\0b";
	assert_result(inlay_tree_builder_add(&b, &e, &err), -EINVAL);
	e = file_entry("fifo", 0);
	e.mode = S_IFIFO | 0600;
	assert_result(inlay_tree_builder_add(&b, &e, &err), -EINVAL);
	memset(longest, 'n', 256);
	longest[256] = 0;
	assert_true(inlay_name_valid(longest, 255));
	assert_false(inlay_name_valid(longest, 256));
	e = file_entry("twice", 1);
	assert_ok(inlay_tree_builder_add(&b, &e, &err));
	assert_ok(inlay_tree_builder_add(&b, &e, &err));
	struct inlay_tree_built built;
	assert_result(inlay_tree_build(&b, NULL, NULL, &built, &err), -EEXIST);
	inlay_tree_builder_fini(&b);
}

static void build_many(size_t count, struct objects *o, struct inlay_tree_built *built)
{
	struct inlay_tree_builder b = {0};
	char(*names)[8] = calloc(count, sizeof *names);

	for (size_t i = 0; i < count; i++) {
		(void)snprintf(names[i], sizeof names[i], "f%zu", i);
		struct inlay_entry e = file_entry(names[i], 10);
		assert_ok(inlay_tree_builder_add(&b, &e, &err));
	}
	assert_ok(inlay_tree_build(&b, keep, o, built, &err));
	inlay_tree_builder_fini(&b);
	free(names);
}

static void large_directories_are_split(void **state)
{
	struct objects o = {0};
	struct inlay_tree_built built;
	struct inlay_tree t, leaf;

	(void)state;
	build_many(INLAY_TREE_SPLIT, &o, &built);
	assert_int_equal(o.count, 1);
	forget(&o);
	build_many(10000, &o, &built);
	assert_int_equal(o.count, 33); /* 32 buckets, then the split node */
	assert_true(inlay_digest_equal(&o.ids[32], &built.id));
	assert_ok(inlay_tree_decode(o.bytes[32].data, o.bytes[32].len, &t, &err));
	assert_true(t.split);
	assert_int_equal(t.bits, 5);
	assert_int_equal(t.own, 10000);
	assert_int_equal(t.below.bytes, 100000);
	size_t seen = 0;
	uint64_t last = 0;
	for (uint32_t i = 0; i < t.count; i++) {
		struct inlay_digest id;
		assert_true(inlay_tree_bucket(&t, i, &id));
		assert_true(inlay_digest_equal(&id, &o.ids[i]));
		assert_ok(inlay_tree_decode(o.bytes[i].data, o.bytes[i].len, &leaf, &err));
		for (uint32_t k = 0; k < leaf.count; k++) {
			struct inlay_entry e;
			inlay_tree_entry(&leaf, k, &e);
			uint64_t hash = inlay_name_hash(e.name, e.name_len);
			assert_true(hash >> 59 == i);
			assert_true(seen == 0 || hash > last);
			last = hash;
			assert_int_equal(inlay_tree_seek(&leaf, hash), k);
			assert_int_equal(inlay_tree_seek(&leaf, hash + 1), k + 1);
			seen++;
		}
	}
	assert_int_equal(seen, 10000);
	forget(&o);
}

/* A changed byte is refused, or it is one of the fields that say something about the entry only. */
static void damage_is_found_or_harmless(void **state)
{
	struct objects o = {0};
	struct inlay_tree_built built;
	size_t refused = 0;

	(void)state;
	build_sample(&o, &built);
	uint8_t *bytes = o.bytes[0].data;
	size_t len = o.bytes[0].len;
	for (size_t i = 0; i < len; i++) {
		for (int bit = 0; bit < 8; bit++) {
			struct inlay_tree t;
			bytes[i] ^= (uint8_t)(1 << bit);
			if (inlay_tree_decode(bytes, len, &t, &err) < 0)
				refused++;
			else
				for (uint32_t k = 0; k < t.count; k++) {
					struct inlay_entry e;
					inlay_tree_entry(&t, k, &e);
					assert_true(inlay_name_valid(e.name, e.name_len));
				}
			bytes[i] ^= (uint8_t)(1 << bit);
		}
	}
	assert_true(refused > len * 8 / 3);
	for (size_t cut = 0; cut < len; cut++) {
		struct inlay_tree t;
		uint8_t *copy = malloc(cut ? cut : 1);
		memcpy(copy, bytes, cut);
		assert_result(inlay_tree_decode(copy, cut, &t, &err), -EBADMSG);
		free(copy);
	}
	bytes[4] = 2;
	struct inlay_tree t;
	assert_result(inlay_tree_decode(bytes, len, &t, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "version 2"));
	forget(&o);
}

static void sets_number_their_members(void **state)
{
	struct inlay_idset set = {0};
	struct inlay_digest d;

	(void)state;
	assert_int_equal(inlay_idset_number(&set, &(struct inlay_digest){{1}}), -1);
	for (int i = 0; i < 1000; i++) {
		inlay_digest_of(&i, sizeof i, &d);
		assert_ok(inlay_idset_add(&set, &d, &err));
		assert_result(inlay_idset_add(&set, &d, &err), INLAY_IDSET_THERE);
	}
	for (int i = 0; i < 1000; i++) {
		inlay_digest_of(&i, sizeof i, &d);
		assert_int_equal(inlay_idset_number(&set, &d), i);
	}
	inlay_idset_fini(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_come_back),
		cmocka_unit_test(encoding_is_pinned),
		cmocka_unit_test(order_of_adding_does_not_matter),
		cmocka_unit_test(bad_entries_are_refused),
		cmocka_unit_test(large_directories_are_split),
		cmocka_unit_test(damage_is_found_or_harmless),
		cmocka_unit_test(sets_number_their_members),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
