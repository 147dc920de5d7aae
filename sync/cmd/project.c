/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/project.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const char *variable(void *ctx, const char *name)
{
	(void)ctx;
	return getenv(name);
}

static void hosts_path(struct inlay_buf *b)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

	if (xdg && xdg[0] == '/')
		inlay_buf_printf(b, "%s/inlay/hosts.yaml", xdg);
	else if (home && home[0] == '/')
		inlay_buf_printf(b, "%s/.config/inlay/hosts.yaml", home);
}

int project_find(const char *file, struct config_set *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf hosts = {0};

	hosts_path(&hosts);
	struct config_files files = {.project = file,
				     .directory = ".",
				     .hosts = hosts.len ? inlay_buf_cstr(&hosts) : NULL,
				     .variable = variable};
	return config_load(&files, ret, err);
}

int project_load(const char *file, struct config_set *ret, struct inlay_error *err)
{
	int r = project_find(file, ret, err);

	if (r != CONFIG_NONE)
		return r;
	r = inlay_error_set(err, -ENOENT,
			    "there is no inlay.yaml here or above; 'inlay init' writes one");
	(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	return r;
}
