/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_SUPERVISOR_PROTO_H
#define RUN_SUPERVISOR_PROTO_H

/*
 * What is said to a supervisor: one packet over run.sock, and one back. Both ends are on one machine, so the
 * struct travels as it is; the version guards against a supervisor of an older inlayd.
 *
 *     STATUS              -> status at once
 *     SIGNAL arg          -> the program's group gets the signal; status at once
 *     RESTART             -> status when it was ended and started again
 *     STOP                -> status when it is gone; then the supervisor ends
 *     WATCH               -> nothing: the end of the connection is the end of the supervisor
 */

#include "inlay/run.h"

#define RUN_SOCKET "run.sock"

enum { RUN_PROTOCOL = 1 };

enum run_verb {
	RUN_STATUS = 1,
	RUN_SIGNAL,
	RUN_RESTART,
	RUN_STOP,
	RUN_WATCH,
};

struct run_msg {
	uint32_t protocol; /* RUN_PROTOCOL */
	uint32_t verb;
	int32_t arg;
	int32_t result; /* answers: 0 or a negative errno */
	struct inlay_run_status status;
};

#endif
