/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A root is mounted once and stays; the workspace in it is a clone of the mount at the workspace's own path, in one
 * peer group with that, so that redirected directories show in both. A container gets all that is mounted in the
 * root, also later: the root is shared, and the container's copy of it a slave (rslave).
 *
 * A clone that died is replaced from below: the new one is moved beneath it, then the dead one is taken off, and
 * nobody in between sees the empty directory that lies below both (MOVE_MOUNT_BENEATH, kernel 6.5; before that there is
 * a moment of nothing).
 */
#include "keep/root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "inlay/container.h"
#include "inlay/imagetree.h"
#include "inlay/io.h"
#include "keep/kernel_mount.h"
#include "run/inroot.h"

#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x00000200
#endif

enum {
	ROOT_PATH_MAX = INLAY_HOST_PATH_MAX + 160,
	OPTIONS_MAX = 4096, /* a page: the kernel takes no more */
};

/* ---- the overlay ---- */

static void root_path(const struct inlay_workspace *ws, const struct inlay_digest *image,
		      const char *what, char ret[static ROOT_PATH_MAX])
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(image, hex);
	(void)snprintf(ret, ROOT_PATH_MAX, "%s/ws/%s/" INLAY_CONTAINER_ROOTS "/%s/%s",
		       ws->host->state_path, ws->state.id, hex, what);
}

/* The option's own separators are escaped, as the file system wants it. */
static void add_option(struct inlay_buf *b, const char *name, const char *path)
{
	inlay_buf_printf(b, "%s%s=", b->len ? "," : "", name);
	for (; *path; path++) {
		if (*path == ':' || *path == ',' || *path == '\\')
			inlay_buf_u8(b, '\\');
		inlay_buf_u8(b, (uint8_t)*path);
	}
}

static int make_dir(const char *path, mode_t mode, struct inlay_error *err)
{
	int fd = -1;
	int r = inlay_open_dir(AT_FDCWD, path, mode, &fd, err);

	inlay_cleanup_close(&fd);
	return r;
}

static int make_dirs(struct inlay_workspace *ws, const struct inlay_digest *image,
		     struct inlay_error *err)
{
	static const char *const names[] = {"upper", "work", "m"};
	char path[ROOT_PATH_MAX];
	int r = 0;

	for (size_t i = 0; r == 0 && i < 3; i++) {
		root_path(ws, image, names[i], path);
		/* The upper side's own mode is that of "/" in the root. */
		r = make_dir(path, i ? 0700 : 0755, err);
	}
	return r;
}

/* The owner and mode of "/", as the image has it, the first time. */
static int make_alike(const char *lower, const char *upper, struct inlay_error *err)
{
	struct stat st;

	if (stat(lower, &st) < 0 || chown(upper, st.st_uid, st.st_gid) < 0 ||
	    chmod(upper, st.st_mode & 07777) < 0)
		return inlay_error_sys(err, -errno, "prepare %s", upper);
	return 0;
}

static bool is_overlay(const char *path)
{
	struct kernel_mount_info m;

	return kernel_mount_find(path, &m) && strcmp(m.type, "overlay") == 0;
}

static int mount_root(struct inlay_workspace *ws, const struct inlay_digest *image,
		      struct inlay_error *err)
{
	char lower[ROOT_PATH_MAX], upper[ROOT_PATH_MAX], work[ROOT_PATH_MAX], point[ROOT_PATH_MAX],
		hex[INLAY_DIGEST_HEX];
	auto_of(inlay_imagetree_close) struct inlay_imagetree tree = {.fd = -1, .root_fd = -1};
	auto_buf struct inlay_buf options = {0};
	struct inlay_imagetrees *images;
	struct stat st;

	inlay_digest_hex(image, hex);
	root_path(ws, image, "m", point);
	root_path(ws, image, "upper", upper);
	root_path(ws, image, "work", work);
	(void)snprintf(lower, sizeof lower, "%s/images/%s/root", ws->host->state_path, hex);
	if (is_overlay(point))
		return 0;
	if (geteuid() != 0)
		return inlay_error_set(err, -EPERM, "a base image needs root on the host");
	int r = inlay_host_images(ws->host, &images, err);
	/* Held until it is the lower side of a mount, so that it does not go meanwhile. */
	if (r == 0)
		r = inlay_imagetree_open(images, image, &tree, err);
	if (r == INLAY_IMAGETREE_MISSING)
		return inlay_error_set(err, -ENOENT,
				       "the image %.12s is not on this host; 'inlay image push' "
				       "brings it",
				       hex);
	bool fresh = lstat(upper, &st) < 0;
	if (r == 0)
		r = make_dirs(ws, image, err);
	if (r == 0 && fresh)
		r = make_alike(lower, upper, err);
	add_option(&options, "lowerdir", lower);
	add_option(&options, "upperdir", upper);
	add_option(&options, "workdir", work);
	if (r == 0)
		r = inlay_buf_check(&options, err);
	if (r == 0 && options.len >= OPTIONS_MAX)
		r = inlay_error_set(err, -ENAMETOOLONG, "the state directory's path is too long");
	if (r < 0)
		return r;
	if (mount("inlay-root", point, "overlay", MS_NODEV, inlay_buf_cstr(&options)) < 0)
		return inlay_error_sys(err, -errno,
				       "mount the root of image %.12s (overlayfs; the state "
				       "directory must not lie on an overlay itself)",
				       hex);
	/* Before anything is mounted in it: what is mounted from now on reaches containers. */
	if (mount(NULL, point, NULL, MS_SHARED, NULL) < 0)
		return inlay_error_sys(err, -errno, "share %s", point);
	host_log(ws->host, "%s: root of image %.12s mounted", ws->state.path, hex);
	return 0;
}

/* ---- the workspace in it ---- */

/* Where the workspace is in a root: a directory that was resolved as those inside would, and a name in it. */
struct place {
	int root_fd, dir_fd;
	const char *name;
	char path[ROOT_PATH_MAX + INLAY_HOST_PATH_MAX]; /* as mountinfo has it */
};

static void close_place(struct place *p)
{
	inlay_cleanup_close(&p->dir_fd);
	inlay_cleanup_close(&p->root_fd);
}
INLAY_DEFINE_FINI(struct place, close_place)

/* Makes what is missing of the path, component by component. */
static int make_in_root(int root_fd, const char *path, struct inlay_error *err)
{
	auto_free char *copy = strdup(path);
	auto_close int parent = fcntl(root_fd, F_DUPFD_CLOEXEC, 3);

	if (!copy || parent < 0)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (char *at = copy + 1; *at;) {
		char *slash = strchrnul(at, '/'), was = *slash;
		*slash = 0;
		int fd = inroot_open(root_fd, copy, O_PATH | O_DIRECTORY);
		if (fd == -ENOENT && mkdirat(parent, at, 0755) == 0)
			fd = inroot_open(root_fd, copy, O_PATH | O_DIRECTORY);
		if (fd < 0)
			return inlay_error_sys(err, fd, "make %s in the root", copy);
		inlay_cleanup_close(&parent);
		parent = fd;
		*slash = was;
		at = was ? slash + 1 : slash;
	}
	return 0;
}

/* -ENOENT: there is no such directory (and `make` does not say that it be made). */
static int find_place(const struct inlay_workspace *ws, const char *root, bool make,
		      struct place *ret, struct inlay_error *err)
{
	struct place p = {.dir_fd = -1, .name = strrchr(ws->state.path, '/') + 1};
	char above[INLAY_HOST_PATH_MAX], link[64];

	p.root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int r = p.root_fd < 0 ? inlay_error_sys(err, -errno, "open %s", root) : 0;
	if (r == 0 && make)
		r = make_in_root(p.root_fd, ws->state.path, err);
	(void)snprintf(above, sizeof above, "%.*s", (int)(p.name - ws->state.path), ws->state.path);
	if (r == 0) {
		p.dir_fd = inroot_open(p.root_fd, above, O_PATH | O_DIRECTORY);
		if (p.dir_fd < 0)
			r = inlay_error_sys(err, p.dir_fd, "open %s in the root", above);
	}
	if (r == 0) {
		(void)snprintf(link, sizeof link, "/proc/self/fd/%d", p.dir_fd);
		ssize_t n = readlink(link, p.path, sizeof p.path - 1);
		size_t len = n < 0 ? 0 : (size_t)n;
		int m = snprintf(p.path + len, sizeof p.path - len, "/%s", p.name);
		if (n <= 0 || m < 0 || (size_t)m >= sizeof p.path - len)
			r = inlay_error_set(err, -ENAMETOOLONG, "a path in the root is too long");
	}
	if (r < 0)
		close_place(&p);
	else
		*ret = p;
	return r;
}

/* By the descriptor: whoever lives in the root can rename what is above it meanwhile. */
static int unmount_at(const struct place *p, int flags)
{
	char at[64 + INLAY_HOST_PATH_MAX];

	(void)snprintf(at, sizeof at, "/proc/self/fd/%d/%s", p->dir_fd, p->name);
	return umount2(at, UMOUNT_NOFOLLOW | flags) < 0 ? -errno : 0;
}

static int move_here(int clone, const struct place *p, unsigned flags)
{
	return move_mount(clone, "", p->dir_fd, p->name, MOVE_MOUNT_F_EMPTY_PATH | flags) < 0
		       ? -errno
		       : 0;
}

/* Brings the mount that is at the workspace's path into the root. */
static int enter(struct inlay_workspace *ws, const struct inlay_digest *image,
		 struct inlay_error *err)
{
	auto_of(close_place) struct place p = {-1, -1, NULL, ""};
	char root[ROOT_PATH_MAX];
	struct kernel_mount_info here, there;

	root_path(ws, image, "m", root);
	int r = find_place(ws, root, true, &p, err);
	if (r < 0 || !kernel_mount_find(ws->state.path, &here))
		return r;
	bool taken = kernel_mount_find(p.path, &there);
	if (taken && strcmp(here.device, there.device) == 0)
		return 0;
	/* One peer group with its clones. */
	if (mount(NULL, ws->state.path, NULL, MS_SHARED, NULL) < 0)
		return inlay_error_sys(err, -errno, "share %s", ws->state.path);
	auto_close int clone =
		open_tree(AT_FDCWD, ws->state.path,
			  OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW);
	if (clone < 0)
		return inlay_error_sys(err, -errno, "copy the mount of %s", ws->state.path);
	r = move_here(clone, &p, taken ? MOVE_MOUNT_BENEATH : 0);
	if (taken && r == -EINVAL) {
		(void)unmount_at(&p, MNT_DETACH);
		r = move_here(clone, &p, 0);
	} else if (taken && r == 0) {
		r = unmount_at(&p, MNT_DETACH);
	}
	return r < 0 ? inlay_error_sys(err, r, "mount %s in its root", ws->state.path) : 0;
}

/* ---- all of them ---- */

/* The images whose roots there are. */
static int each_root(struct inlay_workspace *ws,
		     int (*fn)(struct inlay_workspace *ws, const struct inlay_digest *image,
			       bool lazy, struct inlay_error *err),
		     bool lazy, struct inlay_error *err)
{
	int fd = openat(ws->dir_fd, INLAY_CONTAINER_ROOTS,
			O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct inlay_digest image;
	struct dirent *d;
	int r = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : inlay_error_sys(err, -errno, "list roots");
	DIR *dir = fdopendir(fd);
	if (!dir) {
		(void)close(fd);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	while (r == 0 && (d = readdir(dir)))
		if (inlay_digest_from_hex(d->d_name, &image))
			r = fn(ws, &image, lazy, err);
	(void)closedir(dir);
	return r;
}

static int enter_one(struct inlay_workspace *ws, const struct inlay_digest *image, bool lazy,
		     struct inlay_error *err)
{
	char root[ROOT_PATH_MAX];

	(void)lazy;
	root_path(ws, image, "m", root);
	return is_overlay(root) && ws->state.mounted ? enter(ws, image, err) : 0;
}

void workspace_enter_root(struct inlay_workspace *ws)
{
	__attribute__((cleanup(
		inlay_cleanup_inlay_container_spec_fini))) struct inlay_container_spec spec = {0};
	struct inlay_error err = {0};
	int r = inlay_container_read(ws->dir_fd, &spec, &err);

	if (r == 0)
		r = mount_root(ws, &spec.image, &err);
	/* Also those of before in which something still runs. */
	if (r == 0)
		r = each_root(ws, enter_one, false, &err);
	if (r >= 0)
		return;
	host_log(ws->host, "%s: no root: %s", ws->state.path, err.text);
	scope_lock(&ws->lock);
	(void)snprintf(ws->state.mount_text, sizeof ws->state.mount_text, "no root: %.200s",
		       err.text);
}

static int leave_one(struct inlay_workspace *ws, const struct inlay_digest *image, bool lazy,
		     struct inlay_error *err)
{
	auto_of(close_place) struct place p = {-1, -1, NULL, ""};
	char root[ROOT_PATH_MAX];

	root_path(ws, image, "m", root);
	if (!is_overlay(root))
		return 0;
	int r = find_place(ws, root, false, &p, NULL);
	/* Its own user could have removed the directory only where nothing is mounted on it. */
	r = r == 0 && kernel_mount_there(p.path) ? unmount_at(&p, lazy ? MNT_DETACH : 0) : 0;
	if (r == -EBUSY)
		return inlay_error_sys(err, r, "unmount %s in its root", ws->state.path);
	close_place(&p);
	p = (struct place){-1, -1, NULL, ""};
	if (umount2(root, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
		return inlay_error_sys(err, -errno, "unmount %s", root);
	return 0;
}

static int is_running(void *ctx, const struct inlay_run_status *status, struct inlay_error *err)
{
	const struct inlay_workspace *ws = ctx;

	if (status->state != INLAY_RUN_RUNNING && status->state != INLAY_RUN_STOPPING)
		return 0;
	return inlay_error_set(err, -EBUSY, "%s is in use: the program '%s' runs in its root",
			       ws->state.path, status->name);
}

int workspace_leave_root(struct inlay_workspace *ws, bool lazy, struct inlay_error *err)
{
	struct stat st;

	if (fstatat(ws->dir_fd, INLAY_CONTAINER_ROOTS, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	int r = lazy ? 0 : inlay_workspace_programs(ws, is_running, ws, err);
	if (r == 0)
		r = each_root(ws, leave_one, lazy, err);
	if (r < 0)
		workspace_enter_root(ws);
	return r;
}

/* Nothing may be mounted below what is removed: it would be emptied, too. */
static int remove_root(struct inlay_workspace *ws, const struct inlay_digest *image, bool lazy,
		       struct inlay_error *err)
{
	char root[ROOT_PATH_MAX], name[sizeof INLAY_CONTAINER_ROOTS + INLAY_DIGEST_HEX + 1],
		hex[INLAY_DIGEST_HEX];

	(void)lazy;
	inlay_digest_hex(image, hex);
	root_path(ws, image, "m", root);
	(void)snprintf(name, sizeof name, INLAY_CONTAINER_ROOTS "/%s", hex);
	if (kernel_mount_any(root))
		return inlay_error_set(err, -EBUSY, "%s is still mounted", root);
	return inlay_remove_tree(ws->dir_fd, name, err);
}

int workspace_forget_root(struct inlay_workspace *ws, struct inlay_error *err)
{
	static const char *const files[] = {INLAY_CONTAINER_NOW, INLAY_CONTAINER_BEFORE};
	int r = each_root(ws, remove_root, false, err);

	for (size_t i = 0; r == 0 && i < 2; i++)
		if (unlinkat(ws->dir_fd, files[i], 0) < 0 && errno != ENOENT)
			r = inlay_error_sys(err, -errno, "forget the root");
	return r == 0 ? inlay_remove_tree(ws->dir_fd, INLAY_CONTAINER_ROOTS, err) : r;
}

/* ---- what runs in it ---- */

int inlay_workspace_command(struct inlay_workspace *ws, const struct inlay_run_spec *spec,
			    const char *name, char *const *own, char ***ret_argv,
			    struct inlay_error *err)
{
	__attribute__((cleanup(
		inlay_cleanup_inlay_container_spec_fini))) struct inlay_container_spec box = {0};
	auto_close int scratch_fd = -1;
	char scratch[ROOT_PATH_MAX], dir[ROOT_PATH_MAX];
	size_t n = 0, count = 0;
	int r = inlay_container_read(ws->dir_fd, &box, err);

	if (r == INLAY_CONTAINER_NONE || (r == 0 && box.runtime == INLAY_RUNTIME_HOST))
		return INLAY_HOST_MISSING;
	if (r == 0)
		r = inlay_workspace_scratch(ws, &scratch_fd, scratch, sizeof scratch, err);
	/* For who is not root inside; nobody gets through the state directory above it. */
	if (r == 0 && fchmod(scratch_fd, 0711) < 0)
		r = inlay_error_sys(err, -errno, "open up %s", scratch);
	if (r < 0)
		return r;
	(void)snprintf(dir, sizeof dir, "%s/ws/%s", ws->host->state_path, ws->state.id);
	const char *head[] = {"inlayd", "contain",      "--dir",   dir,     "--program", name,
			      "--",     ws->state.path, spec->dir, scratch, NULL};
	char *const *lists[] = {(char *const *)head, own, spec->env, NULL, spec->argv};
	for (size_t i = 0; i < 5; i++)
		for (char *const *word = lists[i]; word && *word; word++)
			count++;
	auto_of(inlay_run_strings_free) char **argv = calloc(count + 2, sizeof *argv);
	for (size_t i = 0; argv && i < 5; i++) {
		for (char *const *word = lists[i]; word && *word; word++)
			if (!(argv[n++] = strdup(*word)))
				return inlay_error_set(err, -ENOMEM, "out of memory");
		if (!lists[i] && !(argv[n++] = strdup("--")))
			return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	if (!argv)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*ret_argv = take_ptr(argv);
	return 0;
}

/* ---- another image ---- */

/* A root in which nothing shall run any more goes; who is still in it keeps what he sees. */
static int retire(struct inlay_workspace *ws, const struct inlay_digest *image, bool lazy,
		  struct inlay_error *err)
{
	__attribute__((cleanup(
		inlay_cleanup_inlay_container_spec_fini))) struct inlay_container_spec now = {0},
										       before = {0};
	auto_buf struct inlay_buf b = {0};
	char root[ROOT_PATH_MAX];

	if (inlay_container_read(ws->dir_fd, &now, err) == 0 &&
	    inlay_digest_equal(&now.image, image))
		return 0;
	root_path(ws, image, "m", root);
	if (is_overlay(root) && (mount(NULL, root, NULL, MS_PRIVATE | MS_REC, NULL) < 0 ||
				 umount2(root, UMOUNT_NOFOLLOW | MNT_DETACH) < 0))
		return inlay_error_sys(err, -errno, "unmount %s", root);
	if (inlay_read_file(ws->dir_fd, INLAY_CONTAINER_BEFORE, INLAY_RUN_SPEC_MAX, &b, NULL) ==
		    0 &&
	    inlay_container_spec_decode(b.data, b.len, &before, NULL) == 0 &&
	    inlay_digest_equal(&before.image, image))
		return 0;
	return remove_root(ws, image, lazy, err);
}

static int replace(struct inlay_workspace *ws, const char *name, const struct inlay_buf *b,
		   struct inlay_error *err)
{
	return inlay_replace_file(ws->dir_fd, name, b->data, b->len, 0600, INLAY_REPLACE_DURABLE,
				  err);
}

/* What was said before stays for going back, when it is about another image. */
static int keep_before(struct inlay_workspace *ws, const struct inlay_container_spec *next,
		       struct inlay_error *err)
{
	__attribute__((cleanup(
		inlay_cleanup_inlay_container_spec_fini))) struct inlay_container_spec now = {0};
	auto_buf struct inlay_buf b = {0};

	if (inlay_container_read(ws->dir_fd, &now, NULL) != 0 ||
	    inlay_digest_equal(&now.image, &next->image))
		return 0;
	inlay_container_spec_encode(&now, &b);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : replace(ws, INLAY_CONTAINER_BEFORE, &b, err);
}

/* With ws->change held. */
static int set_root(struct inlay_workspace *ws, const struct inlay_container_spec *spec,
		    struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0}, was = {0};
	char runtime[256], hex[INLAY_DIGEST_HEX];
	int r = spec->runtime == INLAY_RUNTIME_HOST
			? 0
			: inlay_container_find(runtime, sizeof runtime, err);

	if (r == 0)
		r = mount_root(ws, &spec->image, err);
	if (r == 0 && ws->state.mounted)
		r = enter(ws, &spec->image, err);
	inlay_container_spec_encode(spec, &b);
	if (r == 0)
		r = inlay_buf_check(&b, err);
	if (r < 0)
		return r;
	bool same = inlay_read_file(ws->dir_fd, INLAY_CONTAINER_NOW, INLAY_RUN_SPEC_MAX, &was,
				    NULL) == 0 &&
		    was.len == b.len && memcmp(was.data, b.data, b.len) == 0;
	if (same)
		return 0;
	r = keep_before(ws, spec, err);
	if (r == 0)
		r = replace(ws, INLAY_CONTAINER_NOW, &b, err);
	if (r < 0)
		return r;
	inlay_digest_hex(&spec->image, hex);
	host_log(ws->host, "%s: runs in image %.12s from now on", ws->state.path, hex);
	workspace_restart_programs(ws, "it gets another root");
	return each_root(ws, retire, true, err);
}

int inlay_workspace_clear_root(struct inlay_workspace *ws, struct inlay_error *err)
{
	scope_lock(&ws->change);
	if (renameat(ws->dir_fd, INLAY_CONTAINER_NOW, ws->dir_fd, INLAY_CONTAINER_BEFORE) < 0)
		return errno == ENOENT ? 0 : inlay_error_sys(err, -errno, "forget the root");
	host_log(ws->host, "%s: runs in no image from now on", ws->state.path);
	workspace_restart_programs(ws, "it has no root any more");
	return each_root(ws, retire, true, err);
}

int inlay_workspace_set_root(struct inlay_workspace *ws, const void *bytes, size_t len,
			     struct inlay_error *err)
{
	__attribute__((cleanup(
		inlay_cleanup_inlay_container_spec_fini))) struct inlay_container_spec spec = {0};
	int r = inlay_container_spec_decode(bytes, len, &spec, err);

	if (r < 0)
		return r;
	scope_lock(&ws->change);
	return set_root(ws, &spec, err);
}

int inlay_workspace_rollback_root(struct inlay_workspace *ws, struct inlay_error *err)
{
	__attribute__((cleanup(
		inlay_cleanup_inlay_container_spec_fini))) struct inlay_container_spec spec = {0};
	auto_buf struct inlay_buf b = {0};

	scope_lock(&ws->change);
	int r = inlay_read_file(ws->dir_fd, INLAY_CONTAINER_BEFORE, INLAY_RUN_SPEC_MAX, &b, err);
	if (r == INLAY_IO_MISSING)
		return inlay_error_set(err, -ENOENT, "%s had no other image before",
				       ws->state.path);
	if (r == 0)
		r = inlay_container_spec_decode(b.data, b.len, &spec, err);
	return r < 0 ? r : set_root(ws, &spec, err);
}
