/* SPDX-License-Identifier: Apache-2.0 */
#include "session/source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "inlay/io.h"
#include "inlay/text.h"

enum {
	TREE_CACHE_BYTES = 16 << 20,
	SMALL_FILE_BYTES = 1 << 20, /* read as a whole */
	PIECE_BYTES = 256 << 10,
	READ_ATTEMPTS = 6,      /* of a file that changes under the reader */
	READ_ATTEMPTS_LIVE = 2, /* when it can be left for later */
};

int source_default_state(struct inlay_buf *b, struct inlay_error *err)
{
	const char *state = getenv("INLAY_STATE"), *xdg = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	struct passwd *pw;

	if (state && *state) {
		inlay_buf_printf(b, "%s", state);
	} else if (xdg && xdg[0] == '/') {
		inlay_buf_printf(b, "%s/inlay", xdg);
	} else {
		if (!home || home[0] != '/')
			home = (pw = getpwuid(getuid())) ? pw->pw_dir : NULL;
		if (!home)
			return inlay_error_set(err, -ENOENT,
					       "the home directory is not known; give --state DIR");
		inlay_buf_printf(b, "%s/.local/state/inlay", home);
	}
	return inlay_buf_check(b, err);
}

/* ---- opening ---- */

static int open_root(struct source *s, const char *path, struct inlay_error *err)
{
	char *resolved = realpath(path, NULL);
	struct stat st;

	if (!resolved)
		return inlay_error_sys(err, -errno, "the source %s", path);
	int n = snprintf(s->path, sizeof s->path, "%s", resolved);
	free(resolved);
	if (n < 0 || (size_t)n >= sizeof s->path)
		return inlay_error_set(err, -ENAMETOOLONG, "the source's path is too long");
	s->root_fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->root_fd < 0 && errno == ENOTDIR && stat(s->path, &st) == 0)
		return inlay_error_set(err, -ENOTDIR,
				       "the source %s is not a folder: inlay syncs folders", path);
	if (s->root_fd < 0)
		return inlay_error_sys(err, -errno, "the source %s", path);
	return 0;
}

void source_id(const char *path, char ret[static 17])
{
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_of(path, strlen(path), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, 17, "%.16s", hex);
}

static int open_state(struct source *s, const char *state, struct inlay_error *err)
{
	char id[17], name[32];
	auto_close int dir = -1;

	source_id(s->path, id);
	(void)snprintf(name, sizeof name, "sources/%s", id);
	int r = inlay_open_dir(AT_FDCWD, state, 0700, &dir, err);
	if (r == 0)
		r = inlay_open_dir(dir, name, 0700, &s->state_fd, err);
	if (r == 0)
		r = inlay_open_dir(dir, "targets", 0700, &s->targets_fd, err);
	return r;
}

/* flock() cannot wait for a limited time: it is tried again, which is fine for something that people
 * do once in a while. */
static int take_lock(struct source *s, const struct source_options *o, struct inlay_error *err)
{
	int64_t until = inlay_monotonic_ns() + o->lock_wait_ns;
	bool told = false;

	s->lock_fd = openat(s->state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return inlay_error_sys(err, -errno, "open the lock of %s", s->path);
	while (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		struct timespec pause = {.tv_nsec = 50000000};
		if (errno != EWOULDBLOCK && errno != EINTR)
			return inlay_error_sys(err, -errno, "lock %s", s->path);
		if (inlay_monotonic_ns() >= until) {
			(void)inlay_error_set(err, -EWOULDBLOCK, "another inlay is working on %s",
					      s->path);
			(void)inlay_error_set_exit(err, INLAY_EXIT_LOCKED);
			return SOURCE_LOCKED;
		}
		if (!told && o->waiting)
			o->waiting(o->ctx);
		told = true;
		(void)nanosleep(&pause, NULL);
	}
	return 0;
}

/* What changes what a scan gives, so that a stat cache made otherwise is not used. */
static uint64_t key_of(const struct inlay_scan_options *o)
{
	auto_buf struct inlay_buf b = {0};

	inlay_buf_u8(
		&b, (uint8_t)(o->owners | o->ignore.no_gitignore << 1 | o->ignore.no_builtin << 2));
	for (size_t i = 0; i < o->ignore.pattern_count; i++)
		inlay_buf_string(&b, o->ignore.patterns[i], strlen(o->ignore.patterns[i]));
	return inlay_xxh3(b.data, b.len);
}

int source_remembered(const char *state, const char *path, struct inlay_store **ret_store,
		      struct inlay_trees **ret_trees, struct inlay_error *err)
{
	auto_of(inlay_store_close) struct inlay_store *store = NULL;
	auto_buf struct inlay_buf dir = {0};
	char id[17];

	source_id(path, id);
	inlay_buf_printf(&dir, "%s/sources/%s", state, id);
	auto_close int fd = open(inlay_buf_cstr(&dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "open %s", inlay_buf_cstr(&dir));
	int r = fd < 0 ? 1 : inlay_store_open(fd, "store", 0, &store, err);
	if (r != 0)
		return r < 0 ? r : SOURCE_UNKNOWN;
	r = inlay_trees_new(store, TREE_CACHE_BYTES, ret_trees, err);
	if (r == 0)
		*ret_store = take_ptr(store);
	return r;
}

static int open_store(struct source *s, struct inlay_error *err)
{
	int r = inlay_store_open(s->state_fd, "store", INLAY_STORE_CREATE | INLAY_STORE_WRITE,
				 &s->store, err);

	if (r == INLAY_STORE_LOCKED)
		return inlay_error_set(err, -EWOULDBLOCK, "another inlay is working on %s",
				       s->path);
	/* It is a cache: what cannot be read is made anew. */
	if (r == -EBADMSG) {
		r = inlay_remove_tree(s->state_fd, "store", err);
		if (r == 0)
			r = inlay_store_open(s->state_fd, "store",
					     INLAY_STORE_CREATE | INLAY_STORE_WRITE, &s->store,
					     err);
	}
	if (r == 0)
		r = inlay_trees_new(s->store, TREE_CACHE_BYTES, &s->trees, err);
	return r;
}

int source_open(struct source *s, const char *path, const struct source_options *o,
		struct inlay_error *err)
{
	*s = (struct source){
		.root_fd = -1, .state_fd = -1, .targets_fd = -1, .lock_fd = -1, .scan = o->scan};
	(void)pthread_mutex_init(&s->lock, NULL);
	int r = open_root(s, path, err);
	if (r == 0)
		r = open_state(s, o->state, err);
	if (r == 0)
		r = take_lock(s, o, err);
	if (r == 0)
		r = inlay_replace_file(s->state_fd, "path", s->path, strlen(s->path), 0600, 0, err);
	if (r == 0)
		r = open_store(s, err);
	uint64_t basis_bytes = 0;
	if (r == 0)
		r = basis_configured(&basis_bytes, err);
	if (r == 0) {
		basis_init(&s->basis, s->state_fd, basis_bytes);
		s->key = key_of(&o->scan);
		r = inlay_snapshot_load(s->state_fd, "snapshot", s->key, &s->old, err);
		if (r == INLAY_SNAPSHOT_NONE)
			r = 0;
	}
	if (r != 0)
		source_close(s);
	return r;
}

void source_close(struct source *s)
{
	inlay_snapshot_unref(s->old);
	inlay_snapshot_unref(s->now);
	basis_fini(&s->basis);
	inlay_snapshot_unref(s->built);
	inlay_trees_free(s->trees);
	inlay_store_close(s->store);
	inlay_cleanup_close(&s->lock_fd);
	inlay_cleanup_close(&s->targets_fd);
	inlay_cleanup_close(&s->state_fd);
	inlay_cleanup_close(&s->root_fd);
	(void)pthread_mutex_destroy(&s->lock);
	*s = (struct source){.root_fd = -1, .state_fd = -1, .targets_fd = -1, .lock_fd = -1};
}

/* ---- walking ---- */

static int check_identity(struct source *s, struct inlay_error *err)
{
	uint64_t dev_was, ino_was, dev, ino;

	struct inlay_snapshot *was = s->built ? s->built : s->old;

	if (!was)
		return 0;
	inlay_snapshot_identity(was, &dev_was, &ino_was);
	inlay_snapshot_identity(s->now, &dev, &ino);
	if (dev_was == dev && ino_was == ino)
		return 0;
	int r = inlay_error_set(
		err, -ESTALE,
		"%s is another folder than at the last sync (was it replaced, or is "
		"something not mounted?). Nothing was changed; --force accepts it",
		s->path);
	(void)inlay_error_set_exit(err, INLAY_EXIT_HALT);
	return r;
}

int source_walk(struct source *s, bool force, struct inlay_error *err)
{
	/* After an interrupted attempt, what was read then is the better cache. */
	struct inlay_snapshot *before = s->now ? s->now : s->old;
	struct inlay_snapshot *now;
	int r = inlay_scan_walk(s->root_fd, &s->scan, before, &now, err);

	if (r < 0)
		return r;
	inlay_snapshot_unref(s->now);
	s->now = now;
	return force ? 0 : check_identity(s, err);
}

int source_update(struct source *s, const char *const *paths, size_t count, bool again,
		  struct inlay_error *err)
{
	struct inlay_snapshot *before = again ? s->now : s->built ? s->built : s->old;
	struct inlay_snapshot *now;
	int r = paths && before
			? inlay_scan_update(s->root_fd, &s->scan, before, paths, count, &now, err)
			: inlay_scan_walk(s->root_fd, &s->scan, before, &now, err);

	if (r < 0)
		return r;
	inlay_snapshot_unref(s->now);
	s->now = now;
	return s->accept ? 0 : check_identity(s, err);
}

/* ---- reading ---- */

static int read_whole(int fd, uint64_t size, struct inlay_buf *b, bool *ret_torn, const char *path,
		      struct inlay_error *err)
{
	size_t n;

	inlay_buf_clear(b);
	uint8_t *room = inlay_buf_reserve(b, (size_t)size + 1);
	if (!room)
		return inlay_buf_check(b, err);
	int r = inlay_read_full(fd, room, (size_t)size + 1, &n, path, err);
	b->len = n;
	*ret_torn = n != size;
	return r;
}

/* What was at a path when the trees were built last; false when that was no file. */
static bool was_there(struct source *s, const char *path, struct inlay_digest *ret)
{
	struct inlay_snapshot *before = s->built ? s->built : s->old;
	struct inlay_entry e = {.mode = S_IFDIR};
	struct inlay_root root = {0};
	int r = before && inlay_snapshot_root(before, &root) ? 0 : -ENOENT;

	e.id = root.tree;
	while (r == 0 && *path) {
		auto_of(inlay_dir_close) struct inlay_dir dir = {0};
		size_t len = strcspn(path, "/");
		r = S_ISDIR(e.mode) ? inlay_dir_open(s->trees, &e.id, &dir, NULL) : -ENOTDIR;
		if (r == 0)
			r = inlay_dir_find(&dir, path, len, &e, NULL);
		path += len + (path[len] == '/');
	}
	*ret = e.id;
	return r == 0 && S_ISREG(e.mode);
}

/* A large file goes to the consumer while it is hashed. A torn one is filled up: the stream has promised
 * its size. */
static int read_pieces(int fd, uint64_t size, const struct source_consumer *c, struct basis *basis,
		       const struct inlay_digest *old, struct inlay_digest *ret, bool *ret_torn,
		       const char *path, struct inlay_error *err)
{
	auto_free uint8_t *buf = malloc(PIECE_BYTES);
	struct inlay_hasher h;
	uint64_t left = size;
	size_t n = 0;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	inlay_hasher_init(&h);
	*ret_torn = false;
	if (basis)
		basis_put_begin(basis, size, old);
	int r = c->begin ? c->begin(c->ctx, size, err) : 0;
	while (r == 0 && left > 0) {
		size_t want = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
		r = *ret_torn ? 0 : inlay_read_full(fd, buf, want, &n, path, err);
		if (r == 0 && n < want) {
			*ret_torn = true;
			memset(buf + n, 0, want - n);
			n = 0;
		}
		inlay_hasher_add(&h, buf, want);
		if (r == 0 && c->bytes)
			r = c->bytes(c->ctx, buf, want, err);
		if (basis)
			basis_put_bytes(basis, buf, want);
		left -= want;
	}
	inlay_hasher_end(&h, ret);
	if (basis)
		basis_put_end(basis, r == 0 && !*ret_torn ? ret : NULL);
	return r;
}

struct reader {
	struct source *s;
	const struct source_consumer *c;
	struct inlay_buf buf;
	struct inlay_buf path;
};

/* One attempt. Positive: INLAY_SCAN_GONE, INLAY_SCAN_CHANGED. */
static int read_small(struct reader *r, struct inlay_dirty *d, int fd, uint64_t size,
		      struct inlay_error *err)
{
	struct inlay_digest id;
	bool torn;
	int result = read_whole(fd, size, &r->buf, &torn, inlay_buf_cstr(&r->path), err);

	if (result < 0)
		return result;
	if (torn)
		return INLAY_SCAN_CHANGED;
	inlay_digest_of(r->buf.data, r->buf.len, &id);
	result = inlay_dirty_settle(d, fd, &id, err);
	if (result == 0)
		basis_put(&r->s->basis, r->buf.data, r->buf.len);
	if (result == 0 && r->c->whole)
		result = r->c->whole(r->c->ctx, r->buf.data, r->buf.len, &id, err);
	return result;
}

static int read_large(struct reader *r, struct inlay_dirty *d, int fd, uint64_t size,
		      struct inlay_error *err)
{
	struct inlay_digest id, old;
	bool torn;
	const char *path = inlay_buf_cstr(&r->path);
	bool was = size > BASIS_OBJECT_MAX && was_there(r->s, path, &old);
	int result =
		read_pieces(fd, size, r->c, &r->s->basis, was ? &old : NULL, &id, &torn, path, err);

	if (result < 0)
		return result;
	result = torn ? INLAY_SCAN_CHANGED : inlay_dirty_settle(d, fd, &id, err);
	if (result >= 0 && r->c->end) {
		int ended = r->c->end(r->c->ctx, result == 0 ? &id : NULL, err);
		if (ended < 0)
			return ended;
	}
	return result;
}

static int read_once(struct reader *r, struct inlay_dirty *d, struct inlay_error *err)
{
	uint64_t size;
	int fd = -1;
	int result = inlay_dirty_open(d, r->s->root_fd, &fd, &size, err);

	if (result != 0)
		return result;
	if (size > INLAY_OBJECT_MAX)
		result = inlay_error_set(err, -EFBIG, "%s is larger than %llu bytes",
					 inlay_buf_cstr(&r->path), INLAY_OBJECT_MAX);
	else
		result = size <= SMALL_FILE_BYTES ? read_small(r, d, fd, size, err)
						  : read_large(r, d, fd, size, err);
	inlay_cleanup_close(&fd);
	if (result == 0 && r->c->done)
		r->c->done(r->c->done_ctx, size);
	return result;
}

static int keeps_changing(struct reader *r, struct inlay_error *err)
{
	auto_buf struct inlay_buf text = {0};

	inlay_text_escape(&text, r->path.data, r->path.len);
	return inlay_error_set(
		err, -EBUSY,
		"%s changes all the time while it is read; nothing was changed on the "
		"target. Exclude it, or sync when it is at rest",
		inlay_buf_cstr(&text));
}

static int skip(struct reader *r, bool torn)
{
	if (r->c->skipped)
		r->c->skipped(r->c->skipped_ctx, inlay_buf_cstr(&r->path), torn);
	return SOURCE_AGAIN;
}

static int read_dirty(struct reader *r, struct inlay_dirty *d, struct inlay_error *err)
{
	inlay_buf_clear(&r->path);
	inlay_dirty_path(d, &r->path);
	int attempts = r->c->skipped ? READ_ATTEMPTS_LIVE : READ_ATTEMPTS;
	for (int attempt = 0; attempt < attempts; attempt++) {
		struct timespec pause = {.tv_nsec = 2000000l << attempt};
		if (attempt > 0)
			(void)nanosleep(&pause, NULL);
		int result = read_once(r, d, err);
		if (result == INLAY_SCAN_GONE)
			return skip(r, false);
		if (result != INLAY_SCAN_CHANGED)
			return result;
	}
	return r->c->skipped ? skip(r, true) : keeps_changing(r, err);
}

int source_read(struct source *s, const struct source_consumer *consumer, struct inlay_error *err)
{
	static const struct source_consumer nobody;
	struct reader r = {.s = s, .c = consumer ? consumer : &nobody};
	auto_free struct inlay_dirty *dirty = NULL;
	size_t count;
	bool again = false;
	int result = inlay_snapshot_dirty(s->now, &dirty, &count, err);

	/* One that vanished does not keep the others from being read: they need not be read again. */
	for (size_t i = 0; result == 0 && i < count; i++) {
		result = read_dirty(&r, &dirty[i], err);
		if (result == SOURCE_AGAIN) {
			again = true;
			result = 0;
		}
	}
	inlay_buf_fini(&r.buf);
	inlay_buf_fini(&r.path);
	return result < 0 ? result : again ? SOURCE_AGAIN : 0;
}

/* ---- reading what is known ---- */

static int open_path(struct source *s, const char *path, struct inlay_error *err)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					  RESOLVE_NO_MAGICLINKS};
	int fd = (int)syscall(SYS_openat2, s->root_fd, path, &how, sizeof how);

	return fd < 0 ? inlay_error_sys(err, -errno, "open %s", path) : fd;
}

int source_read_path(struct source *s, const char *path, const struct inlay_digest *id,
		     const struct source_consumer *c, struct inlay_error *err)
{
	auto_close int fd = open_path(s, path, err);
	auto_buf struct inlay_buf b = {0};
	struct inlay_digest got;
	struct stat st;
	bool torn;
	int r;

	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
		return SOURCE_AGAIN;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return SOURCE_AGAIN;
	uint64_t size = (uint64_t)st.st_size;
	if (size > SMALL_FILE_BYTES) {
		r = read_pieces(fd, size, c, NULL, NULL, &got, &torn, path, err);
		bool same = r == 0 && !torn && inlay_digest_equal(&got, id);
		if (r == 0)
			r = c->end(c->ctx, same ? id : NULL, err);
		return r < 0 ? r : same ? 0 : SOURCE_AGAIN;
	}
	r = read_whole(fd, size, &b, &torn, path, err);
	if (r < 0)
		return r;
	inlay_digest_of(b.data, b.len, &got);
	if (torn || !inlay_digest_equal(&got, id))
		return SOURCE_AGAIN;
	return c->whole(c->ctx, b.data, b.len, id, err);
}

int source_read_again(struct source *s, const struct inlay_digest *id,
		      const struct source_consumer *c, struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct inlay_dirty d;
	char hex[INLAY_DIGEST_HEX];
	int r = SOURCE_AGAIN;

	(void)pthread_mutex_lock(&s->lock);
	struct inlay_snapshot *built = s->built ? inlay_snapshot_ref(s->built) : NULL;
	(void)pthread_mutex_unlock(&s->lock);
	if (built && inlay_snapshot_find(built, id, &d)) {
		inlay_dirty_path(&d, &path);
		r = source_read_path(s, inlay_buf_cstr(&path), id, c, err);
	}
	inlay_snapshot_unref(built);
	if (r != SOURCE_AGAIN)
		return r;
	inlay_digest_hex(id, hex);
	return inlay_error_set(
		err, -ESTALE,
		"the target lost object %.16s, and the source does not have it any more", hex);
}

/* ---- trees ---- */

static int put_tree(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		    struct inlay_error *err)
{
	struct source *s = ctx;

	(void)id;
	return inlay_store_put(s->store, bytes, len, NULL, err);
}

int source_build(struct source *s, struct inlay_root *ret, struct inlay_error *err)
{
	int r = inlay_snapshot_build(s->now, inlay_now_ns(), put_tree, s, ret, err);

	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&s->lock);
	inlay_snapshot_unref(s->built);
	s->built = inlay_snapshot_ref(s->now);
	(void)pthread_mutex_unlock(&s->lock);
	return 0;
}

int source_save(struct source *s, struct inlay_error *err)
{
	int r = inlay_store_flush(s->store, err);

	return r < 0 ? r
		     : inlay_snapshot_save(s->built ? s->built : s->now, s->state_fd, "snapshot",
					   s->key, err);
}
