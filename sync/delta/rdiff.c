/* SPDX-License-Identifier: Apache-2.0 */
#include "delta/rdiff.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include <librsync.h>

#include "inlay/cleanup.h"
#include "inlay/limits.h"

enum {
	PIECE_BYTES = 64 << 10,
	SIGNATURE_HEADER = 12, /* magic, block length, strong length; big-endian */
	WEAK_BYTES = 4,
	BLOCK_MAX = 1 << 24,
};

/* Errors are returned; nobody has asked for them to be printed. */
static void be_quiet(void)
{
	rs_trace_to(NULL);
}

static void quiet(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)pthread_once(&once, be_quiet);
}

static int failed(struct inlay_error *err, rs_result r)
{
	if (r == RS_MEM_ERROR)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	return inlay_error_set(err, -EPROTO, "librsync: %s", rs_strerror(r));
}

/* A job that takes bytes and gives bytes. */
struct machine {
	rs_job_t *job;
	rdiff_write_fn *write;
	void *ctx;
	bool done;
	int broken; /* what a callback gave; librsync carries only its own codes */
	uint8_t out[PIECE_BYTES];
};

/* Takes all of the bytes. */
static int drive(struct machine *m, const void *bytes, size_t len, bool eof,
		 struct inlay_error *err)
{
	rs_buffers_t b = {.next_in = (char *)bytes, .avail_in = len, .eof_in = eof};
	int r = 0;

	while (r == 0 && !m->done) {
		size_t before = b.avail_in;
		b.next_out = (char *)m->out;
		b.avail_out = sizeof m->out;
		rs_result result = rs_job_iter(m->job, &b);
		size_t made = sizeof m->out - b.avail_out;
		if (m->broken < 0)
			return m->broken;
		if (result != RS_DONE && result != RS_BLOCKED)
			return failed(err, result);
		m->done = result == RS_DONE;
		if (made > 0)
			r = m->write(m->ctx, m->out, made, err);
		if (m->done || made > 0 || b.avail_in < before)
			continue;
		if (b.avail_in > 0 || eof)
			return failed(err, RS_INPUT_ENDED);
		break;
	}
	if (r == 0 && b.avail_in > 0)
		return inlay_error_set(err, -EPROTO, "librsync: bytes behind the end");
	return r;
}

/* ---- signatures ---- */

static int sign(struct machine *m, rdiff_read_fn *read, uint64_t size, struct inlay_error *err)
{
	auto_free uint8_t *buf = malloc(PIECE_BYTES);
	uint64_t off = 0;
	int r = 0;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	while (r == 0 && off < size) {
		size_t n;
		r = read(m->ctx, buf, PIECE_BYTES, off, &n, err);
		if (r == 0 && n == 0)
			return inlay_error_set(err, -EIO, "the old content is shorter than it was");
		if (r == 0)
			r = drive(m, buf, n, false, err);
		off += n;
	}
	return r == 0 ? drive(m, "", 0, true, err) : r;
}

int rdiff_signature(uint64_t size, rdiff_read_fn *read, rdiff_write_fn *write, void *ctx,
		    struct inlay_error *err)
{
	rs_magic_number magic = RS_RK_BLAKE2_SIG_MAGIC;
	size_t block = 0, strong = (size_t)-1;
	quiet();
	rs_result bad = rs_sig_args((rs_long_t)size, &magic, &block, &strong);

	if (bad != RS_DONE)
		return failed(err, bad);
	auto_free struct machine *m = calloc(1, sizeof *m);
	if (m)
		m->job = rs_sig_begin(block, strong, magic);
	if (!m || !m->job)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	m->write = write;
	m->ctx = ctx;
	int r = sign(m, read, size, err);
	(void)rs_job_free(m->job);
	return r;
}

/* ---- patches ---- */

struct rdiff_patch {
	struct machine m;
	rdiff_read_fn *read;
	rdiff_write_fn *write;
	void *ctx;
	uint64_t left;
	struct inlay_error why; /* of m.broken */
};

static rs_result copy_old(void *opaque, rs_long_t pos, size_t *len, void **buf)
{
	struct rdiff_patch *p = opaque;
	size_t n;

	int r = p->read(p->ctx, *buf, *len, (uint64_t)pos, &n, &p->why);
	if (r == 0 && n == 0 && *len > 0)
		r = inlay_error_set(&p->why, -EPROTO, "a delta copies from behind the end");
	if (r < 0)
		p->m.broken = r;
	*len = r < 0 ? 0 : n;
	return r < 0 ? RS_IO_ERROR : RS_DONE;
}

static int count_out(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct rdiff_patch *p = ctx;

	if (len > p->left)
		return inlay_error_set(err, -EPROTO, "a delta makes more than it promised");
	p->left -= len;
	return p->write(p->ctx, bytes, len, err);
}

int rdiff_patch_new(uint64_t max, rdiff_read_fn *read, rdiff_write_fn *write, void *ctx,
		    struct rdiff_patch **ret, struct inlay_error *err)
{
	struct rdiff_patch *p = calloc(1, sizeof *p);

	quiet();
	if (p)
		p->m.job = rs_patch_begin(copy_old, p);
	if (!p || !p->m.job) {
		free(p);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	p->m.write = count_out;
	p->m.ctx = p;
	p->read = read;
	p->write = write;
	p->ctx = ctx;
	p->left = max;
	*ret = p;
	return 0;
}

static int patch(struct rdiff_patch *p, const void *bytes, size_t len, bool eof,
		 struct inlay_error *err)
{
	int r = drive(&p->m, bytes, len, eof, err);

	return r < 0 && p->m.broken ? inlay_error_set(err, r, "%s", p->why.text) : r;
}

int rdiff_patch_feed(struct rdiff_patch *p, const void *bytes, size_t len, struct inlay_error *err)
{
	return patch(p, bytes, len, false, err);
}

int rdiff_patch_end(struct rdiff_patch *p, struct inlay_error *err)
{
	int r = patch(p, "", 0, true, err);

	return r == 0 && p->left > 0
		       ? inlay_error_set(err, -EPROTO, "a delta makes less than it promised")
		       : r;
}

void rdiff_patch_free(struct rdiff_patch *p)
{
	if (p)
		(void)rs_job_free(p->m.job);
	free(p);
}

/* ---- deltas ---- */

struct rdiff_delta {
	struct machine m;
	rs_signature_t *sums;
};

static uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* librsync would take lengths and counts as they come. */
static bool signature_fits(const uint8_t *bytes, size_t len, uint64_t basis_size)
{
	if (len < SIGNATURE_HEADER || len > INLAY_SIGNATURE_MAX)
		return false;
	uint64_t block = get_be32(bytes + 4), strong = get_be32(bytes + 8);
	if (get_be32(bytes) != RS_RK_BLAKE2_SIG_MAGIC || block == 0 || block > BLOCK_MAX ||
	    strong == 0 || strong > RS_MAX_STRONG_SUM_LENGTH)
		return false;
	uint64_t count = basis_size / block + (basis_size % block != 0);
	uint64_t sums = len - SIGNATURE_HEADER;
	return sums % (WEAK_BYTES + strong) == 0 && sums / (WEAK_BYTES + strong) == count;
}

static int load_signature(const void *bytes, size_t len, rs_signature_t **ret,
			  struct inlay_error *err)
{
	rs_buffers_t b = {.next_in = (char *)bytes, .avail_in = len, .eof_in = 1};
	rs_job_t *job = rs_loadsig_begin(ret);

	if (!job)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	rs_result r = rs_job_iter(job, &b);
	(void)rs_job_free(job);
	if (r == RS_DONE)
		r = rs_build_hash_table(*ret);
	return r == RS_DONE ? 0 : failed(err, r);
}

int rdiff_delta_new(const void *signature, size_t len, uint64_t basis_size, rdiff_write_fn *write,
		    void *ctx, struct rdiff_delta **ret, struct inlay_error *err)
{
	quiet();
	if (!signature_fits(signature, len, basis_size))
		return inlay_error_set(err, -EPROTO,
				       "a signature that is none, or of another content");
	struct rdiff_delta *d = calloc(1, sizeof *d);
	if (!d)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = load_signature(signature, len, &d->sums, err);
	if (r == 0) {
		d->m.job = rs_delta_begin(d->sums);
		d->m.write = write;
		d->m.ctx = ctx;
		if (!d->m.job)
			r = inlay_error_set(err, -ENOMEM, "out of memory");
	}
	if (r < 0)
		rdiff_delta_free(d);
	else
		*ret = d;
	return r;
}

int rdiff_delta_feed(struct rdiff_delta *d, const void *bytes, size_t len, struct inlay_error *err)
{
	return drive(&d->m, bytes, len, false, err);
}

int rdiff_delta_end(struct rdiff_delta *d, struct inlay_error *err)
{
	return drive(&d->m, "", 0, true, err);
}

void rdiff_delta_free(struct rdiff_delta *d)
{
	if (!d)
		return;
	if (d->m.job)
		(void)rs_job_free(d->m.job);
	if (d->sums)
		rs_free_sumset(d->sums);
	free(d);
}

/* ---- one place ---- */

enum {
	TRIM_MAX = 64 << 10, /* of the place; and at most a 32nd of the whole */
	TRIM_PART = 32,
	OP_LITERAL_N4 =
		0x43, /* librsync's commands with wide arguments; the stream is compressed */
	OP_COPY_N8_N8 = 0x54,
	OP_END = 0,
};

static size_t same_head(const uint8_t *a, const uint8_t *b, size_t max)
{
	size_t n = 0;

	while (max - n >= 8 && inlay_get_le64(a + n) == inlay_get_le64(b + n))
		n += 8;
	while (n < max && a[n] == b[n])
		n++;
	return n;
}

static size_t same_tail(const uint8_t *a_end, const uint8_t *b_end, size_t max)
{
	size_t n = 0;

	while (max - n >= 8 && inlay_get_le64(a_end - n - 8) == inlay_get_le64(b_end - n - 8))
		n += 8;
	while (n < max && a_end[-1 - (ptrdiff_t)n] == b_end[-1 - (ptrdiff_t)n])
		n++;
	return n;
}

static void put_be(struct inlay_buf *b, uint64_t v, int bytes)
{
	while (bytes-- > 0)
		inlay_buf_u8(b, (uint8_t)(v >> 8 * bytes));
}

void rdiff_put_begin(struct inlay_buf *b)
{
	put_be(b, RS_DELTA_MAGIC, 4);
}

void rdiff_put_copy(struct inlay_buf *b, uint64_t from, uint64_t len)
{
	if (len == 0)
		return;
	inlay_buf_u8(b, OP_COPY_N8_N8);
	put_be(b, from, 8);
	put_be(b, len, 8);
}

void rdiff_put_literal(struct inlay_buf *b, const void *bytes, size_t len)
{
	if (len == 0)
		return;
	inlay_buf_u8(b, OP_LITERAL_N4);
	put_be(b, len, 4);
	inlay_buf_add(b, bytes, len);
}

void rdiff_put_end(struct inlay_buf *b)
{
	inlay_buf_u8(b, OP_END);
}

bool rdiff_trim(const void *old_bytes, size_t old_len, const void *new_bytes, size_t new_len,
		struct inlay_buf *ret_delta)
{
	const uint8_t *old = old_bytes, *now = new_bytes;
	size_t min = old_len < new_len ? old_len : new_len;
	size_t head = same_head(old, now, min);
	size_t tail = same_tail(old + old_len, now + new_len, min - head);
	size_t place = new_len - head - tail;

	if (place > TRIM_MAX || place > new_len / TRIM_PART)
		return false;
	rdiff_put_begin(ret_delta);
	rdiff_put_copy(ret_delta, 0, head);
	rdiff_put_literal(ret_delta, now + head, place);
	rdiff_put_copy(ret_delta, old_len - tail, tail);
	rdiff_put_end(ret_delta);
	return true;
}
