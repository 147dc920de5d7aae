/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_PODMAN_H
#define RUN_PODMAN_H

/*
 * A program's container by podman, so that it is among those of `podman ps`. podman gets runc as its runtime: crun
 * would cut the root off from what is mounted in it later.
 */

#include "run/contained.h"

/* Starts `podman run`, which ends with the container's exit code; the file `pid` in the bundle's directory gets its
 * first process. A container of that name is replaced. */
int podman_start(const struct contained *c, struct oci_process *p, const char *dir,
		 const int fds[3], pid_t *ret, struct inlay_error *err) inlay_must_check;
void podman_delete(const struct contained *c);

#endif
