/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/rules.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/digest.h"
#include "inlay/ignore.h"
#include "scan/pattern.h"

enum {
	FEW_RULES = 8, /* are looked at one by one: the tables would cost more than they save */
};

struct rule_list *rules_ref(struct rule_list *list)
{
	/* Whoever gives a reference holds one, so nothing has to be ordered. */
	(void)__atomic_add_fetch(&list->refs, 1, __ATOMIC_RELAXED);
	return list;
}

void rules_unref(struct rule_list *list)
{
	/* The last one must see what the others did before they let go. */
	if (!list || __atomic_sub_fetch(&list->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	free(list->source);
	free(list->text);
	free(list->rules);
	free(list->parts);
	free(list->code);
	free(list->by_name);
	free(list->by_path);
	free(list->first);
	free(list->last);
	free(list);
}

/* ---- lines ---- */

struct compiler {
	struct inlay_buf rules, parts, code;
};

static void compiler_fini(struct compiler *c)
{
	inlay_buf_fini(&c->rules);
	inlay_buf_fini(&c->parts);
	inlay_buf_fini(&c->code);
}
INLAY_DEFINE_FINI(struct compiler, compiler_fini)

/* Spaces at the end do not count, unless a backslash stands before them; tabs do. */
static size_t without_spaces(const uint8_t *p, size_t len)
{
	size_t keep = 0;

	for (size_t i = 0; i < len; i++) {
		if (p[i] == '\\')
			i++;
		else if (p[i] == ' ')
			continue;
		keep = i + 1;
	}
	return keep < len ? keep : len;
}

/* `line` has `len` bytes and room for a NUL behind them. */
static void add_line(struct compiler *c, struct rule_list *list, uint8_t *line, size_t len,
		     uint32_t number)
{
	struct rule rule = {.line = number, .text = (uint32_t)(line - list->text)};

	if (len == 0 || line[0] == '#')
		return;
	/* A NUL ends the line for git, which works with C strings. */
	len = without_spaces(line, strnlen((const char *)line, len));
	line[len] = 0;
	rule.first_part = (uint32_t)(c->parts.len / sizeof(struct rule_part));
	if (pattern_parse(line, len, &c->parts, &c->code, &rule))
		inlay_buf_add(&c->rules, &rule, sizeof rule);
}

static void add_lines(struct compiler *c, struct rule_list *list, size_t len,
		      enum rules_flags flags)
{
	uint8_t *at = list->text, *end = list->text + len;
	uint32_t number = 1;

	if ((flags & RULES_FILE) && len >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
		at += 3;
	for (; at < end; number++) {
		uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
		if (!stop)
			stop = end;
		size_t line = (size_t)(stop - at);
		/* '#' is looked for before the carriage return is cut, as git does: the same thing. */
		if ((flags & RULES_FILE) && line > 0 && at[line - 1] == '\r')
			line--;
		add_line(c, list, at, line, number);
		at = stop + 1;
	}
}

/* ---- the tables ---- */

static const struct glob *name_glob(const struct rule_list *list, const struct rule *r)
{
	return &list->parts[r->first_part + r->part_count - 1].glob;
}

enum bucket_by { BY_NOTHING, BY_LAST, BY_FIRST };

static enum bucket_by bucket_of(const struct rule_list *list, const struct rule *r, uint8_t *ret)
{
	const struct glob *g = name_glob(list, r);

	if (g->last >= 0) {
		*ret = (uint8_t)g->last;
		return BY_LAST;
	}
	*ret = (uint8_t)(g->first >= 0 ? g->first : 0);
	return g->first >= 0 ? BY_FIRST : BY_NOTHING;
}

/* A counting sort: stable, and the rules come in falling order. */
static void fill_table(struct rule_list *list, struct rule_bucket_table *table, enum bucket_by by,
		       uint32_t base)
{
	uint32_t next[256];
	uint8_t b;

	for (uint32_t i = 0; i < list->rule_count; i++)
		if (list->rules[i].by_name && bucket_of(list, &list->rules[i], &b) == by)
			table->start[b + 1]++;
	table->start[0] = base;
	for (size_t k = 0; k < 256; k++) {
		next[k] = table->start[k];
		table->start[k + 1] += table->start[k];
	}
	for (uint32_t i = list->rule_count; i-- > 0;)
		if (list->rules[i].by_name && bucket_of(list, &list->rules[i], &b) == by)
			list->by_name[next[b]++] = i;
}

static bool tabulate(struct rule_list *list)
{
	bool few = list->by_name_count <= FEW_RULES;
	uint32_t paths = 0;
	uint8_t b;

	list->by_name = calloc(list->by_name_count + 1u, sizeof *list->by_name);
	list->by_path = calloc(list->by_path_count + 1u, sizeof *list->by_path);
	if (!list->by_name || !list->by_path)
		return false;
	for (uint32_t i = list->rule_count; i-- > 0;) {
		const struct rule *r = &list->rules[i];
		if (!r->by_name)
			list->by_path[paths++] = i;
		else if (few || bucket_of(list, r, &b) == BY_NOTHING)
			list->by_name[list->loose_count++] = i;
	}
	if (few)
		return true;
	list->first = calloc(1, sizeof *list->first);
	list->last = calloc(1, sizeof *list->last);
	if (!list->first || !list->last)
		return false;
	fill_table(list, list->last, BY_LAST, list->loose_count);
	fill_table(list, list->first, BY_FIRST, list->last->start[256]);
	return true;
}

static bool take_compiled(struct rule_list *list, struct compiler *c)
{
	list->rules = (struct rule *)take_ptr(c->rules.data);
	list->parts = (struct rule_part *)take_ptr(c->parts.data);
	list->code = take_ptr(c->code.data);
	list->rule_count = (uint32_t)(c->rules.len / sizeof(struct rule));
	for (uint32_t i = 0; i < list->rule_count; i++) {
		list->by_name_count += list->rules[i].by_name;
		list->by_path_count += !list->rules[i].by_name;
	}
	return tabulate(list);
}

int rules_compile(const char *source, const void *text, size_t len, enum rules_flags flags,
		  struct rule_list **ret, struct inlay_error *err)
{
	auto_of(compiler_fini) struct compiler c = {0};

	if (len > INLAY_IGNORE_FILE_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d bytes of patterns",
				       INLAY_IGNORE_FILE_MAX);
	auto_of(rules_unref) struct rule_list *list = calloc(1, sizeof *list);
	if (!list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	list->refs = 1;
	list->source = strdup(source);
	list->text = malloc(len + 1);
	if (!list->source || !list->text)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	memcpy(list->text, text, len);
	list->text[len] = 0;
	list->hash = inlay_xxh3(text, len);
	list->numbered = flags & RULES_FILE;
	add_lines(&c, list, len, flags);
	if (c.rules.failed || c.parts.failed || c.code.failed || !take_compiled(list, &c))
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*ret = take_ptr(list);
	return 0;
}

/* ---- matching ---- */

static uint32_t match_run(const struct rule_list *list, uint32_t from, uint32_t to, uint32_t best,
			  const char *name, size_t len, bool is_dir)
{
	for (uint32_t i = from; i < to; i++) {
		uint32_t number = list->by_name[i];
		if (best != RULE_NONE && number < best)
			break;
		const struct rule *r = &list->rules[number];
		if ((is_dir || !r->dir_only) &&
		    glob_match(name_glob(list, r), list->code, name, len))
			return number;
	}
	return best;
}

uint32_t rules_match_name(const struct rule_list *list, const char *name, size_t len, bool is_dir)
{
	uint32_t best = RULE_NONE;

	if (list->last && len > 0) {
		const uint32_t *last = &list->last->start[(uint8_t)name[len - 1]];
		const uint32_t *first = &list->first->start[(uint8_t)name[0]];
		best = match_run(list, last[0], last[1], best, name, len, is_dir);
		best = match_run(list, first[0], first[1], best, name, len, is_dir);
	}
	return match_run(list, 0, list->loose_count, best, name, len, is_dir);
}

static bool state_has(const uint64_t *state, uint32_t i)
{
	return state[i / 64] >> i % 64 & 1;
}

static void state_add(uint64_t *state, uint32_t i)
{
	state[i / 64] |= 1ull << i % 64;
}

/* Adds component i, and what may come instead of it when it may be missing. */
static void state_reach(const struct rule_part *parts, uint64_t *state, uint32_t i)
{
	state_add(state, i);
	if (parts[i].any)
		state_add(state, i + 1);
}

void rule_state_start(const struct rule_list *list, const struct rule *r, uint64_t *ret)
{
	memset(ret, 0, rule_state_words(r) * sizeof *ret);
	state_reach(list->parts + r->first_part, ret, 0);
}

bool rule_state_step(const struct rule_list *list, const struct rule *r, const uint64_t *state,
		     const char *name, size_t len, uint64_t *ret)
{
	const struct rule_part *parts = list->parts + r->first_part;
	bool alive = false;

	memset(ret, 0, rule_state_words(r) * sizeof *ret);
	for (uint32_t w = 0; w < rule_state_words(r); w++) {
		for (uint64_t left = state[w]; left; left &= left - 1) {
			uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(left);
			if (parts[i].any)
				state_reach(parts, ret, i);
			else if (i + 1 < r->part_count &&
				 glob_match(&parts[i].glob, list->code, name, len))
				state_reach(parts, ret, i + 1);
			else
				continue;
			alive = true;
		}
	}
	return alive;
}

bool rule_state_match(const struct rule_list *list, const struct rule *r, const uint64_t *state,
		      const char *name, size_t len)
{
	return state_has(state, r->part_count - 1) &&
	       glob_match(name_glob(list, r), list->code, name, len);
}
