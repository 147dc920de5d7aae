/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Length of the well-formed UTF-8 sequence at p (RFC 3629, table of section 4), 0 when there is
 * none. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
	uint8_t low = 0x80, high = 0xbf;
	size_t len;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		len = 2;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		len = 3;
		if (p[0] == 0xe0)
			low = 0xa0;
		if (p[0] == 0xed)
			high = 0x9f;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		len = 4;
		if (p[0] == 0xf0)
			low = 0x90;
		if (p[0] == 0xf4)
			high = 0x8f;
	} else {
		return 0;
	}
	if (left < len || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++)
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	return len;
}

bool inlay_text_is_utf8(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len;) {
		size_t n = utf8_sequence(p + i, len - i);
		if (n == 0 || p[i] == 0)
			return false;
		i += n;
	}
	return true;
}

void inlay_text_escape(struct inlay_buf *b, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len;) {
		size_t n = utf8_sequence(p + i, len - i);
		/* U+0080..U+009F are control characters too: terminals obey them. */
		bool c1 = n == 2 && p[i] == 0xc2 && p[i + 1] < 0xa0;
		if (p[i] == '\n')
			inlay_buf_add(b, "\\n", 2);
		else if (p[i] == '\t')
			inlay_buf_add(b, "\\t", 2);
		else if (p[i] == '\\')
			inlay_buf_add(b, "\\\\", 2);
		else if (n == 0 || p[i] < 0x20 || p[i] == 0x7f || c1)
			for (size_t k = 0; k < (n ? n : 1); k++)
				inlay_buf_printf(b, "\\x%02x", p[i + k]);
		else
			inlay_buf_add(b, p + i, n);
		i += n ? n : 1;
	}
}

static void json_string(struct inlay_buf *b, const uint8_t *at, size_t len)
{
	inlay_buf_u8(b, '"');
	for (const uint8_t *end = at + len; at < end; at++) {
		if (*at == '"' || *at == '\\')
			inlay_buf_u8(b, '\\');
		if (*at < 0x20 || *at == 0x7f)
			inlay_buf_printf(b, "\\u%04x", *at);
		else
			inlay_buf_u8(b, *at);
	}
	inlay_buf_u8(b, '"');
}

static void base64(struct inlay_buf *b, const uint8_t *at, size_t len)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (; len > 0; at += 3) {
		unsigned n = len < 3 ? (unsigned)len : 3;
		uint32_t v = (uint32_t)at[0] << 16 | (n > 1 ? (uint32_t)at[1] << 8 : 0) |
			     (n > 2 ? at[2] : 0);
		for (unsigned i = 0; i < 4; i++)
			inlay_buf_u8(b, i <= n ? (uint8_t)digits[v >> (18 - 6 * i) & 63] : '=');
		len -= n;
	}
}

void inlay_text_json(struct inlay_buf *b, const void *bytes, size_t len)
{
	if (inlay_text_is_utf8(bytes, len)) {
		json_string(b, bytes, len);
		return;
	}
	inlay_buf_printf(b, "{\"bytes\":\"");
	base64(b, bytes, len);
	inlay_buf_printf(b, "\"}");
}

void inlay_text_size(struct inlay_buf *b, uint64_t bytes)
{
	static const char units[] = "kMGTPE";
	double v = (double)bytes;
	size_t u = 0;

	if (bytes < 1000) {
		inlay_buf_printf(b, "%u B", (unsigned)bytes);
		return;
	}
	v /= 1000;
	while (v >= 999.5 && u + 2 < sizeof units) {
		v /= 1000;
		u++;
	}
	inlay_buf_printf(b, "%.*f %cB", v < 9.995 ? 2 : v < 99.95 ? 1 : 0, v, units[u]);
}

void inlay_text_duration(struct inlay_buf *b, int64_t ns)
{
	double ms = (double)ns / 1e6;

	if (ms < 10)
		inlay_buf_printf(b, "%.1f ms", ms);
	else if (ms < 1000)
		inlay_buf_printf(b, "%.0f ms", ms);
	else if (ms < 60000)
		inlay_buf_printf(b, "%.1f s", ms / 1000);
	else
		inlay_buf_printf(b, "%lld min %lld s", (long long)(ns / 60000000000),
				 (long long)(ns / 1000000000 % 60));
}

void inlay_text_time(struct inlay_buf *b, int64_t realtime_ns)
{
	time_t sec = (time_t)(realtime_ns / 1000000000);
	struct tm tm;
	char text[40];

	if (!gmtime_r(&sec, &tm) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm)) {
		inlay_buf_printf(b, "?");
		return;
	}
	inlay_buf_printf(b, "%s.%03dZ", text, (int)(realtime_ns / 1000000 % 1000));
}

void inlay_text_count(struct inlay_buf *b, uint64_t n)
{
	char digits[24];
	int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			inlay_buf_u8(b, ',');
		inlay_buf_u8(b, (uint8_t)digits[i]);
	}
}

int inlay_parse_u64(const char *text, uint64_t *ret, struct inlay_error *err)
{
	uint64_t v = 0;

	if (!*text)
		return inlay_error_set(err, -EINVAL, "a number is missing");
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return inlay_error_set(err, -EINVAL, "'%s' is not a number", text);
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return inlay_error_set(err, -ERANGE, "'%s' is too large", text);
	}
	*ret = v;
	return 0;
}

struct unit {
	const char *suffix;
	double factor;
};

/* A decimal number, then one of the units; the longest suffix is the whole rest of the text. */
static int parse_with_unit(const char *text, const struct unit *units, size_t count, double *ret,
			   const char *kind, struct inlay_error *err)
{
	size_t digits = strspn(text, "0123456789.");
	char *end;

	if (digits == 0 || digits > 24)
		return inlay_error_set(err, -EINVAL, "'%s' is not a %s", text, kind);
	errno = 0;
	double v = strtod(text, &end);
	if (end != text + digits || errno)
		return inlay_error_set(err, -EINVAL, "'%s' is not a %s", text, kind);
	for (size_t i = 0; i < count; i++) {
		if (strcmp(end, units[i].suffix) == 0) {
			*ret = v * units[i].factor;
			return 0;
		}
	}
	return inlay_error_set(err, -EINVAL, "'%s' is not a %s: unknown unit '%s'", text, kind,
			       end);
}

int inlay_parse_size(const char *text, uint64_t *ret, struct inlay_error *err)
{
	static const struct unit units[] = {
		{"", 1},         {"B", 1},      {"k", 0x1p10},   {"K", 0x1p10}, {"KiB", 0x1p10},
		{"M", 0x1p20},   {"m", 0x1p20}, {"MiB", 0x1p20}, {"G", 0x1p30}, {"g", 0x1p30},
		{"GiB", 0x1p30}, {"T", 0x1p40}, {"TiB", 0x1p40}, {"kB", 1e3},   {"KB", 1e3},
		{"MB", 1e6},     {"GB", 1e9},   {"TB", 1e12},
	};
	double v;
	int r = parse_with_unit(text, units, sizeof units / sizeof units[0], &v, "size", err);

	if (r < 0)
		return r;
	if (v >= 0x1p63)
		return inlay_error_set(err, -ERANGE, "size '%s' is too large", text);
	*ret = (uint64_t)v;
	return 0;
}

int inlay_parse_duration(const char *text, int64_t *ret_ns, struct inlay_error *err)
{
	static const struct unit units[] = {
		{"", 1e9},   {"us", 1e3},   {"ms", 1e6},   {"s", 1e9},
		{"m", 60e9}, {"min", 60e9}, {"h", 3600e9}, {"d", 86400e9},
	};
	double v;
	int r = parse_with_unit(text, units, sizeof units / sizeof units[0], &v, "duration", err);

	if (r < 0)
		return r;
	if (v >= 0x1p62)
		return inlay_error_set(err, -ERANGE, "duration '%s' is too large", text);
	*ret_ns = (int64_t)v;
	return 0;
}
