/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_SSH2IN_H
#define TRANSPORT_SSH2IN_H

/* Inside the libssh2 child. One thread; it fails by saying why on standard error and ending. */

#include <libssh2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "transport/ssh2.h"
#include "transport/sshconf.h"

enum {
	SSH2_WINDOW =
		16
		<< 20, /* what the server may send before we took it: latency costs no throughput */
	SSH2_AUTH_S =
		60, /* from the connection to the command; a key in an agent may want a touch */
	SSH2_CLOSE_S = 15, /* for the end of a command that is over */
	SSH2_KEY_BYTES_MAX = 64 << 10,
	SSH2_KNOWN_BYTES_MAX = 8 << 20,
};

struct ssh2_key {
	const char *path;        /* as configured */
	char type[48];           /* "ssh-ed25519"; "" = not known before it is tried */
	struct inlay_buf blob;   /* the public key, in ssh's form */
	struct inlay_buf secret; /* the file; empty where only the public key is here */
};

struct ssh2 {
	struct sshconf conf;
	const char *command;
	int sock;
	char address[128]; /* for people: "host port 22" */
	LIBSSH2_SESSION *session;
	LIBSSH2_KNOWNHOSTS *known;
	LIBSSH2_AGENT *agent; /* NULL = none */
	char name[300];       /* as known_hosts has it: "host", "[host]:2222" */
	struct ssh2_key keys[SSHCONF_FILES_MAX];
	size_t key_count;
	const char *special;         /* a line for the host that only ssh understands */
	const char *phase;           /* what it is at, for a deadline that passes */
	struct inlay_buf not_usable; /* keys that libssh2 cannot use, for people */
	struct inlay_buf tried;
};

/* Says why and ends the process. `code` is SSH2_FAILED or SSH2_UNFIT. */
_Noreturn void ssh2_die(const struct ssh2 *s, int code, const char *fmt, ...) inlay_printf(3, 4);
/* libssh2's last words. */
const char *ssh2_why(const struct ssh2 *s);
/* After LIBSSH2_ERROR_EAGAIN: until the socket can do what the session waits for. */
void ssh2_wait(const struct ssh2 *s);

/* Before the jail: known_hosts, identities and the agent. */
void ssh2_read_known(struct ssh2 *s);
void ssh2_read_keys(struct ssh2 *s);
/* Keeps the session to what both the user's configuration and safety allow. */
void ssh2_prefer(struct ssh2 *s);
/* After the handshake. */
void ssh2_check_host(struct ssh2 *s);
void ssh2_authenticate(struct ssh2 *s);

/* Nothing can be opened, started or connected from here on. */
void ssh2_jail(void);

/* Runs the command with our standard streams until it ends; its exit code. */
int ssh2_run(struct ssh2 *s);

#endif
