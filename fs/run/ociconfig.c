/* SPDX-License-Identifier: Apache-2.0 */
#include "run/ociconfig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "inlay/io.h"
#include "inlay/run.h"
#include "inlay/text.h"
#include "run/inroot.h"
#include "run/users.h"

enum { VARS_MAX = 4 * INLAY_RUN_STRINGS_MAX };

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What root in a container may by default, as container tools have it. */
static const char capabilities[] =
	"[\"CAP_CHOWN\",\"CAP_DAC_OVERRIDE\",\"CAP_FSETID\",\"CAP_FOWNER\",\"CAP_MKNOD\","
	"\"CAP_NET_RAW\",\"CAP_SETGID\",\"CAP_SETUID\",\"CAP_SETFCAP\",\"CAP_SETPCAP\","
	"\"CAP_NET_BIND_SERVICE\",\"CAP_SYS_CHROOT\",\"CAP_KILL\",\"CAP_AUDIT_WRITE\"]";

static const char mounts[] =
	"{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
	"{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\","
	"\"options\":[\"nosuid\",\"strictatime\",\"mode=755\",\"size=65536k\"]},"
	"{\"destination\":\"/dev/pts\",\"type\":\"devpts\",\"source\":\"devpts\","
	"\"options\":[\"nosuid\",\"noexec\",\"newinstance\",\"ptmxmode=0666\",\"mode=0620\","
	"\"gid=5\"]},"
	"{\"destination\":\"/dev/shm\",\"type\":\"tmpfs\",\"source\":\"shm\","
	"\"options\":[\"nosuid\",\"noexec\",\"nodev\",\"mode=1777\"]},"
	"{\"destination\":\"/sys\",\"type\":\"sysfs\",\"source\":\"sysfs\","
	"\"options\":[\"nosuid\",\"noexec\",\"nodev\",\"ro\"]}";

/* ---- texts ---- */

static int put_text(struct inlay_buf *b, const char *text, struct inlay_error *err)
{
	if (!inlay_text_is_utf8(text, strlen(text))) {
		auto_buf struct inlay_buf shown = {0};
		inlay_text_escape(&shown, text, strlen(text));
		return inlay_error_set(err, -EINVAL,
				       "'%.100s' is not UTF-8: a container cannot be given it",
				       inlay_buf_cstr(&shown));
	}
	inlay_text_json(b, text, strlen(text));
	return 0;
}

static int put_texts(struct inlay_buf *b, char *const *list, bool *more, struct inlay_error *err)
{
	int r = 0;

	for (; r == 0 && list && *list; list++) {
		inlay_buf_printf(b, *more ? "," : "");
		*more = true;
		r = put_text(b, *list, err);
	}
	return r;
}

/* ---- variables ---- */

static size_t name_length(const char *var)
{
	return (size_t)(strchrnul(var, '=') - var);
}

struct vars {
	const char *list[VARS_MAX + 1];
	size_t count;
};

/* In place of one with the same name. */
static int set_var(struct vars *v, const char *var, struct inlay_error *err)
{
	size_t n = name_length(var) + 1;

	for (size_t i = 0; i < v->count; i++) {
		if (strncmp(v->list[i], var, n) == 0) {
			v->list[i] = var;
			return 0;
		}
	}
	if (v->count == VARS_MAX)
		return inlay_error_set(err, -E2BIG, "too many variables");
	v->list[v->count++] = var;
	return 0;
}

static int put_env(const struct oci_process *p, struct inlay_buf *b, struct inlay_error *err)
{
	auto_free struct vars *v = calloc(1, sizeof *v);
	char *const *lists[] = {p->spec->env, p->own, p->env};
	bool more = false;
	int r = v ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = set_var(v, DEFAULT_PATH, err);
	if (r == 0 && p->tty)
		r = set_var(v, "TERM=xterm", err);
	for (size_t i = 0; r == 0 && i < 3; i++)
		for (char *const *one = lists[i]; r == 0 && one && *one; one++)
			r = set_var(v, *one, err);
	return r < 0 ? r : put_texts(b, (char *const *)v->list, &more, err);
}

/* ---- who ---- */

static int read_in_root(int root_fd, const char *path, struct inlay_buf *b, struct inlay_error *err)
{
	int fd = inroot_open(root_fd, path, O_RDONLY | O_NONBLOCK);
	struct stat st;
	char link[64];

	/* An image need not have them: a number is a user, too. */
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return inlay_error_sys(err, fd, "open the image's %s", path);
	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	/* Who lives there could have put a pipe in its place. */
	int r = fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)
			? inlay_error_set(err, -EINVAL, "it is no file")
			: inlay_read_file(AT_FDCWD, link, USERS_FILE_MAX, b, err);
	inlay_cleanup_close(&fd);
	return r < 0 ? inlay_error_prefix(err, r, "the image's %s", path) : 0;
}

static int put_user(const struct oci_process *p, struct inlay_buf *b, bool *ret_root,
		    struct inlay_error *err)
{
	auto_buf struct inlay_buf passwd = {0}, group = {0};
	auto_close int root_fd = open(p->root, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	auto_free struct users_id *id = calloc(1, sizeof *id);

	if (root_fd < 0)
		return inlay_error_sys(err, -errno, "open %s", p->root);
	if (!id)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = read_in_root(root_fd, "etc/passwd", &passwd, err);
	if (r == 0)
		r = read_in_root(root_fd, "etc/group", &group, err);
	if (r == 0)
		r = users_find(p->spec->user, &passwd, &group, id, err);
	if (r < 0)
		return r;
	inlay_buf_printf(b, "{\"uid\":%u,\"gid\":%u,\"additionalGids\":[", id->uid, id->gid);
	for (size_t i = 0; i < id->extra_count; i++)
		inlay_buf_printf(b, "%s%u", i ? "," : "", id->extra[i]);
	inlay_buf_printf(b, "]}");
	*ret_root = id->uid == 0;
	return 0;
}

/* ---- the document ---- */

static int put_cwd(const struct oci_process *p, struct inlay_buf *b, struct inlay_error *err)
{
	auto_buf struct inlay_buf cwd = {0};

	if (p->dir[0] == '/')
		return put_text(b, p->dir, err);
	inlay_buf_printf(&cwd, "%s%s%s", p->workspace, *p->dir ? "/" : "", p->dir);
	int r = inlay_buf_check(&cwd, err);
	return r < 0 ? r : put_text(b, inlay_buf_cstr(&cwd), err);
}

static int put_process(const struct oci_process *p, struct inlay_buf *b, struct inlay_error *err)
{
	bool more = false, root = false;

	inlay_buf_printf(b, "\"process\":{\"terminal\":%s,\"user\":", p->tty ? "true" : "false");
	int r = put_user(p, b, &root, err);
	inlay_buf_printf(b, ",\"cwd\":");
	if (r == 0)
		r = put_cwd(p, b, err);
	inlay_buf_printf(b, ",\"args\":[");
	if (r == 0)
		r = put_texts(b, p->spec->entrypoint, &more, err);
	if (r == 0)
		r = put_texts(b, p->argv, &more, err);
	inlay_buf_printf(b, "],\"env\":[");
	if (r == 0)
		r = put_env(p, b, err);
	/* Others than root get them by programs that are setuid, or have them as an attribute. */
	inlay_buf_printf(b,
			 "],\"capabilities\":{\"bounding\":%s,\"effective\":%s,\"permitted\":%s}}",
			 capabilities, root ? capabilities : "[]", root ? capabilities : "[]");
	return r;
}

static int put_bind(struct inlay_buf *b, const char *from, const char *to, const char *mode,
		    struct inlay_error *err)
{
	inlay_buf_printf(b, ",{\"type\":\"bind\",\"options\":[\"rbind\",\"%s\"],\"source\":", mode);
	int r = put_text(b, from, err);
	inlay_buf_printf(b, ",\"destination\":");
	if (r == 0)
		r = put_text(b, to, err);
	inlay_buf_printf(b, "}");
	return r;
}

/* The names of the host's network. */
static int put_names(struct inlay_buf *b, struct inlay_error *err)
{
	static const char *const files[] = {"/etc/resolv.conf", "/etc/hosts"};
	int r = 0;

	for (size_t i = 0; r == 0 && i < 2; i++) {
		auto_free char *real = realpath(files[i], NULL);
		if (real)
			r = put_bind(b, real, files[i], "ro", err);
	}
	return r;
}

/* The nodes themselves, so that one which is a link on the host (by-id) is what it leads to. */
static int put_devices(const struct oci_process *p, struct inlay_buf *b, struct inlay_error *err)
{
	int r = 0;

	for (char *const *d = p->devices; r == 0 && d && *d; d++) {
		auto_free char *real = realpath(*d, NULL);
		if (!real)
			return inlay_error_sys(err, -errno, "find the device %s", *d);
		r = put_bind(b, real, *d, "rw", err);
	}
	return r;
}

/* What a runtime lets nobody use unless it is told to. */
static void put_device_rules(const struct oci_process *p, struct inlay_buf *b)
{
	bool more = false;

	for (char *const *d = p->devices; d && *d; d++) {
		struct stat st;
		if (stat(*d, &st) < 0 || (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)))
			continue;
		inlay_buf_printf(b,
				 "%s{\"allow\":true,\"type\":\"%c\",\"major\":%u,\"minor\":%u,"
				 "\"access\":\"rwm\"}",
				 more ? "," : ",\"resources\":{\"devices\":[",
				 S_ISCHR(st.st_mode) ? 'c' : 'b', major(st.st_rdev),
				 minor(st.st_rdev));
		more = true;
	}
	inlay_buf_printf(b, more ? "]}" : "");
}

int oci_config(const struct oci_process *p, struct inlay_buf *b, struct inlay_error *err)
{
	inlay_buf_printf(b, "{\"ociVersion\":\"1.0.2\",");
	int r = put_process(p, b, err);
	inlay_buf_printf(b, ",\"root\":{\"path\":");
	if (r == 0)
		r = put_text(b, p->root, err);
	inlay_buf_printf(b, "},\"mounts\":[%s", mounts);
	if (r == 0)
		r = put_names(b, err);
	if (r == 0 && p->shows)
		r = put_bind(b, p->shows, p->shows, "ro", err);
	if (r == 0)
		r = put_devices(p, b, err);
	inlay_buf_printf(
		b,
		"],\"linux\":{\"rootfsPropagation\":\"rslave\",\"namespaces\":["
		"{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"pid\",\"path\":\"%s\"}]",
		p->pids);
	put_device_rules(p, b);
	inlay_buf_printf(b, "}}\n");
	return r < 0 ? r : inlay_buf_check(b, err);
}
