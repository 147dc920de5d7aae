/* SPDX-License-Identifier: Apache-2.0 */
#include "image/shelf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "image/feed.h"
#include "image/tarfile.h"
#include "inlay/io.h"
#include "inlay/limits.h"

enum { TAR_BLOCK = 512, ALIASES_MAX = 8 };

struct member {
	char *name;
	char *target; /* another member instead of content; NULL = none */
	uint64_t off, size;
};

struct shelf {
	int fd;        /* the archive, what it was unpacked to, or a directory */
	uint64_t size; /* of the file */
	bool is_dir;
	struct member *members;
	size_t count, cap;
};

void shelf_close(struct shelf *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->count; i++) {
		free(s->members[i].name);
		free(s->members[i].target);
	}
	free(s->members);
	inlay_cleanup_close(&s->fd);
	free(s);
}

void blob_fini(struct blob *b)
{
	if (b->owned)
		inlay_cleanup_close(&b->fd);
	*b = (struct blob){.fd = -1};
}

/* ---- names ---- */

/* Without "./", "//" and ".": the one form in which members are compared. Resolves ".." when `links`
 * (targets of symlinks), and never above the top. False: no name can come of it. */
static bool normal_form(const char *path, size_t len, bool links, struct inlay_buf *b)
{
	const char *end = path + len;

	while (path < end) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);
		if (n == 2 && path[0] == '.' && path[1] == '.') {
			if (!links || b->len == 0)
				return false;
			const uint8_t *up = memrchr(b->data, '/', b->len);
			b->len = up ? (size_t)(up - b->data) : 0;
		} else if (n > 0 && !(n == 1 && path[0] == '.')) {
			if (b->len > 0)
				inlay_buf_u8(b, '/');
			inlay_buf_add(b, path, n);
		}
		path += n + 1;
	}
	return true;
}

static bool all_hex(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
			return false;
	return len > 0;
}

/* Could an image archive have a member of that name? A root filesystem shows with its first names
 * that it is none. */
static bool is_image_member(const char *name)
{
	size_t hex = strspn(name, "0123456789abcdef");
	const char *rest = name + hex;

	if (!*name || strcmp(name, "oci-layout") == 0 || strcmp(name, "index.json") == 0 ||
	    strcmp(name, "manifest.json") == 0 || strcmp(name, "repositories") == 0 ||
	    strcmp(name, "blobs") == 0 || strcmp(name, "blobs/sha256") == 0)
		return true;
	if (strncmp(name, "blobs/sha256/", 13) == 0)
		return all_hex(name + 13, strlen(name + 13));
	return hex == 64 && (!*rest || strcmp(rest, ".json") == 0 || strcmp(rest, ".tar") == 0 ||
			     strcmp(rest, "/json") == 0 || strcmp(rest, "/layer.tar") == 0 ||
			     strcmp(rest, "/VERSION") == 0);
}

static bool tells_kind(const char *name)
{
	return strcmp(name, "oci-layout") == 0 || strcmp(name, "manifest.json") == 0;
}

/* ---- the members of a tar ---- */

static int add_member(struct shelf *s, char *name, char *target, uint64_t size,
		      struct inlay_error *err)
{
	if (s->count >= INLAY_ARCHIVE_MEMBERS_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d files in the archive",
				       INLAY_ARCHIVE_MEMBERS_MAX);
	if (s->count == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		struct member *grown = reallocarray(s->members, cap, sizeof *grown);
		if (!grown)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		s->members = grown;
		s->cap = cap;
	}
	s->members[s->count++] = (struct member){.name = name, .target = target, .size = size};
	return 0;
}

static struct member *find_member(struct shelf *s, const char *name)
{
	for (size_t i = 0; i < s->count; i++)
		if (strcmp(s->members[i].name, name) == 0)
			return &s->members[i];
	return NULL;
}

struct scan {
	struct shelf *s;
	struct archive *a;
	struct archive_entry *e;
	struct member *last; /* whose place is known when the next header is */
	bool kind_known;
};

/* The content ends, filled up to a block, where the next header begins. That holds whatever extended
 * headers stand before it. */
static int place_last(struct scan *c, uint64_t size, struct inlay_error *err)
{
	uint64_t next = (uint64_t)archive_read_header_position(c->a);
	struct member *m = c->s->count > 0 ? &c->s->members[c->s->count - 1] : NULL;

	if (!m || m->off > 0 || m->target)
		return 0;
	uint64_t room = (m->size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
	if (room > next || next > size)
		return inlay_error_set(err, -EBADMSG, "the file '%s' is cut off", m->name);
	m->off = next - room;
	return 0;
}

/* A link inside the archive as the name of a member. */
static int link_target(const char *name, const char *to, bool hard, char **ret,
		       struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	const char *dir_end = strrchr(name, '/');
	size_t dir_len = dir_end && !hard ? (size_t)(dir_end - name) : 0;

	if (to[0] == '/' || !normal_form(name, dir_len, false, &b) ||
	    !normal_form(to, strlen(to), true, &b))
		return inlay_error_set(err, -EINVAL, "the file '%s' is a link out of the archive",
				       name);
	*ret = strdup(inlay_buf_cstr(&b));
	return *ret ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

static int take_member(struct scan *c, const char *name, struct inlay_error *err)
{
	const char *hard = archive_entry_hardlink(c->e), *soft = archive_entry_symlink(c->e);
	auto_free char *target = NULL, *copy = strdup(name);
	unsigned type = archive_entry_filetype(c->e);
	int r = 0;

	if (!copy)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (type == AE_IFDIR)
		return 0;
	if (find_member(c->s, name))
		return inlay_error_set(err, -EINVAL, "the file '%s' is there twice", name);
	if (hard || type == AE_IFLNK)
		r = link_target(name, hard ? hard : soft ? soft : "/", hard != NULL, &target, err);
	else if (type != AE_IFREG || archive_entry_sparse_count(c->e) > 0)
		r = inlay_error_set(err, -EINVAL, "'%s' is not a plain file", name);
	if (r == 0)
		r = add_member(c->s, copy, target, (uint64_t)archive_entry_size(c->e), err);
	if (r == 0) {
		copy = target = NULL;
		c->kind_known |= tells_kind(name);
	}
	return r;
}

/* All members; positive: PLAIN as soon as one shows that it is no image archive. `stop` ends when it is
 * known to be one: enough to decide whether to unpack it. */
static int list_members(struct scan *c, const struct tarfile_input *in, uint64_t size, bool stop,
			struct inlay_error *err)
{
	int r;

	while ((r = tarfile_next(c->a, in, &c->e, err)) == 0) {
		auto_buf struct inlay_buf b = {0};
		const char *path = archive_entry_pathname(c->e);
		r = size ? place_last(c, size, err) : 0;
		if (r < 0)
			return r;
		if (!path || path[0] == '/' || !normal_form(path, strlen(path), false, &b) ||
		    !is_image_member(inlay_buf_cstr(&b)))
			return SHELF_PLAIN;
		r = take_member(c, inlay_buf_cstr(&b), err);
		if (r < 0 || (stop && c->kind_known))
			return r;
	}
	if (r < 0)
		/* Whatever it is, it is told by the one who reads it as a layer. */
		return c->kind_known ? r : SHELF_PLAIN;
	r = size ? place_last(c, size, err) : 0;
	return r < 0 ? r : c->kind_known ? 0 : SHELF_PLAIN;
}

static int scan_tar(struct shelf *s, struct feed *feed, struct inlay_error *err)
{
	auto_of(tarfile_free) struct archive *a = NULL;
	__attribute__((cleanup(inlay_cleanup_tarfile_input_fini))) struct tarfile_input in = {0};
	int r = feed ? tarfile_open_feed(&in, feed, &a, err)
		     : tarfile_open_range(&in, s->fd, 0, s->size, &a, err);

	if (r == -EBADMSG)
		return SHELF_PLAIN;
	if (r < 0)
		return r;
	struct scan c = {.s = s, .a = a};
	return list_members(&c, &in, feed ? 0 : s->size, feed != NULL, err);
}

/* ---- opening ---- */

static void forget_members(struct shelf *s)
{
	for (size_t i = 0; i < s->count; i++) {
		free(s->members[i].name);
		free(s->members[i].target);
	}
	s->count = 0;
}

/* Replaces the file by what it unpacks to. */
static int unpack(struct shelf *s, const char *spool, struct inlay_error *err)
{
	auto_of(feed_close) struct feed *feed = NULL;
	auto_close int fd = open(spool, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	const void *bytes;
	uint64_t size = 0;
	size_t len = 1;

	if (fd < 0)
		return inlay_error_sys(err, -errno, "make a file in %s", spool);
	int r = feed_open(s->fd, 0, s->size, 0, &feed, err);
	while (r == 0 && len > 0) {
		r = feed_next(feed, &bytes, &len, err);
		if (r == 0)
			r = inlay_write_all(fd, bytes, len, "what the archive unpacks to", err);
		size += len;
	}
	if (r < 0)
		return r;
	feed_close(take_ptr(feed));
	inlay_cleanup_close(&s->fd);
	s->fd = take_fd(fd);
	s->size = size;
	return 0;
}

static int open_tar(struct shelf *s, const char *spool, struct inlay_error *err)
{
	bool packed;
	int r = feed_is_packed(s->fd, 0, s->size, &packed, err);

	if (r == 0 && packed) {
		auto_of(feed_close) struct feed *feed = NULL;
		r = feed_open(s->fd, 0, s->size, 0, &feed, err);
		if (r == 0)
			r = scan_tar(s, feed, err);
		feed_close(take_ptr(feed));
		forget_members(s);
		if (r == 0)
			r = unpack(s, spool, err);
	}
	return r == 0 ? scan_tar(s, NULL, err) : r;
}

int shelf_open(const char *path, const char *spool, struct shelf **ret, struct inlay_error *err)
{
	auto_of(shelf_close) struct shelf *s = calloc(1, sizeof *s);
	struct stat st;

	if (!s)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (s->fd < 0 || fstat(s->fd, &st) < 0)
		return inlay_error_sys(err, -errno, "open");
	if (S_ISDIR(st.st_mode)) {
		s->is_dir = true;
		*ret = take_ptr(s);
		return 0;
	}
	if (!S_ISREG(st.st_mode))
		return inlay_error_set(err, -EINVAL, "neither a file nor a directory");
	s->size = (uint64_t)st.st_size;
	int r = open_tar(s, spool, err);
	if (r >= 0)
		*ret = take_ptr(s);
	return r;
}

/* ---- finding ---- */

void shelf_whole(const struct shelf *s, struct blob *ret)
{
	*ret = (struct blob){.fd = s->fd, .size = s->size};
}

/* Below the directory and never through a symlink, whatever the names are. */
static int find_file(struct shelf *s, const char *name, struct blob *ret, struct inlay_error *err)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					  RESOLVE_NO_MAGICLINKS};
	auto_close int fd = (int)syscall(SYS_openat2, s->fd, name, &how, sizeof how);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? SHELF_MISSING : inlay_error_sys(err, -errno, "%s", name);
	if (fstat(fd, &st) < 0)
		return inlay_error_sys(err, -errno, "%s", name);
	if (!S_ISREG(st.st_mode))
		return inlay_error_set(err, -EINVAL, "'%s' is not a plain file", name);
	*ret = (struct blob){.fd = take_fd(fd), .owned = true, .size = (uint64_t)st.st_size};
	return 0;
}

int shelf_find(struct shelf *s, const char *name, struct blob *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	if (name[0] == '/' || !normal_form(name, strlen(name), false, &b))
		return inlay_error_set(err, -EINVAL, "the name '%.200s' leads out of the archive",
				       name);
	if (s->is_dir)
		return find_file(s, inlay_buf_cstr(&b), ret, err);
	struct member *m = find_member(s, inlay_buf_cstr(&b));
	for (int i = 0; m && m->target; i++) {
		if (i == ALIASES_MAX)
			return inlay_error_set(err, -EINVAL, "the file '%s' is a link to itself",
					       m->name);
		m = find_member(s, m->target);
	}
	if (!m)
		return SHELF_MISSING;
	*ret = (struct blob){.fd = s->fd, .off = m->off, .size = m->size};
	return 0;
}

int shelf_read(struct shelf *s, const char *name, uint64_t max, struct inlay_buf *b,
	       struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_blob_fini))) struct blob blob = {.fd = -1};
	size_t n;
	int r = shelf_find(s, name, &blob, err);

	if (r != 0)
		return r;
	if (blob.size > max)
		return inlay_error_set(err, -E2BIG, "'%s' has %llu bytes, more than %llu", name,
				       (unsigned long long)blob.size, (unsigned long long)max);
	uint8_t *room = inlay_buf_reserve(b, (size_t)blob.size);
	if (!room)
		return inlay_buf_check(b, err);
	r = inlay_pread_full(blob.fd, room, (size_t)blob.size, blob.off, &n, name, err);
	if (r == 0 && n < blob.size)
		return inlay_error_set(err, -EBADMSG, "'%s' is cut off", name);
	b->len += n;
	return r;
}
