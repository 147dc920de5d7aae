/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/choose.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "transport/sshconf.h"

/* ---- hosts that libssh2 was tried on in vain ---- */

struct refusal {
	struct refusal *next;
	char why[512];
	char host[];
};

static struct refusal *refusals;
static pthread_mutex_t refusals_lock = PTHREAD_MUTEX_INITIALIZER;

void choose_refused(const char *host, const char *why)
{
	size_t len = strlen(host) + 1;
	struct refusal *f = malloc(sizeof *f + len);

	/* Without memory it is tried again. */
	if (!f)
		return;
	memcpy(f->host, host, len);
	(void)snprintf(f->why, sizeof f->why, "%s", why);
	scope_lock(&refusals_lock);
	f->next = refusals;
	refusals = f;
}

static bool was_refused(const char *host, char *ret, size_t size)
{
	scope_lock(&refusals_lock);
	for (const struct refusal *f = refusals; f; f = f->next) {
		if (strcmp(f->host, host) == 0) {
			(void)snprintf(ret, size, "%s", f->why);
			return true;
		}
	}
	return false;
}

/* ---- the choice ---- */

void choice_fini(struct choice *c)
{
	inlay_buf_fini(&c->conf);
}

/* `-e` may name a program that only stands in for ssh and has no -G. */
static bool is_ssh(const char *command)
{
	size_t n = strcspn(command, " \t");

	return n >= 3 && memcmp(command + n - 3, "ssh", 3) == 0 &&
	       (n == 3 || command[n - 4] == '/');
}

/* 0: libssh2 can, as far as ssh -G tells. 1: it cannot, c->why says why. */
static int can_libssh2(const struct transport_options *o, struct choice *c, struct inlay_error *err)
{
	auto_of(sshconf_fini) struct sshconf conf = {0};

	if (o->ssh && !is_ssh(o->ssh)) {
		(void)snprintf(c->why, sizeof c->why, "'%s' was asked for", o->ssh);
		return 1;
	}
	int r = sshconf_ask(o->ssh, o->port, o->host, o->stop_fd, &c->conf, err);
	if (r == 0)
		r = sshconf_parse((char *)c->conf.data, c->conf.len, &conf, err);
	if (r < 0)
		return r;
	if (!conf.obstacle)
		return 0;
	(void)snprintf(c->why, sizeof c->why, "the ssh configuration has %s, which libssh2 has not",
		       conf.obstacle);
	return 1;
}

static int choose_auto(const struct transport_options *o, struct choice *c)
{
	struct inlay_error err = {0};

	c->kind = TRANSPORT_OPENSSH;
	if (o->hosts <= CHOOSE_FEW_HOSTS) {
		(void)snprintf(c->why, sizeof c->why, "fastest in bulk, and the hosts are few");
		return 0;
	}
	if (was_refused(o->host, c->why, sizeof c->why))
		return 0;
	int r = can_libssh2(o, c, &err);
	if (r < 0)
		(void)snprintf(c->why, sizeof c->why, "%.512s", err.text);
	if (r != 0)
		return 0;
	c->kind = TRANSPORT_LIBSSH2;
	(void)snprintf(c->why, sizeof c->why, "fastest to connect, and the hosts are many");
	return 0;
}

int choose_transport(const struct transport_options *o, struct choice *ret, struct inlay_error *err)
{
	struct choice c = {.kind = o->kind};
	int r = 0;

	(void)snprintf(c.why, sizeof c.why, "it was asked for");
	if (o->kind == TRANSPORT_AUTO)
		r = choose_auto(o, &c);
	else if (o->kind == TRANSPORT_LIBSSH2)
		r = can_libssh2(o, &c, err);
	if (r == 1) {
		r = inlay_error_set(err, -EOPNOTSUPP,
				    "%s: %s. Take --transport auto or openssh for it", o->host,
				    c.why);
		(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
	}
	if (r < 0)
		choice_fini(&c);
	else
		*ret = c;
	return r;
}
