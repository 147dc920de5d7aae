/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_FDCACHE_H
#define INLAY_STORE_FDCACHE_H

/*
 * Open descriptors of packs and loose files: a set-associative cache that gives up the least
 * recently used one, never one in use. Some hundreds at most, and only a part of RLIMIT_NOFILE. Any
 * thread; finding and releasing share the lock, no system call is made under it.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/digest.h"
#include "inlay/error.h"

enum {
	FDCACHE_WAYS = 8,
	FDCACHE_SETS_MAX = 64,
};

struct fdslot {
	struct inlay_digest key;
	_Atomic uint64_t used; /* the cache's clock when it was last taken */
	atomic_uint refs;      /* users; changed under the shared lock, read under the exclusive */
	int fd;                /* -1 = empty */
	bool stale;            /* found no more; closed by its last user */
};

struct fdcache {
	pthread_rwlock_t lock; /* everything below */
	_Atomic uint64_t clock;
	unsigned sets;
	struct fdslot slots[FDCACHE_SETS_MAX][FDCACHE_WAYS];
};

/* A descriptor in use. */
struct fdref {
	int fd;
	struct fdslot *slot; /* NULL: it is not in the cache, the release closes it */
};

int fdcache_init(struct fdcache *c, struct inlay_error *err) inlay_must_check;
void fdcache_fini(struct fdcache *c); /* nothing is in use any more */

/* False when it is not there: open it and call fdcache_add(). */
bool fdcache_take(struct fdcache *c, const struct inlay_digest *key, struct fdref *ret);
/* Hands the descriptor over to the cache and takes it. Never fails: without a free slot it belongs
 * to the reference alone. */
void fdcache_add(struct fdcache *c, const struct inlay_digest *key, int fd, struct fdref *ret);
void fdcache_release(struct fdcache *c, struct fdref *ref);

/* The file behind the key is not that one any more. */
void fdcache_forget(struct fdcache *c, const struct inlay_digest *key);
/* The same for all; also frees descriptors when the process has run out of them. */
void fdcache_forget_all(struct fdcache *c);

/* The key of a pack; no object has it. */
struct inlay_digest fdcache_pack_key(uint32_t number);

#endif
