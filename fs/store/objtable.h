/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_OBJTABLE_H
#define INLAY_STORE_OBJTABLE_H

/* The table of an objindex: digest -> the entry that counts. Only objindex.c uses it. */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/error.h"
#include "store/objindex.h"

/* The bytes of entry n: in the mapped file, or still pending. */
static inline const uint8_t *objtable_entry_at(const struct objindex *ix, uint32_t n)
{
	if (n >= ix->filed)
		return ix->pending + (size_t)(n - ix->filed) * INDEX_ENTRY_BYTES;
	return ix->map + INDEX_HEADER_BYTES + (size_t)n * INDEX_ENTRY_BYTES;
}

/* Room for `more` entries. On failure nothing has changed. */
int objtable_reserve(struct objindex *ix, uint32_t more, struct inlay_error *err) inlay_must_check;
/* Makes entry n, which says *place, the one that counts. There is room. */
void objtable_link(struct objindex *ix, uint32_t n, const struct place *place);
/* Links entries from..to-1. Gives the number of damaged ones, which are stepped over. */
uint32_t objtable_link_all(struct objindex *ix, uint32_t from, uint32_t to,
			   uint32_t *ret_first_bad);
/* The entry that counts for the digest; it may be damaged by now, or a dropped one. */
bool objtable_find(const struct objindex *ix, const struct inlay_digest *id, uint32_t *ret);
/* The object of an entry that counted is not there any more. */
void objtable_uncount(struct objindex_totals *t, const struct place *p);

#endif
