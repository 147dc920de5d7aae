/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_REPAIR_H
#define INLAY_STORE_REPAIR_H

/* What repair.c (the whole, loose files), repairpack.c and mend.c share. */

#include "inlay/cleanup.h"
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
void repair_fini(struct repair *rp);
INLAY_DEFINE_FINI(struct repair, repair_fini)

/* The object is not where entry `number` says, if that entry counts. */
int repair_take_out(struct repair *rp, uint32_t number, struct inlay_error *err) inlay_must_check;
bool repair_is_there(const struct repair *rp, const struct inlay_digest *id);
/* Notes the entries that count and lie in packs after the point, in the order of their places. */
int repair_collect_claims(struct repair *rp, struct inlay_error *err) inlay_must_check;
/* Makes PAD records of the bytes from..to-1, which are multiples of 8. Fewer bytes than a header
 * are not what damage leaves and stay as they are: a walk over them finds the next record. */
int repair_pad(int fd, uint64_t from, uint64_t to, struct inlay_error *err) inlay_must_check;
/* Goes over the packs after the point. */
int repair_packs(struct repair *rp, struct inlay_error *err) inlay_must_check;

#endif
