/* SPDX-License-Identifier: Apache-2.0 */
#include "image/tarfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/io.h"

/* A multiple of tar's block, so that headers need not be copied together. */
enum { READ_BYTES = 64 << 10 };

void tarfile_input_fini(struct tarfile_input *in)
{
	free(in->buf);
	in->buf = NULL;
}

static la_ssize_t read_feed(struct archive *a, void *ctx, const void **ret_bytes)
{
	struct tarfile_input *in = ctx;
	size_t len;

	if (feed_next(in->feed, ret_bytes, &len, &in->err) < 0) {
		archive_set_error(a, EIO, "%s", in->err.text);
		return -1;
	}
	return (la_ssize_t)len;
}

static la_ssize_t read_range(struct archive *a, void *ctx, const void **ret_bytes)
{
	struct tarfile_input *in = ctx;
	uint64_t left = in->end - in->at;
	size_t n;

	if (inlay_pread_full(in->fd, in->buf, left < READ_BYTES ? (size_t)left : READ_BYTES, in->at,
			     &n, "an archive", &in->err) < 0) {
		archive_set_error(a, EIO, "%s", in->err.text);
		return -1;
	}
	in->at += n;
	*ret_bytes = in->buf;
	return (la_ssize_t)n;
}

static la_int64_t skip_range(struct archive *a, void *ctx, la_int64_t want)
{
	struct tarfile_input *in = ctx;
	uint64_t n = (uint64_t)want / READ_BYTES * READ_BYTES;

	(void)a;
	if (want < 0)
		return 0;
	if (n > in->end - in->at)
		n = in->end - in->at;
	in->at += n;
	return (la_int64_t)n;
}

static int open_with(struct tarfile_input *in, archive_read_callback *rd,
		     archive_skip_callback *skip, struct archive **ret, struct inlay_error *err)
{
	auto_of(tarfile_free) struct archive *a = archive_read_new();

	if (!a || archive_read_support_format_tar(a) != ARCHIVE_OK ||
	    archive_read_set_read_callback(a, rd) != ARCHIVE_OK ||
	    archive_read_set_skip_callback(a, skip) != ARCHIVE_OK ||
	    archive_read_set_callback_data(a, in) != ARCHIVE_OK)
		return inlay_error_set(err, -ENOMEM, "libarchive does not start");
	if (archive_read_open1(a) != ARCHIVE_OK) {
		if (in->err.code < 0)
			return inlay_error_set(err, in->err.code, "%s", in->err.text);
		return inlay_error_set(err, -EBADMSG, "not a tar archive");
	}
	*ret = take_ptr(a);
	return 0;
}

int tarfile_open_feed(struct tarfile_input *in, struct feed *feed, struct archive **ret,
		      struct inlay_error *err)
{
	*in = (struct tarfile_input){.feed = feed};
	return open_with(in, read_feed, NULL, ret, err);
}

int tarfile_open_range(struct tarfile_input *in, int fd, uint64_t off, uint64_t size,
		       struct archive **ret, struct inlay_error *err)
{
	*in = (struct tarfile_input){.fd = fd, .at = off, .end = off + size};
	in->buf = malloc(READ_BYTES);
	if (!in->buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	return open_with(in, read_range, skip_range, ret, err);
}

static int failed(struct archive *a, const struct tarfile_input *in, struct inlay_error *err)
{
	const char *why = archive_error_string(a);

	if (in->err.code < 0)
		return inlay_error_set(err, in->err.code, "%s", in->err.text);
	return inlay_error_set(err, archive_errno(a) == ENOMEM ? -ENOMEM : -EBADMSG, "%s",
			       why ? why : "a damaged tar archive");
}

/* A name outside ASCII is all that a locale may object to. */
static bool only_about_locale(struct archive *a)
{
	static const char end[] = "to current locale.";
	const char *why = archive_error_string(a);
	size_t len = why ? strlen(why) : 0;

	return len >= sizeof end - 1 && strcmp(why + len - (sizeof end - 1), end) == 0;
}

int tarfile_next(struct archive *a, const struct tarfile_input *in, struct archive_entry **ret,
		 struct inlay_error *err)
{
	int r = archive_read_next_header(a, ret);

	if (r == ARCHIVE_EOF)
		return TARFILE_END;
	if (r == ARCHIVE_OK || (r == ARCHIVE_WARN && only_about_locale(a)))
		return 0;
	return failed(a, in, err);
}

int tarfile_data(struct archive *a, const struct tarfile_input *in, const void **ret_bytes,
		 size_t *ret_len, uint64_t *ret_off, struct inlay_error *err)
{
	la_int64_t off;
	int r = archive_read_data_block(a, ret_bytes, ret_len, &off);

	if (r == ARCHIVE_EOF)
		return TARFILE_END;
	if (r != ARCHIVE_OK || off < 0)
		return failed(a, in, err);
	*ret_off = (uint64_t)off;
	return 0;
}
