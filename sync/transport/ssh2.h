/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_SSH2_H
#define TRANSPORT_SSH2_H

/*
 * The libssh2 transport: a process of its own, started as `inlay SSH2_CHILD` with what it needs to know on
 * CHILD_EXTRA_FD. It stands in for `ssh HOST COMMAND`: standard input and output are the command's, its
 * exit code is the command's, 255 is a failure of its own with the reason on standard error.
 *
 * It connects, reads its keys and known_hosts, gives up everything else (ssh2jail.c), and only then
 * talks to the server. What libssh2 cannot honour ends it with SSH2_UNFIT before any key is used; ssh
 * itself is then the way.
 */

#define SSH2_CHILD "_ssh2"
#define SSH2_COMMAND \
	"inlay-command " /* the first line on CHILD_EXTRA_FD; the answer of ssh -G follows */

enum {
	SSH2_FAILED = 255,
	SSH2_UNFIT = 254,
};

_Noreturn void ssh2_main(void);
/* Of the libssh2 that is loaded: "1.10.0". */
const char *ssh2_version(void);

#endif
