/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data files that are of no use any more are removed when the journal that says so is on the disk. Removed before, they
 * would be missing after a power cut: the disk may know of the removal, and not yet of the record for which the file
 * went, so that what was there and safe would come back empty. For the same reason what has taken another file's place
 * is synced soon, as ext4 does with its own, although nobody asked for it.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "mount/view_private.h"

/* As long as files may wait: many of them share one sync. */
static const struct timespec rest = {.tv_sec = 2};

int view_sync_journal(struct view *v, struct inlay_error *err)
{
	auto_close int fd = -1;
	uint64_t seq;
	int r;
	{
		/* The journal may be replaced by a compacted one meanwhile: then that was synced. */
		scope_lock(&v->change);
		r = upper_sync_begin(v->upper, &fd, &seq, err);
	}
	if (r == 0 && fd >= 0)
		r = upper_sync_ahead(v->upper, err);
	if (r < 0 || fd < 0)
		return r;
	if (fdatasync(fd) < 0)
		return inlay_error_sys(err, -errno, "sync the upper's journal");
	upper_synced(v->upper, seq);
	return 0;
}

bool view_reap(struct view *v)
{
	(void)!upper_sync_ahead(v->upper, NULL);
	return upper_has_dead(v->upper) && view_sync_journal(v, NULL) == 0 && upper_reap(v->upper);
}

static void *run(void *arg)
{
	struct view *v = arg;

	for (;;) {
		upper_wait_work(v->upper);
		(void)nanosleep(&rest, NULL);
		(void)view_reap(v);
	}
	return NULL;
}

int view_start_reaping(struct view *v, struct inlay_error *err)
{
	pthread_t thread;
	int r = pthread_create(&thread, NULL, run, v);

	return r != 0 ? inlay_error_sys(err, -r, "start a thread") : 0;
}
