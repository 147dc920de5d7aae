/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_CLIENT_H
#define SESSION_CLIENT_H

/*
 * The asking side of a session: a connection to a host's inlayd, and questions over it. Used by one
 * thread. A failure that the host reports comes as an error with the host's text and exit code.
 */

#include <stdbool.h>
#include <stdint.h>

#include "transport/gate.h"
#include "transport/transport.h"
#include "wire/conn.h"
#include "wire/message.h"

/* Where a workspace is. */
struct target {
	char *host; /* [user@]host, NULL = this machine */
	char *port; /* NULL = as ssh says */
	char *path; /* as it was given; local ones are absolute */
};

/* "host:path", "user@host:path", "ssh://user@host:port/path", "[::1]:path", or a local path (which may
 * have a colon behind a slash). */
int target_parse(const char *text, struct target *ret, struct inlay_error *err) inlay_must_check;
void target_fini(struct target *t);
/* As the user would type it. */
void target_text(const struct target *t, struct inlay_buf *b);

struct client {
	struct transport_options options; /* borrowed strings */
	struct transport transport;
	struct conn conn;
	struct gate_pass gate; /* until it is greeted */
	bool opened;
	bool greeted;
	char program[64], machine[32]; /* the peer's */
	uint32_t uid;
	uint64_t bwlimit;
	int64_t answer_ns; /* how long the next row of an answer may take; 0 = any time */
	struct message_failed failed; /* the last FAILED; its text is in the error */
};

/* Starts the way to the host and queues our HELLO; nothing is waited for. */
int client_open(struct client *c, const struct transport_options *o, uint64_t bwlimit,
		struct inlay_error *err) inlay_must_check;
/* Ends the session in order. Accepts a client that was never opened ({0}). */
void client_close(struct client *c);
/* Ends the way to the host at once: it may be dead. client_close is still needed. */
void client_kill(struct client *c);

/* Positive results. */
enum {
	CLIENT_AGAIN =
		1, /* inlayd was installed, or another transport is taken: close, open and ask anew */
	CLIENT_FAILED = 2, /* the host could not do it: c->failed, and *err is set */
};

int client_send(struct client *c, enum message_type type, const struct inlay_buf *b,
		struct inlay_error *err) inlay_must_check;
/* Waits until little is queued, so that bulk does not pile up here. */
int client_drain(struct client *c, size_t queued, struct inlay_error *err) inlay_must_check;

/*
 * The next message; HELLO is taken care of. FAILED gives CLIENT_FAILED. timeout_ns 0 = none. The
 * connection's end is an error.
 */
int client_recv(struct client *c, int64_t timeout_ns, struct frame *ret, struct inlay_error *err)
	inlay_must_check;

/* What a FAILED says, that came unasked: c->failed and the error. Always CLIENT_FAILED or negative. */
int client_hear_failed(struct client *c, const struct frame *f, struct inlay_error *err)
	inlay_must_check;

/* Queues OPEN. */
int client_open_workspace(struct client *c, const struct message_open *m, struct inlay_error *err)
	inlay_must_check;

/* Sends a request and calls row() for each row until END. Positive: CLIENT_AGAIN, CLIENT_FAILED, or what row()
 * gave above 0. */
int client_request(struct client *c, const struct message_request *m,
		   int (*row)(void *ctx, const struct frame *f, struct inlay_error *err), void *ctx,
		   struct inlay_error *err) inlay_must_check;

/* The same in two steps, with work of one's own between them. */
int client_begin_request(struct client *c, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;
int client_end_request(struct client *c,
		       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err),
		       void *ctx, struct inlay_error *err) inlay_must_check;

/* "user@host pid 123", for locks; "user@host:/path", for generations (path may be NULL). */
void client_owner(char *buf, size_t size);
void client_origin(char *buf, size_t size, const char *path);

#endif
