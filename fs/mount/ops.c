/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel asks. The mount is stateless: OPEN, OPENDIR, FLUSH and CREATE are answered with ENOSYS once, and
 * from then on the kernel opens, reads what it has cached, lists and closes without a request. So no
 * state hangs on a file handle, and nothing here knows who has what open.
 *
 * Every name and attribute may be remembered for ever: what changes is told (listen.c).
 */
#include "mount/ops.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "inlay/cleanup.h"
#include "mount/listed.h"

static void init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_READDIRPLUS | FUSE_CAP_NO_OPEN_SUPPORT |
			FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_PARALLEL_DIROPS |
			FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA;
	/* Not READDIRPLUS_AUTO: a stat walk after a list would ask for each name. Not ATOMIC_O_TRUNC: without
	 * OPEN nobody would truncate. Not AUTO_INVAL_DATA: a new mtime is no reason to drop pages. */
	conn->want = want & conn->capable;
	conn->time_gran = 1;
}

/* ---- names ---- */

static int lookup_any(struct worker *w, fuse_req_t req, uint64_t parent, const char *name,
		      struct view_entry *ret, double *ret_timeout)
{
	int r = LISTED_NOT;

	if (!control_owns(parent) && !(parent == FUSE_ROOT_ID && !strcmp(name, CONTROL_NAME))) {
		if (replay_is_helper(&w->replay, req))
			r = listed_lookup(w->view, parent, name, ret, NULL);
		if (r == LISTED_NOT)
			r = view_lookup(w->view, parent, name, ret, NULL);
		*ret_timeout = r == 0 && ret->listed ? 0 : WORKER_FOREVER;
		return r;
	}
	/* Never remembered: the next open by path asks again and sees what is true then. */
	*ret_timeout = 0;
	if (!control_owns(parent)) {
		control_root(w->control, ret);
		return 0;
	}
	r = replay_greeted(&w->replay, req, name);
	return r ? -r : control_lookup(w->control, parent, name, ret, NULL);
}

static void forget_one(struct worker *w, fuse_ino_t ino, uint64_t count)
{
	if (control_owns(ino))
		control_forget(w->control, ino, count);
	else
		view_forget(w->view, ino, count);
}

/* Replies: entry (also negative) or error. */
static void lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct worker *w = worker_of_req(req);
	struct view_entry e;
	double timeout;
	int r = lookup_any(w, req, parent, name, &e, &timeout);

	if (r < 0) {
		worker_reply_error(req, r);
		return;
	}
	struct fuse_entry_param p = ops_param(&e, timeout);
	/* The caller was interrupted: the kernel did not count this reference. */
	if (fuse_reply_entry(req, &p) < 0 && e.number)
		forget_one(w, e.number, 1);
}

static void forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	forget_one(worker_of_req(req), ino, count);
	fuse_reply_none(req);
}

static void forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct worker *w = worker_of_req(req);

	for (size_t i = 0; i < count; i++)
		forget_one(w, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* Replies: attr or error. */
static void getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	struct stat st;

	(void)fi;
	int r = control_owns(ino) ? control_getattr(w->control, ino, &st, NULL)
				  : view_getattr(w->view, ino, &st, NULL);
	if (r < 0)
		worker_reply_error(req, r);
	else
		(void)fuse_reply_attr(req, &st, WORKER_FOREVER);
}

/* Replies: readlink or error. */
static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct worker *w = worker_of_req(req);
	char target[INLAY_LINK_MAX + 1];
	int r = view_readlink(w->view, ino, target, NULL);

	if (r < 0)
		worker_reply_error(req, r);
	else
		(void)fuse_reply_readlink(req, target);
}

/* ---- listing ---- */

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	bool plus;
	bool bare; /* plus: names only, no references are taken */
};

static bool list_one(void *ctx, const char *name, const struct view_entry *entry, uint64_t next)
{
	struct listing *l = ctx;
	size_t room = l->size - l->used, need;

	if (l->plus) {
		struct fuse_entry_param p = ops_param(entry, entry->listed ? 0 : WORKER_FOREVER);
		if (l->bare || !strcmp(name, ".") || !strcmp(name, ".."))
			p.ino = 0; /* to the kernel: it may look the name up itself */
		need = fuse_add_direntry_plus(l->req, l->buf + l->used, room, name, &p,
					      (off_t)next);
	} else {
		need = fuse_add_direntry(l->req, l->buf + l->used, room, name, &entry->attr,
					 (off_t)next);
	}
	if (need > room)
		return false;
	l->used += need;
	return true;
}

static void list_control(struct worker *w, struct listing *l, uint64_t position)
{
	struct view_entry e;
	const char *name;

	control_root(w->control, &e);
	l->bare = true;
	for (unsigned i = (unsigned)position; i < 2 || control_name(i - 2); i++) {
		name = i == 0 ? "." : i == 1 ? ".." : control_name(i - 2);
		if (i >= 2)
			e.attr.st_mode = S_IFREG | 0444;
		if (!list_one(l, name, &e, i + 1))
			break;
	}
}

/* Replies: buf or error. */
static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct worker *w = worker_of_req(req);
	auto_free char *buf = malloc(size);
	struct listing l = {.req = req, .buf = buf, .size = size, .plus = plus};
	int r = 0;

	if (!buf) {
		worker_reply_error(req, -ENOMEM);
		return;
	}
	if (control_owns(ino))
		list_control(w, &l, (uint64_t)off);
	else
		r = view_list(w->view, ino, (uint64_t)off, plus, list_one, &l, NULL);
	if (r < 0)
		worker_reply_error(req, r);
	else
		(void)fuse_reply_buf(req, buf, l.used);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, false);
}

static void readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, true);
}

/* ---- content ---- */

static int read_content(struct worker *w, fuse_ino_t ino, void *buf, size_t size, uint64_t off,
			size_t *ret_n)
{
	struct view_content content;
	int r = view_content(w->view, ino, &content, NULL);

	if (r == 0)
		r = worker_pread(w, &content, buf, size, off, ret_n);
	worker_count(&w->stats.read_bytes, r == 0 ? *ret_n : 0);
	return r;
}

/* Replies: buf or error. */
static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	struct worker *w = worker_of_req(req);
	auto_free char *buf = malloc(size);
	size_t n;
	int r;

	(void)fi;
	worker_count(&w->stats.reads, 1);
	if (!buf)
		r = -ENOMEM;
	else if (control_owns(ino))
		r = control_read(w->control, ino, buf, size, (uint64_t)off, &n, NULL);
	else
		r = read_content(w, ino, buf, size, (uint64_t)off, &n);
	if (r < 0)
		worker_reply_error(req, r);
	else
		(void)fuse_reply_buf(req, buf, n);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct worker *w = worker_of_req(req);
	struct statvfs st;

	(void)ino;
	if (fstatvfs(w->store_fd, &st) < 0) {
		worker_reply_error(req, -errno);
		return;
	}
	st.f_namemax = INLAY_NAME_MAX;
	(void)fuse_reply_statfs(req, &st);
}

/* ---- what the stateless mode does without ---- */

static void no_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	(void)worker_of_req(req);
	(void)fuse_reply_err(req, ENOSYS);
}

const struct fuse_lowlevel_ops worker_ops = {
	.init = init,
	.lookup = lookup,
	.forget = forget,
	.forget_multi = forget_multi,
	.getattr = getattr,
	.setattr = ops_setattr,
	.readlink = do_readlink,
	.mknod = ops_mknod,
	.mkdir = ops_mkdir,
	.unlink = ops_unlink,
	.rmdir = ops_rmdir,
	.symlink = ops_symlink,
	.rename = ops_rename,
	.link = ops_link,
	.open = no_open,
	.read = do_read,
	.write = ops_write,
	.fsync = ops_fsync,
	.opendir = no_open,
	.readdir = do_readdir,
	.readdirplus = readdirplus,
	.fsyncdir = ops_fsync,
	.statfs = do_statfs,
	.setxattr = ops_setxattr,
	.getxattr = ops_getxattr,
	.listxattr = ops_listxattr,
	.removexattr = ops_removexattr,
	.fallocate = ops_fallocate,
	.copy_file_range = ops_copy_file_range,
	.lseek = ops_lseek,
};
