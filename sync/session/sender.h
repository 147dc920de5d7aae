/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_SENDER_H
#define SESSION_SENDER_H

/*
 * Objects on their way to a target: files as they are read, directories as changes of directories that
 * the target has. What the target is known to have is not sent.
 */

#include "session/client.h"
#include "session/source.h"
#include "wire/objects.h"

struct sender {
	struct source *source;
	struct client *client;
	struct objects_out out;
	const struct inlay_idset *known; /* ids that the target has; borrowed; may be NULL */
	uint64_t files, file_bytes;      /* sent */
	int interrupted; /* what client.h's positive result stopped the sending; 0 = nothing */
	void (*moved)(void *ctx); /* after each piece; may be NULL */
	void *ctx;
};

/* Client and source outlive it. */
int sender_init(struct sender *s, struct source *source, struct client *client,
		struct inlay_error *err) inlay_must_check;
void sender_fini(struct sender *s);

/* True when the object need not be sent: the target has it, or it was sent in this change set. */
bool sender_has(const struct sender *s, const struct inlay_digest *id);

/* What source_read and its like give their files to. `done` is not set. */
struct source_consumer sender_consumer(struct sender *s);

/* Sends the directory `after` and all below it that the target lacks; `before` (NULL = none) is the
 * directory at that place in the target's tree, whose trees are in the source's store. */
int sender_tree(struct sender *s, const struct inlay_digest *before,
		const struct inlay_digest *after, struct inlay_error *err) inlay_must_check;

/* Ends the change set's objects. */
int sender_end(struct sender *s, struct inlay_error *err) inlay_must_check;

#endif
