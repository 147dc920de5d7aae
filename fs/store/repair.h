/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_REPAIR_H
#define INLAY_STORE_REPAIR_H

/* What repair.c (the whole, loose files) and repairpack.c share. */

#include "store/state.h"

/* An entry after the point. */
struct claim {
	uint32_t pack;
	uint32_t number;
	uint64_t off;
};

/* An entry that was taken out. */
struct refusal {
	struct inlay_digest id;
	uint32_t number;
	uint32_t older; /* the entry before it that counts then; REFUSAL_NONE */
};
#define REFUSAL_NONE UINT32_MAX

struct repair {
	struct inlay_store *store;
	struct point point;
	struct claim *claims; /* in packs, by (pack, offset) */
	size_t claim_count;
	size_t next; /* the first claim that is not settled */
	struct refusal *refusals;
	size_t refusal_count, refusal_cap;
};

/* The object is not where entry `number` says, if that entry counts. */
int repair_take_out(struct repair *rp, uint32_t number, struct inlay_error *err) inlay_must_check;
bool repair_is_there(const struct repair *rp, const struct inlay_digest *id);
/* Goes over the packs after the point. */
int repair_packs(struct repair *rp, struct inlay_error *err) inlay_must_check;

#endif
