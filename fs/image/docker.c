/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/imagechoice.h"
#include "image/jsontext.h"
#include "inlay/limits.h"

/*
 * docker-archive: manifest.json is [{Config, RepoTags, Layers}] with names of members, which are
 * followed literally. The configuration is named by its digest, the layers by whatever the writer
 * liked; what is in them is checked against the diff_ids of the configuration.
 */

static bool has_tag(const json_t *image, const char *tag)
{
	json_t *tags = json_object_get(image, "RepoTags"), *one;
	size_t i;

	json_array_foreach(tags, i, one)
	{
		if (json_is_string(one) && strcmp(json_string_value(one), tag) == 0)
			return true;
	}
	return false;
}

static const char *first_tag(const json_t *image)
{
	return json_string_value(json_array_get(json_object_get(image, "RepoTags"), 0));
}

static int pick(const json_t *list, const char *tag, const json_t **ret, struct inlay_error *err)
{
	size_t found = 0, i;
	json_t *one;

	if (!json_is_array(list))
		return inlay_error_set(err, -EBADMSG, "manifest.json is not a list");
	json_array_foreach(list, i, one)
	{
		if (!json_is_object(one))
			return inlay_error_set(err, -EBADMSG, "manifest.json has a bad image");
		if (tag && !has_tag(one, tag))
			continue;
		found++;
		*ret = one;
	}
	if (found == 1)
		return 0;
	return inlay_error_set(err, -ENOENT, "manifest.json has %zu images%s%s", found,
			       tag ? " with the tag " : "; choose one with --tag", tag ? tag : "");
}

/* The digest that a configuration's name claims, if it does: "<hex>.json", "blobs/sha256/<hex>". */
static bool digest_in_name(const char *name, struct inlay_digest *ret)
{
	const char *base = strrchr(name, '/');
	char hex[INLAY_DIGEST_HEX];
	size_t len;

	base = base ? base + 1 : name;
	len = strcspn(base, ".");
	if (len != INLAY_DIGEST_HEX - 1)
		return false;
	memcpy(hex, base, len);
	hex[len] = 0;
	return inlay_digest_from_hex(hex, ret);
}

static int read_config(struct shelf *s, const char *name, json_t **ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct inlay_digest want, have;
	int r = shelf_read(s, name, INLAY_ARCHIVE_JSON_MAX, &b, err);

	if (r == SHELF_MISSING)
		return inlay_error_set(err, -EBADMSG, "the configuration %.200s is missing", name);
	if (r < 0)
		return r;
	inlay_digest_of(b.data, b.len, &have);
	if (digest_in_name(name, &want) && !inlay_digest_equal(&want, &have))
		return inlay_error_set(err, -EBADMSG,
				       "the configuration %.200s has another digest than its name",
				       name);
	return jsontext_parse(b.data, b.len, "the configuration", ret, err);
}

static int read_layers(const json_t *image, struct imagechoice *c, struct inlay_error *err)
{
	json_t *layers, *one;
	size_t i;
	int r = jsontext_get(image, "Layers", JSON_ARRAY, &layers, err);

	json_array_foreach(layers, i, one)
	{
		if (r == 0 && !json_is_string(one))
			r = inlay_error_set(err, -EBADMSG, "a layer's name is not a text");
		if (r == 0)
			r = imagechoice_add_layer(c, json_string_value(one), NULL, 0, err);
	}
	return r;
}

int docker_choose(struct shelf *s, const char *tag, struct imagechoice *ret,
		  struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_imagechoice_fini))) struct imagechoice c = {0};
	auto_of(jsontext_free) json_t *list = NULL, *config = NULL;
	auto_buf struct inlay_buf b = {0};
	const json_t *image = NULL;
	const char *name = NULL;
	int r = shelf_read(s, "manifest.json", INLAY_ARCHIVE_JSON_MAX, &b, err);

	if (r == SHELF_MISSING)
		return inlay_error_set(err, -EBADMSG, "manifest.json is missing");
	if (r == 0)
		r = jsontext_parse(b.data, b.len, "manifest.json", &list, err);
	if (r == 0)
		r = pick(list, tag, &image, err);
	if (r == 0)
		r = jsontext_string(image, "Config", &name, err);
	if (r == 0 && !name)
		r = inlay_error_set(err, -EBADMSG, "manifest.json names no configuration");
	if (r == 0)
		r = read_config(s, name, &config, err);
	if (r == 0)
		r = read_layers(image, &c, err);
	if (r == 0)
		r = imagechoice_take_config(&c, config, err);
	if (r == 0 && first_tag(image)) {
		c.tag = strdup(first_tag(image));
		if (!c.tag)
			r = inlay_error_set(err, -ENOMEM, "out of memory");
	}
	if (r < 0)
		return r;
	*ret = c;
	c = (struct imagechoice){0};
	return 0;
}
