/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_GLOB_H
#define SCAN_GLOB_H

/*
 * One component of a pattern (what stands between two slashes), compiled: what git's wildmatch does
 * within one name. Pure, no I/O, any thread.
 *
 * A name is at most 255 bytes and holds no slash, so `*` and `?` need no special care for it, and
 * one remembered star is enough: when the part behind a star does not fit, only the last star has
 * to give way, because a later one could take over whatever an earlier one gives up. Hence a match
 * costs at most (bytes of the component) x (bytes of the name) steps, whatever the pattern.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"

enum glob_kind {
	GLOB_ALL,     /* * */
	GLOB_LITERAL, /* name */
	GLOB_PREFIX,  /* name* */
	GLOB_SUFFIX,  /* *name */
	GLOB_GENERAL, /* everything else: a program */
};

/* Offsets are into the code of the list that the component belongs to. */
struct glob {
	uint32_t off;
	uint32_t len;  /* bytes of the literal or of the program */
	int16_t first; /* the byte that every matching name starts with, -1: not fixed */
	int16_t last;  /* and ends with */
	uint8_t kind;  /* enum glob_kind */
	uint8_t min;   /* a shorter name cannot match */
};

/* Compiles the components of one pattern, one after the other. */
struct glob_writer {
	struct inlay_buf *code; /* of the list, grows */
	size_t start;           /* where this component's program starts in it */
	size_t atoms;           /* parts that take one byte of the name */
	size_t stars;
	int first, last; /* as in struct glob */
	bool plain;      /* literals and stars only */
	bool star_first, star_last;
};

void glob_begin(struct glob_writer *w, struct inlay_buf *code);
void glob_literal(struct glob_writer *w, uint8_t byte);
void glob_any(struct glob_writer *w);
void glob_star(struct glob_writer *w);
/* Reads the bracket expression at p[at]; *ret_next is what follows it. False when it is broken:
 * then the pattern matches nothing. */
bool glob_bracket(struct glob_writer *w, const uint8_t *p, size_t len, size_t at, size_t *ret_next);
bool glob_is_empty(const struct glob_writer *w);
/* False when no name can match. The code is given back then. */
bool glob_end(struct glob_writer *w, struct glob *ret);

bool glob_match(const struct glob *g, const uint8_t *code, const char *name, size_t len);

#endif
