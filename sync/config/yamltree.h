/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CONFIG_YAMLTREE_H
#define CONFIG_YAMLTREE_H

/*
 * A YAML file as a tree that remembers where everything stood. Anchors, aliases, tags and several documents are
 * refused: a configuration does not need them, and they are how small files become large. The only user of
 * libyaml.
 */

#include <stdbool.h>
#include <stddef.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"

enum {
	YAML_FILE_MAX = 1 << 20, /* bytes */
	YAML_DEPTH_MAX = 32,
	YAML_NODES_MAX = 20000,
	YAML_PROBLEMS_MAX = 20, /* that are told; the rest is counted */
};

enum yaml_kind {
	YAML_TEXT,
	YAML_LIST,
	YAML_MAP,
};

struct yaml_node {
	enum yaml_kind kind;
	bool quoted;      /* TEXT: it stood in quotes, so it is a text whatever it looks like */
	const char *text; /* TEXT: without NUL bytes inside */
	const char *file; /* as the user names it */
	unsigned line, column;    /* from 1 */
	struct yaml_node **items; /* LIST, MAP */
	struct yaml_node **keys;  /* MAP: TEXT nodes, each name once */
	size_t count;
};

/* All nodes of some files. They live until it ends. */
struct yaml_tree;

int yaml_tree_new(struct yaml_tree **ret, struct inlay_error *err) inlay_must_check;
void yaml_tree_free(struct yaml_tree *t); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct yaml_tree, yaml_tree_free)

/* `name` is how messages call the file. *ret is NULL for a file without content. -EBADMSG: it is no YAML, or not of the
 * kind above; the text has file, line and column. */
int yaml_parse(struct yaml_tree *t, const char *name, const void *bytes, size_t len,
	       struct yaml_node **ret, struct inlay_error *err) inlay_must_check;

/* The value of a key, NULL when there is none (or the node is no map). */
struct yaml_node *yaml_get(const struct yaml_node *map, const char *key);

/* What `over` says, over what `base` says: maps are merged key by key, all else is replaced. Either may be NULL. */
int yaml_merge(struct yaml_tree *t, struct yaml_node *base, struct yaml_node *over,
	       struct yaml_node **ret, struct inlay_error *err) inlay_must_check;

/* Memory that lives as long as the tree; zeroed. NULL when there is none. */
void *yaml_alloc(struct yaml_tree *t, size_t size);
char *yaml_dup(struct yaml_tree *t, const char *text, size_t len);

#endif
