/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/mount.h"

static const char mount_help[] =
	"usage: inlay mount [options] DST\n"
	"\n"
	"Mounts again what was last published at DST (host:path or a local path); also after a "
	"crash.\n"
	"Harmless when it is mounted.\n"
	"\n"
	"      --upper POLICY     what is written there and what is synced at the same path:\n"
	"                         keep (what was written stays), source-wins, read-only\n"
	"      --xattrs on|off    extended attributes (off)\n"
	"      --owners POLICY    whose synced files are: squash (yours), keep (as they say)\n"
	"                         These are remembered. In use it cannot be mounted anew (exit "
	"1).\n"
	"      --boot, --no-boot  register it for the next boot, or do not\n" COMMON_HELP;

static const char umount_help[] =
	"usage: inlay umount [options] DST\n"
	"\n"
	"Ends the mount at DST. What was synced stays in the store; 'inlay mount' brings it back.\n"
	"\n"
	"  -l, --lazy             also when it is in use: it goes when the last user "
	"does\n" COMMON_HELP;

enum { OPT_BOOT = OPT_FIRST_OWN, OPT_NO_BOOT, OPT_UPPER, OPT_XATTRS, OPT_OWNERS };

struct options {
	struct common common;
	bool lazy, boot;
};

static int ask(struct options *o, const char *dst, const struct message_request *request,
	       const char *done)
{
	struct inlay_error err = {0};
	struct target t = {0};
	int r = common_finish(&o->common, &err);

	if (r == 0)
		r = target_parse(dst, &t, &err);
	if (r == 0) {
		struct message_open open = {.path = message_text_of(t.path)};
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

/* An option that says how to mount, and has a value that it can have. */
static bool take_policy(int option, uint64_t *how)
{
	static const struct {
		int option;
		const char *value;
		uint64_t bits;
	} known[] = {
		{OPT_UPPER, "keep", MESSAGE_MOUNT_UPPER | INLAY_UPPER_KEEP},
		{OPT_UPPER, "source-wins",
		 MESSAGE_MOUNT_UPPER | INLAY_UPPER_SOURCE_WINS << MESSAGE_MOUNT_UPPER_SHIFT},
		{OPT_UPPER, "read-only",
		 MESSAGE_MOUNT_UPPER | INLAY_UPPER_READ_ONLY << MESSAGE_MOUNT_UPPER_SHIFT},
		{OPT_XATTRS, "off", MESSAGE_MOUNT_XATTRS},
		{OPT_XATTRS, "on", MESSAGE_MOUNT_XATTRS | MESSAGE_MOUNT_XATTRS_ON},
		{OPT_OWNERS, "squash", MESSAGE_MOUNT_OWNERS},
		{OPT_OWNERS, "keep", MESSAGE_MOUNT_OWNERS | MESSAGE_MOUNT_OWNERS_KEEP},
	};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		if (known[i].option == option && strcmp(known[i].value, optarg) == 0) {
			*how |= known[i].bits;
			return true;
		}
	}
	return false;
}

int cmd_mount(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"boot", no_argument, NULL, OPT_BOOT},
					      {"no-boot", no_argument, NULL, OPT_NO_BOOT},
					      {"upper", required_argument, NULL, OPT_UPPER},
					      {"xattrs", required_argument, NULL, OPT_XATTRS},
					      {"owners", required_argument, NULL, OPT_OWNERS},
					      {0}};
	struct options o = {0};
	bool own_state = getenv("INLAY_STATE"), no_boot = false;
	uint64_t how = 0;
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		own_state |= c == OPT_STATE || c == OPT_REMOTE_STATE;
		if (c == OPT_BOOT)
			o.boot = true;
		else if (c == OPT_NO_BOOT)
			no_boot = true;
		else if (!take_policy(c, &how) && !common_take(&o.common, c))
			return common_usage("mount", "bad options");
	}
	if (o.common.help) {
		(void)fputs(mount_help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind != 1)
		return common_usage("mount", "DST is needed");
	bool boot = o.boot || (!own_state && !no_boot);
	struct message_request request = {
		.verb = MESSAGE_VERB_MOUNT, .flags = boot ? MESSAGE_OPEN_BOOT : 0, .args = {how}};
	int code = ask(&o, argv[optind], &request, "mounted");
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
