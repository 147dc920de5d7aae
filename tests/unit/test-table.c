/* SPDX-License-Identifier: Apache-2.0 */
/* The node table against a model: names come and go, numbers are never given twice. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "inlay/limits.h"
#include "mount/table.h"

enum { NAMES = 3000, ROUNDS = 60000 };

static struct inlay_error err;

struct modelled {
	uint32_t node, dent;
	uint64_t number;
};

static const char *name_of(int i)
{
	static char text[INLAY_NAME_MAX + 1];

	/* Names of all lengths, so that every size of the arena is used and used again. */
	int len = snprintf(text, sizeof text, "%d-", i);
	memset(text + len, 'x', sizeof text - (size_t)len - 1);
	text[len + i % 200] = 0;
	return text;
}

static void add(struct table *t, uint32_t dir, int i, struct modelled *m)
{
	const char *name = name_of(i);

	assert_ok(table_add_node(t, &m->node, &err));
	assert_ok(table_set_target(t, m->node, name, strlen(name), &err));
	assert_ok(table_add_dent(t, dir, name, strlen(name), m->node, &m->dent, &err));
	m->number = table_number(t, m->node);
}

static void names_come_and_go(void **state)
{
	static struct modelled model[NAMES];
	struct table *t;
	uint64_t last_number = 0;
	struct table_usage usage;
	uint64_t alive = 0;

	(void)state;
	assert_ok(table_new(&t, &err));
	srand(7);
	for (int round = 0; round < ROUNDS; round++) {
		int i = rand() % NAMES;
		const char *name = name_of(i);
		uint32_t dent = table_find(t, TABLE_ROOT, name, strlen(name));
		assert_int_equal(dent, model[i].dent);
		if (!dent) {
			uint64_t before = model[i].number;
			add(t, TABLE_ROOT, i, &model[i]);
			assert_true(model[i].number != before);
			assert_int_equal(table_slot(t, before), 0);
			alive++;
			continue;
		}
		assert_int_equal(table_dent(t, dent)->node, model[i].node);
		assert_int_equal(table_slot(t, model[i].number), model[i].node);
		assert_memory_equal(table_name(t, dent), name, strlen(name));
		assert_memory_equal(table_target(t, model[i].node), name, strlen(name));
		if (rand() % 2) {
			table_remove_dent(t, dent);
			assert_int_equal(table_node(t, model[i].node)->dents, 0);
			table_free_node(t, model[i].node);
			assert_int_equal(table_slot(t, model[i].number), 0);
			last_number = model[i].number;
			model[i].dent = 0;
			alive--;
		}
	}
	assert_int_equal(table_slot(t, last_number), 0);
	table_usage(t, &usage);
	assert_int_equal(usage.nodes, alive + 1);
	assert_int_equal(usage.dents, alive);
	uint64_t children = 0;
	for (uint32_t d = table_node(t, TABLE_ROOT)->children; d;
	     d = table_dent(t, d)->next_sibling)
		children++;
	assert_int_equal(children, alive);
	table_free(t);
}

static void one_name_in_many_directories(void **state)
{
	struct table *t;
	struct modelled dirs[50], leaf[50];

	(void)state;
	assert_ok(table_new(&t, &err));
	for (int i = 0; i < 50; i++) {
		add(t, i ? dirs[i - 1].node : TABLE_ROOT, 1, &dirs[i]);
		add(t, dirs[i].node, 2, &leaf[i]);
	}
	for (int i = 0; i < 50; i++) {
		const char *name = name_of(2);
		uint32_t d = table_find(t, dirs[i].node, name, strlen(name));
		assert_int_equal(d, leaf[i].dent);
		assert_int_equal(table_dent(t, d)->parent, dirs[i].node);
	}
	assert_int_equal(table_find(t, leaf[3].node, "2", 1), 0);
	table_free(t);
}

static void links_are_chained(void **state)
{
	struct table *t;
	struct modelled m;
	uint32_t second;

	(void)state;
	assert_ok(table_new(&t, &err));
	add(t, TABLE_ROOT, 1, &m);
	assert_ok(table_add_dent(t, TABLE_ROOT, "second", 6, m.node, &second, &err));
	table_remove_dent(t, m.dent);
	assert_int_equal(table_node(t, m.node)->dents, second);
	table_remove_dent(t, second);
	assert_int_equal(table_node(t, m.node)->dents, 0);
	table_free(t);
}

static void strange_numbers_are_refused(void **state)
{
	struct table *t;

	(void)state;
	assert_ok(table_new(&t, &err));
	assert_int_equal(table_slot(t, 0), 0);
	assert_int_equal(table_slot(t, TABLE_ROOT), TABLE_ROOT);
	assert_int_equal(table_slot(t, TABLE_ROOT | 1ull << 32), 0);
	assert_int_equal(table_slot(t, 2), 0);
	assert_int_equal(table_slot(t, UINT64_MAX), 0);
	table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_come_and_go),
		cmocka_unit_test(one_name_in_many_directories),
		cmocka_unit_test(links_are_chained),
		cmocka_unit_test(strange_numbers_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
