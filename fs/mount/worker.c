/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "mount/privs.h"
#include "mount/seeking.h"
#include "mount/worker.h"
#include "upper/upper.h"

enum {
	TREE_CACHE_BYTES = 4 << 20, /* each of the two caches */
	THREADS_MAX = 16,           /* some may wait for the disk */
	THREADS_IDLE = 4,
};

static const char *policy_name(enum inlay_upper_policy policy)
{
	static const char *const names[] = {"keep", "source-wins", "read-only"};

	return names[policy];
}

static void write_status(void *ctx, struct inlay_buf *b)
{
	struct worker *w = ctx;
	struct view_usage u;
	struct replay_stats p;

	view_usage(w->view, &u);
	replay_get_stats(&w->replay, &p);
	inlay_buf_printf(b,
			 "pid: %d\n"
			 "requests: %llu\n"
			 "reads: %llu\n"
			 "read bytes: %llu\n"
			 "errors: %llu\n"
			 "generations shown: %llu\n"
			 "kernel notes: %llu\n"
			 "nodes: %llu\n"
			 "node bytes: %llu\n"
			 "upper: %s\n"
			 "upper names: %llu\n"
			 "orphans written: %llu\n"
			 "journal bytes: %llu\n"
			 "journal damages: %llu\n",
			 (int)getpid(), worker_counted(&w->stats.requests),
			 worker_counted(&w->stats.reads), worker_counted(&w->stats.read_bytes),
			 worker_counted(&w->stats.errors), worker_counted(&w->stats.switches),
			 worker_counted(&w->stats.notes), (unsigned long long)u.nodes,
			 (unsigned long long)u.table_bytes, policy_name(w->policy),
			 (unsigned long long)u.upper_names, (unsigned long long)u.orphans,
			 (unsigned long long)u.journal_bytes, (unsigned long long)u.upper_damaged);
	inlay_buf_printf(b,
			 "replayed: %llu\n"
			 "events raised: %llu\n"
			 "events waiting: %llu\n"
			 "events missed: %llu\n"
			 "watched nodes: %llu\n"
			 "looks for watches: %llu\n"
			 "last look us: %llu\n",
			 (unsigned long long)p.replayed, (unsigned long long)p.raised,
			 (unsigned long long)p.waiting, (unsigned long long)p.missed,
			 (unsigned long long)p.watched, (unsigned long long)p.looks,
			 (unsigned long long)p.look_ns / 1000);
}

static int open_parts(struct worker *w, const struct inlay_mount_options *o,
		      struct inlay_error *err)
{
	int r = inlay_store_open(AT_FDCWD, o->store_path, 0, &w->store, err);

	if (r == INLAY_STORE_MISSING)
		return inlay_error_set(err, -ENOENT, "there is no store at %s", o->store_path);
	if (r < 0)
		return r;
	w->store_fd = open(o->store_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->store_fd < 0)
		return inlay_error_sys(err, -errno, "open %s", o->store_path);
	auto_close int dir = open(o->workspace_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return inlay_error_sys(err, -errno, "open %s", o->workspace_path);
	r = upper_open(dir, o->policy.upper == INLAY_UPPER_READ_ONLY, &w->upper, err);
	if (r < 0)
		return r;
	w->xattrs = o->policy.xattrs;
	w->policy = o->policy.upper;
	struct view_options view = {.store = w->store,
				    .upper = w->upper,
				    .policy = o->policy.upper,
				    .callers_own = geteuid() == 0,
				    .uid = o->uid,
				    .gid = o->gid,
				    .keep_owners = o->policy.keep_owners,
				    .tree_cache_bytes = TREE_CACHE_BYTES};
	r = view_new(&view, &w->view, err);
	if (r == 0)
		r = inlay_trees_new(w->store, TREE_CACHE_BYTES, &w->trees, err);
	if (r < 0)
		return r;
	struct control_options control = {.view = w->view,
					  .trees = w->trees,
					  .uid = o->uid,
					  .gid = o->gid,
					  .status = write_status,
					  .ctx = w};
	return control_new(&control, &w->control, err);
}

static int open_session(struct worker *w, struct inlay_error *err)
{
	char name[] = "inlayd";
	char *argv[] = {name, NULL};
	struct fuse_args args = {.argc = 1, .argv = argv};

	w->session = fuse_session_new(&args, &worker_ops, sizeof worker_ops, w);
	fuse_opt_free_args(&args);
	if (!w->session)
		return inlay_error_set(err, -ENOMEM, "libfuse: no session");
	return privs_attach(w, err);
}

static int listen_to_keeper(struct worker *w, const struct inlay_mount_options *o, pthread_t *ret,
			    struct inlay_error *err)
{
	auto_close int dir = open(o->workspace_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return inlay_error_sys(err, -errno, "open %s", o->workspace_path);
	int r = inlay_unix_listen(dir, INLAY_MOUNT_SOCKET, SOCK_SEQPACKET, &w->listen_fd, err);
	if (r < 0)
		return r;
	r = pthread_create(ret, NULL, worker_listen, w);
	if (r != 0)
		return inlay_error_sys(err, -r, "start a thread");
	if (o->ready_fd >= 0) {
		(void)!write(o->ready_fd, "r", 1);
		(void)close(o->ready_fd);
	}
	return 0;
}

/* False when the keeper went away before it had something to show. */
static bool wait_until_shown(struct worker *w)
{
	scope_lock(&w->lock);
	while (!w->shown)
		(void)pthread_cond_wait(&w->shown_cond, &w->lock);
	return !w->gone;
}

static int loop(struct worker *w, struct inlay_error *err)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	if (!config)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
	fuse_loop_cfg_set_idle_threads(config, THREADS_IDLE);
	fuse_loop_cfg_set_clone_fd(config, 0);
	int r = fuse_session_loop_mt(w->session, config);
	fuse_loop_cfg_destroy(config);
	return r < 0 ? inlay_error_sys(err, r, "the mount's loop") : 0;
}

int inlay_mount_serve(const struct inlay_mount_options *options, struct inlay_error *err)
{
	/* The process serves one mount and ends with it. The listener goes on until then, so what it
	 * uses must not be on this stack. */
	static struct worker w = {.store_fd = -1,
				  .listen_fd = -1,
				  .conn = -1,
				  .lock = PTHREAD_MUTEX_INITIALIZER,
				  .shown_cond = PTHREAD_COND_INITIALIZER,
				  .durable_cond = PTHREAD_COND_INITIALIZER};
	pthread_t listener;

	w.fuse_fd = options->fuse_fd;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	int r = open_parts(&w, options, err);
	if (r == 0)
		r = open_session(&w, err);
	if (r == 0)
		r = seeking_start(&w, err);
	if (r == 0)
		r = view_start_reaping(w.view, err);
	if (r == 0)
		r = replay_start(&w.replay, &w, options->mount_point, err);
	if (r == 0)
		r = listen_to_keeper(&w, options, &listener, err);
	if (r < 0)
		return r;
	if (wait_until_shown(&w)) {
		r = loop(&w, err);
		upper_unlock(w.upper);
		(void)view_reap(w.view);
	}
	return r; /* nothing is taken apart */
}
