/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "inlay/imagetree.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "keep/connect.h"
#include "keep/host.h"

enum {
	TREE_CACHE_BYTES = 4 << 20,
	GC_EVERY_S = 3600,
	GC_GRACE_S = 3600,
	SESSION_STACK_BYTES = 1 << 20,
};

/* ---- starting ---- */

static int take_lock(struct inlay_host *host, int *ret_fd, struct inlay_error *err)
{
	int fd = openat(host->state_fd, KEEP_LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return inlay_error_sys(err, -errno, "open keeper.lock");
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int r = errno == EWOULDBLOCK ? INLAY_HOST_LOCKED
					     : inlay_error_sys(err, -errno, "lock keeper.lock");
		(void)close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int open_store(struct inlay_host *host, struct inlay_error *err)
{
	int r = inlay_store_open(host->state_fd, "store", INLAY_STORE_CREATE | INLAY_STORE_WRITE,
				 &host->store, err);

	if (r == INLAY_STORE_LOCKED)
		return inlay_error_set(err, -EWOULDBLOCK, "another process writes to the store");
	if (r == 0)
		r = inlay_trees_new(host->store, TREE_CACHE_BYTES, &host->trees, err);
	return r;
}

/* Mounts what is to be mounted: the worker of an earlier keeper goes on, otherwise a new one starts. */
static int bring_up(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	if (!ws->state.mount_wanted)
		return 0;
	scope_lock(&ws->change);
	if (workspace_adopt_mount(ws, NULL) < 0 && ws->state.live.number > 0)
		(void)!workspace_start_mount(ws, NULL);
	return 0;
}

/* Behind the mounts, which programs run in. */
static int bring_up_programs(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	workspace_start_programs(ws);
	return 0;
}

/* What packs and loose files may have: a size in the file `quota`, if there is one. */
static int set_quota(struct inlay_host *host, struct inlay_error *err)
{
	enum { TEXT_MAX = 64 };
	auto_buf struct inlay_buf b = {0};
	struct inlay_error why;
	uint64_t bytes;
	int r = inlay_read_file(host->state_fd, "quota", TEXT_MAX, &b, err);

	if (r != 0)
		return r == INLAY_IO_MISSING ? 0 : r;
	while (b.len > 0 && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == ' '))
		b.len--;
	if (inlay_parse_size(inlay_buf_cstr(&b), &bytes, &why) < 0)
		return inlay_error_set(err, -EINVAL, "%s/quota: %s", host->state_path, why.text);
	inlay_store_set_quota(host->store, bytes);
	return 0;
}

static int open_host(struct inlay_host *host, const char *state, int *ret_lock,
		     struct inlay_error *err)
{
	int r = inlay_open_dir(AT_FDCWD, state, 0700, &host->state_fd, err);

	if (r == 0)
		r = take_lock(host, ret_lock, err);
	if (r != 0)
		return r;
	host->state_path = realpath(state, NULL);
	if (!host->state_path)
		return inlay_error_sys(err, -errno, "resolve %s", state);
	host->log_fd = openat(host->state_fd, "keeper.log",
			      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	host->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	host->programs_fd = epoll_create1(EPOLL_CLOEXEC);
	if (host->log_fd < 0 || host->wake_fd < 0 || host->programs_fd < 0)
		return inlay_error_sys(err, -errno, "set up %s", state);
	r = open_store(host, err);
	if (r == 0)
		r = set_quota(host, err);
	return r < 0 ? r : host_load_workspaces(host, err);
}

/* ---- sessions ---- */

struct session {
	struct inlay_host *host;
	void (*serve)(struct inlay_host *host, int rfd, int wfd);
	int control; /* closed when it is over: serve waits for that */
	int rfd, wfd;
};

static void *run_session(void *arg)
{
	struct session s = *(struct session *)arg;

	free(arg);
	s.serve(s.host, s.rfd, s.wfd);
	{
		scope_lock(&s.host->lock);
		s.host->sessions--;
	}
	(void)close(s.control);
	host_wake(s.host);
	return NULL;
}

static void start_session(const struct session *s)
{
	struct session *copy = malloc(sizeof *copy);
	pthread_attr_t attr;
	pthread_t thread;

	{
		scope_lock(&s->host->lock);
		s->host->sessions++;
	}
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&attr, SESSION_STACK_BYTES);
	if (copy)
		*copy = *s;
	if (!copy || pthread_create(&thread, &attr, run_session, copy) != 0) {
		free(copy);
		(void)close(s->control);
		(void)close(s->rfd);
		(void)close(s->wfd);
		scope_lock(&s->host->lock);
		s->host->sessions--;
	}
	(void)pthread_attr_destroy(&attr);
}

/* ---- the main loop ---- */

struct loop {
	struct inlay_host *host;
	const struct inlay_keep_options *options;
	int listen_fd, signal_fd;
	int64_t idle_since_ns, last_gc_ns;
	bool end;
};

const char keep_version[] = INLAY_VERSION;

/* Is this keeper older than who asks? Its mounts and programs go on without it, and with the next one. */
static bool is_older(const struct keep_msg *m)
{
	return m->protocol > KEEP_PROTOCOL ||
	       (m->protocol == KEEP_PROTOCOL && strverscmp(m->version, keep_version) > 0);
}

static void accept_serve(struct loop *l)
{
	struct timeval patience = {.tv_sec = 2};
	auto_close int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	int fds[INLAY_UNIX_FDS];
	struct keep_msg m;
	size_t n;

	if (fd < 0)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (inlay_unix_recv(fd, &m, sizeof m, &n, fds, NULL) < 0)
		return;
	bool whole = n == sizeof m;
	m.version[sizeof m.version - 1] = 0;
	bool older = whole && is_older(&m);
	if (whole && (m.verb == KEEP_STOP || (m.verb == KEEP_YIELD && older))) {
		l->end = true;
		(void)take_fd(fd); /* closed by the end of the process: that is the answer */
	} else if (whole && m.verb == KEEP_SESSION && m.protocol == KEEP_PROTOCOL && !older &&
		   fds[0] >= 0 && fds[1] >= 0) {
		struct session s = {.host = l->host,
				    .serve = l->options->session,
				    .rfd = take_fd(fds[0]),
				    .wfd = take_fd(fds[1])};
		struct keep_reply reply = {.protocol = KEEP_PROTOCOL};
		(void)!inlay_unix_send(fd, &reply, sizeof reply, NULL, 0, NULL);
		s.control = take_fd(fd);
		start_session(&s);
	} else if (whole) {
		struct keep_reply reply = {.protocol = KEEP_PROTOCOL,
					   .result = older ? -ESTALE : -EPROTO};
		(void)!inlay_unix_send(fd, &reply, sizeof reply, NULL, 0, NULL);
	}
	for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
		inlay_cleanup_close(&fds[i]);
}

static int look_after(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	workspace_look_after(ws);
	return 0;
}

static int count_needed(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	(void)err;
	*(unsigned *)ctx += workspace_wanted_programs(ws);
	scope_lock(&ws->lock);
	*(unsigned *)ctx += ws->state.mounted || ws->state.mount_wanted;
	return 0;
}

static bool idle(struct loop *l)
{
	unsigned needed = 0;

	(void)!inlay_host_each(l->host, count_needed, &needed, NULL);
	scope_lock(&l->host->lock);
	return needed == 0 && l->host->sessions == 0;
}

static void *run_gc(void *arg)
{
	struct inlay_host *host = arg;
	struct inlay_store_sweep sweep;
	struct inlay_error err = {0};

	if (inlay_host_gc(host, GC_GRACE_S * 1000000000ll, &sweep, &err) < 0)
		host_log(host, "gc: %s", err.text);
	else if (sweep.removed)
		host_log(host, "gc: %llu objects went, %llu bytes freed",
			 (unsigned long long)sweep.removed, (unsigned long long)sweep.freed_bytes);
	return NULL;
}

static void gc_now_and_then(struct loop *l)
{
	int64_t now = inlay_monotonic_ns();
	pthread_t thread;
	uint64_t commits;

	if (now - l->last_gc_ns < GC_EVERY_S * 1000000000ll)
		return;
	l->last_gc_ns = now;
	{
		scope_lock(&l->host->lock);
		commits = l->host->commits;
		l->host->commits = 0;
	}
	if (commits && pthread_create(&thread, NULL, run_gc, l->host) == 0)
		(void)pthread_detach(thread);
}

/* How long to sleep, in ms; -1 without end. Ends the loop when it was idle long enough. */
static int patience(struct loop *l)
{
	int64_t now = inlay_monotonic_ns();

	gc_now_and_then(l);
	if (l->options->idle_ns == 0 || !idle(l)) {
		l->idle_since_ns = now;
		return GC_EVERY_S * 1000;
	}
	int64_t left = l->idle_since_ns + l->options->idle_ns - now;
	if (left <= 0) {
		l->end = true;
		return 0;
	}
	return (int)(left / 1000000 + 1);
}

static void run_loop(struct loop *l)
{
	l->idle_since_ns = l->last_gc_ns = inlay_monotonic_ns();
	while (!l->end) {
		struct pollfd fds[] = {{.fd = l->listen_fd, .events = POLLIN},
				       {.fd = l->signal_fd, .events = POLLIN},
				       {.fd = l->host->wake_fd, .events = POLLIN},
				       {.fd = l->host->programs_fd, .events = POLLIN}};
		int ms = patience(l);
		if (l->end || poll(fds, 4, ms) <= 0)
			continue;
		if (fds[1].revents) {
			struct signalfd_siginfo si;
			(void)!read(l->signal_fd, &si, sizeof si);
			l->end |= si.ssi_signo != SIGCHLD;
			host_reap(l->host);
		}
		if (fds[2].revents) {
			uint64_t count;
			(void)!read(l->host->wake_fd, &count, sizeof count);
			(void)!inlay_host_each(l->host, look_after, NULL, NULL);
			host_reap(l->host);
		}
		if (fds[3].revents)
			host_look_after_programs(l->host);
		if (fds[0].revents)
			accept_serve(l);
	}
}

/* ---- ending ---- */

static int leave_worker(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	(void)ctx;
	(void)err;
	scope_lock(&ws->change);
	struct link *l;
	{
		scope_lock(&ws->lock);
		l = take_ptr(ws->link);
	}
	link_close(l);
	return 0;
}

/*
 * The workers go on without us. Sessions are cut by the end of the process; with none under way the
 * store is closed cleanly, otherwise the next keeper verifies its tail.
 */
static void end_host(struct inlay_host *host, pthread_t durable)
{
	unsigned sessions;

	{
		scope_lock(&host->lock);
		host->ending = true;
		sessions = host->sessions;
		(void)pthread_cond_signal(&host->durable_cond);
	}
	(void)pthread_join(durable, NULL);
	(void)!inlay_host_each(host, leave_worker, NULL, NULL);
	if (sessions == 0) {
		inlay_imagetrees_close(host->images);
		inlay_store_close(host->store);
	}
	if (sessions > 0)
		(void)!inlay_store_sync(host->store, NULL);
}

static int block_signals(int *ret_fd, struct inlay_error *err)
{
	static const int heard[] = {SIGTERM, SIGINT, SIGCHLD, 0};

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	return inlay_signal_fd(heard, ret_fd, err);
}

int inlay_keep(const struct inlay_keep_options *options, struct inlay_error *err)
{
	static struct inlay_host host = {.receiving = PTHREAD_RWLOCK_INITIALIZER,
					 .lock = PTHREAD_MUTEX_INITIALIZER,
					 .durable_cond = PTHREAD_COND_INITIALIZER,
					 .state_fd = -1,
					 .wake_fd = -1,
					 .programs_fd = -1,
					 .log_fd = -1};
	struct loop l = {.host = &host, .options = options, .listen_fd = -1, .signal_fd = -1};
	pthread_t durable;
	int lock = -1;

	int r = block_signals(&l.signal_fd, err);
	if (r == 0)
		r = open_host(&host, options->state, &lock, err);
	if (r == 0)
		r = inlay_unix_listen(host.state_fd, KEEP_SOCKET, SOCK_SEQPACKET, &l.listen_fd,
				      err);
	if (r == 0) {
		r = pthread_create(&durable, NULL, host_durable_thread, &host);
		r = r ? inlay_error_sys(err, -r, "start a thread") : 0;
	}
	if (r != 0)
		return r;
	host_log(&host, "keeper %d of inlay %s started", (int)getpid(), INLAY_VERSION);
	(void)!inlay_host_each(&host, bring_up, NULL, NULL);
	(void)!inlay_host_each(&host, bring_up_programs, NULL, NULL);
	if (options->ready_fd >= 0) {
		(void)!write(options->ready_fd, "r", 1);
		(void)close(options->ready_fd);
	}
	run_loop(&l);
	host_log(&host, "keeper %d ends", (int)getpid());
	(void)unlinkat(host.state_fd, KEEP_SOCKET, 0);
	end_host(&host, durable);
	return 0;
}
