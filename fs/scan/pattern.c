/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar is the one that git has in effect (its manual leaves the corners open):
 *
 *   - '!' in front takes back, one '/' at the end means directories only, any other '/' ties the
 *     pattern to the directory of its file; one '/' in front is only there to do that.
 *   - Two or more stars are "**" when they are alone between the ends of the pattern and slashes.
 *     Anywhere else, and in a pattern without a slash, they are a single star.
 *   - "**" in front of a slash takes none or more directories. At the end of the pattern, and in
 *     front of an escaped slash, it takes at least one name.
 *   - A backslash takes the special meaning from the next byte; one at the end, a bracket without
 *     its end and an unknown class make the whole pattern match nothing.
 */
#include "scan/pattern.h"

#include <string.h>

#include "inlay/limits.h"

enum {
	/* More globs than a name can have directories above it, and itself, match nothing. */
	GLOBS_MAX = INLAY_DEPTH_MAX + 1,
};

struct splitter {
	const uint8_t *p;
	size_t len, at;
	bool tied; /* it has a slash */
	struct inlay_buf *parts;
	struct inlay_buf *code;
	uint32_t count, globs;
	bool after_any; /* the last part is "**" */
	struct glob_writer glob;
};

static void add_part(struct splitter *s, const struct rule_part *part)
{
	if (part->any && s->after_any)
		return; /* any number and any number is any number */
	inlay_buf_add(s->parts, part, sizeof *part);
	s->after_any = part->any;
	s->count++;
	s->globs += !part->any;
}

static bool end_glob(struct splitter *s)
{
	struct rule_part part = {.any = false};

	if (glob_is_empty(&s->glob) || !glob_end(&s->glob, &part.glob))
		return false;
	add_part(s, &part);
	glob_begin(&s->glob, s->code);
	return true;
}

static bool escaped_slash(const struct splitter *s, size_t at)
{
	return at + 1 < s->len && s->p[at] == '\\' && s->p[at + 1] == '/';
}

/* A run of stars that ends before `end`. */
static void stars(struct splitter *s, size_t end)
{
	bool alone = glob_is_empty(&s->glob) &&
		     (end == s->len || s->p[end] == '/' || escaped_slash(s, end));

	if (!s->tied || end - s->at < 2 || !alone) {
		glob_star(&s->glob);
		s->at = end;
		return;
	}
	add_part(s, &(struct rule_part){.any = true});
	if (end < s->len && s->p[end] == '/') {
		s->at = end + 1;
		return;
	}
	/* At least one name: any number, and then one. */
	glob_star(&s->glob);
	s->at = end;
}

static bool literal(struct splitter *s)
{
	uint8_t c = s->p[s->at++];

	if (c == '/')
		return end_glob(s);
	glob_literal(&s->glob, c);
	return true;
}

static bool one(struct splitter *s)
{
	size_t end = s->at;

	switch (s->p[s->at]) {
	case '*':
		while (end < s->len && s->p[end] == '*')
			end++;
		stars(s, end);
		return true;
	case '[':
		return glob_bracket(&s->glob, s->p, s->len, s->at, &s->at);
	case '?':
		s->at++;
		glob_any(&s->glob);
		return true;
	case '\\':
		return ++s->at < s->len && literal(s);
	default:
		return literal(s);
	}
}

static bool split(struct splitter *s)
{
	glob_begin(&s->glob, s->code);
	while (s->at < s->len) {
		if (!one(s) || s->globs > GLOBS_MAX)
			return false;
	}
	return end_glob(s);
}

bool pattern_parse(const uint8_t *p, size_t len, struct inlay_buf *parts, struct inlay_buf *code,
		   struct rule *ret)
{
	struct splitter s = {.p = p, .len = len, .parts = parts, .code = code};
	size_t parts_before = parts->len, code_before = code->len;

	ret->negated = s.len > 0 && s.p[0] == '!';
	s.at = ret->negated;
	ret->dir_only = s.len > s.at && s.p[s.len - 1] == '/';
	s.len -= ret->dir_only;
	s.tied = memchr(s.p + s.at, '/', s.len - s.at) != NULL;
	if (s.tied && s.p[s.at] == '/')
		s.at++;
	/* Memory that is out is the buffers' sticky failure, for the caller to see. */
	if (!split(&s) || parts->failed || code->failed) {
		parts->len = parts_before;
		code->len = code_before;
		return false;
	}
	ret->part_count = s.count;
	const struct rule_part *first = (const struct rule_part *)(parts->data + parts_before);
	ret->by_name = !s.tied || (s.count == 2 && first->any);
	return true;
}
