/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_H
#define INLAY_STORE_H

/*
 * The object store: bytes named by their SHA-256, kept in one directory (0700), and refs, the named
 * histories of generations that say which objects matter. docs/format.md has the bytes.
 *
 *     format                  text: "inlay store 1 sha256"
 *     lock                    flock()ed by the one writer; its text tells how the last one ended
 *     packs/NNNNNNNN.pack     append-only records (number in hex): objects below
 *                             INLAY_STORE_LOOSE_MIN
 *     loose/XX/<62 hex>       objects from INLAY_STORE_LOOSE_MIN on: content, then a checksum for
 *                             each 64 KiB of it
 *     index                   append-only, one entry for each object: digest -> pack, offset, size
 *     refs/<name>             a history, replaced atomically
 *
 * Invariants
 *   - An object never changes. An index entry is written after the bytes that it points to.
 *   - Every byte that is read is checked against an XXH3 checksum before the caller sees it.
 *     SHA-256 is checked when an object is put, by verify, and where INLAY_STORE_CHECK_DIGEST asks
 *     for it.
 *   - Two durability points: inlay_store_sync() makes objects and index durable, then
 *     inlay_store_publish() makes the ref durable (file and directory). Only after that may anybody
 *     say "ok". The ref records how far the packs were verified at that time; what lies after that
 *     offset is verified record by record when the store is opened for writing after an unclean
 *     end. Whole records and files stay, or are taken in when the index lacks them; bad bytes at
 *     the end are cut off, in the middle they are made into padding; what is before is not touched.
 *   - Formats carry a version; a newer one is refused with -EPROTONOSUPPORT and a text that names
 *     both.
 *
 * Processes and threads: one writer (INLAY_STORE_WRITE) and any number of readers, in any
 * processes. All functions may be called from any thread; writing calls are serialised inside.
 * Readers in other processes see an object once the writer has called inlay_store_flush() (sync and
 * publish do).
 *
 * Memory: 8 bytes an object beside the mapped index, so that a worker on a Raspberry Pi stays
 * small.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"
#include "inlay/generation.h"

struct inlay_store;

enum {
	INLAY_STORE_LOOSE_MIN = 64 << 10, /* objects of this size and above are loose files */
	INLAY_STORE_CHUNK = 64 << 10,     /* bytes that one checksum of a loose file covers */
};

enum inlay_store_flags {
	INLAY_STORE_CREATE = 1 << 0, /* make it when there is none */
	INLAY_STORE_WRITE = 1 << 1,  /* be its writer: takes the lock, repairs the tail */
	/* It may be lost with the power: opening it for writing does not wait for the disk. What is then read is
	 * still checked, so it is right or missing. */
	INLAY_STORE_CACHE = 1 << 2,
};

/* Positive results. */
enum {
	INLAY_STORE_MISSING = 1, /* no such object, ref or store */
	INLAY_STORE_LOCKED = 2,  /* another process is the writer */
};

/*
 * Opens the store in directory `name` below dirfd. Positive: MISSING (no store there and no
 * CREATE), LOCKED (also when another process is just making it). -EPERM when the directory belongs
 * neither to us nor to root. With WRITE the tail is verified and repaired first; that costs time
 * only after an unclean end. A damaged or lost index is then made anew from packs and loose files;
 * without WRITE it is -EBADMSG. A full disk does not keep a writer from opening: what cannot be
 * written yet stays in memory until the next sync.
 */
int inlay_store_open(int dirfd, const char *name, enum inlay_store_flags flags,
		     struct inlay_store **ret_store, struct inlay_error *err) inlay_must_check;
/* A writer flushes (but does not sync): the next one takes over what was flushed, and its first
 * sync makes that durable, too. Accepts NULL. */
void inlay_store_close(struct inlay_store *store);
INLAY_DEFINE_CLEANUP(struct inlay_store, inlay_store_close)

/* True when the last writer of this store ended without inlay_store_close(), or the power was cut
 * before what it had flushed was synced: numbers of generations that were visible but not durable
 * may be lost, so the caller skips some. Fixed at open; always false without WRITE. */
bool inlay_store_was_unclean(const struct inlay_store *store);

/* Bytes that packs and loose files may have, 0 = no limit; a put that would exceed it fails with
 * -EDQUOT. A put in pieces is charged when it begins. */
void inlay_store_set_quota(struct inlay_store *store, uint64_t bytes);

/* ---- reading ---- */

/* The object's size, or INLAY_STORE_MISSING. Looks at what other processes appended when it is not
 * known. */
int inlay_store_stat(struct inlay_store *store, const struct inlay_digest *id, uint64_t *ret_size);

static inline bool inlay_store_has(struct inlay_store *store, const struct inlay_digest *id)
{
	uint64_t size;
	return inlay_store_stat(store, id, &size) == 0;
}

/* The object whose digest starts with these eight bytes (inlay_digest_prefix), or
 * INLAY_STORE_MISSING. Which one it is where several do is left open. */
int inlay_store_find(struct inlay_store *store, uint64_t prefix, struct inlay_digest *ret_id);

static inline bool inlay_store_has_prefix(struct inlay_store *store, uint64_t prefix)
{
	struct inlay_digest id;
	return inlay_store_find(store, prefix, &id) == 0;
}

/*
 * Reads up to `len` bytes from `off` on; *ret_n is less only at the end of the object. Every byte
 * given was checked. Positive: MISSING. -EBADMSG: damaged (text names the object); the caller may
 * call inlay_store_drop. Finds the object anew when gc has moved it.
 */
int inlay_store_pread(struct inlay_store *store, const struct inlay_digest *id, void *buf,
		      size_t len, uint64_t off, size_t *ret_n, struct inlay_error *err)
	inlay_must_check;

enum inlay_store_get_flags {
	INLAY_STORE_CHECK_DIGEST =
		1 << 0, /* also compare the SHA-256: where the bytes become a basis */
};

/* Appends the whole object to buf. -E2BIG when it is larger than max. Otherwise like pread. */
int inlay_store_get(struct inlay_store *store, const struct inlay_digest *id, size_t max,
		    enum inlay_store_get_flags flags, struct inlay_buf *buf,
		    struct inlay_error *err) inlay_must_check;

/* Copies the first `len` bytes of the object, at most its size, to the start of an empty file; cloned where
 * the filesystem can do that. Positive: MISSING. -EBADMSG: damaged. */
int inlay_store_copy_out(struct inlay_store *store, const struct inlay_digest *id, uint64_t len,
			 int fd, struct inlay_error *err) inlay_must_check;

/* ---- writing (INLAY_STORE_WRITE only, else -EROFS) ---- */

/* Puts the bytes as an object, if it is not there yet; *ret_id (may be NULL) is its digest. An
 * object that is there becomes young again for inlay_store_sweep(). -ENOSPC, -EIO: it is not there;
 * those put before are, and the same put may be tried again. */
int inlay_store_put(struct inlay_store *store, const void *bytes, size_t len,
		    struct inlay_digest *ret_id, struct inlay_error *err) inlay_must_check;

/*
 * The same for an object that comes in pieces. `size` is what it must have in the end. Exactly one
 * of finish and abort ends it; several may be open at a time, each used by one thread.
 */
struct inlay_store_put;
int inlay_store_put_begin(struct inlay_store *store, uint64_t size,
			  struct inlay_store_put **ret_put, struct inlay_error *err)
	inlay_must_check;
int inlay_store_put_write(struct inlay_store_put *put, const void *bytes, size_t len,
			  struct inlay_error *err) inlay_must_check;
/* Ends it, also on failure. -EPROTO when the size is not the promised one. */
int inlay_store_put_finish(struct inlay_store_put *put, struct inlay_digest *ret_id,
			   struct inlay_error *err) inlay_must_check;
void inlay_store_put_abort(struct inlay_store_put *put); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct inlay_store_put, inlay_store_put_abort)

/* Takes a damaged object out of the index, so that it counts as missing and can be put anew. Its
 * bytes stay where they are until gc. Not an error when it is not there. */
int inlay_store_drop(struct inlay_store *store, const struct inlay_digest *id,
		     struct inlay_error *err) inlay_must_check;

/* Lets other processes see all that was put (no wait for the disk). */
int inlay_store_flush(struct inlay_store *store, struct inlay_error *err) inlay_must_check;

/*
 * First durability point: flush, then all objects and the index are on the disk. Cost follows what
 * was put since the last one; nothing put = no system call. Others can put meanwhile. After a
 * failure it may be tried again: then what is not known to be on the disk is written anew. -EIO
 * that stays: the disk lost bytes that are not in memory any more; the store has to be closed and
 * opened for writing, which finds out what is left.
 */
int inlay_store_sync(struct inlay_store *store, struct inlay_error *err) inlay_must_check;

/* ---- refs ---- */

struct inlay_history {
	size_t count;                   /* generations, newest first */
	uint64_t reserved;              /* no number up to this one may be given to a new generation
					 * after an unclean end */
	struct inlay_generation gens[]; /* gens[0] is the current one */
};

/* Names of refs: 1..200 bytes of [A-Za-z0-9._-], not starting with a dot. */
/* *ret_history belongs to the caller (free). Positive: MISSING. -EBADMSG when the file is damaged.
 */
int inlay_store_history(struct inlay_store *store, const char *ref,
			struct inlay_history **ret_history, struct inlay_error *err)
	inlay_must_check;

/*
 * Second durability point: makes `gen` the newest of the ref, drops what exceeds `keep` (>= 1),
 * sets `reserved`; returns when file and directory are durable. The caller has synced before. The
 * generation's tree need not be complete for the store: that is the caller's check. When the newest
 * one has the same number it is replaced, so that a publish that failed can be repeated.
 */
int inlay_store_publish(struct inlay_store *store, const char *ref,
			const struct inlay_generation *gen, size_t keep, uint64_t reserved,
			struct inlay_error *err) inlay_must_check;

/* Forgets the ref and its history, durably. Not an error when there is none. */
int inlay_store_remove_ref(struct inlay_store *store, const char *ref, struct inlay_error *err)
	inlay_must_check;

/* Calls fn for each ref; stops when it gives a value other than 0 and returns that. */
int inlay_store_each_ref(struct inlay_store *store,
			 int (*fn)(void *ctx, const char *ref, struct inlay_error *err), void *ctx,
			 struct inlay_error *err) inlay_must_check;

/* ---- keeping house ---- */

struct inlay_store_usage {
	uint64_t objects;      /* in the index */
	uint64_t object_bytes; /* sum of their sizes */
	uint64_t packs;        /* pack files */
	uint64_t pack_bytes;   /* their size, dead records included */
	uint64_t loose;        /* loose files of objects in the index */
	uint64_t loose_bytes;  /* their size, checksums included */
};

int inlay_store_usage(struct inlay_store *store, struct inlay_store_usage *ret,
		      struct inlay_error *err) inlay_must_check;

struct inlay_store_sweep {
	uint64_t removed;       /* objects taken out */
	uint64_t removed_bytes; /* their sizes */
	uint64_t freed_bytes;   /* what the disk got back */
	uint64_t young;         /* dead, but younger than the grace time: kept */
};

/*
 * Takes out every object for which live() says false and that was put more than `grace_ns` ago;
 * rewrites packs that are mostly dead or small into new ones, replaces the index, then deletes. A
 * crash at any point leaves every live object readable. Readers in other processes go on: they find
 * objects anew. Putting may go on in other threads; what is put while it runs, also again, is kept.
 * live() may read and put, but not sweep or verify. On a disk without any space it still takes out
 * what is dead; rewriting may then give -ENOSPC, and a second sweep gets further.
 */
int inlay_store_sweep(struct inlay_store *store,
		      bool (*live)(void *ctx, const struct inlay_digest *id), void *ctx,
		      int64_t grace_ns, struct inlay_store_sweep *ret, struct inlay_error *err)
	inlay_must_check;

struct inlay_store_check {
	uint64_t objects; /* that were read whole and compared with their digest */
	uint64_t bytes;
	uint64_t bad; /* findings */
};

/*
 * fsck: reads every byte of packs, loose files, index and refs. Each finding is told once through
 * found(): `id` is the object that cannot be given any more, or NULL when the damage is in the
 * store's own files and harms no object; `what` says where and what. progress() (may be NULL) is
 * called about ten times a second with the bytes done and to do. Changes nothing; found() may call
 * inlay_store_drop(). Others may put meanwhile. What an unclean end left behind is told, too, until
 * the next writer has repaired it.
 */
int inlay_store_verify(struct inlay_store *store,
		       void (*found)(void *ctx, const struct inlay_digest *id, const char *what),
		       void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
		       struct inlay_store_check *ret, struct inlay_error *err) inlay_must_check;

/*
 * Takes away damage that verify tells and that is no object's, once the objects it named were
 * dropped: bytes of packs that no entry names become padding, damaged headers of packs and a damaged
 * index are written anew, damaged files that no entry names are removed. A crash at any point leaves
 * every object readable and the rest to the next call. A damaged ref stays until its next publish.
 */
int inlay_store_mend(struct inlay_store *store, struct inlay_error *err) inlay_must_check;

#endif
