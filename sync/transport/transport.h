/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_TRANSPORT_H
#define TRANSPORT_TRANSPORT_H

/*
 * A way to a host's `inlayd serve`: a pair of descriptors and the process behind them. What goes over it is
 * the caller's.
 *
 *     local    inlayd as a child, on a socket pair
 *     openssh  the system's ssh as a child, with the user's own configuration; it runs inlayd there
 *     libssh2  a child of our own in ssh's place (ssh2.h): quicker to connect, slower in bulk; with the user's
 *              configuration as far as it can honour it
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

enum transport_kind {
	TRANSPORT_AUTO, /* openssh for few hosts and for what libssh2 cannot honour, else libssh2 */
	TRANSPORT_LOCAL,
	TRANSPORT_OPENSSH,
	TRANSPORT_LIBSSH2,
};

/* "auto", "openssh", ...; false when it is none of them. */
bool transport_kind_parse(const char *text, enum transport_kind *ret);
const char *transport_kind_name(enum transport_kind kind);

struct transport_options {
	enum transport_kind kind; /* for hosts; a local path is always LOCAL */
	unsigned hosts;           /* how many this run is about; for AUTO */
	int64_t connect_ns;       /* the time to reach a host; 0 = the default */
	const char *host;         /* [user@]host or an ssh alias; NULL = local */
	const char *port;         /* NULL = as ssh's configuration says */
	const char *ssh;          /* the command, split at blanks; NULL = "ssh" */
	const char *state;        /* local: inlayd's state directory; NULL = its default */
	const char *remote_state; /* the same on the host */
	const char *agents; /* directory with the inlayd binaries; NULL = beside the program */
	const char *cache;  /* directory where digests of binaries are remembered */
	int door;    /* of the line to the host that others share (session/lines.h); 0 = none */
	bool trunk;  /* what is opened is to carry several sessions */
	int stop_fd; /* once it is readable nothing is waited for any more; 0 = none */
	void (*note)(void *ctx, const char *text); /* "installing inlayd on ..."; may be NULL */
	void *ctx;
};

struct transport {
	int rfd, wfd; /* the caller may take them over (set to -1) */
	pid_t pid;
	int stderr_fd;            /* a memory file with what the child said */
	enum transport_kind kind; /* never AUTO */
};

/* A line to that host that was doubted: whoever holds it looks whether it is alive. */
void transport_doubt(const struct transport_options *o);

/* Starts the child, or asks for a session at the door; nothing is waited for. -ENOENT: no ssh, no inlayd. */
int transport_open(const struct transport_options *o, struct transport *ret,
		   struct inlay_error *err) inlay_must_check;
/* Ends the child (its input is closed first; it is killed when it does not go) and waits for it. *ret_status
 * (may be NULL) as of waitpid. */
void transport_close(struct transport *t, int *ret_status);

/*
 * Why a connection ended before the peer said anything: reads the child's status and its last words. Closes
 * the transport. Gives a negative code with a text; the exit code is CONNECT where ssh failed. `noise` is
 * what came instead of the protocol. Positive: TRANSPORT_NO_AGENT, ret_machine gets "x86_64";
 * TRANSPORT_UNFIT, libssh2 cannot reach this host and AUTO now takes openssh for it: open anew.
 */
enum { TRANSPORT_NO_AGENT = 1, TRANSPORT_UNFIT = 2 };
int transport_explain(struct transport *t, const struct transport_options *o,
		      const struct inlay_buf *noise, char ret_machine[static 32],
		      struct inlay_error *err) inlay_must_check;

struct child_args;
/* ssh with its options and the host; what it runs there is added by the caller. Only for hosts. */
void transport_ssh_args(const struct transport_options *o, struct child_args *ret);

/* A command in a workspace, with this process's standard descriptors. */
struct transport_exec {
	const char *path;     /* the workspace, as the user gave it */
	const char *program;  /* its directory and variables come from that program; NULL = none */
	bool tty;             /* over ssh: a terminal there */
	char *const *command; /* NULL-terminated; empty = the user's login shell */
};

/*
 * Runs it and waits. *ret_status is its exit code, or 128 + the signal that ended it. Over ssh, an exit code of
 * 255 may be ssh's own failure, which it tells on standard error.
 */
enum { TRANSPORT_EXEC_NO_AGENT = 86 }; /* exit code: the command's own, or inlayd is not there */
int transport_exec(const struct transport_options *o, const struct transport_exec *e,
		   int *ret_status, struct inlay_error *err) inlay_must_check;

/* Copies the inlayd for that machine to the host. */
int transport_install(const struct transport_options *o, const char *machine,
		      struct inlay_error *err) inlay_must_check;

#endif
