/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_HOST_H
#define INLAY_HOST_H

/*
 * A target host as a session sees it: its store, its workspaces, their generations and mounts. Implemented
 * by the keeper (fs/keep), called by the serving side of sessions (sync/session). All functions may be
 * called from any thread; each session has its own.
 *
 * A workspace is named by the absolute path where it appears. Its generations are kept in the store under the
 * ref of the workspace. It shows the *live* generation; the newest *durable* one is what a crash leaves.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/checkup.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/idset.h"
#include "inlay/mount.h"
#include "inlay/run.h"
#include "inlay/store.h"
#include "inlay/trees.h"

struct inlay_host;
struct inlay_workspace;
struct inlay_imagetrees;

enum {
	INLAY_HOST_PATH_MAX = 4096, /* bytes of a workspace's path with the NUL */
	INLAY_HOST_OWNER_MAX = 256,
	INLAY_HOST_KEEP = 10, /* generations of a history, unless told otherwise */
};

/* Positive results. */
enum {
	INLAY_HOST_MISSING = 1,    /* no such workspace or generation */
	INLAY_HOST_LOCKED = 2,     /* another session changes the workspace; err says who */
	INLAY_HOST_STALE = 3,      /* the expected root is not the live one */
	INLAY_HOST_INCOMPLETE = 4, /* objects are missing; they are in *missing */
};

struct inlay_store *inlay_host_store(struct inlay_host *host);
struct inlay_trees *inlay_host_trees(struct inlay_host *host);
/* The base images of this host (imagetree.h), opened when they are first asked for. Borrowed. */
int inlay_host_images(struct inlay_host *host, struct inlay_imagetrees **ret,
		      struct inlay_error *err) inlay_must_check;

/* ---- workspaces ---- */

/*
 * The workspace at a path; a relative one, or one that starts with "~/", is below the home directory.
 * create: makes the directory (and its parents) and registers the workspace; the directory must be
 * empty, or be one of ours already (-ENOTEMPTY, exit code 4). Gives a reference. Positive: MISSING.
 */
int inlay_host_workspace(struct inlay_host *host, const char *path, bool create,
			 struct inlay_workspace **ret, struct inlay_error *err) inlay_must_check;
/*
 * Takes over what is at the path, when that is a folder and no workspace yet: its content (without what
 * .gitignore files there name) becomes the first generation of a new workspace, and the folder is moved
 * to <path>.before-inlay, untouched, which ret_aside tells; otherwise that is "" and nothing was done. On
 * failure all is as before.
 */
int inlay_host_adopt(struct inlay_host *host, const char *path,
		     char ret_aside[static INLAY_HOST_PATH_MAX], struct inlay_error *err)
	inlay_must_check;
void inlay_workspace_unref(struct inlay_workspace *ws); /* accepts NULL */
INLAY_DEFINE_CLEANUP(struct inlay_workspace, inlay_workspace_unref)

/* Calls fn for each workspace; stops when it gives a value other than 0 and returns that. */
int inlay_host_each(struct inlay_host *host,
		    int (*fn)(void *ctx, struct inlay_workspace *ws, struct inlay_error *err),
		    void *ctx, struct inlay_error *err) inlay_must_check;

/*
 * The right to change the workspace, for one session at a time. Waits up to wait_ns for it. Positive:
 * LOCKED, with a text in *err that says who holds it and for how long. A `lease` other than 0 names the one who
 * asks: a session that holds the lock with the same lease, over a connection that may be dead, is told to go. So is
 * whoever holds it with `steal`.
 */
struct inlay_lock_ask {
	const char *owner;
	uint64_t lease;
	int64_t wait_ns;
	bool steal;
};
int inlay_workspace_lock(struct inlay_workspace *ws, const struct inlay_lock_ask *ask,
			 struct inlay_error *err) inlay_must_check;
/* For the session that holds the lock, woken through its eventfd: it shall end. */
bool inlay_workspace_taken_over(struct inlay_workspace *ws);
/* Who stole it; "" = the same client came back. */
void inlay_workspace_thief(struct inlay_workspace *ws, char ret[static INLAY_HOST_OWNER_MAX]);
void inlay_workspace_unlock(struct inlay_workspace *ws);

struct inlay_workspace_state {
	char path[INLAY_HOST_PATH_MAX];
	char id[17];                  /* names its directory and its ref */
	struct inlay_generation live; /* number 0: nothing was published yet */
	uint64_t durable;             /* number of the newest durable generation */
	bool durable_failed;          /* the last attempt failed; durable_text says why */
	char durable_text[256];
	struct inlay_mount_policy policy;
	bool mount_wanted; /* it is mounted, and mounted again after a crash or a reboot */
	bool mounted;
	bool everybody; /* others than the owner may enter */
	int worker_pid;
	uint64_t worker_starts;
	char mount_text[256]; /* why it is not mounted */
	uint64_t replayed;    /* the newest generation whose file system events are all raised */
	uint64_t damaged;     /* objects of the live generation that the store cannot give */
	char owner[INLAY_HOST_OWNER_MAX]; /* who holds the lock; "" = nobody */
	int64_t owner_since_ns;           /* CLOCK_REALTIME */
};

void inlay_workspace_state(struct inlay_workspace *ws, struct inlay_workspace_state *ret);

/* ---- generations ---- */

struct inlay_commit {
	struct inlay_digest
		expect; /* the live root's tree must be this one; zeros = there is none */
	struct inlay_root root;
	uint64_t changed;     /* entries, for the log */
	uint64_t rollback_of; /* see generation.h */
	const char *origin;   /* at most INLAY_ORIGIN_MAX bytes */
};

/* Whether the commit could be carried out now, as inlay_workspace_commit would say; nothing changes. */
int inlay_workspace_try(struct inlay_workspace *ws, const struct inlay_commit *commit,
			struct inlay_idset *missing, struct inlay_error *err) inlay_must_check;

/*
 * Makes a new generation live: checks that everything its tree needs is in the store (cost follows the
 * difference to the live one), shows it in the mount, and returns when the last process sees it. Becoming
 * durable goes on by itself; see inlay_workspace_watch. A root that is live already makes no new
 * generation; what was sent for it is made durable at once. Positive: STALE, INCOMPLETE (*missing has at
 * least one of the missing objects).
 */
int inlay_workspace_commit(struct inlay_workspace *ws, const struct inlay_commit *commit,
			   struct inlay_generation *ret, struct inlay_idset *missing,
			   struct inlay_error *err) inlay_must_check;

/* An eventfd that is written whenever durable or durable_failed changes; -1 to stop. */
void inlay_workspace_watch(struct inlay_workspace *ws, int eventfd);

/* Newest first; the live generation is the first one also while it is not durable. *ret is the caller's (free). */
int inlay_workspace_history(struct inlay_workspace *ws, struct inlay_history **ret,
			    struct inlay_error *err) inlay_must_check;

/* Objects of the live generation that are known to be damaged or missing. */
int inlay_workspace_damaged(struct inlay_workspace *ws, struct inlay_idset *ret,
			    struct inlay_error *err) inlay_must_check;

/* ---- the mount ---- */

enum inlay_workspace_mount_flags {
	INLAY_MOUNT_BOOT = 1 << 0, /* register it for the next boot */
};

/* Mounts the live generation; harmless when it is mounted. Positive: MISSING (nothing to show). */
int inlay_workspace_mount(struct inlay_workspace *ws, enum inlay_workspace_mount_flags flags,
			  struct inlay_error *err) inlay_must_check;
/* -EBUSY when it is in use, unless lazy: then it goes when the last user does. Harmless when not mounted. */
int inlay_workspace_umount(struct inlay_workspace *ws, bool lazy, struct inlay_error *err)
	inlay_must_check;

/* ---- programs (run.h) ---- */

/* Runs what an encoded spec says, in place of a program of the same name; from then on also after a
 * reboot. keep: one that runs and was started from the same spec goes on; *ret_kept tells. -EBADMSG: not a
 * spec. */
int inlay_workspace_run(struct inlay_workspace *ws, const void *spec, size_t len, bool keep,
			bool *ret_kept, struct inlay_error *err) inlay_must_check;

enum inlay_program_verb {
	INLAY_PROGRAM_STOP = 1, /* in order; it stays stopped, also after a reboot */
	INLAY_PROGRAM_RESTART,  /* or starts it when it is stopped */
	INLAY_PROGRAM_SIGNAL,   /* arg: the signal, for its whole group. -ESRCH: it does not run */
	INLAY_PROGRAM_FORGET,   /* stops it and removes its description and its log */
};

/* Returns when it is done. *ret is how it goes then. -ENOENT: no such program. */
int inlay_workspace_program(struct inlay_workspace *ws, const char *name,
			    enum inlay_program_verb verb, int arg, struct inlay_run_status *ret,
			    struct inlay_error *err) inlay_must_check;
/* Calls fn for each program; stops when it gives a value other than 0 and returns that. */
int inlay_workspace_programs(struct inlay_workspace *ws,
			     int (*fn)(void *ctx, const struct inlay_run_status *status,
				       struct inlay_error *err),
			     void *ctx, struct inlay_error *err) inlay_must_check;
/* Its log, from the last `lines` lines on; ended with inlay_runlog_reader_close. */
int inlay_workspace_program_log(struct inlay_workspace *ws, const char *name, uint64_t lines,
				struct inlay_runlog_reader *ret, struct inlay_error *err)
	inlay_must_check;

/* Mounts from now on in another way; a mount that is there is made anew (-EBUSY when it is in use: then nothing
 * changes). */
int inlay_workspace_set_policy(struct inlay_workspace *ws, const struct inlay_mount_policy *policy,
			       struct inlay_error *err) inlay_must_check;

/* ---- roots (container.h) ---- */

/* From now on the workspace runs in what an encoded spec says: the root is mounted, the workspace in it, and programs
 * that run are started anew in there. Harmless when it does already. -ENOENT: the image is not here. */
int inlay_workspace_set_root(struct inlay_workspace *ws, const void *spec, size_t len,
			     struct inlay_error *err) inlay_must_check;
/* In none from now on; programs that run are started anew on the host itself. Harmless when it has none. */
int inlay_workspace_clear_root(struct inlay_workspace *ws, struct inlay_error *err)
	inlay_must_check;
/* Back to the image it had before, and to how things ran in that. -ENOENT: there was none. */
int inlay_workspace_rollback_root(struct inlay_workspace *ws, struct inlay_error *err)
	inlay_must_check;
/*
 * The command line that runs a spec's command once in the workspace's root; its first word is for /proc/self/exe. own:
 * further variables, under those of the spec. What is in the scratch directory is seen inside. *ret_argv is the
 * caller's. Positive: MISSING, it has no root, or nothing runs in it.
 */
int inlay_workspace_command(struct inlay_workspace *ws, const struct inlay_run_spec *spec,
			    const char *name, char *const *own, char ***ret_argv,
			    struct inlay_error *err) inlay_must_check;

/* A directory of the workspace for what belongs to its hooks; its path, and a descriptor that is the caller's. */
int inlay_workspace_scratch(struct inlay_workspace *ws, int *ret_fd, char *path, size_t size,
			    struct inlay_error *err) inlay_must_check;

/* Forgets the workspace: its programs stopped, unmounted, its history and what was written there removed. Its
 * objects go with the next gc. */
int inlay_workspace_remove(struct inlay_workspace *ws, struct inlay_error *err) inlay_must_check;

/* ---- keeping house ---- */

/* Between the first object of a change set and its commit, or its end: what comes is kept from gc. By the
 * same thread, not nested; beginning waits for a gc to end. */
void inlay_host_receive(struct inlay_host *host, bool begin);

int inlay_host_gc(struct inlay_host *host, int64_t grace_ns, struct inlay_store_sweep *ret,
		  struct inlay_error *err) inlay_must_check;

/*
 * Reads and checks everything: the store, and that all that the histories need is there. found() is told each
 * finding; damaged objects are taken out of the index, so that the next sync sends them again. *ret_bad
 * counts the findings.
 */
int inlay_host_fsck(struct inlay_host *host, void (*found)(void *ctx, const char *what),
		    void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
		    uint64_t *ret_bad, struct inlay_error *err) inlay_must_check;

/*
 * What `inlay doctor` asks of a target: tells findings about the machine, the mounts and what starts them at boot. fix:
 * mounts what should be mounted and takes away mounts that are dead. client_ns: the peer's clock.
 */
int inlay_host_checkup(struct inlay_host *host, int64_t client_ns, bool fix, inlay_check_fn *fn,
		       void *ctx, struct inlay_error *err) inlay_must_check;

#endif
