/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_PRIVS_H
#define MOUNT_PRIVS_H

/*
 * Set-id bits and capabilities, which end when somebody without rights to them writes. The kernel can see to it alone,
 * but then it asks for security.capability before each write where there are xattrs. So on mounts with xattrs it is
 * told that we see to it (FUSE_HANDLE_KILLPRIV_V2, Linux 5.12): it asks once for each inode, and says with WRITE and
 * SETATTR what is to end. libfuse 3.14 knows neither the flag nor what is said, so requests are looked at here as they
 * come.
 */

#include "mount/worker.h"

/* The session reads and writes the worker's descriptor, through here where there are xattrs. */
int privs_attach(struct worker *w, struct inlay_error *err) inlay_must_check;

/* Ends the privileges that the request at hand on this thread is said to end. Call before it does anything. */
int privs_obey(struct worker *w, uint64_t number) inlay_must_check;
/* The same for requests that say nothing: unless they come from root. */
int privs_judge(struct worker *w, fuse_req_t req, uint64_t number) inlay_must_check;

#endif
