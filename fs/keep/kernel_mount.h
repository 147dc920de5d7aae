/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_KERNEL_MOUNT_H
#define KEEP_KERNEL_MOUNT_H

/*
 * Making and ending FUSE mounts: by mount(2) as root, through fusermount3 as anybody else. Always nosuid
 * and nodev, with the permission checks done by the kernel (default_permissions). Nothing here reads
 * through the mount.
 */

#include <stdbool.h>

#include "inlay/error.h"

#define KERNEL_MOUNT_TYPE "fuse.inlay"

/* Mounts on the directory and gives the /dev/fuse descriptor. No component of the path may be a symlink (it
 * was resolved before; one that appears since is not followed). *ret_everybody: others than the owner may enter. */
int kernel_mount(const char *path, int *ret_fuse_fd, bool *ret_everybody, struct inlay_error *err)
	inlay_must_check;

enum { KERNEL_MOUNT_NONE = 1 }; /* positive result: there is no mount of ours */

/* Ends the topmost mount on the path, if it is one of ours. lazy: also when it is in use or dead. */
int kernel_umount(const char *path, bool lazy, struct inlay_error *err) inlay_must_check;

/* True when the topmost mount on the path is one of ours, dead or alive. */
bool kernel_mount_there(const char *path);
/* True when anything is mounted exactly there. */
bool kernel_mount_any(const char *path);

struct kernel_mount_info {
	char type[32], device[32]; /* "overlay", "0:57" */
	bool shared; /* it is in a peer group: what is mounted in it is seen elsewhere */
};
/* The topmost mount exactly there; false when there is none. */
bool kernel_mount_find(const char *path, struct kernel_mount_info *ret);

/* Each mount of inlay's, of whatever state directory. */
int kernel_mount_each(void (*fn)(void *ctx, const char *path), void *ctx, struct inlay_error *err)
	inlay_must_check;

#endif
