/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_CONTAINED_H
#define RUN_CONTAINED_H

/* Containers by a runtime's command line: what programs and single commands have in common. */

#include "run/ociconfig.h"

enum { CONTAINED_PATH_MAX = 4096 };

struct contained {
	struct inlay_container_spec spec;
	char root[CONTAINED_PATH_MAX];
	char id[INLAY_CONTAINER_NAME_MAX];
	char runtime[256]; /* the path of runc */
	pid_t holder;  /* the first process of its process namespace, a child of ours; 0 = none */
	int holder_fd; /* it ends when this is closed */
	char pids[64]; /* the path of that namespace */
	char podman[256]; /* that of podman, where programs are started by it; else "" */
};

/* For what is called `name` in the workspace whose directory is ws_dir. Positive: INLAY_CONTAINER_NONE. Ended with
 * fini. */
int contained_open(const char *ws_dir, const char *name, struct contained *ret,
		   struct inlay_error *err) inlay_must_check;
void contained_fini(struct contained *c);
INLAY_DEFINE_FINI(struct contained, contained_fini)

/*
 * Writes config.json; `p` has everything but the spec, the root and the process namespace, which is made here.
 *
 * That one's first process is a copy of us that waits for nothing but our end: so a container dies with who started it,
 * however that ends, its program is a process like any other, for which signals do what they do outside, and what is
 * left of it when the program ended goes at once.
 */
int contained_bundle(struct contained *c, struct oci_process *p, int dirfd, struct inlay_error *err)
	inlay_must_check;

/* Starts a program with these arguments (argv[0] is put in place) and descriptors 0, 1, 2; -1 = /dev/null. */
int contained_spawn(const char *program, char **argv, const int fds[3], pid_t *ret,
		    struct inlay_error *err) inlay_must_check;
/* The same, and waits. -ECHILD when it did not end with 0. */
int contained_call(const char *program, char **argv, const int fds[3], struct inlay_error *err)
	inlay_must_check;

/* Makes the container and starts it: its first process becomes a child of the nearest subreaper, with these
 * descriptors. dir: the bundle's path. */
int contained_start(const struct contained *c, int dirfd, const char *dir, const int fds[3],
		    pid_t *ret_pid, struct inlay_error *err) inlay_must_check;

/* Whatever is left of a container of that name, also one that runs. */
void contained_delete(const struct contained *c);
/* A container of that name runs. */
bool contained_runs(const struct contained *c);

/* The pid in the file `pid` of the bundle; 0 = there is none yet. */
pid_t contained_pid(int dirfd);

/* Ends all that runs in it. */
void contained_release(struct contained *c);

/* Sends a signal to a container's program and its group. A negative errno. */
int contained_signal(pid_t pid, int number);

#endif
