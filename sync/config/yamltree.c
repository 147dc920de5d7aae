/* SPDX-License-Identifier: Apache-2.0 */
#include "config/yamltree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "inlay/text.h"

enum { CHUNK_BYTES = 16 << 10 };

struct chunk {
	struct chunk *next;
	size_t used, size;
	_Alignas(16) unsigned char bytes[];
};

struct yaml_tree {
	struct chunk *chunks;
	size_t nodes;
};

/* ---- memory ---- */

int yaml_tree_new(struct yaml_tree **ret, struct inlay_error *err)
{
	*ret = calloc(1, sizeof **ret);
	return *ret ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

void yaml_tree_free(struct yaml_tree *t)
{
	if (!t)
		return;
	for (struct chunk *c = t->chunks, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	free(t);
}

void *yaml_alloc(struct yaml_tree *t, size_t size)
{
	struct chunk *c = t->chunks;

	size = (size + 15) & ~(size_t)15;
	if (!c || c->size - c->used < size) {
		size_t room = size > CHUNK_BYTES ? size : CHUNK_BYTES;
		c = calloc(1, sizeof *c + room);
		if (!c)
			return NULL;
		c->size = room;
		c->next = t->chunks;
		t->chunks = c;
	}
	void *p = c->bytes + c->used;
	c->used += size;
	return p;
}

char *yaml_dup(struct yaml_tree *t, const char *text, size_t len)
{
	char *copy = yaml_alloc(t, len + 1);

	if (copy)
		memcpy(copy, text, len);
	return copy;
}

/* ---- parsing ---- */

struct parse {
	struct yaml_tree *tree;
	yaml_parser_t parser;
	const char *name;
	struct inlay_error *err;
};

static int bad(struct parse *p, const yaml_mark_t *mark, const char *what)
{
	return inlay_error_set(p->err, -EBADMSG, "%s:%zu:%zu: %s", p->name, mark->line + 1,
			       mark->column + 1, what);
}

static int next_event(struct parse *p, yaml_event_t *ret)
{
	if (yaml_parser_parse(&p->parser, ret))
		return 0;
	if (p->parser.error == YAML_MEMORY_ERROR)
		return inlay_error_set(p->err, -ENOMEM, "out of memory");
	yaml_mark_t at = p->parser.problem_mark;
	/* A reader error (bytes that are no UTF-8) has an offset and no mark. */
	return bad(p, &at, p->parser.problem ? p->parser.problem : "that is no YAML");
}

static int new_node(struct parse *p, const yaml_mark_t *mark, enum yaml_kind kind,
		    struct yaml_node **ret)
{
	if (p->tree->nodes++ >= YAML_NODES_MAX)
		return bad(p, mark, "the file has too many entries");
	struct yaml_node *n = yaml_alloc(p->tree, sizeof *n);
	if (!n)
		return inlay_error_set(p->err, -ENOMEM, "out of memory");
	n->kind = kind;
	n->file = p->name;
	n->line = (unsigned)mark->line + 1;
	n->column = (unsigned)mark->column + 1;
	*ret = n;
	return 0;
}

static int text_node(struct parse *p, const yaml_event_t *e, struct yaml_node **ret)
{
	const char *text = (const char *)e->data.scalar.value;
	size_t len = e->data.scalar.length;

	if (e->data.scalar.anchor || e->data.scalar.tag)
		return bad(p, &e->start_mark, "anchors and tags are not used here");
	if (memchr(text, 0, len))
		return bad(p, &e->start_mark, "a text with a NUL byte");
	int r = new_node(p, &e->start_mark, YAML_TEXT, ret);
	if (r < 0)
		return r;
	(*ret)->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	(*ret)->text = yaml_dup(p->tree, text, len);
	return (*ret)->text ? 0 : inlay_error_set(p->err, -ENOMEM, "out of memory");
}

static int add_item(struct parse *p, struct yaml_node *n, struct yaml_node *key,
		    struct yaml_node *item)
{
	/* Grown by doubling in the arena: what is left behind is at most as much again. */
	if ((n->count & (n->count - 1)) == 0) {
		size_t cap = n->count ? 2 * n->count : 1;
		struct yaml_node **items = yaml_alloc(p->tree, cap * sizeof *items);
		struct yaml_node **keys = yaml_alloc(p->tree, cap * sizeof *keys);
		if (!items || !keys)
			return inlay_error_set(p->err, -ENOMEM, "out of memory");
		if (n->count) {
			memcpy(items, n->items, n->count * sizeof *items);
			memcpy(keys, n->keys, n->count * sizeof *keys);
		}
		n->items = items;
		n->keys = keys;
	}
	n->keys[n->count] = key;
	n->items[n->count++] = item;
	return 0;
}

static int parse_value(struct parse *p, yaml_event_t *e, unsigned depth, struct yaml_node **ret);

/* Up to `end`; in a map every other value is a key. */
static int parse_items(struct parse *p, struct yaml_node *n, yaml_event_type_t end, unsigned depth)
{
	struct yaml_node *key = NULL, *item;

	for (;;) {
		yaml_event_t e;
		int r = next_event(p, &e);
		if (r < 0)
			return r;
		if (e.type == end) {
			yaml_event_delete(&e);
			return 0;
		}
		r = parse_value(p, &e, depth + 1, &item);
		if (r == 0 && n->kind == YAML_LIST) {
			r = add_item(p, n, NULL, item);
		} else if (r == 0 && !key) {
			if (item->kind != YAML_TEXT)
				r = bad(p, &e.start_mark, "a key is not a text");
			else if (yaml_get(n, item->text))
				r = bad(p, &e.start_mark, "this key stands here twice");
			key = item;
		} else if (r == 0) {
			r = add_item(p, n, key, item);
			key = NULL;
		}
		yaml_event_delete(&e);
		if (r < 0)
			return r;
	}
}

static int parse_value(struct parse *p, yaml_event_t *e, unsigned depth, struct yaml_node **ret)
{
	if (depth > YAML_DEPTH_MAX)
		return bad(p, &e->start_mark, "nested too deeply");
	switch (e->type) {
	case YAML_SCALAR_EVENT:
		return text_node(p, e, ret);
	case YAML_SEQUENCE_START_EVENT:
	case YAML_MAPPING_START_EVENT: {
		bool map = e->type == YAML_MAPPING_START_EVENT;
		if (map ? e->data.mapping_start.anchor || e->data.mapping_start.tag
			: e->data.sequence_start.anchor || e->data.sequence_start.tag)
			return bad(p, &e->start_mark, "anchors and tags are not used here");
		int r = new_node(p, &e->start_mark, map ? YAML_MAP : YAML_LIST, ret);
		return r < 0 ? r
			     : parse_items(p, *ret,
					   map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT,
					   depth);
	}
	case YAML_ALIAS_EVENT:
		return bad(p, &e->start_mark, "aliases are not used here");
	default:
		return bad(p, &e->start_mark, "a value is missing");
	}
}

static int parse_file(struct parse *p, struct yaml_node **ret)
{
	bool done = false;

	*ret = NULL;
	while (!done) {
		yaml_event_t e;
		int r = next_event(p, &e);
		if (r < 0)
			return r;
		switch (e.type) {
		case YAML_STREAM_START_EVENT:
		case YAML_DOCUMENT_END_EVENT:
			break;
		case YAML_DOCUMENT_START_EVENT:
			if (*ret)
				r = bad(p, &e.start_mark, "a second document");
			break;
		case YAML_STREAM_END_EVENT:
			done = true;
			break;
		default:
			r = parse_value(p, &e, 0, ret);
		}
		yaml_event_delete(&e);
		if (r < 0)
			return r;
	}
	/* An empty document is an empty text. */
	if (*ret && (*ret)->kind == YAML_TEXT && !(*ret)->quoted && !*(*ret)->text)
		*ret = NULL;
	return 0;
}

int yaml_parse(struct yaml_tree *t, const char *name, const void *bytes, size_t len,
	       struct yaml_node **ret, struct inlay_error *err)
{
	struct parse p = {.tree = t, .err = err};

	if (len > YAML_FILE_MAX)
		return inlay_error_set(err, -E2BIG, "%s is larger than %d bytes", name,
				       YAML_FILE_MAX);
	p.name = yaml_dup(t, name, strlen(name));
	if (!p.name || !yaml_parser_initialize(&p.parser))
		return inlay_error_set(err, -ENOMEM, "out of memory");
	yaml_parser_set_input_string(&p.parser, bytes ? bytes : (const unsigned char *)"", len);
	yaml_parser_set_encoding(&p.parser, YAML_UTF8_ENCODING);
	int r = parse_file(&p, ret);
	yaml_parser_delete(&p.parser);
	return r;
}

/* ---- trees ---- */

struct yaml_node *yaml_get(const struct yaml_node *map, const char *key)
{
	if (!map || map->kind != YAML_MAP)
		return NULL;
	for (size_t i = 0; i < map->count; i++)
		if (strcmp(map->keys[i]->text, key) == 0)
			return map->items[i];
	return NULL;
}

int yaml_merge(struct yaml_tree *t, struct yaml_node *base, struct yaml_node *over,
	       struct yaml_node **ret, struct inlay_error *err)
{
	struct parse p = {.tree = t, .err = err};

	if (!base || !over || base->kind != YAML_MAP || over->kind != YAML_MAP) {
		*ret = over ? over : base;
		return 0;
	}
	struct yaml_node *n = yaml_alloc(t, sizeof *n);
	if (!n)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*n = *base;
	n->count = 0;
	n->items = n->keys = NULL;
	int r = 0;
	for (size_t i = 0; r == 0 && i < base->count; i++) {
		struct yaml_node *item = base->items[i], *merged;
		r = yaml_merge(t, item, yaml_get(over, base->keys[i]->text), &merged, err);
		if (r == 0)
			r = add_item(&p, n, base->keys[i], merged);
	}
	for (size_t i = 0; r == 0 && i < over->count; i++)
		if (!yaml_get(base, over->keys[i]->text))
			r = add_item(&p, n, over->keys[i], over->items[i]);
	*ret = n;
	return r;
}
