/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_RULESET_H
#define SCAN_RULESET_H

/*
 * What is in force in a directory: the lists, strongest first, and the states of those of their
 * patterns that are alive there. Immutable and reference counted. Most directories change nothing
 * about it and share the set of their parent.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "scan/rules.h"

/* A pattern that has a state, where it is not empty. */
struct live {
	uint32_t list;  /* in rule_set.lists */
	uint32_t rule;  /* in the list */
	uint32_t state; /* in rule_set.states */
};

struct rule_set {
	unsigned refs; /* atomic */
	uint32_t list_count, live_count, state_words;
	uint64_t fingerprint;
	struct rule_list **lists; /* [0] are the options; the built-in list is the last */
	struct live *live;        /* by list, then later rules first */
	uint64_t *states;
};

void ruleset_unref(struct rule_set *set); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct rule_set, ruleset_unref)

/* The set of the root. The lists are referenced, not taken over. */
int ruleset_new(struct rule_list *const *lists, uint32_t count, uint64_t fingerprint,
		struct rule_set **ret, struct inlay_error *err) inlay_must_check;

/* The set of the directory `name` in one where `above` is in force, which has `count` lists of its
 * own, the strongest first. Gives `above` itself when nothing is different. */
int ruleset_below(struct rule_set *above, struct rule_list *const *own, uint32_t count,
		  uint64_t fingerprint, const char *name, size_t len, struct rule_set **ret,
		  struct inlay_error *err) inlay_must_check;

/* The rule that decides about a name, NULL when there is none; *ret_list is its list. */
const struct rule *ruleset_match(const struct rule_set *set, const char *name, size_t len,
				 bool is_dir, const struct rule_list **ret_list);

#endif
