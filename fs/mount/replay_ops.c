/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's requests, as they come from the kernel: told from those of others, and answered without changing
 * anything but the list.
 */
#include <errno.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "mount/listed.h"
#include "mount/replay.h"
#include "mount/worker.h"

bool replay_is_helper(const struct replay *p, fuse_req_t req)
{
	pid_t helper = __atomic_load_n(&p->helper, __ATOMIC_RELAXED);

	return helper != 0 && fuse_req_ctx(req)->pid == helper;
}

int replay_greeted(struct replay *p, fuse_req_t req, const char *name)
{
	const size_t len = sizeof HELPER_GREETING - 1;
	pid_t pid = fuse_req_ctx(req)->pid;

	if (strncmp(name, HELPER_GREETING, len) != 0)
		return 0;
	scope_lock(&p->greeting);
	/* Used once. A process in a pid namespace that we do not see has no number to be known by. */
	if (!p->token[0] || strcmp(name + len, p->token) != 0 || pid == 0)
		return ENOENT;
	p->token[0] = 0;
	__atomic_store_n(&p->helper, pid, __ATOMIC_SEQ_CST);
	return HELPER_KNOWN;
}

bool replay_setattr(struct replay *p, fuse_req_t req, fuse_ino_t ino)
{
	struct stat st;

	if (!replay_is_helper(p, req))
		return false;
	int r = view_getattr(p->worker->view, ino, &st, NULL);
	if (r < 0)
		(void)fuse_reply_err(req, -r);
	else
		(void)fuse_reply_attr(req, &st, WORKER_FOREVER);
	return true;
}

bool replay_make(struct replay *p, fuse_req_t req, fuse_ino_t parent, const char *name, mode_t type)
{
	struct view_entry e;

	if (!replay_is_helper(p, req))
		return false;
	int r = listed_make(p->worker->view, parent, name, type, &e, NULL);
	if (r != 0) {
		(void)fuse_reply_err(req, r < 0 ? -r : EAGAIN);
		return true;
	}
	struct fuse_entry_param param = {.ino = e.number,
					 .attr = e.attr,
					 .attr_timeout = WORKER_FOREVER,
					 .entry_timeout = WORKER_FOREVER};
	if (fuse_reply_entry(req, &param) < 0)
		view_forget(p->worker->view, e.number, 1);
	return true;
}

bool replay_remove(struct replay *p, fuse_req_t req, fuse_ino_t parent, const char *name,
		   bool is_dir)
{
	if (!replay_is_helper(p, req))
		return false;
	int r = listed_remove(p->worker->view, parent, name, is_dir);
	if (r == 0)
		worker_count(&p->worker->replay_stats.raised, 1);
	(void)fuse_reply_err(req, r ? EAGAIN : 0);
	return true;
}

bool replay_rename(struct replay *p, fuse_req_t req, fuse_ino_t parent, const char *name,
		   fuse_ino_t to, const char *to_name)
{
	if (!replay_is_helper(p, req))
		return false;
	int r = listed_rename(p->worker->view, parent, name, to, to_name);
	if (r == 0)
		worker_count(&p->worker->replay_stats.raised, 1);
	(void)fuse_reply_err(req, r ? EAGAIN : 0);
	return true;
}
