/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_PACK_H
#define INLAY_STORE_PACK_H

/*
 * Pack files: their names, reading one record, walking over all of them. Stateless, any thread;
 * writing them is append.c's.
 */

#include <stddef.h>
#include <stdint.h>

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "store/layout.h"

enum { PACK_NAME = 16 }; /* "0000002a.pack" */

void pack_name(uint32_t number, char ret[static PACK_NAME]);

struct pack_list {
	size_t count;
	struct pack_file {
		uint32_t number;
		uint64_t bytes;
	} * files; /* by number */
};

/* The packs in the directory; other names are passed over. */
int pack_list(int dir, struct pack_list *ret, struct inlay_error *err) inlay_must_check;
void pack_list_fini(struct pack_list *l);
INLAY_DEFINE_FINI(struct pack_list, pack_list_fini)

enum { PACK_MISSING = 1 };

/* Opens with O_RDONLY or O_RDWR. PACK_MISSING; -EPROTONOSUPPORT when it was written by a newer
 * inlay. A damaged header is not looked at: each record has its own checksum. */
int pack_open(int dir, uint32_t number, int flags, int *ret_fd, struct inlay_error *err)
	inlay_must_check;

/* Checks that the record of *place starts at `bytes`; -EBADMSG when it does not. */
int pack_decode(const uint8_t *bytes, size_t len, const struct place *place, struct record *ret,
		struct inlay_error *err) inlay_must_check;
/* Reads the record of *place into buf, layout_record_bytes(place->size) bytes. -EBADMSG when it is
 * not there, whole and undamaged. */
int pack_read(int fd, const struct place *place, uint8_t *buf, struct record *ret,
	      struct inlay_error *err) inlay_must_check;

/* Goes over the records of a pack from `off` to `end`. */
struct pack_walk {
	int fd;       /* borrowed */
	uint64_t off; /* where the next record is expected */
	uint64_t end;
	uint8_t *window; /* owned: bytes of the file from window_off on */
	size_t window_len;
	uint64_t window_off;
};

enum {
	PACK_WALK_END = 1,
	PACK_WALK_BAD = 2,
};

int pack_walk_begin(int fd, uint64_t off, uint64_t end, struct pack_walk *ret,
		    struct inlay_error *err) inlay_must_check;
/*
 * 0: *ret is the record at *ret_off, borrowed until the next call. BAD: there is no good record
 * between *ret_off and w->off, where the next one or the end is.
 */
int pack_walk_next(struct pack_walk *w, struct record *ret, uint64_t *ret_off,
		   struct inlay_error *err) inlay_must_check;
void pack_walk_fini(struct pack_walk *w);
INLAY_DEFINE_FINI(struct pack_walk, pack_walk_fini)

#endif
