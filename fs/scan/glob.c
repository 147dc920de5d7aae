/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/glob.h"

#include <string.h>

#include "inlay/limits.h"

/* The program: one byte of operation, then what it takes. */
enum {
	OP_LITERAL, /* 1 byte */
	OP_ANY,
	OP_STAR,
	OP_SET, /* SET_BYTES bytes: a bit for each byte that fits */
};

enum { SET_BYTES = 32 };

void glob_begin(struct glob_writer *w, struct inlay_buf *code)
{
	*w = (struct glob_writer){
		.code = code, .start = code->len, .first = -1, .last = -1, .plain = true};
}

bool glob_is_empty(const struct glob_writer *w)
{
	return w->atoms == 0 && w->stars == 0;
}

/* `byte` is what the name must have at this place, -1 when several fit. */
static void add_atom(struct glob_writer *w, int byte)
{
	if (glob_is_empty(w))
		w->first = byte;
	w->last = byte;
	w->star_last = false;
	w->atoms++;
}

void glob_literal(struct glob_writer *w, uint8_t byte)
{
	add_atom(w, byte);
	inlay_buf_u8(w->code, OP_LITERAL);
	inlay_buf_u8(w->code, byte);
}

void glob_any(struct glob_writer *w)
{
	add_atom(w, -1);
	w->plain = false;
	inlay_buf_u8(w->code, OP_ANY);
}

void glob_star(struct glob_writer *w)
{
	if (w->star_last)
		return; /* one star after another adds nothing */
	if (glob_is_empty(w))
		w->star_first = true;
	w->star_last = true;
	w->last = -1;
	w->stars++;
	inlay_buf_u8(w->code, OP_STAR);
}

/* ---- bracket expressions ---- */

struct set {
	uint8_t bits[SET_BYTES];
};

static void set_add(struct set *s, unsigned from, unsigned to)
{
	for (unsigned c = from; c <= to; c++)
		s->bits[c / 8] |= (uint8_t)(1u << c % 8);
}

static bool set_has(const uint8_t *bits, uint8_t c)
{
	return bits[c / 8] >> c % 8 & 1;
}

/* The classes are those of git, which are ASCII only and independent of the locale; its "space" has
 * neither \v nor \f. Each is a list of ranges. */
static const struct {
	const char *name;
	const char *ranges;
} classes[] = {
	{"alnum", "09AZaz"},   {"alpha", "AZaz"},
	{"blank", "\t\t  "},   {"cntrl", "\001\037\177\177"},
	{"digit", "09"},       {"graph", "!~"},
	{"lower", "az"},       {"print", " ~"},
	{"punct", "!/:@[`{~"}, {"space", "\t\n\r\r  "},
	{"upper", "AZ"},       {"xdigit", "09AFaf"},
};

static bool set_add_class(struct set *s, const uint8_t *name, size_t len)
{
	for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
		if (strlen(classes[i].name) != len || memcmp(classes[i].name, name, len) != 0)
			continue;
		for (const char *r = classes[i].ranges; *r; r += 2)
			set_add(s, (uint8_t)r[0], (uint8_t)r[1]);
		return true;
	}
	return false;
}

/* The members of a bracket expression, one at a time. */
struct bracket {
	const uint8_t *p;
	size_t len, at;
	int previous; /* the byte that a '-' would start a range from, 0: none */
	struct set set;
};

/* A member at b->at that is a class "[:name:]". 1: it was one, 0: an ordinary '[', -1: broken. */
static int bracket_class(struct bracket *b)
{
	size_t start = b->at + 2;
	const uint8_t *end = start <= b->len ? memchr(b->p + start, ']', b->len - start) : NULL;

	if (!end)
		return -1;
	size_t close = (size_t)(end - b->p);
	if (close == start || b->p[close - 1] != ':')
		return 0;
	if (!set_add_class(&b->set, b->p + start, close - start - 1))
		return -1;
	b->at = close + 1;
	b->previous = 0;
	return 1;
}

/* The byte at b->at, a backslash taking the one behind it. False at the end of the pattern. */
static bool bracket_byte(struct bracket *b, uint8_t *ret)
{
	if (b->at < b->len && b->p[b->at] == '\\')
		b->at++;
	if (b->at >= b->len)
		return false;
	*ret = b->p[b->at++];
	return true;
}

static bool bracket_member(struct bracket *b)
{
	uint8_t c;

	if (b->at >= b->len)
		return false;
	bool more = b->at + 1 < b->len;
	if (b->p[b->at] == '-' && b->previous && more && b->p[b->at + 1] != ']') {
		b->at++;
		if (!bracket_byte(b, &c))
			return false;
		set_add(&b->set, (unsigned)b->previous, c);
		b->previous = 0;
		return true;
	}
	if (b->p[b->at] == '[' && more && b->p[b->at + 1] == ':') {
		int r = bracket_class(b);
		if (r != 0)
			return r > 0;
	}
	if (!bracket_byte(b, &c))
		return false;
	set_add(&b->set, c, c);
	b->previous = c;
	return true;
}

bool glob_bracket(struct glob_writer *w, const uint8_t *p, size_t len, size_t at, size_t *ret_next)
{
	struct bracket b = {.p = p, .len = len, .at = at + 1};
	bool negated = b.at < len && (p[b.at] == '!' || p[b.at] == '^');

	if (negated)
		b.at++;
	do {
		if (!bracket_member(&b))
			return false;
	} while (b.at >= len || p[b.at] != ']');
	if (negated)
		for (size_t i = 0; i < SET_BYTES; i++)
			b.set.bits[i] = (uint8_t)~b.set.bits[i];
	add_atom(w, -1);
	w->plain = false;
	inlay_buf_u8(w->code, OP_SET);
	inlay_buf_add(w->code, b.set.bits, SET_BYTES);
	*ret_next = b.at + 1;
	return true;
}

/* ---- the finished component ---- */

static enum glob_kind kind_of(const struct glob_writer *w)
{
	if (w->atoms == 0)
		return GLOB_ALL;
	if (w->plain && w->stars == 0)
		return GLOB_LITERAL;
	if (w->plain && w->stars == 1 && w->star_last)
		return GLOB_PREFIX;
	if (w->plain && w->stars == 1 && w->star_first)
		return GLOB_SUFFIX;
	return GLOB_GENERAL;
}

/* A program of literals and at most one star becomes the bytes of the literals. */
static void keep_literals(struct inlay_buf *code, size_t start)
{
	size_t out = start;

	for (size_t i = start; i < code->len; i += 1u + (code->data[i] == OP_LITERAL))
		if (code->data[i] == OP_LITERAL)
			code->data[out++] = code->data[i + 1];
	code->len = out;
}

bool glob_end(struct glob_writer *w, struct glob *ret)
{
	struct inlay_buf *code = w->code;

	/* Out of memory is the buffer's sticky failure; the caller looks at it at the end. */
	if (code->failed)
		return false;
	if (w->atoms > INLAY_NAME_MAX) {
		code->len = w->start;
		return false;
	}
	enum glob_kind kind = kind_of(w);
	if (kind != GLOB_GENERAL)
		keep_literals(code, w->start);
	*ret = (struct glob){.off = (uint32_t)w->start,
			     .len = (uint32_t)(code->len - w->start),
			     .first = (int16_t)w->first,
			     .last = (int16_t)w->last,
			     .kind = (uint8_t)kind,
			     .min = (uint8_t)w->atoms};
	return true;
}

/* Does the operation at pc take byte c? *ret_next is the operation after it. */
static bool takes(const uint8_t *pc, uint8_t c, const uint8_t **ret_next)
{
	switch (*pc) {
	case OP_LITERAL:
		*ret_next = pc + 2;
		return pc[1] == c;
	case OP_SET:
		*ret_next = pc + 1 + SET_BYTES;
		return set_has(pc + 1, c);
	default:
		*ret_next = pc + 1;
		return true;
	}
}

static bool run(const uint8_t *pc, const uint8_t *end, const uint8_t *s, size_t len)
{
	const uint8_t *star = NULL; /* the operation behind the last star */
	size_t star_at = 0;         /* up to where it has taken the name */
	size_t at = 0;

	for (;;) {
		const uint8_t *next;
		if (pc < end && *pc == OP_STAR) {
			star = ++pc;
			star_at = at;
			if (pc == end)
				return true;
		} else if (pc < end && at < len && takes(pc, s[at], &next)) {
			pc = next;
			at++;
		} else if (pc == end && at == len) {
			return true;
		} else if (!star || at == len) {
			/* Behind the end of the name a star that takes more leaves even less. */
			return false;
		} else {
			pc = star;
			at = ++star_at;
		}
	}
}

bool glob_match(const struct glob *g, const uint8_t *code, const char *name, size_t len)
{
	const uint8_t *bytes = code + g->off;

	if (len < g->min)
		return false;
	switch ((enum glob_kind)g->kind) {
	case GLOB_ALL:
		return true;
	case GLOB_LITERAL:
		return len == g->len && memcmp(name, bytes, len) == 0;
	case GLOB_PREFIX:
		return memcmp(name, bytes, g->len) == 0;
	case GLOB_SUFFIX:
		return memcmp(name + len - g->len, bytes, g->len) == 0;
	case GLOB_GENERAL:
		break;
	}
	if ((g->first >= 0 && (uint8_t)name[0] != g->first) ||
	    (g->last >= 0 && (uint8_t)name[len - 1] != g->last))
		return false;
	return run(bytes, bytes + g->len, (const uint8_t *)name, len);
}
