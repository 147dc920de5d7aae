/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WATCH_CONTROL_H
#define WATCH_CONTROL_H

/*
 * How other commands talk to a running watch: packets over the socket `control` in the folder's state directory, which
 * only its owner can reach. One request, then rows, then the end. Any thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "watch/peer.h"

#define CONTROL_SOCKET "control"

enum {
	CONTROL_PACKET_MAX = 16 << 10,
	CONTROL_TEXT_MAX = 4096, /* a path or a target, with the NUL */
};

enum control_verb {
	CONTROL_STATUS = 1, /* HEAD, a ROW for each target, END */
	CONTROL_FLUSH = 2,  /* a ROW for each target, END: when they show the present state */
	CONTROL_STOP = 3,   /* END; then the watch ends */
};

struct control_request {
	uint8_t verb;
	bool force;                    /* FLUSH: accept what would halt */
	bool steal;                    /* FLUSH: take what another client took */
	uint64_t timeout_ms;           /* FLUSH; 0 = none */
	char target[CONTROL_TEXT_MAX]; /* FLUSH: only this one; "" = all */
};

enum control_kind { CONTROL_HEAD = 1, CONTROL_ROW = 2, CONTROL_END = 3 };

struct control_head {
	uint64_t pid;
	int64_t since_ns; /* CLOCK_REALTIME */
	uint64_t seq;     /* of the newest state */
	uint64_t watches, cold, overflows, held;
	uint64_t encoded,
		shared; /* change sets that were made for all, and how often others took one */
	bool halted;    /* the folder is not there */
	char source[CONTROL_TEXT_MAX];
	char why[512]; /* halted, or the last scan failed */
};

struct control_row {
	struct peer_status status;
	bool changed; /* FLUSH: it did something for it */
	char target[CONTROL_TEXT_MAX];
};

struct control_end {
	uint8_t exit_code;
	char text[INLAY_ERROR_TEXT];
};

/* One packet that came. */
struct control_packet {
	enum control_kind kind;
	union {
		struct control_head head;
		struct control_row row;
		struct control_end end;
	};
};

void control_encode_request(struct inlay_buf *b, const struct control_request *m);
int control_decode_request(const void *bytes, size_t len, struct control_request *ret,
			   struct inlay_error *err) inlay_must_check;
void control_encode(struct inlay_buf *b, const struct control_packet *m);
int control_decode(const void *bytes, size_t len, struct control_packet *ret,
		   struct inlay_error *err) inlay_must_check;

/* ---- asking ---- */

enum { CONTROL_NOBODY = 1 }; /* positive result: no watch of that folder runs */

/* Connects to the watch of a folder (a resolved path). *ret_fd is the caller's. */
int control_connect(const char *state, const char *source, int *ret_fd, struct inlay_error *err)
	inlay_must_check;
/* Connects to every watch that runs: calls fn with a descriptor, which it takes over. */
int control_each(const char *state, int (*fn)(void *ctx, int fd, struct inlay_error *err),
		 void *ctx, struct inlay_error *err) inlay_must_check;

/* Sends the request and calls packet() for each but the END. A request that failed there fails here with the text and
 * the exit code of the END. */
int control_ask(int fd, const struct control_request *m,
		int (*packet)(void *ctx, const struct control_packet *p, struct inlay_error *err),
		void *ctx, struct inlay_error *err) inlay_must_check;
/* The two halves of control_ask: of many watches all are asked before any is listened to. */
int control_say(int fd, const struct control_request *m, struct inlay_error *err) inlay_must_check;
int control_hear(int fd,
		 int (*packet)(void *ctx, const struct control_packet *p, struct inlay_error *err),
		 void *ctx, struct inlay_error *err) inlay_must_check;

#endif
