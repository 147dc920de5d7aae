/* SPDX-License-Identifier: Apache-2.0 */
/* A hook, a command or a shell in a workspace's root: in the container of a program that runs, or in one of its own. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "inlay/io.h"
#include "inlay/run.h"
#include "run/contained.h"

enum { ARGS_MAX = 4 * INLAY_RUN_STRINGS_MAX, KILL_AFTER_MS = 1500 };

#define ONCE_DIR "once"

struct once {
	const struct inlay_contain *o;
	struct contained box;
	char dir[CONTAINED_PATH_MAX + 128],
		name[CONTAINED_PATH_MAX]; /* of the bundle; its last component */
	int dirfd;
	const char *args[ARGS_MAX];
	size_t count;
};

/* ---- in which one ---- */

/* The first program of the workspace whose container runs. 0 or INLAY_CONTAINER_NONE. */
static int open_any(const struct inlay_contain *o, struct contained *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct dirent *d;
	int r = INLAY_CONTAINER_NONE;

	inlay_buf_printf(&path, "%s/run", o->ws_dir);
	DIR *dir = opendir(inlay_buf_cstr(&path));
	while (dir && r == INLAY_CONTAINER_NONE && (d = readdir(dir))) {
		if (!inlay_run_name_valid(d->d_name, strlen(d->d_name)))
			continue;
		r = contained_open(o->ws_dir, d->d_name, ret, err);
		if (r == 0 && !contained_runs(ret)) {
			contained_fini(ret);
			r = INLAY_CONTAINER_NONE;
		}
	}
	if (dir)
		(void)closedir(dir);
	return r;
}

static int open_running(const struct inlay_contain *o, struct contained *ret,
			struct inlay_error *err)
{
	if (!o->program)
		return INLAY_CONTAINER_NONE;
	if (!*o->program)
		return open_any(o, ret, err);
	int r = contained_open(o->ws_dir, o->program, ret, err);
	if (r == 0 && !contained_runs(ret)) {
		contained_fini(ret);
		r = INLAY_CONTAINER_NONE;
	}
	return r;
}

static int make_dir(struct once *n, struct inlay_error *err)
{
	(void)snprintf(n->name, sizeof n->name, ONCE_DIR "/%.64s-%d", n->o->name, (int)getpid());
	(void)snprintf(n->dir, sizeof n->dir, "%s/%s", n->o->ws_dir, n->name);
	return inlay_open_dir(AT_FDCWD, n->dir, 0700, &n->dirfd, err);
}

static void remove_dir(const struct once *n)
{
	auto_close int ws = open(n->o->ws_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (ws >= 0)
		(void)!inlay_remove_tree(ws, n->name, NULL);
}

/* ---- the command line ---- */

static void add(struct once *n, const char *arg)
{
	if (n->count + 1 < ARGS_MAX)
		n->args[n->count++] = arg;
}

static int exec_args(struct once *n, struct inlay_buf *texts, struct inlay_error *err)
{
	const struct inlay_contain *o = n->o;

	/* Three texts in one piece of memory, that does not move any more. */
	inlay_buf_printf(texts, "%s/pid%c%s%s%s%cTERM=%s", n->dir, 0,
			 o->dir[0] == '/' ? "" : o->workspace,
			 *o->dir && o->dir[0] != '/' ? "/" : "", o->dir, 0,
			 getenv("TERM") ? getenv("TERM") : "xterm");
	const char *pid_file = inlay_buf_cstr(texts), *cwd = pid_file + strlen(pid_file) + 1,
		   *term = cwd + strlen(cwd) + 1;
	add(n, NULL);
	add(n, "exec");
	add(n, "--pid-file");
	add(n, pid_file);
	add(n, "--cwd");
	add(n, cwd);
	if (o->tty) {
		add(n, "--tty");
		add(n, "--env");
		add(n, term);
	}
	for (char *const *v = o->env; v && *v; v++) {
		add(n, "--env");
		add(n, *v);
	}
	add(n, n->box.id);
	for (char *const *v = o->argv; *v; v++)
		add(n, *v);
	return inlay_buf_check(texts, err);
}

static int run_args(struct once *n, struct inlay_buf *texts, struct inlay_error *err)
{
	const struct inlay_contain *o = n->o;
	auto_buf struct inlay_buf workspace = {0}, term = {0};

	inlay_buf_printf(&workspace, "INLAY_WORKSPACE=%s", o->workspace);
	inlay_buf_printf(&term, "TERM=%s", getenv("TERM") ? getenv("TERM") : "xterm");
	char *own[] = {(char *)inlay_buf_cstr(&workspace), NULL, NULL};
	if (o->tty)
		own[1] = (char *)inlay_buf_cstr(&term);
	struct oci_process p = {.workspace = o->workspace,
				.dir = o->dir,
				.shows = o->shows,
				.argv = o->argv,
				.own = own,
				.env = o->env,
				.tty = o->tty};
	int r = contained_bundle(&n->box, &p, n->dirfd, err);
	inlay_buf_printf(texts, "%s/pid", n->dir);
	add(n, NULL);
	add(n, "run");
	add(n, "--bundle");
	add(n, n->dir);
	add(n, "--pid-file");
	add(n, inlay_buf_cstr(texts));
	add(n, n->box.id);
	return r < 0 ? r : inlay_buf_check(texts, err);
}

/* ---- waiting ---- */

/* The signals that we pass on are blocked from here on. */
static void hold_signals(sigset_t *ret)
{
	(void)sigemptyset(ret);
	(void)sigaddset(ret, SIGCHLD);
	(void)sigaddset(ret, SIGTERM);
	(void)sigaddset(ret, SIGINT);
	(void)sigaddset(ret, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, ret, NULL);
}

static int wait_for(struct once *n, const sigset_t *set, pid_t pid)
{
	const struct timespec poll = {.tv_nsec = 100000000};
	int64_t kill_ns = 0;
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		int number = kill_ns ? sigtimedwait(set, NULL, &poll) : sigwaitinfo(set, NULL);
		pid_t inside = contained_pid(n->dirfd);
		if (number > 0 && number != SIGCHLD) {
			if (inside > 0)
				(void)contained_signal(inside, number);
			else
				(void)kill(pid, number);
			if (number != SIGINT && !kill_ns)
				kill_ns = inlay_monotonic_ns() + KILL_AFTER_MS * 1000000ll;
		}
		if (kill_ns && inlay_monotonic_ns() > kill_ns)
			(void)kill(inside > 0 ? inside : pid, SIGKILL);
	}
	return status;
}

static int run_once(struct once *n, bool running, int *ret_status, struct inlay_error *err)
{
	auto_buf struct inlay_buf texts = {0};
	const int fds[] = {0, 1, 2};
	sigset_t set;
	pid_t pid;
	int r = make_dir(n, err);

	if (r == 0)
		r = running ? exec_args(n, &texts, err) : run_args(n, &texts, err);
	if (r == 0 && n->count + 1 >= ARGS_MAX)
		r = inlay_error_set(err, -E2BIG, "the command is too long");
	hold_signals(&set);
	if (r == 0)
		r = contained_spawn(n->box.runtime, (char **)n->args, fds, &pid, err);
	if (r == 0)
		*ret_status = wait_for(n, &set, pid);
	if (r == 0 && !running && contained_runs(&n->box))
		contained_delete(&n->box);
	remove_dir(n);
	return r;
}

int inlay_contain(const struct inlay_contain *o, int *ret_status, struct inlay_error *err)
{
	auto_free struct once *n = calloc(1, sizeof *n);
	char name[INLAY_CONTAINER_NAME_MAX];

	if (!n)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*n = (struct once){.o = o, .dirfd = -1};
	int r = open_running(o, &n->box, err);
	bool running = r == 0;
	if (r == INLAY_CONTAINER_NONE) {
		(void)snprintf(name, sizeof name, "%.50s-%d", o->name, (int)getpid());
		r = contained_open(o->ws_dir, name, &n->box, err);
	}
	if (r == 0)
		r = run_once(n, running, ret_status, err);
	inlay_cleanup_close(&n->dirfd);
	contained_fini(&n->box);
	return r;
}
