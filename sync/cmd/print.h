/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_PRINT_H
#define CMD_PRINT_H

/*
 * Output. Text from peers and names of files are escaped; JSON has stable keys, `"schema": 1`, sizes in
 * bytes, durations in milliseconds, times as RFC 3339 in UTC.
 */

#include <jansson.h>
#include <stdio.h>

#include "inlay/bytes.h"
#include "inlay/generation.h"

/* A name as JSON: a string, or {"bytes": base64} when it is not UTF-8. */
json_t *print_json_name(const char *bytes, size_t len);
json_t *print_json_time(int64_t realtime_ns);
json_t *print_json_ms(int64_t ns);
/* The keys of a generation, for log and status. */
json_t *print_json_generation(const struct inlay_generation *g);

/* Prints one object on one line and frees it. */
void print_json(json_t *object);

/* Prints the buffer to the stream and frees it. */
void print_text(FILE *f, struct inlay_buf *b);

/* "9f2c1e7": enough of an id for people. */
void print_short_id(struct inlay_buf *b, const struct inlay_digest *id);
/* Local time with milliseconds, "12:04:11.042". */
void print_clock(struct inlay_buf *b, int64_t realtime_ns);
/* Local time, "2026-11-21 12:04:11". */
void print_local_time(struct inlay_buf *b, int64_t realtime_ns);

#endif
