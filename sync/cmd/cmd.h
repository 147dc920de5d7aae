/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_CMD_H
#define CMD_CMD_H

/*
 * What the subcommands share. Each one lives in a file of its own, owns its options and its help, and does
 * three things: parse, call, print. The exit code is enum inlay_exit.
 */

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "inlay/error.h"
#include "session/client.h"
#include "session/lines.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv); /* argv[0] is the command's name */
	const char *help;                  /* one line */
};

/* Options that every command has. */
struct common {
	bool json;
	bool help;
	int verbose;              /* -1 quiet, 0, 1 */
	const char *state;        /* --state or its default, absolute; set by common_finish */
	const char *remote_state; /* --remote-state */
	const char *rsh;          /* -e, INLAY_SSH */
	const char *transport;    /* --transport, INLAY_TRANSPORT */
	enum transport_kind transport_kind;
	const char *doors;  /* --doors */
	unsigned hosts;     /* that this run is about; for the transport */
	int64_t connect_ns; /* the time to reach a host; 0 = the default */
	struct inlay_buf state_buf, host_state_buf;
};

/* For the getopt_long table of a command. */
enum common_option {
	OPT_JSON = 1000,
	OPT_STATE,
	OPT_REMOTE_STATE,
	OPT_TRANSPORT,
	OPT_CONNECT_TIMEOUT, /* not for people: what a project says */
	OPT_DOORS, /* not for people: doors of lines to the hosts (session/lines.h), in the order of the targets */
	OPT_HOST_COUNT, /* not for people: of how many hosts a sync of components is one */
	OPT_FIRST_OWN,  /* commands number their long options from here */
};
#define COMMON_OPTIONS                                                                        \
	{"json", no_argument, NULL, OPT_JSON}, {"state", required_argument, NULL, OPT_STATE}, \
		{"remote-state", required_argument, NULL, OPT_REMOTE_STATE},                  \
		{"transport", required_argument, NULL, OPT_TRANSPORT},                        \
		{"host-count", required_argument, NULL, OPT_HOST_COUNT},                      \
		{"doors", required_argument, NULL, OPT_DOORS},                                \
		{"connect-timeout", required_argument, NULL, OPT_CONNECT_TIMEOUT},            \
		{"rsh", required_argument, NULL, 'e'}, {"verbose", no_argument, NULL, 'v'},   \
		{"quiet", no_argument, NULL, 'q'},                                            \
	{                                                                                     \
		"help", no_argument, NULL, 'h'                                                \
	}
#define COMMON_SHORT "e:vqh"
#define COMMON_HELP                                                                      \
	"  -e, --rsh CMD          the ssh command, with its options (INLAY_SSH)\n"       \
	"      --transport T      auto, openssh or libssh2 (INLAY_TRANSPORT)\n"          \
	"      --state DIR        keep all state below DIR (INLAY_STATE)\n"              \
	"      --remote-state DIR the same on the host\n"                                \
	"      --json             print JSON\n"                                          \
	"  -v, --verbose          say more      -q, --quiet  say only what went wrong\n" \
	"  -h, --help             this text\n"

/* Takes one option that getopt_long gave. False when it is not one of the common ones. */
bool common_take(struct common *c, int option);
/* After the options: fills in defaults. */
int common_finish(struct common *c, struct inlay_error *err) inlay_must_check;
void common_fini(struct common *c);

/* How to reach a target. Borrows from both. */
struct transport_options common_transport(const struct common *c, const struct target *t);

/* For the sessions of one run: those on one host share a connection. Behind the sessions, lines_end. */
int common_lines(const struct common *c, struct lines *l, struct transport_options *const *o,
		 size_t count, struct inlay_error *err) inlay_must_check;

/* Prints the error, as text on standard error or as JSON, and gives the exit code. */
int common_fail(const struct common *c, const struct inlay_error *err);
/* "try 'inlay sync --help'"; gives INLAY_EXIT_USAGE. */
int common_usage(const char *command, const char *why);

/*
 * Connects to the target, opens its workspace and makes one request; installs inlayd when it is missing. row() as in
 * client_request. `open` NULL: no workspace is opened.
 */
int common_ask(const struct common *c, const struct target *t, const struct message_open *open,
	       const struct message_request *request,
	       int (*row)(void *ctx, const struct frame *f, struct inlay_error *err), void *ctx,
	       struct inlay_error *err) inlay_must_check;

/* The same with more than a request: talk() is called when the workspace is open; what it gives is as of
 * client_request. */
typedef int common_talk_fn(void *ctx, struct client *client, struct inlay_error *err);
int common_talk(const struct common *c, const struct target *t, const struct message_open *open,
		common_talk_fn *talk, void *ctx, struct inlay_error *err) inlay_must_check;

int cmd_sync(int argc, char **argv);
int cmd_mount(int argc, char **argv);
int cmd_umount(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_watch(int argc, char **argv);
int cmd_flush(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_rollback(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_why_build(int argc, char **argv); /* argv[0] is --build */
int cmd_fsck(int argc, char **argv);
int cmd_gc(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_restart(int argc, char **argv);
int cmd_signal(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_shell(int argc, char **argv);
int cmd_check_ignore(int argc, char **argv);
int cmd_why(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_up(int argc, char **argv);
int cmd_down(int argc, char **argv);
int cmd_build(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_pull(int argc, char **argv);
int cmd_reset(int argc, char **argv);
int cmd_completion(int argc, char **argv);
int cmd_version(int argc, char **argv);

#endif
