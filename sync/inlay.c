/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inlay: the command line.
 *
 * sync/ is state in motion:
 *     cmd/        one file for each subcommand: parse, call, print
 *     session/    the asking side (push, client, source) and the serving side (serve)
 *     watch/      from changes of a folder to change sets
 *     transport/  ways to a host: a local child, ssh, libssh2
 *     wire/       frames, messages, the object stream: bytes <-> structs
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/completion.h"
#include "transport/ssh2.h"

static const struct command commands[] = {
	{"sync", cmd_sync, "make a folder appear on a host, as one change set"},
	{"watch", cmd_watch, "sync again whenever something changes"},
	{"flush", cmd_flush, "return when every target of a watch shows the present state"},
	{"mount", cmd_mount, "mount again what was published last"},
	{"umount", cmd_umount, "end a mount"},
	{"status", cmd_status, "what is shown where"},
	{"log", cmd_log, "the generations of a target"},
	{"diff", cmd_diff, "what differs between two generations"},
	{"rollback", cmd_rollback, "show an earlier generation again"},
	{"run", cmd_run, "run a program in a workspace, for good"},
	{"ps", cmd_ps, "the programs of a workspace"},
	{"stop", cmd_stop, "end a program"},
	{"restart", cmd_restart, "end a program and start it again"},
	{"signal", cmd_signal, "send a signal to a program"},
	{"logs", cmd_logs, "the last lines of programs"},
	{"exec", cmd_exec, "run a command in a workspace, now"},
	{"shell", cmd_shell, "a shell in a workspace"},
	{"image", cmd_image, "base images: build, import, list, inspect, rm"},
	{"up", cmd_up, "bring a project up on all its hosts, and follow every change"},
	{"down", cmd_down, "stop a project on its hosts"},
	{"build", cmd_build, "build a project's components on their hosts"},
	{"init", cmd_init, "write an inlay.yaml"},
	{"config", cmd_config, "check or show what inlay.yaml says"},
	{"reset", cmd_reset, "drop what was written on a target, see what was synced"},
	{"pull", cmd_pull, "bring what was written on a target to this machine"},
	{"fsck", cmd_fsck, "read and check a host's store"},
	{"gc", cmd_gc, "free what no generation needs"},
	{"check-ignore", cmd_check_ignore, "which paths are left out, and by which rule"},
	{"why", cmd_why, "is a path synced, why, and which target has it"},
	{"doctor", cmd_doctor, "what is well and what is not, here and on hosts"},
	{"completion", cmd_completion, "completion for bash, zsh and fish"},
	{"version", cmd_version, "versions of inlay and its formats"},
};

static void usage(FILE *f)
{
	(void)fputs("usage: inlay COMMAND [options] ...\n\n", f);
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		(void)fprintf(f, "  %-12s %s\n", commands[i].name, commands[i].help);
	(void)fputs("\n'inlay COMMAND --help' tells more.\n", f);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	(void)signal(SIGPIPE, SIG_IGN);
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
		usage(stdout);
		return INLAY_EXIT_OK;
	}
	/* Not for people: the libssh2 transport starts us anew, and completion asks us. */
	if (strcmp(name, SSH2_CHILD) == 0)
		ssh2_main();
	if (strcmp(name, COMPLETE_COMMAND) == 0)
		return cmd_complete(argc - 1, argv + 1);
	if (strcmp(name, "--version") == 0)
		name = "version";
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	if (*name)
		(void)fprintf(stderr, "inlay: there is no command '%s'\n\n", name);
	usage(stderr);
	return INLAY_EXIT_USAGE;
}
