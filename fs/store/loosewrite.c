/* SPDX-License-Identifier: Apache-2.0 */
#include "store/loose.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/io.h"

/* Any free name that begins with a dot: loose_each() finds what a crash leaves behind. */
static int make_named(struct loose_writer *w, struct inlay_error *err)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		(void)snprintf(w->temp, sizeof w->temp, ".%llx.new",
			       (unsigned long long)inlay_monotonic_ns());
		w->fd = openat(w->dir, w->temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			       0600);
		if (w->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	int r = inlay_error_sys(err, -errno, "create a file in loose/");
	w->temp[0] = 0;
	return r;
}

static int make_file(struct loose_writer *w, struct inlay_error *err)
{
	w->fd = openat(w->dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (w->fd >= 0)
		return 0;
	/* What the kernel says when the filesystem, or the kernel itself, has no O_TMPFILE. */
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return inlay_error_sys(err, -errno, "create a file in loose/");
	return make_named(w, err);
}

int loose_begin(int dir, struct loose_writer **ret, struct inlay_error *err)
{
	auto_of(loose_free) struct loose_writer *w = calloc(1, sizeof *w);

	if (!w)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	w->dir = dir;
	w->fd = -1;
	w->chunk = malloc(INLAY_STORE_CHUNK);
	if (!w->chunk)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = make_file(w, err);
	if (r < 0)
		return r;
	*ret = take_ptr(w);
	return 0;
}

/* Writes bytes that are whole chunks, or the last one. */
static int write_chunks(struct loose_writer *w, const uint8_t *bytes, size_t len,
			struct inlay_error *err)
{
	int r = inlay_pwrite_all(w->fd, bytes, len, w->written, "a loose file", err);

	if (r < 0)
		return r;
	w->written += len;
	for (size_t off = 0; off < len; off += INLAY_STORE_CHUNK) {
		size_t n = len - off < INLAY_STORE_CHUNK ? len - off : INLAY_STORE_CHUNK;
		inlay_buf_u64(&w->sums, inlay_xxh3(bytes + off, n));
	}
	return inlay_buf_check(&w->sums, err);
}

int loose_write(struct loose_writer *w, const void *bytes, size_t len, struct inlay_error *err)
{
	const uint8_t *at = bytes;
	int r = 0;

	if (w->chunk_len > 0) {
		size_t room = INLAY_STORE_CHUNK - w->chunk_len;
		size_t n = len < room ? len : room;
		memcpy(w->chunk + w->chunk_len, at, n);
		w->chunk_len += n;
		at += n;
		len -= n;
		if (w->chunk_len < INLAY_STORE_CHUNK)
			return 0;
		r = write_chunks(w, w->chunk, w->chunk_len, err);
		w->chunk_len = 0;
	}
	size_t whole = len - len % INLAY_STORE_CHUNK;
	if (r == 0 && whole > 0)
		r = write_chunks(w, at, whole, err);
	if (r < 0)
		return r;
	if (len > whole)
		memcpy(w->chunk, at + whole, len - whole);
	w->chunk_len = len - whole;
	return 0;
}

int loose_seal(struct loose_writer *w, const struct place *place, struct inlay_error *err)
{
	int r = w->chunk_len > 0 ? write_chunks(w, w->chunk, w->chunk_len, err) : 0;

	if (r < 0)
		return r;
	uint8_t *footer = inlay_buf_reserve(&w->sums, LOOSE_FOOTER_BYTES);
	if (!footer)
		return inlay_buf_check(&w->sums, err);
	layout_loose_encode(place, footer);
	w->sums.len += LOOSE_FOOTER_BYTES;
	return inlay_pwrite_all(w->fd, w->sums.data, w->sums.len, w->written, "a loose file", err);
}

/* Gives the nameless file a name that is free; -errno. */
static int link_nameless(const struct loose_writer *w, const char *name)
{
	char self[40];

	(void)snprintf(self, sizeof self, "/proc/self/fd/%d", w->fd);
	if (linkat(AT_FDCWD, self, w->dir, name, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	/* Without /proc. The kernel wants a capability for it, or 6.10. */
	if (errno == ENOENT && linkat(w->fd, "", w->dir, name, AT_EMPTY_PATH) == 0)
		return 0;
	return -errno;
}

/* Gives the file a name that begins with a dot, so that it can be renamed. */
static int link_aside(struct loose_writer *w)
{
	(void)snprintf(w->temp, sizeof w->temp, ".%llx.new",
		       (unsigned long long)inlay_monotonic_ns());
	int r = link_nameless(w, w->temp);
	if (r < 0)
		w->temp[0] = 0;
	return r;
}

/* The name is taken: by a leftover, or by the file of an object that was dropped as damaged. That
 * file may be a good one on the disk, so ours has to be there before it goes over it. */
static int link_over(struct loose_writer *w, const char *name)
{
	int r = w->temp[0] ? 0 : link_aside(w);

	if (r < 0)
		return r;
	if (fdatasync(w->fd) < 0 || renameat(w->dir, w->temp, w->dir, name) < 0)
		return -errno;
	w->temp[0] = 0;
	return 0;
}

static int link_free(struct loose_writer *w, const char *name)
{
	if (!w->temp[0])
		return link_nameless(w, name);
	if (renameat2(w->dir, w->temp, w->dir, name, RENAME_NOREPLACE) < 0)
		return -errno;
	w->temp[0] = 0;
	return 0;
}

int loose_link(struct loose_writer *w, const struct inlay_digest *id, struct inlay_error *err)
{
	char name[LOOSE_NAME];

	loose_name(id, name);
	int r = link_free(w, name);
	/* EINVAL: a filesystem that cannot tell whether a name is free. */
	if (r == -EEXIST || (r == -EINVAL && w->temp[0]))
		r = link_over(w, name);
	return r < 0 ? inlay_error_sys(err, r, "link loose/%s", name) : 0;
}

void loose_free(struct loose_writer *w)
{
	if (!w)
		return;
	inlay_cleanup_close(&w->fd);
	if (w->temp[0])
		(void)unlinkat(w->dir, w->temp, 0);
	inlay_buf_fini(&w->sums);
	free(w->chunk);
	free(w);
}
