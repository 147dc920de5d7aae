/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_PATCHES_H
#define SESSION_PATCHES_H

/* The sender's side of librsync: signatures of old contents from the target, patches to it. */

#include "delta/blocks.h"
#include "session/client.h"
#include "session/plan.h"
#include "session/sender.h"

/* Asks for the signatures of the files' bases, in one round trip. One that the target does not have stays
 * empty. Positive: as client_request. */
int patches_ask(struct client *c, const struct plan_file *const *files, size_t count,
		struct inlay_buf *ret_signatures, struct inlay_error *err) inlay_must_check;

/* Sends a file as a patch; *ret_sent is false when the signature does not do. Positive: SOURCE_AGAIN. */
int patches_send(struct sender *s, const struct plan *plan, const struct plan_file *file,
		 const struct inlay_buf *signature, bool *ret_sent, struct inlay_error *err)
	inlay_must_check;

/* The same from sums that we kept ourselves: nothing is asked. Positive: SOURCE_AGAIN. */
int patches_send_blocks(struct sender *s, const struct plan *plan, const struct plan_file *file,
			const struct blocks *blocks, struct inlay_error *err) inlay_must_check;

#endif
