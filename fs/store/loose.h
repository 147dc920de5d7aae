/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_LOOSE_H
#define INLAY_STORE_LOOSE_H

/*
 * Loose files: one large object each. The content comes first, so that its range of the file can be
 * cloned or copied by the kernel; an XXH3 for each chunk of it and a footer follow. A file gets its
 * name when it is whole, so none is ever half there by name. `dir` is the directory loose/.
 * Stateless; each writer belongs to one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"
#include "store/layout.h"

enum {
	LOOSE_NAME = INLAY_DIGEST_HEX + 1, /* "ba/7816bf..." */
	LOOSE_FANOUT = 256,
};

void loose_name(const struct inlay_digest *id, char ret[static LOOSE_NAME]);
void loose_fanout_name(unsigned fanout, char ret[static 3]);

enum { LOOSE_MISSING = 1 };

/* Opens with O_RDONLY or O_RDWR. Positive: MISSING. */
int loose_open(int dir, const struct inlay_digest *id, int flags, int *ret_fd,
	       struct inlay_error *err) inlay_must_check;

/* Checks footer and size of the file; *ret is what they say. -EBADMSG, -EPROTONOSUPPORT. */
int loose_look(int fd, struct place *ret, struct inlay_error *err) inlay_must_check;

/* Reads exactly len bytes of the content, off + len <= size. Every chunk touched is checked. */
int loose_read(int fd, uint64_t size, void *buf, size_t len, uint64_t off, struct inlay_error *err)
	inlay_must_check;

/*
 * Reads the whole file: footer and chunks, and with `digest` also that the content is what its name
 * says. *ret is what the footer says. seen(ctx, bytes) (may be NULL) is told what was read.
 */
struct loose_check_options {
	bool digest;
	void (*seen)(void *ctx, uint64_t bytes);
	void *ctx;
};
int loose_check(int fd, const struct inlay_digest *id, const struct loose_check_options *options,
		struct place *ret, struct inlay_error *err) inlay_must_check;

/* What stands below loose/: a file with an object's name, or (id NULL) one that begins with a dot,
 * a leftover. `name` is relative to loose/. */
typedef int loose_each_fn(void *ctx, const struct inlay_digest *id, const char *name,
			  struct inlay_error *err);

/* Calls fn for each, objects in the order of their digests; other names are passed over. Stops when
 * it gives a value other than 0 and returns that. */
int loose_each(int dir, loose_each_fn *fn, void *ctx, struct inlay_error *err) inlay_must_check;

/* ---- writing ---- */

struct loose_writer {
	int dir; /* borrowed */
	int fd;
	char temp[32];         /* the file's name in dir; "" while it has none (O_TMPFILE) */
	uint64_t written;      /* bytes of content */
	struct inlay_buf sums; /* of the whole chunks */
	uint8_t *chunk;        /* the one that is not whole yet */
	size_t chunk_len;
};

int loose_begin(int dir, struct loose_writer **ret, struct inlay_error *err) inlay_must_check;
int loose_write(struct loose_writer *w, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
/* Writes what stands behind the content; *place is the object. */
int loose_seal(struct loose_writer *w, const struct place *place, struct inlay_error *err)
	inlay_must_check;
/* Gives the file its name, in place of a file that has it. Its directory is there. */
int loose_link(struct loose_writer *w, const struct inlay_digest *id, struct inlay_error *err)
	inlay_must_check;
/* Removes what did not get its name. Accepts NULL. */
void loose_free(struct loose_writer *w);
INLAY_DEFINE_CLEANUP(struct loose_writer, loose_free)

#endif
