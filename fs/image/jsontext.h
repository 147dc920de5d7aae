/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_JSONTEXT_H
#define IMAGE_JSONTEXT_H

/*
 * JSON that others wrote, by jansson: depth and size are checked first (its own depth limit is fixed
 * when it is built), keys that stand twice and NUL in strings are refused.
 */

#include <jansson.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"

static inline void jsontext_free(json_t *j)
{
	json_decref(j);
}
INLAY_DEFINE_CLEANUP(json_t, jsontext_free)

/* `what` names it in errors. */
int jsontext_parse(const void *bytes, size_t len, const char *what, json_t **ret,
		   struct inlay_error *err) inlay_must_check;

/* A borrowed member; *ret NULL when it is missing or null. -EBADMSG when it is of another type. */
int jsontext_get(const json_t *object, const char *key, json_type type, json_t **ret,
		 struct inlay_error *err) inlay_must_check;
/* A string; NULL when missing. */
int jsontext_string(const json_t *object, const char *key, const char **ret,
		    struct inlay_error *err) inlay_must_check;

#endif
