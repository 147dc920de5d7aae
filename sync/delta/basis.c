/* SPDX-License-Identifier: Apache-2.0 */
#include "delta/basis.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/text.h"

#define YOUNG "basis"
#define OLD   "basis.old"

#define BLOCKS "blocks"

int basis_configured(uint64_t *ret, struct inlay_error *err)
{
	const char *text = getenv("INLAY_BASIS_SIZE");

	*ret = BASIS_DEFAULT_BYTES;
	if (!text || !*text)
		return 0;
	int r = inlay_parse_size(text, ret, err);
	return r < 0 ? inlay_error_prefix(err, r, "INLAY_BASIS_SIZE") : 0;
}

void basis_init(struct basis *b, int dir, uint64_t cap)
{
	*b = (struct basis){.dir = dir, .cap = cap, .failed = cap == 0};
	(void)pthread_mutex_init(&b->lock, NULL);
}

static void end_delta(struct basis *b, const struct inlay_digest *to);

void basis_fini(struct basis *b)
{
	inlay_store_put_abort(b->put);
	blocks_maker_fini(&b->making);
	end_delta(b, NULL);
	for (size_t i = 0; i < BASIS_DELTAS; i++)
		inlay_buf_fini(&b->deltas[i].bytes);
	inlay_store_close(b->young);
	inlay_store_close(b->old);
	(void)pthread_mutex_destroy(&b->lock);
	*b = (struct basis){.failed = true};
}

static int open_young(struct basis *b)
{
	int flags = INLAY_STORE_CREATE | INLAY_STORE_WRITE | INLAY_STORE_CACHE;
	int r = inlay_store_open(b->dir, YOUNG, flags, &b->young, NULL);

	if (r < 0 && inlay_remove_tree(b->dir, YOUNG, NULL) == 0)
		r = inlay_store_open(b->dir, YOUNG, flags, &b->young, NULL);
	if (r == 0)
		inlay_store_set_quota(b->young, b->cap / 2);
	else
		b->young = NULL;
	return r;
}

/* False when there is no cache. */
static bool ready(struct basis *b)
{
	if (b->opened || b->failed)
		return !b->failed;
	b->opened = true;
	b->failed = open_young(b) != 0;
	if (!b->failed && inlay_store_open(b->dir, OLD, 0, &b->old, NULL) != 0)
		b->old = NULL;
	return !b->failed;
}

/* The younger store is full: it becomes the older one. */
static bool rotate(struct basis *b)
{
	inlay_store_put_abort(take_ptr(b->put));
	inlay_store_close(b->young);
	inlay_store_close(b->old);
	b->young = b->old = NULL;
	b->failed = true;
	if (inlay_remove_tree(b->dir, OLD, NULL) < 0 || renameat(b->dir, YOUNG, b->dir, OLD) < 0)
		return false;
	b->failed = b->opened = false;
	return ready(b);
}

static bool too_large(const struct basis *b, uint64_t size)
{
	return size > BASIS_OBJECT_MAX || size > b->cap / 8;
}

/* ---- reading ---- */

static struct inlay_store *holder(struct basis *b, const struct inlay_digest *id)
{
	if (!ready(b))
		return NULL;
	if (inlay_store_has(b->young, id))
		return b->young;
	return b->old && inlay_store_has(b->old, id) ? b->old : NULL;
}

bool basis_has(struct basis *b, const struct inlay_digest *id)
{
	scope_lock(&b->lock);
	return holder(b, id);
}

static void put(struct basis *b, const void *bytes, size_t len)
{
	if (too_large(b, len) || !ready(b))
		return;
	int r = inlay_store_put(b->young, bytes, len, NULL, NULL);
	if (r == -EDQUOT && rotate(b))
		r = inlay_store_put(b->young, bytes, len, NULL, NULL);
	/* A disk without space: nothing more is tried in this session. */
	b->failed |= r < 0 && r != -EDQUOT;
}

bool basis_get(struct basis *b, const struct inlay_digest *id, struct inlay_buf *to)
{
	scope_lock(&b->lock);
	struct inlay_store *s = holder(b, id);
	size_t before = to->len;

	if (!s)
		return false;
	int r = inlay_store_get(s, id, BASIS_OBJECT_MAX, INLAY_STORE_CHECK_DIGEST, to, NULL);
	if (r != 0) {
		to->len = before;
		/* Damaged: the next edit of the same file shall not stumble over it again. */
		if (s == b->young)
			(void)!inlay_store_drop(s, id, NULL);
		return false;
	}
	if (s == b->old)
		put(b, to->data + before, to->len - before);
	return true;
}

/* ---- writing ---- */

void basis_put(struct basis *b, const void *bytes, size_t len)
{
	scope_lock(&b->lock);
	put(b, bytes, len);
}

/* What differs from its predecessor, when sums of that are kept: it is read for its id anyway. */
static int take_delta(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct inlay_buf *to = ctx;

	if (to->len + len > BASIS_DELTA_BYTES)
		return inlay_error_set(err, -EFBIG, "too much is new");
	inlay_buf_add(to, bytes, len);
	return inlay_buf_check(to, err);
}

static void begin_delta(struct basis *b, const struct inlay_digest *old)
{
	struct basis_delta *d = &b->deltas[b->next_delta];

	inlay_buf_fini(&d->bytes);
	*d = (struct basis_delta){.from = *old};
	if (basis_get_blocks(b, old, &b->from) &&
	    blocks_delta_new(&b->from, take_delta, &d->bytes, &b->delta, NULL) < 0)
		blocks_fini(&b->from);
}

static void end_delta(struct basis *b, const struct inlay_digest *to)
{
	struct basis_delta *d = &b->deltas[b->next_delta];

	if (!b->delta)
		return;
	if (to && blocks_delta_end(b->delta, NULL) == 0) {
		d->to = *to;
		d->whole = true;
		b->next_delta = (b->next_delta + 1) % BASIS_DELTAS;
	}
	blocks_delta_free(take_ptr(b->delta));
	blocks_fini(&b->from);
}

bool basis_get_delta(struct basis *b, const struct inlay_digest *from,
		     const struct inlay_digest *to, struct inlay_buf *ret)
{
	scope_lock(&b->lock);
	for (size_t i = 0; i < BASIS_DELTAS; i++) {
		const struct basis_delta *d = &b->deltas[i];
		if (!d->whole || !inlay_digest_equal(&d->from, from) ||
		    !inlay_digest_equal(&d->to, to))
			continue;
		inlay_buf_add(ret, d->bytes.data, d->bytes.len);
		return !ret->failed;
	}
	return false;
}

void basis_put_begin(struct basis *b, uint64_t size, const struct inlay_digest *old)
{
	scope_lock(&b->lock);
	b->makes = b->cap > 0 && too_large(b, size);
	if (b->makes)
		blocks_begin(&b->making, size);
	if (b->makes && old)
		begin_delta(b, old);
	if (b->makes || !ready(b))
		return;
	int r = inlay_store_put_begin(b->young, size, &b->put, NULL);
	if (r == -EDQUOT && rotate(b))
		r = inlay_store_put_begin(b->young, size, &b->put, NULL);
	if (r < 0)
		b->put = NULL;
}

static void end_put(struct basis *b, bool keep)
{
	struct inlay_store_put *ended = take_ptr(b->put);

	if (ended && keep)
		(void)!inlay_store_put_finish(ended, NULL, NULL);
	else
		inlay_store_put_abort(ended);
}

void basis_put_bytes(struct basis *b, const void *bytes, size_t len)
{
	scope_lock(&b->lock);
	if (b->makes)
		blocks_feed(&b->making, bytes, len);
	if (b->delta && blocks_delta_feed(b->delta, bytes, len, NULL) < 0)
		end_delta(b, NULL);
	if (b->put && inlay_store_put_write(b->put, bytes, len, NULL) < 0)
		end_put(b, false);
}

/* The one that was written first goes. */
static void drop_oldest(int dir)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	struct timespec oldest = {0};
	char name[256] = "";
	struct dirent *e;
	unsigned count = 0;
	struct stat st;

	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.' || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		bool older =
			st.st_mtim.tv_sec < oldest.tv_sec ||
			(st.st_mtim.tv_sec == oldest.tv_sec && st.st_mtim.tv_nsec < oldest.tv_nsec);
		if (count++ == 0 || older) {
			oldest = st.st_mtim;
			(void)snprintf(name, sizeof name, "%s", e->d_name);
		}
	}
	if (count > BASIS_BLOCKS_FILES)
		(void)unlinkat(dir, name, 0);
	if (d)
		(void)closedir(d);
	else
		inlay_cleanup_close(&copy);
}

static void keep_blocks(struct basis *b, const struct inlay_digest *id)
{
	auto_close int dir = -1;
	auto_buf struct inlay_buf bytes = {0};
	char hex[INLAY_DIGEST_HEX];

	if (blocks_encode(&b->making, id, &bytes, NULL) < 0 ||
	    (mkdirat(b->dir, BLOCKS, 0700) < 0 && errno != EEXIST))
		return;
	dir = openat(b->dir, BLOCKS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	inlay_digest_hex(id, hex);
	if (dir >= 0 && inlay_replace_file(dir, hex, bytes.data, bytes.len, 0600, 0, NULL) == 0)
		drop_oldest(dir);
}

void basis_put_end(struct basis *b, const struct inlay_digest *id)
{
	scope_lock(&b->lock);
	end_put(b, id);
	end_delta(b, id);
	if (b->makes && id)
		keep_blocks(b, id);
	blocks_maker_fini(&b->making);
	b->makes = false;
}

/* ---- sums of blocks ---- */

static void blocks_path(const struct inlay_digest *id, char *ret, size_t size)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(id, hex);
	(void)snprintf(ret, size, BLOCKS "/%s", hex);
}

bool basis_has_blocks(struct basis *b, const struct inlay_digest *id)
{
	char path[sizeof BLOCKS + INLAY_DIGEST_HEX];

	blocks_path(id, path, sizeof path);
	return b->cap > 0 && faccessat(b->dir, path, R_OK, 0) == 0;
}

bool basis_get_blocks(struct basis *b, const struct inlay_digest *id, struct blocks *ret)
{
	char path[sizeof BLOCKS + INLAY_DIGEST_HEX];
	auto_buf struct inlay_buf bytes = {0};

	blocks_path(id, path, sizeof path);
	return b->cap > 0 && inlay_read_file(b->dir, path, BLOCKS_BYTES_MAX, &bytes, NULL) == 0 &&
	       blocks_decode(bytes.data, bytes.len, id, ret, NULL) == 0;
}
