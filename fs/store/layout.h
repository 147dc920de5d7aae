/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_LAYOUT_H
#define INLAY_STORE_LAYOUT_H

/*
 * The bytes of a store and nothing else: bytes <-> structs, no I/O, any thread. docs/format.md,
 * section "Store", has the same tables. Everything is little-endian.
 *
 * Each file starts (a loose file: ends) with a magic, a version and a checksum, and that part keeps
 * its place in every later version, so that a version is believed only when its checksum is right:
 * a flipped bit is damage and never "written by a newer inlay".
 */

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/digest.h"
#include "inlay/error.h"
#include "inlay/limits.h"
#include "inlay/store.h"

enum {
	LAYOUT_VERSION = 1,
	LAYOUT_ALIGN = 8, /* records start at multiples of it */
	PACK_HEADER_BYTES = 32,
	RECORD_HEADER_BYTES = 64,
	/* the largest record: its payload is one byte short of a loose file */
	RECORD_BYTES_MAX = RECORD_HEADER_BYTES + INLAY_STORE_LOOSE_MIN,
	INDEX_HEADER_BYTES = 64,
	INDEX_ENTRY_BYTES = 64,
	LOOSE_FOOTER_BYTES = 64,
};

/* ---- as they lie on the disk ---- */

struct disk_pack_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t number; /* that of the file's name */
	uint8_t algorithm;
	uint8_t zero[7];
	uint64_t check; /* XXH3 of the 24 bytes before */
};
static_assert(sizeof(struct disk_pack_header) == PACK_HEADER_BYTES, "layout");
static_assert(offsetof(struct disk_pack_header, check) == 24, "layout");

/* Followed by the payload and by zeros up to the next multiple of 8. */
struct disk_record {
	uint64_t check; /* XXH3 of everything after it: rest of the header, payload, zeros */
	uint8_t magic[4];
	uint8_t kind; /* enum record_kind */
	uint8_t algorithm;
	uint16_t zero;
	uint64_t size; /* of the payload */
	int64_t put_ns;
	uint8_t digest[INLAY_DIGEST_BYTES];
};
static_assert(sizeof(struct disk_record) == RECORD_HEADER_BYTES, "layout");
static_assert(offsetof(struct disk_record, digest) == 32, "layout");

struct disk_index_header {
	uint8_t magic[8];
	uint32_t version;
	uint8_t algorithm;
	uint8_t zero[3];
	uint64_t epoch;
	uint64_t point_entries;
	uint32_t point_pack;
	uint32_t zero2;
	uint64_t point_off;
	uint64_t check;    /* XXH3 of the 48 bytes before */
	uint64_t replaced; /* 0, or INDEX_REPLACED: written when a new file took this one's name */
};
static_assert(sizeof(struct disk_index_header) == INDEX_HEADER_BYTES, "layout");
static_assert(offsetof(struct disk_index_header, replaced) == 56, "layout");

/* 64 bytes, so that a lookup touches one cache line of the mapped file. */
struct disk_index_entry {
	uint8_t digest[INLAY_DIGEST_BYTES];
	int64_t put_ns;
	uint64_t size_flags; /* low 48 bits: size of the object; high 16: flags */
	uint32_t pack;       /* 0 = a loose file */
	uint32_t off8;       /* offset of the record in the pack, in units of 8 bytes */
	uint64_t check;      /* XXH3 of the 56 bytes before */
};
static_assert(sizeof(struct disk_index_entry) == INDEX_ENTRY_BYTES, "layout");
static_assert(offsetof(struct disk_index_entry, pack) == 48, "layout");

/* The end of a loose file: content | XXH3 of each chunk | footer. */
struct disk_loose_footer {
	uint8_t digest[INLAY_DIGEST_BYTES];
	uint64_t size;
	int64_t put_ns;
	uint8_t magic[4];
	uint16_t version;
	uint8_t algorithm;
	uint8_t zero;
	uint64_t check; /* XXH3 of the 56 bytes before */
};
static_assert(sizeof(struct disk_loose_footer) == LOOSE_FOOTER_BYTES, "layout");
static_assert(offsetof(struct disk_loose_footer, magic) == 48, "layout");

/* ---- as they are used ---- */

/*
 * How far a store is known to be good: every byte of packs below `pack`, the bytes of `pack` below
 * `off`, and the first `entries` entries of the index with that epoch, with the loose files that
 * they name. Refs and index headers record one.
 */
struct point {
	uint32_t pack; /* 0 = no pack yet */
	uint64_t off;
	uint64_t epoch;
	uint64_t entries;
};

enum record_kind {
	RECORD_OBJECT = 1,
	RECORD_PAD = 2, /* bytes that a repair found damaged: no object, digest zero */
};

struct record {
	enum record_kind kind;
	uint32_t size; /* of the payload, < INLAY_STORE_LOOSE_MIN */
	int64_t put_ns;
	struct inlay_digest id;
	const uint8_t *payload; /* borrowed */
};

/* Where an object is: an index entry. */
struct place {
	struct inlay_digest id;
	uint64_t size;
	uint64_t off; /* of the record in its pack; 0 for a loose file */
	int64_t put_ns;
	uint32_t pack; /* 0 = a loose file */
	bool dropped;  /* the entry says that the object is not there any more */
};

struct index_head {
	uint64_t epoch;     /* grows by one each time the index is replaced */
	struct point point; /* what was durable when the file was made; its epoch is `epoch` */
};

void layout_pack_encode(uint32_t number, uint8_t out[static PACK_HEADER_BYTES]);
/* -EBADMSG (not a pack, damaged, or another number), -EPROTONOSUPPORT. `name` is for the text. */
int layout_pack_check(const uint8_t in[static PACK_HEADER_BYTES], uint32_t number, const char *name,
		      struct inlay_error *err) inlay_must_check;

/* Bytes of a record with a payload of `size`, zeros at the end included. */
static inline size_t layout_record_bytes(size_t size)
{
	return (RECORD_HEADER_BYTES + size + LAYOUT_ALIGN - 1) & ~(size_t)(LAYOUT_ALIGN - 1);
}

/* Writes layout_record_bytes(r->size) bytes. */
void layout_record_encode(const struct record *r, uint8_t *out);
/* Writes a new header before `size` payload bytes that are already at out + RECORD_HEADER_BYTES, so
 * that they become a PAD. layout_record_bytes(size) must be exact, without zeros. */
void layout_record_pad(uint8_t *out, uint32_t size);
/* False unless a whole and undamaged record starts at `in`. */
bool layout_record_decode(const uint8_t *in, size_t len, struct record *ret);
/* True when these bytes, at least RECORD_HEADER_BYTES, may be the start of a record. */
bool layout_record_likely(const uint8_t *in);

void layout_index_encode(const struct index_head *head, uint8_t out[static INDEX_HEADER_BYTES]);
int layout_index_check(const uint8_t in[static INDEX_HEADER_BYTES], struct index_head *ret,
		       struct inlay_error *err) inlay_must_check;

#define INDEX_REPLACED     0x646563616c706572ull /* "replaced" */
#define INDEX_REPLACED_OFF offsetof(struct disk_index_header, replaced)

void layout_entry_encode(const struct place *place, uint8_t out[static INDEX_ENTRY_BYTES]);
/* False when the entry is damaged or says what cannot be. */
bool layout_entry_decode(const uint8_t in[static INDEX_ENTRY_BYTES], struct place *ret);

static inline uint64_t layout_chunks(uint64_t size)
{
	return (size + INLAY_STORE_CHUNK - 1) / INLAY_STORE_CHUNK;
}

/* Size of the file of a loose object. */
static inline uint64_t layout_loose_bytes(uint64_t size)
{
	return size + layout_chunks(size) * sizeof(uint64_t) + LOOSE_FOOTER_BYTES;
}

void layout_loose_encode(const struct place *place, uint8_t out[static LOOSE_FOOTER_BYTES]);
int layout_loose_check(const uint8_t in[static LOOSE_FOOTER_BYTES], struct place *ret,
		       struct inlay_error *err) inlay_must_check;

#endif
