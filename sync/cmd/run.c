/* SPDX-License-Identifier: Apache-2.0 */
/* run, ps, stop, restart, signal: programs that a host runs for a workspace. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cmd/cmd.h"
#include "cmd/dst.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/host.h"
#include "inlay/text.h"

static const char run_help[] =
	"usage: inlay run [options] DST NAME -- CMD [ARG...]\n"
	"\n"
	"Runs CMD in the workspace DST (host:path or a local path) under NAME, in place of what "
	"ran "
	"under that\n"
	"name. It goes on when you leave, is started again when it ends, and after a reboot. Its "
	"last lines:\n"
	"'inlay logs'. It must stay in the foreground; a shell is not involved unless CMD is one.\n"
	"\n"
	"  -C, --dir DIR          run it in DIR (relative to DST, or absolute)\n"
	"  -E, --env NAME=VALUE   add a variable; may be given again\n"
	"      --restart WHEN     always (the default), on-failure, or never\n"
	"      --stop-signal SIG  how it is told to end (TERM)\n"
	"      --stop-timeout D   then it is killed (10s)\n" COMMON_HELP;

static const char ps_help[] = "usage: inlay ps [options] [DST...]\n"
			      "\n"
			      "The programs of the workspaces and how they go. DST is host:path, a "
			      "local path, or a component "
			      "of the\n"
			      "project (NAME or NAME@HOST); without one, those of all components.\n"
			      "\n" COMMON_HELP;

static const char stop_help[] =
	"usage: inlay stop [options] DST [NAME]\n"
	"\n"
	"Ends a program in order, and with it all that it started. It stays stopped, also after a "
	"reboot;\n"
	"'inlay restart' starts it again. Without NAME: the program of the component DST.\n"
	"\n"
	"      --forget           forget its description and its log, too\n" COMMON_HELP;

static const char restart_help[] =
	"usage: inlay restart [options] DST [NAME]\n"
	"\n"
	"Ends a program in order and starts it again. Without NAME: that of the component DST.\n"
	"\n" COMMON_HELP;

static const char signal_help[] = "usage: inlay signal [options] DST [NAME] SIGNAL\n"
				  "\n"
				  "Sends a signal (HUP, SIGHUP, 1) to a program and its group. "
				  "Without NAME: to that of the component DST.\n"
				  "\n" COMMON_HELP;

enum {
	OPT_RESTART = OPT_FIRST_OWN,
	OPT_STOP_SIGNAL,
	OPT_STOP_TIMEOUT,
	OPT_FORGET,
};

struct options {
	struct common common;
	struct target target;
	char *component;  /* whose target it is; NULL = a place */
	const char *host; /* likewise, where several are told of */
	const char *help, *verb;
	bool forget;
	struct inlay_run_spec spec; /* borrows; never ended */
	char *env[INLAY_RUN_STRINGS_MAX + 1];
	size_t env_count;
};

static int parse_restart(const char *text, enum inlay_run_restart *ret)
{
	static const char *const names[] = {"always", "on-failure", "never"};

	for (int i = 0; i < 3; i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum inlay_run_restart)i;
			return 0;
		}
	}
	return -1;
}

/* NULL when the option is good; otherwise why it is not. */
static const char *take(struct options *o, int c, struct inlay_error *err)
{
	switch (c) {
	case 'C':
		o->spec.dir = optarg;
		return NULL;
	case 'E':
		if (*optarg == '=' || !strchr(optarg, '='))
			return "-E wants NAME=VALUE";
		if (o->env_count == INLAY_RUN_STRINGS_MAX)
			return "too many variables";
		o->env[o->env_count++] = optarg;
		return NULL;
	case OPT_RESTART:
		return parse_restart(optarg, &o->spec.restart) == 0
			       ? NULL
			       : "--restart wants always, on-failure or never";
	case OPT_STOP_SIGNAL:
		return inlay_run_parse_signal(optarg, &o->spec.stop_signal, err) < 0 ? err->text
										     : NULL;
	case OPT_STOP_TIMEOUT:
		return inlay_parse_duration(optarg, &o->spec.stop_timeout_ns, err) < 0 ? err->text
										       : NULL;
	case OPT_FORGET:
		o->forget = true;
		return NULL;
	default:
		return common_take(&o->common, c) ? NULL : "bad options";
	}
}

/* 0 = go on with argv[optind...]; otherwise *ret_code is the exit code. */
static int parse(struct options *o, int argc, char **argv, const struct option *table, int least,
		 const char *what, int *ret_code)
{
	struct inlay_error err = {0};
	int c;

	*ret_code = INLAY_EXIT_USAGE;
	o->verb = argv[0];
	while ((c = getopt_long(argc, argv, "+" COMMON_SHORT "C:E:", table, NULL)) >= 0) {
		const char *why = take(o, c, &err);
		if (why) {
			(void)common_usage(argv[0], why);
			return 1;
		}
	}
	if (o->common.help) {
		(void)fputs(o->help, stdout);
		*ret_code = INLAY_EXIT_OK;
		return 1;
	}
	if (argc - optind < least) {
		(void)common_usage(argv[0], what);
		return 1;
	}
	if (common_finish(&o->common, &err) < 0 ||
	    (least > 0 && dst_parse(argv[optind], &o->target, &o->component, &err) < 0)) {
		*ret_code = common_fail(&o->common, &err);
		return 1;
	}
	return 0;
}

static void finish(struct options *o)
{
	target_fini(&o->target);
	free(o->component);
	common_fini(&o->common);
}

static int ask(struct options *o, const struct message_request *request,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err))
{
	struct inlay_error err = {0};
	struct message_open open = {.path = message_text_of(o->target.path)};
	int r = common_ask(&o->common, &o->target, &open, request, row, o, &err);

	return r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
}

/* ---- how a program goes ---- */

static void say_end(struct inlay_buf *b, int status)
{
	if (status == -1)
		return;
	if (WIFSIGNALED(status))
		inlay_buf_printf(b, "SIG%s", sigabbrev_np(WTERMSIG(status)));
	else
		inlay_buf_printf(b, "%d", WEXITSTATUS(status));
}

static void print_program(const struct options *o, const struct message_program *m)
{
	auto_buf struct inlay_buf ended = {0};
	struct inlay_buf b = {0};
	const char *state = inlay_run_state_name((enum inlay_run_state)m->state);

	say_end(&ended, m->ended);
	if (o->common.json) {
		json_t *j = json_pack("{s:i, s:o, s:s, s:I, s:I}", "schema", 1, "program",
				      print_json_name(m->name.bytes, m->name.len), "state", state,
				      "pid", (json_int_t)m->pid, "starts", (json_int_t)m->starts);
		if (o->host) {
			(void)json_object_set_new(j, "component", json_string(o->component));
			(void)json_object_set_new(j, "host", json_string(o->host));
		}
		if (m->since_ns)
			(void)json_object_set_new(j, "since", print_json_time(m->since_ns));
		if (m->next_ns)
			(void)json_object_set_new(j, "next_start", print_json_time(m->next_ns));
		if (ended.len)
			(void)json_object_set_new(j, "ended", json_string(inlay_buf_cstr(&ended)));
		print_json(j);
		return;
	}
	if (o->host)
		inlay_buf_printf(&b, "%s %s  ", o->host, o->component);
	if (!o->host || m->name.len != strlen(o->component) ||
	    memcmp(m->name.bytes, o->component, m->name.len) != 0) {
		inlay_text_escape(&b, m->name.bytes, m->name.len);
		inlay_buf_printf(&b, "  ");
	}
	inlay_buf_printf(&b, "%s", state);
	if (m->pid)
		inlay_buf_printf(&b, "  pid %llu", (unsigned long long)m->pid);
	if (m->since_ns) {
		inlay_buf_printf(&b, "  since ");
		print_local_time(&b, m->since_ns);
	}
	if (m->starts > 1)
		inlay_buf_printf(&b, "  %llu starts", (unsigned long long)m->starts);
	if (ended.len)
		inlay_buf_printf(&b, "  last ended with %s", inlay_buf_cstr(&ended));
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

static int program_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	const struct options *o = ctx;
	struct message_program m;
	int r = message_decode_program(f->payload, f->len, &m, err);

	if (r == 0 && o->common.verbose >= 0)
		print_program(o, &m);
	return r;
}

/* ---- the commands ---- */

int cmd_run(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS,
		{"dir", required_argument, NULL, 'C'},
		{"env", required_argument, NULL, 'E'},
		{"restart", required_argument, NULL, OPT_RESTART},
		{"stop-signal", required_argument, NULL, OPT_STOP_SIGNAL},
		{"stop-timeout", required_argument, NULL, OPT_STOP_TIMEOUT},
		{0}};
	struct options o = {.help = run_help,
			    .spec = {.stop_signal = SIGTERM, .stop_timeout_ns = 10000000000ll}};
	auto_buf struct inlay_buf spec = {0};
	int code;

	if (parse(&o, argc, argv, table, 3, "DST, NAME and CMD are needed", &code) != 0) {
		finish(&o);
		return code;
	}
	char **rest = argv + optind + 1;
	int command = strcmp(rest[1], "--") == 0 ? 2 : 1;
	if (!inlay_run_name_valid(rest[0], strlen(rest[0])) || !rest[command]) {
		finish(&o);
		return common_usage("run", !rest[command] ? "CMD is needed"
							  : "a NAME has letters, digits and ._-");
	}
	(void)snprintf(o.spec.name, sizeof o.spec.name, "%s", rest[0]);
	o.spec.argv = rest + command;
	o.spec.env = o.env;
	o.spec.wanted = true;
	inlay_run_spec_encode(&o.spec, &spec);
	if (spec.failed || spec.len > INLAY_RUN_SPEC_MAX) {
		finish(&o);
		return common_usage("run", "the command is too long");
	}
	struct message_request request = {.verb = MESSAGE_VERB_RUN,
					  .body = {(const char *)spec.data, spec.len}};
	code = ask(&o, &request, NULL);
	if (code == INLAY_EXIT_OK && !o.common.json && o.common.verbose >= 0)
		(void)printf("%s: %s runs\n", argv[optind], o.spec.name);
	else if (code == INLAY_EXIT_OK && o.common.json)
		print_json(json_pack("{s:i, s:s, s:s}", "schema", 1, "program", o.spec.name,
				     "result", "runs"));
	finish(&o);
	return code;
}

/* Everything that is meant is told of; the exit code is that of the last one that could not be asked. */
static int list(struct options *o, const char *text)
{
	static const struct message_request request = {.verb = MESSAGE_VERB_PROGRAMS};
	auto_of(dst_list_fini) struct dst_list places;
	struct inlay_error err = {0};
	int code = INLAY_EXIT_OK;

	if (dst_find(text, &places, &err) < 0)
		return common_fail(&o->common, &err);
	for (size_t i = 0; i < places.count; i++) {
		struct options one = *o;
		one.target = places.items[i].target;
		one.component = places.items[i].component;
		one.host = places.items[i].host;
		int r = ask(&one, &request, program_row);
		code = r ? r : code;
	}
	return code;
}

int cmd_ps(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	struct options o = {.help = ps_help};
	int code;

	if (parse(&o, argc, argv, table, 0, "", &code) == 0) {
		code = optind == argc ? list(&o, NULL) : INLAY_EXIT_OK;
		for (int i = optind; i < argc; i++) {
			int one = list(&o, argv[i]);
			code = one ? one : code;
		}
	}
	finish(&o);
	return code;
}

/* DST is a component and nothing says which of its programs: its own. */
static int change(struct options *o, const char *name, enum inlay_program_verb verb,
		  int signal_number)
{
	struct message_request request = {.verb = MESSAGE_VERB_PROGRAM,
					  .args = {verb, (uint64_t)signal_number}};

	if (!name && !o->component)
		return common_usage(o->verb, "the NAME of a program is needed");
	request.body = message_text_of(name ? name : o->component);
	return ask(o, &request, program_row);
}

int cmd_stop(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS, {"forget", no_argument, NULL, OPT_FORGET}, {0}};
	struct options o = {.help = stop_help};
	int code;

	if (parse(&o, argc, argv, table, 1, "DST is needed", &code) == 0)
		code = change(&o, argv[optind + 1],
			      o.forget ? INLAY_PROGRAM_FORGET : INLAY_PROGRAM_STOP, 0);
	finish(&o);
	return code;
}

int cmd_restart(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	struct options o = {.help = restart_help};
	int code;

	if (parse(&o, argc, argv, table, 1, "DST is needed", &code) == 0)
		code = change(&o, argv[optind + 1], INLAY_PROGRAM_RESTART, 0);
	finish(&o);
	return code;
}

int cmd_signal(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	struct options o = {.help = signal_help};
	struct inlay_error err = {0};
	int code, number;

	if (parse(&o, argc, argv, table, 2, "DST and SIGNAL are needed", &code) == 0) {
		if (inlay_run_parse_signal(argv[argc - 1], &number, &err) < 0)
			code = common_usage("signal", err.text);
		else
			code = change(&o, argc - optind > 2 ? argv[optind + 1] : NULL,
				      INLAY_PROGRAM_SIGNAL, number);
	}
	finish(&o);
	return code;
}
