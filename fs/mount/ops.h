/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_OPS_H
#define MOUNT_OPS_H

/* What the kernel's requests have in common, and those that change something (write_ops.c). */

#include <errno.h>

#include "mount/worker.h"

static inline struct worker *worker_of_req(fuse_req_t req)
{
	struct worker *w = fuse_req_userdata(req);

	worker_count(&w->stats.requests, 1);
	return w;
}

static inline void worker_reply_error(fuse_req_t req, int r)
{
	struct worker *w = fuse_req_userdata(req);

	if (r != -ENOENT)
		worker_count(&w->stats.errors, 1);
	(void)fuse_reply_err(req, -r);
}

static inline struct fuse_entry_param ops_param(const struct view_entry *e, double timeout)
{
	return (struct fuse_entry_param){.ino = e->number,
					 .attr = e->attr,
					 .attr_timeout = WORKER_FOREVER,
					 .entry_timeout = timeout};
}

/* Reads a file's bytes, from the store or the upper. */
int worker_pread(struct worker *w, const struct view_content *content, void *buf, size_t size,
		 uint64_t off, size_t *ret_n) inlay_must_check;

void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		 struct fuse_file_info *fi);
void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		const char *new_name, unsigned flags);
void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name);
void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	       struct fuse_file_info *fi);
void ops_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);
void ops_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		  int flags);
void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
		   struct fuse_file_info *fi);
void ops_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in,
			 fuse_ino_t out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
			 int flags);
void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);

#endif
