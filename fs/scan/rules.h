/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_RULES_H
#define SCAN_RULES_H

/*
 * The lines of one ignore file (or of the options, or of the built-in list), compiled. Immutable
 * and reference counted. Pure, no I/O.
 *
 * A pattern is a sequence of components; one of them is either a glob that takes exactly one name,
 * or "**", which takes any number of them. A state of a pattern is the set of components that may
 * come next, kept as bits. Going into a directory makes one step, and a pattern whose set gets
 * empty is dead for everything below. So what a directory has to know about the patterns above it
 * is their states and never a path, and a match looks at one name only.
 *
 * Rules that look at the last name wherever it stands (no slash, or "**" and one glob) have no
 * state at all. They are most of all rules, so they are found through the first or the last byte
 * that a matching name must have.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "scan/glob.h"

struct rule {
	uint32_t line;       /* from 1 */
	uint32_t text;       /* the pattern as written, in rule_list.text */
	uint32_t first_part; /* in rule_list.parts */
	uint32_t part_count; /* name rules: the only part that counts is the last */
	bool negated;
	bool dir_only;
	bool by_name; /* has no state */
};

/* A component: a glob, or "**" when `any` is set. The last one is always a glob. */
struct rule_part {
	struct glob glob;
	bool any;
};

enum { RULE_NONE = UINT32_MAX };

/* Numbers of name rules, the later rules first, by a byte that the name must have. */
struct rule_bucket_table {
	uint32_t start[257]; /* bucket b is start[b] .. start[b + 1] - 1 of rule_list.by_name */
};

struct rule_list {
	unsigned refs;      /* atomic */
	char *source;       /* what inlay_ignore_why.source says */
	uint64_t hash;      /* of the text */
	uint8_t *text;      /* the lines, each ended by a NUL where its pattern ends */
	struct rule *rules; /* later ones win */
	uint32_t rule_count;
	struct rule_part *parts;
	uint8_t *code; /* of the globs */
	/* name rules */
	uint32_t *by_name;
	uint32_t by_name_count;
	uint32_t loose_count;                   /* the first ones of by_name: no byte is fixed */
	struct rule_bucket_table *first, *last; /* NULL while there are few: all are loose then */
	/* rules with a state, the later first */
	uint32_t *by_path;
	uint32_t by_path_count;
	bool numbered; /* lines have numbers that say something */
};

enum rules_flags {
	RULES_FILE = 1 << 0, /* the bytes of a file: byte order mark, line ends, line numbers */
};

/* `source` is copied. -E2BIG above INLAY_IGNORE_FILE_MAX bytes. */
int rules_compile(const char *source, const void *text, size_t len, enum rules_flags flags,
		  struct rule_list **ret, struct inlay_error *err) inlay_must_check;
struct rule_list *rules_ref(struct rule_list *list);
void rules_unref(struct rule_list *list); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct rule_list, rules_unref)

/* The number of the last name rule that matches, RULE_NONE when there is none. */
uint32_t rules_match_name(const struct rule_list *list, const char *name, size_t len, bool is_dir);

/* ---- states of rules that have one ---- */

static inline size_t rule_state_words(const struct rule *r)
{
	return (r->part_count + 63) / 64;
}

/* The state in the directory that the file lies in. */
void rule_state_start(const struct rule_list *list, const struct rule *r, uint64_t *ret);
/* The state inside the subdirectory `name`. False when it is empty. */
bool rule_state_step(const struct rule_list *list, const struct rule *r, const uint64_t *state,
		     const char *name, size_t len, uint64_t *ret);
/* True when the rule matches `name` in a directory with that state. */
bool rule_state_match(const struct rule_list *list, const struct rule *r, const uint64_t *state,
		      const char *name, size_t len);

#endif
