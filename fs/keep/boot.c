/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a reboot the keeper has to be started once; it mounts what was mounted. Who starts it: systemd as
 * the system (root), systemd as the user (with linger, so that it does so before anybody logs in), else
 * cron. The units are plain files and links, so that nothing has to run for them to hold.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "inlay/io.h"
#include "keep/host.h"

extern char **environ;

static int self_path(char ret[static 4096], struct inlay_error *err)
{
	ssize_t n = readlink("/proc/self/exe", ret, 4095);

	if (n < 0)
		return inlay_error_sys(err, -errno, "find my own program");
	ret[n] = 0;
	return 0;
}

/* One unit for each state directory. */
static void unit_name(const struct inlay_host *host, char ret[static 48])
{
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_of(host->state_path, strlen(host->state_path), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, 48, "inlay-%.12s.service", hex);
}

static void write_unit(struct inlay_buf *b, const char *self, const char *state, const char *target)
{
	inlay_buf_printf(b,
			 "# Written by inlay. `inlay umount` of the last mount takes it away.\n"
			 "[Unit]\n"
			 "Description=inlay: mounts of synced workspaces\n"
			 "After=local-fs.target\n"
			 "\n"
			 "[Service]\n"
			 "ExecStart=\"%s\" keep --state \"%s\"\n"
			 "KillMode=process\n"
			 "Restart=on-failure\n"
			 "\n"
			 "[Install]\n"
			 "WantedBy=%s\n",
			 self, state, target);
}

static int units_dir(bool system, char ret[static 4096], struct inlay_error *err)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	int n;

	if (system)
		n = snprintf(ret, 4096, "/etc/systemd/system");
	else if (config && config[0] == '/')
		n = snprintf(ret, 4096, "%s/systemd/user", config);
	else
		n = snprintf(ret, 4096, "%s/.config/systemd/user", home ? home : "");
	if (n < 0 || n >= 4096 || ret[0] != '/')
		return inlay_error_set(err, -ENOENT,
				       "the directory for systemd units is not known");
	return 0;
}

static int write_units(struct inlay_host *host, bool system, struct inlay_error *err)
{
	const char *target = system ? "multi-user.target" : "default.target";
	char self[4096], dir[4096], name[48], wants[64], link[64];
	auto_buf struct inlay_buf b = {0};
	auto_close int fd = -1;
	auto_close int wants_fd = -1;

	unit_name(host, name);
	(void)snprintf(wants, sizeof wants, "%s.wants", target);
	(void)snprintf(link, sizeof link, "../%s", name);
	int r = self_path(self, err);
	if (r == 0)
		r = units_dir(system, dir, err);
	if (r == 0)
		r = inlay_open_dir(AT_FDCWD, dir, 0755, &fd, err);
	if (r == 0)
		r = inlay_open_dir(fd, wants, 0755, &wants_fd, err);
	if (r < 0)
		return r;
	write_unit(&b, self, host->state_path, target);
	r = inlay_buf_check(&b, err);
	if (r == 0)
		r = inlay_replace_file(fd, name, b.data, b.len, 0644, INLAY_REPLACE_DURABLE, err);
	if (r == 0 && symlinkat(link, wants_fd, name) < 0 && errno != EEXIST)
		r = inlay_error_sys(err, -errno, "enable %s", name);
	return r;
}

/* Runs a program; its output goes to the log. True when it ended with 0. */
static bool run(char *const argv[])
{
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;
	int status;

	(void)posix_spawnattr_init(&attr);
	(void)sigemptyset(&none);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	int r = posix_spawnp(&pid, argv[0], NULL, &attr, argv, environ);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0)
		return false;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The user's table without our line, and with it when `add` is given. The shell's part is fixed text; the
 * names come as its arguments. */
static bool edit_crontab(const struct inlay_host *host, const char *self)
{
	static const char script[] = "t=$(crontab -l 2>/dev/null | grep -vF \"$1\"); "
				     "if [ -n \"$2\" ]; then t=$(printf '%s\\n%s' \"$t\" \"@reboot "
				     "\\\"$2\\\" keep --state "
				     "\\\"$3\\\" $1\"); fi; "
				     "printf '%s\\n' \"$t\" | sed '/^$/d' | crontab -";
	char name[48], mark[64], sh[] = "sh", c[] = "-c", body[sizeof script];
	char arg0[] = "inlay";
	auto_free char *state = strdup(host->state_path);
	auto_free char *program = strdup(self);

	if (!state || !program)
		return false;
	unit_name(host, name);
	(void)snprintf(mark, sizeof mark, "# %s", name);
	(void)snprintf(body, sizeof body, "%s", script);
	char *argv[] = {sh, c, body, arg0, mark, program, state, NULL};
	return run(argv);
}

int host_register_boot(struct inlay_host *host, struct inlay_error *err)
{
	bool system = geteuid() == 0;
	char self[4096], loginctl[] = "loginctl", linger[] = "enable-linger";

	if (access("/run/systemd/system", F_OK) == 0) {
		int r = write_units(host, system, err);
		if (r < 0 || system)
			return r;
		char *argv[] = {loginctl, linger, NULL};
		if (!run(argv))
			return inlay_error_set(
				err, -EPERM,
				"it is mounted again at your next login, not at boot: "
				"'loginctl enable-linger' was refused");
		return 0;
	}
	int r = self_path(self, err);
	if (r == 0 && !edit_crontab(host, self))
		r = inlay_error_set(
			err, -ENOSYS,
			"nothing mounts it after a reboot: there is neither systemd nor "
			"cron here. Start 'inlayd keep' at boot, or run 'inlay mount'");
	return r;
}

void host_unregister_boot(struct inlay_host *host)
{
	char dir[4096], name[48], path[4200];

	unit_name(host, name);
	for (int system = 0; system < 2; system++) {
		const char *target = system ? "multi-user.target" : "default.target";
		if (units_dir(system, dir, NULL) < 0)
			continue;
		(void)snprintf(path, sizeof path, "%s/%s.wants/%s", dir, target, name);
		(void)unlink(path);
		(void)snprintf(path, sizeof path, "%s/%s", dir, name);
		(void)unlink(path);
	}
	if (access("/run/systemd/system", F_OK) != 0)
		(void)edit_crontab(host, "");
}

static bool in_crontab(const char *unit)
{
	char sh[] = "sh", c[] = "-c", arg0[] = "inlay";
	char body[] = "crontab -l 2>/dev/null | grep -qF \"# $1\"";
	auto_free char *name = strdup(unit);

	char *argv[] = {sh, c, body, arg0, name, NULL};
	return name && run(argv);
}

int host_boot_registered(struct inlay_host *host, char *ret_what, size_t size)
{
	char dir[4096], name[48], path[4200];

	unit_name(host, name);
	for (int system = 0; system < 2; system++) {
		if (units_dir(system, dir, NULL) < 0)
			continue;
		(void)snprintf(path, sizeof path, "%s/%s.wants/%s", dir,
			       system ? "multi-user.target" : "default.target", name);
		(void)snprintf(ret_what, size, "%s", name);
		if (access(path, F_OK) == 0)
			return 1;
	}
	(void)snprintf(ret_what, size, "cron");
	return access("/run/systemd/system", F_OK) != 0 && in_crontab(name);
}
