/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_OBJECTS_H
#define WIRE_OBJECTS_H

/*
 * The object stream: what DATA frames carry. Their payloads, one after the other, are zstd frames; what
 * they decompress to is a sequence of items:
 *
 *     1 blob    varint size, bytes, then one byte: 0 keep, 1 drop (the file changed under the reader)
 *     2 tree    varint length of the rest, then a changed directory:
 *                 u8 has_basis, [8 bytes: how the id of the directory begins that the ops change]
 *                 varint count, then the ops in the order of their names' bytes:
 *                   u8 flags: bits 0-1 kind (0 remove, 1 file, 2 directory, 3 symlink),
 *                             2 content, 3 mtime, 4 mode as in the basis, 5 more follows
 *                   varint length, name
 *                   content, unless as in the basis:
 *                     file       reference, varint size      directory  reference
 *                     symlink    varint length, target
 *                   mtime: zigzag varint, ns since the last mtime of this item (0 at first)
 *                   mode: varint, 07777
 *                   more: varint uid, varint gid, varint link group, u8 has_xattrs, [reference]
 *     3 end     the numbers start anew (sent with each COMMIT)
 *     4 bases   varint count (1..INLAY_DELTA_BASES_MAX), that many eight-byte prefixes of ids. The zstd frame
 *               ends right behind it; the next one has their contents, one after the other, as its
 *               prefix, and a checksum
 *     5 patch   id of the basis and of the result (32 bytes each), varint size of the result, then
 *               librsync's delta in pieces: varint length (1..INLAY_FRAME_MAX), bytes; 0 ends it;
 *               then one byte as for a blob
 *
 * Every kept blob and patch and every tree gets the next number, from 0. A reference is a varint: 0 and a literal id
 * (32 bytes) for an object that the receiver has, or 1 + zigzag(number - one more than the last number
 * referred to in this item). Sender and receiver compute every id themselves, so ids of what is sent
 * do not travel: they would be the part that cannot be compressed. Only a patch tells its result, since
 * it is for objects so large that 32 bytes do not count: when it does not come out, that object alone is
 * missing.
 *
 * A difference of contents is nothing but an ordinary blob in a zstd frame that has old contents as its
 * prefix. Many small files share one such frame.
 *
 * Pure but for zstd; used by one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "inlay/idset.h"
#include "inlay/tree.h"

enum objects_inherit {
	OBJECTS_SAME_CONTENT = 1 << 2,
	OBJECTS_SAME_MTIME = 1 << 3,
	OBJECTS_SAME_MODE = 1 << 4,
};

/* One change of a directory. The entry's pointers are borrowed. */
struct objects_op {
	struct inlay_entry entry; /* remove: only the name; what is inherited counts nothing */
	bool remove;
	uint8_t inherit;  /* enum objects_inherit: taken from the basis' entry of that name */
	bool below_known; /* receiving a directory: entry.below and subdirs are set */
};

/* ---- sending ---- */

struct ZSTD_CCtx_s;

struct objects_out {
	struct ZSTD_CCtx_s *zstd;
	/* Called with compressed bytes, at most INLAY_FRAME_MAX at a time; they are borrowed. */
	int (*emit)(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
	void *ctx;
	struct inlay_idset numbers; /* what this stream has sent since the last end ... */
	struct inlay_idset ended;   /* ... and before it, since the end before that */
	struct inlay_buf item;      /* a tree item under construction */
	uint8_t *out;               /* room for compressed bytes */
	size_t out_len;
	uint64_t raw;    /* bytes before compression, for figures */
	uint64_t packed; /* and behind it */
	int level, window_log;
	bool apart;    /* no frame goes on over an end: what lies between two stands for itself */
	bool prefixed; /* the frame at hand has a prefix: */
	struct inlay_buf prefix; /* zstd refers to it until the frame ends */
};

int objects_out_init(struct objects_out *o,
		     int (*emit)(void *ctx, const void *bytes, size_t len, struct inlay_error *err),
		     void *ctx, struct inlay_error *err) inlay_must_check;
void objects_out_fini(struct objects_out *o);

/* How the items that follow are compressed. */
struct objects_frame {
	int level;      /* zstd's */
	uint64_t bytes; /* about what is to come */
	/* A whole image: matches are looked for as far back as a receiver can go. Without a prefix. */
	bool far;
	/* Old contents, one after the other, taken over; NULL = none. With `bytes` they are at most
	 * INLAY_DELTA_MAX. */
	struct inlay_buf *prefix;
	const struct inlay_idset *bases; /* whose they are */
};

/* Between items. Without a prefix, and with the same level and window as before, nothing happens. */
int objects_out_frame(struct objects_out *o, const struct objects_frame *f, struct inlay_error *err)
	inlay_must_check;
/* All that was given so far is compressed now (not emitted), so that o->packed tells what it cost. */
int objects_out_settle(struct objects_out *o, struct inlay_error *err) inlay_must_check;

/* True when the object was sent since the last end: it need not be sent again. */
static inline bool objects_out_has(const struct objects_out *o, const struct inlay_digest *id)
{
	return inlay_idset_has(&o->numbers, id);
}

/* A blob: begin with its size, exactly that many bytes in any pieces, end with its id, or NULL to drop. */
int objects_out_blob_begin(struct objects_out *o, uint64_t size, struct inlay_error *err)
	inlay_must_check;
int objects_out_blob_bytes(struct objects_out *o, const void *bytes, size_t len,
			   struct inlay_error *err) inlay_must_check;
int objects_out_blob_end(struct objects_out *o, const struct inlay_digest *id,
			 struct inlay_error *err) inlay_must_check;

/* librsync's delta from `basis` to `id`, of `size` bytes, in any pieces. */
int objects_out_patch_begin(struct objects_out *o, const struct inlay_digest *basis,
			    const struct inlay_digest *id, uint64_t size, struct inlay_error *err)
	inlay_must_check;
int objects_out_patch_bytes(struct objects_out *o, const void *bytes, size_t len,
			    struct inlay_error *err) inlay_must_check;
/* id NULL: the file changed meanwhile, drop it. */
int objects_out_patch_end(struct objects_out *o, const struct inlay_digest *id,
			  struct inlay_error *err) inlay_must_check;

/* A directory: the ops turn `basis` (NULL = empty) into `id`. Sorts the ops in place by name. */
int objects_out_tree(struct objects_out *o, const struct inlay_digest *basis,
		     struct objects_op *ops, size_t count, const struct inlay_digest *id,
		     struct inlay_error *err) inlay_must_check;

/* The end item; all is emitted. A frame with a prefix ends, too, so that its memory is free. */
int objects_out_end(struct objects_out *o, struct inlay_error *err) inlay_must_check;

/* ---- receiving ---- */

struct objects_sink {
	int (*blob_begin)(void *ctx, uint64_t size, struct inlay_error *err);
	int (*blob_bytes)(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
	/* keep: *ret is the object's id; otherwise forget it and leave *ret alone */
	int (*blob_end)(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *err);
	/* Appends the object whose id starts with these bytes to *to; at most `max` bytes. -ESTALE when that cannot
	 * be: it is not there, or larger. */
	int (*basis)(void *ctx, uint64_t prefix, size_t max, struct inlay_buf *to,
		     struct inlay_error *err);
	/* A patch whose result does not come out is no error here: the object is missing, and COMMIT finds that. */
	int (*patch_begin)(void *ctx, const struct inlay_digest *basis,
			   const struct inlay_digest *id, uint64_t size, struct inlay_error *err);
	int (*patch_bytes)(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
	int (*patch_end)(void *ctx, bool keep, struct inlay_error *err);
	/* basis: how its id begins, NULL = none; the ops are in the order of their names' bytes, names differ */
	int (*tree)(void *ctx, const uint64_t *basis, struct objects_op *ops, size_t count,
		    struct inlay_tree_built *ret, struct inlay_error *err);
};

struct objects_in;

int objects_in_new(const struct objects_sink *sink, void *ctx, struct objects_in **ret,
		   struct inlay_error *err) inlay_must_check;
void objects_in_free(struct objects_in *in); /* accepts NULL */

/* The payload of one DATA frame. -EPROTO for anything that is not the format above. -ESTALE: from the sink, or
 * what came does not fit to its bases. After a failure the stream cannot go on. */
int objects_in_feed(struct objects_in *in, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
/* How many objects have come since the last end: so many of the numbers are taken. */
size_t objects_in_count(const struct objects_in *in);
/* The bases that the frame at hand has, as prefixes; *ret_count may be 0. Borrowed until the next call. */
const uint64_t *objects_in_bases(const struct objects_in *in, size_t *ret_count);
/* True between items: a COMMIT may only come there. */
bool objects_in_idle(const struct objects_in *in);

#endif
