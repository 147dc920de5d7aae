/* SPDX-License-Identifier: Apache-2.0 */
#include "run/podman.h"

#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>

#include "inlay/run.h"

enum {
	ARGS_MAX = 8 * INLAY_RUN_STRINGS_MAX,
	LIMIT_BYTES = 80,
	FILES_MAX = 1 << 20,
	PROCESSES_MAX = 32768
};

struct args {
	const char *list[ARGS_MAX];
	size_t count;
};

static void add(struct args *a, const char *text)
{
	if (a->count + 1 < ARGS_MAX)
		a->list[a->count++] = text;
}

static void add_option(struct args *a, const char *name, const char *value)
{
	add(a, name);
	add(a, value);
}

/* As they are here, up to what podman lowers its own to: its defaults are more than we may give everywhere. */
static void put_limit(const char *name, int which, rlim_t most, char ret[static LIMIT_BYTES])
{
	struct rlimit l = {most, most};

	(void)getrlimit(which, &l);
	(void)snprintf(ret, LIMIT_BYTES, "%s=%llu:%llu", name,
		       (unsigned long long)(l.rlim_cur < most ? l.rlim_cur : most),
		       (unsigned long long)(l.rlim_max < most ? l.rlim_max : most));
}

/* The later ones of a name count. */
static void add_env(struct args *a, char *const *list)
{
	for (; list && *list; list++)
		add_option(a, "--env", *list);
}

static void add_words(struct args *a, char *const *list)
{
	for (; list && *list; list++)
		add(a, *list);
}

int podman_start(const struct contained *c, struct oci_process *p, const char *dir,
		 const int fds[3], pid_t *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf cwd = {0}, pid_file = {0}, pids = {0};
	auto_free struct args *a = calloc(1, sizeof *a);
	char files[LIMIT_BYTES], processes[LIMIT_BYTES];

	inlay_buf_printf(&pid_file, "%s/pid", dir);
	inlay_buf_printf(&cwd, "%s%s%s", p->dir[0] == '/' ? "" : p->workspace,
			 *p->dir && p->dir[0] != '/' ? "/" : "", p->dir);
	if (!a || pid_file.failed || cwd.failed)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	add(a, NULL);
	add_option(a, "--runtime", c->runtime);
	add(a, "run");
	add(a, "--replace");
	add(a, "--rm");
	add_option(a, "--name", c->id);
	add_option(a, "--network", "host");
	inlay_buf_printf(&pids, "ns:%s", p->pids);
	add_option(a, "--pid", inlay_buf_cstr(&pids));
	put_limit("nofile", RLIMIT_NOFILE, FILES_MAX, files);
	put_limit("nproc", RLIMIT_NPROC, PROCESSES_MAX, processes);
	add_option(a, "--ulimit", files);
	add_option(a, "--ulimit", processes);
	add_option(a, "--log-driver", "none");
	add_option(a, "--pidfile", inlay_buf_cstr(&pid_file));
	add_option(a, "--workdir", inlay_buf_cstr(&cwd));
	if (*c->spec.user)
		add_option(a, "--user", c->spec.user);
	for (char *const *d = p->devices; d && *d; d++)
		add_option(a, "--device", *d);
	add_env(a, c->spec.env);
	add_env(a, p->own);
	add_env(a, p->env);
	add(a, "--rootfs");
	add(a, c->root);
	add_words(a, c->spec.entrypoint);
	add_words(a, p->argv);
	if (a->count + 1 >= ARGS_MAX)
		return inlay_error_set(err, -E2BIG, "too many arguments and variables");
	return contained_spawn(c->podman, (char **)a->list, fds, ret, err);
}

void podman_delete(const struct contained *c)
{
	const char *argv[] = {NULL, "rm", "--force", "--ignore", "--time", "0", c->id, NULL};
	const int quiet[] = {-1, -1, -1};

	(void)!contained_call(c->podman, (char **)argv, quiet, NULL);
}
