/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/ruleset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/bytes.h"

void ruleset_unref(struct rule_set *set)
{
	if (!set || __atomic_sub_fetch(&set->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (uint32_t i = 0; i < set->list_count; i++)
		rules_unref(set->lists[i]);
	free(set->lists);
	free(set->live);
	free(set->states);
	free(set);
}
static struct rule_set *set_ref(struct rule_set *set)
{
	(void)__atomic_add_fetch(&set->refs, 1, __ATOMIC_RELAXED);
	return set;
}

static int no_memory(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOMEM, "out of memory");
}

/* ---- the states of a directory ---- */

/* Patterns alive in a new directory, collected. */
struct gathering {
	struct inlay_buf live, states;
};

static void gathering_fini(struct gathering *g)
{
	inlay_buf_fini(&g->live);
	inlay_buf_fini(&g->states);
}
INLAY_DEFINE_FINI(struct gathering, gathering_fini)

/* Room for the state of a pattern; it counts only after gather(). */
static uint64_t *state_room(struct gathering *g, const struct rule *r)
{
	return (uint64_t *)inlay_buf_reserve(&g->states, rule_state_words(r) * sizeof(uint64_t));
}

static void gather(struct gathering *g, uint32_t list, uint32_t number, const struct rule *r)
{
	struct live live = {list, number, (uint32_t)(g->states.len / sizeof(uint64_t))};

	inlay_buf_add(&g->live, &live, sizeof live);
	g->states.len += rule_state_words(r) * sizeof(uint64_t);
}

/* The patterns of a list that starts here. */
static void gather_new(struct gathering *g, uint32_t at, const struct rule_list *list)
{
	for (uint32_t i = 0; i < list->by_path_count; i++) {
		const struct rule *r = &list->rules[list->by_path[i]];
		uint64_t *state = state_room(g, r);
		if (!state)
			return;
		rule_state_start(list, r, state);
		gather(g, at, list->by_path[i], r);
	}
}

/* The patterns of the parent from number `from` on, as far as they belong to the options when
 * `options` is set and to files otherwise. Lists of files have moved by `shift`. */
static void gather_steps(struct gathering *g, const struct rule_set *parent, bool options,
			 uint32_t shift, const char *name, size_t len)
{
	for (uint32_t i = 0; i < parent->live_count; i++) {
		const struct live *live = &parent->live[i];
		const struct rule_list *list = parent->lists[live->list];
		const struct rule *r = &list->rules[live->rule];
		if ((live->list == 0) != options)
			continue;
		uint64_t *state = state_room(g, r);
		if (!state)
			return;
		if (rule_state_step(list, r, parent->states + live->state, name, len, state))
			gather(g, live->list + shift, live->rule, r);
	}
}

static bool same_states(const struct rule_set *set, const struct gathering *g)
{
	return g->live.len == set->live_count * sizeof(struct live) &&
	       g->states.len == set->state_words * sizeof(uint64_t) &&
	       (g->live.len == 0 || (memcmp(g->live.data, set->live, g->live.len) == 0 &&
				     memcmp(g->states.data, set->states, g->states.len) == 0));
}

/* Takes over what was gathered and the references of `lists`. */
static int make_set(struct rule_list *const *lists, uint32_t count, uint64_t fingerprint,
		    struct gathering *g, struct rule_set **ret, struct inlay_error *err)
{
	int r = inlay_buf_check(&g->live, err);

	if (r == 0)
		r = inlay_buf_check(&g->states, err);
	if (r < 0)
		return r;
	auto_of(ruleset_unref) struct rule_set *set = calloc(1, sizeof *set);
	if (!set)
		return no_memory(err);
	set->refs = 1;
	set->lists = calloc(count, sizeof(struct rule_list *));
	if (!set->lists)
		return no_memory(err);
	for (uint32_t i = 0; i < count; i++)
		set->lists[i] = rules_ref(lists[i]);
	set->list_count = count;
	set->fingerprint = fingerprint;
	set->live_count = (uint32_t)(g->live.len / sizeof(struct live));
	set->state_words = (uint32_t)(g->states.len / sizeof(uint64_t));
	set->live = (struct live *)take_ptr(g->live.data);
	set->states = (uint64_t *)take_ptr(g->states.data);
	*ret = take_ptr(set);
	return 0;
}

int ruleset_new(struct rule_list *const *lists, uint32_t count, uint64_t fingerprint,
		struct rule_set **ret, struct inlay_error *err)
{
	auto_of(gathering_fini) struct gathering g = {0};

	for (uint32_t i = 0; i < count; i++)
		gather_new(&g, i, lists[i]);
	return make_set(lists, count, fingerprint, &g, ret, err);
}

int ruleset_below(struct rule_set *above, struct rule_list *const *own, uint32_t count,
		  uint64_t fingerprint, const char *name, size_t len, struct rule_set **ret,
		  struct inlay_error *err)
{
	auto_of(gathering_fini) struct gathering g = {0};
	uint32_t to = 0;

	gather_steps(&g, above, true, 0, name, len);
	for (uint32_t i = 0; i < count; i++)
		gather_new(&g, 1 + i, own[i]);
	gather_steps(&g, above, false, count, name, len);
	if (count == 0 && !g.live.failed && !g.states.failed && same_states(above, &g)) {
		*ret = set_ref(above);
		return 0;
	}
	auto_free struct rule_list **lists =
		calloc(above->list_count + count, sizeof(struct rule_list *));
	if (!lists)
		return no_memory(err);
	lists[to++] = above->lists[0];
	for (uint32_t i = 0; i < count; i++)
		lists[to++] = own[i];
	for (uint32_t i = 1; i < above->list_count; i++)
		lists[to++] = above->lists[i];
	return make_set(lists, to, fingerprint, &g, ret, err);
}

/* ---- matching ---- */

/* The number of the last rule of list `at` that matches. *next is the first living pattern that was
 * not looked at yet; it moves behind those of this list. */
static uint32_t match_list(const struct rule_set *set, uint32_t at, uint32_t *next,
			   const char *name, size_t len, bool is_dir)
{
	const struct rule_list *list = set->lists[at];
	uint32_t best = rules_match_name(list, name, len, is_dir);

	for (; *next < set->live_count && set->live[*next].list == at; ++*next) {
		const struct live *live = &set->live[*next];
		const struct rule *r = &list->rules[live->rule];
		if ((best != RULE_NONE && live->rule < best) || (r->dir_only && !is_dir))
			continue;
		if (rule_state_match(list, r, set->states + live->state, name, len))
			best = live->rule;
	}
	return best;
}

const struct rule *ruleset_match(const struct rule_set *set, const char *name, size_t len,
				 bool is_dir, const struct rule_list **ret_list)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < set->list_count; i++) {
		uint32_t best = match_list(set, i, &next, name, len, is_dir);
		if (best == RULE_NONE)
			continue;
		*ret_list = set->lists[i];
		return &set->lists[i]->rules[best];
	}
	return NULL;
}
