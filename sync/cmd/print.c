/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/print.h"

#include <stdlib.h>
#include <time.h>

#include <openssl/evp.h>

#include "inlay/cleanup.h"
#include "inlay/text.h"

json_t *print_json_name(const char *bytes, size_t len)
{
	if (inlay_text_is_utf8(bytes, len))
		return json_stringn(bytes, len);
	auto_free unsigned char *base64 = malloc(4 * ((len + 2) / 3) + 1);
	if (!base64)
		return json_null();
	(void)EVP_EncodeBlock(base64, (const unsigned char *)bytes, (int)len);
	return json_pack("{s:s}", "bytes", (const char *)base64);
}

json_t *print_json_time(int64_t realtime_ns)
{
	auto_buf struct inlay_buf b = {0};

	inlay_text_time(&b, realtime_ns);
	return json_string(inlay_buf_cstr(&b));
}

json_t *print_json_ms(int64_t ns)
{
	/* Microseconds are enough; more digits would only be noise. */
	return json_real((double)(ns / 1000) / 1e3);
}

json_t *print_json_generation(const struct inlay_generation *g)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&g->root.tree, hex);
	json_t *o = json_pack("{s:I, s:s, s:o, s:I, s:I, s:I, s:o}", "generation",
			      (json_int_t)g->number, "root", hex, "time",
			      print_json_time(g->time_ns), "entries", (json_int_t)g->entries,
			      "bytes", (json_int_t)g->bytes, "changed", (json_int_t)g->changed,
			      "origin", print_json_name(g->origin, strlen(g->origin)));
	if (o && g->rollback_of)
		(void)json_object_set_new(o, "rollback_of",
					  json_integer((json_int_t)g->rollback_of));
	return o;
}

void print_json(json_t *object)
{
	if (object) {
		(void)json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
		(void)fputc('\n', stdout);
		(void)fflush(stdout);
	}
	json_decref(object);
}

void print_text(FILE *f, struct inlay_buf *b)
{
	if (b->len)
		(void)fwrite(b->data, 1, b->len, f);
	(void)fflush(f);
	inlay_buf_fini(b);
}

void print_short_id(struct inlay_buf *b, const struct inlay_digest *id)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(id, hex);
	inlay_buf_printf(b, "%.8s", hex);
}

void print_clock(struct inlay_buf *b, int64_t realtime_ns)
{
	time_t sec = (time_t)(realtime_ns / 1000000000);
	struct tm tm;
	char text[40];

	if (localtime_r(&sec, &tm) && strftime(text, sizeof text, "%H:%M:%S", &tm))
		inlay_buf_printf(b, "%s.%03d", text, (int)(realtime_ns / 1000000 % 1000));
}

void print_local_time(struct inlay_buf *b, int64_t realtime_ns)
{
	time_t sec = (time_t)(realtime_ns / 1000000000);
	struct tm tm;
	char text[40];

	if (localtime_r(&sec, &tm) && strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm))
		inlay_buf_printf(b, "%s", text);
}
