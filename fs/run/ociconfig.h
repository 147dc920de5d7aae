/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_OCICONFIG_H
#define RUN_OCICONFIG_H

/*
 * config.json of an OCI bundle: as little as a runtime needs. The root with rslave propagation; proc, dev, devpts,
 * shm, sysfs; namespaces for mounts and IPC, and one for processes that is there already; the host's network and
 * its resolv.conf and hosts.
 */

#include "inlay/container.h"

struct oci_process {
	const struct inlay_container_spec *spec;
	const char *root;      /* absolute */
	const char *workspace; /* its path */
	const char *dir;       /* relative to the workspace, or absolute */
	const char *shows;     /* seen inside under its own path, read-only; NULL = nothing */
	char *const *argv;
	char *const
		*own; /* ours, "NAME=value"; over the spec's. NULL-terminated, as argv and env */
	char *const *env; /* over all others */
	char *const *
		devices; /* of the host, seen inside under their own paths; NULL-terminated, NULL = none */
	const char *pids; /* the process namespace that it joins: a path */
	bool tty;
};

/* Appends it. The user is looked up in the root. -EINVAL: a text is not UTF-8, which JSON cannot carry. */
int oci_config(const struct oci_process *p, struct inlay_buf *b, struct inlay_error *err)
	inlay_must_check;

#endif
