/* SPDX-License-Identifier: Apache-2.0 */
#include "store/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/mark.h"
#include "store/pack.h"

static const char format_text[] = "inlay store 1 sha256\n";

enum { PACK_MAX_BYTES = 256 << 20 };

int store_check_writer(const struct inlay_store *store, struct inlay_error *err)
{
	if (!store->writer)
		return inlay_error_set(err, -EROFS, "the store is open for reading only");
	return 0;
}

/* ---- the object itself ---- */

static void init_table_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	(void)pthread_rwlockattr_init(&attr);
#ifdef __GLIBC__
	/* Or readers that never pause keep a put waiting for ever. */
	(void)pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
	(void)pthread_rwlock_init(lock, &attr);
	(void)pthread_rwlockattr_destroy(&attr);
}

static int new_store(struct inlay_store **ret, struct inlay_error *err)
{
	struct inlay_store *store = calloc(1, sizeof *store);

	if (!store)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = fdcache_init(&store->fds, err);
	if (r < 0) {
		free(store);
		return r;
	}
	(void)pthread_mutex_init(&store->sweep_lock, NULL);
	(void)pthread_mutex_init(&store->ref_lock, NULL);
	(void)pthread_mutex_init(&store->sync_lock, NULL);
	(void)pthread_mutex_init(&store->write_lock, NULL);
	init_table_lock(&store->table_lock);
	store->root = store->packs = store->loose = store->refs = store->lock = -1;
	store->packer.fd = -1;
	store->pack_max = PACK_MAX_BYTES;
	store->now = inlay_now_ns;
	*ret = store;
	return 0;
}

void inlay_store_close(struct inlay_store *store)
{
	if (!store)
		return;
	if (store->ready)
		writer_end(store);
	append_fini(store);
	durable_fini(&store->dirty);
	objindex_close(store->index);
	fdcache_fini(&store->fds);
	inlay_cleanup_close(&store->refs);
	inlay_cleanup_close(&store->loose);
	inlay_cleanup_close(&store->packs);
	inlay_cleanup_close(&store->root);
	inlay_cleanup_close(&store->lock); /* last: it lets the next writer in */
	(void)pthread_rwlock_destroy(&store->table_lock);
	(void)pthread_mutex_destroy(&store->write_lock);
	(void)pthread_mutex_destroy(&store->sync_lock);
	(void)pthread_mutex_destroy(&store->ref_lock);
	(void)pthread_mutex_destroy(&store->sweep_lock);
	free(store);
}

/* ---- its files ---- */

static int check_format(const char *text, struct inlay_error *err)
{
	char algorithm[32];
	unsigned version;
	int end = 0;

	if (strcmp(text, format_text) == 0)
		return 0;
	if (sscanf(text, "inlay store %9u %31s%n", &version, algorithm, &end) != 2 ||
	    strcmp(text + end, "\n") != 0)
		return inlay_error_set(err, -EBADMSG, "its format file is damaged");
	if (version > LAYOUT_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "it has version %u, this inlay reads version %d", version,
				       LAYOUT_VERSION);
	if (strcmp(algorithm, "sha256") != 0)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "its hash algorithm is %s, this inlay reads sha256",
				       algorithm);
	return inlay_error_set(err, -EBADMSG, "its format file is damaged");
}

int store_read_format(int root, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(root, "format", 256, &b, err);

	if (r == INLAY_IO_MISSING)
		return INLAY_STORE_MISSING;
	if (r == -E2BIG || (r == 0 && memchr(b.data, 0, b.len)))
		return inlay_error_set(err, -EBADMSG, "its format file is damaged");
	return r < 0 ? r : check_format(inlay_buf_cstr(&b), err);
}

/* Positive: LOCKED. */
static int take_lock(struct inlay_store *store, struct inlay_error *err)
{
	auto_close int fd =
		openat(store->root, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return inlay_error_sys(err, -errno, "open its lock");
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return INLAY_STORE_LOCKED;
		return inlay_error_sys(err, -errno, "lock it");
	}
	store->lock = take_fd(fd);
	return 0;
}

static int open_dir(int root, const char *name, bool make, int *ret_fd, struct inlay_error *err)
{
	if (make && mkdirat(root, name, 0700) < 0 && errno != EEXIST)
		return inlay_error_sys(err, -errno, "make directory %s", name);
	int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open directory %s", name);
	*ret_fd = fd;
	return 0;
}

static int open_dirs(struct inlay_store *store, bool make, struct inlay_error *err)
{
	int r = open_dir(store->root, "packs", make, &store->packs, err);

	if (r == 0)
		r = open_dir(store->root, "loose", make, &store->loose, err);
	if (r == 0)
		r = open_dir(store->root, "refs", make, &store->refs, err);
	return r;
}

/* The store is as durable as its name: syncs the directories above, as far as we may read them. */
static void sync_parents(int root)
{
	enum { LEVELS = 64 };
	int at = root;

	for (int i = 0; i < LEVELS; i++) {
		struct stat here, above;
		int up = openat(at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		bool more = up >= 0 && fstat(at, &here) == 0 && fstat(up, &above) == 0 &&
			    here.st_dev == above.st_dev && here.st_ino != above.st_ino &&
			    fsync(up) == 0;
		if (at != root)
			(void)close(at);
		at = up;
		if (!more)
			break;
	}
	if (at >= 0 && at != root)
		(void)close(at);
}

/* The format file comes last: until then there is no store. */
static int create_files(struct inlay_store *store, struct inlay_error *err)
{
	static const struct index_head head = {.epoch = 1, .point = {.epoch = 1}};
	auto_close int index = -1;
	int r = open_dirs(store, true, err);

	if (r == 0)
		r = mark_write(store->lock, MARK_SYNCED, err);
	if (r == 0 && !store->cache && fsync(store->lock) < 0)
		r = inlay_error_sys(err, -errno, "sync its lock");
	if (r == 0)
		r = objindex_create(store->root, "index", &head, &index, err);
	if (r == 0 && !store->cache && fsync(index) < 0)
		r = inlay_error_sys(err, -errno, "sync the index");
	if (r == 0)
		r = inlay_replace_file(store->root, "format", format_text, strlen(format_text),
				       0600, store->cache ? 0 : INLAY_REPLACE_DURABLE, err);
	if (r == 0 && !store->cache)
		sync_parents(store->root);
	return r;
}

/* Positive: LOCKED, somebody else is making it, or it is there by now and has its writer. */
static int create_store(struct inlay_store *store, bool write, struct inlay_error *err)
{
	int r = take_lock(store, err);

	if (r != 0)
		return r;
	r = store_read_format(store->root, err);
	if (r == INLAY_STORE_MISSING)
		r = create_files(store, err);
	if (!write) {
		inlay_cleanup_close(&store->lock);
		store->lock = -1;
	}
	return r;
}

int store_open_index(struct inlay_store *store, bool write, struct inlay_error *err)
{
	int flags = (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC;
	auto_close int fd = openat(store->root, "index", flags);

	if (fd < 0)
		return errno == ENOENT ? inlay_error_set(err, -EBADMSG, "its index is missing")
				       : inlay_error_sys(err, -errno, "open its index");
	int r = objindex_open(fd, &store->index, err);
	if (r == 0)
		(void)take_fd(fd);
	return r;
}

/* ---- open ---- */

static int open_root(int dirfd, const char *name, bool create, int *ret_fd, struct inlay_error *err)
{
	struct stat st;

	if (create) {
		int r = inlay_open_dir(dirfd, name, 0700, ret_fd, err);
		if (r < 0)
			return r;
	} else {
		int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return errno == ENOENT ? INLAY_STORE_MISSING
					       : inlay_error_sys(err, -errno, "open its directory");
		*ret_fd = fd;
	}
	if (fstat(*ret_fd, &st) < 0)
		return inlay_error_sys(err, -errno, "look at its directory");
	/* Whoever owns the directory can exchange everything in it under our hands. */
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return inlay_error_set(err, -EPERM, "its directory belongs to user %u",
				       (unsigned)st.st_uid);
	return 0;
}

static int open_files(struct inlay_store *store, enum inlay_store_flags flags,
		      struct inlay_error *err)
{
	bool write = flags & INLAY_STORE_WRITE;
	int r = store_read_format(store->root, err);

	if (r == INLAY_STORE_MISSING && (flags & INLAY_STORE_CREATE))
		r = create_store(store, write, err);
	if (r == 0 && write && store->lock < 0)
		r = take_lock(store, err);
	if (r == 0 && store->refs < 0)
		r = open_dirs(store, false, err);
	if (r == 0)
		r = write ? writer_begin(store, err) : store_open_index(store, false, err);
	return r;
}

int inlay_store_open(int dirfd, const char *name, enum inlay_store_flags flags,
		     struct inlay_store **ret_store, struct inlay_error *err)
{
	auto_of(inlay_store_close) struct inlay_store *store = NULL;
	int r = new_store(&store, err);

	if (r < 0)
		return r;
	store->cache = flags & INLAY_STORE_CACHE;
	r = open_root(dirfd, name, flags & INLAY_STORE_CREATE, &store->root, err);
	if (r == 0)
		r = open_files(store, flags, err);
	if (r != 0)
		return r < 0 ? inlay_error_prefix(err, r, "store %s", name) : r;
	*ret_store = take_ptr(store);
	return 0;
}

bool inlay_store_was_unclean(const struct inlay_store *store)
{
	return store->unclean;
}

void inlay_store_set_quota(struct inlay_store *store, uint64_t bytes)
{
	scope_lock(&store->write_lock);
	store->quota = bytes;
}

int inlay_store_flush(struct inlay_store *store, struct inlay_error *err)
{
	int r = store_check_writer(store, err);

	if (r < 0)
		return r;
	scope_lock(&store->write_lock);
	return append_flush(store, err);
}

int inlay_store_usage(struct inlay_store *store, struct inlay_store_usage *ret,
		      struct inlay_error *err)
{
	auto_of(pack_list_fini) struct pack_list packs = {0};
	struct inlay_store_usage u = {0};
	int r = pack_list(store->packs, &packs, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < packs.count; i++)
		u.pack_bytes += packs.files[i].bytes;
	u.packs = packs.count;
	(void)store_refresh(store);
	scope_rdlock(&store->table_lock);
	const struct objindex_totals *t = &store->index->totals;
	u.objects = t->objects;
	u.object_bytes = t->bytes;
	u.loose = t->loose;
	u.loose_bytes = t->loose_bytes;
	u.pack_bytes += store->packer.len;
	*ret = u;
	return 0;
}
