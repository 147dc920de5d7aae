/* SPDX-License-Identifier: Apache-2.0 */
#include "run/contained.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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
	contained_release(c);
	inlay_container_spec_fini(&c->spec);
}

/* ---- its process namespace ---- */

/* Orphans become its children, and are forgotten when they end. */
_Noreturn static void hold(int fd)
{
	char byte;

	(void)dup2(fd, 0);
	(void)close_range(1, ~0u, 0);
	(void)signal(SIGCHLD, SIG_IGN);
	while (read(0, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static int make_namespace(struct contained *c, struct inlay_error *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		hold(fds[0]);
	(void)close(fds[0]);
	if (pid < 0) {
		int r = inlay_error_sys(err, -errno, "make a process namespace");
		(void)close(fds[1]);
		return r;
	}
	c->holder = pid;
	c->holder_fd = fds[1];
	(void)snprintf(c->pids, sizeof c->pids, "/proc/%d/ns/pid", (int)pid);
	return 0;
}

void contained_release(struct contained *c)
{
	if (c->holder <= 0)
		return;
	(void)close(c->holder_fd);
	(void)kill(c->holder, SIGKILL);
	/* Somebody who waits for every child may have been quicker. */
	while (waitpid(c->holder, NULL, 0) < 0 && errno == EINTR)
		;
	c->holder = 0;
}

int contained_bundle(struct contained *c, struct oci_process *p, int dirfd, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	contained_release(c);
	int r = make_namespace(c, err);
	p->spec = &c->spec;
	p->root = c->root;
	p->pids = c->pids;
	if (r == 0)
		r = oci_config(p, &b, err);
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

int contained_signal(pid_t pid, int number)
{
	auto_buf struct inlay_buf b = {0};
	char path[64];

	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	/* Before the runtime became the program it is the runtime that hears, and that does not end by it. */
	if (inlay_read_file(AT_FDCWD, path, PROC_STATUS_MAX, &b, NULL) == 0 &&
	    strncmp(inlay_buf_cstr(&b), "Name:\trunc:[", 12) == 0)
		number = SIGKILL;
	return kill(-pid, number) < 0 ? -errno : 0;
}
