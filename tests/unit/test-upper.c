/* SPDX-License-Identifier: Apache-2.0 */
/* The upper: the journal's bytes, what a replay gives, torn and damaged journals, names that come and go. */
#include "scratch.h"

#include "inlay/tree.h"
#include "upperkit.h"

static struct inlay_error err;

/* ---- the bytes ---- */

static const struct upper_node dir_image = {.n = 2,
					    .mode = S_IFDIR | 0755,
					    .uid = 3,
					    .gid = 4,
					    .atime_ns = 5,
					    .mtime_ns = 6,
					    .ctime_ns = 7};

static void assignments_have_these_bytes(void **state)
{
	auto_txn struct upper_txn t = {0};
	struct upper_node link = {.n = 300, .mode = S_IFLNK | 0777};
	struct upper_node file = {
		.n = 4, .mode = S_IFREG | 0644, .from = UPPER_OBJECT, .size = 200};
	char target[] = "to";
	static const uint8_t want[] = {
		/* node 2, a directory of its own */
		1, 2, 0, 0xed, 0x41, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0,
		0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
		/* node 300, a symlink */
		1, 0xac, 2, 0, 0xff, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 't', 'o',
		/* names, a whiteout, a drop, xattrs */
		2, 1, 1, 'd', 2, 0, 2, 2, 1, 'w', 0, 1, 3, 1, 1, 'x', 4, 2, 6, 'u', 's', 'e', 'r',
		'.', 'a', 1, 1, 'v', 4, 2, 6, 'u', 's', 'e', 'r', '.', 'a', 0};

	(void)state;
	link.target = target;
	memset(file.id.b, 9, sizeof file.id.b);
	upper_txn_node(&t, &dir_image);
	upper_txn_node(&t, &link);
	upper_txn_name(&t, 1, "d", 1, 2, false);
	upper_txn_name(&t, 2, "w", 1, 0, true);
	upper_txn_drop(&t, 1, "x", 1);
	upper_txn_xattr(&t, 2, "user.a", "v", 1);
	upper_txn_xattr(&t, 2, "user.a", NULL, 0);
	assert_int_equal(t.ops.len, sizeof want);
	assert_memory_equal(t.ops.data, want, sizeof want);
	inlay_buf_clear(&t.ops);
	upper_txn_node(&t, &file);
	/* flags, then behind the times the id and the size */
	assert_int_equal(t.ops.data[2], 1);
	assert_int_equal(t.ops.len, 39 + 32 + 2);
	assert_int_equal(t.ops.data[39], 9);
	assert_memory_equal(t.ops.data + 39 + 32, "\xc8\x01", 2);
	inlay_buf_clear(&t.ops);
	upper_txn_shown(&t, &file.id);
	assert_int_equal(t.ops.len, 1 + 32);
	assert_int_equal(t.ops.data[0], 5);
	assert_memory_equal(t.ops.data + 1, file.id.b, 32);
}

static int64_t append(struct upper *u, const struct upper_txn *t)
{
	int64_t now;

	assert_ok(upper_append(u, t, false, &now, &err));
	assert_ok(upper_apply(u, t->ops.data, t->ops.len, now, &err));
	return now;
}

static void journal_has_these_bytes(void **state)
{
	int dir = scratch_dir(state);
	auto_of(upper_close) struct upper *u = NULL;
	auto_txn struct upper_txn t = {0};
	auto_buf struct inlay_buf file = {0};

	assert_ok(upper_open(dir, false, &u, &err));
	upper_txn_name(&t, 1, "gone", 4, 0, false);
	int64_t now = append(u, &t);
	assert_ok(inlay_read_file(dir, UPPER_JOURNAL, 4096, &file, &err));
	assert_int_equal(file.len, 32 + 48);
	assert_memory_equal(file.data, "inlayupj\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 24);
	assert_int_equal(inlay_get_le64(file.data + 24), inlay_xxh3(file.data, 24));
	const uint8_t *rec = file.data + 32;
	assert_int_equal(inlay_get_le64(rec), inlay_xxh3(rec + 8, 24 + 9));
	assert_memory_equal(rec + 8, "Urec\x9\0\0\0\1\0\0\0\0\0\0\0", 16);
	assert_int_equal((int64_t)inlay_get_le64(rec + 24), now);
	assert_memory_equal(rec + 32, "\2\1\4gone\0\0\0\0\0\0\0\0\0", 16);
}

static void newer_versions_are_refused(void **state)
{
	int dir = scratch_dir(state);
	uint8_t header[32] = "inlayupj\2";
	struct upper *u;

	inlay_put_le64(header + 24, inlay_xxh3(header, 24));
	assert_ok(inlay_replace_file(dir, UPPER_JOURNAL, header, sizeof header, 0600, 0, &err));
	assert_result(upper_open(dir, false, &u, &err), -EPROTONOSUPPORT);
	header[0] = 'x';
	assert_ok(inlay_replace_file(dir, UPPER_JOURNAL, header, sizeof header, 0600, 0, &err));
	assert_result(upper_open(dir, true, &u, &err), -EBADMSG);
}

/* ---- changes of all kinds ---- */

static struct upper_dent *any_dent(struct upper *u, unsigned skip)
{
	struct upper_dent *d = upper_walk(u->root, NULL);

	for (unsigned i = 0; d && i < skip; i++)
		d = upper_walk(u->root, d);
	return d;
}

static struct upper_node *any_dir(struct upper *u, unsigned skip)
{
	struct upper_dent *d = any_dent(u, skip);

	while (d && !(d->node && S_ISDIR(d->node->mode)))
		d = upper_walk(u->root, d);
	return d ? d->node : u->root;
}

static bool is_below(const struct upper_node *node, const struct upper_node *top)
{
	while (node != top && node->in)
		node = node->in->parent;
	return node == top;
}

static void make_any(struct upper *u, struct upper_txn *t, const char *name)
{
	static const mode_t modes[] = {S_IFREG | 0644, S_IFDIR | 0700, S_IFDIR | 0755,
				       S_IFLNK | 0777, S_IFIFO};
	struct upper_node image = {.n = u->next++, .mtime_ns = rand()};
	char target[] = "somewhere";
	unsigned kind = (unsigned)rand() % 5;

	image.mode = modes[kind];
	image.from = kind == 2 ? UPPER_MERGED : kind == 0 && rand() % 2 ? UPPER_OBJECT : UPPER_OWN;
	image.own_attr = kind == 2 && rand() % 4 == 0;
	image.target = kind == 3 ? target : NULL;
	upper_txn_node(t, &image);
	upper_txn_name(t, any_dir(u, (unsigned)rand() % 50)->n, name, strlen(name), image.n,
		       rand() % 2);
}

/* One change that fits to what there is. */
static void change(struct upper *u, struct upper_txn *t)
{
	struct upper_dent *d = any_dent(u, (unsigned)rand() % 60);
	struct upper_node *dir = any_dir(u, (unsigned)rand() % 60);
	char name[16];

	(void)snprintf(name, sizeof name, "n%d", rand() % 40);
	switch (d ? rand() % 6 : 0) {
	case 0:
		make_any(u, t, name);
		break;
	case 1:
		upper_txn_drop(t, d->parent->n, d->name, d->name_len);
		break;
	case 2:
		upper_txn_name(t, dir->n, name, strlen(name), 0, false);
		break;
	case 3: /* a rename; of a directory not below itself */
		if (!d->node || is_below(dir, d->node))
			break;
		uint64_t n = d->node->n, parent = d->parent->n;
		upper_txn_drop(t, parent, d->name, d->name_len);
		upper_txn_name(t, dir->n, name, strlen(name), n, false);
		break;
	case 4:
		if (d->node && !S_ISDIR(d->node->mode))
			upper_txn_name(t, dir->n, name, strlen(name), d->node->n, false);
		break;
	default:
		if (d->node)
			upper_txn_xattr(t, d->node->n, rand() % 2 ? "user.a" : "user.b",
					rand() % 3 ? "value" : NULL, 5);
	}
}

static void expect(struct upper *u, const struct inlay_buf *want)
{
	auto_buf struct inlay_buf now = {0};

	upper_print(u, &now);
	assert_string_equal(inlay_buf_cstr(&now), (const char *)want->data);
	assert_true(upper_counts_are_right(u));
}

static void replay_gives_what_was(void **state)
{
	int dir = scratch_dir(state);
	auto_of(upper_close) struct upper *u = NULL;

	srand(3);
	assert_ok(upper_open(dir, false, &u, &err));
	for (int round = 0; round < 6; round++) {
		for (int i = 0; i < 4000; i++) {
			auto_txn struct upper_txn t = {0};
			change(u, &t);
			if (t.ops.len > 0)
				append(u, &t);
		}
		upper_show(u, &(struct inlay_digest){{(uint8_t)(round + 1)}});
		auto_buf struct inlay_buf want = {0};
		upper_print(u, &want);
		(void)inlay_buf_cstr(&want);
		assert_true(upper_counts_are_right(u));
		uint64_t before = u->end;
		upper_compact(u);
		assert_true(u->end <= before && (round < 3 || u->end < before || u->end < 1 << 20));
		expect(u, &want);
		upper_close(take_ptr(u));
		assert_ok(upper_open(dir, false, &u, &err));
		expect(u, &want);
	}
}

static void what_is_shown_comes_with_the_first_change(void **state)
{
	int dir = scratch_dir(state);
	struct inlay_digest tree = {{7}};
	auto_of(upper_close) struct upper *u = NULL;
	auto_txn struct upper_txn t = {0};

	assert_ok(upper_open(dir, false, &u, &err));
	upper_show(u, &tree);
	assert_int_equal(u->end, UPPER_FILE_HEADER);
	upper_txn_name(&t, 1, "gone", 4, 0, false);
	append(u, &t);
	upper_close(take_ptr(u));
	assert_ok(upper_open(dir, false, &u, &err));
	assert_true(inlay_digest_equal(&u->shown, &tree));
	/* Over what was written before it is told at once. */
	tree.b[0] = 8;
	upper_show(u, &tree);
	upper_close(take_ptr(u));
	assert_ok(upper_open(dir, true, &u, &err));
	assert_true(inlay_digest_equal(&u->shown, &tree));
}

/* ---- journals that are not whole ---- */

static void write_three(int dir, uint64_t ends[static 3])
{
	auto_of(upper_close) struct upper *u = NULL;

	assert_ok(upper_open(dir, false, &u, &err));
	for (unsigned i = 0; i < 3; i++) {
		auto_txn struct upper_txn t = {0};
		char name[2] = {(char)('a' + i), 0};
		upper_txn_name(&t, 1, name, 1, 0, false);
		append(u, &t);
		ends[i] = u->end;
	}
}

static void torn_ends_are_cut(void **state)
{
	int dir = scratch_dir(state);
	uint64_t ends[3];

	write_three(dir, ends);
	for (uint64_t len = ends[2] - 1; len >= 32; len--) {
		auto_of(upper_close) struct upper *u = NULL;
		auto_close int fd = openat(dir, UPPER_JOURNAL, O_RDWR | O_CLOEXEC);
		assert_int_equal(ftruncate(fd, (off_t)len), 0);
		assert_ok(upper_open(dir, false, &u, &err));
		assert_int_equal(u->damaged, 0);
		assert_int_equal(upper_name(u->root, "a", 1) != NULL, len >= ends[0]);
		assert_int_equal(upper_name(u->root, "b", 1) != NULL, len >= ends[1]);
		assert_null(upper_name(u->root, "c", 1));
		assert_int_equal(u->end, len >= ends[1] ? ends[1] : len >= ends[0] ? ends[0] : 32);
	}
}

static void damage_in_the_middle_is_stepped_over(void **state)
{
	int dir = scratch_dir(state);
	uint64_t ends[3];

	write_three(dir, ends);
	put_file(dir, UPPER_FILES "/77", "somebody's only copy");
	auto_close int fd = openat(dir, UPPER_JOURNAL, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "!", 1, (off_t)ends[0] + 34), 1);
	auto_of(upper_close) struct upper *u = NULL;
	assert_ok(upper_open(dir, false, &u, &err));
	assert_int_equal(u->damaged, 1);
	assert_non_null(upper_name(u->root, "a", 1));
	assert_null(upper_name(u->root, "b", 1));
	assert_non_null(upper_name(u->root, "c", 1));
	assert_int_equal(faccessat(dir, UPPER_FILES "/77", F_OK, 0), 0);
	/* Its number is not given again. */
	assert_true(u->next > 77);
}

static void files_that_nobody_names_go(void **state)
{
	int dir = scratch_dir(state);
	uint64_t ends[3];
	struct upper *u;

	write_three(dir, ends);
	put_file(dir, UPPER_FILES "/77", "");
	assert_ok(upper_open(dir, true, &u, &err));
	upper_close(u);
	assert_int_equal(faccessat(dir, UPPER_FILES "/77", F_OK, 0), 0);
	assert_ok(upper_open(dir, false, &u, &err));
	upper_close(u);
	assert_int_equal(faccessat(dir, UPPER_FILES "/77", F_OK, 0), -1);
}

/* ---- what is refused ---- */

static void refuse(struct upper *u, const struct upper_txn *t)
{
	assert_result(upper_apply(u, t->ops.data, t->ops.len, 1, &err), -EBADMSG);
	assert_true(upper_counts_are_right(u));
}

static void what_does_not_fit_is_refused(void **state)
{
	struct upper u;
	struct upper_txn t[8] = {{{0}}};
	struct upper_node other = dir_image;

	(void)state;
	assert_ok(upper_init(&u, &err));
	upper_txn_node(&t[0], &dir_image);
	upper_txn_name(&t[0], 1, "d", 1, 2, false);
	assert_ok(upper_apply(&u, t[0].ops.data, t[0].ops.len, 1, &err));
	upper_txn_name(&t[1], 2, "d", 1, 2, false); /* in itself */
	upper_txn_name(&t[2], 1, "e", 1, 2, false); /* a second name */
	upper_txn_name(&t[3], 1, "e", 1, 9, false); /* of nothing */
	upper_txn_name(&t[4], 1, "a/b", 3, 0, false);
	upper_txn_drop(&t[5], 1, "e", 1);
	other.mode = S_IFREG;
	upper_txn_node(&t[6], &other); /* a directory becomes a file */
	other = dir_image;
	other.n = 1;
	upper_txn_node(&t[7], &other); /* a root that is not over what is synced */
	for (unsigned i = 1; i < 8; i++)
		refuse(&u, &t[i]);
	for (unsigned i = 0; i < 8; i++)
		inlay_buf_fini(&t[i].ops);
	upper_fini(&u);
}

static void deep_trees_end_without_recursion(void **state)
{
	struct upper u;

	(void)state;
	assert_ok(upper_init(&u, &err));
	for (uint64_t i = 0; i < 5000; i++) {
		auto_txn struct upper_txn t = {0};
		struct upper_node image = dir_image;
		image.n = i + 2;
		upper_txn_node(&t, &image);
		upper_txn_name(&t, i + 1, "d", 1, i + 2, true);
		assert_ok(upper_apply(&u, t.ops.data, t.ops.len, 1, &err));
	}
	struct upper_txn t = {0};
	upper_txn_drop(&t, 1, "d", 1);
	assert_ok(upper_apply(&u, t.ops.data, t.ops.len, 1, &err));
	assert_int_equal(u.node_count, 1);
	assert_int_equal(u.dent_count, 0);
	inlay_buf_fini(&t.ops);
	upper_fini(&u);
}

static void a_second_writer_waits_and_gives_up(void **state)
{
	int dir = scratch_dir(state);
	auto_of(upper_close) struct upper *first = NULL;
	struct upper *second;

	assert_ok(upper_open(dir, false, &first, &err));
	assert_result(upper_open(dir, false, &second, &err), -EBUSY);
	assert_ok(upper_open(dir, true, &second, &err));
	upper_close(second);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(assignments_have_these_bytes),
		scratch_test(journal_has_these_bytes),
		scratch_test(newer_versions_are_refused),
		scratch_test(replay_gives_what_was),
		scratch_test(torn_ends_are_cut),
		scratch_test(damage_in_the_middle_is_stepped_over),
		scratch_test(files_that_nobody_names_go),
		scratch_test(what_is_shown_comes_with_the_first_change),
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(deep_trees_end_without_recursion),
		scratch_test(a_second_writer_waits_and_gives_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
