/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"
#include "session/source.h"

enum { ATTEMPTS = 3 }; /* another transport, an installation, the question */

bool common_take(struct common *c, int option)
{
	uint64_t hosts;

	switch (option) {
	case OPT_JSON:
		c->json = true;
		return true;
	case OPT_STATE:
		c->state = optarg;
		return true;
	case OPT_REMOTE_STATE:
		c->remote_state = optarg;
		return true;
	case OPT_HOST_COUNT:
		if (inlay_parse_u64(optarg, &hosts, NULL) < 0 || hosts > UINT_MAX)
			return false;
		c->hosts = (unsigned)hosts;
		return true;
	case OPT_CONNECT_TIMEOUT:
		return inlay_parse_duration(optarg, &c->connect_ns, NULL) == 0;
	case OPT_DOORS:
		c->doors = optarg;
		return true;
	case OPT_TRANSPORT:
		c->transport = optarg;
		return true;
	case 'e':
		c->rsh = optarg;
		return true;
	case 'v':
		c->verbose = 1;
		return true;
	case 'q':
		c->verbose = -1;
		return true;
	case 'h':
		c->help = true;
		return true;
	default:
		return false;
	}
}

int common_finish(struct common *c, struct inlay_error *err)
{
	const char *ssh = getenv("INLAY_SSH");

	if (!c->rsh && ssh && *ssh)
		c->rsh = ssh;
	if (!c->transport)
		c->transport = getenv("INLAY_TRANSPORT");
	if (c->transport && *c->transport &&
	    !transport_kind_parse(c->transport, &c->transport_kind)) {
		int r = inlay_error_set(
			err, -EINVAL, "the transport is auto, openssh, libssh2 or local, not '%s'",
			c->transport);
		(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
		return r;
	}
	if (c->state)
		inlay_buf_printf(&c->state_buf, "%s", c->state);
	else {
		int r = source_default_state(&c->state_buf, err);
		if (r < 0)
			return r;
	}
	/* One directory for both programs: the dev side's part and, for local targets, the host's. */
	inlay_buf_printf(&c->host_state_buf, "%s/host", inlay_buf_cstr(&c->state_buf));
	inlay_buf_printf(&c->state_buf, "/dev");
	c->state = inlay_buf_cstr(&c->state_buf);
	int r = inlay_buf_check(&c->state_buf, err);
	return r < 0 ? r : inlay_buf_check(&c->host_state_buf, err);
}

void common_fini(struct common *c)
{
	inlay_buf_fini(&c->state_buf);
	inlay_buf_fini(&c->host_state_buf);
}

static void note(void *ctx, const char *text)
{
	const struct common *c = ctx;

	if (c->verbose >= 0 && !c->json)
		(void)fprintf(stderr, "%s\n", text);
}

struct transport_options common_transport(const struct common *c, const struct target *t)
{
	return (struct transport_options){.kind = c->transport_kind,
					  .hosts = c->hosts,
					  .connect_ns = c->connect_ns,
					  .host = t->host,
					  .port = t->port,
					  .ssh = c->rsh,
					  .state = (const char *)c->host_state_buf.data,
					  .remote_state = c->remote_state,
					  .agents = getenv("INLAY_AGENTS"),
					  .cache = c->state,
					  .note = note,
					  .ctx = (void *)c};
}

int common_lines(const struct common *c, struct lines *l, struct transport_options *const *o,
		 size_t count, struct inlay_error *err)
{
	const char *at = c->doors;

	if (!at)
		return lines_join_shared(l, o, count, err);
	for (size_t i = 0; i < count; i++) {
		char *end;
		long fd = strtol(at, &end, 10);
		at = *end == ',' ? end + 1 : end;
		/* They are for sessions, not for what a session starts. */
		if (fd > 2 && fd < INT_MAX && fcntl((int)fd, F_SETFD, FD_CLOEXEC) == 0)
			o[i]->door = (int)fd;
	}
	return 0;
}

int common_fail(const struct common *c, const struct inlay_error *err)
{
	enum inlay_exit code = inlay_error_exit(err);
	auto_buf struct inlay_buf b = {0};

	inlay_text_escape(&b, err->text, strlen(err->text));
	if (c->json) {
		print_json(
			json_pack("{s:i, s:{s:i, s:o, s:s}}", "schema", 1, "error", "exit", code,
				  "text", print_json_name(err->text, strlen(err->text)), "code",
				  strerrorname_np(-err->code) ? strerrorname_np(-err->code) : "?"));
		return code;
	}
	(void)fprintf(stderr, "inlay: %s\n", inlay_buf_cstr(&b));
	if (c->verbose > 0)
		(void)fprintf(stderr, "inlay: from %s:%d, %s\n", err->file, err->line, err->func);
	return code;
}

int common_usage(const char *command, const char *why)
{
	(void)fprintf(stderr, "inlay %s: %s\ntry 'inlay %s --help'\n", command, why, command);
	return INLAY_EXIT_USAGE;
}

static int talk_once(const struct common *c, const struct target *t,
		     const struct message_open *open, common_talk_fn *talk, void *ctx,
		     struct inlay_error *err)
{
	struct transport_options transport = common_transport(c, t);
	struct client client = {0};
	struct frame f;
	int r = client_open(&client, &transport, 0, err);

	if (r == 0 && open)
		r = client_open_workspace(&client, open, err);
	/* OPENED is waited for, so that a failure is told apart from the request's. */
	if (r == 0 && open)
		r = client_recv(&client, 0, &f, err);
	if (r == 0)
		r = talk(ctx, &client, err);
	client_close(&client);
	return r;
}

int common_talk(const struct common *c, const struct target *t, const struct message_open *open,
		common_talk_fn *talk, void *ctx, struct inlay_error *err)
{
	int r = CLIENT_AGAIN;

	for (int i = 0; i < ATTEMPTS && r == CLIENT_AGAIN; i++)
		r = talk_once(c, t, open, talk, ctx, err);
	if (r == CLIENT_FAILED)
		return err->code;
	if (r == CLIENT_AGAIN)
		return inlay_error_set(err, -EREMOTEIO, "inlayd was installed, but is not found");
	return r;
}

struct question {
	const struct message_request *request;
	int (*row)(void *ctx, const struct frame *f, struct inlay_error *err);
	void *ctx;
};

static int put_question(void *ctx, struct client *client, struct inlay_error *err)
{
	const struct question *q = ctx;

	return client_request(client, q->request, q->row, q->ctx, err);
}

int common_ask(const struct common *c, const struct target *t, const struct message_open *open,
	       const struct message_request *request,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err), void *ctx,
	       struct inlay_error *err)
{
	struct question q = {request, row, ctx};

	return common_talk(c, t, open, put_question, &q, err);
}
