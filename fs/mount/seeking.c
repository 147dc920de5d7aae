/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/seeking.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "mount/ops.h"
#include "upper/upper.h"

struct seek {
	TAILQ_ENTRY(seek) link;
	fuse_req_t req;
	fuse_ino_t ino;
	uint64_t file;
	off_t off;
	int whence;
};

static void answer(struct worker *w, const struct seek *s)
{
	struct fdref ref;

	(void)fuse_lowlevel_notify_inval_inode(w->session, s->ino, 0, 0);
	int r = upper_file(w->upper, s->file, false, &ref, NULL);
	if (r < 0) {
		worker_reply_error(s->req, r);
		return;
	}
	/* The descriptor's position is of no use to anybody. */
	off_t at = lseek(ref.fd, s->off, s->whence);
	r = at < 0 ? -errno : 0;
	fdcache_release(&w->upper->fds, &ref);
	if (r < 0)
		worker_reply_error(s->req, r);
	else
		(void)fuse_reply_lseek(s->req, at);
}

static void *run(void *arg)
{
	struct seeking *s = arg;

	for (;;) {
		struct seek *one;
		{
			scope_lock(&s->lock);
			while (TAILQ_EMPTY(&s->queue))
				(void)pthread_cond_wait(&s->cond, &s->lock);
			one = TAILQ_FIRST(&s->queue);
			TAILQ_REMOVE(&s->queue, one, link);
		}
		answer(s->worker, one);
		free(one);
	}
	return NULL;
}

void seeking_ask(struct seeking *s, fuse_req_t req, fuse_ino_t ino, uint64_t file, off_t off,
		 int whence)
{
	struct seek *one = malloc(sizeof *one);

	if (!one) {
		worker_reply_error(req, -ENOMEM);
		return;
	}
	*one = (struct seek){.req = req, .ino = ino, .file = file, .off = off, .whence = whence};
	scope_lock(&s->lock);
	TAILQ_INSERT_TAIL(&s->queue, one, link);
	(void)pthread_cond_signal(&s->cond);
}

int seeking_start(struct worker *w, struct inlay_error *err)
{
	struct seeking *s = calloc(1, sizeof *s);
	pthread_t thread;

	if (!s)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	s->worker = w;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->cond, NULL);
	TAILQ_INIT(&s->queue);
	w->seeking = s;
	int r = pthread_create(&thread, NULL, run, s);
	return r != 0 ? inlay_error_sys(err, -r, "start a thread") : 0;
}
