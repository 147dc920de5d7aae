/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_HOST_H
#define KEEP_HOST_H

/*
 * The keeper's state. Threads: the main one (sockets, signals, dead workers), one for each session, one for each
 * worker's messages (link.c), and one that makes generations durable (durability.c).
 *
 * Locks, in the order in which they are taken:
 *     workspace.change   one commit, mount or unmount at a time; held over waits for the worker
 *     workspace.programs one change of its programs at a time; held over waits for supervisors
 *     workspace.lock     the fields of the workspace; short
 *     host.lock          the list of workspaces, counters; short
 */

#include <pthread.h>
#include <sys/queue.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "inlay/host.h"
#include "keep/link.h"

enum {
	KEEP_PROTOCOL = 1,       /* between serve and keeper */
	KEEP_NUMBERS_AHEAD = 64, /* generation numbers that a ref reserves */
};

struct inlay_workspace {
	pthread_mutex_t change;
	pthread_mutex_t programs; /* programs.c: one change of them at a time */
	unsigned program_deaths;  /* `programs`: supervisors in a row that died soon */
	pthread_mutex_t lock;     /* everything below */
	pthread_cond_t unowned;   /* state.owner became empty */
	pthread_cond_t raised;    /* state.replayed grew, or the link ended */
	struct inlay_host *host;
	unsigned refs; /* host.lock */
	int dir_fd;    /* ws/<id> */
	struct inlay_workspace_state state;
	uint64_t reserved; /* numbers up to this one may have been given away */
	bool publish;      /* state.live is to be made durable */
	bool removed;
	int watch_fd;                     /* borrowed from the session */
	uint64_t lease;                   /* of the session that holds the lock, 0 = none */
	bool taken_over;                  /* that session shall end */
	char thief[INLAY_HOST_OWNER_MAX]; /* who made it end with --steal; "" = its own successor */
	struct inlay_idset damaged;
	struct inlay_buf redirects; /* paths, a NUL behind each; changed with both locks held */
	int fuse_fd;                /* -1 = not mounted */
	struct link *link;          /* to the worker; NULL = none */
	bool link_ended;            /* the main thread shall look after it */
	int64_t last_start_ns;      /* monotonic; of the worker */
	unsigned quick_deaths;      /* workers in a row that died soon after their start */
};

struct inlay_host {
	pthread_rwlock_t receiving;  /* shared: objects are coming that no generation names yet; gc
				     * takes it exclusively. Before all other locks. */
	pthread_mutex_t lock;        /* everything below that is not fixed at the start */
	pthread_cond_t durable_cond; /* durability.c: there is something to do */
	char *state_path;            /* fixed, absolute */
	int state_fd;                /* fixed */
	int wake_fd;                 /* fixed: an eventfd that wakes the main thread */
	int programs_fd;             /* fixed: an epoll of connections to supervisors */
	LIST_HEAD(, watch) watches;  /* of supervisors, with lock */
	int log_fd;
	struct inlay_store *store;       /* fixed */
	struct inlay_trees *trees;       /* fixed */
	struct inlay_imagetrees *images; /* opened when first asked for; lock */
	struct inlay_workspace **workspaces;
	size_t count, cap;
	unsigned sessions;
	pid_t *children; /* workers that were started here and not yet waited for */
	size_t child_count, child_cap;
	uint64_t commits; /* since the last gc */
	bool durable_wanted, ending;
};

/* host.c */

/* A line in keeper.log, with the time. */
void host_log(struct inlay_host *host, const char *fmt, ...) inlay_printf(2, 3);
/* Makes the main thread look after workspaces whose worker ended. */
void host_wake(struct inlay_host *host);

/* The main thread waits for the process when it ends. */
void host_add_child(struct inlay_host *host, pid_t pid);
/* ... which is this, without blocking. Only for those: other children have a thread that waits for them. */
void host_reap(struct inlay_host *host);
/* Starts this program anew as a session of its own, with fds[i] as descriptor 3 + i, and adds it to the children;
 * `what` is for the error. */
int host_spawn(struct inlay_host *host, const char *what, char *const argv[], const int fds[],
	       size_t count, pid_t *ret, struct inlay_error *err) inlay_must_check;
/* For one that is in no list yet or any more; NULL is nothing. */
void workspace_free(struct inlay_workspace *ws);

/* workspace.c: reads ws/ at the start. */
int host_load_workspaces(struct inlay_host *host, struct inlay_error *err) inlay_must_check;
/* Writes ws/<id>/workspace. Called with ws->lock held. */
int workspace_save(struct inlay_workspace *ws, struct inlay_error *err) inlay_must_check;

/* The one absolute name of the place; `create` makes its parents. */
int workspace_canonical_path(const char *path, bool create, char ret[static INLAY_HOST_PATH_MAX],
			     struct inlay_error *err) inlay_must_check;
/* The name of its directory below ws/. */
void workspace_id_of_path(const char *path, char ret[static 17]);

/* complete.c: adds objects that `after` needs beyond `before` (zeros = nothing) and that the store does not
 * have, up to a bounded number. */
int host_missing(struct inlay_host *host, const struct inlay_digest *before,
		 const struct inlay_digest *after, struct inlay_idset *missing,
		 struct inlay_error *err) inlay_must_check;

/* durability.c */
void *host_durable_thread(void *host);
/* The live generation is to be made durable. Called with ws->lock held. */
void workspace_want_durable(struct inlay_workspace *ws);

/* mounting.c, called with ws->change held */
int workspace_start_mount(struct inlay_workspace *ws, struct inlay_error *err) inlay_must_check;
int workspace_adopt_mount(struct inlay_workspace *ws, struct inlay_error *err) inlay_must_check;
int workspace_show(struct inlay_workspace *ws, const struct inlay_generation *gen,
		   struct inlay_error *err) inlay_must_check;
void workspace_look_after(struct inlay_workspace *ws);
/* Waits until the events of the generation are raised in the mount. False when it took too long, or the
 * worker ended. */
bool workspace_wait_replayed(struct inlay_workspace *ws, uint64_t number, int64_t wait_ns);

/* programs.c. Starts the supervisors that are wanted and missing. */
void workspace_start_programs(struct inlay_workspace *ws);
/* What they run in was replaced by another: what they hold open is dead, or not what it should be. */
void workspace_restart_programs(struct inlay_workspace *ws, const char *why);
int workspace_forget_programs(struct inlay_workspace *ws, struct inlay_error *err) inlay_must_check;
unsigned workspace_wanted_programs(struct inlay_workspace *ws);
/* The main thread: programs_fd is readable. */
void host_look_after_programs(struct inlay_host *host);

/* boot.c: what mounts this state directory's workspaces after a reboot. */
int host_register_boot(struct inlay_host *host, struct inlay_error *err) inlay_must_check;
void host_unregister_boot(struct inlay_host *host);
/* 1 when it is registered, with the name of what does it; else 0. */
int host_boot_registered(struct inlay_host *host, char *ret_what, size_t size);

#endif
