/* SPDX-License-Identifier: Apache-2.0 */
#include "session/client.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"

enum { HELLO_TIMEOUT_S = 60 };

/* ---- targets ---- */

static int absolute(const char *path, char **ret, struct inlay_error *err)
{
	char cwd[PATH_MAX];
	auto_buf struct inlay_buf b = {0};

	if (path[0] != '/') {
		if (!getcwd(cwd, sizeof cwd))
			return inlay_error_sys(err, -errno, "find the current directory");
		inlay_buf_printf(&b, "%s/", cwd);
	}
	inlay_buf_printf(&b, "%s", path);
	*ret = b.failed ? NULL : strdup(inlay_buf_cstr(&b));
	return *ret ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

static char *dup_range(const char *from, const char *to)
{
	return strndup(from, (size_t)(to - from));
}

static int parse_url(const char *text, struct target *t, struct inlay_error *err)
{
	const char *host = text + strlen("ssh://");
	const char *slash = strchr(host, '/');
	const char *at = slash ? memchr(host, '@', (size_t)(slash - host)) : NULL;

	if (!slash || !slash[1])
		return inlay_error_set(err, -EINVAL, "'%s' names no path", text);
	const char *colon = memrchr(at ? at : host, ':', (size_t)(slash - (at ? at : host)));
	t->host = dup_range(host, colon ? colon : slash);
	if (colon)
		t->port = dup_range(colon + 1, slash);
	/* ssh://host/~/x is below the home directory, as in git. */
	t->path = strdup(slash[1] == '~' ? slash + 1 : slash);
	if (!t->host || !t->path || (colon && !t->port))
		return inlay_error_set(err, -ENOMEM, "out of memory");
	uint64_t port;
	return t->port ? inlay_parse_u64(t->port, &port, err) : 0;
}

int target_parse(const char *text, struct target *ret, struct inlay_error *err)
{
	struct target t = {0};
	const char *slash = strchr(text, '/'), *colon = strchr(text, ':');
	int r = 0;

	if (text[0] == '[') {
		const char *end = strchr(text, ']');
		colon = end && end[1] == ':' ? end + 1 : NULL;
	}
	if (strncmp(text, "ssh://", 6) == 0) {
		r = parse_url(text, &t, err);
	} else if (colon && (!slash || colon < slash)) {
		t.host = text[0] == '[' ? dup_range(text + 1, colon - 1) : dup_range(text, colon);
		t.path = strdup(colon[1] ? colon + 1 : "~");
		if (!t.host || !t.path)
			r = inlay_error_set(err, -ENOMEM, "out of memory");
	} else {
		r = absolute(text, &t.path, err);
	}
	/* A host that begins with a dash would be an option of ssh's. */
	if (r == 0 && t.host && (t.host[0] == 0 || t.host[0] == '-'))
		r = inlay_error_set(err, -EINVAL, "'%s' names no host", text);
	if (r == 0 && !*t.path)
		r = inlay_error_set(err, -EINVAL, "the target is empty");
	if (r < 0) {
		target_fini(&t);
		(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
		return r;
	}
	*ret = t;
	return 0;
}

void target_fini(struct target *t)
{
	free(t->host);
	free(t->port);
	free(t->path);
	*t = (struct target){0};
}

void target_text(const struct target *t, struct inlay_buf *b)
{
	if (t->host && t->port)
		inlay_buf_printf(b, "ssh://%s:%s%s%s", t->host, t->port,
				 t->path[0] == '/' ? "" : "/", t->path);
	else if (t->host)
		inlay_buf_printf(b, strchr(t->host, ':') ? "[%s]:%s" : "%s:%s", t->host, t->path);
	else
		inlay_buf_printf(b, "%s", t->path);
}

/* ---- who we are ---- */

static void user_at_host(char *buf, size_t size)
{
	char host[256] = "?", text[4096];
	struct passwd pw, *found = NULL;

	(void)gethostname(host, sizeof host - 1);
	(void)getpwuid_r(getuid(), &pw, text, sizeof text, &found);
	if (found)
		(void)snprintf(buf, size, "%s@%s", found->pw_name, host);
	else
		(void)snprintf(buf, size, "%u@%s", getuid(), host);
}

void client_owner(char *buf, size_t size)
{
	char who[300];

	user_at_host(who, sizeof who);
	(void)snprintf(buf, size, "%s pid %d", who, (int)getpid());
}

void client_origin(char *buf, size_t size, const char *path)
{
	char who[300];

	user_at_host(who, sizeof who);
	(void)snprintf(buf, size, "%s%s%s", who, path ? ":" : "", path ? path : "");
}

/* ---- the session ---- */

static int say_hello(struct client *c, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	struct message_hello m = {.version = MESSAGE_VERSION,
				  .version_min = MESSAGE_VERSION_MIN,
				  .program = message_text_of("inlay " INLAY_VERSION),
				  .machine = message_text_of("")};

	message_encode_hello(&b, &m);
	return client_send(c, MESSAGE_HELLO, &b, err);
}

int client_open(struct client *c, const struct transport_options *o, uint64_t bwlimit,
		struct inlay_error *err)
{
	*c = (struct client){.options = *o, .bwlimit = bwlimit, .conn = {.rfd = -1, .wfd = -1}};
	if (o->host)
		c->gate = gate_enter();
	int r = transport_open(o, &c->transport, err);
	if (r < 0) {
		gate_leave(&c->gate);
		c->transport = (struct transport){.rfd = -1, .wfd = -1, .pid = -1, .stderr_fd = -1};
		return r;
	}
	c->opened = true;
	r = conn_init(&c->conn, c->transport.rfd, c->transport.wfd, err);
	c->transport.rfd = c->transport.wfd = -1;
	c->conn.bwlimit = bwlimit;
	c->conn.stop_fd = o->stop_fd;
	if (r == 0)
		r = say_hello(c, err);
	return r;
}

void client_kill(struct client *c)
{
	if (c->transport.pid > 0)
		(void)kill(c->transport.pid, SIGTERM);
	else if (c->opened)
		transport_doubt(&c->options);
}

void client_close(struct client *c)
{
	gate_leave(&c->gate);
	if (!c->opened)
		return;
	conn_fini(&c->conn);
	transport_close(&c->transport, NULL);
	c->greeted = c->opened = false;
}

int client_send(struct client *c, enum message_type type, const struct inlay_buf *b,
		struct inlay_error *err)
{
	int r = inlay_buf_check(b, err);

	return r < 0 ? r : conn_send(&c->conn, type, b->data, b->len, err);
}

static const char *host_name(const struct client *c)
{
	return c->options.host ? c->options.host : "the local inlayd";
}

/* The connection ended. Before the greeting, the way to the host has something to say about it. */
static int ended(struct client *c, struct inlay_error *err)
{
	auto_buf struct inlay_buf noise = c->conn.noise;
	char machine[32];

	c->conn.noise = (struct inlay_buf){0};
	if (c->greeted || c->options.door) {
		int r = inlay_error_set(err, -ECONNRESET, "%s: the connection was lost",
					host_name(c));
		(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
		return r;
	}
	/* What is still in the input cannot be a magic any more. */
	inlay_buf_add(&noise, c->conn.in.data + c->conn.in_at, c->conn.in.len - c->conn.in_at);
	conn_fini(&c->conn);
	int r = transport_explain(&c->transport, &c->options, &noise, machine, err);
	if (r == TRANSPORT_UNFIT)
		return CLIENT_AGAIN;
	if (r != TRANSPORT_NO_AGENT)
		return r;
	r = transport_install(&c->options, machine, err);
	return r < 0 ? r : CLIENT_AGAIN;
}

static int hear_hello(struct client *c, const struct frame *f, struct inlay_error *err)
{
	struct message_hello m;
	int r = message_decode_hello(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (m.version_min > MESSAGE_VERSION || m.version < MESSAGE_VERSION_MIN)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "%s speaks protocol %u to %u, this inlay %d to %d",
				       host_name(c), m.version_min, m.version, MESSAGE_VERSION_MIN,
				       MESSAGE_VERSION);
	(void)snprintf(c->program, sizeof c->program, "%.*s", (int)m.program.len, m.program.bytes);
	(void)snprintf(c->machine, sizeof c->machine, "%.*s", (int)m.machine.len, m.machine.bytes);
	c->uid = m.uid;
	c->greeted = true;
	gate_leave(&c->gate);
	return 0;
}

int client_hear_failed(struct client *c, const struct frame *f, struct inlay_error *err)
{
	auto_buf struct inlay_buf text = {0};
	int r = message_decode_failed(f->payload, f->len, &c->failed, err);

	if (r < 0)
		return r;
	bool line = c->failed.reason == MESSAGE_REASON_LINE && c->options.door;
	if (c->options.host && !line)
		inlay_buf_printf(&text, "%s: ", c->options.host);
	inlay_buf_add(&text, c->failed.text.bytes, c->failed.text.len);
	(void)inlay_error_set(err, c->failed.code, "%s", inlay_buf_cstr(&text));
	(void)inlay_error_set_exit(err, c->failed.exit_code <= INLAY_EXIT_TIMEOUT
						? (enum inlay_exit)c->failed.exit_code
						: INLAY_EXIT_FAILURE);
	if (line)
		return err && err->code ? err->code : -ECONNRESET;
	return CLIENT_FAILED;
}

/* A broken pipe while writing: what the peer said before it went counts more. */
static int broken(struct client *c, int r, struct inlay_error *err)
{
	struct frame f;

	if (r != -EPIPE && r != -ECONNRESET)
		return r;
	(void)!conn_pump(&c->conn, NULL);
	while (conn_next(&c->conn, &f, NULL) == 0)
		if (f.type == MESSAGE_FAILED)
			return client_hear_failed(c, &f, err);
	return ended(c, err);
}

int client_recv(struct client *c, int64_t timeout_ns, struct frame *ret, struct inlay_error *err)
{
	for (;;) {
		int64_t limit = c->greeted              ? timeout_ns
				: c->options.connect_ns ? c->options.connect_ns
							: HELLO_TIMEOUT_S * 1000000000ll;
		int r = conn_recv(&c->conn, limit ? inlay_monotonic_ns() + limit : 0, ret, err);
		if (r == CONN_END)
			return ended(c, err);
		if (r < 0)
			return broken(c, r, err);
		if (ret->type == MESSAGE_FAILED)
			return client_hear_failed(c, ret, err);
		if (ret->type != MESSAGE_HELLO)
			return c->greeted ? 0 : inlay_error_set(err, -EPROTO, "no HELLO came");
		r = hear_hello(c, ret, err);
		if (r < 0)
			return r;
	}
}

int client_drain(struct client *c, size_t queued, struct inlay_error *err)
{
	int r = conn_drain(&c->conn, queued, 0, err);

	return r < 0 ? broken(c, r, err) : r;
}

int client_open_workspace(struct client *c, const struct message_open *m, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	message_encode_open(&b, m);
	return client_send(c, MESSAGE_OPEN, &b, err);
}

int client_begin_request(struct client *c, const struct message_request *m, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	message_encode_request(&b, m);
	int r = client_send(c, MESSAGE_REQUEST, &b, err);
	return r == 0 ? client_drain(c, SIZE_MAX, err) : r;
}

int client_end_request(struct client *c,
		       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err),
		       void *ctx, struct inlay_error *err)
{
	struct frame f;
	int r = 0;

	while (r == 0) {
		r = client_recv(c, c->answer_ns, &f, err);
		if (r == 0 && f.type == MESSAGE_END)
			return 0;
		if (r == 0 && f.type == MESSAGE_ROW)
			r = row ? row(ctx, &f, err) : 0;
		/* Others (OPENED, DURABLE) belong to what went before. */
	}
	return r;
}

int client_request(struct client *c, const struct message_request *m,
		   int (*row)(void *ctx, const struct frame *f, struct inlay_error *err), void *ctx,
		   struct inlay_error *err)
{
	int r = client_begin_request(c, m, err);

	return r == 0 ? client_end_request(c, row, ctx, err) : r;
}
