/* SPDX-License-Identifier: Apache-2.0 */
/* A command in a workspace, without the keeper: it only needs the places. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "inlay/container.h"
#include "inlay/io.h"
#include "inlay/keep.h"
#include "keep/host.h"

static int enter_directory(const char *path, struct inlay_error *err)
{
	return chdir(path) < 0 ? inlay_error_sys(err, -errno, "enter %s", path) : 0;
}

static int open_workspace(const char *state, const char *path, int *ret_fd, struct inlay_error *err)
{
	char name[INLAY_HOST_PATH_MAX + 64], id[17];

	workspace_id_of_path(path, id);
	(void)snprintf(name, sizeof name, "%s/ws/%s", state, id);
	*ret_fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? inlay_error_set(err, -ENOENT, "nothing was ever synced to %s", path)
			   : 0;
}

static int read_program(int ws_fd, const char *program, struct inlay_run_spec *ret,
			struct inlay_error *err)
{
	char name[INLAY_RUN_NAME_MAX + 16];
	auto_buf struct inlay_buf b = {0};
	auto_close int dirfd = -1;

	if (!inlay_run_name_valid(program, strlen(program)))
		return inlay_error_set(err, -EINVAL, "that is no program's name");
	(void)snprintf(name, sizeof name, "run/%s", program);
	dirfd = openat(ws_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int r = dirfd < 0 ? -ENOENT : inlay_read_file(dirfd, "spec", INLAY_RUN_SPEC_MAX, &b, err);
	if (r == -ENOENT || r == INLAY_IO_MISSING)
		return inlay_error_set(err, -ENOENT, "there is no program '%s'", program);
	return r < 0 ? r : inlay_run_spec_decode(b.data, b.len, ret, err);
}

/* The directory and the variables of a program. */
static int take_program(const struct inlay_run_spec *spec, struct inlay_error *err)
{
	int r = 0;

	for (char **v = spec->env; r == 0 && v && *v; v++) {
		char *value = strchr(*v, '=');
		*value = 0;
		if (setenv(*v, value + 1, 1) < 0)
			r = inlay_error_sys(err, -errno, "set %s", *v);
	}
	if (r == 0 && spec->dir && *spec->dir)
		r = enter_directory(spec->dir, err);
	return r;
}

/* In the root of the workspace, if it has one: in the container of the program, or of any that runs. */
static int enter_container(const char *state, const char *path, const char *program,
			   const struct inlay_run_spec *spec, char *const *argv, int *ret_status,
			   struct inlay_error *err)
{
	static char sh[] = "/bin/sh", dash_c[] = "-c",
		    login[] = "exec \"$(command -v bash || echo /bin/sh)\" -l";
	char *const shell[] = {sh, dash_c, login, NULL};
	auto_buf struct inlay_buf ws_dir = {0};
	auto_free char *real = realpath(state, NULL);
	char id[17];

	if (!real)
		return inlay_error_sys(err, -errno, "resolve %s", state);
	workspace_id_of_path(path, id);
	inlay_buf_printf(&ws_dir, "%s/ws/%s", real, id);
	struct inlay_contain c = {.ws_dir = inlay_buf_cstr(&ws_dir),
				  .workspace = path,
				  .program = program ? program : "",
				  .name = argv && *argv ? "exec" : "shell",
				  .dir = spec->dir ? spec->dir : "",
				  .argv = argv && *argv ? argv : shell,
				  .env = spec->env,
				  .tty = isatty(0) && isatty(1)};
	return inlay_contain(&c, ret_status, err);
}

static int become_shell(struct inlay_error *err)
{
	const char *shell = getenv("SHELL");
	char name[256];

	if (!shell || shell[0] != '/')
		shell = "/bin/sh";
	/* A dash in front makes it a login shell. */
	(void)snprintf(name, sizeof name, "-%.200s", strrchr(shell, '/') + 1);
	(void)execl(shell, name, NULL);
	return inlay_error_sys(err, -errno, "run %s", shell);
}

int inlay_keep_enter(const char *state, const char *path, const char *program, char **argv,
		     int *ret_status, struct inlay_error *err)
{
	__attribute__((cleanup(inlay_cleanup_inlay_run_spec_fini))) struct inlay_run_spec spec = {
		0};
	char canonical[INLAY_HOST_PATH_MAX];
	auto_close int ws_fd = -1;
	int r = workspace_canonical_path(path, false, canonical, err);

	if (r == 0)
		r = open_workspace(state, canonical, &ws_fd, err);
	if (r == 0 && program)
		r = read_program(ws_fd, program, &spec, err);
	if (r == 0)
		r = enter_container(state, canonical, program, &spec, argv, ret_status, err);
	if (r != INLAY_CONTAINER_NONE)
		return r;
	r = enter_directory(canonical, err);
	if (r == 0 && setenv("INLAY_WORKSPACE", canonical, 1) < 0)
		r = inlay_error_sys(err, -errno, "set INLAY_WORKSPACE");
	if (r == 0)
		r = take_program(&spec, err);
	if (r < 0)
		return r;
	(void)signal(SIGPIPE, SIG_DFL);
	if (!argv || !*argv)
		return become_shell(err);
	(void)execvp(argv[0], argv);
	r = inlay_error_sys(err, -errno, "run %s", argv[0]);
	/* As shells do: scripts tell "not there" from a failure by it. */
	(void)inlay_error_set_exit(err, (enum inlay_exit)(r == -ENOENT ? 127 : 126));
	return r;
}
