/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/dst.h"
#include "cmd/print.h"
#include "cmd/setup.h"
#include "inlay/cleanup.h"

static const char mount_help[] =
	"usage: inlay mount [options] DST\n"
	"\n"
	"Mounts again what was last published at DST (host:path or a local path); also after a "
	"crash.\n"
	"Harmless when it is mounted.\n"
	"\n"
	"      --boot, --no-boot  register it for the next boot, or do not\n" SETUP_HELP
		COMMON_HELP;

static const char umount_help[] =
	"usage: inlay umount [options] DST\n"
	"\n"
	"Ends the mount at DST. What was synced stays in the store; 'inlay mount' brings it back.\n"
	"\n"
	"  -l, --lazy             also when it is in use: it goes when the last user "
	"does\n" COMMON_HELP;

enum { OPT_BOOT = OPT_FIRST_OWN, OPT_NO_BOOT };

struct options {
	struct common common;
	bool lazy, boot;
	struct setup setup;
};

static int ask(struct options *o, const char *dst, const struct message_request *request,
	       const char *done)
{
	struct inlay_error err = {0};
	struct target t = {0};
	int r = common_finish(&o->common, &err);

	if (r == 0)
		r = dst_parse(dst, &t, NULL, &err);
	if (r == 0) {
		struct message_open open = {.path = message_text_of(t.path),
					    .config = *setup_finish(&o->setup)};
		r = common_ask(&o->common, &t, &open, request, NULL, NULL, &err);
	}
	int code = r < 0 ? common_fail(&o->common, &err) : INLAY_EXIT_OK;
	if (r == 0 && o->common.json)
		print_json(json_pack("{s:i, s:o, s:s}", "schema", 1, "target",
				     print_json_name(dst, strlen(dst)), "result", done));
	else if (r == 0 && o->common.verbose >= 0)
		(void)printf("%s: %s\n", dst, done);
	target_fini(&t);
	return code;
}

int cmd_mount(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      SETUP_OPTIONS,
					      {"boot", no_argument, NULL, OPT_BOOT},
					      {"no-boot", no_argument, NULL, OPT_NO_BOOT},
					      {0}};
	struct options o = {0};
	bool own_state = getenv("INLAY_STATE"), no_boot = false;
	const char *why = NULL;
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		own_state |= c == OPT_STATE || c == OPT_REMOTE_STATE;
		if (c == OPT_BOOT)
			o.boot = true;
		else if (c == OPT_NO_BOOT)
			no_boot = true;
		else if (setup_take(&o.setup, c, optarg, &why)) {
			if (why)
				return common_usage("mount", why);
		} else if (!common_take(&o.common, c))
			return common_usage("mount", "bad options");
	}
	if (o.common.help) {
		(void)fputs(mount_help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind != 1)
		return common_usage("mount", "DST is needed");
	bool boot = o.boot || (!own_state && !no_boot);
	struct message_request request = {.verb = MESSAGE_VERB_MOUNT,
					  .flags = boot ? MESSAGE_OPEN_BOOT : 0};
	int code = ask(&o, argv[optind], &request, "mounted");
	setup_fini(&o.setup);
	common_fini(&o.common);
	return code;
}

int cmd_umount(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS, {"lazy", no_argument, NULL, 'l'}, {0}};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "l", table, NULL)) >= 0) {
		if (c == 'l')
			o.lazy = true;
		else if (!common_take(&o.common, c))
			return common_usage("umount", "bad options");
	}
	if (o.common.help) {
		(void)fputs(umount_help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind != 1)
		return common_usage("umount", "DST is needed");
	struct message_request request = {.verb = MESSAGE_VERB_UMOUNT, .args = {o.lazy}};
	int code = ask(&o, argv[optind], &request, "unmounted");
	common_fini(&o.common);
	return code;
}
