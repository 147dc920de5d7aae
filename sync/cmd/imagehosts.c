/* SPDX-License-Identifier: Apache-2.0 */
/* What `inlay image` asks of hosts: list, inspect and rm with --on. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/images.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"
#include "wire/imagemessage.h"

int images_host(const char *name, struct target *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	if (strcmp(name, "local") == 0) {
		*ret = (struct target){.path = strdup("/")};
		return ret->path ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
	}
	bool url = strncmp(name, "ssh://", 6) == 0;
	if (!url && strchr(name, '/')) {
		(void)inlay_error_set(err, -EINVAL, "'%s' is not a host", name);
		return inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	}
	/* A colon at the end makes an alias a host for the parser. */
	inlay_buf_printf(&b, url && strchr(name + 6, '/') ? "%s" : url ? "%s/" : "%s:", name);
	return target_parse(inlay_buf_cstr(&b), ret, err);
}

struct asking {
	const struct common *common;
	const char *host;
	const struct inlay_image_key *want;
	struct host_image {
		struct message_image m;
		struct inlay_image_key key;
	} * items;
	size_t count;
	struct inlay_buf json;
	uint64_t freed;
};

static bool wanted(const struct inlay_image_key *w, const struct inlay_image_key *k)
{
	return (!*w->name || strcmp(w->name, k->name) == 0) &&
	       (!*w->variant || strcmp(w->variant, k->variant) == 0) &&
	       (!*w->platform || strcmp(w->platform, k->platform) == 0);
}

static int hear_image(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct asking *a = ctx;
	struct host_image image;
	int r = message_decode_image(f->payload, f->len, &image.m, err);

	if (r < 0)
		return r;
	if (!inlay_image_key_parse(image.m.generation.origin, &image.key))
		return inlay_error_set(err, -EPROTO, "a bad name of an image");
	if (!wanted(a->want, &image.key))
		return 0;
	struct host_image *more = reallocarray(a->items, a->count + 1, sizeof *more);
	if (!more)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	a->items = more;
	more[a->count++] = image;
	return 0;
}

static int ask(struct asking *a, const struct message_request *q,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err),
	       struct inlay_error *err)
{
	struct target t = {0};
	int r = images_host(a->host, &t, err);

	if (r == 0)
		r = common_ask(a->common, &t, NULL, q, row, a, err);
	target_fini(&t);
	return r;
}

static int list(struct asking *a, struct inlay_error *err)
{
	return ask(a, &(struct message_request){.verb = MESSAGE_VERB_IMAGES}, hear_image, err);
}

static void asking_fini(struct asking *a)
{
	free(a->items);
	inlay_buf_fini(&a->json);
}

static json_t *host_json(const struct asking *a, const struct host_image *i)
{
	const struct inlay_image image = {i->key, i->m.generation};
	json_t *j = images_json(&image);

	(void)json_object_set_new(j, "schema", json_integer(1));
	(void)json_object_set_new(j, "host", print_json_name(a->host, strlen(a->host)));
	(void)json_object_set_new(j, "newest", json_boolean(i->m.newest));
	(void)json_object_set_new(j, "whole", json_boolean(i->m.whole));
	(void)json_object_set_new(j, "in_use", json_boolean(i->m.in_use));
	return j;
}

/* ---- list ---- */

int images_list_on(const struct common *c, const char *host, const struct inlay_image_key *want,
		   struct inlay_error *err)
{
	struct asking a = {.common = c, .host = host, .want = want};
	int r = list(&a, err);

	for (size_t i = 0; r == 0 && i < a.count; i++) {
		const struct inlay_image image = {a.items[i].key, a.items[i].m.generation};
		struct inlay_buf b = {0};
		if (c->json) {
			print_json(host_json(&a, &a.items[i]));
			continue;
		}
		images_line(&b, &image);
		inlay_buf_printf(&b, "%s%s%s\n", a.items[i].m.newest ? "" : ", the one before",
				 a.items[i].m.in_use ? ", in use" : "",
				 a.items[i].m.whole ? "" : ", its tree is not there");
		print_text(stdout, &b);
	}
	asking_fini(&a);
	return r;
}

/* ---- inspect ---- */

static int hear_json(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct asking *a = ctx;

	if (a->json.len + f->len > INLAY_ARCHIVE_JSON_MAX)
		return inlay_error_set(err, -E2BIG, "image.json is too large");
	inlay_buf_add(&a->json, f->payload, f->len);
	return inlay_buf_check(&a->json, err);
}

/* The newest one, when it is the only one that is meant. */
static int choose(const struct asking *a, const struct host_image **ret, struct inlay_error *err)
{
	*ret = NULL;
	for (size_t i = 0; i < a->count; i++) {
		if (!a->items[i].m.newest)
			continue;
		if (*ret)
			return inlay_error_set(
				err, -EINVAL,
				"%s has several of them; choose one with --variant or "
				"--platform",
				a->host);
		*ret = &a->items[i];
	}
	return *ret ? 0
		    : inlay_error_set(err, -ENOENT, "%s has no such image: %s", a->host,
				      a->want->name);
}

static int inspect(struct asking *a, struct inlay_error *err)
{
	const struct host_image *i = NULL;
	int r = list(a, err);

	if (r == 0)
		r = choose(a, &i, err);
	if (r < 0)
		return r;
	const struct message_request q = {
		.verb = MESSAGE_VERB_IMAGE_INSPECT,
		.body = {(const char *)i->m.generation.root.tree.b, INLAY_DIGEST_BYTES}};
	r = ask(a, &q, hear_json, err);
	if (r < 0)
		return r;
	json_t *j = host_json(a, i);
	r = images_print_inspected(a->common, j, &a->json, err);
	return r;
}

int images_inspect_on(const struct common *c, const char *host, const struct inlay_image_key *want,
		      struct inlay_error *err)
{
	struct asking a = {.common = c, .host = host, .want = want};
	int r = inspect(&a, err);

	asking_fini(&a);
	return r;
}

/* ---- rm ---- */

static int hear_freed(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct asking *a = ctx;
	struct inlay_cursor c = inlay_cursor_of(f->payload, f->len);

	a->freed += inlay_cursor_varint(&c);
	return inlay_cursor_done(&c) ? 0 : inlay_error_set(err, -EPROTO, "a bad answer");
}

static int remove_all(struct asking *a, size_t *ret_count, struct inlay_error *err)
{
	int r = list(a, err);

	*ret_count = 0;
	for (size_t i = 0; r == 0 && i < a->count; i++) {
		const char *origin = a->items[i].m.generation.origin;
		const struct message_request q = {.verb = MESSAGE_VERB_IMAGE_REMOVE,
						  .body = message_text_of(origin)};
		if (!a->items[i].m.newest)
			continue;
		r = ask(a, &q, hear_freed, err);
		*ret_count += r == 0;
	}
	return r;
}

int images_remove_on(const struct common *c, const char *host, const struct inlay_image_key *want,
		     struct inlay_error *err)
{
	struct asking a = {.common = c, .host = host, .want = want};
	size_t count;
	int r = remove_all(&a, &count, err);

	if (r == 0 && count == 0)
		r = inlay_error_set(err, -ENOENT, "%s has no such image: %s", host, want->name);
	if (r == 0)
		images_print_removed(c, count, a.freed);
	asking_fini(&a);
	return r;
}
