/* SPDX-License-Identifier: Apache-2.0 */
/* The devices that a program needs, looked at as the user who is going to run it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "inlay/run.h"
#include "inlay/text.h"

enum { GROUP_FILE_MAX = 1 << 20, GROUP_NAME_MAX = 64 };

/* From /etc/group alone: a static program cannot ask the system's other sources. */
static bool group_name(gid_t gid, char ret[static GROUP_NAME_MAX])
{
	auto_buf struct inlay_buf b = {0};
	char *save = NULL;

	if (inlay_read_file(AT_FDCWD, "/etc/group", GROUP_FILE_MAX, &b, NULL) != 0)
		return false;
	for (char *line = strtok_r((char *)inlay_buf_cstr(&b), "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *colon = strchr(line, ':'), *number = colon ? strchr(colon + 1, ':') : NULL;
		if (!number || strtoul(number + 1, NULL, 10) != gid || colon == line)
			continue;
		(void)snprintf(ret, GROUP_NAME_MAX, "%.*s", (int)(colon - line), line);
		return true;
	}
	return false;
}

static int refused(const char *program, const char *path, const struct stat *st,
		   struct inlay_error *err)
{
	char group[GROUP_NAME_MAX];

	if (st->st_mode & 060 && st->st_gid != 0 && group_name(st->st_gid, group))
		return inlay_error_set(
			err, -EACCES,
			"'%s' needs %s, which user %u must not open: add the user to the group "
			"'%s' (sudo usermod -aG %s USER) and log in anew",
			program, path, (unsigned)geteuid(), group, group);
	return inlay_error_set(err, -EACCES,
			       "'%s' needs %s, which user %u must not open: its mode is %04o, and "
			       "a udev rule can give it a group (GROUP=, MODE=\"0660\")",
			       program, path, (unsigned)geteuid(), st->st_mode & 07777);
}

int inlay_run_check_devices(const struct inlay_run_spec *spec, struct inlay_error *err)
{
	for (char *const *d = spec->devices; d && *d; d++) {
		struct stat st;
		if (stat(*d, &st) < 0)
			return inlay_error_set(
				err, -ENODEV,
				"'%s' needs %s, which is not there (%s): is it connected, and its "
				"driver loaded? 'dmesg' tells",
				spec->name, *d, strerrordesc_np(errno));
		if (faccessat(AT_FDCWD, *d, R_OK | W_OK, AT_EACCESS) < 0)
			return refused(spec->name, *d, &st, err);
	}
	return 0;
}
