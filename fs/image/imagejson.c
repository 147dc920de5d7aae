/* SPDX-License-Identifier: Apache-2.0 */
#include "image/imagejson.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "image/jsontext.h"

/*
 * Only what says how to run it. Times, build hosts and the history are left out: an image that was
 * built again with the same result shall have the same manifest.
 */
enum shape { TEXT, TEXTS, MAP };

static const struct {
	const char *key;
	enum shape shape;
} kept[] = {
	{"Cmd", TEXTS},        {"Entrypoint", TEXTS}, {"Env", TEXTS},
	{"ExposedPorts", MAP}, {"Labels", MAP},       {"StopSignal", TEXT},
	{"User", TEXT},        {"Volumes", MAP},      {"WorkingDir", TEXT},
};

static bool is_texts(const json_t *j)
{
	json_t *one;
	size_t i;

	json_array_foreach(j, i, one)
	{
		if (!json_is_string(one))
			return false;
	}
	return json_is_array(j);
}

static bool has_shape(const json_t *j, enum shape shape)
{
	return shape == TEXT ? json_is_string(j) : shape == TEXTS ? is_texts(j) : json_is_object(j);
}

static int keep(const json_t *from, json_t *to, struct inlay_error *err)
{
	for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
		json_t *j = json_object_get(from, kept[i].key);
		if (!j || json_is_null(j))
			continue;
		if (!has_shape(j, kept[i].shape))
			return inlay_error_set(err, -EBADMSG,
					       "the configuration's %s is of an unexpected type",
					       kept[i].key);
		/* Empty and missing are the same. */
		if ((json_is_string(j) && json_string_length(j) == 0) ||
		    (json_is_array(j) && json_array_size(j) == 0) ||
		    (json_is_object(j) && json_object_size(j) == 0))
			continue;
		if (json_object_set(to, kept[i].key, j) < 0)
			return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

int imagejson_make(const json_t *config, const char *platform, struct inlay_buf *b,
		   struct inlay_error *err)
{
	auto_of(jsontext_free) json_t *to = json_object(), *doc = NULL;
	json_t *from = NULL;
	int r = to ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	if (r == 0 && config)
		r = jsontext_get(config, "config", JSON_OBJECT, &from, err);
	if (r == 0 && from)
		r = keep(from, to, err);
	if (r < 0)
		return r;
	doc = json_pack("{s:i, s:s, s:O}", "schema", 1, "platform", platform, "config", to);
	auto_free char *text = doc ? json_dumps(doc, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
	if (!text)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	inlay_buf_add(b, text, strlen(text));
	inlay_buf_u8(b, '\n');
	return inlay_buf_check(b, err);
}
