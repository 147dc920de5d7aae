/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-image ARCHIVE: what reading a tar with libarchive and hashing its files costs, and nothing else:
 * the floor for an import. Prints seconds, bytes and entries.
 */
#include <archive.h>
#include <archive_entry.h>
#include <err.h>
#include <stdio.h>

#include "inlay/digest.h"
#include "inlay/io.h"

static uint64_t hash_content(struct archive *a)
{
	struct inlay_hasher h;
	struct inlay_digest d;
	const void *bytes;
	la_int64_t off;
	uint64_t total = 0;
	size_t len;

	inlay_hasher_init(&h);
	while (archive_read_data_block(a, &bytes, &len, &off) == ARCHIVE_OK) {
		inlay_hasher_add(&h, bytes, len);
		total += len;
	}
	inlay_hasher_end(&h, &d);
	return total;
}

int main(int argc, char **argv)
{
	int64_t start = inlay_monotonic_ns();
	struct archive *a = archive_read_new();
	struct archive_entry *e;
	uint64_t bytes = 0, entries = 0;
	int r;

	if (argc != 2)
		errx(2, "usage: bench-image ARCHIVE");
	if (!a || archive_read_support_format_tar(a) ||
	    archive_read_support_filter_all(a) < ARCHIVE_WARN ||
	    archive_read_open_filename(a, argv[1], 512 << 10))
		errx(1, "%s: %s", argv[1], a ? archive_error_string(a) : "out of memory");
	while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		entries++;
		if (archive_entry_filetype(e) == AE_IFREG)
			bytes += hash_content(a);
	}
	if (r != ARCHIVE_EOF)
		errx(1, "%s: %s", argv[1], archive_error_string(a));
	(void)archive_read_free(a);
	printf("%.3f %llu %llu\n", (double)(inlay_monotonic_ns() - start) / 1e9,
	       (unsigned long long)bytes, (unsigned long long)entries);
	return 0;
}
