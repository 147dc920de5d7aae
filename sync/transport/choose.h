/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_CHOOSE_H
#define TRANSPORT_CHOOSE_H

/* Which way to a host is taken, and why. */

#include "inlay/cleanup.h"
#include "transport/transport.h"

enum {
	CHOOSE_FEW_HOSTS =
		2, /* up to so many, ssh's faster bulk counts more than the faster connect */
	CHOOSE_WHY_BYTES = 1024,
};

struct choice {
	enum transport_kind kind;   /* OPENSSH or LIBSSH2 */
	char why[CHOOSE_WHY_BYTES]; /* "one or two hosts: ..." */
	struct inlay_buf conf;      /* LIBSSH2: the answer of ssh -G */
};

void choice_fini(struct choice *c);
INLAY_DEFINE_FINI(struct choice, choice_fini)

/*
 * For a host; options->kind is what the user wants. LIBSSH2 that cannot be is an error; AUTO never fails.
 */
int choose_transport(const struct transport_options *o, struct choice *ret, struct inlay_error *err)
	inlay_must_check;

/* For the rest of this process AUTO takes openssh for the host, for this reason. Any thread. */
void choose_refused(const char *host, const char *why);

#endif
