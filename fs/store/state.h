/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_STATE_H
#define INLAY_STORE_STATE_H

/*
 * What an open store is, for the files that make it up:
 *
 *     store.c     creation, open, close, usage
 *     writer.c    how a writer begins and ends
 *     get.c       finding and reading objects
 *     put.c       putting and dropping them
 *     append.c    the active pack: appends, flush
 *     durable.c   what has to reach the disk, and getting it there
 *     refs.c      histories
 *     repair*.c   what an unclean end leaves behind
 *     mend.c      what fsck found that is no object's
 *     reindex.c   replacing the index file
 *     sweep*.c    gc
 *     verify*.c   fsck
 *
 * on layout (bytes <-> structs), objindex, pack, loose (the files), fdcache and dirnames.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/store.h"
#include "store/fdcache.h"
#include "store/layout.h"
#include "store/loose.h"
#include "store/objindex.h"

/* Putting what is there renews its time, at most this often. */
enum { STORE_FRESH_NS = 1000000000 };

enum { DIRTY_FILES = 50 }; /* files that are synced one by one; above that the filesystem is */

/* What was written since the last sync. */
struct dirty {
	bool any;
	bool everything; /* too many files to name them, or it is not known which */
	bool pack;       /* the active one */
	bool index;
	bool root_dir, packs_dir, loose_dir;
	uint64_t fanout[LOOSE_FANOUT / 64]; /* directories below loose/ */
	int files[DIRTY_FILES];             /* loose files and full packs; owned */
	size_t file_count;
};

/* The pack that is appended to: what is in its file, then what is still in memory. */
struct packer {
	uint32_t number;  /* 0 = none: the next append makes one */
	int fd;           /* O_RDWR; -1 = none */
	uint64_t flushed; /* size of the file */
	uint8_t *buf;
	size_t len;
};

struct inlay_store {
	/* The locks in the order in which they are taken. None but the first is held over a
	 * callback. */
	pthread_mutex_t sweep_lock;  /* one sweep or verify at a time */
	pthread_mutex_t ref_lock;    /* the files in refs/ */
	pthread_mutex_t sync_lock;   /* one sync at a time; the only lock held while the disk works,
				     * but for repairs and the end of a sweep */
	pthread_mutex_t write_lock;  /* everything that appends; what is marked (w) */
	pthread_rwlock_t table_lock; /* what is marked (t): shared to read it, exclusive, with
				      * write_lock in a writer, to change it. Not recursive. */

	int root, packs, loose, refs; /* directories */
	int lock;                     /* the file; flock()ed by a writer, else -1 */
	bool writer;
	bool cache; /* INLAY_STORE_CACHE */
	bool ready; /* a writer whose store is in order: its end is worth a mark */
	bool unclean;

	struct objindex *index;  /* (t) pointer and content */
	struct packer packer;    /* (t) number, flushed and len; (w) the rest */
	struct dirty dirty;      /* (w) */
	struct point synced;     /* (w) all up to here is on the disk */
	bool suspect;            /* (w) a sync failed: what the disk has is not known */
	uint64_t used;           /* (w) bytes of packs and loose files */
	uint64_t reserved;       /* (w) bytes promised to puts that are going on */
	uint64_t quota;          /* (w) 0 = none */
	uint32_t next_pack;      /* (w) number of the next pack; never one that a point names */
	int64_t sweep_start_ns;  /* (w) when the running sweep began, 0 = none runs */
	uint64_t fanout_made[4]; /* (w) directories below loose/ that are known to be there */
	struct fdcache fds;      /* has its own lock */

	/* constant while open; tests set them */
	uint64_t pack_max;    /* a pack that would become larger is full */
	int64_t (*now)(void); /* CLOCK_REALTIME in ns */
};

static inline bool store_bit(const uint64_t *bits, size_t n)
{
	return bits[n / 64] >> (n % 64) & 1;
}

static inline void store_set_bit(uint64_t *bits, size_t n)
{
	bits[n / 64] |= 1ull << (n % 64);
}

static inline bool store_out_of_space(int r)
{
	return r == -ENOSPC || r == -EDQUOT;
}

/* "object <hex>: " before the text. */
int store_prefix(struct inlay_error *err, int r, const struct inlay_digest *id);

/* ---- store.c ---- */

/* -EROFS unless the store is open for writing. */
int store_check_writer(const struct inlay_store *store, struct inlay_error *err) inlay_must_check;

/* Positive: MISSING, there is no store in the directory. */
int store_read_format(int root, struct inlay_error *err) inlay_must_check;

int store_open_index(struct inlay_store *store, bool write, struct inlay_error *err)
	inlay_must_check;

/* ---- writer.c ---- */

/* The lock is held. Makes the store ready for appending, after a repair if it needs one. */
int writer_begin(struct inlay_store *store, struct inlay_error *err) inlay_must_check;
/* Leaves word of how it ended; without it the next writer verifies the tail. */
void writer_end(struct inlay_store *store);

/* ---- get.c ---- */

/* Opens what the place is in, through the cache. -EBADMSG when there is no such file. */
int store_open_place(struct inlay_store *store, const struct place *place, struct fdref *ret,
		     struct inlay_error *err) inlay_must_check;
/* The descriptor that the cache has for it may be of another file. */
void store_forget_place(struct inlay_store *store, const struct place *place);
/* Takes in what another process did to the index. True when there was something. */
bool store_refresh(struct inlay_store *store);

/* ---- append.c: with write_lock held ---- */

/* Adds an object to the active pack, bytes and entry. Not checked: whether it is there already, and
 * the quota. */
int append_object(struct inlay_store *store, const struct record *record, struct inlay_error *err)
	inlay_must_check;
/* Adds an index entry only. */
int append_entry(struct inlay_store *store, const struct place *place, struct inlay_error *err)
	inlay_must_check;
/* Writes what is in memory to the files. */
int append_flush(struct inlay_store *store, struct inlay_error *err) inlay_must_check;
/* Finds the pack to go on with and the numbers of new ones. While the store is being opened. */
int append_resume(struct inlay_store *store, const struct point *point, struct inlay_error *err)
	inlay_must_check;
/* The next object goes into a new pack. Flushed before. */
void append_seal(struct inlay_store *store);
void append_fini(struct inlay_store *store);

/* ---- durable.c ---- */

/* Where the files end. */
struct point durable_reached(const struct inlay_store *store);
/* With write_lock held. Marks a file; the descriptor belongs to the list. */
void durable_add_file(struct inlay_store *store, int fd);
/* The same as inlay_store_sync() with sync_lock and write_lock held throughout. */
int durable_sync_locked(struct inlay_store *store, struct inlay_error *err) inlay_must_check;
void durable_fini(struct dirty *d);

/* ---- refs.c ---- */

/* The newest point that an undamaged ref records, and at least *point. -EPROTONOSUPPORT when a ref
 * was written by a newer inlay. */
int refs_newest_point(struct inlay_store *store, struct point *point, struct inlay_error *err)
	inlay_must_check;
/* Newer by what is in the packs. */
bool refs_point_after(const struct point *a, const struct point *b);
/* Checks a ref's bytes; *ret_point may be NULL. The history belongs to the caller (free). */
int refs_decode(const uint8_t *bytes, size_t len, struct inlay_history **ret_history,
		struct point *ret_point, struct inlay_error *err) inlay_must_check;
/* Names of refs in order. */
struct dirnames;
int refs_list(struct inlay_store *store, struct dirnames *ret, struct inlay_error *err)
	inlay_must_check;
int refs_read(struct inlay_store *store, const char *ref, struct inlay_history **ret_history,
	      struct point *ret_point, struct inlay_error *err) inlay_must_check;

/* ---- repair.c ---- */

/* Verifies what lies after *point and brings index, packs and loose files into agreement. Only
 * while the store is being opened. */
int repair_store(struct inlay_store *store, const struct point *point, struct inlay_error *err)
	inlay_must_check;

/* ---- reindex.c ---- */

/* Replaces the index by one that has only the entries that count, without those that dead (may be
 * NULL) names; dead->count is the number of entries when it was made. Takes sync_lock and
 * write_lock. */
struct reindex_dead {
	uint32_t count;
	const uint64_t *bits;
	uint64_t removed;       /* set: objects that are gone by this, */
	uint64_t removed_bytes; /* and their sizes */
};
int reindex_store(struct inlay_store *store, struct reindex_dead *dead, struct inlay_error *err)
	inlay_must_check;
/* Makes an empty index in place of one that cannot be read. */
int reindex_from_nothing(struct inlay_store *store, uint64_t epoch, struct inlay_error *err)
	inlay_must_check;

#endif
