/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/pack.h"

/*
 * A sync takes the list of what was written, lets go of the write lock, and waits for the disk
 * while others put. Exactly the files and directories on the list are synced; fdatasync of a few
 * files of our own costs milliseconds where syncfs waits for everybody's data, so that is for long
 * lists only.
 *
 * After a failed fdatasync the kernel counts the pages as clean: asking again would succeed and
 * mean nothing. So what was not known to be on the disk is written again first, after a check that
 * the kernel still has the right bytes.
 */

struct job {
	struct dirty what;
	int pack; /* the active pack and the index, dup()ed: both may be exchanged meanwhile */
	int index;
	struct point reached; /* when the job is done */
};

void durable_fini(struct dirty *d)
{
	for (size_t i = 0; i < d->file_count; i++)
		inlay_cleanup_close(&d->files[i]);
	*d = (struct dirty){0};
}

void durable_add_file(struct inlay_store *store, int fd)
{
	struct dirty *d = &store->dirty;

	d->any = true;
	if (d->file_count < DIRTY_FILES) {
		d->files[d->file_count++] = fd;
		return;
	}
	d->everything = true;
	inlay_cleanup_close(&fd);
}

struct point durable_reached(const struct inlay_store *store)
{
	const struct packer *p = &store->packer;

	/* Without an active pack all of those below the next number are complete. */
	return (struct point){.pack = p->number ? p->number : store->next_pack,
			      .off = p->number ? p->flushed : 0,
			      .epoch = store->index->head.epoch,
			      .entries = store->index->filed};
}

static void end_job(struct job *job)
{
	durable_fini(&job->what);
	inlay_cleanup_close(&job->pack);
	inlay_cleanup_close(&job->index);
}

static int begin_job(struct inlay_store *store, struct job *job, struct inlay_error *err)
{
	const struct packer *p = &store->packer;

	*job = (struct job){.pack = -1, .index = -1};
	if (store->dirty.pack && p->number != 0)
		job->pack = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
	if (store->dirty.index)
		job->index = fcntl(store->index->fd, F_DUPFD_CLOEXEC, 0);
	if ((store->dirty.pack && p->number != 0 && job->pack < 0) ||
	    (store->dirty.index && job->index < 0)) {
		int r = inlay_error_sys(err, -errno, "sync");
		end_job(job);
		return r;
	}
	job->reached = durable_reached(store);
	job->what = store->dirty;
	store->dirty = (struct dirty){0};
	return 0;
}

static int sync_fanout(int loose, const uint64_t *fanout, struct inlay_error *err)
{
	char name[3];

	for (unsigned f = 0; f < LOOSE_FANOUT; f++) {
		if (!store_bit(fanout, f))
			continue;
		loose_fanout_name(f, name);
		auto_close int fd =
			openat(loose, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || fsync(fd) < 0)
			return inlay_error_sys(err, -errno, "sync directory loose/%s", name);
	}
	return 0;
}

static int run_job(const struct inlay_store *store, const struct job *job, struct inlay_error *err)
{
	const struct dirty *d = &job->what;

	if (d->everything) {
		if (syncfs(store->root) < 0)
			return inlay_error_sys(err, -errno, "sync the filesystem of the store");
		return 0;
	}
	for (size_t i = 0; i < d->file_count; i++)
		if (fdatasync(d->files[i]) < 0)
			return inlay_error_sys(err, -errno, "sync a file of the store");
	if (job->pack >= 0 && fdatasync(job->pack) < 0)
		return inlay_error_sys(err, -errno, "sync a pack");
	int r = sync_fanout(store->loose, d->fanout, err);
	if (r < 0)
		return r;
	if (d->loose_dir && fsync(store->loose) < 0)
		return inlay_error_sys(err, -errno, "sync directory loose");
	if (d->packs_dir && fsync(store->packs) < 0)
		return inlay_error_sys(err, -errno, "sync directory packs");
	if (job->index >= 0 && fdatasync(job->index) < 0)
		return inlay_error_sys(err, -errno, "sync the index");
	if (d->root_dir && fsync(store->root) < 0)
		return inlay_error_sys(err, -errno, "sync the directory of the store");
	return 0;
}

static void finish_job(struct inlay_store *store, struct job *job, int r)
{
	if (r == 0) {
		store->synced = job->reached;
		store->suspect = false;
	} else {
		store->suspect = true;
		store->dirty.any = store->dirty.everything = true;
	}
	end_job(job);
}

/* ---- after a failure ---- */

/* Makes the pages dirty again, without a moment in which the file has other bytes. */
static int write_again(int fd, uint64_t from, uint64_t to, struct inlay_error *err)
{
	enum { COPY_BYTES = 1 << 18 };
	auto_free uint8_t *buf = malloc(COPY_BYTES);

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	while (from < to) {
		size_t want = to - from < COPY_BYTES ? (size_t)(to - from) : COPY_BYTES, n;
		int r = inlay_pread_full(fd, buf, want, from, &n, "a file of the store", err);
		if (r == 0 && n < want)
			r = inlay_error_set(err, -EIO, "a file of the store has become shorter");
		if (r == 0)
			r = inlay_pwrite_all(fd, buf, n, from, "a file of the store", err);
		if (r < 0)
			return r;
		from += n;
	}
	return 0;
}

static int lost(struct inlay_error *err)
{
	return inlay_error_set(err, -EIO,
			       "the disk has lost what was put since the last sync: the store "
			       "has to be opened anew");
}

static int pack_again(struct inlay_store *store, uint32_t number, uint64_t from, uint64_t to,
		      struct inlay_error *err)
{
	auto_of(pack_walk_fini) struct pack_walk w = {0};
	auto_close int fd = -1;
	struct record record;
	uint64_t off;

	int r = pack_open(store->packs, number, O_RDWR, &fd, err);
	if (r != 0)
		return r < 0 ? r : lost(err);
	r = pack_walk_begin(fd, from < PACK_HEADER_BYTES ? PACK_HEADER_BYTES : from, to, &w, err);
	while (r == 0)
		r = pack_walk_next(&w, &record, &off, err);
	if (r < 0)
		return r;
	return r == PACK_WALK_END && w.end == to ? write_again(fd, from, to, err) : lost(err);
}

static int packs_again(struct inlay_store *store, struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};
	int r = pack_list(store->packs, &packs, err);

	for (size_t i = 0; r == 0 && i < packs.count; i++) {
		const struct pack_file *p = &packs.files[i];
		uint64_t from = p->number == store->synced.pack ? store->synced.off : 0;
		if (p->number >= store->synced.pack && from < p->bytes)
			r = pack_again(store, p->number, from, p->bytes, err);
	}
	return r;
}

static int loose_again(struct inlay_store *store, uint32_t from, struct inlay_error *err)
{
	static const struct loose_check_options options;
	struct place place, found;

	for (uint32_t n = from; n < store->index->filed; n++) {
		if (!objindex_current(store->index, n, &place) || place.pack != 0)
			continue;
		auto_close int fd = -1;
		int r = loose_open(store->loose, &place.id, O_RDWR, &fd, err);
		if (r == 0)
			r = loose_check(fd, &place.id, &options, &found, err);
		if (r == LOOSE_MISSING || r == -EBADMSG)
			return lost(err);
		if (r == 0)
			r = write_again(fd, 0, layout_loose_bytes(place.size), err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int all_again(struct inlay_store *store, struct inlay_error *err)
{
	const struct objindex *ix = store->index;
	uint32_t from = 0;

	if (store->synced.epoch == ix->head.epoch && store->synced.entries < ix->filed)
		from = (uint32_t)store->synced.entries;
	int r = packs_again(store, err);
	if (r == 0)
		r = loose_again(store, from, err);
	if (r == 0)
		r = write_again(ix->fd, INDEX_HEADER_BYTES + (uint64_t)from * INDEX_ENTRY_BYTES,
				INDEX_HEADER_BYTES + (uint64_t)ix->filed * INDEX_ENTRY_BYTES, err);
	return r;
}

/* ---- sync ---- */

/* With write_lock held. 1: there is nothing to do. */
static int prepare(struct inlay_store *store, struct job *job, struct inlay_error *err)
{
	int r = append_flush(store, err);

	if (r < 0)
		return r;
	if (!store->dirty.any)
		return 1;
	if (store->suspect)
		r = all_again(store, err);
	return r < 0 ? r : begin_job(store, job, err);
}

int durable_sync_locked(struct inlay_store *store, struct inlay_error *err)
{
	struct job job;
	int r = prepare(store, &job, err);

	if (r != 0)
		return r < 0 ? r : 0;
	r = run_job(store, &job, err);
	finish_job(store, &job, r);
	return r;
}

int inlay_store_sync(struct inlay_store *store, struct inlay_error *err)
{
	struct job job;
	int r = store_check_writer(store, err);

	if (r < 0)
		return r;
	scope_lock(&store->sync_lock);
	{
		scope_lock(&store->write_lock);
		r = prepare(store, &job, err);
	}
	if (r != 0)
		return r < 0 ? r : 0;
	r = run_job(store, &job, err);
	scope_lock(&store->write_lock);
	finish_job(store, &job, r);
	return r;
}
