/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked about base images, and their contents on the way into trees. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "inlay/imagetree.h"
#include "session/serve.h"
#include "wire/imagemessage.h"

enum { LACKS_MAX = INLAY_FRAME_MAX / INLAY_DIGEST_BYTES / 2 };

/* ---- what is there ---- */

static int image_row(void *ctx, const struct inlay_imagetree_info *info, struct inlay_error *err)
{
	struct inlay_buf b = {0};
	const struct message_image m = {.newest = info->newest,
					.whole = info->whole,
					.in_use = info->in_use,
					.generation = info->image.generation};

	message_encode_image(&b, &m);
	return serve_row(ctx, &b, err);
}

static int list(struct serve *s, struct inlay_imagetrees *images, struct inlay_error *err)
{
	return inlay_imagetrees_each(images, image_row, s, err);
}

static int inspect(struct serve *s, struct inlay_imagetrees *images, struct message_text body,
		   struct inlay_error *err)
{
	struct inlay_imagetree tree;
	struct inlay_digest id;

	if (body.len != INLAY_DIGEST_BYTES)
		return inlay_error_set(err, -EPROTO, "a bad manifest");
	memcpy(id.b, body.bytes, sizeof id.b);
	int r = inlay_imagetree_open(images, &id, &tree, err);
	if (r == INLAY_IMAGETREE_MISSING)
		return inlay_error_set(err, -ENOENT, "the image's tree is not here");
	if (r < 0)
		return r;
	for (size_t at = 0; r == 0 && at < tree.json.len;) {
		struct inlay_buf b = {0};
		size_t left = tree.json.len - at,
		       n = left < INLAY_FRAME_MAX ? left : INLAY_FRAME_MAX;
		inlay_buf_add(&b, tree.json.data + at, n);
		at += n;
		r = serve_row(s, &b, err);
	}
	inlay_imagetree_close(&tree);
	return r;
}

/* "name variant platform", as in an origin. */
static int key_of(struct message_text text, struct inlay_image_key *ret, struct inlay_error *err)
{
	char origin[INLAY_ORIGIN_MAX + 1] = "";

	if (text.len < sizeof origin && !memchr(text.bytes, 0, text.len)) {
		memcpy(origin, text.bytes, text.len);
		origin[text.len] = 0;
	}
	return inlay_image_key_parse(origin, ret)
		       ? 0
		       : inlay_error_set(err, -EPROTO, "a bad name of an image");
}

static int remove_image(struct serve *s, struct inlay_imagetrees *images, struct message_text body,
			struct inlay_error *err)
{
	struct inlay_image_key key;
	struct inlay_buf b = {0};
	uint64_t freed = 0;
	int r = key_of(body, &key, err);

	if (r == 0)
		r = inlay_imagetrees_remove(images, &key, &freed, err);
	if (r == INLAY_IMAGETREE_MISSING)
		return inlay_error_set(err, -ENOENT, "there is no such image here: %s", key.name);
	if (r == INLAY_IMAGETREE_BUSY)
		return -EWOULDBLOCK;
	if (r < 0)
		return r;
	inlay_buf_varint(&b, freed);
	return serve_row(s, &b, err);
}

/* ---- a push ---- */

static int begin(struct serve *s, struct inlay_imagetrees *images, const struct message_request *q,
		 struct inlay_error *err)
{
	struct inlay_imagepush_options o = {.wait_ns = (int64_t)(q->args[0] & INT32_MAX) * 1000000};
	struct message_image_push m;
	struct inlay_buf b = {0};
	char owner[INLAY_HOST_OWNER_MAX];
	int r = message_decode_image_push(q->body.bytes, q->body.len, &m, err);

	if (r == 0 && (s->ws || s->image))
		r = inlay_error_set(err, -EPROTO, "an image push out of place");
	if (r == 0)
		r = key_of(m.origin, &o.key, err);
	if (r < 0)
		return r;
	(void)snprintf(owner, sizeof owner, "%.*s", (int)m.owner.len, m.owner.bytes);
	o.manifest = m.manifest;
	o.basis = m.basis;
	o.squash = m.squash;
	o.emulate = m.emulate;
	o.owner = owner;
	r = inlay_imagepush_begin(images, &o, &s->image, err);
	if (r == INLAY_IMAGETREE_BUSY)
		return -EWOULDBLOCK;
	if (r < 0)
		return r;
	s->store = inlay_imagetrees_store(images);
	s->trees = inlay_imagetrees_trees(images);
	s->open_flags |= MESSAGE_OPEN_ALIVE;
	inlay_buf_varint(&b, inlay_imagepush_objects(s->image));
	return serve_row(s, &b, err);
}

static int finish_row(struct serve *s, const struct message_image_done *m, struct inlay_error *err)
{
	struct inlay_buf b = {0};

	message_encode_image_done(&b, m);
	return serve_row(s, &b, err);
}

static int finish(struct serve *s, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_idset_fini))) struct inlay_idset missing = {0};
	struct inlay_imagepush_result done;
	struct message_image_done m = {.end = MESSAGE_IMAGE_DONE};

	if (!s->image || (s->objects && !objects_in_idle(s->objects)))
		return inlay_error_set(err, -EPROTO, "an image's end out of place");
	if (s->refused) {
		auto_buf struct inlay_buf lost = s->lost;
		s->lost = (struct inlay_buf){0};
		s->refused = false;
		m.end = MESSAGE_IMAGE_REFUSED;
		m.ids = (struct message_text){(const char *)lost.data, lost.len};
		return finish_row(s, &m, err);
	}
	int r = inlay_imagepush_finish(s->image, &missing, &done, err);
	if (r < 0)
		return r;
	if (r == INLAY_IMAGETREE_MISSING) {
		size_t count = missing.count < LACKS_MAX ? missing.count : LACKS_MAX;
		m.end = MESSAGE_IMAGE_LACKS;
		m.ids = (struct message_text){(const char *)missing.members,
					      count * INLAY_DIGEST_BYTES};
		return finish_row(s, &m, err);
	}
	m.number = done.generation.number;
	m.changed = done.changed;
	m.entries = done.entries;
	m.shared = done.shared;
	m.written_bytes = done.written_bytes;
	m.xattrs = done.xattrs;
	m.laid_ns = (uint64_t)done.laid_ns;
	m.sync_ns = (uint64_t)done.sync_ns;
	return finish_row(s, &m, err);
}

int serve_image(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	struct inlay_imagetrees *images;
	int r = inlay_host_images(s->host, &images, err);

	if (r < 0)
		return r;
	switch (m->verb) {
	case MESSAGE_VERB_IMAGES:
		return list(s, images, err);
	case MESSAGE_VERB_IMAGE_INSPECT:
		return inspect(s, images, m->body, err);
	case MESSAGE_VERB_IMAGE_REMOVE:
		return remove_image(s, images, m->body, err);
	case MESSAGE_VERB_IMAGE_PUSH:
		return begin(s, images, m, err);
	case MESSAGE_VERB_IMAGE_SPACE:
		return s->image ? inlay_imagepush_space(s->image, m->args[0], m->args[1], err)
				: inlay_error_set(err, -EPROTO, "no image is being pushed");
	default:
		return finish(s, err);
	}
}

void serve_image_end(struct serve *s)
{
	if (!s->image)
		return;
	/* Trees that came are known to the next push. */
	(void)!inlay_store_flush(s->store, NULL);
	inlay_imagepush_end(take_ptr(s->image));
}

/* ---- the object stream ---- */

static int blob_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	return inlay_imagepush_blob_begin(((struct serve *)ctx)->image, size, err);
}

static int blob_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	return inlay_imagepush_blob_bytes(((struct serve *)ctx)->image, bytes, len, err);
}

static int blob_end(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *err)
{
	return inlay_imagepush_blob_end(((struct serve *)ctx)->image, keep, ret, err);
}

static int basis(void *ctx, uint64_t prefix, size_t max, struct inlay_buf *to,
		 struct inlay_error *err)
{
	int r = inlay_imagepush_basis(((struct serve *)ctx)->image, prefix, max, to, err);

	return r == INLAY_IMAGETREE_MISSING ? serve_content_gone(ctx, prefix, err) : r;
}

/* Images travel without librsync: the dev machine has their contents. */
static int patch_begin(void *ctx, const struct inlay_digest *basis_id,
		       const struct inlay_digest *id, uint64_t size, struct inlay_error *err)
{
	(void)ctx;
	(void)basis_id;
	(void)id;
	(void)size;
	return inlay_error_set(err, -EPROTO, "a patch of a content of an image");
}

const struct objects_sink serve_image_sink = {
	.blob_begin = blob_begin,
	.blob_bytes = blob_bytes,
	.blob_end = blob_end,
	.basis = basis,
	.patch_begin = patch_begin,
	.tree = serve_tree,
};
