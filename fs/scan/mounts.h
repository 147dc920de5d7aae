/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_MOUNTS_H
#define SCAN_MOUNTS_H

/*
 * Is a device a mount of inlay? Scanning one would feed a workspace into itself, or another host's
 * view into this one. Asked only where the device changes within a folder. Thread-safe.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/error.h"

struct scan_mounts {
	pthread_mutex_t lock; /* guards the rest */
	struct scan_device *devices;
	size_t count;
};

int scan_mounts_init(struct scan_mounts *m, struct inlay_error *err) inlay_must_check;
void scan_mounts_fini(struct scan_mounts *m);

/* dev as in st_dev. /proc/self/mountinfo is read once for each device. */
int scan_mounts_is_inlay(struct scan_mounts *m, uint64_t dev, bool *ret, struct inlay_error *err)
	inlay_must_check;

/* True when the text of a mountinfo file (proc(5)) has a mount of that device and file system type.
 * Lines of another form are passed over. */
bool scan_mountinfo_has(const char *text, size_t len, uint64_t dev, const char *type);

#endif
