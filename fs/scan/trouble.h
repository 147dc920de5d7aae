/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_TROUBLE_H
#define SCAN_TROUBLE_H

/*
 * What goes wrong in a walk, from several threads: the error that names the first path (in the order
 * of bytes, so that the same folder gives the same message) and the number of the others.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

struct scan_trouble {
	pthread_mutex_t lock; /* guards the rest */
	uint64_t count;
	bool fatal; /* first has to do with no path: it is told alone */
	struct inlay_buf path;
	struct inlay_error first;
};

int scan_trouble_init(struct scan_trouble *t, struct inlay_error *err) inlay_must_check;
void scan_trouble_fini(struct scan_trouble *t);

/* Takes the path's memory when it keeps it. */
void scan_trouble_add(struct scan_trouble *t, struct inlay_buf *path, const struct inlay_error *e);
/* Nothing can go on. The first one stays. */
void scan_trouble_fatal(struct scan_trouble *t, const struct inlay_error *e);
/* 0 when there was none. */
int scan_trouble_result(const struct scan_trouble *t, struct inlay_error *err);

#endif
