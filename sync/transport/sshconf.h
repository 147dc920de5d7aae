/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRANSPORT_SSHCONF_H
#define TRANSPORT_SSHCONF_H

/*
 * What the user's ssh would do for a host: the answer of `ssh -G`, as far as our own client needs it. The
 * configuration files themselves are ssh's; they are never read here.
 */

#include <stdbool.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"

enum {
	SSHCONF_FILES_MAX = 32,         /* of identities, and of known_hosts */
	SSHCONF_BYTES_MAX = 256 << 10,  /* of an answer */
	SSHCONF_CONNECT_TIMEOUT_S = 20, /* where the configuration names none */
	SSHCONF_ALIVE_S = 15,           /* likewise */
	SSHCONF_ALIVE_COUNT = 3,
};

struct sshconf {
	char *text; /* owned; everything below points into it */
	const char *hostname, *user, *port;
	const char *alias;          /* HostKeyAlias; NULL = none */
	const char *identity_agent; /* as configured; NULL = SSH_AUTH_SOCK */
	const char *ciphers, *macs, *kex, *host_keys, *user_keys; /* lists with commas */
	const char *identity[SSHCONF_FILES_MAX + 1];              /* ~ is not expanded */
	const char *known_hosts[SSHCONF_FILES_MAX + 1];           /* likewise */
	bool identities_only;
	int family; /* AF_* */
	int connect_timeout_s;
	int alive_s,
		alive_count; /* ServerAliveInterval and -CountMax: how a dead host is found out */
	/* Why nothing but ssh itself can do it ("ProxyJump"); NULL = libssh2 can, as far as this tells. */
	const char *obstacle;
};

/* Takes lines of "key value". Unknown keys are fine: ssh has many. */
int sshconf_parse(const char *text, size_t len, struct sshconf *ret, struct inlay_error *err)
	inlay_must_check;
void sshconf_fini(struct sshconf *c);
INLAY_DEFINE_FINI(struct sshconf, sshconf_fini)

/* Runs `ssh -G` for the host. `ssh` and stop_fd as in struct transport_options. */
int sshconf_ask(const char *ssh, const char *port, const char *host, int stop_fd,
		struct inlay_buf *ret, struct inlay_error *err) inlay_must_check;

/* A path of the configuration with "~/" expanded. */
void sshconf_path(const char *path, struct inlay_buf *ret);

/* Is `word` one of the list's, which has commas between them? */
bool sshconf_lists(const char *list, const char *word);

/*
 * Does the text of a known_hosts file have a line for the host that only ssh understands: a marker (@revoked,
 * @cert-authority), or a pattern? `name` as it is looked up: "host" or "[host]:port". Gives the word that
 * says so, or NULL. A marker on a hashed name counts for every host.
 */
const char *sshconf_special_known_host(const char *text, size_t len, const char *name);

#endif
