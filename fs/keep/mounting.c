/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mount of a workspace: made, given to a worker, shown a generation, looked after when the worker dies, taken
 * over from an earlier keeper.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "inlay/io.h"
#include "keep/host.h"
#include "keep/kernel_mount.h"
#include "keep/root.h"
#include "keep/written.h"

enum {
	QUICK_DEATHS_MAX = 5,
};

static const int64_t ready_timeout_ns = 20ll * 1000000000;
static const int64_t show_timeout_ns = 120ll * 1000000000;
static const int64_t replay_wait_ns = 2ll * 1000000000;
static const int64_t quick_death_ns = 10ll * 1000000000;

/* ---- the worker's process ---- */

static int spawn_worker(struct inlay_workspace *ws, int fuse_fd, int ready_fd, pid_t *ret,
			struct inlay_error *err)
{
	char ws_path[INLAY_HOST_PATH_MAX + 64], store_path[INLAY_HOST_PATH_MAX + 64];
	char name[] = "inlayd", verb[] = "mount", path_opt[] = "--workspace",
	     store_opt[] = "--store", point_opt[] = "--point";

	(void)snprintf(ws_path, sizeof ws_path, "%s/ws/%s", ws->host->state_path, ws->state.id);
	(void)snprintf(store_path, sizeof store_path, "%s/store", ws->host->state_path);
	char upper_opt[] = "--upper", xattrs[] = "--xattrs", owners[] = "--keep-owners";
	char upper[2] = {(char)('0' + ws->state.policy.upper), 0};
	char *argv[14] = {name,       verb,      path_opt,       ws_path,   store_opt,
			  store_path, point_opt, ws->state.path, upper_opt, upper};
	size_t argc = 10;
	if (ws->state.policy.xattrs)
		argv[argc++] = xattrs;
	if (ws->state.policy.keep_owners)
		argv[argc++] = owners;
	return host_spawn(ws->host, "the mount's worker", argv, (const int[]){fuse_fd, ready_fd}, 2,
			  ret, err);
}

/* The worker writes a byte when it listens; its end closes the pipe. */
static int wait_ready(int fd, struct inlay_error *err)
{
	int64_t until = inlay_monotonic_ns() + ready_timeout_ns;
	char byte;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int64_t left = until - inlay_monotonic_ns();
		int n = poll(&p, 1, left > 0 ? (int)(left / 1000000) : 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return inlay_error_set(err, -ETIMEDOUT,
					       "the mount's worker does not start");
		if (read(fd, &byte, 1) == 1)
			return 0;
		return inlay_error_set(err, -ECHILD,
				       "the mount's worker ended at once; keeper.log says why");
	}
}

static void kill_worker(struct inlay_workspace *ws)
{
	if (ws->state.worker_pid > 0)
		(void)kill(ws->state.worker_pid, SIGKILL);
}

/* ---- the link ---- */

static void on_damaged(void *ctx, const struct inlay_digest *id)
{
	struct inlay_workspace *ws = ctx;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(id, hex);
	(void)!inlay_store_drop(ws->host->store, id, NULL);
	scope_lock(&ws->lock);
	if (inlay_idset_add(&ws->damaged, id, NULL) == 0)
		host_log(ws->host, "%s: object %s is damaged; the next sync sends it again",
			 ws->state.path, hex);
}

static void on_replayed(void *ctx, uint64_t number)
{
	struct inlay_workspace *ws = ctx;

	scope_lock(&ws->lock);
	if (number > ws->state.replayed)
		ws->state.replayed = number;
	(void)pthread_cond_broadcast(&ws->raised);
}

bool workspace_wait_replayed(struct inlay_workspace *ws, uint64_t number, int64_t wait_ns)
{
	int64_t until = inlay_now_ns() + wait_ns;
	struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
	int r = 0;

	scope_lock(&ws->lock);
	while (ws->link && !ws->link_ended && ws->state.replayed < number && r == 0)
		r = pthread_cond_timedwait(&ws->raised, &ws->lock, &ts);
	return ws->state.replayed >= number;
}

static void on_ended(void *ctx)
{
	struct inlay_workspace *ws = ctx;

	{
		scope_lock(&ws->lock);
		ws->link_ended = true;
		(void)pthread_cond_broadcast(&ws->raised);
	}
	host_wake(ws->host);
}

static void drop_link(struct inlay_workspace *ws)
{
	struct link *l;
	int fd;

	{
		scope_lock(&ws->lock);
		l = take_ptr(ws->link);
		fd = take_fd(ws->fuse_fd);
		ws->state.mounted = false;
		ws->link_ended = false;
	}
	link_close(l);
	inlay_cleanup_close(&fd);
}

static int open_link(struct inlay_workspace *ws, struct worker_msg *ret_hello,
		     struct inlay_error *err)
{
	struct link_events events = {
		.damaged = on_damaged, .replayed = on_replayed, .ended = on_ended, .ctx = ws};
	struct link *l;
	int fd;
	int r = link_open(ws->dir_fd, &events, &l, ret_hello, &fd, err);

	if (r != 0)
		return r;
	scope_lock(&ws->lock);
	ws->link = l;
	ws->fuse_fd = fd;
	ws->state.worker_pid = ret_hello->pid;
	return 0;
}

static int ask_show(struct inlay_workspace *ws, const struct inlay_generation *gen,
		    struct inlay_error *err)
{
	struct worker_msg m = {.type = WORKER_SHOW, .gen = *gen};
	struct worker_msg durable = {.type = WORKER_DURABLE};

	int r = link_ask(ws->link, &m, NULL, show_timeout_ns, err);
	{
		scope_lock(&ws->lock);
		durable.gen.number = ws->state.durable;
	}
	return r < 0 ? r : link_tell(ws->link, &durable, err);
}

/* ---- making the mount ---- */

static int give_to_worker(struct inlay_workspace *ws, int fuse_fd, struct inlay_error *err)
{
	int ready[2];
	struct worker_msg hello;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	int r = spawn_worker(ws, fuse_fd, ready[1], &pid, err);
	(void)close(ready[1]);
	if (r == 0)
		r = wait_ready(ready[0], err);
	(void)close(ready[0]);
	if (r == 0)
		r = open_link(ws, &hello, err);
	if (r == LINK_NOBODY)
		r = inlay_error_set(err, -ECHILD, "the mount's worker does not listen");
	return r;
}

static void mounted(struct inlay_workspace *ws, bool everybody)
{
	scope_lock(&ws->lock);
	ws->state.mounted = true;
	ws->state.everybody = everybody;
	ws->state.mount_text[0] = 0;
	ws->state.worker_starts++;
	ws->last_start_ns = inlay_monotonic_ns();
}

static void not_mounted(struct inlay_workspace *ws, const struct inlay_error *err)
{
	scope_lock(&ws->lock);
	(void)snprintf(ws->state.mount_text, sizeof ws->state.mount_text, "%.255s", err->text);
}

int workspace_start_mount(struct inlay_workspace *ws, struct inlay_error *err)
{
	auto_close int fuse_fd = -1;
	struct inlay_error cause = {0};
	bool everybody;

	/* What an earlier worker left is dead: nobody can be hurt by taking it away. */
	int r = kernel_umount(ws->state.path, true, &cause);
	if (r >= 0)
		r = kernel_mount(ws->state.path, &fuse_fd, &everybody, &cause);
	if (r == 0) {
		r = give_to_worker(ws, fuse_fd, &cause);
		if (r == 0)
			r = ask_show(ws, &ws->state.live, &cause);
		if (r < 0) {
			kill_worker(ws);
			drop_link(ws);
			(void)!kernel_umount(ws->state.path, true, NULL);
		}
	}
	if (r == 0) {
		mounted(ws, everybody);
		host_log(ws->host, "%s: mounted, generation %llu, worker %d", ws->state.path,
			 (unsigned long long)ws->state.live.number, ws->state.worker_pid);
		workspace_apply_redirects(ws);
		workspace_enter_root(ws);
		return 0;
	}
	not_mounted(ws, &cause);
	host_log(ws->host, "%s: not mounted: %s", ws->state.path, cause.text);
	if (err)
		*err = cause;
	return r;
}

/* The worker of an earlier keeper goes on with this one; what it shows is the live generation. */
int workspace_adopt_mount(struct inlay_workspace *ws, struct inlay_error *err)
{
	struct worker_msg hello;
	int r = open_link(ws, &hello, err);

	if (r != 0)
		return r < 0 ? r : inlay_error_set(err, -ENOENT, "there is no worker");
	if (!kernel_mount_there(ws->state.path)) {
		drop_link(ws);
		return inlay_error_set(err, -ENOENT, "its mount is gone");
	}
	mounted(ws, geteuid() == 0);
	struct worker_msg durable = {.type = WORKER_DURABLE, .gen = {.number = ws->state.durable}};
	r = link_tell(ws->link, &durable, err);
	if (r < 0)
		return r;
	{
		scope_lock(&ws->lock);
		if (hello.gen.number > ws->state.live.number) {
			ws->state.live = hello.gen;
			workspace_want_durable(ws);
		}
	}
	ws->state.replayed = ws->state.live.number;
	workspace_apply_redirects(ws);
	workspace_enter_root(ws);
	host_log(ws->host, "%s: taken over from worker %d, generation %llu", ws->state.path,
		 hello.pid, (unsigned long long)hello.gen.number);
	return 0;
}

/* Shows a generation in the mount, if there is one. A worker that fails is replaced. */
int workspace_show(struct inlay_workspace *ws, const struct inlay_generation *gen,
		   struct inlay_error *err)
{
	struct inlay_error cause = {0};

	if (!ws->link)
		return 0;
	int r = ask_show(ws, gen, &cause);
	if (r == 0) {
		/* A generation without the directory took its bind away. */
		workspace_apply_redirects(ws);
		return 0;
	}
	host_log(ws->host, "%s: %s; the worker is replaced", ws->state.path, cause.text);
	kill_worker(ws);
	drop_link(ws);
	struct inlay_generation was = ws->state.live;
	ws->state.live =
		*gen; /* what the new worker is to show; nobody else reads it under `change` */
	r = workspace_start_mount(ws, err);
	ws->state.live = was;
	return r;
}

/* ---- looking after it ---- */

/* Called by the main thread when a worker's link ended. */
void workspace_look_after(struct inlay_workspace *ws)
{
	bool ended;

	scope_lock(&ws->change);
	{
		scope_lock(&ws->lock);
		ended = ws->link_ended;
		if (ended && inlay_monotonic_ns() - ws->last_start_ns < quick_death_ns)
			ws->quick_deaths++;
		else if (ended)
			ws->quick_deaths = 0;
	}
	if (!ended)
		return;
	drop_link(ws);
	if (!ws->state.mount_wanted || ws->removed)
		return;
	if (!kernel_mount_there(ws->state.path)) {
		host_log(ws->host, "%s: was unmounted by somebody", ws->state.path);
		return;
	}
	host_log(ws->host, "%s: worker %d died", ws->state.path, ws->state.worker_pid);
	if (ws->quick_deaths >= QUICK_DEATHS_MAX) {
		struct inlay_error e = {0};
		(void)inlay_error_set(&e, -ECHILD, "its worker died %u times in a row",
				      ws->quick_deaths);
		(void)!kernel_umount(ws->state.path, true, NULL);
		not_mounted(ws, &e);
		return;
	}
	if (workspace_start_mount(ws, NULL) == 0)
		workspace_restart_programs(ws, "the mount it ran in died");
}

/* ---- for sessions ---- */

int inlay_workspace_mount(struct inlay_workspace *ws, enum inlay_workspace_mount_flags flags,
			  struct inlay_error *err)
{
	scope_lock(&ws->change);
	int r = 0;

	if (ws->state.live.number == 0)
		return INLAY_HOST_MISSING;
	bool there = ws->state.mounted && !ws->link_ended && kernel_mount_there(ws->state.path);
	if (!there) {
		drop_link(ws);
		ws->quick_deaths = 0;
		r = workspace_start_mount(ws, err);
	}
	if (r < 0)
		return r;
	{
		scope_lock(&ws->lock);
		if (!ws->state.mount_wanted) {
			ws->state.mount_wanted = true;
			r = workspace_save(ws, err);
		}
	}
	if (r == 0 && (flags & INLAY_MOUNT_BOOT))
		r = host_register_boot(ws->host, err);
	return r;
}

int inlay_workspace_set_policy(struct inlay_workspace *ws, const struct inlay_mount_policy *policy,
			       struct inlay_error *err)
{
	struct inlay_mount_policy *now = &ws->state.policy;

	scope_lock(&ws->change);
	if (now->upper == policy->upper && now->xattrs == policy->xattrs &&
	    now->keep_owners == policy->keep_owners)
		return 0;
	bool there = ws->state.mounted && kernel_mount_there(ws->state.path);
	int r = there ? workspace_leave_root(ws, false, err) : 0;
	if (r == 0 && there) {
		r = kernel_umount(ws->state.path, false, err);
		if (r < 0)
			workspace_enter_root(ws);
	}
	if (r < 0)
		return r;
	drop_link(ws);
	{
		scope_lock(&ws->lock);
		*now = *policy;
		r = workspace_save(ws, err);
	}
	return there && r == 0 ? workspace_start_mount(ws, err) : r;
}

static int count_wanted(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	(void)err;
	scope_lock(&ws->lock);
	*(unsigned *)ctx += ws->state.mount_wanted;
	return 0;
}

int inlay_workspace_umount(struct inlay_workspace *ws, bool lazy, struct inlay_error *err)
{
	scope_lock(&ws->change);
	int r = 0;
	{
		scope_lock(&ws->lock);
		if (ws->state.mount_wanted) {
			ws->state.mount_wanted = false;
			r = workspace_save(ws, err);
		}
	}
	if (r < 0)
		return r;
	/* The replay works in the mount, which then is in use. */
	if (!lazy)
		(void)workspace_wait_replayed(ws, ws->state.live.number, replay_wait_ns);
	r = workspace_leave_root(ws, lazy, err);
	if (r == 0)
		r = workspace_drop_redirects(ws, lazy, err);
	if (r == 0) {
		r = kernel_umount(ws->state.path, lazy, err);
		if (r < 0)
			workspace_apply_redirects(ws);
	}
	if (r < 0)
		workspace_enter_root(ws);
	if (r < 0) {
		scope_lock(&ws->lock);
		ws->state.mount_wanted = true;
		(void)!workspace_save(ws, NULL);
		return r;
	}
	drop_link(ws);
	unsigned wanted = 0;
	(void)!inlay_host_each(ws->host, count_wanted, &wanted, NULL);
	if (wanted == 0)
		host_unregister_boot(ws->host);
	return 0;
}
