/* SPDX-License-Identifier: Apache-2.0 */
#include "image/jsontext.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/limits.h"

/* How deep arrays and objects lie in each other at most, as far as brackets tell. */
static unsigned depth_of(const uint8_t *p, size_t len)
{
	unsigned depth = 0, deepest = 0;
	bool text = false;

	for (size_t i = 0; i < len; i++) {
		if (text && p[i] == '\\')
			i++;
		else if (p[i] == '"')
			text = !text;
		else if (!text && (p[i] == '[' || p[i] == '{'))
			deepest = ++depth > deepest ? depth : deepest;
		else if (!text && (p[i] == ']' || p[i] == '}') && depth > 0)
			depth--;
	}
	return deepest;
}

int jsontext_parse(const void *bytes, size_t len, const char *what, json_t **ret,
		   struct inlay_error *err)
{
	json_error_t e;

	if (len > INLAY_ARCHIVE_JSON_MAX)
		return inlay_error_set(err, -E2BIG, "%s has more than %d bytes", what,
				       INLAY_ARCHIVE_JSON_MAX);
	if (depth_of(bytes, len) > INLAY_ARCHIVE_JSON_DEPTH)
		return inlay_error_set(err, -E2BIG, "%s is nested more than %d deep", what,
				       INLAY_ARCHIVE_JSON_DEPTH);
	json_t *j = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &e);
	if (!j)
		return inlay_error_set(err, -EBADMSG, "%s is not JSON: line %d: %s", what, e.line,
				       e.text);
	*ret = j;
	return 0;
}

int jsontext_get(const json_t *object, const char *key, json_type type, json_t **ret,
		 struct inlay_error *err)
{
	json_t *j = json_object_get(object, key);

	if (j && !json_is_null(j) && json_typeof(j) != type)
		return inlay_error_set(err, -EBADMSG, "'%s' is of an unexpected type", key);
	*ret = j && !json_is_null(j) ? j : NULL;
	return 0;
}

int jsontext_string(const json_t *object, const char *key, const char **ret,
		    struct inlay_error *err)
{
	json_t *j;
	int r = jsontext_get(object, key, JSON_STRING, &j, err);

	if (r == 0)
		*ret = j ? json_string_value(j) : NULL;
	return r;
}
