/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_SHELF_H
#define IMAGE_SHELF_H

/*
 * The files of an image archive by name: members of a tar, or files of an OCI layout directory. Of a
 * tar only places are kept, since its members may stand in any order; one that is packed is unpacked
 * into an unnamed file first.
 */

#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"

struct shelf;

enum {
	SHELF_PLAIN = 1,   /* not an image archive but a tar of its own */
	SHELF_MISSING = 2, /* no such member */
};

/* Positive: PLAIN; then shelf_whole() gives the file. `spool` is where an unnamed file can be made. */
int shelf_open(const char *path, const char *spool, struct shelf **ret, struct inlay_error *err)
	inlay_must_check;
void shelf_close(struct shelf *s); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct shelf, shelf_close)

struct blob {
	int fd; /* the shelf's, or of its own: blob_fini */
	bool owned;
	uint64_t off, size;
};
void blob_fini(struct blob *b);
INLAY_DEFINE_FINI(struct blob, blob_fini)

void shelf_whole(const struct shelf *s, struct blob *ret);
/* Positive: MISSING. */
int shelf_find(struct shelf *s, const char *name, struct blob *ret, struct inlay_error *err)
	inlay_must_check;
/* Appends a member that has at most `max` bytes. Positive: MISSING. */
int shelf_read(struct shelf *s, const char *name, uint64_t max, struct inlay_buf *b,
	       struct inlay_error *err) inlay_must_check;

#endif
