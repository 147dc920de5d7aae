/* SPDX-License-Identifier: Apache-2.0 */
#include "session/patches.h"

#include <errno.h>

#include "delta/rdiff.h"
#include "inlay/cleanup.h"

/* ---- signatures ---- */

struct asking {
	struct inlay_buf *signatures;
	size_t count, at;
	uint64_t total;
};

enum { TOTAL_MAX = 4 }; /* times INLAY_SIGNATURE_MAX, for all of one question */

static int on_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct asking *a = ctx;

	a->total += f->len;
	if (f->len < 1 || a->total > (uint64_t)TOTAL_MAX * INLAY_SIGNATURE_MAX ||
	    f->payload[0] > 2 || a->at == a->count ||
	    a->signatures[a->at].len + f->len > INLAY_SIGNATURE_MAX)
		return inlay_error_set(err, -EPROTO, "a bad signature from the target");
	if (f->payload[0] == 2) {
		inlay_buf_fini(&a->signatures[a->at++]);
		return 0;
	}
	inlay_buf_add(&a->signatures[a->at], f->payload + 1, f->len - 1);
	int r = inlay_buf_check(&a->signatures[a->at], err);
	a->at += f->payload[0] == 0;
	return r;
}

int patches_ask(struct client *c, const struct plan_file *const *files, size_t count,
		struct inlay_buf *ret_signatures, struct inlay_error *err)
{
	auto_buf struct inlay_buf ids = {0};
	struct asking a = {.signatures = ret_signatures, .count = count};

	for (size_t i = 0; i < count; i++)
		inlay_buf_add(&ids, files[i]->basis.b, INLAY_DIGEST_BYTES);
	int r = inlay_buf_check(&ids, err);
	if (r < 0)
		return r;
	struct message_request m = {.verb = MESSAGE_VERB_SIGNATURES,
				    .body = {(const char *)ids.data, ids.len}};
	r = client_request(c, &m, on_row, &a, err);
	if (r == 0 && a.at < count)
		return inlay_error_set(err, -EPROTO, "the target did not send all signatures");
	return r;
}

/* ---- patches ---- */

struct patching {
	struct sender *s;
	const struct plan_file *file;
	struct rdiff_delta *delta;   /* from a signature, */
	struct blocks_delta *blocks; /* or from sums of our own */
};

static int write_delta(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct patching *p = ctx;

	return objects_out_patch_bytes(&p->s->out, bytes, len, err);
}

static int on_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	struct patching *p = ctx;

	return objects_out_patch_begin(&p->s->out, &p->file->basis, &p->file->id, size, err);
}

static int on_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct patching *p = ctx;

	return p->blocks ? blocks_delta_feed(p->blocks, bytes, len, err)
			 : rdiff_delta_feed(p->delta, bytes, len, err);
}

static int on_end(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	struct patching *p = ctx;
	int r = p->blocks ? blocks_delta_end(p->blocks, err) : rdiff_delta_end(p->delta, err);

	if (r == 0)
		r = objects_out_patch_end(&p->s->out, id, err);
	if (id)
		sender_count(p->s, p->file->size);
	return r;
}

static int on_whole(void *ctx, const void *bytes, size_t len, const struct inlay_digest *id,
		    struct inlay_error *err)
{
	int r = on_begin(ctx, len, err);

	if (r == 0)
		r = on_bytes(ctx, bytes, len, err);
	return r == 0 ? on_end(ctx, id, err) : r;
}

/* Positive: SOURCE_AGAIN. */
static int make_patch(struct patching *p, const struct plan *plan, struct inlay_error *err)
{
	struct source_consumer c = {
		.whole = on_whole, .begin = on_begin, .bytes = on_bytes, .end = on_end, .ctx = p};
	int r = sender_patches(p->s, p->file->size, err);

	return r == 0 ? source_read_path(p->s->source, plan_path(plan, p->file), &p->file->id, &c,
					 err)
		      : r;
}

int patches_send(struct sender *s, const struct plan *plan, const struct plan_file *file,
		 const struct inlay_buf *signature, bool *ret_sent, struct inlay_error *err)
{
	struct patching p = {.s = s, .file = file};
	int r = rdiff_delta_new(signature->data, signature->len, file->basis_size, write_delta, &p,
				&p.delta, err);

	*ret_sent = false;
	/* What it does not have, and what is no signature of it: the file goes whole. */
	if (r == -EPROTO)
		return 0;
	if (r == 0)
		r = make_patch(&p, plan, err);
	*ret_sent = r == 0;
	rdiff_delta_free(p.delta);
	return r;
}

int patches_send_blocks(struct sender *s, const struct plan *plan, const struct plan_file *file,
			const struct blocks *blocks, struct inlay_error *err)
{
	struct patching p = {.s = s, .file = file};
	int r = blocks_delta_new(blocks, write_delta, &p, &p.blocks, err);

	if (r == 0)
		r = make_patch(&p, plan, err);
	blocks_delta_free(p.blocks);
	return r;
}
