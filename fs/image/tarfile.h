/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_TARFILE_H
#define IMAGE_TARFILE_H

/*
 * tar by libarchive, which only parses: nothing but the tar format is enabled, decompression is done
 * before (feed.h), and no name is ever opened. Without setlocale() it runs in the C locale, where it
 * hands out names as the bytes that they are; that it cannot convert them is a warning, and the only
 * one that is not an error here: any other means that something of an entry was not understood.
 */

#include <archive.h>
#include <archive_entry.h>

#include "image/feed.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"

static inline void tarfile_free(struct archive *a)
{
	if (a)
		(void)archive_read_free(a);
}
INLAY_DEFINE_CLEANUP(struct archive, tarfile_free)

struct tarfile_input {
	struct feed *feed; /* read from this one, or from a range of a file */
	int fd;
	uint64_t at, end;
	uint8_t *buf;
	struct inlay_error err; /* of a callback */
};

void tarfile_input_fini(struct tarfile_input *in);
INLAY_DEFINE_FINI(struct tarfile_input, tarfile_input_fini)

/* `in` must stay where it is as long as the archive. */
int tarfile_open_feed(struct tarfile_input *in, struct feed *feed, struct archive **ret,
		      struct inlay_error *err) inlay_must_check;
/* What is skipped is not read. */
int tarfile_open_range(struct tarfile_input *in, int fd, uint64_t off, uint64_t size,
		       struct archive **ret, struct inlay_error *err) inlay_must_check;

enum { TARFILE_END = 1 };

/* Positive: END. The entry is borrowed until the next call. */
int tarfile_next(struct archive *a, const struct tarfile_input *in, struct archive_entry **ret,
		 struct inlay_error *err) inlay_must_check;
/* The next bytes of the entry's content and where they belong; END. */
int tarfile_data(struct archive *a, const struct tarfile_input *in, const void **ret_bytes,
		 size_t *ret_len, uint64_t *ret_off, struct inlay_error *err) inlay_must_check;

#endif
