/* SPDX-License-Identifier: Apache-2.0 */
#include "story.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "storekit.h"
#include "inlay/cleanup.h"
#include "store/state.h"

/* Objects lie in one pool, so that the story itself allocates nothing. */
enum { SLICE = 1000 };

static uint8_t pool[STORY_OBJECTS * SLICE + 300000];
struct inlay_digest story_ids[STORY_OBJECTS];

static size_t size_of(unsigned n)
{
	return n == 3 || n == 9 || n == 18 || n == 20 || n == 25 ? 66000 + 70000 * (n % 2) + n
								 : 50 + 30 * n;
}

static void make_pool(void)
{
	uint64_t seed = 5;

	for (size_t i = 0; i < sizeof pool; i++)
		pool[i] = (uint8_t)kit_random(&seed);
	for (unsigned n = 0; n < STORY_OBJECTS; n++)
		inlay_digest_of(pool + (size_t)n * SLICE, size_of(n), &story_ids[n]);
}

int story_put(struct inlay_store *store, unsigned n)
{
	return inlay_store_put(store, pool + (size_t)n * SLICE, size_of(n), NULL, &err);
}

static int put_pieces(struct inlay_store *store, unsigned n)
{
	struct inlay_store_put *p;
	const uint8_t *bytes = pool + (size_t)n * SLICE;
	int r = inlay_store_put_begin(store, size_of(n), &p, &err);

	for (size_t off = 0; r == 0 && off < size_of(n); off += 40000) {
		size_t left = size_of(n) - off;
		r = inlay_store_put_write(p, bytes + off, left < 40000 ? left : 40000, &err);
		if (r < 0) {
			inlay_store_put_abort(p);
			return r;
		}
	}
	return r < 0 ? r : inlay_store_put_finish(p, NULL, &err);
}

/* ---- the steps: each can be done again when it failed ---- */

static int step_open(struct story *s)
{
	int r = inlay_store_open(s->dir, "t", KIT_WRITE, &s->store, &err);

	if (r == 0)
		s->store->pack_max = 2500; /* some packs become full */
	return r;
}

static int step_put(struct story *s)
{
	int r = 0;

	for (unsigned n = STORY_NEW_FROM; r == 0 && n < 19; n++)
		r = story_put(s->store, n);
	for (unsigned n = 19; r == 0 && n < STORY_MORE_FROM; n++)
		r = put_pieces(s->store, n);
	return r;
}

static int step_put_again(struct story *s)
{
	int r = inlay_store_drop(s->store, &story_ids[3], &err);

	if (r == 0)
		r = story_put(s->store, 3);
	return r == 0 ? story_put(s->store, 0) : r;
}

static int step_flush(struct story *s)
{
	return inlay_store_flush(s->store, &err);
}

static int step_sync(struct story *s)
{
	return inlay_store_sync(s->store, &err);
}

static int step_publish(struct story *s)
{
	static const struct inlay_generation gen = {.number = 2, .parent = 1, .origin = "fault"};
	int r = inlay_store_publish(s->store, "w", &gen, 3, 7, &err);

	if (r == 0)
		s->published = true;
	return r;
}

static int step_more(struct story *s)
{
	int r = 0;

	for (unsigned n = STORY_MORE_FROM; r == 0 && n < STORY_OBJECTS; n++)
		r = story_put(s->store, n);
	if (r == 0)
		r = inlay_store_sync(s->store, &err);
	if (r == 0)
		s->more = true;
	return r;
}

bool story_is_live(void *ctx, const struct inlay_digest *id)
{
	(void)ctx;
	for (unsigned n = STORY_DEAD_FROM; n < STORY_NEW_FROM; n++)
		if (inlay_digest_equal(id, &story_ids[n]))
			return false;
	return true;
}

static int step_sweep(struct story *s)
{
	struct inlay_store_sweep out;

	return inlay_store_sweep(s->store, story_is_live, NULL, 0, &out, &err);
}

static int step_read(struct story *s)
{
	static uint8_t buf[400000];
	struct inlay_history *h = NULL;
	struct inlay_store_usage usage;

	for (unsigned n = 0; n < STORY_OBJECTS; n++) {
		size_t got;
		int r = inlay_store_pread(s->store, &story_ids[n], buf, sizeof buf, 0, &got, &err);
		if (r == INLAY_STORE_MISSING)
			continue;
		if (r < 0)
			return r;
		assert_int_equal(got, size_of(n));
		assert_memory_equal(buf, pool + (size_t)n * SLICE, got);
	}
	int r = inlay_store_history(s->store, "w", &h, &err);
	free(h);
	return r == 0 ? inlay_store_usage(s->store, &usage, &err) : r;
}

static void found(void *ctx, const struct inlay_digest *id, const char *what)
{
	(void)ctx;
	(void)id;
	(void)inlay_error_set(&err, -EBADMSG, "%s", what);
}

static int step_verify(struct story *s)
{
	struct inlay_store_check check;
	int r = inlay_store_verify(s->store, found, NULL, NULL, &check, &err);

	/* A read that was made to fail is a finding. */
	return r == 0 && check.bad > 0 ? -EBADMSG : r;
}

static int step_remove_ref(struct story *s)
{
	return inlay_store_remove_ref(s->store, "other", &err);
}

static int step_close(struct story *s)
{
	inlay_store_close(take_ptr(s->store));
	return 0;
}

typedef int step_fn(struct story *s);

static step_fn *const steps[] = {step_open,    step_put,   step_put_again,  step_flush, step_sync,
				 step_publish, step_more,  step_sweep,      step_read,  step_verify,
				 step_put,     step_sweep, step_remove_ref, step_close};
static_assert(sizeof steps / sizeof *steps == STORY_STEPS, "the story has so many steps");

int story_step(struct story *s, size_t i)
{
	return steps[i](s);
}

/* ---- the store in which the story begins ---- */

const char *const story_bases[3] = {"base", "torn", "noindex"};

void story_make_bases(int dir)
{
	struct inlay_store *store = kit_open(dir, "base", KIT_WRITE);
	struct inlay_generation gen = {.number = 1, .origin = "base"};

	make_pool();
	for (unsigned n = 0; n < STORY_NEW_FROM; n++)
		assert_ok(story_put(store, n));
	assert_ok(inlay_store_sync(store, &err));
	assert_ok(inlay_store_publish(store, "w", &gen, 3, 1, &err));
	assert_ok(inlay_store_publish(store, "other", &gen, 3, 1, &err));
	inlay_store_close(store);

	/* The same with an unclean end: a torn pack and index, an unfinished file. */
	kit_copy_tree(dir, "base", dir, "torn");
	store = kit_open(dir, "torn", INLAY_STORE_WRITE);
	for (unsigned n = STORY_NEW_FROM; n < STORY_MORE_FROM; n++)
		assert_ok(story_put(store, n));
	assert_ok(inlay_store_flush(store, &err));
	kit_copy_tree(dir, "torn", dir, "t");
	inlay_store_close(store);
	kit_copy_tree(dir, "t", dir, "torn");
	kit_flip(dir, "torn/packs/00000001.pack",
		 8 * kit_size(dir, "base/packs/00000001.pack") + 800);
	kit_truncate(dir, "torn/packs/00000001.pack",
		     kit_size(dir, "torn/packs/00000001.pack") - 100);
	kit_truncate(dir, "torn/index", kit_size(dir, "torn/index") - 70);
	kit_write(dir, "torn/.index.new", "x", 1);

	/* And with an index that has to be made again. */
	kit_copy_tree(dir, "base", dir, "noindex");
	kit_flip(dir, "noindex/index", 100);
}

/* ---- checks ---- */

bool story_has(struct inlay_store *store, unsigned n)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_store_get(store, &story_ids[n], size_of(n), INLAY_STORE_CHECK_DIGEST, &b,
				&err);

	return r == 0 && memcmp(b.data, pool + (size_t)n * SLICE, size_of(n)) == 0;
}

static void check_objects(const struct story *s, struct inlay_store *store)
{
	for (unsigned n = 0; n < STORY_DEAD_FROM; n++)
		if (n != 3) /* which the story itself drops and puts again */
			assert_true(story_has(store, n));
	for (unsigned n = STORY_NEW_FROM; s->published && n < STORY_MORE_FROM; n++)
		assert_true(story_has(store, n));
	assert_true(!s->published || story_has(store, 3));
	for (unsigned n = STORY_MORE_FROM; s->more && n < STORY_OBJECTS; n++)
		assert_true(story_has(store, n));
}

void story_check_reader(const struct story *s, bool whole)
{
	struct inlay_store *store = kit_open(s->dir, "t", KIT_READ);

	check_objects(s, store);
	if (whole)
		assert_int_equal(kit_verify(store, true).with_id, 0);
	inlay_store_close(store);
}

/* What must be there after the story was told up to where *s says. */
static void check_acknowledged(const struct story *s, struct inlay_store *store)
{
	struct inlay_history *h = NULL;

	check_objects(s, store);
	assert_ok(inlay_store_history(store, "w", &h, &err));
	assert_true(h->gens[0].number <= 2);
	assert_true(!s->published || h->gens[0].number == 2);
	assert_int_equal(h->gens[h->count - 1].number, 1);
	free(h);
	kit_assert_clean(store);
}

/* After whatever happened: it opens, all is well, and the story can be told to its end. */
void story_check_afterwards(struct story *s)
{
	s->store = kit_open(s->dir, "t", INLAY_STORE_WRITE);
	kit_assert_no_leftovers(s->dir, "t");
	check_acknowledged(s, s->store);
	inlay_store_close(take_ptr(s->store));
	for (size_t i = 0; i < STORY_STEPS; i++)
		assert_ok(steps[i](s));
	s->store = kit_open(s->dir, "t", INLAY_STORE_WRITE);
	assert_false(inlay_store_was_unclean(s->store));
	check_acknowledged(s, s->store);
	for (unsigned n = STORY_DEAD_FROM; n < STORY_NEW_FROM; n++)
		assert_false(story_has(s->store, n));
	inlay_store_close(take_ptr(s->store));
	kit_assert_no_leftovers(s->dir, "t");
}
