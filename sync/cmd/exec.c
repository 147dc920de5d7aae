/* SPDX-License-Identifier: Apache-2.0 */
/* exec, shell: a command in a workspace, now, with this terminal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/dst.h"
#include "inlay/cleanup.h"

static const char exec_help[] =
	"usage: inlay exec [options] DST -- CMD [ARG...]\n"
	"\n"
	"Runs CMD in the workspace DST (host:path, a local path, or a component of the project: "
	"NAME or\n"
	"NAME@HOST) and ends with its exit code. Standard input, output and error are yours. A "
	"shell is "
	"not\n"
	"involved unless CMD is one.\n"
	"\n"
	"  -p, --program NAME     with the directory and the variables of a program of 'inlay "
	"run'\n"
	"  -t, --tty              give it a terminal\n" COMMON_HELP;

static const char shell_help[] =
	"usage: inlay shell [options] DST\n"
	"\n"
	"A login shell in the workspace DST, with a terminal.\n"
	"\n"
	"  -p, --program NAME     with the directory and the variables of a program of 'inlay "
	"run'\n" COMMON_HELP;

struct options {
	struct common common;
	const char *program;
	bool tty;
};

enum { INSTALLED = 1 };

/* Brings inlayd there when it is missing. */
static int bring_agent(const struct transport_options *transport, struct inlay_error *err)
{
	struct message_request request = {.verb = MESSAGE_VERB_STATUS};
	struct client client = {0};
	int r = client_open(&client, transport, 0, err);

	if (r == 0)
		r = client_request(&client, &request, NULL, NULL, err);
	client_close(&client);
	return r == CLIENT_AGAIN ? INSTALLED : r < 0 ? r : 0;
}

static int run_there(struct options *o, const char *dst, char *const *command)
{
	struct inlay_error err = {0};
	struct target t = {0};
	int status = 0, r = common_finish(&o->common, &err);

	if (r == 0)
		r = dst_parse(dst, &t, NULL, &err);
	if (r == 0) {
		struct transport_options transport = common_transport(&o->common, &t);
		struct transport_exec e = {
			.path = t.path, .program = o->program, .tty = o->tty, .command = command};
		r = transport_exec(&transport, &e, &status, &err);
		/* Was that the command's own exit code, or was there no inlayd to run it? */
		if (r == 0 && t.host && status == TRANSPORT_EXEC_NO_AGENT)
			r = bring_agent(&transport, &err);
		if (r == INSTALLED)
			r = transport_exec(&transport, &e, &status, &err);
	}
	target_fini(&t);
	return r < 0 ? common_fail(&o->common, &err) : status;
}

/* 0 = go on. */
static int parse(struct options *o, int argc, char **argv, const char *help, int *ret_code)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"program", required_argument, NULL, 'p'},
					      {"tty", no_argument, NULL, 't'},
					      {0}};
	int c;

	while ((c = getopt_long(argc, argv, "+" COMMON_SHORT "p:t", table, NULL)) >= 0) {
		if (c == 'p') {
			o->program = optarg;
		} else if (c == 't') {
			o->tty = true;
		} else if (!common_take(&o->common, c)) {
			*ret_code = common_usage(argv[0], "bad options");
			return 1;
		}
	}
	if (!o->common.help)
		return 0;
	(void)fputs(help, stdout);
	*ret_code = INLAY_EXIT_OK;
	return 1;
}

int cmd_exec(int argc, char **argv)
{
	struct options o = {0};
	int code;

	if (parse(&o, argc, argv, exec_help, &code) == 0) {
		char **rest = argv + optind;
		int count = argc - optind, from = count > 1 && !strcmp(rest[1], "--") ? 2 : 1;
		code = count <= from ? common_usage("exec", "DST and CMD are needed")
				     : run_there(&o, rest[0], rest + from);
	}
	common_fini(&o.common);
	return code;
}

int cmd_shell(int argc, char **argv)
{
	struct options o = {0};
	char *none[] = {NULL};
	int code;

	if (parse(&o, argc, argv, shell_help, &code) == 0) {
		o.tty = isatty(STDIN_FILENO);
		code = argc - optind != 1 ? common_usage("shell", "DST is needed")
					  : run_there(&o, argv[optind], none);
	}
	common_fini(&o.common);
	return code;
}
