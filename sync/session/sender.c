/* SPDX-License-Identifier: Apache-2.0 */
#include "session/sender.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "session/treesend.h"

enum {
	QUEUED_HIGH = 2 << 20,  /* above this the connection is let catch up ... */
	QUEUED_LOW = 512 << 10, /* ... to this */
	DEFAULT_LEVEL = 3,
	MEDIUM_LEVEL = 6,
	SLOW_LEVEL = 9,
	MEDIUM_RATE = 6 << 20, /* bytes a second */
	SLOW_RATE = 1 << 20,
	MEASURED_MIN = 2, /* times, before the link is called slow */
};

/* While it is full, its speed shows. The fastest counts: what slows it may be a target that is busy just now, and
 * then a higher level would not help. */
static int wait_for_link(struct sender *s, struct inlay_error *err)
{
	struct conn *c = &s->client->conn;
	size_t before = conn_queued(c);
	int64_t start = inlay_monotonic_ns();
	int r = client_drain(s->client, QUEUED_LOW, err);
	int64_t took = inlay_monotonic_ns() - start;

	if (r != 0 || took <= 0)
		return r;
	uint64_t rate = (uint64_t)((double)(before - conn_queued(c)) * 1e9 / (double)took);
	s->rate = rate > s->rate ? rate : s->rate;
	s->measured++;
	return 0;
}

int sender_pass(struct sender *s, const void *bytes, size_t len, struct inlay_error *err)
{
	int r = conn_send(&s->client->conn, MESSAGE_DATA, bytes, len, err);

	/* Start what can go now; wait only when much piles up. */
	if (r == 0)
		r = client_drain(s->client, SIZE_MAX, err);
	if (r == 0 && conn_queued(&s->client->conn) > QUEUED_HIGH)
		r = wait_for_link(s, err);
	if (s->moved)
		s->moved(s->ctx);
	return r;
}

static int emit(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct sender *s = ctx;
	int r = s->onto ? encoded_append(s->onto, bytes, len, err)
			: sender_pass(s, bytes, len, err);

	/* Between us and the caller lies the object stream, which knows failures only. */
	if (r > 0) {
		s->interrupted = r;
		r = -EINTR;
	}
	return r;
}

int sender_init(struct sender *s, struct source *source, struct client *client,
		struct inlay_error *err)
{
	*s = (struct sender){.source = source, .client = client};
	return objects_out_init(&s->out, emit, s, err);
}

void sender_fini(struct sender *s)
{
	objects_out_fini(&s->out);
}

bool sender_has(const struct sender *s, const struct inlay_digest *id)
{
	return objects_out_has(&s->out, id) || (s->known && inlay_idset_has(s->known, id));
}

/* ---- figures ---- */

void codecs_add(struct codecs *sum, const struct codecs *more)
{
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		sum->by[i].objects += more->by[i].objects;
		sum->by[i].raw += more->by[i].raw;
		sum->by[i].wire += more->by[i].wire;
	}
}

const char *codec_name(enum codec c)
{
	static const char *const names[] = {"whole", "delta", "patch", "trees", "known"};

	return names[c];
}

static void count(struct sender *s, enum codec codec, uint64_t raw)
{
	s->codecs.by[codec].objects++;
	s->codecs.by[codec].raw += raw;
}

void sender_count(struct sender *s, uint64_t size)
{
	count(s, s->codec, size);
}

void sender_count_known(struct sender *s, uint64_t size)
{
	count(s, CODEC_KNOWN, size);
}

static void attribute(struct sender *s)
{
	s->codecs.by[s->codec].wire += s->out.packed - s->packed_before;
	s->packed_before = s->out.packed;
}

int sender_codec(struct sender *s, enum codec codec, struct inlay_error *err)
{
	if (codec == s->codec)
		return 0;
	int r = objects_out_settle(&s->out, err);
	attribute(s);
	s->codec = codec;
	return r;
}

int sender_restart(struct sender *s, struct inlay_error *err)
{
	bool apart = s->out.apart;

	objects_out_fini(&s->out);
	s->packed_before = 0;
	int r = objects_out_init(&s->out, emit, s, err);
	s->out.apart = apart;
	return r;
}

int sender_level(const struct sender *s)
{
	if (s->level)
		return s->level;
	/* zstd does some 560, 250 and 140 MB/s of source code at these levels, which becomes a ninth. */
	if (s->measured < MEASURED_MIN || s->rate > MEDIUM_RATE)
		return DEFAULT_LEVEL;
	return s->rate > SLOW_RATE ? MEDIUM_LEVEL : SLOW_LEVEL;
}

int sender_whole(struct sender *s, uint64_t bytes, struct inlay_error *err)
{
	struct objects_frame f = {.bytes = bytes, .level = sender_level(s)};

	s->whole_bytes = bytes;
	int r = sender_codec(s, CODEC_WHOLE, err);

	return r < 0 ? r : objects_out_frame(&s->out, &f, err);
}

int sender_delta(struct sender *s, const struct objects_frame *f, struct inlay_error *err)
{
	int r = sender_codec(s, CODEC_DELTA, err);

	return r < 0 ? r : objects_out_frame(&s->out, f, err);
}

int sender_patches(struct sender *s, uint64_t bytes, struct inlay_error *err)
{
	struct objects_frame f = {.bytes = bytes, .level = sender_level(s)};
	int r = sender_codec(s, CODEC_PATCH, err);

	return r < 0 ? r : objects_out_frame(&s->out, &f, err);
}

int sender_end(struct sender *s, struct inlay_error *err)
{
	int r = objects_out_end(&s->out, err);

	attribute(s);
	return r;
}

/* ---- files ---- */

/* A slow link leaves time to look harder. What came before is forgotten, so this is done once or twice at most. */
static int adapt(struct sender *s, struct inlay_error *err)
{
	if (s->codec != CODEC_WHOLE || sender_level(s) <= s->out.level)
		return 0;
	return sender_whole(s, s->whole_bytes, err);
}

static int send_whole(void *ctx, const void *bytes, size_t len, const struct inlay_digest *id,
		      struct inlay_error *err)
{
	struct sender *s = ctx;

	if (sender_has(s, id))
		return 0;
	int r = adapt(s, err);
	if (r == 0)
		r = objects_out_blob_begin(&s->out, len, err);
	if (r == 0)
		r = objects_out_blob_bytes(&s->out, bytes, len, err);
	if (r == 0)
		r = objects_out_blob_end(&s->out, id, err);
	count(s, s->codec, len);
	return r;
}

static int send_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	struct sender *s = ctx;

	s->large = size;
	int r = adapt(s, err);
	return r == 0 ? objects_out_blob_begin(&s->out, size, err) : r;
}

static int send_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct sender *s = ctx;

	return objects_out_blob_bytes(&s->out, bytes, len, err);
}

static int send_end(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	struct sender *s = ctx;

	if (id)
		count(s, s->codec, s->large);
	/* Its content came before, under another name: this copy is one too many. */
	if (id && objects_out_has(&s->out, id))
		id = NULL;
	return objects_out_blob_end(&s->out, id, err);
}

struct source_consumer sender_consumer(struct sender *s)
{
	return (struct source_consumer){.whole = send_whole,
					.begin = send_begin,
					.bytes = send_bytes,
					.end = send_end,
					.ctx = s};
}

/* ---- directories ---- */

static bool has_tree(void *ctx, const struct inlay_digest *id)
{
	return sender_has(ctx, id);
}

static int begin_tree(void *ctx, struct inlay_error *err)
{
	return sender_codec(ctx, CODEC_TREES, err);
}

static void count_tree(void *ctx, uint64_t raw)
{
	count(ctx, CODEC_TREES, raw);
}

int sender_tree(struct sender *s, const struct inlay_digest *before,
		const struct inlay_digest *after, struct inlay_error *err)
{
	const struct treesend t = {.out = &s->out,
				   .trees = s->source->trees,
				   .has = has_tree,
				   .begin = begin_tree,
				   .sent = count_tree,
				   .ctx = s};

	return treesend(&t, before, after, err);
}
