/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A push to one host: what has it, which of the image's platforms is it for, what does it lack; then the stream; then
 * its tree. What it still lacks, or cannot build on, is sent once more, whole.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/imagefan.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "wire/imagemessage.h"

enum {
	ATTEMPTS = 3, /* inlayd may have to be installed first */
	ROUNDS = 3,
	PIECE_BYTES = 256 << 10,
	QUEUED_HIGH = 2 << 20,
	QUEUED_LOW = 512 << 10,
	HAVE_PER_MESSAGE = INLAY_FRAME_MAX / 8,
	BLOCK_BYTES = 4096,
	BASES_MAX = 16,
	OWNER_BYTES = 256,
};

struct pushing {
	const struct imagefan_options *o;
	struct imagestreams *streams;
	struct imagefan_host *h;
	struct client client;
	bool no_basis; /* it turned out not to be there */
	const struct inlay_image *image;
	struct inlay_digest bases[BASES_MAX]; /* what the host has, the best first */
	size_t base_count;
	uint64_t objects; /* contents that it has */
	const struct imageplan *plan;
	uint8_t *had; /* a bit for each of its items */
	struct message_image_done done;
	struct inlay_idset lacks;
	bool refused;
};

/* ---- what the host has ---- */

/* A listing comes before the image is chosen, since only then the machine is known. */
struct listed {
	struct message_image *items;
	size_t count;
};

static int hear_image(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct listed *l = ctx;
	struct message_image m;
	int r = message_decode_image(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	struct message_image *more = reallocarray(l->items, l->count + 1, sizeof *more);
	if (!more)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	l->items = more;
	more[l->count++] = m;
	return 0;
}

/* The platform of a machine, as far as its name says. */
static void platform_of(const char *machine, char ret[static INLAY_IMAGE_PLATFORM_MAX + 1])
{
	struct inlay_image_key key;

	if (strncmp(machine, "armv7", 5) == 0)
		machine = "linux/arm/v7";
	ret[0] = 0;
	if (inlay_image_key_make("x", "", machine, &key, NULL) == 0)
		(void)snprintf(ret, INLAY_IMAGE_PLATFORM_MAX + 1, "%s", key.platform);
}

static int choose_image(struct pushing *p, struct inlay_error *err)
{
	char platform[INLAY_IMAGE_PLATFORM_MAX + 1];

	platform_of(p->client.machine, platform);
	/* One alone is judged by the host. */
	p->image = p->o->image_count == 1 ? p->o->images : NULL;
	for (size_t i = 0; i < p->o->image_count && !p->image; i++)
		if (strcmp(p->o->images[i].key.platform, platform) == 0)
			p->image = &p->o->images[i];
	if (p->image) {
		p->h->image = *p->image;
		return 0;
	}
	(void)inlay_error_set(err, -ENOEXEC,
			      "%s is %.30s, and there is no image for %s here; choose one with "
			      "--platform",
			      p->h->name, p->client.machine, platform);
	return inlay_error_set_exit(err, INLAY_EXIT_HALT);
}

static void add_basis(struct pushing *p, const struct inlay_digest *id)
{
	if (p->base_count < BASES_MAX && inlay_store_has(p->o->store, id))
		p->bases[p->base_count++] = *id;
}

/* What could be built on: the same image first, then another with its name, then any. True when the host has it. */
static bool look_at(struct pushing *p, const struct listed *l)
{
	char origin[INLAY_ORIGIN_MAX + 1];
	const struct inlay_digest *manifest = &p->image->generation.root.tree;
	size_t name = strlen(p->image->key.name) + 1;

	inlay_image_key_text(&p->image->key, origin);
	p->base_count = 0;
	for (unsigned pass = 0; pass < 3; pass++) {
		for (size_t i = 0; i < l->count; i++) {
			const struct message_image *m = &l->items[i];
			bool same = strcmp(m->generation.origin, origin) == 0;
			bool named = !same && strncmp(m->generation.origin, origin, name) == 0;
			if (!m->whole || (same ? 0u : named ? 1u : 2u) != pass)
				continue;
			if (same && m->newest &&
			    inlay_digest_equal(&m->generation.root.tree, manifest)) {
				p->h->generation = m->generation.number;
				return true;
			}
			add_basis(p, &m->generation.root.tree);
		}
	}
	return false;
}

/* ---- what it lacks ---- */

static int choose_plan(struct pushing *p, struct inlay_error *err)
{
	const struct inlay_digest *manifest = &p->image->generation.root.tree;

	for (size_t i = 0; !p->no_basis && i < p->base_count; i++) {
		int r = imagestreams_plan(p->streams, manifest, &p->bases[i], &p->plan, err);
		if (r <= 0) {
			p->h->had_basis = r == 0;
			return r;
		}
	}
	return imagestreams_plan(p->streams, manifest, NULL, &p->plan, err);
}

static int hear_objects(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct pushing *p = ctx;
	struct inlay_cursor c = inlay_cursor_of(f->payload, f->len);

	p->objects = inlay_cursor_varint(&c);
	return inlay_cursor_done(&c) ? 0 : inlay_error_set(err, -EPROTO, "a bad answer to a push");
}

static int begin(struct pushing *p, struct inlay_error *err)
{
	static const struct inlay_digest none;
	char origin[INLAY_ORIGIN_MAX + 1], owner[OWNER_BYTES];
	auto_buf struct inlay_buf b = {0};

	inlay_image_key_text(&p->image->key, origin);
	client_owner(owner, sizeof owner);
	const struct message_image_push m = {
		.manifest = p->image->generation.root.tree,
		.basis = p->no_basis || p->base_count == 0 ? none : p->bases[0],
		.squash = p->o->squash,
		.emulate = p->o->emulate,
		.origin = message_text_of(origin),
		.owner = message_text_of(owner)};
	message_encode_image_push(&b, &m);
	int r = inlay_buf_check(&b, err);
	const struct message_request q = {.verb = MESSAGE_VERB_IMAGE_PUSH,
					  .args = {(uint64_t)(p->o->lock_wait_ns / 1000000)},
					  .body = {(const char *)b.data, b.len}};
	/* While the host looks at what it has, the plan is made. */
	if (r == 0)
		r = client_begin_request(&p->client, &q, err);
	if (r == 0)
		r = choose_plan(p, err);
	return r == 0 ? client_end_request(&p->client, hear_objects, p, err) : r;
}

static int ask_some(struct pushing *p, size_t from, size_t count, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct frame f;

	for (size_t i = 0; i < count; i++)
		inlay_buf_u64(&b, inlay_digest_prefix(&p->plan->items[from + i].id));
	int r = client_send(&p->client, MESSAGE_HAVE, &b, err);
	do
		r = r == 0 ? client_recv(&p->client, 0, &f, err) : r;
	while (r == 0 && f.type != MESSAGE_HAS);
	if (r == 0 && f.len != (count + 7) / 8)
		return inlay_error_set(err, -EPROTO, "a bad HAS message");
	for (size_t i = 0; r == 0 && i < count; i++)
		if (f.payload[i / 8] >> i % 8 & 1)
			p->had[(from + i) / 8] |= (uint8_t)(1 << (from + i) % 8);
	return r;
}

static int ask_what_it_has(struct pushing *p, struct inlay_error *err)
{
	int r = 0;

	free(p->had);
	p->had = calloc(1, p->plan->count / 8 + 1);
	if (!p->had)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t at = 0; r == 0 && p->objects > 0 && at < p->plan->count;
	     at += HAVE_PER_MESSAGE) {
		size_t left = p->plan->count - at;
		r = ask_some(p, at, left < HAVE_PER_MESSAGE ? left : HAVE_PER_MESSAGE, err);
	}
	return r;
}

static int ask_for_space(struct pushing *p, struct inlay_error *err)
{
	uint64_t bytes = p->plan->bytes, files = p->plan->files, have = 0, count = 0;

	for (size_t i = 0; i < p->plan->count; i++) {
		if (!imageencode_skips(p->had, i))
			continue;
		have += (p->plan->items[i].size + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
		count++;
	}
	const struct message_request q = {
		.verb = MESSAGE_VERB_IMAGE_SPACE,
		.args = {bytes > have ? bytes - have : 0, files > count ? files - count : 0}};
	return client_request(&p->client, &q, NULL, NULL, err);
}

/* ---- the stream ---- */

static int pass_on(struct pushing *p, struct imagestream *stream, struct inlay_error *err)
{
	auto_free uint8_t *piece = malloc(PIECE_BYTES);
	struct conn *c = &p->client.conn;
	size_t n = 1;
	int r = piece ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	p->h->stream = stream;
	p->h->phase = IMAGEFAN_SENDING;
	for (uint64_t at = 0; r == 0; at += n) {
		r = imagestream_read(stream, at, piece, PIECE_BYTES, &n, err);
		if (r < 0 || n == 0)
			break;
		r = conn_send(c, MESSAGE_DATA, piece, n, err);
		if (r == 0)
			r = client_drain(&p->client,
					 conn_queued(c) > QUEUED_HIGH ? QUEUED_LOW : SIZE_MAX, err);
		p->h->sent = at + n;
	}
	for (size_t i = 0; r == 0 && i < IMAGE_WAYS; i++) {
		p->h->figures.by[i].objects += stream->encode.figures.by[i].objects;
		p->h->figures.by[i].raw += stream->encode.figures.by[i].raw;
		p->h->figures.by[i].wire += stream->encode.figures.by[i].wire;
	}
	p->h->stream = NULL;
	return r;
}

static int hear_done(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct pushing *p = ctx;
	int r = message_decode_image_done(f->payload, f->len, &p->done, err);

	if (r == 0 && p->done.end == MESSAGE_IMAGE_LACKS)
		r = message_decode_want(p->done.ids.bytes, p->done.ids.len, &p->lacks, err);
	p->refused = r == 0 && p->done.end == MESSAGE_IMAGE_REFUSED;
	p->done.ids = (struct message_text){0};
	return r;
}

static int finish(struct pushing *p, struct inlay_error *err)
{
	const struct message_request q = {.verb = MESSAGE_VERB_IMAGE_FINISH};

	p->h->phase = IMAGEFAN_LAYING;
	p->done.end = 0;
	inlay_idset_fini(&p->lacks);
	int r = client_request(&p->client, &q, hear_done, p, err);
	return r == 0 && !p->done.end
		       ? inlay_error_set(err, -EPROTO, "the host said nothing at the end")
		       : r;
}

/* All that the plan has and the host does not; later what it told that it lacks. */
static int send_round(struct pushing *p, struct inlay_error *err)
{
	struct imagestream *stream;
	struct imageplan own = {0};
	int r = 0;

	if (p->lacks.count > 0) {
		r = imageplan_of_ids(p->o->store, &p->lacks, &p->plan->manifest, &own, err);
		if (r == 0)
			r = imagestreams_get(p->streams, &own, NULL, &own, &stream,
					     &p->h->shared_stream, err);
		imageplan_fini(&own);
	} else {
		/* What cannot be built on may have come in part. */
		if (p->refused)
			r = imagestreams_plan(p->streams, &p->plan->manifest, NULL, &p->plan, err);
		if (r == 0)
			r = ask_what_it_has(p, err);
		if (r == 0 && p->h->rounds == 0)
			r = ask_for_space(p, err);
		if (r == 0)
			r = imagestreams_get(p->streams, p->plan, take_ptr(p->had), NULL, &stream,
					     &p->h->shared_stream, err);
	}
	p->refused = false;
	p->h->rounds++;
	if (r == 0)
		r = pass_on(p, stream, err);
	return r == 0 ? finish(p, err) : r;
}

static int send_all(struct pushing *p, struct inlay_error *err)
{
	struct imagefan_host *h = p->h;
	int r = begin(p, err);

	do
		r = r == 0 ? send_round(p, err) : r;
	while (r == 0 && p->done.end != MESSAGE_IMAGE_DONE && h->rounds < ROUNDS);
	if (r != 0)
		return r;
	if (p->done.end != MESSAGE_IMAGE_DONE)
		return inlay_error_set(err, -EREMOTEIO,
				       "%s lacks contents again that were just sent", h->name);
	h->generation = p->done.number;
	h->entries = p->done.entries;
	h->shared = p->done.shared;
	h->written_bytes = p->done.written_bytes;
	h->xattrs = p->done.xattrs;
	h->laid_ns = (int64_t)p->done.laid_ns;
	h->sync_ns = (int64_t)p->done.sync_ns;
	return 0;
}

static int run_once(struct pushing *p, struct inlay_error *err)
{
	const struct message_request q = {.verb = MESSAGE_VERB_IMAGES};
	struct listed l = {0};
	int r = client_open(&p->client, &p->h->transport, p->o->bwlimit, err);

	if (r == 0)
		r = client_request(&p->client, &q, hear_image, &l, err);
	if (r == 0)
		r = choose_image(p, err);
	if (r == 0)
		p->h->there = look_at(p, &l);
	free(l.items);
	if (r == 0 && !p->h->there)
		r = send_all(p, err);
	p->h->sent_bytes += p->client.conn.sent;
	p->h->received_bytes += p->client.conn.received;
	bool basis = r == CLIENT_FAILED && p->client.failed.reason == MESSAGE_REASON_BASIS;
	client_close(&p->client);
	if (basis && !p->no_basis) {
		p->no_basis = true;
		p->h->rounds = 0;
		return CLIENT_AGAIN;
	}
	return r;
}

void imagehost_run(const struct imagefan_options *o, struct imagestreams *streams,
		   struct imagefan_host *h)
{
	struct pushing p = {.o = o, .streams = streams, .h = h};
	int r = CLIENT_AGAIN;

	for (int i = 0; i < ATTEMPTS && r == CLIENT_AGAIN; i++)
		r = run_once(&p, &h->err);
	if (r == CLIENT_AGAIN)
		r = inlay_error_set(&h->err, -EREMOTEIO, "inlayd was installed, but is not found");
	h->result = r > 0 ? h->err.code : r;
	for (size_t i = 0; i < IMAGE_WAYS && i != IMAGE_TREES; i++)
		h->objects += h->figures.by[i].objects;
	inlay_idset_fini(&p.lacks);
	free(p.had);
}
