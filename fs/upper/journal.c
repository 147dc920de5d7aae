/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's file: a header, then records that start at multiples of 8. A record is written with one call
 * at the known end; what lies behind that end is never read as a record, since it is cut off before
 * anything else is written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>

#include "inlay/io.h"
#include "upper/upper.h"

#define FILE_MAGIC   "inlayupj"
#define RECORD_MAGIC 0x63657255u /* "Urec" */

enum {
	ROOM_STEP = 256 << 10,  /* disk space is taken in steps of this */
	ROOM_KEPT = 64 << 10,   /* ... and this much is kept back for changes that free some */
	COMPACT_MIN = 1 << 20,  /* below this size the journal is left as it is */
	COMPACT_FACTOR = 4,     /* dead bytes for each live one */
	LIVE_BYTES = 128,       /* of a node with its name, about */
	LOCK_TRIES = 500,       /* of 10 ms */
	DUMP_BYTES = 256 << 10, /* of a compacted journal, written at once */
};

/* ---- bytes ---- */

static uint64_t padded(uint64_t len)
{
	return (len + 7) & ~7ull;
}

static void put_header(uint8_t bytes[static UPPER_FILE_HEADER], uint64_t next)
{
	memcpy(bytes, FILE_MAGIC, 8);
	inlay_put_le32(bytes + 8, UPPER_VERSION);
	inlay_put_le32(bytes + 12, 0);
	inlay_put_le64(bytes + 16, next);
	inlay_put_le64(bytes + 24, inlay_xxh3(bytes, 24));
}

static void add_record(struct inlay_buf *b, const struct inlay_buf *ops, uint64_t seq,
		       int64_t time_ns)
{
	static const uint8_t zeros[8];
	size_t start = b->len, total = UPPER_RECORD_HEADER + ops->len;

	inlay_buf_u64(b, 0);
	inlay_buf_u32(b, RECORD_MAGIC);
	inlay_buf_u32(b, (uint32_t)ops->len);
	inlay_buf_u64(b, seq);
	inlay_buf_u64(b, (uint64_t)time_ns);
	inlay_buf_add(b, ops->data, ops->len);
	inlay_buf_add(b, zeros, padded(total) - total);
	if (!b->failed)
		inlay_put_le64(b->data + start, inlay_xxh3(b->data + start + 8, total - 8));
}

struct record {
	const uint8_t *ops;
	size_t len;
	uint64_t seq, bytes; /* in the file, padding included */
	int64_t time_ns;
};

static bool get_record(const uint8_t *bytes, size_t len, struct record *ret)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	uint64_t sum = inlay_cursor_u64(&c);

	if (inlay_cursor_u32(&c) != RECORD_MAGIC)
		return false;
	ret->len = inlay_cursor_u32(&c);
	ret->seq = inlay_cursor_u64(&c);
	ret->time_ns = (int64_t)inlay_cursor_u64(&c);
	if (ret->len > UPPER_RECORD_MAX)
		return false;
	ret->ops = inlay_cursor_bytes(&c, ret->len);
	ret->bytes = padded(UPPER_RECORD_HEADER + ret->len);
	return !c.failed && ret->bytes <= len &&
	       sum == inlay_xxh3(bytes + 8, UPPER_RECORD_HEADER - 8 + ret->len);
}

static int check_header(struct upper *u, const uint8_t *bytes, size_t len, struct inlay_error *err)
{
	if (len < UPPER_FILE_HEADER || memcmp(bytes, FILE_MAGIC, 8) != 0 ||
	    inlay_get_le64(bytes + 24) != inlay_xxh3(bytes, 24))
		return inlay_error_set(err, -EBADMSG, "the upper's journal has no good header");
	uint32_t version = inlay_get_le32(bytes + 8);
	if (version > UPPER_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "the upper's journal was written by a newer inlay (version "
				       "%u, known: %d)",
				       version, UPPER_VERSION);
	uint64_t next = inlay_get_le64(bytes + 16);
	if (next > u->next)
		u->next = next;
	return 0;
}

int upper_replay(struct upper *u, const uint8_t *bytes, size_t len, uint64_t *ret_end,
		 struct inlay_error *err)
{
	int r = check_header(u, bytes, len, err);
	uint64_t at = UPPER_FILE_HEADER;
	bool skipping = false;
	struct record rec;

	if (r < 0)
		return r;
	*ret_end = at;
	for (; at + UPPER_RECORD_HEADER <= len; at += skipping ? 8 : rec.bytes) {
		/* A record is the next one, or, behind damage, a later one. */
		if (!get_record(bytes + at, len - at, &rec) ||
		    (u->seq != 0 && (skipping ? rec.seq <= u->seq : rec.seq != u->seq + 1))) {
			skipping = true;
			continue;
		}
		u->damaged += skipping;
		skipping = false;
		u->seq = rec.seq;
		*ret_end = at + rec.bytes;
		r = upper_apply(u, rec.ops, rec.len, rec.time_ns, err);
		if (r == -EBADMSG)
			u->damaged++;
		else if (r < 0)
			return r;
	}
	return 0;
}

/* ---- opening ---- */

static int take_lock(struct upper *u, struct inlay_error *err)
{
	static const struct timespec pause = {.tv_nsec = 10 * 1000000};

	u->lock_fd = openat(u->dir_fd, UPPER_FILES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (u->lock_fd < 0)
		return inlay_error_sys(err, -errno, "open the upper");
	/* A worker that was killed takes its time to end, and it is the only other one. */
	for (int i = 0; flock(u->lock_fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK)
			return inlay_error_sys(err, -errno, "lock the upper");
		if (i == LOCK_TRIES)
			return inlay_error_set(err, -EBUSY,
					       "processes still use an earlier mount of it");
		(void)nanosleep(&pause, NULL);
	}
	return 0;
}

static int write_header(struct upper *u, struct inlay_error *err)
{
	uint8_t bytes[UPPER_FILE_HEADER];

	put_header(bytes, u->next);
	u->end = sizeof bytes;
	return inlay_pwrite_all(u->journal_fd, bytes, sizeof bytes, 0, "the upper's journal", err);
}

static int replay_file(struct upper *u, struct inlay_error *err)
{
	struct stat st;

	if (fstat(u->journal_fd, &st) < 0)
		return inlay_error_sys(err, -errno, "look at the upper's journal");
	/* A kill between making it and writing its header: nothing was answered yet. */
	if (st.st_size < UPPER_FILE_HEADER)
		return u->read_only ? 0 : write_header(u, err);
	size_t len = (size_t)st.st_size;
	uint8_t *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, u->journal_fd, 0);
	if (map == MAP_FAILED)
		return inlay_error_sys(err, -errno, "read the upper's journal");
	int r = upper_replay(u, map, len, &u->end, err);
	(void)munmap(map, len);
	if (r == 0 && !u->read_only && u->end < len && ftruncate(u->journal_fd, (off_t)u->end) < 0)
		r = inlay_error_sys(err, -errno, "cut the upper's journal");
	return r;
}

static int open_all(struct upper *u, struct inlay_error *err)
{
	int r = u->read_only ? 0 : upper_open_files(u, err);

	if (r == 0 && !u->read_only)
		r = take_lock(u, err);
	if (r < 0)
		return r;
	u->journal_fd =
		openat(u->dir_fd, UPPER_JOURNAL,
		       (u->read_only ? O_RDONLY : O_RDWR | O_CREAT) | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (u->journal_fd < 0 && errno == ENOENT && u->read_only)
		return 0; /* nothing was ever written */
	if (u->journal_fd < 0)
		return inlay_error_sys(err, -errno, "open the upper's journal");
	r = replay_file(u, err);
	if (r == 0 && u->read_only)
		r = upper_open_files(u, err);
	return r == 0 ? upper_check_files(u, err) : r;
}

int upper_open(int ws_fd, bool read_only, struct upper **ret, struct inlay_error *err)
{
	auto_of(upper_close) struct upper *u = malloc(sizeof *u);

	if (!u)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = upper_init(u, err);
	if (r < 0)
		return r;
	u->read_only = read_only;
	u->dir_fd = fcntl(ws_fd, F_DUPFD_CLOEXEC, 0);
	if (u->dir_fd < 0)
		return inlay_error_sys(err, -errno, "open the upper");
	r = open_all(u, err);
	if (r == 0)
		*ret = take_ptr(u);
	return r;
}

void upper_close(struct upper *u)
{
	if (!u)
		return;
	if (u->fds_ready)
		fdcache_fini(&u->fds);
	inlay_cleanup_close(&u->files_fd);
	inlay_cleanup_close(&u->journal_fd);
	inlay_cleanup_close(&u->lock_fd);
	inlay_cleanup_close(&u->dir_fd);
	upper_fini(u);
	free(u);
}

void upper_unlock(struct upper *u)
{
	inlay_cleanup_close(&u->lock_fd);
	u->lock_fd = -1;
}

/* ---- appending ---- */

/* Disk space for len more bytes, with what is kept back. */
static int make_room(struct upper *u, uint64_t len, bool freeing, struct inlay_error *err)
{
	if (u->end + len + (freeing ? 0 : ROOM_KEPT) <= u->room)
		return 0;
	uint64_t want = len + ROOM_KEPT + ROOM_STEP;
	if (fallocate(u->journal_fd, FALLOC_FL_KEEP_SIZE, (off_t)u->end, (off_t)want) == 0)
		u->room = u->end + want;
	else if (!freeing && (errno == ENOSPC || errno == EDQUOT))
		return inlay_error_sys(err, -errno, "write the upper's journal");
	/* Where space cannot be kept back the write itself has to say so. */
	return 0;
}

static int64_t coarse_now(void)
{
	struct timespec ts;

	/* The clock of the data files' own times, so that times compare. */
	(void)clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int append(struct upper *u, const struct inlay_buf *ops, bool freeing, int64_t *ret_time_ns,
		  struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int64_t now = coarse_now();
	int r = inlay_buf_check(ops, err);

	if (r < 0)
		return r;
	if (u->read_only)
		return inlay_error_set(err, -EROFS, "the upper is read-only");
	if (u->broken)
		return inlay_error_set(err, -EIO, "the upper's journal cannot be written");
	if (ops->len > UPPER_RECORD_MAX)
		return inlay_error_set(err, -E2BIG, "a change of %zu bytes", ops->len);
	add_record(&b, ops, u->seq + 1, now);
	r = inlay_buf_check(&b, err);
	if (r == 0)
		r = make_room(u, b.len, freeing, err);
	if (r < 0)
		return r;
	r = inlay_pwrite_all(u->journal_fd, b.data, b.len, u->end, "the upper's journal", err);
	if (r < 0) {
		/* Half a record must not stay: the next one would end in the middle of it. */
		if (ftruncate(u->journal_fd, (off_t)u->end) < 0)
			u->broken = true;
		u->room = u->end;
		return r;
	}
	u->end += b.len;
	u->seq++;
	u->shown_due = false;
	*ret_time_ns = now;
	return 0;
}

int upper_append(struct upper *u, const struct upper_txn *t, bool freeing, int64_t *ret_time_ns,
		 struct inlay_error *err)
{
	auto_txn struct upper_txn both = {0};

	if (!u->shown_due)
		return append(u, &t->ops, freeing, ret_time_ns, err);
	upper_txn_shown(&both, &u->shown);
	inlay_buf_add(&both.ops, t->ops.data, t->ops.len);
	both.ops.failed |= t->ops.failed;
	return append(u, &both.ops, freeing, ret_time_ns, err);
}

void upper_show(struct upper *u, const struct inlay_digest *tree)
{
	static const struct upper_txn nothing;
	int64_t time_ns;

	if (u->read_only || inlay_digest_equal(&u->shown, tree))
		return;
	u->shown = *tree;
	u->shown_due = true;
	/* Without room now it comes with the next record. */
	if (u->dent_count > 0)
		(void)!upper_append(u, &nothing, true, &time_ns, NULL);
}

int upper_sync_begin(struct upper *u, int *ret_fd, uint64_t *ret_seq, struct inlay_error *err)
{
	*ret_fd = -1;
	*ret_seq = u->seq;
	if (u->broken)
		return inlay_error_set(err, -EIO, "the upper's journal cannot be written");
	{
		scope_lock(&u->lock);
		if (u->synced_seq >= u->seq)
			return 0;
	}
	*ret_fd = fcntl(u->journal_fd, F_DUPFD_CLOEXEC, 0);
	return *ret_fd < 0 ? inlay_error_sys(err, -errno, "sync the upper's journal") : 0;
}

void upper_synced(struct upper *u, uint64_t seq)
{
	scope_lock(&u->lock);
	if (seq > u->synced_seq)
		u->synced_seq = seq;
}

bool upper_make_space(struct upper *u)
{
	if (u->broken || !upper_has_dead(u) || upper_sync_ahead(u, NULL) < 0 ||
	    fdatasync(u->journal_fd) < 0)
		return false;
	upper_synced(u, u->seq);
	return upper_reap(u);
}

/* ---- compacting ---- */

struct dump {
	int fd;
	uint64_t at, seq;
	struct inlay_buf out;
	struct upper_txn txn;
};

static int flush_dump(struct dump *d)
{
	int r = inlay_buf_check(&d->out, NULL);

	if (r == 0)
		r = inlay_pwrite_all(d->fd, d->out.data, d->out.len, d->at, "journal", NULL);
	d->at += d->out.len;
	inlay_buf_clear(&d->out);
	return r;
}

static void dump_node(struct dump *d, const struct upper_node *node)
{
	upper_txn_node(&d->txn, node);
	for (const struct upper_xattr *x = node->xattrs; x; x = x->next)
		upper_txn_xattr(&d->txn, node->n, x->name, upper_xattr_value(x), x->len);
	/* Setting xattrs changed the time; and what has a name already keeps its attributes. */
	if (node->xattrs)
		upper_txn_node(&d->txn, node);
}

/* A record for each name, parents first; a node comes with the first of its names. */
static int dump_all(struct upper *u, struct dump *d)
{
	int r = 0;

	if (!inlay_digest_is_zero(&u->shown))
		upper_txn_shown(&d->txn, &u->shown);
	dump_node(d, u->root);
	add_record(&d->out, &d->txn.ops, ++d->seq, 0);
	for (struct upper_dent *e = upper_walk(u->root, NULL); e && r == 0;
	     e = upper_walk(u->root, e)) {
		inlay_buf_clear(&d->txn.ops);
		if (e->node)
			dump_node(d, e->node);
		upper_txn_name(&d->txn, e->parent->n, e->name, e->name_len,
			       e->node ? e->node->n : 0, true);
		add_record(&d->out, &d->txn.ops, ++d->seq, 0);
		if (d->txn.ops.failed)
			return -ENOMEM;
		if (d->out.len >= DUMP_BYTES)
			r = flush_dump(d);
	}
	return r == 0 ? flush_dump(d) : r;
}

int upper_rewrite(struct upper *u)
{
	uint8_t header[UPPER_FILE_HEADER];
	struct dump d = {.at = sizeof header, .seq = u->seq};

	d.fd = openat(u->dir_fd, "." UPPER_JOURNAL ".new",
		      O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (d.fd < 0)
		return -errno;
	put_header(header, u->next);
	int r = inlay_pwrite_all(d.fd, header, sizeof header, 0, "journal", NULL);
	if (r == 0)
		r = dump_all(u, &d);
	inlay_buf_fini(&d.out);
	inlay_buf_fini(&d.txn.ops);
	/* What was durable stays durable: the old one goes when the new one is. */
	if (r == 0 && (fdatasync(d.fd) < 0 ||
		       renameat(u->dir_fd, "." UPPER_JOURNAL ".new", u->dir_fd, UPPER_JOURNAL) < 0))
		r = -errno;
	if (r == 0 && fsync(u->dir_fd) < 0)
		u->broken = true; /* which of the two a crash leaves is not known */
	if (r < 0) {
		inlay_cleanup_close(&d.fd);
		return r;
	}
	inlay_cleanup_close(&u->journal_fd);
	u->journal_fd = d.fd;
	u->end = u->room = d.at;
	u->seq = d.seq;
	u->shown_due = false;
	if (!u->broken)
		upper_synced(u, u->seq);
	return 0;
}

void upper_compact(struct upper *u)
{
	uint64_t live = (u->node_count + u->dent_count) * LIVE_BYTES;

	if (u->end < COMPACT_MIN || u->end < live * COMPACT_FACTOR || u->end < u->next_compact)
		return;
	/* A disk that is full, most of all: later. */
	u->next_compact = upper_rewrite(u) < 0 ? u->end * 2 : 0;
}
