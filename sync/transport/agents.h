/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_AGENTS_H
#define TRANSPORT_AGENTS_H

/*
 * The inlayd binaries beside inlay, one for each architecture: inlayd-x86_64, inlayd-aarch64 in the
 * directory of the program (a build) or in ../libexec/inlay (an installation).
 */

#include "inlay/digest.h"
#include "inlay/error.h"

struct agent {
	char path[4096];
	struct inlay_digest id; /* of its bytes */
	uint64_t size;
};

/* "arm64" is aarch64, "amd64" is x86_64. Positive: AGENT_NONE. */
enum { AGENT_NONE = 1 };
int agent_find(const char *agents_dir, const char *cache_dir, const char *machine,
	       struct agent *ret, struct inlay_error *err) inlay_must_check;

/* The name it gets on a host. */
enum { AGENT_NAME_BYTES = 40 };
void agent_name(const struct agent *a, char ret[static AGENT_NAME_BYTES]);

#endif
