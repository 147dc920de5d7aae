/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_SWEEP_H
#define INLAY_STORE_SWEEP_H

/* What sweep.c (the whole, index, loose files) and sweeppack.c share. */

#include "store/state.h"

struct victim {
	uint32_t number;
	uint64_t bytes; /* of the file */
	uint64_t live;  /* bytes of live records */
	bool empty;     /* all that is live was moved */
	bool keep;      /* a live record could not be moved */
	bool gone;
};

/* A live object in a victim. */
struct moving {
	size_t victim;
	uint64_t off;
	struct inlay_digest id;
};

struct sweep {
	struct inlay_store *store;
	bool (*live)(void *ctx, const struct inlay_digest *id);
	void *ctx;
	int64_t grace_ns;
	int64_t start_ns;
	struct reindex_dead dead;
	uint64_t *bits;
	uint64_t dead_count;
	uint64_t counting;    /* entries that count */
	struct victim *packs; /* by number: first all packs, then the victims */
	size_t pack_count;
	struct moving *moving; /* by victim and offset */
	size_t moving_count, moving_cap;
	struct inlay_store_sweep out;
};

typedef void sweep_entry_fn(struct sweep *s, uint32_t number, const struct place *place);

/* Calls fn for the entries that count, without a lock. */
void sweep_each_entry(struct sweep *s, sweep_entry_fn *fn);
/* Moves what is live out of packs that are mostly dead or small, and deletes them. */
int sweep_packs(struct sweep *s, struct inlay_error *err) inlay_must_check;

#endif
