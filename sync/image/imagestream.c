/* SPDX-License-Identifier: Apache-2.0 */
#include "image/imagestream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

void imagestreams_init(struct imagestreams *s, struct inlay_store *store, struct inlay_trees *trees,
		       int spool_fd)
{
	*s = (struct imagestreams){.store = store, .trees = trees, .spool_fd = spool_fd};
	(void)pthread_mutex_init(&s->lock, NULL);
}

static void stream_free(struct imagestream *s)
{
	inlay_cleanup_close(&s->fd);
	imageplan_fini(&s->own_plan);
	free(s->had);
	(void)pthread_cond_destroy(&s->moved);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}

void imagestreams_fini(struct imagestreams *s)
{
	for (struct imagestream *i = s->list, *next; i; i = next) {
		next = i->next;
		(void)pthread_join(i->thread, NULL);
		stream_free(i);
	}
	for (struct plan_kept *k = s->plans, *next; k; k = next) {
		next = k->next;
		imageplan_fini(&k->plan);
		free(k);
	}
	(void)pthread_mutex_destroy(&s->lock);
}

int imagestreams_plan(struct imagestreams *s, const struct inlay_digest *manifest,
		      const struct inlay_digest *basis, const struct imageplan **ret,
		      struct inlay_error *err)
{
	static const struct inlay_digest none;

	scope_lock(&s->lock);
	for (struct plan_kept *k = s->plans; k; k = k->next) {
		if (inlay_digest_equal(&k->plan.manifest, manifest) &&
		    inlay_digest_equal(&k->plan.basis, basis ? basis : &none)) {
			*ret = &k->plan;
			return 0;
		}
	}
	struct plan_kept *k = calloc(1, sizeof *k);
	int r = k ? imageplan_make(s->store, s->trees, manifest, basis, &k->plan, err)
		  : inlay_error_set(err, -ENOMEM, "out of memory");
	if (r != 0) {
		free(k);
		return r;
	}
	k->next = s->plans;
	s->plans = k;
	*ret = &k->plan;
	return 0;
}

/* ---- the thread that encodes ---- */

static int append(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct imagestream *s = ctx;
	int r = inlay_pwrite_all(s->fd, bytes, len, s->written, "the spool", err);

	scope_lock(&s->lock);
	s->written += r == 0 ? len : 0;
	(void)pthread_cond_broadcast(&s->moved);
	return r;
}

static void *run(void *arg)
{
	struct imagestream *s = arg;
	struct inlay_error err = {0};
	int r = imageencode(&s->encode, &err);

	scope_lock(&s->lock);
	s->ended = true;
	s->result = r;
	s->err = err;
	(void)pthread_cond_broadcast(&s->moved);
	return NULL;
}

static struct inlay_digest key_of(const struct imageplan *plan, const uint8_t *had, bool no_trees)
{
	struct inlay_hasher h;
	struct inlay_digest d;

	inlay_hasher_init(&h);
	inlay_hasher_add(&h, plan->manifest.b, INLAY_DIGEST_BYTES);
	inlay_hasher_add(&h, plan->basis.b, INLAY_DIGEST_BYTES);
	inlay_hasher_add(&h, no_trees ? "1" : "0", 1);
	for (size_t i = 0; i < plan->count; i++) {
		if (imageencode_skips(had, i))
			continue;
		inlay_hasher_add(&h, plan->items[i].id.b, INLAY_DIGEST_BYTES);
		inlay_hasher_add(&h, plan->items[i].basis.b, INLAY_DIGEST_BYTES);
	}
	inlay_hasher_end(&h, &d);
	return d;
}

static int open_spool(struct imagestreams *all, struct imagestream *s, struct inlay_error *err)
{
	s->fd = openat(all->spool_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	return s->fd < 0 ? inlay_error_sys(err, -errno, "make an unnamed file beside the images")
			 : 0;
}

static int start(struct imagestreams *all, struct imagestream *s, struct inlay_error *err)
{
	s->fd = -1;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->moved, NULL);
	int r = open_spool(all, s, err);
	if (r == 0) {
		r = pthread_create(&s->thread, NULL, run, s);
		r = r ? inlay_error_sys(err, -r, "start a thread") : 0;
	}
	if (r < 0)
		stream_free(s);
	return r;
}

int imagestreams_get(struct imagestreams *all, const struct imageplan *plan, uint8_t *had,
		     struct imageplan *own, struct imagestream **ret, bool *ret_shared,
		     struct inlay_error *err)
{
	struct inlay_digest key = key_of(plan, had, own);

	scope_lock(&all->lock);
	for (struct imagestream *s = all->list; s; s = s->next) {
		if (!inlay_digest_equal(&s->key, &key))
			continue;
		free(had);
		if (own)
			imageplan_fini(own);
		*ret = s;
		*ret_shared = true;
		return 0;
	}
	*ret_shared = false;
	struct imagestream *s = calloc(1, sizeof *s);
	if (!s) {
		free(had);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	s->key = key;
	s->had = had;
	if (own) {
		s->own_plan = *own;
		*own = (struct imageplan){0};
	}
	s->encode = (struct imageencode){.store = all->store,
					 .trees = all->trees,
					 .plan = own ? &s->own_plan : plan,
					 .had = had,
					 .no_trees = own,
					 .emit = append,
					 .ctx = s};
	int r = start(all, s, err);
	if (r < 0)
		return r;
	s->next = all->list;
	all->list = s;
	*ret = s;
	return 0;
}

int imagestream_read(struct imagestream *s, uint64_t at, void *buf, size_t len, size_t *ret_n,
		     struct inlay_error *err)
{
	{
		scope_lock(&s->lock);
		while (s->written <= at && !s->ended)
			(void)pthread_cond_wait(&s->moved, &s->lock);
		if (s->ended && s->result < 0) {
			*err = s->err;
			return s->result;
		}
		uint64_t there = s->written - at;
		len = len < there ? len : (size_t)there;
	}
	*ret_n = 0;
	return len ? inlay_pread_full(s->fd, buf, len, at, ret_n, "the spool", err) : 0;
}
