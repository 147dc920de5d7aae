/* SPDX-License-Identifier: Apache-2.0 */
#include "run/contained.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "inlay/io.h"
#include "inlay/text.h"

enum { PROC_STATUS_MAX = 16384, CONFIG_MODE = 0600 };

extern char **environ;

/* ---- which runtime ---- */

int inlay_container_find(char *ret, size_t size, struct inlay_error *err)
{
	char crun[256];

	if (geteuid() != 0)
		return inlay_error_set(
			err, -EPERM,
			"a base image needs root on the host; without, set 'runtime: "
			"host' and no image");
	if (!inlay_find_program("runc", ret, size))
		return inlay_error_set(
			err, -ENOENT,
			"there is no runc on this host: apt-get install runc, or "
			"'runtime: host'%s",
			inlay_find_program("crun", crun, sizeof crun)
				? " (crun does not do: it makes its root private, so "
				  "that a workspace which is mounted anew would not "
				  "appear in what runs)"
				: "");
	return 0;
}

static int find_podman(char *ret, size_t size, struct inlay_error *err)
{
	return inlay_find_program("podman", ret, size)
		       ? 0
		       : inlay_error_set(err, -ENOENT,
					 "there is no podman on this host: apt-get install podman");
}

/* ---- opening ---- */

/* An overlay that is not there would be an empty directory: nothing could be run in it, and nobody would know why. */
static int check_mounted(const char *root, struct inlay_error *err)
{
	auto_buf struct inlay_buf above = {0};
	struct stat in, out;

	inlay_buf_printf(&above, "%s/..", root);
	if (stat(root, &in) < 0 || stat(inlay_buf_cstr(&above), &out) < 0)
		return inlay_error_sys(err, -errno, "look at the root %s", root);
	if (in.st_dev == out.st_dev)
		return inlay_error_set(err, -ENOENT,
				       "the root is not mounted; 'inlay status' says why");
	return 0;
}

int contained_open(const char *ws_dir, const char *name, struct contained *ret,
		   struct inlay_error *err)
{
	char below[sizeof INLAY_CONTAINER_ROOTS + INLAY_DIGEST_HEX + 8];
	auto_of(contained_fini) struct contained c = {0};
	auto_close int fd = open(ws_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	const char *id = strrchr(ws_dir, '/');

	if (fd < 0)
		return inlay_error_sys(err, -errno, "open %s", ws_dir);
	int r = inlay_container_read(fd, &c.spec, err);
	if (r != 0)
		return r;
	if (c.spec.runtime == INLAY_RUNTIME_HOST)
		return INLAY_CONTAINER_NONE;
	r = inlay_container_find(c.runtime, sizeof c.runtime, err);
	if (r == 0 && c.spec.runtime == INLAY_RUNTIME_PODMAN)
		r = find_podman(c.podman, sizeof c.podman, err);
	inlay_container_root(&c.spec.image, below, sizeof below);
	int n = snprintf(c.root, sizeof c.root, "%s/%s", ws_dir, below);
	int m = snprintf(c.id, sizeof c.id, "inlay-%.16s-%s", id ? id + 1 : ws_dir, name);
	if (r == 0 && (n < 0 || (size_t)n >= sizeof c.root || m < 0 || (size_t)m >= sizeof c.id))
		r = inlay_error_set(err, -ENAMETOOLONG, "the name of a container is too long");
	if (r == 0)
		r = check_mounted(c.root, err);
	if (r < 0)
		return r;
	*ret = c;
	c = (struct contained){0};
	return 0;
}

void contained_fini(struct contained *c)
{
	inlay_container_spec_fini(&c->spec);
}

int contained_bundle(const struct contained *c, struct oci_process *p, int dirfd,
		     struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	p->spec = &c->spec;
	p->root = c->root;
	int r = oci_config(p, &b, err);
	(void)unlinkat(dirfd, "pid", 0);
	return r < 0 ? r
		     : inlay_replace_file(dirfd, "config.json", b.data, b.len, CONFIG_MODE, 0, err);
}

/* ---- calling it ---- */

int contained_spawn(const char *program, char **argv, const int fds[3], pid_t *ret,
		    struct inlay_error *err)
{
	auto_free char *name = strdup(program);
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;

	if (!name)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	argv[0] = name;
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	for (int i = 0; i < 3; i++) {
		if (fds[i] < 0)
			(void)posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
		else
			(void)posix_spawn_file_actions_adddup2(&actions, fds[i], i);
	}
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	int r = posix_spawn(ret, program, &actions, &attr, argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	argv[0] = NULL;
	return r ? inlay_error_sys(err, -r, "run %s", program) : 0;
}

int contained_call(const char *program, char **argv, const int fds[3], struct inlay_error *err)
{
	int status;
	pid_t pid;
	int r = contained_spawn(program, argv, fds, &pid, err);

	if (r < 0)
		return r;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return inlay_error_sys(err, -errno, "wait for %s", program);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return inlay_error_set(err, -ECHILD, "%s %s did not go well", program, argv[1]);
}

pid_t contained_pid(int dirfd)
{
	auto_buf struct inlay_buf b = {0};
	uint64_t n;

	if (inlay_read_file(dirfd, "pid", 32, &b, NULL) != 0 ||
	    inlay_parse_u64(inlay_buf_cstr(&b), &n, NULL) < 0 || n > INT32_MAX)
		return 0;
	return (pid_t)n;
}

int contained_start(const struct contained *c, int dirfd, const char *dir, const int fds[3],
		    pid_t *ret_pid, struct inlay_error *err)
{
	char create[] = "create", start[] = "start", bundle[] = "--bundle", file[] = "--pid-file";
	auto_buf struct inlay_buf pid_path = {0};
	auto_free char *where = strdup(dir), *id = strdup(c->id);

	inlay_buf_printf(&pid_path, "%s/pid", dir);
	char *pid_file = (char *)inlay_buf_cstr(&pid_path);
	if (!where || !id || pid_path.failed)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	char *make[] = {NULL, create, bundle, where, file, pid_file, id, NULL};
	char *begin[] = {NULL, start, id, NULL};
	int r = contained_call(c->runtime, make, fds, err);
	if (r == 0) {
		*ret_pid = contained_pid(dirfd);
		const int quiet[] = {-1, -1, fds[2]};
		r = *ret_pid > 0 ? contained_call(c->runtime, begin, quiet, err)
				 : inlay_error_set(err, -EIO, "%s tells no pid", c->runtime);
	}
	if (r < 0)
		contained_delete(c);
	return r;
}

void contained_delete(const struct contained *c)
{
	char verb[] = "delete", force[] = "--force";
	auto_free char *id = strdup(c->id);
	const int quiet[] = {-1, -1, -1};
	char *argv[] = {NULL, verb, force, id, NULL};

	if (id)
		(void)!contained_call(c->runtime, argv, quiet, NULL);
}

bool contained_runs(const struct contained *c)
{
	char path[INLAY_CONTAINER_NAME_MAX + 32];

	(void)snprintf(path, sizeof path, "/run/runc/%s/state.json", c->id);
	return access(path, F_OK) == 0;
}

/* ---- signals ---- */

static bool default_is_death(int number)
{
	switch (number) {
	case SIGCHLD:
	case SIGCONT:
	case SIGURG:
	case SIGWINCH:
	case SIGSTOP:
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU:
		return false;
	default:
		return true;
	}
}

/* The bit of a signal in a line of /proc/<pid>/status, like "SigCgt:\t0000000180000002". */
static bool in_mask(const char *status, const char *name, int number)
{
	const char *line = strstr(status, name);

	return line && strtoull(line + strlen(name), NULL, 16) >> (number - 1) & 1;
}

int contained_signal(pid_t pid, int number)
{
	auto_buf struct inlay_buf b = {0};
	char path[64];

	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	if (default_is_death(number) &&
	    inlay_read_file(AT_FDCWD, path, PROC_STATUS_MAX, &b, NULL) == 0) {
		const char *text = inlay_buf_cstr(&b);
		/* Before the runtime became the program, it is the runtime that hears. */
		bool early = strncmp(text, "Name:\trunc:[", 12) == 0;
		if (early ||
		    (!in_mask(text, "SigCgt:", number) && !in_mask(text, "SigIgn:", number)))
			number = SIGKILL;
	}
	return kill(pid, number) < 0 ? -errno : 0;
}
