/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel asks for when something is to change. Nothing here knows who has what open: OPEN and CREATE are
 * answered with ENOSYS, so a new file comes as MKNOD, a truncating open as SETATTR, and FORGET alone says that a file
 * without a name is of no use any more. What a write does to set-id bits and capabilities is in privs.h.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "mount/ops.h"
#include "mount/privs.h"
#include "mount/seeking.h"
#include "upper/upper.h"

enum { COPY_PIECE = 1 << 20 };

static void reply(fuse_req_t req, int r)
{
	if (r < 0)
		worker_reply_error(req, r);
	else
		(void)fuse_reply_err(req, 0);
}

static void reply_entry(fuse_req_t req, struct worker *w, int r, const struct view_entry *e)
{
	if (r < 0) {
		worker_reply_error(req, r);
		return;
	}
	struct fuse_entry_param p = ops_param(e, WORKER_FOREVER);
	/* The caller was interrupted: the kernel did not count this reference. */
	if (fuse_reply_entry(req, &p) < 0)
		view_forget(w->view, e->number, 1);
}

/* The control directory is nobody's to change, and its name is taken. */
static bool is_control(fuse_ino_t parent, const char *name)
{
	return control_owns(parent) || (parent == FUSE_ROOT_ID && strcmp(name, CONTROL_NAME) == 0);
}

/* ---- names ---- */

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		 const char *target)
{
	struct worker *w = worker_of_req(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct view_make what = {
		.mode = mode, .target = target, .caller = {.uid = ctx->uid, .gid = ctx->gid}};
	struct view_entry e;
	int r = is_control(parent, name) ? -EPERM
					 : view_make(w->view, parent, name, &what, &e, NULL);

	reply_entry(req, w, r, &e);
}

void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct worker *w = fuse_req_userdata(req);
	mode_t type = mode & S_IFMT;

	(void)rdev;
	if (replay_make(&w->replay, req, parent, name, mode))
		return;
	if (type == 0)
		type = S_IFREG;
	/* Devices would be of no use below nodev, and a danger elsewhere. */
	if (type != S_IFREG && type != S_IFIFO && type != S_IFSOCK) {
		(void)worker_of_req(req);
		worker_reply_error(req, -EPERM);
		return;
	}
	make(req, parent, name, type | (mode & 07777), NULL);
}

void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct worker *w = fuse_req_userdata(req);

	if (!replay_make(&w->replay, req, parent, name, S_IFDIR))
		make(req, parent, name, S_IFDIR | (mode & 07777), NULL);
}

void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct worker *w = fuse_req_userdata(req);

	if (replay_make(&w->replay, req, parent, name, S_IFLNK))
		return;
	if (strlen(target) > INLAY_LINK_MAX) {
		(void)worker_of_req(req);
		worker_reply_error(req, -ENAMETOOLONG);
		return;
	}
	make(req, parent, name, S_IFLNK | 0777, target);
}

void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	struct worker *w = worker_of_req(req);
	struct view_entry e;
	int r = is_control(new_parent, new_name) || control_owns(ino)
			? -EPERM
			: view_link(w->view, ino, new_parent, new_name, &e, NULL);

	reply_entry(req, w, r, &e);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool is_dir)
{
	struct worker *w = worker_of_req(req);

	if (replay_remove(&w->replay, req, parent, name, is_dir))
		return;
	reply(req,
	      is_control(parent, name) ? -EPERM : view_remove(w->view, parent, name, is_dir, NULL));
}

void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, false);
}

void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, true);
}

void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		const char *new_name, unsigned flags)
{
	struct worker *w = worker_of_req(req);

	if (replay_rename(&w->replay, req, parent, name, new_parent, new_name))
		return;
	reply(req, is_control(parent, name) || is_control(new_parent, new_name)
			   ? -EPERM
			   : view_rename(w->view, parent, name, new_parent, new_name, flags, NULL));
}

/* ---- bytes ---- */

int worker_pread(struct worker *w, const struct view_content *content, void *buf, size_t size,
		 uint64_t off, size_t *ret_n)
{
	struct fdref ref;
	int r;

	*ret_n = 0;
	if (content->own) {
		if (!content->has_file)
			return 0;
		r = upper_file(w->upper, content->file, false, &ref, NULL);
		if (r < 0)
			return r;
		r = inlay_pread_full(ref.fd, buf, size, off, ret_n, "a file of the upper", NULL);
		fdcache_release(&w->upper->fds, &ref);
		return r;
	}
	if (off >= content->size)
		return 0;
	r = inlay_store_pread(w->store, &content->id, buf, size, off, ret_n, NULL);
	if (r == INLAY_STORE_MISSING || r == -EBADMSG) {
		/* This file only; the next sync sends the object again. */
		worker_report_damage(w, &content->id);
		return -EIO;
	}
	return r;
}

/* The file's own data file, open for writing. */
static int begin_write(struct worker *w, fuse_ino_t ino, uint64_t keep,
		       struct view_content *content, struct fdref *ref)
{
	if (control_owns(ino))
		return -EPERM;
	int r = view_own(w->view, ino, keep, content, NULL);
	return r < 0 ? r : upper_file(w->upper, content->file, false, ref, NULL);
}

static void end_write(struct worker *w, const struct view_content *content, struct fdref *ref)
{
	view_wrote(w->view, content);
	fdcache_release(&w->upper->fds, ref);
}

/* As much as there is room for. */
static ssize_t write_some(int fd, const char *buf, size_t size, off_t off)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pwrite(fd, buf + done, size - done, off + (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return done > 0 ? (ssize_t)done : n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	       struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	struct view_content content;
	struct fdref ref;

	(void)fi;
	int r = privs_obey(w, ino);
	if (r == 0)
		r = begin_write(w, ino, UINT64_MAX, &content, &ref);
	if (r < 0) {
		worker_reply_error(req, r);
		return;
	}
	ssize_t n = write_some(ref.fd, buf, size, off);
	if (view_is_full(n) && view_reap(w->view))
		n = write_some(ref.fd, buf, size, off);
	end_write(w, &content, &ref);
	if (n < 0)
		worker_reply_error(req, (int)n);
	else
		(void)fuse_reply_write(req, (size_t)n);
}

static int truncate_to(struct worker *w, fuse_ino_t ino, off_t size)
{
	struct view_content content;
	struct fdref ref;
	int r = begin_write(w, ino, (uint64_t)size, &content, &ref);

	if (r < 0)
		return r;
	/* What comes now is as good as a file of its own that takes the place of the old one. */
	struct stat st;
	if (size == 0 && fstat(ref.fd, &st) == 0 && st.st_size > 0)
		upper_put_ahead(w->upper, content.file);
	if (ftruncate(ref.fd, size) < 0)
		r = -errno;
	end_write(w, &content, &ref);
	return r;
}

void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
		   struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	struct view_content content;
	struct fdref ref;

	(void)fi;
	int r = privs_judge(w, req, ino);
	if (r == 0)
		r = begin_write(w, ino, UINT64_MAX, &content, &ref);
	if (r == 0) {
		if (fallocate(ref.fd, mode, off, len) < 0)
			r = -errno;
		if (view_is_full(r) && view_reap(w->view))
			r = fallocate(ref.fd, mode, off, len) < 0 ? -errno : 0;
		end_write(w, &content, &ref);
	}
	reply(req, r);
}

/* A piece of an object. */
static ssize_t copy_object(struct worker *w, const struct view_content *from, off_t off_in, int fd,
			   off_t off_out, size_t len)
{
	auto_free char *buf = malloc(COPY_PIECE);
	size_t n;

	if (!buf)
		return -ENOMEM;
	int r = worker_pread(w, from, buf, len < COPY_PIECE ? len : COPY_PIECE, (uint64_t)off_in,
			     &n);
	return r < 0 ? r : n == 0 ? 0 : write_some(fd, buf, n, off_out);
}

static ssize_t copy_range(struct worker *w, const struct view_content *from, off_t off_in, int fd,
			  off_t off_out, size_t len)
{
	struct fdref ref;

	if (!from->has_file)
		return copy_object(w, from, off_in, fd, off_out, len);
	int r = upper_file(w->upper, from->file, false, &ref, NULL);
	if (r < 0)
		return r;
	ssize_t n = copy_file_range(ref.fd, &off_in, fd, &off_out, len, 0);
	if (n < 0)
		n = -errno;
	fdcache_release(&w->upper->fds, &ref);
	return n;
}

void ops_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in,
			 fuse_ino_t out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
			 int flags)
{
	struct worker *w = worker_of_req(req);
	struct view_content from, to;
	struct fdref ref;
	ssize_t n = 0;

	(void)fi_in;
	(void)fi_out;
	(void)flags;
	/* The target first: source and target may be one file. */
	int r = control_owns(in) ? -EINVAL : privs_judge(w, req, out);
	if (r == 0)
		r = begin_write(w, out, UINT64_MAX, &to, &ref);
	if (r == 0) {
		r = view_content(w->view, in, &from, NULL);
		if (r == 0)
			n = copy_range(w, &from, off_in, ref.fd, off_out, len);
		if (view_is_full(n) && view_reap(w->view))
			n = copy_range(w, &from, off_in, ref.fd, off_out, len);
		end_write(w, &to, &ref);
	}
	if (r < 0 || n < 0)
		worker_reply_error(req, r < 0 ? r : (int)n);
	else
		(void)fuse_reply_write(req, (size_t)n);
}

/* Objects have no holes; there is one behind the end of each file. */
static off_t seek_object(const struct view_content *content, off_t off, int whence)
{
	if (off < 0 || (uint64_t)off >= content->size)
		return -ENXIO;
	return whence == SEEK_DATA ? off : (off_t)content->size;
}

/* A data file that has no hole for sure is as an object; *ret_sparse: it may have some. */
static int look_for_holes(struct worker *w, struct view_content *content, bool *ret_sparse)
{
	struct fdref ref;
	struct stat st;
	int r = upper_file(w->upper, content->file, false, &ref, NULL);

	if (r < 0)
		return r;
	if (fstat(ref.fd, &st) < 0)
		r = -errno;
	fdcache_release(&w->upper->fds, &ref);
	if (r < 0)
		return r;
	content->size = (uint64_t)st.st_size;
	*ret_sparse = st.st_blocks * 512 < st.st_size;
	return 0;
}

void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	struct view_content content;
	bool sparse = false;

	(void)fi;
	int r = control_owns(ino) ? -EINVAL : view_content(w->view, ino, &content, NULL);
	if (r == 0 && whence != SEEK_DATA && whence != SEEK_HOLE)
		r = -EINVAL;
	if (r == 0 && content.own)
		content.size = 0;
	if (r == 0 && content.has_file)
		r = look_for_holes(w, &content, &sparse);
	if (r == 0 && sparse) {
		seeking_ask(w->seeking, req, ino, content.file, off, whence);
		return;
	}
	off_t at = r < 0 ? r : seek_object(&content, off, whence);
	if (at < 0)
		worker_reply_error(req, (int)at);
	else
		(void)fuse_reply_lseek(req, at);
}

/* ---- attributes ---- */

static enum view_set set_of(int to_set)
{
	static const struct {
		int theirs;
		enum view_set ours;
	} bits[] = {{FUSE_SET_ATTR_MODE, VIEW_SET_MODE},
		    {FUSE_SET_ATTR_UID, VIEW_SET_UID},
		    {FUSE_SET_ATTR_GID, VIEW_SET_GID},
		    {FUSE_SET_ATTR_ATIME, VIEW_SET_ATIME},
		    {FUSE_SET_ATTR_MTIME, VIEW_SET_MTIME},
		    {FUSE_SET_ATTR_ATIME_NOW, VIEW_SET_ATIME_NOW},
		    {FUSE_SET_ATTR_MTIME_NOW, VIEW_SET_MTIME_NOW}};
	enum view_set set = 0;

	for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
		if (to_set & bits[i].theirs)
			set |= bits[i].ours;
	/* libfuse says both for "now". */
	if (set & VIEW_SET_ATIME_NOW)
		set &= ~(unsigned)VIEW_SET_ATIME;
	if (set & VIEW_SET_MTIME_NOW)
		set &= ~(unsigned)VIEW_SET_MTIME;
	return set;
}

void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		 struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	enum view_set set = set_of(to_set);
	struct stat st;
	int r = control_owns(ino) ? -EPERM : 0;

	(void)fi;
	if (replay_setattr(&w->replay, req, ino))
		return;
	if (r == 0)
		r = privs_obey(w, ino);
	if (r == 0 && (to_set & FUSE_SET_ATTR_SIZE))
		r = truncate_to(w, ino, attr->st_size);
	if (r == 0 && set)
		r = view_set_attr(w->view, ino, attr, set, NULL);
	if (r == 0)
		r = view_getattr(w->view, ino, &st, NULL);
	if (r < 0)
		worker_reply_error(req, r);
	else
		(void)fuse_reply_attr(req, &st, WORKER_FOREVER);
}

static bool no_xattrs(fuse_req_t req, struct worker *w)
{
	if (w->xattrs)
		return false;
	/* The kernel does not ask again. */
	(void)fuse_reply_err(req, ENOSYS);
	return true;
}

void ops_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		  int flags)
{
	struct worker *w = worker_of_req(req);

	if (!no_xattrs(req, w))
		reply(req, control_owns(ino)
				   ? -EPERM
				   : view_set_xattr(w->view, ino, name, value, size, flags, NULL));
}

void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct worker *w = worker_of_req(req);

	if (!no_xattrs(req, w))
		reply(req, control_owns(ino)
				   ? -EPERM
				   : view_set_xattr(w->view, ino, name, NULL, 0, 0, NULL));
}

void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct worker *w = worker_of_req(req);
	size_t len = 0;

	if (no_xattrs(req, w))
		return;
	auto_free char *value = malloc(size + 1);
	int r = !value              ? -ENOMEM
		: control_owns(ino) ? -ENODATA
				    : view_get_xattr(w->view, ino, name, value, size, &len, NULL);
	if (r == 0 && size > 0 && len > size)
		r = -ERANGE;
	if (r == -ENODATA)
		(void)fuse_reply_err(req, ENODATA); /* the usual answer, no error of ours */
	else if (r < 0)
		worker_reply_error(req, r);
	else if (size == 0)
		(void)fuse_reply_xattr(req, len);
	else
		(void)fuse_reply_buf(req, value, len);
}

void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct worker *w = worker_of_req(req);
	auto_buf struct inlay_buf names = {0};

	if (no_xattrs(req, w))
		return;
	int r = control_owns(ino) ? 0 : view_list_xattrs(w->view, ino, &names, NULL);
	if (r == 0 && size > 0 && names.len > size)
		r = -ERANGE;
	if (r < 0)
		worker_reply_error(req, r);
	else if (size == 0)
		(void)fuse_reply_xattr(req, names.len);
	else
		(void)fuse_reply_buf(req, (const char *)names.data, names.len);
}

/* ---- durability ---- */

void ops_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	int r = 0;

	(void)fi;
	if (!control_owns(ino)) {
		r = view_sync(w->view, ino, data_only, NULL);
		if (r == 0)
			r = worker_wait_durable(w);
	}
	reply(req, r);
}
