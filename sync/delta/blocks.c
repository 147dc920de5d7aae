/* SPDX-License-Identifier: Apache-2.0 */
#include "delta/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "inlay/limits.h"

#define MAGIC "inlayblk"

enum {
	VERSION = 1,
	HEADER_BYTES = 56,
	SUM_BYTES = 12,
	CHECK_BYTES = 8,
	PROBES_MAX = 16,          /* blocks with the same place in the table that are looked at */
	WINDOW_BYTES = 1 << 20,   /* and a block more: of the new content */
	LITERAL_BYTES = 64 << 10, /* of what is new, at a time */
};

static uint32_t length_for(uint64_t size)
{
	uint32_t length = BLOCKS_LENGTH_MIN;

	while (size / length >= BLOCKS_COUNT_MAX)
		length *= 2;
	return length;
}

static size_t count_of(const struct blocks *b)
{
	return (size_t)((b->size + b->length - 1) / b->length);
}

/* ---- sums ---- */

/* rsync's: two sums of 16 bits, which a byte more and a byte less change in a simple way. */
struct weak {
	uint32_t a, b;
};

static struct weak weak_of(const uint8_t *p, size_t n)
{
	struct weak w = {0};

	for (size_t i = 0; i < n; i++) {
		w.a += p[i];
		w.b += w.a;
	}
	return w;
}

static void roll(struct weak *w, uint8_t out, uint8_t in, uint32_t n)
{
	w->a += (uint32_t)in - out;
	w->b += w->a - n * out;
}

static uint32_t weak_value(const struct weak *w)
{
	return (w->a & 0xffff) | w->b << 16;
}

/* ---- making ---- */

static void add_sum(struct blocks_maker *m, const uint8_t *block, size_t len)
{
	struct weak w = weak_of(block, len);

	inlay_buf_u32(&m->blocks.sums, weak_value(&w));
	inlay_buf_u64(&m->blocks.sums, inlay_xxh3(block, len));
}

void blocks_begin(struct blocks_maker *m, uint64_t size)
{
	*m = (struct blocks_maker){.blocks = {.size = size, .length = length_for(size)}};
}

void blocks_feed(struct blocks_maker *m, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	size_t length = m->blocks.length;

	while (len > 0) {
		if (m->part.len == 0 && len >= length) {
			add_sum(m, p, length);
			p += length;
			len -= length;
			continue;
		}
		size_t n = length - m->part.len < len ? length - m->part.len : len;
		inlay_buf_add(&m->part, p, n);
		p += n;
		len -= n;
		if (m->part.len == length) {
			add_sum(m, m->part.data, length);
			inlay_buf_clear(&m->part);
		}
		if (m->part.failed)
			return;
	}
}

int blocks_encode(struct blocks_maker *m, const struct inlay_digest *id, struct inlay_buf *to,
		  struct inlay_error *err)
{
	if (m->part.len > 0)
		add_sum(m, m->part.data, m->part.len);
	int r = inlay_buf_check(&m->part, err);
	if (r == 0)
		r = inlay_buf_check(&m->blocks.sums, err);
	if (r < 0)
		return r;
	inlay_buf_add(to, MAGIC, 8);
	inlay_buf_u64(to, VERSION);
	inlay_buf_add(to, id->b, INLAY_DIGEST_BYTES);
	inlay_buf_u64(to, m->blocks.size);
	inlay_buf_add(to, m->blocks.sums.data, m->blocks.sums.len);
	r = inlay_buf_check(to, err);
	if (r == 0)
		inlay_buf_u64(to, inlay_xxh3(to->data, to->len));
	return r == 0 ? inlay_buf_check(to, err) : r;
}

void blocks_maker_fini(struct blocks_maker *m)
{
	blocks_fini(&m->blocks);
	inlay_buf_fini(&m->part);
}

/* ---- reading ---- */

int blocks_decode(const void *bytes, size_t len, const struct inlay_digest *id, struct blocks *ret,
		  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	struct blocks b = {0};

	const uint8_t *magic = inlay_cursor_bytes(&c, 8);
	uint64_t version = inlay_cursor_u64(&c);
	const uint8_t *of = inlay_cursor_bytes(&c, INLAY_DIGEST_BYTES);
	b.size = inlay_cursor_u64(&c);
	if (c.failed || memcmp(magic, MAGIC, 8) != 0 || version != VERSION ||
	    memcmp(of, id->b, INLAY_DIGEST_BYTES) != 0 || b.size == 0 || b.size > INLAY_OBJECT_MAX)
		return inlay_error_set(err, -EPROTO, "no sums of that content");
	b.length = length_for(b.size);
	size_t sums = count_of(&b) * SUM_BYTES;
	const uint8_t *at = inlay_cursor_bytes(&c, sums);
	uint64_t check = inlay_cursor_u64(&c);
	if (!inlay_cursor_done(&c) || check != inlay_xxh3(bytes, len - CHECK_BYTES))
		return inlay_error_set(err, -EPROTO, "damaged sums");
	inlay_buf_add(&b.sums, at, sums);
	int r = inlay_buf_check(&b.sums, err);
	if (r < 0)
		blocks_fini(&b);
	else
		*ret = b;
	return r;
}

void blocks_fini(struct blocks *b)
{
	inlay_buf_fini(&b->sums);
}

/* ---- differences ---- */

struct blocks_delta {
	const struct blocks *b;
	size_t count, next; /* the block that is expected here; count = none */
	uint32_t *table;    /* block + 1 by weak sum, open addressing; 0 = free */
	unsigned bits;
	uint8_t *window;
	size_t len, at, literal; /* window: filled, looked at so far, where what is new begins */
	bool rolling;
	struct weak weak; /* rolling: of the block at `at` */
	uint64_t copy_from, copy_len;
	struct inlay_buf out;
	rdiff_write_fn *write;
	void *ctx;
};

static uint32_t weak_sum(const struct blocks_delta *d, size_t i)
{
	return inlay_get_le32(d->b->sums.data + i * SUM_BYTES);
}

static uint64_t strong_sum(const struct blocks_delta *d, size_t i)
{
	return inlay_get_le64(d->b->sums.data + i * SUM_BYTES + 4);
}

static size_t length_of(const struct blocks_delta *d, size_t i)
{
	return i + 1 < d->count ? d->b->length : (size_t)(d->b->size - (uint64_t)i * d->b->length);
}

static size_t slot(const struct blocks_delta *d, uint32_t weak, unsigned probe)
{
	return (((size_t)(weak * 2654435761u) >> (32 - d->bits)) + probe) &
	       (((size_t)1 << d->bits) - 1);
}

/* Only whole blocks: the last one is found behind the one before it. The same content comes in once. */
static void fill_table(struct blocks_delta *d)
{
	for (size_t i = 0; i < d->count && length_of(d, i) == d->b->length; i++) {
		uint32_t weak = weak_sum(d, i);
		for (unsigned probe = 0; probe < PROBES_MAX; probe++) {
			uint32_t *at = &d->table[slot(d, weak, probe)];
			if (*at && weak_sum(d, *at - 1) == weak &&
			    strong_sum(d, *at - 1) == strong_sum(d, i))
				break;
			if (*at)
				continue;
			*at = (uint32_t)i + 1;
			break;
		}
	}
}

int blocks_delta_new(const struct blocks *b, rdiff_write_fn *write, void *ctx,
		     struct blocks_delta **ret, struct inlay_error *err)
{
	struct blocks_delta *d = calloc(1, sizeof *d);

	if (!d)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*d = (struct blocks_delta){
		.b = b, .count = count_of(b), .bits = 12, .write = write, .ctx = ctx};
	while (((size_t)1 << d->bits) < 2 * d->count)
		d->bits++;
	d->table = calloc((size_t)1 << d->bits, sizeof *d->table);
	d->window = malloc(WINDOW_BYTES + b->length);
	rdiff_put_begin(&d->out);
	if (!d->table || !d->window) {
		blocks_delta_free(d);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	fill_table(d);
	*ret = d;
	return 0;
}

void blocks_delta_free(struct blocks_delta *d)
{
	if (!d)
		return;
	free(d->table);
	free(d->window);
	inlay_buf_fini(&d->out);
	free(d);
}

static int put_out(struct blocks_delta *d, struct inlay_error *err)
{
	int r = inlay_buf_check(&d->out, err);

	if (r == 0 && d->out.len > 0)
		r = d->write(d->ctx, d->out.data, d->out.len, err);
	inlay_buf_clear(&d->out);
	return r;
}

static int put_copy(struct blocks_delta *d, struct inlay_error *err)
{
	if (d->copy_len > 0)
		rdiff_put_copy(&d->out, d->copy_from, d->copy_len);
	d->copy_len = 0;
	return put_out(d, err);
}

/* What is new, up to `at`. */
static int put_literal(struct blocks_delta *d, struct inlay_error *err)
{
	int r = 0;

	if (d->literal == d->at)
		return 0;
	r = put_copy(d, err);
	if (r == 0)
		rdiff_put_literal(&d->out, d->window + d->literal, d->at - d->literal);
	d->literal = d->at;
	return r == 0 ? put_out(d, err) : r;
}

static int found(struct blocks_delta *d, size_t i, struct inlay_error *err)
{
	uint64_t from = (uint64_t)i * d->b->length;
	int r = put_literal(d, err);

	if (r == 0 && d->copy_len > 0 && d->copy_from + d->copy_len != from)
		r = put_copy(d, err);
	if (d->copy_len == 0)
		d->copy_from = from;
	d->copy_len += length_of(d, i);
	d->at += length_of(d, i);
	d->literal = d->at;
	d->next = i + 1;
	d->rolling = false;
	return r;
}

static bool is_block(const struct blocks_delta *d, size_t i)
{
	size_t n = length_of(d, i);

	return d->len - d->at >= n && inlay_xxh3(d->window + d->at, n) == strong_sum(d, i);
}

/* A block with this weak sum that is here; count = none. */
static size_t look_up(const struct blocks_delta *d)
{
	uint32_t weak = weak_value(&d->weak);

	for (unsigned probe = 0; probe < PROBES_MAX; probe++) {
		uint32_t i = d->table[slot(d, weak, probe)];
		if (i == 0)
			break;
		if (weak_sum(d, i - 1) == weak && is_block(d, i - 1))
			return i - 1;
	}
	return d->count;
}

/* One block further, or one byte. There is a whole block and a byte in the window, or the content ends with it. */
static int step(struct blocks_delta *d, struct inlay_error *err)
{
	size_t length = d->b->length;

	if (!d->rolling && d->next < d->count && is_block(d, d->next))
		return found(d, d->next, err);
	if (d->len - d->at < length) {
		/* The end: the last block may be here, or it is new. */
		bool last = d->count > 0 && length_of(d, d->count - 1) == d->len - d->at;
		if (last && is_block(d, d->count - 1))
			return found(d, d->count - 1, err);
		d->at++;
		return 0;
	}
	if (!d->rolling)
		d->weak = weak_of(d->window + d->at, length);
	d->rolling = true;
	size_t i = look_up(d);
	if (i < d->count)
		return found(d, i, err);
	d->rolling = d->len - d->at > length;
	if (d->rolling)
		roll(&d->weak, d->window[d->at], d->window[d->at + length], (uint32_t)length);
	d->at++;
	return d->at - d->literal >= LITERAL_BYTES ? put_literal(d, err) : 0;
}

/* Goes on while what is in the window is enough; to the end when nothing more comes. */
static int look(struct blocks_delta *d, bool end, struct inlay_error *err)
{
	int r = 0;

	while (r == 0 && (end ? d->at < d->len : d->len - d->at > d->b->length))
		r = step(d, err);
	return r;
}

int blocks_delta_feed(struct blocks_delta *d, const void *bytes, size_t len,
		      struct inlay_error *err)
{
	const uint8_t *p = bytes;
	int r = 0;

	while (r == 0 && len > 0) {
		size_t room = WINDOW_BYTES + d->b->length - d->len, n = len < room ? len : room;
		memcpy(d->window + d->len, p, n);
		d->len += n;
		p += n;
		len -= n;
		r = look(d, false, err);
		if (r == 0 && d->len == WINDOW_BYTES + d->b->length)
			r = put_literal(d, err);
		if (r == 0 && d->literal == d->at) {
			memmove(d->window, d->window + d->at, d->len - d->at);
			d->len -= d->at;
			d->at = d->literal = 0;
		}
	}
	return r;
}

int blocks_delta_end(struct blocks_delta *d, struct inlay_error *err)
{
	int r = look(d, true, err);

	if (r == 0)
		r = put_literal(d, err);
	if (r == 0)
		r = put_copy(d, err);
	rdiff_put_end(&d->out);
	return r == 0 ? put_out(d, err) : r;
}
