/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "inlay/io.h"
#include "session/source.h"

#define ACKED_MAGIC "iACK"

enum { ACKED_VERSION = 1, ACKED_FILE_MAX = 16 << 10 };

static void name_of(const char *source, const char *target, char ret[static 17])
{
	struct inlay_hasher h;
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	inlay_hasher_init(&h);
	inlay_hasher_add(&h, source, strlen(source) + 1);
	inlay_hasher_add(&h, target, strlen(target));
	inlay_hasher_end(&h, &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, 17, "%.16s", hex);
}

static int parse(const struct inlay_buf *b, struct acked *a)
{
	struct inlay_cursor c = inlay_cursor_of(b->data, b->len);
	const uint8_t *magic = inlay_cursor_bytes(&c, 4);
	uint8_t version = inlay_cursor_u8(&c);
	const uint8_t *tree = inlay_cursor_bytes(&c, INLAY_DIGEST_BYTES);

	if (!tree || memcmp(magic, ACKED_MAGIC, 4) != 0 || version != ACKED_VERSION)
		return ACKED_NONE;
	memcpy(a->root.tree.b, tree, INLAY_DIGEST_BYTES);
	a->root.mode = inlay_cursor_u32(&c);
	a->root.mtime_ns = (int64_t)inlay_cursor_u64(&c);
	a->generation = inlay_cursor_u64(&c);
	a->time_ns = (int64_t)inlay_cursor_u64(&c);
	a->visible_ns = (int64_t)inlay_cursor_u64(&c);
	a->sent_bytes = inlay_cursor_u64(&c);
	inlay_cursor_cstring(&c, a->source, sizeof a->source);
	inlay_cursor_cstring(&c, a->target, sizeof a->target);
	uint64_t sum = inlay_cursor_u64(&c);
	return inlay_cursor_done(&c) && sum == inlay_xxh3(b->data, b->len - 8) ? 0 : ACKED_NONE;
}

static int read_one(int targets_fd, const char *name, struct acked *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(targets_fd, name, ACKED_FILE_MAX, &b, err);

	if (r == INLAY_IO_MISSING || r == -E2BIG)
		return ACKED_NONE;
	return r < 0 ? r : parse(&b, ret);
}

int acked_read(int targets_fd, const char *source, const char *target, struct acked *ret,
	       struct inlay_error *err)
{
	char name[17];

	name_of(source, target, name);
	return read_one(targets_fd, name, ret, err);
}

int acked_write(int targets_fd, const struct acked *a, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	char name[17];

	name_of(a->source, a->target, name);
	inlay_buf_add(&b, ACKED_MAGIC, 4);
	inlay_buf_u8(&b, ACKED_VERSION);
	inlay_buf_add(&b, a->root.tree.b, INLAY_DIGEST_BYTES);
	inlay_buf_u32(&b, a->root.mode);
	inlay_buf_u64(&b, (uint64_t)a->root.mtime_ns);
	inlay_buf_u64(&b, a->generation);
	inlay_buf_u64(&b, (uint64_t)a->time_ns);
	inlay_buf_u64(&b, (uint64_t)a->visible_ns);
	inlay_buf_u64(&b, a->sent_bytes);
	inlay_buf_string(&b, a->source, strlen(a->source));
	inlay_buf_string(&b, a->target, strlen(a->target));
	inlay_buf_u64(&b, inlay_xxh3(b.data, b.len));
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : inlay_replace_file(targets_fd, name, b.data, b.len, 0600, 0, err);
}

int acked_each(const char *state,
	       int (*fn)(void *ctx, const struct acked *a, struct inlay_error *err), void *ctx,
	       struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct dirent *d;
	int r = 0;

	inlay_buf_printf(&path, "%s/targets", state);
	DIR *dir = opendir(inlay_buf_cstr(&path));
	if (!dir)
		return errno == ENOENT ? 0 : inlay_error_sys(err, -errno, "list %s/targets", state);
	while (r == 0 && (d = readdir(dir))) {
		struct acked a = {0};
		if (strlen(d->d_name) != 16 || read_one(dirfd(dir), d->d_name, &a, NULL) != 0)
			continue;
		r = fn(ctx, &a, err);
	}
	(void)closedir(dir);
	return r;
}
