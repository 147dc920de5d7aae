/* SPDX-License-Identifier: Apache-2.0 */
/* An object's bytes into a file of somebody else's: cloned where the filesystem can, else copied. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/loose.h"
#include "store/state.h"

enum { PIECE = 1 << 20 };

/* False: it has to be copied. The clone shares the bytes with the loose file, which are checked before. */
static bool clone_whole(struct inlay_store *store, const struct inlay_digest *id, uint64_t size,
			int fd)
{
	static const struct loose_check_options quick;
	auto_close int from = -1;
	struct place place;

	if (size < INLAY_STORE_LOOSE_MIN ||
	    loose_open(store->loose, id, O_RDONLY, &from, NULL) != 0)
		return false;
	/* First, since where it cannot be done it costs nothing. */
	if (ioctl(fd, FICLONE, from) < 0)
		return false;
	if (loose_check(from, id, &quick, &place, NULL) == 0 && place.size >= size &&
	    ftruncate(fd, (off_t)size) == 0)
		return true;
	(void)!ftruncate(fd, 0);
	return false;
}

int inlay_store_copy_out(struct inlay_store *store, const struct inlay_digest *id, uint64_t len,
			 int fd, struct inlay_error *err)
{
	if (clone_whole(store, id, len, fd))
		return 0;
	auto_free uint8_t *buf = malloc(len < PIECE ? (size_t)len + 1 : PIECE);
	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (uint64_t off = 0; off < len;) {
		size_t n, want = len - off < PIECE ? (size_t)(len - off) : PIECE;
		int r = inlay_store_pread(store, id, buf, want, off, &n, err);
		if (r == 0 && n == 0)
			r = inlay_error_set(err, -EBADMSG, "an object is shorter than it says");
		if (r == 0)
			r = inlay_pwrite_all(fd, buf, n, off, "a copy", err);
		if (r != 0)
			return r;
		off += n;
	}
	return 0;
}
