/* SPDX-License-Identifier: Apache-2.0 */
#include "store/loose.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/dirnames.h"

enum {
	BATCH_CHUNKS = 64,     /* checksums that are read at a time */
	CHECK_BYTES = 1 << 20, /* how loose_check() reads */
};

void loose_fanout_name(unsigned fanout, char ret[static 3])
{
	(void)snprintf(ret, 3, "%02x", fanout & 0xff);
}

void loose_name(const struct inlay_digest *id, char ret[static LOOSE_NAME])
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(id, hex);
	memcpy(ret, hex, 2);
	ret[2] = '/';
	memcpy(ret + 3, hex + 2, sizeof hex - 2);
}

int loose_open(int dir, const struct inlay_digest *id, int flags, int *ret_fd,
	       struct inlay_error *err)
{
	char name[LOOSE_NAME];

	loose_name(id, name);
	int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT)
			return LOOSE_MISSING;
		return inlay_error_sys(err, -errno, "open loose/%s", name);
	}
	*ret_fd = fd;
	return 0;
}

int loose_look(int fd, struct place *ret, struct inlay_error *err)
{
	uint8_t footer[LOOSE_FOOTER_BYTES];
	struct place place;
	struct stat st;
	size_t n;

	if (fstat(fd, &st) < 0)
		return inlay_error_sys(err, -errno, "look at its file");
	uint64_t bytes = (uint64_t)st.st_size;
	if (!S_ISREG(st.st_mode) || bytes < sizeof footer)
		return inlay_error_set(err, -EBADMSG, "its file is too short");
	int r = inlay_pread_full(fd, footer, sizeof footer, bytes - sizeof footer, &n, "its footer",
				 err);
	if (r < 0)
		return r;
	if (n < sizeof footer)
		return inlay_error_set(err, -EBADMSG, "its file is too short");
	r = layout_loose_check(footer, &place, err);
	if (r < 0)
		return r;
	if (bytes != layout_loose_bytes(place.size))
		return inlay_error_set(err, -EBADMSG, "its file has %llu bytes instead of %llu",
				       (unsigned long long)bytes,
				       (unsigned long long)layout_loose_bytes(place.size));
	*ret = place;
	return 0;
}

/* Exactly len bytes, or it is damaged. */
static int read_exactly(int fd, void *buf, size_t len, uint64_t off, struct inlay_error *err)
{
	size_t n;
	int r = inlay_pread_full(fd, buf, len, off, &n, "its file", err);

	if (r == 0 && n < len)
		return inlay_error_set(err, -EBADMSG, "its file is too short");
	return r;
}

static size_t chunk_bytes(uint64_t size, uint64_t chunk)
{
	uint64_t left = size - chunk * INLAY_STORE_CHUNK;

	return left < INLAY_STORE_CHUNK ? (size_t)left : INLAY_STORE_CHUNK;
}

/* Reads `count` whole chunks from `first` on straight into buf. *ret_n is their size. */
static int read_chunks(int fd, uint64_t size, uint64_t first, size_t count, uint8_t *buf,
		       size_t *ret_n, struct inlay_error *err)
{
	uint8_t sums[BATCH_CHUNKS * sizeof(uint64_t)];
	size_t n = (count - 1) * INLAY_STORE_CHUNK + chunk_bytes(size, first + count - 1);

	int r = read_exactly(fd, sums, count * sizeof(uint64_t), size + first * sizeof(uint64_t),
			     err);
	if (r == 0)
		r = read_exactly(fd, buf, n, first * INLAY_STORE_CHUNK, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		uint64_t sum =
			inlay_xxh3(buf + i * INLAY_STORE_CHUNK, chunk_bytes(size, first + i));
		if (sum != inlay_get_le64(sums + i * sizeof(uint64_t)))
			return inlay_error_set(err, -EBADMSG, "its bytes from %llu on are damaged",
					       (unsigned long long)(first + i) * INLAY_STORE_CHUNK);
	}
	*ret_n = n;
	return 0;
}

/* Reads the part of one chunk that starts at `off`, at most len bytes. */
static int read_part(int fd, uint64_t size, uint64_t off, uint8_t *buf, size_t len, size_t *ret_n,
		     struct inlay_error *err)
{
	auto_free uint8_t *chunk = malloc(INLAY_STORE_CHUNK);
	size_t skip = (size_t)(off % INLAY_STORE_CHUNK), have;

	if (!chunk)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = read_chunks(fd, size, off / INLAY_STORE_CHUNK, 1, chunk, &have, err);
	if (r < 0)
		return r;
	*ret_n = have - skip < len ? have - skip : len;
	memcpy(buf, chunk + skip, *ret_n);
	return 0;
}

int loose_read(int fd, uint64_t size, void *buf, size_t len, uint64_t off, struct inlay_error *err)
{
	uint8_t *at = buf;

	while (len > 0) {
		uint64_t first = off / INLAY_STORE_CHUNK;
		size_t n, count = 0, whole = 0;
		int r;
		/* Whole chunks need no copy. */
		if (off % INLAY_STORE_CHUNK == 0)
			while (count < BATCH_CHUNKS && whole < len &&
			       chunk_bytes(size, first + count) <= len - whole)
				whole += chunk_bytes(size, first + count++);
		if (count > 0)
			r = read_chunks(fd, size, first, count, at, &n, err);
		else
			r = read_part(fd, size, off, at, len, &n, err);
		if (r < 0)
			return r;
		at += n;
		off += n;
		len -= n;
	}
	return 0;
}

int loose_check(int fd, const struct inlay_digest *id, const struct loose_check_options *options,
		struct place *ret, struct inlay_error *err)
{
	auto_free uint8_t *buf = malloc(CHECK_BYTES);
	struct inlay_hasher hasher;
	struct inlay_digest digest;
	struct place place;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = loose_look(fd, &place, err);
	if (r < 0)
		return r;
	if (!inlay_digest_equal(&place.id, id))
		return inlay_error_set(err, -EBADMSG, "its file is that of another object");
	inlay_hasher_init(&hasher);
	for (uint64_t off = 0; off < place.size;) {
		uint64_t left = place.size - off;
		size_t n = left < CHECK_BYTES ? (size_t)left : CHECK_BYTES;
		r = loose_read(fd, place.size, buf, n, off, err);
		if (r < 0)
			return r;
		if (options->digest)
			inlay_hasher_add(&hasher, buf, n);
		if (options->seen)
			options->seen(options->ctx, n);
		off += n;
	}
	if (options->digest) {
		inlay_hasher_end(&hasher, &digest);
		if (!inlay_digest_equal(&digest, id))
			return inlay_error_set(err, -EBADMSG,
					       "its bytes are not what its name says");
	}
	*ret = place;
	return 0;
}

/* ---- walking ---- */

static int each_in(int dir, const char *fanout, loose_each_fn *fn, void *ctx,
		   struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	char path[3 + NAME_MAX + 1], hex[INLAY_DIGEST_HEX + 1], same[LOOSE_NAME];
	struct inlay_digest id;

	int r = dirnames_read(dir, fanout, &d, err);
	for (size_t i = 0; r == 0 && i < d.count; i++) {
		(void)snprintf(path, sizeof path, "%.2s/%.255s", fanout, d.names[i]);
		if (d.names[i][0] == '.') {
			r = fn(ctx, NULL, path, err);
			continue;
		}
		(void)snprintf(hex, sizeof hex, "%.2s%.63s", fanout, d.names[i]);
		if (!inlay_digest_from_hex(hex, &id))
			continue;
		loose_name(&id, same);
		if (strcmp(path, same) == 0)
			r = fn(ctx, &id, path, err);
	}
	return r;
}

int loose_each(int dir, loose_each_fn *fn, void *ctx, struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	int r = dirnames_read(dir, ".", &d, err);

	for (size_t i = 0; r == 0 && i < d.count; i++) {
		if (d.names[i][0] == '.')
			r = fn(ctx, NULL, d.names[i], err);
		else if (strlen(d.names[i]) == 2)
			r = each_in(dir, d.names[i], fn, ctx, err);
	}
	return r;
}
