/* SPDX-License-Identifier: Apache-2.0 */
#include "delta/basis.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/text.h"

#define YOUNG "basis"
#define OLD   "basis.old"

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

void basis_fini(struct basis *b)
{
	inlay_store_put_abort(b->put);
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

void basis_put_begin(struct basis *b, uint64_t size)
{
	scope_lock(&b->lock);
	if (too_large(b, size) || !ready(b))
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
	if (b->put && inlay_store_put_write(b->put, bytes, len, NULL) < 0)
		end_put(b, false);
}

void basis_put_end(struct basis *b, bool keep)
{
	scope_lock(&b->lock);
	end_put(b, keep);
}
