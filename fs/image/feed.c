/* SPDX-License-Identifier: Apache-2.0 */
#include "image/feed.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/io.h"
#include "inlay/limits.h"
#include <zlib.h>
#include <zstd.h>

enum {
	SLOTS = 4,
	SLOT_BYTES = 512 << 10,
	INPUT_BYTES = 256 << 10,
};

struct slot {
	uint8_t *bytes;
	size_t len; /* 0 = the end */
};

enum kind { KIND_PLAIN, KIND_GZIP, KIND_ZSTD };

struct feed {
	/* Set before the thread starts. */
	int fd;
	uint64_t off, size;
	enum feed_flags flags;
	enum kind kind;
	pthread_t thread;
	bool started;
	/* The thread's own until it ended. */
	uint8_t *input;
	size_t input_len, input_at;
	uint64_t read; /* of size */
	z_stream gzip;
	bool gzip_on, gzip_inside; /* inside: between a member's begin and its end */
	ZSTD_DCtx *zstd;
	bool zstd_inside;
	struct inlay_hasher packed, plain;
	uint64_t plain_bytes;
	struct inlay_error err;
	int failed;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	struct slot slots[SLOTS];
	size_t filled, taken; /* counts; slot number is modulo SLOTS */
	bool stop;            /* nobody takes anything any more */

	/* The taker's. */
	bool holding, ended, summed;
	struct feed_sums sums;
};

static enum kind kind_of(const uint8_t *p, size_t n)
{
	static const uint8_t zstd_magic[4] = {0x28, 0xb5, 0x2f, 0xfd};

	if (n >= 2 && p[0] == 0x1f && p[1] == 0x8b)
		return KIND_GZIP;
	/* Also a skippable frame, with which some zstd tools begin. */
	if (n >= 4 && (memcmp(p, zstd_magic, 4) == 0 ||
		       ((p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18)))
		return KIND_ZSTD;
	return KIND_PLAIN;
}

static int look(int fd, uint64_t off, uint64_t size, enum kind *ret, struct inlay_error *err)
{
	uint8_t head[4];
	size_t n;
	int r = inlay_pread_full(fd, head, size < 4 ? (size_t)size : 4, off, &n, "an archive", err);

	if (r == 0)
		*ret = kind_of(head, n);
	return r;
}

int feed_is_packed(int fd, uint64_t off, uint64_t size, bool *ret, struct inlay_error *err)
{
	enum kind kind = KIND_PLAIN;
	int r = look(fd, off, size, &kind, err);

	if (r == 0)
		*ret = kind != KIND_PLAIN;
	return r;
}

/* ---- the thread ---- */

/* Up to `len` bytes of the file. */
static int read_some(struct feed *f, uint8_t *to, size_t len, size_t *ret_n)
{
	if (len > f->size - f->read)
		len = (size_t)(f->size - f->read);
	int r = inlay_pread_full(f->fd, to, len, f->off + f->read, ret_n, "an archive", &f->err);
	if (r < 0)
		return r;
	if (*ret_n < len)
		return inlay_error_set(&f->err, -EBADMSG, "it became shorter while it was read");
	if (f->flags & FEED_HASH && f->kind != KIND_PLAIN)
		inlay_hasher_add(&f->packed, to, len);
	f->read += len;
	return 0;
}

static int refill(struct feed *f)
{
	if (f->input_at < f->input_len)
		return 0;
	f->input_at = 0;
	return read_some(f, f->input, INPUT_BYTES, &f->input_len);
}

static int gunzip(struct feed *f, struct slot *s)
{
	int r = 0;

	while (r == 0 && s->len < SLOT_BYTES) {
		r = refill(f);
		if (r < 0)
			return r;
		if (f->input_len == 0)
			break;
		if (!f->gzip_inside) {
			/* Another member may follow; nothing else may. */
			if (inflateReset(&f->gzip) != Z_OK)
				return inlay_error_set(&f->err, -EIO, "gzip does not start");
			f->gzip_inside = true;
		}
		f->gzip.next_in = f->input + f->input_at;
		f->gzip.avail_in = (unsigned)(f->input_len - f->input_at);
		f->gzip.next_out = s->bytes + s->len;
		f->gzip.avail_out = (unsigned)(SLOT_BYTES - s->len);
		int z = inflate(&f->gzip, Z_NO_FLUSH);
		f->input_at = f->input_len - f->gzip.avail_in;
		s->len = SLOT_BYTES - f->gzip.avail_out;
		if (z == Z_STREAM_END)
			f->gzip_inside = false;
		else if (z != Z_OK && z != Z_BUF_ERROR)
			return inlay_error_set(&f->err, -EBADMSG, "damaged gzip data: %s",
					       f->gzip.msg ? f->gzip.msg : "no reason given");
	}
	if (s->len == 0 && f->gzip_inside)
		return inlay_error_set(&f->err, -EBADMSG, "the gzip data is cut off");
	return 0;
}

static int unzstd(struct feed *f, struct slot *s)
{
	while (s->len < SLOT_BYTES) {
		int r = refill(f);
		if (r < 0)
			return r;
		ZSTD_inBuffer in = {f->input, f->input_len, f->input_at};
		ZSTD_outBuffer out = {s->bytes, SLOT_BYTES, s->len};
		if (f->input_len == 0 && !f->zstd_inside)
			break;
		size_t before = out.pos;
		size_t z = ZSTD_decompressStream(f->zstd, &out, &in);
		f->input_at = in.pos;
		s->len = out.pos;
		if (ZSTD_isError(z))
			return inlay_error_set(&f->err, -EBADMSG, "damaged zstd data: %s",
					       ZSTD_getErrorName(z));
		f->zstd_inside = z != 0;
		if (f->input_len == 0 && out.pos == before)
			break;
	}
	if (s->len == 0 && f->zstd_inside)
		return inlay_error_set(&f->err, -EBADMSG, "the zstd data is cut off");
	return 0;
}

static int fill(struct feed *f, struct slot *s)
{
	int r;

	s->len = 0;
	if (f->kind == KIND_GZIP)
		r = gunzip(f, s);
	else if (f->kind == KIND_ZSTD)
		r = unzstd(f, s);
	else
		r = read_some(f, s->bytes, SLOT_BYTES, &s->len);
	if (r < 0)
		return r;
	f->plain_bytes += s->len;
	if (f->plain_bytes > INLAY_ARCHIVE_EXPAND_FREE &&
	    f->plain_bytes / INLAY_ARCHIVE_EXPAND > f->size)
		return inlay_error_set(&f->err, -E2BIG, "it unpacks to more than %d times its size",
				       INLAY_ARCHIVE_EXPAND);
	if (f->flags & FEED_HASH)
		inlay_hasher_add(&f->plain, s->bytes, s->len);
	return 0;
}

/* A slot to fill, or NULL when nobody takes anything any more. */
static struct slot *free_slot(struct feed *f)
{
	scope_lock(&f->lock);
	while (!f->stop && f->filled - f->taken == SLOTS)
		(void)pthread_cond_wait(&f->changed, &f->lock);
	return f->stop ? NULL : &f->slots[f->filled % SLOTS];
}

static void *run(void *ctx)
{
	struct feed *f = ctx;
	struct slot *s;

	while ((s = free_slot(f))) {
		int r = fill(f, s);
		scope_lock(&f->lock);
		if (r < 0) {
			f->failed = r;
			s->len = 0;
		}
		f->filled++;
		(void)pthread_cond_broadcast(&f->changed);
		if (s->len == 0)
			break;
	}
	return NULL;
}

/* ---- the taker ---- */

static int init_decoder(struct feed *f, struct inlay_error *err)
{
	if (f->kind == KIND_GZIP) {
		/* 16: gzip with its header, CRC and length, nothing else. */
		if (inflateInit2(&f->gzip, 15 + 16) != Z_OK)
			return inlay_error_set(err, -ENOMEM, "gzip does not start");
		f->gzip_on = true;
	}
	if (f->kind == KIND_ZSTD) {
		f->zstd = ZSTD_createDCtx();
		if (!f->zstd)
			return inlay_error_set(err, -ENOMEM, "zstd does not start");
		size_t z =
			ZSTD_DCtx_setParameter(f->zstd, ZSTD_d_windowLogMax, INLAY_ZSTD_WINDOW_LOG);
		if (ZSTD_isError(z))
			return inlay_error_set(err, -EINVAL, "zstd: %s", ZSTD_getErrorName(z));
	}
	if (f->kind != KIND_PLAIN) {
		f->input = malloc(INPUT_BYTES);
		if (!f->input)
			return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

int feed_open(int fd, uint64_t off, uint64_t size, enum feed_flags flags, struct feed **ret,
	      struct inlay_error *err)
{
	auto_of(feed_close) struct feed *f = calloc(1, sizeof *f);

	if (!f)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	f->fd = fd;
	f->off = off;
	f->size = size;
	f->flags = flags;
	(void)pthread_mutex_init(&f->lock, NULL);
	(void)pthread_cond_init(&f->changed, NULL);
	inlay_hasher_init(&f->packed);
	inlay_hasher_init(&f->plain);
	int r = look(fd, off, size, &f->kind, err);
	if (r == 0)
		r = init_decoder(f, err);
	for (size_t i = 0; r == 0 && i < SLOTS; i++) {
		f->slots[i].bytes = malloc(SLOT_BYTES);
		if (!f->slots[i].bytes)
			r = inlay_error_set(err, -ENOMEM, "out of memory");
	}
	if (r < 0)
		return r;
	r = pthread_create(&f->thread, NULL, run, f);
	if (r != 0)
		return inlay_error_sys(err, -r, "start a thread");
	f->started = true;
	*ret = take_ptr(f);
	return 0;
}

int feed_next(struct feed *f, const void **ret_bytes, size_t *ret_len, struct inlay_error *err)
{
	struct slot *s;

	if (f->ended && f->failed < 0)
		return inlay_error_set(err, f->failed, "%s", f->err.text);
	if (f->ended) {
		*ret_bytes = f->slots[0].bytes;
		*ret_len = 0;
		return 0;
	}
	{
		scope_lock(&f->lock);
		if (f->holding) {
			f->taken++;
			(void)pthread_cond_broadcast(&f->changed);
		}
		while (f->filled == f->taken)
			(void)pthread_cond_wait(&f->changed, &f->lock);
		s = &f->slots[f->taken % SLOTS];
		f->holding = true;
	}
	if (s->len == 0) {
		f->ended = true;
		if (f->failed < 0)
			return inlay_error_set(err, f->failed, "%s", f->err.text);
	}
	*ret_bytes = s->bytes;
	*ret_len = s->len;
	return 0;
}

int feed_finish(struct feed *f, struct feed_sums *ret, struct inlay_error *err)
{
	const void *bytes;
	size_t len;
	int r;

	do
		r = feed_next(f, &bytes, &len, err);
	while (r == 0 && len > 0);
	if (r < 0)
		return r;
	if (!f->summed) {
		inlay_hasher_end(&f->plain, &f->sums.plain);
		if (f->kind == KIND_PLAIN)
			f->sums.packed = f->sums.plain;
		else
			inlay_hasher_end(&f->packed, &f->sums.packed);
		f->sums.plain_bytes = f->plain_bytes;
		f->summed = true;
	}
	*ret = f->sums;
	return 0;
}

void feed_close(struct feed *f)
{
	if (!f)
		return;
	if (f->started) {
		{
			scope_lock(&f->lock);
			f->stop = true;
			(void)pthread_cond_broadcast(&f->changed);
		}
		(void)pthread_join(f->thread, NULL);
	}
	if (f->gzip_on)
		(void)inflateEnd(&f->gzip);
	(void)ZSTD_freeDCtx(f->zstd);
	for (size_t i = 0; i < SLOTS; i++)
		free(f->slots[i].bytes);
	free(f->input);
	(void)pthread_cond_destroy(&f->changed);
	(void)pthread_mutex_destroy(&f->lock);
	free(f);
}
