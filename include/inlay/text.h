/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TEXT_H
#define INLAY_TEXT_H

/*
 * Text for people and scripts: escaped names, sizes, durations; and the strict parsers of the same.
 * Names are bytes, there is no locale anywhere. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

/* Appends the bytes so that they cannot drive a terminal: control bytes, DEL, backslash and what is
 * not UTF-8 become \n, \t, \\ or \xHH. */
void inlay_text_escape(struct inlay_buf *b, const void *bytes, size_t len);
/* True when the bytes are well-formed UTF-8 (RFC 3629) without NUL. */
bool inlay_text_is_utf8(const void *bytes, size_t len);

/* Appends the bytes as JSON: a string, or {"bytes": base64} when they are not UTF-8. */
void inlay_text_json(struct inlay_buf *b, const void *bytes, size_t len);

/* "1.2 MB" (powers of 1000, three digits), "812 B". */
void inlay_text_size(struct inlay_buf *b, uint64_t bytes);
/* "41 ms", "1.8 s", "2 min 5 s" from nanoseconds; "0.6 ms" below ten milliseconds. */
void inlay_text_duration(struct inlay_buf *b, int64_t ns);
/* RFC 3339 in UTC with milliseconds: 2026-11-21T12:04:11.042Z */
void inlay_text_time(struct inlay_buf *b, int64_t realtime_ns);
/* 1,234,567 */
void inlay_text_count(struct inlay_buf *b, uint64_t n);

/* "10", "10k", "1.5M", "2G" (powers of 1024; KB, MB, GB are powers of 1000). Overflow and trailing
 * bytes are errors. */
int inlay_parse_size(const char *text, uint64_t *ret, struct inlay_error *err) inlay_must_check;
/* "250ms", "5s", "10m", "2h", "1d"; a bare number means seconds. */
int inlay_parse_duration(const char *text, int64_t *ret_ns, struct inlay_error *err)
	inlay_must_check;
int inlay_parse_u64(const char *text, uint64_t *ret, struct inlay_error *err) inlay_must_check;

#endif
