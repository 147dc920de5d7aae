/* SPDX-License-Identifier: Apache-2.0 */
/* The data files: named by number below one directory, opened with its descriptor alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "inlay/io.h"
#include "inlay/text.h"
#include "upper/upper.h"

enum {
	NAME_BYTES = 24,
	SYNCS_MAX = 50, /* files that are synced one by one; above, the filesystem is */
};

static void name_of(uint64_t n, char ret[static NAME_BYTES])
{
	(void)snprintf(ret, NAME_BYTES, "%llu", (unsigned long long)n);
}

static struct inlay_digest key_of(uint64_t n)
{
	struct inlay_digest key = {{0}};

	/* Spread over the cache's sets, which the first byte chooses. */
	key.b[0] = (uint8_t)n;
	inlay_put_le64(key.b + 8, n);
	return key;
}

int upper_open_files(struct upper *u, struct inlay_error *err)
{
	int r = fdcache_init(&u->fds, err);

	if (r < 0)
		return r;
	u->fds_ready = true;
	if (!u->read_only)
		return inlay_open_dir(u->dir_fd, UPPER_FILES, 0700, &u->files_fd, err);
	u->files_fd = openat(u->dir_fd, UPPER_FILES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (u->files_fd < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "open the upper");
	return 0;
}

/* ---- descriptors ---- */

static int open_file(struct upper *u, uint64_t n, bool create, struct inlay_error *err)
{
	char name[NAME_BYTES];
	int flags = (u->read_only ? O_RDONLY : O_RDWR) | (create ? O_CREAT : 0) | O_NOFOLLOW |
		    O_CLOEXEC | O_NOATIME;

	name_of(n, name);
	int fd = openat(u->files_fd, name, flags, 0600);
	if (fd < 0 && errno == EPERM) /* O_NOATIME, and the file is another's */
		fd = openat(u->files_fd, name, flags & ~O_NOATIME, 0600);
	return fd < 0 ? inlay_error_sys(err, -errno, "open the upper's file %s", name) : fd;
}

int upper_file(struct upper *u, uint64_t n, bool create, struct fdref *ret, struct inlay_error *err)
{
	struct inlay_digest key = key_of(n);

	if (fdcache_take(&u->fds, &key, ret))
		return 0;
	int fd = open_file(u, n, create, err);
	if (fd == -EMFILE || fd == -ENFILE) {
		fdcache_forget_all(&u->fds);
		fd = open_file(u, n, create, err);
	}
	if (fd < 0)
		return fd;
	if (create) {
		scope_lock(&u->lock);
		u->names_made++;
	}
	fdcache_add(&u->fds, &key, fd, ret);
	return 0;
}

/* ---- sizes and times ---- */

static int64_t ns_of(struct timespec ts)
{
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void take_stat(struct upper_node *node, const struct stat *st)
{
	node->size = (uint64_t)st->st_size;
	node->blocks = (uint64_t)st->st_blocks;
	node->atime_ns = ns_of(st->st_atim);
	node->mtime_ns = ns_of(st->st_mtim);
	/* Names, mode and owner have changed without the file's knowing. */
	if (ns_of(st->st_ctim) > node->ctime_ns)
		node->ctime_ns = ns_of(st->st_ctim);
	node->whole = true;
}

void upper_stat(struct upper *u, struct upper_node *node)
{
	char name[NAME_BYTES];
	struct stat st;

	scope_lock(&u->lock);
	if (!node->has_file || node->whole)
		return;
	name_of(node->n, name);
	if (fstatat(u->files_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		take_stat(node, &st);
}

void upper_touched(struct upper *u, struct upper_node *node)
{
	scope_lock(&u->lock);
	node->whole = false;
}

/* ---- the directory ---- */

/* What was replayed may be in memory alone: a file goes after the record that ended it. */
static bool journal_is_durable(struct upper *u)
{
	if (u->synced_seq < u->seq) {
		if (fdatasync(u->journal_fd) < 0)
			return false;
		upper_synced(u, u->seq);
	}
	return true;
}

static void check_file(struct upper *u, const char *name)
{
	uint64_t n;
	char same[NAME_BYTES];
	struct stat st;

	if (inlay_parse_u64(name, &n, NULL) < 0)
		n = 0;
	name_of(n, same);
	struct upper_node *node = n && strcmp(name, same) == 0 ? upper_find(u, n) : NULL;
	if (node && S_ISREG(node->mode) && node->from == UPPER_OWN &&
	    fstatat(u->files_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
		node->has_file = true;
		take_stat(node, &st);
		return;
	}
	/* After damage to the journal it may be somebody's only copy. */
	if (!u->read_only && u->damaged == 0 && journal_is_durable(u))
		(void)unlinkat(u->files_fd, name, 0);
	if (n >= u->next && strcmp(name, same) == 0)
		u->next = n + 1;
}

int upper_check_files(struct upper *u, struct inlay_error *err)
{
	if (u->files_fd < 0)
		return 0;
	int fd = openat(u->files_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir) {
		int r = inlay_error_sys(err, -errno, "list the upper");
		inlay_cleanup_close(&fd);
		return r;
	}
	struct dirent *d;
	while ((d = readdir(dir)))
		if (d->d_name[0] != '.')
			check_file(u, d->d_name);
	(void)closedir(dir);
	return 0;
}

void upper_discard(struct upper *u, uint64_t n)
{
	char name[NAME_BYTES];
	struct inlay_digest key = key_of(n);

	fdcache_forget(&u->fds, &key);
	name_of(n, name);
	(void)unlinkat(u->files_fd, name, 0);
}

bool upper_has_dead(struct upper *u)
{
	scope_lock(&u->lock);
	return u->dead_first < u->dead_end;
}

void upper_wait_work(struct upper *u)
{
	scope_lock(&u->lock);
	while (u->dead_first == u->dead_end && u->ahead_count == 0)
		(void)pthread_cond_wait(&u->work, &u->lock);
}

bool upper_reap(struct upper *u)
{
	for (bool some = false;; some = true) {
		uint64_t n;
		{
			scope_lock(&u->lock);
			if (u->dead_first == u->dead_end ||
			    u->dead[u->dead_first].seq > u->synced_seq)
				return some;
			n = u->dead[u->dead_first++].n;
		}
		upper_discard(u, n);
	}
}

int upper_sync_file(struct upper *u, int fd, bool data_only, struct inlay_error *err)
{
	uint64_t made;
	bool names;

	if (fd >= 0 && (data_only ? fdatasync(fd) : fsync(fd)) < 0)
		return inlay_error_sys(err, -errno, "sync a file of the upper");
	{
		scope_lock(&u->lock);
		made = u->names_made;
		names = u->names_synced < made;
	}
	if (!names)
		return 0;
	if (fsync(u->files_fd) < 0)
		return inlay_error_sys(err, -errno, "sync the upper's names");
	scope_lock(&u->lock);
	if (made > u->names_synced)
		u->names_synced = made;
	return 0;
}

/* ---- before the journal ---- */

void upper_put_ahead(struct upper *u, uint64_t n)
{
	scope_lock(&u->lock);
	if (u->ahead_count > 0 && u->ahead[u->ahead_count - 1] == n)
		return;
	if (u->ahead_count == u->ahead_cap) {
		size_t cap = u->ahead_cap ? u->ahead_cap * 2 : 16;
		uint64_t *more = reallocarray(u->ahead, cap, sizeof *more);
		if (!more)
			return; /* it is as safe as a file that nobody synced */
		u->ahead = more;
		u->ahead_cap = cap;
	}
	u->ahead[u->ahead_count++] = n;
	(void)pthread_cond_signal(&u->work);
}

static int sync_one(struct upper *u, uint64_t n, struct inlay_error *err)
{
	struct fdref ref;
	int r = upper_file(u, n, false, &ref, err);

	if (r < 0)
		return r == -ENOENT ? 0 : r; /* gone meanwhile */
	r = upper_sync_file(u, ref.fd, true, err);
	fdcache_release(&u->fds, &ref);
	return r;
}

int upper_sync_ahead(struct upper *u, struct inlay_error *err)
{
	auto_free uint64_t *ahead = NULL;
	size_t count;
	int r = 0;

	/* Who comes second waits until they are on the disk. */
	scope_lock(&u->ahead_lock);
	{
		scope_lock(&u->lock);
		ahead = take_ptr(u->ahead);
		count = u->ahead_count;
		u->ahead_count = u->ahead_cap = 0;
	}
	if (count > SYNCS_MAX)
		return syncfs(u->files_fd) < 0 ? inlay_error_sys(err, -errno, "sync the upper") : 0;
	for (size_t i = 0; r == 0 && i < count; i++)
		r = sync_one(u, ahead[i], err);
	return r;
}
