/* SPDX-License-Identifier: Apache-2.0 */
#include "image/layer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "image/tarfile.h"
#include "inlay/limits.h"
#include "inlay/tree.h"
#include "inlay/xattrs.h"

#define WHITEOUT "\x2ewh."

enum {
	TAR_BLOCK = 512,
	ELF_MACHINE_OFF = 18,
	ELF_HEAD = 20,
	MACHINE_X86_64 = 62,
	MACHINE_AARCH64 = 183,
};

struct reading {
	struct layer_reader *l;
	struct archive *a;
	const struct tarfile_input *in;
	struct archive_entry *e;
	uint64_t layer_bytes; /* the size of the layer's file */
	uint64_t logical;     /* sum of the sizes of its files, holes included */
};

int layer_reader_init(struct layer_reader *l, struct inlay_store *store, struct merge *m,
		      struct inlay_error *err)
{
	*l = (struct layer_reader){.store = store, .merge = m};
	l->small = malloc(INLAY_STORE_LOOSE_MIN);
	return l->small ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

void layer_reader_fini(struct layer_reader *l)
{
	free(l->small);
	l->small = NULL;
}

/* ---- content ---- */

/* Where the bytes of a file go: a small buffer, or the store piece by piece. */
struct content {
	struct reading *r;
	struct inlay_store_put *put; /* NULL: small */
	uint64_t size, got;
};

static int take(struct content *c, const void *bytes, size_t len, struct inlay_error *err)
{
	if (len > c->size - c->got)
		return inlay_error_set(err, -EBADMSG, "it has more than its %llu bytes",
				       (unsigned long long)c->size);
	if (!c->put)
		memcpy(c->r->l->small + c->got, bytes, len);
	c->got += len;
	return c->put ? inlay_store_put_write(c->put, bytes, len, err) : 0;
}

static int take_zeros(struct content *c, uint64_t until, struct inlay_error *err)
{
	static const uint8_t zeros[64 << 10];
	int r = 0;

	if (until > c->size || until < c->got)
		return inlay_error_set(err, -EBADMSG, "its pieces do not fit its size");
	while (r == 0 && c->got < until) {
		uint64_t left = until - c->got;
		r = take(c, zeros, left < sizeof zeros ? (size_t)left : sizeof zeros, err);
	}
	return r;
}

/* A plain root filesystem does not say for which machine it is; its programs do. */
static void look_at_machine(struct layer_reader *l, const uint8_t *bytes, size_t len)
{
	if (len < ELF_HEAD || memcmp(bytes,
				     "\x7f"
				     "ELF\2\1",
				     6) != 0)
		return;
	uint16_t machine = inlay_get_le16(bytes + ELF_MACHINE_OFF);
	l->machines[0] += machine == MACHINE_X86_64;
	l->machines[1] += machine == MACHINE_AARCH64;
}

static int read_pieces(struct content *c, struct inlay_error *err)
{
	const void *bytes;
	uint64_t off;
	size_t len;
	int r;

	while ((r = tarfile_data(c->r->a, c->r->in, &bytes, &len, &off, err)) == 0) {
		r = take_zeros(c, off, err);
		if (r == 0 && off == 0)
			look_at_machine(c->r->l, bytes, len);
		if (r == 0)
			r = take(c, bytes, len, err);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : take_zeros(c, c->size, err);
}

/* The limit on what an archive may expand to, for what tar itself makes larger: holes. */
static int check_size(struct reading *r, uint64_t size, struct inlay_error *err)
{
	if (size > INLAY_OBJECT_MAX)
		return inlay_error_set(err, -E2BIG, "it has %llu bytes, more than %llu",
				       (unsigned long long)size,
				       (unsigned long long)INLAY_OBJECT_MAX);
	if (__builtin_add_overflow(r->logical, size, &r->logical) ||
	    (r->logical > INLAY_ARCHIVE_EXPAND_FREE &&
	     r->logical / INLAY_ARCHIVE_EXPAND > r->layer_bytes))
		return inlay_error_set(err, -E2BIG,
				       "with it, the files have more than %d times the bytes of "
				       "the archive",
				       INLAY_ARCHIVE_EXPAND);
	return 0;
}

static int read_content(struct reading *r, uint64_t size, struct inlay_digest *ret,
			struct inlay_error *err)
{
	struct content c = {.r = r, .size = size};
	int result = check_size(r, size, err);

	if (result < 0)
		return result;
	if (size >= INLAY_STORE_LOOSE_MIN) {
		result = inlay_store_put_begin(r->l->store, size, &c.put, err);
		if (result < 0)
			return result;
	}
	result = read_pieces(&c, err);
	r->l->content_bytes += c.got;
	if (result < 0) {
		inlay_store_put_abort(c.put);
		return result;
	}
	if (c.put)
		return inlay_store_put_finish(c.put, ret, err);
	return inlay_store_put(r->l->store, r->l->small, (size_t)size, ret, err);
}

/* ---- attributes ---- */

/* What the kernel's overlay would take as its own when the tree is mounted. */
static bool is_overlays(const char *name)
{
	return strncmp(name, "trusted.overlay.", 16) == 0;
}

static int gather(struct reading *r, struct inlay_xattr *list, size_t *count,
		  struct inlay_error *err)
{
	size_t n = (size_t)archive_entry_xattr_reset(r->e), total = 0;

	*count = 0;
	for (size_t i = 0; i < n; i++) {
		const char *name;
		const void *value;
		size_t len;
		if (archive_entry_xattr_next(r->e, &name, &value, &len) != ARCHIVE_OK)
			break;
		if (is_overlays(name)) {
			r->l->skipped.xattrs++;
			continue;
		}
		total += strlen(name) + len;
		if (total > INLAY_XATTRS_MAX)
			return inlay_error_set(err, -E2BIG, "more than %d bytes of attributes",
					       INLAY_XATTRS_MAX);
		list[(*count)++] = (struct inlay_xattr){name, value, strlen(name), len};
	}
	return 0;
}

static int read_xattrs(struct reading *r, struct inlay_digest *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int n = archive_entry_xattr_count(r->e);
	size_t count;

	if (archive_entry_acl_types(r->e) &
	    (ARCHIVE_ENTRY_ACL_TYPE_POSIX1E | ARCHIVE_ENTRY_ACL_TYPE_NFS4))
		r->l->skipped.acls++;
	if (n <= 0)
		return 0;
	auto_free struct inlay_xattr *list = reallocarray(NULL, (size_t)n, sizeof *list);
	if (!list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int result = gather(r, list, &count, err);
	if (result < 0 || count == 0)
		return result;
	result = inlay_xattrs_encode(list, count, &b, err);
	return result < 0 ? result : inlay_store_put(r->l->store, b.data, b.len, ret, err);
}

static int read_attributes(struct reading *r, struct merge_inode *i, struct inlay_error *err)
{
	int64_t uid = archive_entry_uid(r->e), gid = archive_entry_gid(r->e);
	int64_t s = archive_entry_mtime(r->e);
	long ns = archive_entry_mtime_nsec(r->e);

	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return inlay_error_set(err, -EINVAL, "its owner %lld:%lld cannot be",
				       (long long)uid, (long long)gid);
	if (__builtin_mul_overflow(s, (int64_t)1000000000, &i->mtime_ns) ||
	    __builtin_add_overflow(i->mtime_ns, (int64_t)ns, &i->mtime_ns))
		return inlay_error_set(err, -EINVAL, "its time cannot be");
	i->uid = (uint32_t)uid;
	i->gid = (uint32_t)gid;
	i->mode |= archive_entry_perm(r->e) & 07777;
	return read_xattrs(r, &i->xattrs, err);
}

/* ---- kinds of entries ---- */

static int add_link(struct reading *r, const struct merge_place *at, const char *target,
		    struct inlay_error *err)
{
	struct merge *m = r->l->merge;
	struct merge_node *to = NULL;
	int result;

	if (at->name_len == 0)
		return inlay_error_set(err, -EINVAL, "the root is not a directory");
	if (archive_entry_size_is_set(r->e) && archive_entry_size(r->e) > 0)
		return inlay_error_set(err, -EINVAL, "a hard link with content of its own");
	result = merge_lookup(m, target, &to, err);
	if (result < 0)
		return inlay_error_prefix(err, result, "its target '%s'", target);
	if (!to)
		return inlay_error_set(err, -EINVAL, "a hard link to '%s', which is not there",
				       target);
	if (S_ISDIR(to->inode->mode))
		return inlay_error_set(err, -EINVAL, "a hard link to the directory '%s'", target);
	return merge_link(m, at, to, err);
}

static int add_entry(struct reading *r, const struct merge_place *at, unsigned type,
		     struct inlay_error *err)
{
	const char *target = type == AE_IFLNK ? archive_entry_symlink(r->e) : "";
	size_t len = target ? strlen(target) : 0;
	int result = 0;

	if (type == AE_IFLNK && len == 0)
		return inlay_error_set(err, -EINVAL, "a symlink without a target");
	if (len > INLAY_LINK_MAX)
		return inlay_error_set(err, -E2BIG, "its target has more than %d bytes",
				       INLAY_LINK_MAX);
	if (type != AE_IFDIR && at->name_len == 0)
		return inlay_error_set(err, -EINVAL, "the root is not a directory");
	auto_free struct merge_inode *i = merge_inode_new(target, len);
	if (!i)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	i->mode = type == AE_IFLNK ? S_IFLNK | 0777 : type == AE_IFDIR ? S_IFDIR : S_IFREG;
	result = read_attributes(r, i, err);
	if (type == AE_IFREG && result == 0) {
		i->size = (uint64_t)archive_entry_size(r->e);
		result = read_content(r, i->size, &i->id, err);
	}
	return result < 0 ? result : merge_set(r->l->merge, at, take_ptr(i), err);
}

/* Devices, pipes and sockets are not kept: the runtime makes the devices that a container has. */
static int skip_special(struct reading *r, const struct merge_place *at, unsigned type,
			struct inlay_error *err)
{
	if (type == AE_IFCHR || type == AE_IFBLK)
		r->l->skipped.devices++;
	else if (type == AE_IFIFO || type == AE_IFSOCK)
		r->l->skipped.pipes++;
	else
		return inlay_error_set(err, -EINVAL, "an entry of an unknown type");
	merge_clear(r->l->merge, at);
	return 0;
}

/* .wh.NAME, .wh..wh..opq, and what else begins so. */
static int whiteout(struct reading *r, const struct merge_place *at, struct inlay_error *err)
{
	const size_t mark = sizeof WHITEOUT - 1;
	struct merge_place hidden = {at->dir, at->name + mark, at->name_len - mark};

	if (hidden.name_len == 8 && memcmp(hidden.name, ".wh..opq", 8) == 0) {
		merge_opaque(r->l->merge, at->dir);
		return 0;
	}
	/* Left over by one storage driver, never content. */
	if (hidden.name_len >= mark && memcmp(hidden.name, WHITEOUT, mark) == 0) {
		r->l->skipped.metadata++;
		return 0;
	}
	if (!inlay_name_valid(hidden.name, hidden.name_len))
		return inlay_error_set(err, -EINVAL, "a whiteout of a name that cannot be");
	merge_whiteout(r->l->merge, &hidden);
	return 0;
}

static int apply_entry(struct reading *r, const char *path, struct inlay_error *err)
{
	const char *hardlink = archive_entry_hardlink(r->e);
	unsigned type = archive_entry_filetype(r->e);
	struct merge_place at;
	int result = merge_locate(r->l->merge, path, &at, err);

	if (result < 0)
		return result;
	if (at.name_len >= sizeof WHITEOUT - 1 &&
	    memcmp(at.name, WHITEOUT, sizeof WHITEOUT - 1) == 0)
		return whiteout(r, &at, err);
	if (hardlink)
		return add_link(r, &at, hardlink, err);
	if (type == AE_IFREG || type == AE_IFDIR || type == AE_IFLNK)
		return add_entry(r, &at, type, err);
	return skip_special(r, &at, type, err);
}

static int apply_next(struct reading *r, struct inlay_error *err)
{
	const char *path = archive_entry_pathname(r->e);

	if (!path)
		return inlay_error_set(err, -EBADMSG, "entry %llu has no name",
				       (unsigned long long)r->l->entries + 1);
	if (++r->l->entries > INLAY_ARCHIVE_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d entries",
				       INLAY_ARCHIVE_ENTRIES_MAX);
	int result = apply_entry(r, path, err);
	if (result < 0)
		return inlay_error_prefix(err, result, "the entry '%.200s'", path);
	return 0;
}

int layer_apply(struct layer_reader *l, struct feed *feed, uint64_t bytes, bool trusted_end,
		struct inlay_error *err)
{
	auto_of(tarfile_free) struct archive *a = NULL;
	__attribute__((cleanup(inlay_cleanup_tarfile_input_fini))) struct tarfile_input in;
	struct reading r = {.l = l, .in = &in, .layer_bytes = bytes};
	struct feed_sums sums;
	char last[256] = "";
	int result = tarfile_open_feed(&in, feed, &a, err);

	r.a = a;
	while (result == 0) {
		result = tarfile_next(a, &in, &r.e, err);
		if (result < 0 && *last)
			return inlay_error_prefix(err, result, "after the entry '%s'", last);
		if (result != 0)
			break;
		result = apply_next(&r, err);
		const char *path = archive_entry_pathname(r.e);
		(void)snprintf(last, sizeof last, "%.200s", path ? path : "");
	}
	if (result < 0)
		return result;
	/* libarchive takes an end without the closing blocks for one: it may have been cut off there. */
	uint64_t end = (uint64_t)archive_read_header_position(a);
	result = feed_finish(feed, &sums, err);
	if (result == 0 && !trusted_end && sums.plain_bytes < end + TAR_BLOCK)
		return inlay_error_set(
			err, -EBADMSG,
			"it ends after the entry '%s' without an end mark: is it cut "
			"off?",
			last);
	return result;
}
