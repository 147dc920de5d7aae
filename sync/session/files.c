/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How each file of a plan travels:
 *     known   not at all: the target has it, at this place or at another
 *     small   as a difference to its old content, which both sides have; many share one zstd frame that
 *             has all their old contents as its prefix
 *     large   the same, in a frame of its own; when it changed in one place only, as a patch that is cheap
 *     blocks  too large to be held in memory: as a patch, from sums of the old content's blocks
 *     patch   by librsync, where the target alone has anything of the old content: its signature is asked for
 *     whole   in the solid stream
 */
#include "session/session.h"

#include <errno.h>
#include <stdlib.h>

#include "delta/rdiff.h"
#include "inlay/cleanup.h"
#include "session/patches.h"

enum {
	SMALL_BYTES = 256 << 10, /* old and new content of a file in a shared frame */
	SHARED_BYTES = 8 << 20,  /* of all of them: what both ends hold in memory for it */
	PATCH_MIN = 4 << 10,     /* below it the question costs more than the answer saves */
	QUICK_BYTES = 512 << 10, /* up to here the best level costs a few milliseconds */
	SMALL_LEVEL = 6,
	QUICK_LEVEL = 9,
	LARGE_LEVEL =
		3, /* with tables that know the whole prefix; 9 finds hardly more and takes twice as long */
};

enum way { WAY_DONE, WAY_SMALL, WAY_LARGE, WAY_BLOCKS, WAY_PATCH, WAY_WHOLE };

struct files {
	struct session *p;
	struct source_consumer consumer;
	enum way *ways;         /* one for each file of the plan */
	struct inlay_buf old;   /* contents for a prefix */
	struct inlay_idset ids; /* whose they are */
};

static bool is_lost(const struct session *p, const struct inlay_digest *id)
{
	struct inlay_digest prefix = {0};

	memcpy(prefix.b, id->b, 8);
	return inlay_idset_has(&p->lost, &prefix);
}

/* How it travels when the target does not have it. */
static enum way way_of(struct session *p, const struct plan_file *f)
{
	uint64_t both = f->size + f->basis_size;

	if (f->size == 0 || f->basis_size == 0 || is_lost(p, &f->basis))
		return WAY_WHOLE;
	if (both <= INLAY_DELTA_MAX && basis_has(&p->source->basis, &f->basis))
		return both <= SMALL_BYTES ? WAY_SMALL : WAY_LARGE;
	if (basis_has_blocks(&p->source->basis, &f->basis))
		return WAY_BLOCKS;
	return f->size >= PATCH_MIN && f->basis_size >= PATCH_MIN ? WAY_PATCH : WAY_WHOLE;
}

bool session_needs_signatures(struct session *p)
{
	for (size_t i = 0; i < p->plan.file_count; i++)
		if (!inlay_idset_has(&p->known, &p->plan.files[i].id) &&
		    way_of(p, &p->plan.files[i]) == WAY_PATCH)
			return true;
	return false;
}

/* Behind each file that was to be sent: one that is another by now is named. */
static int done(struct files *fs, size_t i, int r)
{
	const struct plan_file *f = &fs->p->plan.files[i];

	if (r == SOURCE_AGAIN) {
		inlay_buf_clear(&fs->p->moved_path);
		inlay_buf_add(&fs->p->moved_path, plan_path(&fs->p->plan, f), f->path_len);
	}
	session_file_done(fs->p, f->size);
	return r;
}

/* Positive: SOURCE_AGAIN. */
static int send_one(struct files *fs, size_t i, struct inlay_error *err)
{
	const struct plan *plan = &fs->p->plan;
	const struct plan_file *f = &plan->files[i];
	int r = 0;

	fs->ways[i] = WAY_DONE;
	/* Another file with the same content may have come first. */
	if (!sender_has(&fs->p->sender, &f->id))
		r = source_read_path(fs->p->source, plan_path(plan, f), &f->id, &fs->consumer, err);
	return done(fs, i, r);
}

/* Adds the file's old content to the prefix; false when it cannot be had after all. */
static bool add_old(struct files *fs, size_t i)
{
	const struct plan_file *f = &fs->p->plan.files[i];

	if (inlay_idset_has(&fs->ids, &f->basis))
		return true;
	if (basis_get(&fs->p->source->basis, &f->basis, &fs->old) &&
	    inlay_idset_add(&fs->ids, &f->basis, NULL) == 0)
		return true;
	fs->ways[i] = WAY_WHOLE;
	return false;
}

static int open_frame(struct files *fs, uint64_t bytes, int level, struct inlay_error *err)
{
	struct objects_frame f = {
		.level = level, .bytes = bytes, .prefix = &fs->old, .bases = &fs->ids};
	int r = inlay_buf_check(&fs->old, err);

	if (r == 0)
		r = sender_delta(&fs->p->sender, &f, err);
	inlay_buf_clear(&fs->old);
	inlay_idset_fini(&fs->ids);
	return r;
}

static int small_level(const struct files *fs, uint64_t bytes)
{
	int level = fs->old.len + bytes <= QUICK_BYTES ? QUICK_LEVEL : SMALL_LEVEL;
	int by_speed = sender_level(&fs->p->sender);

	return by_speed > level ? by_speed : level;
}

/* As many small files as fit into one frame, from *at on. */
static int send_shared(struct files *fs, size_t *at, struct inlay_error *err)
{
	const struct plan *plan = &fs->p->plan;
	uint64_t bytes = 0;
	size_t end = *at;
	int r = 0;

	for (; end < plan->file_count && fs->ids.count < INLAY_DELTA_BASES_MAX; end++) {
		const struct plan_file *f = &plan->files[end];
		if (fs->ways[end] != WAY_SMALL)
			continue;
		if (fs->old.len + bytes + f->basis_size + f->size > SHARED_BYTES)
			break;
		if (add_old(fs, end))
			bytes += f->size;
	}
	if (fs->ids.count > 0)
		r = open_frame(fs, bytes, small_level(fs, bytes), err);
	for (; r == 0 && *at < end; ++*at)
		if (fs->ways[*at] == WAY_SMALL)
			r = send_one(fs, *at, err);
	return r;
}

/* ---- large ones ---- */

/* The whole of a file; forgotten when it is another one than was planned. */
struct content {
	struct inlay_buf bytes;
	bool right, too_large;
};

static int on_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct content *c = ctx;

	if (c->too_large)
		return 0;
	inlay_buf_add(&c->bytes, bytes, len);
	return inlay_buf_check(&c->bytes, err);
}

static int on_begin(void *ctx, uint64_t size, struct inlay_error *err)
{
	struct content *c = ctx;

	/* It may have become another file by now; then its end says so. */
	c->too_large = size > INLAY_DELTA_MAX;
	if (!c->too_large)
		(void)inlay_buf_reserve(&c->bytes, (size_t)size);
	return inlay_buf_check(&c->bytes, err);
}

static int on_end(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	struct content *c = ctx;

	(void)err;
	c->right = id;
	return 0;
}

static int on_whole(void *ctx, const void *bytes, size_t len, const struct inlay_digest *id,
		    struct inlay_error *err)
{
	int r = on_bytes(ctx, bytes, len, err);

	return r == 0 ? on_end(ctx, id, err) : r;
}

/* A delta that is there already. */
static int send_ready(struct files *fs, const struct plan_file *f, const struct inlay_buf *delta,
		      struct inlay_error *err)
{
	struct sender *s = &fs->p->sender;
	struct objects_frame frame = {.level = LARGE_LEVEL, .bytes = delta->len};
	int r = inlay_buf_check(delta, err);

	if (r == 0)
		r = sender_delta(s, &frame, err);
	if (r == 0)
		r = objects_out_patch_begin(&s->out, &f->basis, &f->id, f->size, err);
	if (r == 0)
		r = objects_out_patch_bytes(&s->out, delta->data, delta->len, err);
	if (r == 0)
		r = objects_out_patch_end(&s->out, &f->id, err);
	sender_count(s, f->size);
	inlay_buf_clear(&fs->old);
	inlay_idset_fini(&fs->ids);
	return r;
}

static int send_difference(struct files *fs, size_t i, const struct inlay_buf *now,
			   struct inlay_error *err)
{
	const struct plan_file *f = &fs->p->plan.files[i];
	auto_buf struct inlay_buf delta = {0};

	if (rdiff_trim(fs->old.data, fs->old.len, now->data, now->len, &delta))
		return send_ready(fs, f, &delta, err);
	int r = open_frame(fs, f->size, LARGE_LEVEL, err);
	return r == 0 ? fs->consumer.whole(fs->consumer.ctx, now->data, now->len, &f->id, err) : r;
}

/* Positive: SOURCE_AGAIN. */
static int send_large(struct files *fs, size_t i, struct inlay_error *err)
{
	const struct plan_file *f = &fs->p->plan.files[i];
	struct content now = {0};
	struct source_consumer c = {.whole = on_whole,
				    .begin = on_begin,
				    .bytes = on_bytes,
				    .end = on_end,
				    .ctx = &now};

	/* Another file with the same content may have come first. */
	if (sender_has(&fs->p->sender, &f->id) || !add_old(fs, i))
		return 0;
	int r = source_read_path(fs->p->source, plan_path(&fs->p->plan, f), &f->id, &c, err);
	if (r == 0 && now.right)
		r = send_difference(fs, i, &now.bytes, err);
	inlay_buf_fini(&now.bytes);
	return done(fs, i, r);
}

/* ---- patches ---- */

/* Positive: SOURCE_AGAIN. */
static int send_blocks(struct files *fs, size_t i, struct inlay_error *err)
{
	const struct plan_file *f = &fs->p->plan.files[i];
	auto_buf struct inlay_buf delta = {0};
	struct blocks blocks;

	/* Another file with the same content may have come first. */
	if (sender_has(&fs->p->sender, &f->id))
		return 0;
	/* It was made while the file was hashed. */
	if (basis_get_delta(&fs->p->source->basis, &f->basis, &f->id, &delta))
		return done(fs, i, send_ready(fs, f, &delta, err));
	if (!basis_get_blocks(&fs->p->source->basis, &f->basis, &blocks)) {
		fs->ways[i] = WAY_WHOLE;
		return 0;
	}
	int r = patches_send_blocks(&fs->p->sender, &fs->p->plan, f, &blocks, err);
	blocks_fini(&blocks);
	return done(fs, i, r);
}

/* A signature for each of some files, then what differs. */
static int send_patches(struct files *fs, size_t *at, struct inlay_error *err)
{
	enum { AT_ONCE = 256 }; /* so many signatures are in memory */
	const struct plan *plan = &fs->p->plan;
	struct inlay_buf signatures[AT_ONCE] = {0};
	const struct plan_file *files[AT_ONCE];
	size_t which[AT_ONCE], count = 0;
	int r = 0;

	for (; *at < plan->file_count && count < AT_ONCE; ++*at) {
		if (fs->ways[*at] != WAY_PATCH)
			continue;
		which[count] = *at;
		files[count++] = &plan->files[*at];
	}
	if (count > 0)
		r = patches_ask(&fs->p->client, files, count, signatures, err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		bool sent = false;
		if (!sender_has(&fs->p->sender, &files[i]->id))
			r = patches_send(&fs->p->sender, plan, files[i], &signatures[i], &sent,
					 err);
		inlay_buf_fini(&signatures[i]);
		fs->ways[which[i]] = sent ? WAY_DONE : WAY_WHOLE;
		if (sent || r == SOURCE_AGAIN)
			r = done(fs, which[i], r);
	}
	for (size_t i = 0; i < count; i++)
		inlay_buf_fini(&signatures[i]);
	return r;
}

static int send_whole(struct files *fs, struct inlay_error *err)
{
	const struct plan *plan = &fs->p->plan;
	uint64_t bytes = 0;
	int r = 0;

	for (size_t i = 0; i < plan->file_count; i++)
		if (fs->ways[i] == WAY_WHOLE)
			bytes += plan->files[i].size;
	if (bytes > 0)
		r = sender_whole(&fs->p->sender, bytes, err);
	for (size_t i = 0; r == 0 && i < plan->file_count; i++)
		if (fs->ways[i] == WAY_WHOLE)
			r = send_one(fs, i, err);
	return r;
}

static int send_all(struct files *fs, struct inlay_error *err)
{
	const size_t count = fs->p->plan.file_count;
	int r = 0;

	for (size_t i = 0; i < count; i++) {
		const struct plan_file *f = &fs->p->plan.files[i];
		if (!sender_has(&fs->p->sender, &f->id)) {
			fs->ways[i] = way_of(fs->p, f);
			continue;
		}
		sender_count_known(&fs->p->sender, f->size);
		session_file_done(fs->p, f->size);
	}
	for (size_t at = 0; r == 0 && at < count;)
		r = send_shared(fs, &at, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		if (fs->ways[i] == WAY_LARGE)
			r = send_large(fs, i, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		if (fs->ways[i] == WAY_BLOCKS)
			r = send_blocks(fs, i, err);
	for (size_t at = 0; r == 0 && at < count;)
		r = send_patches(fs, &at, err);
	return r == 0 ? send_whole(fs, err) : r;
}

int session_send_files(struct session *p, struct inlay_error *err)
{
	struct files fs = {.p = p, .consumer = sender_consumer(&p->sender)};

	p->progress.files_done = p->progress.bytes_done = 0;
	p->progress.files_total = p->plan.file_count;
	p->progress.bytes_total = p->plan.file_bytes;
	if (p->plan.file_count == 0)
		return 0;
	fs.ways = calloc(p->plan.file_count, sizeof *fs.ways);
	if (!fs.ways)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = send_all(&fs, err);
	free(fs.ways);
	inlay_buf_fini(&fs.old);
	inlay_idset_fini(&fs.ids);
	return r;
}
