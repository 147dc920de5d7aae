/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "store/dirnames.h"

enum { WINDOW_BYTES = 1 << 20 };
static_assert((int)WINDOW_BYTES > (int)RECORD_BYTES_MAX, "a record fits into the window");

void pack_name(uint32_t number, char ret[static PACK_NAME])
{
	(void)snprintf(ret, PACK_NAME, "%08x.pack", number);
}

static bool number_of(const char *name, uint32_t *ret)
{
	char same[PACK_NAME];
	char *end;

	unsigned long number = strtoul(name, &end, 16);
	if (number == 0 || number > UINT32_MAX)
		return false;
	/* Only the one spelling that pack_name() gives. */
	pack_name((uint32_t)number, same);
	*ret = (uint32_t)number;
	return strcmp(name, same) == 0;
}

static int by_number(const void *a, const void *b)
{
	const struct pack_file *x = a, *y = b;

	return (x->number > y->number) - (x->number < y->number);
}

int pack_list(int dir, struct pack_list *ret, struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	auto_of(pack_list_fini) struct pack_list l = {0};

	int r = dirnames_read(dir, ".", &d, err);
	if (r < 0)
		return r;
	l.files = calloc(d.count + 1, sizeof *l.files);
	if (!l.files)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < d.count; i++) {
		struct stat st;
		uint32_t number;
		if (!number_of(d.names[i], &number))
			continue;
		if (fstatat(dir, d.names[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT) /* gc was faster */
				continue;
			return inlay_error_sys(err, -errno, "look at pack %s", d.names[i]);
		}
		if (S_ISREG(st.st_mode))
			l.files[l.count++] = (struct pack_file){number, (uint64_t)st.st_size};
	}
	qsort(l.files, l.count, sizeof *l.files, by_number);
	*ret = l;
	l.files = NULL;
	return 0;
}

void pack_list_fini(struct pack_list *l)
{
	free(l->files);
	*l = (struct pack_list){0};
}

int pack_open(int dir, uint32_t number, int flags, int *ret_fd, struct inlay_error *err)
{
	uint8_t header[PACK_HEADER_BYTES];
	char name[PACK_NAME];
	size_t n;

	pack_name(number, name);
	auto_close int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT)
			return PACK_MISSING;
		return inlay_error_sys(err, -errno, "open pack %s", name);
	}
	int r = inlay_pread_full(fd, header, sizeof header, 0, &n, name, err);
	if (r < 0)
		return r;
	/* Without a text: damage is not reported here. */
	if (n == sizeof header && layout_pack_check(header, number, name, NULL) == -EPROTONOSUPPORT)
		return layout_pack_check(header, number, name, err);
	*ret_fd = take_fd(fd);
	return 0;
}

int pack_decode(const uint8_t *bytes, size_t len, const struct place *place, struct record *ret,
		struct inlay_error *err)
{
	if (!layout_record_decode(bytes, len, ret) || ret->kind != RECORD_OBJECT ||
	    ret->size != place->size || !inlay_digest_equal(&ret->id, &place->id))
		return inlay_error_set(err, -EBADMSG, "its record in pack %08x at %llu is damaged",
				       place->pack, (unsigned long long)place->off);
	return 0;
}

int pack_read(int fd, const struct place *place, uint8_t *buf, struct record *ret,
	      struct inlay_error *err)
{
	size_t bytes = layout_record_bytes((size_t)place->size), n;
	int r = inlay_pread_full(fd, buf, bytes, place->off, &n, "a pack", err);

	return r < 0 ? r : pack_decode(buf, n, place, ret, err);
}

int pack_walk_begin(int fd, uint64_t off, uint64_t end, struct pack_walk *ret,
		    struct inlay_error *err)
{
	uint8_t *window = malloc(WINDOW_BYTES);

	if (!window)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*ret = (struct pack_walk){
		.fd = fd, .off = off, .end = end, .window = window, .window_off = off};
	return 0;
}

void pack_walk_fini(struct pack_walk *w)
{
	free(w->window);
	*w = (struct pack_walk){0};
}

/* Gives the bytes at w->off: at least `need` of them, fewer only before the end. */
static int look(struct pack_walk *w, size_t need, const uint8_t **ret_at, size_t *ret_len,
		struct inlay_error *err)
{
	uint64_t window_end = w->window_off + w->window_len;

	if (w->off + need > window_end && window_end < w->end) {
		uint64_t left = w->end - w->off;
		size_t want = left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES;
		size_t n;
		int r = inlay_pread_full(w->fd, w->window, want, w->off, &n, "a pack", err);
		if (r < 0)
			return r;
		w->window_off = w->off;
		w->window_len = n;
		if (n < want)
			w->end = w->off + n; /* it has become shorter */
		window_end = w->off + n;
	}
	*ret_at = w->window + (w->off - w->window_off);
	*ret_len = (size_t)(window_end - w->off);
	return 0;
}

/* Moves on from a place where no good record is, to the next one or to the end. */
static int resync(struct pack_walk *w, struct record *ret, struct inlay_error *err)
{
	const uint8_t *at;
	size_t len;

	for (;;) {
		w->off += LAYOUT_ALIGN;
		if (w->off + RECORD_HEADER_BYTES > w->end)
			break;
		int r = look(w, RECORD_HEADER_BYTES, &at, &len, err);
		if (r < 0)
			return r;
		if (len < RECORD_HEADER_BYTES)
			break;
		if (!layout_record_likely(at))
			continue;
		r = look(w, RECORD_BYTES_MAX, &at, &len, err);
		if (r < 0)
			return r;
		if (layout_record_decode(at, len, ret))
			return 0;
	}
	w->off = w->end;
	return 0;
}

int pack_walk_next(struct pack_walk *w, struct record *ret, uint64_t *ret_off,
		   struct inlay_error *err)
{
	const uint8_t *at;
	size_t len;

	if (w->off >= w->end)
		return PACK_WALK_END;
	int r = look(w, RECORD_BYTES_MAX, &at, &len, err);
	if (r < 0)
		return r;
	*ret_off = w->off;
	if (w->off >= w->end)
		return PACK_WALK_END;
	if (layout_record_decode(at, len, ret)) {
		w->off += layout_record_bytes(ret->size);
		return 0;
	}
	r = resync(w, ret, err);
	return r < 0 ? r : PACK_WALK_BAD;
}
