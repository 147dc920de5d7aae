/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_VERIFY_H
#define INLAY_STORE_VERIFY_H

/* What verify.c (the whole, index, loose files, refs) and verifypack.c share. */

#include "store/pack.h"
#include "store/state.h"

struct claim {
	uint32_t pack; /* 0 = loose */
	uint64_t off;
	uint64_t size;
	struct inlay_digest id;
};

struct verify {
	struct inlay_store *store;
	void (*found)(void *ctx, const struct inlay_digest *id, const char *what);
	void (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
	uint64_t done, total;
	int64_t next_tick_ns;
	struct claim *claims; /* by (pack, offset) */
	size_t claim_count;
	size_t next;      /* the first claim that was not gone through */
	uint32_t active;  /* the pack that this process appends to, */
	uint64_t flushed; /* and how much of it is in the file */
	int index;        /* owned: the index file */
	uint64_t index_bytes;
	struct inlay_buf scratch;
	struct inlay_store_check out;
};

/* Tells a finding; id NULL when no object is lost with it. */
void verify_report(struct verify *v, const struct inlay_digest *id, const char *fmt, ...)
	inlay_printf(3, 4);
/* So many bytes more were read. */
void verify_advance(struct verify *v, uint64_t bytes);
/* An object was read and is what its digest says. */
void verify_good_object(struct verify *v, uint64_t size);
/* A writer in another process may be in the middle of an append. */
bool verify_writer_elsewhere(const struct verify *v);

/* Reads the packs; `next` is at the first claim in them. */
int verify_packs(struct verify *v, const struct pack_list *packs, struct inlay_error *err)
	inlay_must_check;

#endif
