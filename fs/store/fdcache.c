/* SPDX-License-Identifier: Apache-2.0 */
#include "store/fdcache.h"

#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"

/* Empties a slot without users; gives the descriptor to close. */
static int empty(struct fdslot *slot)
{
	int fd = slot->fd;

	slot->fd = -1;
	slot->stale = false;
	atomic_store(&slot->refs, 0);
	return fd;
}

int fdcache_init(struct fdcache *c, struct inlay_error *err)
{
	struct rlimit limit = {.rlim_cur = 1024};

	(void)getrlimit(RLIMIT_NOFILE, &limit);
	int r = pthread_rwlock_init(&c->lock, NULL);
	if (r != 0)
		return inlay_error_sys(err, -r, "make a lock");
	/* A quarter of what the process may open, whatever it is. */
	c->sets = FDCACHE_SETS_MAX;
	while (c->sets > 1 && (rlim_t)c->sets * FDCACHE_WAYS * 4 > limit.rlim_cur)
		c->sets /= 2;
	atomic_store(&c->clock, 0);
	for (unsigned s = 0; s < FDCACHE_SETS_MAX; s++)
		for (unsigned w = 0; w < FDCACHE_WAYS; w++)
			(void)empty(&c->slots[s][w]);
	return 0;
}

void fdcache_fini(struct fdcache *c)
{
	for (unsigned s = 0; s < FDCACHE_SETS_MAX; s++)
		for (unsigned w = 0; w < FDCACHE_WAYS; w++)
			inlay_cleanup_close(&c->slots[s][w].fd);
	(void)pthread_rwlock_destroy(&c->lock);
}

static struct fdslot *set_of(struct fdcache *c, const struct inlay_digest *key)
{
	return c->slots[(key->b[0] ^ key->b[INLAY_DIGEST_BYTES - 1]) & (c->sets - 1)];
}

static struct fdslot *find(struct fdcache *c, const struct inlay_digest *key)
{
	struct fdslot *set = set_of(c, key);

	for (unsigned w = 0; w < FDCACHE_WAYS; w++)
		if (set[w].fd >= 0 && !set[w].stale && inlay_digest_equal(&set[w].key, key))
			return &set[w];
	return NULL;
}

/* Relaxed: the lock orders a slot's users against those who empty it; the clock is only a hint. */
static void take(struct fdcache *c, struct fdslot *slot, struct fdref *ret)
{
	uint64_t now = atomic_fetch_add_explicit(&c->clock, 1, memory_order_relaxed);

	atomic_fetch_add_explicit(&slot->refs, 1, memory_order_relaxed);
	atomic_store_explicit(&slot->used, now, memory_order_relaxed);
	*ret = (struct fdref){.fd = slot->fd, .slot = slot};
}

bool fdcache_take(struct fdcache *c, const struct inlay_digest *key, struct fdref *ret)
{
	scope_rdlock(&c->lock);
	struct fdslot *slot = find(c, key);
	if (!slot)
		return false;
	take(c, slot, ret);
	return true;
}

/* An empty slot, or the one not used for the longest time. */
static struct fdslot *slot_to_fill(struct fdcache *c, const struct inlay_digest *key)
{
	struct fdslot *set = set_of(c, key), *best = NULL;

	for (unsigned w = 0; w < FDCACHE_WAYS; w++) {
		if (set[w].fd < 0)
			return &set[w];
		if (set[w].refs == 0 && (!best || set[w].used < best->used))
			best = &set[w];
	}
	return best;
}

void fdcache_add(struct fdcache *c, const struct inlay_digest *key, int fd, struct fdref *ret)
{
	int old = -1;

	*ret = (struct fdref){.fd = fd};
	{
		scope_wrlock(&c->lock);
		/* Another thread may have been faster: two descriptors of one file do no harm. */
		struct fdslot *slot = find(c, key) ? NULL : slot_to_fill(c, key);
		if (slot) {
			old = empty(slot);
			slot->key = *key;
			slot->fd = fd;
			take(c, slot, ret);
		}
	}
	inlay_cleanup_close(&old);
}

void fdcache_release(struct fdcache *c, struct fdref *ref)
{
	struct fdslot *slot = ref->slot;
	bool last_of_stale = false;
	int fd = ref->fd;

	*ref = (struct fdref){.fd = -1};
	if (slot) {
		fd = -1;
		scope_rdlock(&c->lock);
		last_of_stale = atomic_fetch_sub(&slot->refs, 1) == 1 && slot->stale;
	}
	if (last_of_stale) {
		scope_wrlock(&c->lock);
		if (slot->stale && slot->refs == 0)
			fd = empty(slot);
	}
	inlay_cleanup_close(&fd);
}

void fdcache_forget(struct fdcache *c, const struct inlay_digest *key)
{
	int fd = -1;

	{
		scope_wrlock(&c->lock);
		struct fdslot *slot = find(c, key);
		if (slot && slot->refs > 0)
			slot->stale = true;
		else if (slot)
			fd = empty(slot);
	}
	inlay_cleanup_close(&fd);
}

void fdcache_forget_all(struct fdcache *c)
{
	for (unsigned s = 0; s < c->sets; s++) {
		int fds[FDCACHE_WAYS];
		{
			scope_wrlock(&c->lock);
			for (unsigned w = 0; w < FDCACHE_WAYS; w++) {
				struct fdslot *slot = &c->slots[s][w];
				slot->stale = slot->refs > 0;
				fds[w] = slot->refs > 0 ? -1 : empty(slot);
			}
		}
		for (unsigned w = 0; w < FDCACHE_WAYS; w++)
			inlay_cleanup_close(&fds[w]);
	}
}

struct inlay_digest fdcache_pack_key(uint32_t number)
{
	struct inlay_digest key = {0};

	inlay_put_le32(key.b, number);
	return key;
}
