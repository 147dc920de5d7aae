/* SPDX-License-Identifier: Apache-2.0 */
/* A target looks at itself, for `inlay doctor`. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/checkup.h"
#include "inlay/container.h"
#include "inlay/io.h"
#include "keep/host.h"
#include "keep/kernel_mount.h"

extern char **environ;

enum { LOOK_MS = 3000 }; /* at a mount that may hang */

struct doctor {
	struct inlay_host *host;
	bool fix;
	inlay_check_fn *fn;
	void *ctx;
	unsigned wanted; /* workspaces that shall be mounted */
};

#define tell(d, level, name, cure, ...) \
	inlay_check_tell((d)->fn, (d)->ctx, level, name, cure, __VA_ARGS__)

static void tell_fixed(struct doctor *d, const char *name, const char *what, const char *path)
{
	char text[INLAY_CHECK_TEXT];

	(void)snprintf(text, sizeof text, "%.900s: %.100s", path, what);
	d->fn(d->ctx, &(struct inlay_check){.name = name, .text = text, .cure = "", .fixed = true});
}

/* Which inlayd holds the store. */
static void check_agent(struct doctor *d)
{
	char path[900];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

	path[n > 0 ? n : 0] = 0;
	tell(d, INLAY_CHECK_OK, "agent", "", "inlayd %s, %s", INLAY_VERSION, path);
}

/* ---- mounting at all ---- */

static void check_fuse(struct doctor *d)
{
	auto_close int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		tell(d, INLAY_CHECK_OK, "fuse", "", "/dev/fuse can be opened");
	else
		tell(d, INLAY_CHECK_BAD, "fuse",
		     errno == ENOENT
			     ? "modprobe fuse; for a container: --device /dev/fuse --cap-add "
			       "SYS_ADMIN"
			     : "let this user open /dev/fuse (mode 0666 is usual); for a "
			       "container: --device /dev/fuse",
		     "/dev/fuse: %s", strerror(errno));
}

static bool allows_other(void)
{
	auto_buf struct inlay_buf b = {0};

	if (inlay_read_file(AT_FDCWD, "/etc/fuse.conf", 65536, &b, NULL) != 0)
		return false;
	for (const char *p = inlay_buf_cstr(&b); p && *p;
	     p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, "user_allow_other", 16) == 0)
			return true;
	return false;
}

static void check_helper(struct doctor *d)
{
	char path[256];
	struct stat st;

	if (geteuid() == 0) {
		tell(d, INLAY_CHECK_OK, "fusermount", "",
		     "not needed: root mounts by itself, for everybody");
		return;
	}
	if (!inlay_find_program("fusermount3", path, sizeof path))
		tell(d, INLAY_CHECK_BAD, "fusermount", "install the package fuse3, or run as root",
		     "fusermount3 is not there; an ordinary user cannot mount without it");
	else if (stat(path, &st) == 0 && !((st.st_mode & S_ISUID) && st.st_uid == 0))
		tell(d, INLAY_CHECK_BAD, "fusermount", "reinstall the package fuse3",
		     "%s is not setuid root", path);
	else
		tell(d, INLAY_CHECK_OK, "fusermount", "", "%s", path);
	tell(d, INLAY_CHECK_OK, "allow_other", "",
	     "mounts of this user are for this user alone; those of root are for everybody "
	     "(user_allow_other is %s in /etc/fuse.conf)",
	     allows_other() ? "set" : "not set");
}

/* ---- what is mounted ---- */

/* Asks in a process of its own, which can be killed: whoever serves the mount may hang. */
static const char *look_at_mount(const char *path)
{
	char stat_name[] = "stat", f[] = "-f", dashes[] = "--";
	auto_free char *copy = strdup(path);
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	int status = 0;
	pid_t pid;

	char *argv[] = {stat_name, f, dashes, copy, NULL};
	(void)posix_spawn_file_actions_init(&actions);
	for (int fd = 0; fd < 3; fd++)
		(void)posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	(void)posix_spawnattr_init(&attr);
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	int r = copy ? posix_spawnp(&pid, argv[0], &actions, &attr, argv, environ) : ENOMEM;
	(void)posix_spawnattr_destroy(&attr);
	(void)posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		return NULL;
	auto_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	bool ended = pidfd < 0 || poll(&p, 1, LOOK_MS) > 0;
	if (!ended)
		(void)kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return !ended ? "hangs" : WIFEXITED(status) && WEXITSTATUS(status) == 0 ? NULL : "is dead";
}

/* Those of our workspaces are looked at by workspace. */
struct ours {
	const char *path;
	bool found;
};

static int is_ours(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	struct inlay_workspace_state st;
	struct ours *o = ctx;

	(void)err;
	inlay_workspace_state(ws, &st);
	o->found |= st.mount_wanted && strcmp(st.path, o->path) == 0;
	return 0;
}

static void on_mount(void *ctx, const char *path)
{
	struct ours o = {.path = path};
	struct doctor *d = ctx;
	const char *state;

	(void)!inlay_host_each(d->host, is_ours, &o, NULL);
	if (o.found || !(state = look_at_mount(path)))
		return;
	/* A dead one serves nobody; one that hangs may come back. */
	if (d->fix && strcmp(state, "is dead") == 0 && kernel_umount(path, true, NULL) == 0)
		tell_fixed(d, "mount", "a dead mount was taken away", path);
	else
		tell(d, INLAY_CHECK_BAD, "mount",
		     "umount -l PATH (fusermount3 -uz PATH as an ordinary user), or 'inlay doctor "
		     "--fix'",
		     "%s: a mount of inlay %s", path, state);
}

/* What the mount is that a directory lies on: is what is mounted in it seen elsewhere? */
static bool on_shared_mount(char *dir)
{
	struct kernel_mount_info m;

	while (!kernel_mount_find(*dir ? dir : "/", &m)) {
		char *slash = strrchr(dir, '/');
		if (!slash)
			return false;
		*slash = 0;
	}
	return m.shared;
}

/* For who gives a workspace to a container that is not ours. */
static void check_shared(struct doctor *d, const char *path)
{
	auto_free char *dir = strdup(path);
	char above[INLAY_HOST_PATH_MAX];

	if (!dir || geteuid() != 0)
		return;
	(void)snprintf(above, sizeof above, "%.*s", (int)(strrchr(path, '/') - path), path);
	*strrchr(dir, '/') = 0;
	if (on_shared_mount(dir))
		tell(d, INLAY_CHECK_OK, "shared", "",
		     "%s: a container of your own that gets %s with rslave (-v %s:/ws:rslave) sees "
		     "it again after it was mounted anew",
		     path, above, above);
	else
		tell(d, INLAY_CHECK_OK, "shared", "",
		     "%s: not on a shared mount. Only for containers of your own: mount --bind %s "
		     "%s && mount --make-shared %s, then -v %s:/ws:rslave",
		     path, above, above, above, above);
}

/* Is what it runs in there, and what runs it? */
static void check_root(struct doctor *d, struct inlay_workspace *ws,
		       const struct inlay_workspace_state *st)
{
	auto_of(inlay_container_spec_fini) struct inlay_container_spec spec = {0};
	struct inlay_error why = {0};
	char runtime[256], hex[INLAY_DIGEST_HEX];
	int r = inlay_container_read(ws->dir_fd, &spec, &why);

	if (r == INLAY_CONTAINER_NONE)
		return;
	if (r == 0 && spec.runtime != INLAY_RUNTIME_HOST)
		r = inlay_container_find(runtime, sizeof runtime, &why);
	inlay_digest_hex(&spec.image, hex);
	if (r < 0)
		tell(d, INLAY_CHECK_BAD, "root", "", "%s: %s", st->path, why.text);
	else if (strncmp(st->mount_text, "no root", 7) == 0)
		tell(d, INLAY_CHECK_BAD, "root", "inlay up", "%s: %s", st->path, st->mount_text);
	else
		tell(d, INLAY_CHECK_OK, "root", "", "%s: runs in image %.12s, by %s", st->path, hex,
		     spec.runtime == INLAY_RUNTIME_HOST ? "nothing: runtime is host" : runtime);
}

static int on_workspace(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	struct inlay_workspace_state st;
	struct doctor *d = ctx;

	(void)err;
	inlay_workspace_state(ws, &st);
	d->wanted += st.mount_wanted;
	if (st.durable_failed)
		tell(d, INLAY_CHECK_BAD, "store", "make the disk writable, then sync again",
		     "%s: the last generation is not durable: %s", st.path, st.durable_text);
	if (st.damaged)
		tell(d, INLAY_CHECK_WARN, "store", "sync again: what is damaged is sent anew",
		     "%s: %llu objects are damaged", st.path, (unsigned long long)st.damaged);
	if (!st.mount_wanted)
		return 0;
	if (st.mounted && !kernel_mount_there(st.path))
		st.mounted = false;
	if (!st.mounted && d->fix) {
		struct inlay_error why = {0};
		if (inlay_workspace_mount(ws, 0, &why) == 0) {
			tell_fixed(d, "mount", "was mounted again", st.path);
			return 0;
		}
		(void)snprintf(st.mount_text, sizeof st.mount_text, "%.255s", why.text);
	}
	if (st.mounted) {
		tell(d, INLAY_CHECK_OK, "mount", "", "%s: mounted, for %s", st.path,
		     st.everybody ? "everybody" : "its owner only");
		check_shared(d, st.path);
		check_root(d, ws, &st);
	} else {
		tell(d, INLAY_CHECK_BAD, "mount", "'inlay mount', or 'inlay doctor --fix'",
		     "%s: should be mounted, and is not%s%s", st.path, *st.mount_text ? ": " : "",
		     st.mount_text);
	}
	return 0;
}

/* ---- the rest ---- */

static void check_boot(struct doctor *d)
{
	char unit[64];
	int r = host_boot_registered(d->host, unit, sizeof unit);

	if (d->wanted == 0)
		return;
	if (r > 0)
		tell(d, INLAY_CHECK_OK, "boot", "", "mounted again after a reboot, by %s", unit);
	else
		/* Not everybody wants it: a trial, --no-boot. So nothing is put right here. */
		tell(d, INLAY_CHECK_WARN, "boot", "inlay mount --boot DST",
		     "nothing mounts these workspaces after a reboot");
}

static void check_clock(struct doctor *d, int64_t client_ns)
{
	int64_t skew_ms = (inlay_now_ns() - client_ns) / 1000000;
	int64_t far = skew_ms < 0 ? -skew_ms : skew_ms;

	if (far > INLAY_CHECK_SKEW_S * 1000)
		tell(d, INLAY_CHECK_WARN, "clock",
		     "set both clocks by NTP: make and other tools compare times of files",
		     "%lld.%lld s %s yours", (long long)(far / 1000), (long long)(far % 1000 / 100),
		     skew_ms > 0 ? "ahead of" : "behind");
	else
		tell(d, INLAY_CHECK_OK, "clock", "", "as yours, within %d s", INLAY_CHECK_SKEW_S);
}

int inlay_host_checkup(struct inlay_host *host, int64_t client_ns, bool fix, inlay_check_fn *fn,
		       void *ctx, struct inlay_error *err)
{
	struct doctor d = {.host = host, .fix = fix, .fn = fn, .ctx = ctx};

	check_agent(&d);
	check_clock(&d, client_ns);
	inlay_checkup_kernel(fn, ctx);
	check_fuse(&d);
	check_helper(&d);
	inlay_checkup_inotify(fn, ctx);
	inlay_checkup_disk(host->state_fd, host->state_path, fn, ctx);
	int r = inlay_host_each(host, on_workspace, &d, err);
	if (r == 0)
		r = kernel_mount_each(on_mount, &d, err);
	check_boot(&d);
	return r;
}
