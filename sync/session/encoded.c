/* SPDX-License-Identifier: Apache-2.0 */
#include "session/encoded.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

struct encoded {
	struct encodings *all;
	struct encoded *next; /* older; in the list */
	struct encoded_key key;
	unsigned refs;
	bool listed, ended, good;
	struct inlay_buf bytes; /* the beginning */
	int fd;                 /* the rest; -1 = it is all in memory */
	uint64_t len;
	void *about;
	void (*free_about)(void *about);
};

void encodings_init(struct encodings *all, int dir)
{
	pthread_condattr_t monotonic;

	*all = (struct encodings){.dir = dir};
	(void)pthread_mutex_init(&all->lock, NULL);
	(void)pthread_condattr_init(&monotonic);
	(void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&all->changed, &monotonic);
	(void)pthread_condattr_destroy(&monotonic);
}

static void destroy(struct encoded *e)
{
	if (e->about)
		e->free_about(e->about);
	inlay_cleanup_close(&e->fd);
	inlay_buf_fini(&e->bytes);
	free(e);
}

/* Lock held. */
static void unlist(struct encoded *e)
{
	for (struct encoded **at = &e->all->newest; *at; at = &(*at)->next) {
		if (*at == e) {
			*at = e->next;
			break;
		}
	}
	e->listed = false;
	if (e->refs == 0)
		destroy(e);
}

/* Lock held. Lets go what nobody holds, but for the newest few. */
static void prune(struct encodings *all)
{
	unsigned idle = 0;

	for (struct encoded *e = all->newest, *next; e; e = next) {
		next = e->next;
		if (e->refs == 0 && ++idle > ENCODED_KEPT)
			unlist(e);
	}
}

void encodings_fini(struct encodings *all)
{
	while (all->newest)
		unlist(all->newest);
	(void)pthread_mutex_destroy(&all->lock);
	(void)pthread_cond_destroy(&all->changed);
}

void encodings_stop(struct encodings *all)
{
	scope_lock(&all->lock);
	all->ending = true;
}

static bool same_key(const struct encoded_key *a, const struct encoded_key *b)
{
	return inlay_digest_equal(&a->to, &b->to) && inlay_digest_equal(&a->from, &b->from) &&
	       a->level == b->level;
}

int encodings_get(struct encodings *all, const struct encoded_key *key, struct encoded **ret,
		  struct inlay_error *err)
{
	scope_lock(&all->lock);
	for (struct encoded *e = all->newest; e; e = e->next) {
		if (same_key(&e->key, key)) {
			e->refs++;
			all->taken++;
			*ret = e;
			return 0;
		}
	}
	struct encoded *e = calloc(1, sizeof *e);
	if (!e)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*e = (struct encoded){
		.all = all, .next = all->newest, .key = *key, .refs = 1, .listed = true, .fd = -1};
	all->newest = e;
	all->made++;
	prune(all);
	*ret = e;
	return ENCODED_MAKE;
}

void encoded_unref(struct encoded *e)
{
	if (!e)
		return;
	struct encodings *all = e->all;
	scope_lock(&all->lock);
	if (--e->refs == 0 && !e->listed)
		destroy(e);
	else
		prune(all);
}

/* ---- making ---- */

void encoded_begin(struct encoded *e, void *about, void (*free_about)(void *about))
{
	scope_lock(&e->all->lock);
	e->about = about;
	e->free_about = free_about;
}

static int append_to_file(struct encoded *e, const void *bytes, size_t len, struct inlay_error *err)
{
	uint64_t at = e->len - ENCODED_MEMORY;

	/* Only the maker comes here, so the file needs no lock; what is below `len` does not change any more. */
	if (e->fd < 0)
		e->fd = openat(e->all->dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (e->fd < 0)
		return inlay_error_sys(err, -errno, "make a file for a change set");
	return inlay_pwrite_all(e->fd, bytes, len, at, "a change set", err);
}

int encoded_append(struct encoded *e, const void *bytes, size_t len, struct inlay_error *err)
{
	size_t head = 0;

	if (e->len < ENCODED_MEMORY) {
		head = ENCODED_MEMORY - e->len < len ? (size_t)(ENCODED_MEMORY - e->len) : len;
		scope_lock(&e->all->lock);
		inlay_buf_add(&e->bytes, bytes, head);
		e->len += head;
	}
	int r = inlay_buf_check(&e->bytes, err);
	if (r == 0 && head < len)
		r = append_to_file(e, (const uint8_t *)bytes + head, len - head, err);
	scope_lock(&e->all->lock);
	e->len += r == 0 ? len - head : 0;
	if (e->len > ENCODED_MEMORY)
		(void)pthread_cond_broadcast(&e->all->changed);
	return r == 0 && e->all->ending ? inlay_error_set(err, -ECANCELED, "it ends") : r;
}

void encoded_end(struct encoded *e, bool good)
{
	scope_lock(&e->all->lock);
	e->ended = true;
	e->good = good;
	/* The next one who asks tries again. */
	if (!good)
		unlist(e);
	(void)pthread_cond_broadcast(&e->all->changed);
}

/* ---- taking ---- */

int encoded_await(struct encoded *e)
{
	scope_lock(&e->all->lock);
	while (!e->ended && e->len <= ENCODED_MEMORY)
		(void)pthread_cond_wait(&e->all->changed, &e->all->lock);
	return e->ended && !e->good ? ENCODED_FAILED : 0;
}

void *encoded_about(const struct encoded *e)
{
	return e->about;
}

/* Lock held. */
static int wait_for_more(struct encoded *e, uint64_t at, int64_t patience_ns)
{
	int64_t until = inlay_monotonic_ns() + patience_ns;
	struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

	while (at >= e->len && !e->ended)
		if (pthread_cond_timedwait(&e->all->changed, &e->all->lock, &ts) == ETIMEDOUT)
			return ENCODED_SLOW;
	if (e->ended && !e->good)
		return ENCODED_FAILED;
	return at >= e->len ? ENCODED_END : 0;
}

int encoded_read(struct encoded *e, uint64_t at, void *room, size_t size, int64_t patience_ns,
		 size_t *ret, struct inlay_error *err)
{
	uint64_t len;

	{
		scope_lock(&e->all->lock);
		int r = wait_for_more(e, at, patience_ns);
		if (r != 0)
			return r;
		len = e->len;
		if (at < ENCODED_MEMORY) {
			size_t have = e->bytes.len - (size_t)at;
			*ret = have < size ? have : size;
			memcpy(room, e->bytes.data + at, *ret);
			return 0;
		}
	}
	size_t want = len - at < size ? (size_t)(len - at) : size;
	int r = inlay_pread_full(e->fd, room, want, at - ENCODED_MEMORY, ret, "a change set", err);
	return r == 0 && *ret == 0 ? inlay_error_set(err, -EIO, "a change set was cut") : r;
}
