/* SPDX-License-Identifier: Apache-2.0 */
/* What changes in a node: attributes, xattrs, and the bytes, for which a file gets a data file of its own. */
#include <errno.h>
#include <stdlib.h>
#include <sys/xattr.h>

#include "mount/changing.h"

/* What the kernel holds. *ret_named: it has a name. */
static int node_at(struct view *v, uint64_t number, uint32_t *ret_slot, bool *ret_named,
		   struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	*ret_slot = table_slot(v->table, number);
	if (!*ret_slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	*ret_named = table_node(v->table, *ret_slot)->dents != 0 || *ret_slot == TABLE_ROOT;
	return 0;
}

/* A node without a name and not of the upper yet: it becomes an orphan there. Not in the journal, since it ends with
 * its last user. `lock` held for writing. */
static int adopt_orphan(struct view *v, uint32_t slot, const struct upper_node *image,
			struct upper_node **ret, struct inlay_error *err)
{
	int r = upper_add_orphan(v->upper, image, ret, err);

	if (r < 0)
		return r;
	(*ret)->slot = slot;
	table_node(v->table, slot)->upper = image->n;
	return 0;
}

/* ---- attributes ---- */

static void set_image(struct upper_node *image, const struct stat *attr, enum view_set set)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
	int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	if (set & VIEW_SET_MODE)
		image->mode = (image->mode & S_IFMT) | (attr->st_mode & 07777);
	if (set & VIEW_SET_UID)
		image->uid = attr->st_uid;
	if (set & VIEW_SET_GID)
		image->gid = attr->st_gid;
	if (set & VIEW_SET_ATIME)
		image->atime_ns =
			(int64_t)attr->st_atim.tv_sec * 1000000000 + attr->st_atim.tv_nsec;
	if (set & VIEW_SET_MTIME)
		image->mtime_ns =
			(int64_t)attr->st_mtim.tv_sec * 1000000000 + attr->st_mtim.tv_nsec;
	if (set & VIEW_SET_ATIME_NOW)
		image->atime_ns = now_ns;
	if (set & VIEW_SET_MTIME_NOW)
		image->mtime_ns = now_ns;
	image->ctime_ns = now_ns;
	if (!upper_is_merged(image))
		return;
	image->own_attr |= (set & (VIEW_SET_MODE | VIEW_SET_UID | VIEW_SET_GID)) != 0;
	image->exact_time |= (set & (VIEW_SET_ATIME | VIEW_SET_MTIME)) != 0;
}

/* A data file keeps its own times. */
static int set_file_times(struct view *v, const struct upper_node *image, enum view_set set,
			  struct inlay_error *err)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	struct fdref ref;

	if (set & (VIEW_SET_ATIME | VIEW_SET_ATIME_NOW))
		times[0] = view_time(image->atime_ns);
	if (set & (VIEW_SET_MTIME | VIEW_SET_MTIME_NOW))
		times[1] = view_time(image->mtime_ns);
	int r = upper_file(v->upper, image->n, false, &ref, err);
	if (r < 0)
		return r;
	if (futimens(ref.fd, times) < 0)
		r = inlay_error_sys(err, -errno, "set times");
	fdcache_release(&v->upper->fds, &ref);
	return r;
}

int view_set_attr(struct view *v, uint64_t number, const struct stat *attr, enum view_set set,
		  struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v};
	struct upper_node image, *un;
	uint32_t slot;
	bool named;

	scope_lock(&v->change);
	int r = changing_allowed(v, err);
	if (r == 0)
		r = node_at(v, number, &slot, &named, err);
	if (r == 0)
		r = changing_image(&c, slot, &image, err);
	if (r < 0)
		return r;
	set_image(&image, attr, set);
	bool known = image.links > 0 || slot == TABLE_ROOT;
	if (image.has_file &&
	    (set & (VIEW_SET_ATIME | VIEW_SET_MTIME | VIEW_SET_ATIME_NOW | VIEW_SET_MTIME_NOW))) {
		r = set_file_times(v, &image, set, err);
		if (r < 0)
			return r;
	}
	if (!named && !known) {
		scope_wrlock(&v->lock);
		un = view_upper(v, slot);
		if (!un)
			return adopt_orphan(v, slot, &image, &un, err);
	}
	if (!named)
		upper_txn_node(&c.txn, &image);
	else
		r = changing_keep(&c, slot, &image, err);
	if (r == 0)
		r = changing_log(&c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	r = changing_apply(&c, err);
	un = view_upper(v, slot);
	if (r == 0 && un && un->has_file)
		upper_touched(v->upper, un);
	return r;
}

/* ---- bytes ---- */

/* The data file, with the first `keep` bytes of the object. */
static int fill_file(struct view *v, const struct upper_node *image, uint64_t keep,
		     struct inlay_error *err)
{
	struct timespec times[2] = {view_time(image->atime_ns), view_time(image->mtime_ns)};
	bool object = image->from == UPPER_OBJECT;
	uint64_t len = !object ? 0 : keep < image->size ? keep : image->size;
	struct fdref ref;
	int r = upper_file(v->upper, image->n, true, &ref, err);

	if (r < 0)
		return r;
	if (len > 0)
		r = inlay_store_copy_out(v->options.store, &image->id, len, ref.fd, err);
	if (r == INLAY_STORE_MISSING)
		r = inlay_error_set(err, -EIO, "the object is not in the store");
	if (r == 0 && futimens(ref.fd, times) < 0)
		r = inlay_error_sys(err, -errno, "set times");
	/* The object was durable, so what takes its place has to be, before the journal says so. */
	if (r == 0 && len > 0)
		r = upper_sync_file(v->upper, ref.fd, true, err);
	fdcache_release(&v->upper->fds, &ref);
	if (r < 0)
		upper_discard(v->upper, image->n);
	return r;
}

/* The node's content is upper/<n> from now on. `lock` held for writing. */
static void own_file(struct view *v, uint32_t slot, struct upper_node *un, struct view_content *ret)
{
	struct node *n = table_node(v->table, slot);

	n->id = (struct inlay_digest){{0}};
	un->has_file = true;
	upper_touched(v->upper, un);
	*ret = (struct view_content){.own = un, .file = un->n, .has_file = true};
}

static int own(struct view *v, uint64_t number, uint64_t keep, struct view_content *ret,
	       struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v};
	struct upper_node image, *un;
	uint32_t slot;
	bool named;

	int r = node_at(v, number, &slot, &named, err);
	if (r == 0)
		r = changing_image(&c, slot, &image, err);
	if (r == 0 && !S_ISREG(image.mode))
		r = inlay_error_set(err, S_ISDIR(image.mode) ? -EISDIR : -EINVAL, "not a file");
	if (r < 0)
		return r;
	bool object = image.from == UPPER_OBJECT;
	if (!image.has_file)
		r = fill_file(v, &image, keep, err);
	if (view_is_full(r) && upper_make_space(v->upper))
		r = fill_file(v, &image, keep, err);
	if (r < 0)
		return r;
	image.from = UPPER_OWN;
	image.size = 0;
	if (object && named) {
		r = changing_keep(&c, slot, &image, err);
		if (r == 0)
			r = changing_log(&c, err);
		if (r < 0) {
			upper_discard(v->upper, image.n);
			return r;
		}
	}
	scope_wrlock(&v->lock);
	if (object && named)
		r = changing_apply(&c, err);
	un = view_upper(v, slot);
	if (r == 0 && !un) {
		r = adopt_orphan(v, slot, &image, &un, err);
		v->upper->orphans += r == 0;
	}
	if (r < 0)
		return r;
	un->from = UPPER_OWN;
	own_file(v, slot, un, ret);
	if (object && named && keep == 0)
		upper_put_ahead(v->upper, un->n);
	return 0;
}

int view_own(struct view *v, uint64_t number, uint64_t keep, struct view_content *ret,
	     struct inlay_error *err)
{
	int r = changing_allowed(v, err);

	if (r == 0)
		r = view_content(v, number, ret, err);
	if (r < 0 || ret->has_file)
		return r;
	scope_lock(&v->change);
	return own(v, number, keep, ret, err);
}

void view_wrote(struct view *v, const struct view_content *content)
{
	upper_touched(v->upper, content->own);
}

/* ---- xattrs ---- */

int view_get_xattr(struct view *v, uint64_t number, const char *name, void *value, size_t size,
		   size_t *ret_len, struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	const struct upper_node *un = view_upper(v, slot);
	const struct upper_xattr *x = un ? upper_xattr(un, name) : NULL;
	if (!x)
		return inlay_error_set(err, -ENODATA, "no such attribute");
	*ret_len = x->len;
	if (x->len <= size)
		memcpy(value, upper_xattr_value(x), x->len);
	return 0;
}

int view_list_xattrs(struct view *v, uint64_t number, struct inlay_buf *ret,
		     struct inlay_error *err)
{
	scope_rdlock(&v->lock);
	uint32_t slot = table_slot(v->table, number);

	if (!slot)
		return inlay_error_set(err, -ESTALE, "no such node");
	const struct upper_node *un = view_upper(v, slot);
	for (const struct upper_xattr *x = un ? un->xattrs : NULL; x; x = x->next)
		inlay_buf_add(ret, x->name, (size_t)x->name_len + 1);
	return inlay_buf_check(ret, err);
}

/* Those of ext4, but not system: access lists would have to be obeyed. */
static int check_namespace(const char *name, struct inlay_error *err)
{
	static const char *const known[] = {"user.", "trusted.", "security."};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		size_t len = strlen(known[i]);
		if (strncmp(name, known[i], len) == 0)
			return name[len] ? 0 : inlay_error_set(err, -EINVAL, "no name");
	}
	return inlay_error_set(err, -EOPNOTSUPP, "not supported");
}

static int check_xattr(const struct upper_node *un, const char *name, const void *value, size_t len,
		       int flags, struct inlay_error *err)
{
	const struct upper_xattr *x = un ? upper_xattr(un, name) : NULL;
	size_t all = strlen(name) + len;

	if (strlen(name) > INLAY_XATTR_NAME_MAX || len > INLAY_XATTR_VALUE_MAX)
		return inlay_error_set(err, -E2BIG, "a large attribute");
	if (!value && !x)
		return inlay_error_set(err, -ENODATA, "no such attribute");
	int r = check_namespace(name, err);
	if (r < 0)
		return r;
	if (x && (flags & XATTR_CREATE))
		return inlay_error_set(err, -EEXIST, "the attribute is there");
	if (!x && (!value || (flags & XATTR_REPLACE)))
		return inlay_error_set(err, -ENODATA, "no such attribute");
	for (x = un && value ? un->xattrs : NULL; x; x = x->next)
		all += x->name_len + x->len;
	if (all > INLAY_XATTRS_MAX)
		return inlay_error_set(err, -ENOSPC, "too many attributes");
	return 0;
}

int view_set_xattr(struct view *v, uint64_t number, const char *name, const void *value, size_t len,
		   int flags, struct inlay_error *err)
{
	auto_changing struct changing c = {.v = v, .freeing = !value};
	struct upper_node image, *un;
	uint32_t slot;
	bool named;

	scope_lock(&v->change);
	int r = changing_allowed(v, err);
	if (r == 0)
		r = node_at(v, number, &slot, &named, err);
	if (r < 0)
		return r;
	{
		scope_rdlock(&v->lock);
		un = view_upper(v, slot);
	}
	r = check_xattr(un, name, value, len, flags, err);
	if (r == 0)
		r = changing_image(&c, slot, &image, err);
	if (r < 0)
		return r;
	if (!named && !un)
		return inlay_error_set(err, -ENOENT, "it was removed");
	if (upper_is_merged(&image))
		image.own_attr = true;
	r = named ? changing_keep(&c, slot, &image, err) : 0;
	if (r == 0)
		upper_txn_xattr(&c.txn, image.n, name, value, len);
	if (r == 0)
		r = changing_log(&c, err);
	if (r < 0)
		return r;
	scope_wrlock(&v->lock);
	return changing_apply(&c, err);
}

/* ---- privileges ---- */

#define CAPABILITY "security.capability"

int view_end_privs(struct view *v, uint64_t number, struct inlay_error *err)
{
	struct view_entry now;
	bool capable;
	{
		scope_rdlock(&v->lock);
		uint32_t slot = table_slot(v->table, number);
		if (!slot)
			return inlay_error_set(err, -ESTALE, "no such node");
		const struct upper_node *un = view_upper(v, slot);
		view_answer(v, slot, &now);
		capable = un && upper_xattr(un, CAPABILITY);
	}
	if (!S_ISREG(now.attr.st_mode))
		return 0;
	mode_t mode = now.attr.st_mode, less = mode & ~(mode_t)S_ISUID;
	/* Without the right to execute it means something else. */
	if (mode & S_IXGRP)
		less &= ~(mode_t)S_ISGID;
	now.attr.st_mode = less;
	int r = less != mode ? view_set_attr(v, number, &now.attr, VIEW_SET_MODE, err) : 0;
	if (r == 0 && capable) {
		r = view_set_xattr(v, number, CAPABILITY, NULL, 0, 0, err);
		if (r == -ENODATA) /* somebody was faster */
			r = 0;
	}
	return r;
}

/* ---- durability ---- */

int view_sync(struct view *v, uint64_t number, bool data_only, struct inlay_error *err)
{
	struct view_content content = {0};
	struct fdref ref;
	int r = view_content(v, number, &content, NULL);

	if (r == 0 && content.has_file) {
		r = upper_file(v->upper, content.file, false, &ref, err);
		if (r < 0)
			return r;
		r = upper_sync_file(v->upper, ref.fd, data_only, err);
		fdcache_release(&v->upper->fds, &ref);
	} else {
		r = upper_sync_file(v->upper, -1, data_only, err);
	}
	return r < 0 ? r : view_sync_journal(v, err);
}
