/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_CONNECT_H
#define KEEP_CONNECT_H

/*
 * What serve says to the keeper: one packet, with the two descriptors of the session. The keeper answers
 * with one packet; after that, the end of the connection is the end of the session.
 */

#include <stdint.h>

#define KEEP_SOCKET "keeper.sock"
#define KEEP_LOCK   "keeper.lock"

enum keep_verb {
	KEEP_SESSION = 1,
	KEEP_STOP = 2, /* no answer: the connection ends with the keeper */
	KEEP_YIELD =
		3, /* the same, if the keeper is older than the one that says it; else a reply */
};

extern const char keep_version[]; /* this program's; two of them are compared by strverscmp */

struct keep_msg {
	uint32_t protocol; /* KEEP_PROTOCOL */
	uint32_t verb;
	char version[32]; /* of the inlayd that connects */
};

struct keep_reply {
	uint32_t protocol;
	int32_t result; /* 0; -ESTALE: this keeper is older, it shall yield; -EPROTO: it is newer */
};

#endif
