/* SPDX-License-Identifier: Apache-2.0 */
/* Taking over a folder that was there before: its content becomes the first generation of the workspace, and the
 * folder itself is moved aside, untouched. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "inlay/scan.h"
#include "keep/host.h"

enum {
	PIECE_BYTES = 256 << 10,
	READ_ATTEMPTS = 4, /* of a file that changes under the reader */
	ASIDE_MAX = 100,   /* names that are tried */
};

/* ---- its content ---- */

static int put_tree(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		    struct inlay_error *err)
{
	struct inlay_host *host = ctx;

	(void)id;
	return inlay_store_put(host->store, bytes, len, NULL, err);
}

/* Positive: INLAY_SCAN_CHANGED. */
static int put_content(struct inlay_store *store, int fd, uint64_t size, uint8_t *buf,
		       struct inlay_digest *ret, struct inlay_error *err)
{
	auto_of(inlay_store_put_abort) struct inlay_store_put *put = NULL;
	int r = inlay_store_put_begin(store, size, &put, err);

	for (uint64_t left = size; r == 0 && left > 0;) {
		size_t want = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES, n;
		r = inlay_read_full(fd, buf, want, &n, "a file that is taken over", err);
		if (r == 0 && n < want)
			return INLAY_SCAN_CHANGED;
		if (r == 0)
			r = inlay_store_put_write(put, buf, n, err);
		left -= n;
	}
	return r == 0 ? inlay_store_put_finish(take_ptr(put), ret, err) : r;
}

static int put_once(struct inlay_host *host, int root, struct inlay_dirty *d, uint8_t *buf,
		    struct inlay_error *err)
{
	auto_close int fd = -1;
	struct inlay_digest id;
	uint64_t size;
	int r = inlay_dirty_open(d, root, &fd, &size, err);

	if (r == 0)
		r = put_content(host->store, fd, size, buf, &id, err);
	return r == 0 ? inlay_dirty_settle(d, fd, &id, err) : r;
}

static int put_files(struct inlay_host *host, int root, struct inlay_snapshot *snapshot,
		     struct inlay_error *err)
{
	auto_free struct inlay_dirty *dirty = NULL;
	auto_free uint8_t *buf = malloc(PIECE_BYTES);
	size_t count;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = inlay_snapshot_dirty(snapshot, &dirty, &count, err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = INLAY_SCAN_CHANGED;
		for (int n = 0; r == INLAY_SCAN_CHANGED && n < READ_ATTEMPTS; n++)
			r = put_once(host, root, &dirty[i], buf, err);
		if (r > 0)
			return inlay_error_set(err, -EBUSY,
					       "it changes while it is taken over; try again when "
					       "nothing writes there");
	}
	return r;
}

static int take_content(struct inlay_host *host, int root, struct inlay_root *ret,
			struct inlay_error *err)
{
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *snapshot = NULL;
	struct inlay_scan_options options = {0};
	int r = inlay_scan_walk(root, &options, NULL, &snapshot, err);

	if (r == 0)
		r = put_files(host, root, snapshot, err);
	if (r == 0)
		r = inlay_snapshot_build(snapshot, inlay_now_ns(), put_tree, host, ret, err);
	return r;
}

/* ---- its place ---- */

static int move_aside(const char *path, char aside[static INLAY_HOST_PATH_MAX],
		      struct inlay_error *err)
{
	for (int n = 1; n <= ASIDE_MAX; n++) {
		char more[16] = "";
		if (n > 1)
			(void)snprintf(more, sizeof more, ".%d", n);
		int len = snprintf(aside, INLAY_HOST_PATH_MAX, "%s.before-inlay%s", path, more);
		if (len < 0 || len >= INLAY_HOST_PATH_MAX)
			return inlay_error_set(err, -ENAMETOOLONG, "its path is too long");
		if (renameat2(AT_FDCWD, path, AT_FDCWD, aside, RENAME_NOREPLACE) == 0)
			return 0;
		if (errno == EBUSY)
			return inlay_error_set(err, -EBUSY, "something is mounted there");
		if (errno != EEXIST)
			return inlay_error_sys(err, -errno, "move it aside");
	}
	return inlay_error_set(err, -EEXIST, "too many folders were moved aside already");
}

static int publish(struct inlay_host *host, const char *path, const struct inlay_root *root,
		   struct inlay_error *err)
{
	auto_of(inlay_workspace_unref) struct inlay_workspace *ws = NULL;
	struct inlay_idset missing = {0};
	struct inlay_generation gen;
	struct inlay_commit commit = {.root = *root, .origin = "what was there before"};
	int r = inlay_host_workspace(host, path, true, &ws, err);

	if (r == 0)
		r = inlay_workspace_lock(ws, &(struct inlay_lock_ask){.owner = "adoption"}, err);
	if (r != 0)
		return r < 0 ? r : inlay_error_set(err, -EBUSY, "another session was first");
	r = inlay_workspace_commit(ws, &commit, &gen, &missing, err);
	inlay_idset_fini(&missing);
	inlay_workspace_unlock(ws);
	return r > 0 ? inlay_error_set(err, -EBUSY, "it changed meanwhile") : r;
}

static int take_over(struct inlay_host *host, const char *path, int root,
		     char aside[static INLAY_HOST_PATH_MAX], struct inlay_error *err)
{
	struct inlay_root content;
	int r = take_content(host, root, &content, err);

	/* What is read from now on must be there after a crash: the folder is about to lose its name. */
	if (r == 0)
		r = inlay_store_sync(host->store, err);
	if (r == 0)
		r = move_aside(path, aside, err);
	if (r < 0)
		return r;
	r = publish(host, path, &content, err);
	if (r == 0)
		return 0;
	/* Back to how it was; the empty directory that was made there may go. */
	(void)rmdir(path);
	if (renameat2(AT_FDCWD, aside, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
		return inlay_error_prefix(err, r, "it is in %s", aside);
	return r;
}

int inlay_host_adopt(struct inlay_host *host, const char *path,
		     char ret_aside[static INLAY_HOST_PATH_MAX], struct inlay_error *err)
{
	auto_of(inlay_workspace_unref) struct inlay_workspace *ws = NULL;
	char canonical[INLAY_HOST_PATH_MAX];
	auto_close int root = -1;

	ret_aside[0] = 0;
	int r = workspace_canonical_path(path, true, canonical, err);
	if (r == 0)
		r = inlay_host_workspace(host, path, false, &ws, err);
	if (r != INLAY_HOST_MISSING)
		return r;
	root = open(canonical, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (root < 0 && errno == ENOENT)
		return 0;
	if (root < 0)
		return inlay_error_sys(err, -errno, "take over %s", canonical);
	inlay_host_receive(host, true);
	r = take_over(host, canonical, root, ret_aside, err);
	inlay_host_receive(host, false);
	if (r == 0)
		host_log(host, "%s was taken over; what was there is in %s", canonical, ret_aside);
	return r < 0 ? inlay_error_prefix(err, r, "take over %s", canonical) : r;
}
