/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_OBJECTS_H
#define WIRE_OBJECTS_H

/*
 * The object stream: what DATA frames carry. Their payloads, one after the other, are zstd frames; what
 * they decompress to is a sequence of items:
 *
 *     1 blob    varint size, bytes, then one byte: 0 keep, 1 drop (the file changed under the reader)
 *     2 tree    varint length of the rest, then a changed directory:
 *                 u8 has_basis, [32 bytes: id of the directory that the ops change]
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
 *
 * Every kept blob and every tree gets the next number, from 0. A reference is a varint: 0 and a literal id
 * (32 bytes) for an object that the receiver has, or 1 + zigzag(number - one more than the last number
 * referred to in this item). Sender and receiver compute every id themselves, so ids of what is sent
 * do not travel: they would be the part that cannot be compressed.
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
	struct inlay_idset numbers; /* what this stream has sent since the last end */
	struct inlay_buf item;      /* a tree item under construction */
	uint8_t *out;               /* room for compressed bytes */
	size_t out_len;
	uint64_t raw; /* bytes before compression, for figures */
	int level, window_log;
};

int objects_out_init(struct objects_out *o,
		     int (*emit)(void *ctx, const void *bytes, size_t len, struct inlay_error *err),
		     void *ctx, struct inlay_error *err) inlay_must_check;
void objects_out_fini(struct objects_out *o);

/* Chooses level and window for about that many bytes to come; before the first item or after an end. */
int objects_out_tune(struct objects_out *o, uint64_t expected_bytes, int level,
		     struct inlay_error *err) inlay_must_check;

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

/* A directory: the ops turn `basis` (NULL = empty) into `id`. Sorts the ops in place by name. */
int objects_out_tree(struct objects_out *o, const struct inlay_digest *basis,
		     struct objects_op *ops, size_t count, const struct inlay_digest *id,
		     struct inlay_error *err) inlay_must_check;

/* Emits all that is held back. */
int objects_out_flush(struct objects_out *o, struct inlay_error *err) inlay_must_check;
/* The end item, and a flush. */
int objects_out_end(struct objects_out *o, struct inlay_error *err) inlay_must_check;

/* ---- receiving ---- */

struct objects_sink {
	int (*blob_begin)(void *ctx, uint64_t size, struct inlay_error *err);
	int (*blob_bytes)(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
	/* keep: *ret is the object's id; otherwise forget it and leave *ret alone */
	int (*blob_end)(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *err);
	/* the ops are in the order of their names' bytes, names differ */
	int (*tree)(void *ctx, const struct inlay_digest *basis, struct objects_op *ops,
		    size_t count, struct inlay_tree_built *ret, struct inlay_error *err);
};

struct objects_in;

int objects_in_new(const struct objects_sink *sink, void *ctx, struct objects_in **ret,
		   struct inlay_error *err) inlay_must_check;
void objects_in_free(struct objects_in *in); /* accepts NULL */

/* The payload of one DATA frame. -EPROTO for anything that is not the format above. After a failure the
 * stream cannot go on. */
int objects_in_feed(struct objects_in *in, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
/* True between items: a COMMIT may only come there. */
bool objects_in_idle(const struct objects_in *in);

#endif
