/* SPDX-License-Identifier: Apache-2.0 */
#include "config/fields.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "inlay/text.h"

enum {
	NAME_COMPARED_MAX = 40, /* bytes of a name that is compared for a suggestion */
	NAMES_MAX = 64,
	TEXT_MAX = 64 << 10, /* bytes of a text after its variables were put in */
};

/* ---- problems ---- */

void config_problem(struct config_problems *problems, const struct yaml_node *at, const char *fmt,
		    ...)
{
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	if (problems->count++ >= YAML_PROBLEMS_MAX)
		return;
	if (at)
		inlay_buf_printf(&problems->text, "%s:%u:%u: ", at->file, at->line, at->column);
	inlay_text_escape(&problems->text, what, strlen(what));
	inlay_buf_u8(&problems->text, '\n');
}

static unsigned least(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;

	return m < c ? m : c;
}

/* Levenshtein's distance, of short names. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[NAME_COMPARED_MAX + 1];
	size_t la = strnlen(a, NAME_COMPARED_MAX), lb = strnlen(b, NAME_COMPARED_MAX);

	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned before = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned was = row[j];
			row[j] = least(row[j] + 1, row[j - 1] + 1, before + (a[i - 1] != b[j - 1]));
			before = was;
		}
	}
	return row[lb];
}

const char *fields_nearest(const char *name, const char *const *names, size_t count)
{
	const char *best = NULL;
	unsigned at_most = strlen(name) <= 4 ? 1 : 2;

	for (size_t i = 0; i < count; i++) {
		unsigned d = distance(name, names[i]);
		if (d <= at_most) {
			best = names[i];
			at_most = d ? d - 1 : 0;
		}
	}
	return best;
}

static void unknown(struct config_problems *problems, const struct yaml_node *at, const char *kind,
		    const char *const *names, size_t count)
{
	const char *near = fields_nearest(at->text, names, count);

	if (near)
		config_problem(problems, at, "%s '%s' is not known; did you mean '%s'?", kind,
			       at->text, near);
	else
		config_problem(problems, at, "%s '%s' is not known", kind, at->text);
}

/* ---- single values ---- */

static int no_memory(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOMEM, "out of memory");
}

static bool want(const struct field_reader *r, const struct yaml_node *n, enum yaml_kind kind,
		 const char *what)
{
	static const char *const kinds[] = {"a text", "a list", "a map"};

	if (n->kind == kind)
		return true;
	config_problem(r->problems, n, "%s is expected here, not %s", what, kinds[n->kind]);
	return false;
}

/* ${NAME} and ${NAME:-default}; "$$" is a dollar. */
static bool put_variable(const struct field_reader *r, const struct yaml_node *n, const char **at,
			 struct inlay_buf *b)
{
	const char *start = *at + 2, *end = strchr(start, '}');
	const char *dash = end ? memmem(start, (size_t)(end - start), ":-", 2) : NULL;
	size_t len = end ? (size_t)((dash ? dash : end) - start) : 0;
	char name[128];

	if (len == 0 || len >= sizeof name) {
		config_problem(r->problems, n,
			       "'${' begins a variable: ${NAME} or ${NAME:-default}; "
			       "write $$ for a dollar");
		return false;
	}
	memcpy(name, start, len);
	name[len] = 0;
	const char *value = r->variable ? r->variable(r->ctx, name) : NULL;
	if (value && *value)
		inlay_buf_add(b, value, strlen(value));
	else if (dash)
		inlay_buf_add(b, dash + 2, (size_t)(end - dash - 2));
	else
		config_problem(r->problems, n,
			       "the variable %s is not set; ${%s:-...} gives a default", name,
			       name);
	*at = end + 1;
	return true;
}

static int read_text(const struct field_reader *r, const struct yaml_node *n, const char **ret,
		     struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	*ret = "";
	if (!want(r, n, YAML_TEXT, "a text"))
		return 0;
	for (const char *at = n->text; *at;) {
		if (at[0] == '$' && at[1] == '$') {
			inlay_buf_u8(&b, '$');
			at += 2;
		} else if (at[0] == '$' && at[1] == '{') {
			if (!put_variable(r, n, &at, &b))
				return 0;
		} else {
			inlay_buf_u8(&b, (uint8_t)*at++);
		}
	}
	if (b.len > TEXT_MAX) {
		config_problem(r->problems, n, "a text of more than %d bytes", TEXT_MAX);
		return 0;
	}
	*ret = yaml_dup(r->tree, b.len ? (const char *)b.data : "", b.len);
	return b.failed || !*ret ? no_memory(err) : 0;
}

static void read_switch(const struct field_reader *r, const struct yaml_node *n, int *ret)
{
	static const char *const names[] = {"false", "true", "no", "yes", "off", "on"};

	if (!want(r, n, YAML_TEXT, "true or false"))
		return;
	for (int i = 0; i < 6; i++) {
		if (strcmp(n->text, names[i]) == 0) {
			*ret = i % 2 ? CONFIG_YES : CONFIG_NO;
			return;
		}
	}
	config_problem(r->problems, n, "true or false is expected here, not '%s'", n->text);
}

static void read_choice(const struct field_reader *r, const struct yaml_node *n,
			const char *const *choices, unsigned *ret)
{
	size_t count = 0;

	if (!want(r, n, YAML_TEXT, "a text"))
		return;
	for (; choices[count]; count++) {
		if (strcmp(n->text, choices[count]) == 0) {
			*ret = (unsigned)count + 1;
			return;
		}
	}
	unknown(r->problems, n, "the value", choices, count);
}

/* A number, in one of three ways of writing it. */
static void read_number(const struct field_reader *r, const struct yaml_node *n,
			enum field_type type, void *ret)
{
	struct inlay_error why = {0};
	int e;

	if (!want(r, n, YAML_TEXT, type == FIELD_DURATION ? "a duration" : "a number"))
		return;
	if (type == FIELD_DURATION)
		e = inlay_parse_duration(n->text, ret, &why);
	else if (type == FIELD_SIZE)
		e = inlay_parse_size(n->text, ret, &why);
	else
		e = inlay_parse_u64(n->text, ret, &why);
	if (e < 0)
		config_problem(r->problems, n, "%s", why.text);
}

/* ---- lists ---- */

static int read_list_of_texts(const struct field_reader *r, const struct yaml_node *n,
			      struct config_texts *ret, struct inlay_error *err)
{
	const char **items = yaml_alloc(r->tree, (n->count + 2) * sizeof *items);
	int e = 0;

	if (!items)
		return no_memory(err);
	ret->items = items;
	if (n->kind == YAML_TEXT) {
		ret->count = 1;
		return read_text(r, n, &items[0], err);
	}
	for (size_t i = 0; e == 0 && i < n->count; i++)
		e = read_text(r, n->items[i], &items[i], err);
	ret->count = n->count;
	return e;
}

static int read_texts(const struct field_reader *r, const struct yaml_node *n,
		      struct config_texts *ret, struct inlay_error *err)
{
	if (n->kind == YAML_MAP) {
		(void)want(r, n, YAML_LIST, "a list of texts");
		return 0;
	}
	return read_list_of_texts(r, n, ret, err);
}

static int read_command(const struct field_reader *r, const struct yaml_node *n,
			struct config_texts *ret, struct inlay_error *err)
{
	if (n->kind == YAML_TEXT) {
		const char **items = yaml_alloc(r->tree, 4 * sizeof *items);
		if (!items)
			return no_memory(err);
		items[0] = "sh";
		items[1] = "-c";
		/* The shell has variables of its own: nothing is put in here. */
		items[2] = n->text;
		*ret = (struct config_texts){items, 3};
	} else if (want(r, n, YAML_LIST,
			"a command: a text for the shell, or a list of arguments")) {
		int e = read_list_of_texts(r, n, ret, err);
		if (e < 0)
			return e;
	} else {
		return 0;
	}
	if (ret->count == 0 || !*ret->items[ret->count == 3 && n->kind == YAML_TEXT ? 2 : 0])
		config_problem(r->problems, n, "the command is empty");
	return 0;
}

static int read_vars(const struct field_reader *r, const struct yaml_node *n,
		     struct config_texts *ret, struct inlay_error *err)
{
	if (!want(r, n, YAML_MAP, "a map of variables"))
		return 0;
	const char **items = yaml_alloc(r->tree, (n->count + 1) * sizeof *items);
	if (!items)
		return no_memory(err);
	for (size_t i = 0; i < n->count; i++) {
		auto_buf struct inlay_buf b = {0};
		const char *value;
		int e = read_text(r, n->items[i], &value, err);
		if (e < 0)
			return e;
		if (!*n->keys[i]->text || strchr(n->keys[i]->text, '='))
			config_problem(r->problems, n->keys[i], "'%s' is no name of a variable",
				       n->keys[i]->text);
		inlay_buf_printf(&b, "%s=%s", n->keys[i]->text, value);
		items[i] = yaml_dup(r->tree, inlay_buf_cstr(&b), b.len);
		if (b.failed || !items[i])
			return no_memory(err);
	}
	*ret = (struct config_texts){items, n->count};
	return 0;
}

/* ---- objects ---- */

static const struct field *find_field(const struct field *fields, const char *name)
{
	for (const struct field *f = fields; f->name; f++)
		if (strcmp(f->name, name) == 0)
			return f;
	return NULL;
}

static void unknown_key(const struct field_reader *r, const struct field *fields,
			const struct yaml_node *key)
{
	const char *names[NAMES_MAX];
	size_t count = 0;

	for (const struct field *f = fields; f->name && count < NAMES_MAX; f++)
		names[count++] = f->name;
	unknown(r->problems, key, "the key", names, count);
}

static int read_field(const struct field_reader *r, const struct field *f,
		      const struct yaml_node *n, void *to, struct inlay_error *err);

static int read_object(const struct field_reader *r, const struct field *f,
		       const struct yaml_node *n, void *to, struct inlay_error *err)
{
	((struct config_head *)to)->at = n;
	if (f->short_form && n->kind != YAML_MAP) {
		const struct field *one = find_field(f->fields, f->short_form);
		return read_field(r, one, n, (char *)to + one->offset, err);
	}
	return want(r, n, YAML_MAP, "a map") ? fields_read(r, f->fields, n, to, err) : 0;
}

static int read_objects(const struct field_reader *r, const struct field *f,
			const struct yaml_node *n, struct config_objects *ret,
			struct inlay_error *err)
{
	bool map = f->type == FIELD_MAP;

	if (!want(r, n, map ? YAML_MAP : YAML_LIST, map ? "a map of names" : "a list"))
		return 0;
	ret->items = yaml_alloc(r->tree, n->count * f->size + 1);
	if (!ret->items)
		return no_memory(err);
	ret->count = n->count;
	int e = 0;
	for (size_t i = 0; e == 0 && i < n->count; i++) {
		char *item = (char *)ret->items + i * f->size;
		if (map)
			((struct config_head *)item)->name = n->keys[i]->text;
		e = read_object(r, f, n->items[i], item, err);
		if (map)
			((struct config_head *)item)->at = n->keys[i];
	}
	return e;
}

static int read_field(const struct field_reader *r, const struct field *f,
		      const struct yaml_node *n, void *to, struct inlay_error *err)
{
	switch (f->type) {
	case FIELD_TEXT:
		return read_text(r, n, to, err);
	case FIELD_SWITCH:
		read_switch(r, n, to);
		return 0;
	case FIELD_COUNT:
	case FIELD_SIZE:
	case FIELD_DURATION:
		read_number(r, n, f->type, to);
		return 0;
	case FIELD_CHOICE:
		read_choice(r, n, f->choices, to);
		return 0;
	case FIELD_TEXTS:
		return read_texts(r, n, to, err);
	case FIELD_VARS:
		return read_vars(r, n, to, err);
	case FIELD_COMMAND:
		return read_command(r, n, to, err);
	case FIELD_OBJECT:
		return read_object(r, f, n, to, err);
	case FIELD_LIST:
	case FIELD_MAP:
		return read_objects(r, f, n, to, err);
	}
	return 0;
}

int fields_read(const struct field_reader *r, const struct field *fields,
		const struct yaml_node *map, void *ret, struct inlay_error *err)
{
	int e = 0;

	for (size_t i = 0; e == 0 && i < map->count; i++) {
		const struct field *f = find_field(fields, map->keys[i]->text);
		if (f)
			e = read_field(r, f, map->items[i], (char *)ret + f->offset, err);
		else
			unknown_key(r, fields, map->keys[i]);
	}
	for (const struct field *f = fields; e == 0 && f->name; f++)
		if (f->required && !yaml_get(map, f->name))
			config_problem(r->problems, map, "'%s' is missing: %s", f->name, f->help);
	return e;
}
