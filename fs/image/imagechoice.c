/* SPDX-License-Identifier: Apache-2.0 */
#include "image/imagechoice.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/jsontext.h"
#include "inlay/limits.h"

static const char ref_name[] = "org.opencontainers.image.ref.name";
static const char full_name[] = "io.containerd.image.name";

void imagechoice_fini(struct imagechoice *c)
{
	free(c->tag);
	json_decref(c->config);
	for (size_t i = 0; i < c->layer_count; i++)
		free(c->layers[i].member);
	free(c->layers);
	*c = (struct imagechoice){0};
}

int imagechoice_add_layer(struct imagechoice *c, const char *member,
			  const struct inlay_digest *digest, uint64_t size, struct inlay_error *err)
{
	if (c->layer_count >= INLAY_ARCHIVE_LAYERS_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d layers",
				       INLAY_ARCHIVE_LAYERS_MAX);
	struct imagechoice_layer *grown =
		reallocarray(c->layers, c->layer_count + 1, sizeof *c->layers);
	if (!grown)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	c->layers = grown;
	struct imagechoice_layer *l = &grown[c->layer_count];
	*l = (struct imagechoice_layer){
		.member = strdup(member), .described = digest, .size = size};
	if (!l->member)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (digest)
		l->digest = *digest;
	c->layer_count++;
	return 0;
}

/* ---- configuration ---- */

static int parse_digest(const char *text, struct inlay_digest *ret, struct inlay_error *err)
{
	if (!text || strncmp(text, "sha256:", 7) != 0 || !inlay_digest_from_hex(text + 7, ret))
		return inlay_error_set(err, -EBADMSG, "'%.100s' is not a sha256 digest",
				       text ? text : "(none)");
	return 0;
}

static int take_platform(struct imagechoice *c, const json_t *config, struct inlay_error *err)
{
	const char *os = NULL, *arch = NULL, *variant = NULL;
	struct inlay_image_key key;
	char text[256];
	int r = jsontext_string(config, "os", &os, err);

	if (r == 0)
		r = jsontext_string(config, "architecture", &arch, err);
	if (r == 0)
		r = jsontext_string(config, "variant", &variant, err);
	if (r < 0)
		return r;
	if (!arch || !*arch)
		return 0;
	(void)snprintf(text, sizeof text, "%s/%s%s%s", os && *os ? os : "linux", arch,
		       variant && *variant ? "/" : "", variant ? variant : "");
	r = inlay_image_key_make("x", "", text, &key, err);
	if (r == 0)
		(void)snprintf(c->platform, sizeof c->platform, "%s", key.platform);
	return r;
}

int imagechoice_take_config(struct imagechoice *c, json_t *config, struct inlay_error *err)
{
	json_t *rootfs, *ids = NULL;

	if (!json_is_object(config))
		return inlay_error_set(err, -EBADMSG, "the configuration is not an object");
	int r = take_platform(c, config, err);
	if (r == 0)
		r = jsontext_get(config, "rootfs", JSON_OBJECT, &rootfs, err);
	if (r == 0 && rootfs)
		r = jsontext_get(rootfs, "diff_ids", JSON_ARRAY, &ids, err);
	if (r < 0)
		return r;
	if (json_array_size(ids) != c->layer_count)
		return inlay_error_set(err, -EBADMSG,
				       "the manifest has %zu layers, the configuration %zu",
				       c->layer_count, json_array_size(ids));
	for (size_t i = 0; r == 0 && i < c->layer_count; i++)
		r = parse_digest(json_string_value(json_array_get(ids, i)), &c->layers[i].diff_id,
				 err);
	if (r == 0)
		c->config = json_incref(config);
	return r;
}

/* ---- OCI ---- */

struct descriptor {
	struct inlay_digest digest;
	uint64_t size;
	char member[80];
	bool is_index;
};

static int read_descriptor(const json_t *j, struct descriptor *ret, struct inlay_error *err)
{
	const char *text = NULL, *type = NULL;
	char hex[INLAY_DIGEST_HEX];
	json_t *size = NULL;

	if (!json_is_object(j))
		return inlay_error_set(err, -EBADMSG, "a descriptor is not an object");
	int r = jsontext_string(j, "digest", &text, err);
	if (r == 0)
		r = jsontext_string(j, "mediaType", &type, err);
	if (r == 0)
		r = jsontext_get(j, "size", JSON_INTEGER, &size, err);
	if (r == 0)
		r = parse_digest(text, &ret->digest, err);
	if (r < 0)
		return r;
	if (!size || json_integer_value(size) < 0)
		return inlay_error_set(err, -EBADMSG, "the descriptor of %s has no size", text);
	ret->size = (uint64_t)json_integer_value(size);
	ret->is_index = type && (strstr(type, "image.index") || strstr(type, "manifest.list"));
	inlay_digest_hex(&ret->digest, hex);
	(void)snprintf(ret->member, sizeof ret->member, "blobs/sha256/%s", hex);
	return 0;
}

/* Size first: what has another length need not be hashed. */
static int read_described(struct shelf *s, const struct descriptor *d, const char *what,
			  json_t **ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct inlay_digest digest;
	int r = shelf_read(s, d->member, INLAY_ARCHIVE_JSON_MAX, &b, err);

	if (r == SHELF_MISSING)
		return inlay_error_set(err, -EBADMSG, "%s (%s) is missing", what, d->member);
	if (r < 0)
		return r;
	inlay_digest_of(b.data, b.len, &digest);
	if (b.len != d->size)
		return inlay_error_set(err, -EBADMSG,
				       "%s (%s) has %zu bytes, its descriptor says %llu", what,
				       d->member, b.len, (unsigned long long)d->size);
	if (!inlay_digest_equal(&digest, &d->digest))
		return inlay_error_set(err, -EBADMSG, "%s (%s) has another digest than its name",
				       what, d->member);
	return jsontext_parse(b.data, b.len, what, ret, err);
}

/* What can be chosen, and what is wanted. */
struct search {
	struct shelf *shelf;
	const char *platform, *tag;
	char host[INLAY_IMAGE_PLATFORM_MAX + 1];
	struct imagechoice best;
	unsigned found, for_host;
	bool host_taken;
	struct inlay_buf list; /* what there is, for errors */
};

static const char *tag_of(const json_t *descriptor)
{
	const json_t *a = json_object_get(descriptor, "annotations");
	const char *full = json_string_value(json_object_get(a, full_name));

	return full ? full : json_string_value(json_object_get(a, ref_name));
}

static bool tag_fits(const char *want, const char *have)
{
	size_t w = strlen(want), h = have ? strlen(have) : 0;

	/* "robot:1" also finds "registry/robot:1", and "1" as the layout's own short form. */
	return h >= w && strcmp(have + h - w, want) == 0 &&
	       (h == w || have[h - w - 1] == '/' || have[h - w - 1] == ':');
}

static int read_layers(struct imagechoice *c, const json_t *manifest, struct inlay_error *err)
{
	json_t *layers, *one;
	size_t i;
	int r = jsontext_get(manifest, "layers", JSON_ARRAY, &layers, err);

	json_array_foreach(layers, i, one)
	{
		struct descriptor d;
		if (r == 0)
			r = read_descriptor(one, &d, err);
		if (r == 0)
			r = imagechoice_add_layer(c, d.member, &d.digest, d.size, err);
	}
	return r;
}

static int read_manifest(struct shelf *s, const json_t *manifest, struct imagechoice *c,
			 struct inlay_error *err)
{
	auto_of(jsontext_free) json_t *config = NULL;
	struct descriptor d;
	json_t *j;
	int r = jsontext_get(manifest, "config", JSON_OBJECT, &j, err);

	if (r == 0 && !j)
		return inlay_error_set(err, -EBADMSG, "a manifest without a configuration");
	if (r == 0)
		r = read_descriptor(j, &d, err);
	if (r == 0)
		r = read_described(s, &d, "the configuration", &config, err);
	if (r == 0)
		r = read_layers(c, manifest, err);
	return r == 0 ? imagechoice_take_config(c, config, err) : r;
}

/* A manifest that could be meant. The one for this machine is taken when nothing else was said. */
static int weigh(struct search *s, const json_t *manifest, const char *tag, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_imagechoice_fini))) struct imagechoice c = {0};
	int r = read_manifest(s->shelf, manifest, &c, err);

	if (r < 0)
		return r;
	inlay_buf_printf(&s->list, "%s%s%s%s", s->list.len ? ", " : "", tag ? tag : "",
			 tag ? " " : "", c.platform);
	if ((s->tag && !tag_fits(s->tag, tag)) ||
	    (s->platform && strcmp(s->platform, c.platform) != 0))
		return 0;
	bool host = !s->platform && strcmp(s->host, c.platform) == 0;
	s->found++;
	s->for_host += host;
	if (s->best.config && !(host && !s->host_taken))
		return 0;
	s->host_taken = host;
	if (tag) {
		c.tag = strdup(tag);
		if (!c.tag)
			return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	imagechoice_fini(&s->best);
	s->best = c;
	c = (struct imagechoice){0};
	return 0;
}

static int search_index(struct search *s, const json_t *index, const char *tag, unsigned depth,
			struct inlay_error *err);

/* Attestations and the like stand among the manifests and are for no platform. */
static bool is_no_image(const json_t *descriptor)
{
	const json_t *p = json_object_get(descriptor, "platform");
	const char *os = json_string_value(json_object_get(p, "os"));

	return os && strcmp(os, "unknown") == 0;
}

static int search_one(struct search *s, const json_t *j, const char *tag, unsigned depth,
		      struct inlay_error *err)
{
	auto_of(jsontext_free) json_t *doc = NULL;
	const char *own = tag_of(j);
	struct descriptor d;
	int r = read_descriptor(j, &d, err);

	if (r < 0 || is_no_image(j))
		return r;
	if (own)
		tag = own;
	r = read_described(s->shelf, &d, d.is_index ? "the index" : "the manifest", &doc, err);
	if (r < 0)
		return r;
	/* The media type may be missing; the document shows what it is. */
	if (d.is_index || (!json_object_get(doc, "config") && json_object_get(doc, "manifests")))
		return search_index(s, doc, tag, depth + 1, err);
	return weigh(s, doc, tag, err);
}

static int search_index(struct search *s, const json_t *index, const char *tag, unsigned depth,
			struct inlay_error *err)
{
	json_t *list, *one;
	size_t i;
	int r = jsontext_get(index, "manifests", JSON_ARRAY, &list, err);

	if (depth > INLAY_ARCHIVE_INDEX_DEPTH)
		return inlay_error_set(err, -E2BIG, "indexes lie more than %d deep in each other",
				       INLAY_ARCHIVE_INDEX_DEPTH);
	if (json_array_size(list) > INLAY_ARCHIVE_LAYERS_MAX)
		return inlay_error_set(err, -E2BIG, "an index of more than %d manifests",
				       INLAY_ARCHIVE_LAYERS_MAX);
	json_array_foreach(list, i, one)
	{
		if (r == 0)
			r = search_one(s, one, tag, depth, err);
		if (s->found > INLAY_ARCHIVE_LAYERS_MAX)
			r = inlay_error_set(err, -E2BIG, "more than %d images",
					    INLAY_ARCHIVE_LAYERS_MAX);
	}
	return r;
}

static int end_search(struct search *s, struct imagechoice *ret, struct inlay_error *err)
{
	unsigned fit = s->platform || s->for_host == 0 ? s->found : s->for_host;
	const char *list = inlay_buf_cstr(&s->list);

	if (fit == 0)
		return inlay_error_set(err, -ENOENT, "no image in it fits%s%s; it has: %.600s",
				       s->platform ? " " : "", s->platform ? s->platform : "",
				       *list ? list : "none");
	if (fit > 1)
		return inlay_error_set(err, -ENOENT,
				       "several images in it fit; choose one with --platform or "
				       "--tag: %.600s",
				       list);
	*ret = s->best;
	s->best = (struct imagechoice){0};
	return 0;
}

static int oci_choose(struct shelf *shelf, const json_t *index, const char *platform,
		      const char *tag, struct imagechoice *ret, struct inlay_error *err)
{
	struct search s = {.shelf = shelf, .platform = platform, .tag = tag};

	inlay_image_host_platform(s.host);
	int r = search_index(&s, index, NULL, 1, err);
	if (r == 0)
		r = end_search(&s, ret, err);
	imagechoice_fini(&s.best);
	inlay_buf_fini(&s.list);
	return r;
}

/* ---- either ---- */

int imagechoice_make(struct shelf *s, const char *platform, const char *tag,
		     struct imagechoice *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf index = {0};
	auto_of(jsontext_free) json_t *j = NULL;
	__attribute__((cleanup(inlay_cleanup_blob_fini))) struct blob docker = {.fd = -1};
	__attribute__((cleanup(inlay_cleanup_imagechoice_fini))) struct imagechoice c = {0};
	int r = shelf_read(s, "index.json", INLAY_ARCHIVE_JSON_MAX, &index, err);
	bool is_oci = r == 0;

	if (r == 0)
		r = jsontext_parse(index.data, index.len, "index.json", &j, err);
	if (r == 0)
		r = oci_choose(s, j, platform, tag, &c, err);
	/* Docker 25 writes both; a pre-release of it wrote OCI manifests without layers. */
	if (r == -EBADMSG || r == SHELF_MISSING) {
		struct inlay_error ignored = {0};
		int d = shelf_find(s, "manifest.json", &docker, &ignored);
		if (d == 0)
			r = docker_choose(s, tag, &c, err);
		else if (!is_oci)
			return inlay_error_set(err, -EBADMSG,
					       "neither index.json nor manifest.json is in it");
	}
	if (r < 0)
		return r;
	if (platform && *c.platform && strcmp(platform, c.platform) != 0)
		return inlay_error_set(err, -ENOENT, "the image is for %s, not for %s", c.platform,
				       platform);
	*ret = c;
	c = (struct imagechoice){0};
	return 0;
}
