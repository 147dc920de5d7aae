/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/patterns.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/bytes.h"
#include "inlay/io.h"

void patterns_fini(struct patterns *p)
{
	for (size_t i = 0; i < p->count; i++)
		free(p->list[i]);
	free(p->list);
	*p = (struct patterns){0};
}

static int add(struct patterns *p, const char *prefix, const char *text, size_t len,
	       struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	if (p->count == PATTERNS_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d patterns", PATTERNS_MAX);
	inlay_buf_printf(&b, "%s", prefix);
	inlay_buf_add(&b, text, len);
	char **more = reallocarray(p->list, p->count + 1, sizeof *more);
	if (more)
		p->list = more;
	char *copy = more ? strdup(inlay_buf_cstr(&b)) : NULL;
	if (!copy)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	p->list[p->count++] = copy;
	return 0;
}

static int add_from(struct patterns *p, const char *path, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(AT_FDCWD, path, INLAY_IGNORE_FILE_MAX, &b, err);

	if (r == INLAY_IO_MISSING)
		return inlay_error_set(err, -ENOENT, "there is no file %s", path);
	for (size_t at = 0; r == 0 && at < b.len;) {
		const char *line = (const char *)b.data + at;
		const char *end = memchr(line, '\n', b.len - at);
		size_t len = end ? (size_t)(end - line) : b.len - at;
		r = add(p, "", line, len, err);
		at += len + 1;
	}
	return r;
}

bool patterns_take(struct patterns *p, int option, const char *value, int *ret,
		   struct inlay_error *err)
{
	*ret = 0;
	switch (option) {
	case PATTERNS_EXCLUDE:
		*ret = add(p, "", value, strlen(value), err);
		return true;
	case PATTERNS_INCLUDE:
		/* "!" takes back in. */
		*ret = add(p, "!", value, strlen(value), err);
		return true;
	case PATTERNS_EXCLUDE_FROM:
		*ret = add_from(p, value, err);
		return true;
	case PATTERNS_NO_GITIGNORE:
		p->no_gitignore = true;
		return true;
	default:
		return false;
	}
}

void patterns_use(const struct patterns *p, struct inlay_ignore_options *ret)
{
	ret->patterns = (const char *const *)p->list;
	ret->pattern_count = p->count;
	ret->no_gitignore = p->no_gitignore;
}
