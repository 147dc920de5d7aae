/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_CONTROL_H
#define MOUNT_CONTROL_H

/*
 * The control directory: `.inlay` at the root of a mount, found by name and never listed, so that the
 * mounted tree equals the source. Its files are made when they are looked up, hold what was true then, and
 * never change: each open by path gives a new one.
 *
 *     .inlay/status      one "key: value" a line
 *     .inlay/generation  "<number> <root id>", with a ~ behind the number while it is not durable
 *     .inlay/changes     the last change set: "+", "-" or "M", a space, the path (escaped), one a line
 *
 * Thread-safe.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inlay/error.h"
#include "mount/view.h"

struct control;

struct control_options {
	struct view *view;
	struct inlay_trees *trees; /* for `changes` */
	uint32_t uid, gid;
	/* Appends the lines of `status`. */
	void (*status)(void *ctx, struct inlay_buf *b);
	void *ctx;
};

int control_new(const struct control_options *options, struct control **ret,
		struct inlay_error *err) inlay_must_check;
void control_free(struct control *c); /* accepts NULL */

#define CONTROL_NAME ".inlay"

/* True for the numbers of .inlay and its files. */
static inline bool control_owns(uint64_t number)
{
	return number >> 63;
}

/* The directory itself; takes a reference, as the others do. */
void control_root(struct control *c, struct view_entry *ret);
int control_lookup(struct control *c, uint64_t dir, const char *name, struct view_entry *ret,
		   struct inlay_error *err) inlay_must_check;
void control_forget(struct control *c, uint64_t number, uint64_t count);
int control_getattr(struct control *c, uint64_t number, struct stat *ret, struct inlay_error *err)
	inlay_must_check;
int control_read(struct control *c, uint64_t number, void *buf, size_t len, uint64_t off,
		 size_t *ret_n, struct inlay_error *err) inlay_must_check;
/* Name of entry i of the directory, NULL at the end. */
const char *control_name(unsigned i);

/* Tells which root was shown before the one that is shown now. */
void control_switched(struct control *c, const struct inlay_digest *before);
/* Tells how far the workspace is durable. */
void control_durable(struct control *c, uint64_t number);

#endif
