/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CONFIG_FIELDS_H
#define CONFIG_FIELDS_H

/*
 * From YAML to structs, by tables: one row says what a key is called, what it takes, where it goes and what it is for.
 * The reader, its messages and the JSON schema all come from the same rows.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/yamltree.h"

enum field_type {
	FIELD_TEXT,     /* const char * */
	FIELD_SWITCH,   /* enum config_switch */
	FIELD_COUNT,    /* uint64_t */
	FIELD_SIZE,     /* uint64_t, bytes: "10M" */
	FIELD_DURATION, /* int64_t, ns: "250ms" */
	FIELD_CHOICE,   /* unsigned: 0 = not given, else 1 + the place in `choices` */
	FIELD_TEXTS,    /* struct config_texts: a list of texts, or one text */
	FIELD_VARS,     /* struct config_texts of "NAME=value": a map of texts */
	FIELD_COMMAND,  /* struct config_texts: a list = arguments, a text = for `sh -c` */
	FIELD_OBJECT, /* the struct itself: a map with `fields`; or, with `short_form`, a value for that key */
	FIELD_LIST, /* struct config_objects: a list of maps */
	FIELD_MAP,  /* struct config_objects: a map from names to maps */
};

enum config_switch {
	CONFIG_UNSET = 0,
	CONFIG_NO,
	CONFIG_YES,
};

struct config_texts {
	const char *const *items; /* NULL-terminated */
	size_t count;
};

/* What every struct of FIELD_OBJECT, LIST and MAP begins with. */
struct config_head {
	const char *name;           /* MAP: the key */
	const struct yaml_node *at; /* where it stands; NULL = it was not given */
};

struct config_objects {
	void *items; /* `size` bytes each */
	size_t count;
};

struct field {
	const char *name; /* NULL ends a table */
	enum field_type type;
	size_t offset;
	const char *help;
	bool required;
	const char *const *choices; /* CHOICE; NULL-terminated */
	const struct field *fields; /* OBJECT, LIST, MAP */
	size_t size;                /* LIST, MAP: of an item; OBJECT: of the struct */
	const char *short_form;     /* OBJECT: the key that a value without a map is for */
};

/* What was wrong, in the order of the file. */
struct config_problems {
	struct inlay_buf
		text; /* "file:line:column: what\n" for each of the first YAML_PROBLEMS_MAX */
	size_t count;
};

void config_problem(struct config_problems *problems, const struct yaml_node *at, const char *fmt,
		    ...) inlay_printf(3, 4);

struct field_reader {
	struct yaml_tree *tree;
	struct config_problems *problems;
	/* ${NAME} in a text; NULL = it is not set. */
	const char *(*variable)(void *ctx, const char *name);
	void *ctx;
};

/* Fills *ret (zeroed by the caller) from a map. What is wrong is told to the problems; only -ENOMEM is returned. */
int fields_read(const struct field_reader *reader, const struct field *fields,
		const struct yaml_node *map, void *ret, struct inlay_error *err) inlay_must_check;

/* The one of the names that was probably meant, NULL when none is near. */
const char *fields_nearest(const char *name, const char *const *names, size_t count);

#endif
