/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/pair.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"

/* rsync: a bare number means KiB a second. */
int pair_parse_rate(const char *text, uint64_t *ret, struct inlay_error *err)
{
	uint64_t n;

	if (strspn(text, "0123456789.") == strlen(text)) {
		auto_buf struct inlay_buf b = {0};
		inlay_buf_printf(&b, "%sk", text);
		return inlay_parse_size(inlay_buf_cstr(&b), ret, err);
	}
	int r = inlay_parse_size(text, &n, err);
	if (r == 0)
		*ret = n;
	return r;
}

/* ---- nesting ---- */

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == 0 || path[len] == '/');
}

/* Where a local target will be: its nearest directory that exists, resolved, and the rest. */
static int resolve_target(const char *path, char ret[static 2 * PATH_MAX], struct inlay_error *err)
{
	auto_free char *copy = strdup(path);
	auto_buf struct inlay_buf rest = {0};

	while (copy && *copy) {
		auto_free char *real = realpath(copy, NULL);
		if (real) {
			(void)snprintf(ret, 2 * PATH_MAX, "%s%s", strcmp(real, "/") ? real : "",
				       inlay_buf_cstr(&rest));
			return 0;
		}
		char *slash = strrchr(copy, '/');
		auto_buf struct inlay_buf more = {0};
		inlay_buf_printf(&more, "%s%s", slash, inlay_buf_cstr(&rest));
		struct inlay_buf old = rest;
		rest = more;
		more = old;
		*slash = 0;
	}
	if (!copy)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)snprintf(ret, 2 * PATH_MAX, "%s", inlay_buf_cstr(&rest));
	return 0;
}

int pair_check_nesting(const char *source, const struct target *t, struct inlay_error *err)
{
	char path[2 * PATH_MAX];

	if (t->host)
		return 0;
	int r = resolve_target(t->path, path, err);
	if (r < 0 || (!is_below(path, source) && !is_below(source, path)))
		return r;
	r = inlay_error_set(err, -EINVAL,
			    "%s and %s lie inside each other: take a target outside of the "
			    "source",
			    source, path);
	(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	return r;
}

/* ---- output ---- */

void pair_put_counts(struct inlay_buf *b, const struct push_result *r)
{
	const struct {
		uint64_t n;
		const char *word;
	} parts[] = {{r->modified, "changed"}, {r->added, "added"}, {r->removed, "deleted"}};
	const char *comma = "";

	for (size_t i = 0; i < 3; i++) {
		if (!parts[i].n)
			continue;
		inlay_buf_printf(b, "%s", comma);
		inlay_text_count(b, parts[i].n);
		inlay_buf_printf(b, " %s", parts[i].word);
		comma = ", ";
	}
	if (!*comma)
		inlay_buf_printf(b, "attributes only");
}

json_t *pair_codecs_json(const struct codecs *codecs)
{
	json_t *all = json_object();

	for (size_t i = 0; i < CODEC_COUNT; i++) {
		const struct codec_count *c = &codecs->by[i];
		json_t *one =
			json_pack("{s:I, s:I, s:I}", "objects", (json_int_t)c->objects, "bytes",
				  (json_int_t)c->raw, "wire_bytes", (json_int_t)c->wire);
		(void)json_object_set_new(all, codec_name((enum codec)i), one);
	}
	return all;
}
