/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_INROOT_H
#define RUN_INROOT_H

/*
 * Paths inside a root that others write to: resolved as a process in it would, so that no link leads out of it. Needs
 * a kernel with openat2 (5.6).
 */

/* As open(2); a descriptor or a negative errno. */
int inroot_open(int root_fd, const char *path, int flags);

#endif
