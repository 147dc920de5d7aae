/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BUILD_BUILDHOST_H
#define BUILD_BUILDHOST_H

/*
 * A host that builds, over ssh, with the builder that it has: another platform is built there as fast as it runs
 * there. The context and the recipe go in a tar by standard input, the image comes back by standard output, what the
 * builder says by standard error. It works in a directory of its own, which goes with the connection; what the
 * builder keeps for its next build stays.
 */

#include <stdbool.h>
#include <stddef.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "transport/children.h"
#include "transport/transport.h"

/* How the files are called in that directory. */
#define BUILD_HOST_CONTEXT "context"
#define BUILD_HOST_RECIPE  "recipe"
#define BUILD_HOST_OUT     "out.tar"

struct build_host {
	struct transport_options transport;
	char machine[32];          /* as uname -m says */
	struct inlay_buf builders; /* "NAME FILE SIZE TIME" lines */
};

/* Asks it what it is and has. The exit code is CONNECT when it cannot be reached. */
int build_host_open(struct build_host *h, const struct transport_options *o,
		    struct inlay_error *err) inlay_must_check;
void build_host_fini(struct build_host *h);

/* The file of a builder there, and what tells it from another version. False when it has none. */
bool build_host_builder(const struct build_host *h, const char *name, char *ret_file, size_t size,
			char *ret_version, size_t version_size);

/* The command that runs argv there as it stands. */
int build_host_command(const struct build_host *h, const char *const *argv, struct child_args *ret,
		       struct inlay_error *err) inlay_must_check;

/* The command that builds: argv with `env` ("NAME=value", may be NULL) in the directory with the files above. The tar
 * that it reads has the context and, unless `recipe` is NULL, the recipe under that name beside it. */
int build_host_build(const struct build_host *h, const char *const *argv, char *const *env,
		     const char *recipe, struct child_args *ret, struct inlay_error *err)
	inlay_must_check;

#endif
