/* SPDX-License-Identifier: Apache-2.0 */
#include "session/place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/limits.h"
#include "session/source.h"

/* ---- paths ---- */

static int current(struct inlay_buf *b, struct inlay_error *err)
{
	char cwd[PATH_MAX];

	if (!getcwd(cwd, sizeof cwd))
		return inlay_error_sys(err, -errno, "find the current directory");
	inlay_buf_printf(b, "%s", cwd);
	return 0;
}

/* Absolute, without ".", ".." and double slashes; nothing is resolved. "/" becomes "". */
static int normal(const char *path, struct inlay_buf *b, struct inlay_error *err)
{
	int r = 0;

	if (path[0] != '/')
		r = current(b, err);
	if (r == 0 && b->len == 1)
		b->len = 0;
	for (const char *p = path; r == 0 && *p;) {
		size_t n = strcspn(p, "/");
		if (n == 2 && memcmp(p, "..", 2) == 0) {
			while (b->len > 0 && b->data[--b->len] != '/')
				;
		} else if (n > 0 && !(n == 1 && *p == '.')) {
			inlay_buf_u8(b, '/');
			inlay_buf_add(b, p, n);
		}
		p += n + (p[n] == '/');
	}
	return r == 0 ? inlay_buf_check(b, err) : r;
}

/* The same with what is above the last name resolved, where that exists. */
static int resolved(const char *path, struct inlay_buf *b, struct inlay_error *err)
{
	auto_buf struct inlay_buf plain = {0};
	int r = normal(path, &plain, err);

	if (r < 0)
		return r;
	char *text = (char *)inlay_buf_cstr(&plain);
	char *slash = strrchr(text, '/');
	if (slash)
		*slash = 0;
	auto_free char *above = slash ? realpath(*text ? text : "/", NULL) : NULL;
	if (slash)
		inlay_buf_printf(b, "%s/%s",
				 above && strcmp(above, "/") != 0 ? above
				 : above                          ? ""
								  : text,
				 slash + 1);
	return inlay_buf_check(b, err);
}

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == 0 || path[len] == '/');
}

int place_relative(const char *root, const char *path, struct inlay_buf *ret, bool *ret_slash,
		   struct inlay_error *err)
{
	auto_buf struct inlay_buf plain = {0}, real = {0};
	size_t len = strlen(path);
	int r = normal(path, &plain, err);

	if (r == 0)
		r = resolved(path, &real, err);
	if (r < 0)
		return r;
	if (strcmp(root, "/") == 0)
		root = "";
	/* As it was typed, so that a symlink inside the folder is seen as one; else by where it really is. */
	const char *text = inlay_buf_cstr(&plain);
	if (!is_below(text, root))
		text = inlay_buf_cstr(&real);
	if (!is_below(text, root))
		return inlay_error_set(err, -EXDEV, "%s is outside of %s", path,
				       *root ? root : "/");
	text += strlen(root);
	inlay_buf_printf(ret, "%s", *text == '/' ? text + 1 : text);
	*ret_slash = len > 0 && path[len - 1] == '/';
	return inlay_buf_check(ret, err);
}

struct innermost {
	const char *path;
	char best[PATH_MAX];
};

static int on_acked(void *ctx, const struct acked *a, struct inlay_error *err)
{
	struct innermost *i = ctx;

	(void)err;
	if (is_below(i->path, a->source) && strlen(a->source) > strlen(i->best))
		(void)snprintf(i->best, sizeof i->best, "%s", a->source);
	return 0;
}

static bool with_git(char *path)
{
	for (char *slash; (slash = strrchr(path, '/')) && slash != path;) {
		char git[PATH_MAX + 8];
		*slash = 0;
		(void)snprintf(git, sizeof git, "%s/.git", path);
		if (access(git, F_OK) == 0)
			return true;
	}
	return false;
}

int place_root(const char *given, const char *path, const char *state, struct inlay_buf *ret,
	       struct inlay_error *err)
{
	auto_buf struct inlay_buf real = {0};
	struct innermost i = {0};
	struct stat st;

	if (given) {
		auto_free char *root = realpath(given, NULL);
		if (!root || stat(root, &st) < 0)
			return inlay_error_sys(err, -errno, "open the folder %s", given);
		if (!S_ISDIR(st.st_mode))
			return inlay_error_set(err, -ENOTDIR, "%s is not a folder", given);
		inlay_buf_printf(ret, "%s", root);
		return inlay_buf_check(ret, err);
	}
	int r = resolved(path, &real, err);
	i.path = inlay_buf_cstr(&real);
	if (r == 0)
		r = acked_each(state, on_acked, &i, err);
	if (r < 0)
		return r;
	if (!*i.best && real.len < sizeof i.best) {
		(void)snprintf(i.best, sizeof i.best, "%s", i.path);
		if (!with_git(i.best))
			*i.best = 0;
	}
	if (!*i.best)
		return current(ret, err);
	inlay_buf_printf(ret, "%s", i.best);
	return inlay_buf_check(ret, err);
}

/* ---- rules ---- */

void place_fini(struct place *p)
{
	inlay_buf_fini(&p->source);
	inlay_buf_fini(&p->pattern);
}

static void keep_why(struct place *p, const struct inlay_ignore_why *why)
{
	inlay_buf_clear(&p->source);
	inlay_buf_clear(&p->pattern);
	if (!why->pattern)
		return;
	inlay_buf_printf(&p->source, "%s", why->source);
	inlay_buf_printf(&p->pattern, "%s", why->pattern);
	p->line = why->line;
	p->negated = why->negated;
}

static bool has(int fd, const char *name)
{
	return fd >= 0 && faccessat(fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Goes into a directory; *fd -1 when it does not exist. */
static int enter(int *fd, const char *name, size_t len, struct inlay_ignore **rules,
		 struct inlay_error *err)
{
	struct inlay_ignore *below;
	auto_close int dir =
		*fd < 0 ? -1 : openat(*fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (*fd >= 0 && dir < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "enter %s", name);
	int r = inlay_ignore_enter(*rules, dir, name, len, has(dir, ".gitignore"),
				   has(dir, ".inlayignore"), &below, err);
	if (r < 0)
		return r;
	inlay_ignore_unref(*rules);
	*rules = below;
	inlay_cleanup_close(fd);
	*fd = take_fd(dir);
	return 0;
}

static int look(struct place *p, int root_fd, const struct inlay_ignore_options *options,
		const char *relative, bool is_dir, struct inlay_error *err)
{
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = NULL;
	auto_close int fd = fcntl(root_fd, F_DUPFD_CLOEXEC, 0);
	int r = fd < 0 ? inlay_error_sys(err, -errno, "open the folder")
		       : inlay_ignore_root(root_fd, options, &rules, err);

	for (const char *at = relative; r == 0 && *at;) {
		struct inlay_ignore_why why;
		char name[INLAY_NAME_MAX + 1];
		size_t len = strcspn(at, "/");
		bool last = at[len] == 0;
		if (len > INLAY_NAME_MAX)
			return inlay_error_set(err, -ENAMETOOLONG, "a name in %s is too long",
					       relative);
		memcpy(name, at, len);
		name[len] = 0;
		p->exists = fd >= 0 && fstatat(fd, name, &p->st, AT_SYMLINK_NOFOLLOW) == 0;
		bool dir = p->exists ? S_ISDIR(p->st.st_mode) : !last || is_dir;
		if (!last && p->exists && !dir)
			return inlay_error_set(err, S_ISLNK(p->st.st_mode) ? -ELOOP : -ENOTDIR,
					       "%s: '%s' is %s", relative, name,
					       S_ISLNK(p->st.st_mode)
						       ? "a symlink: what is beyond it is "
							 "not synced from here"
						       : "not a folder");
		p->out = inlay_ignore_match(rules, name, len, dir, &why);
		keep_why(p, &why);
		p->above = p->out && !last;
		if (p->out || last)
			break;
		r = enter(&fd, name, len, &rules, err);
		at += len + 1;
	}
	/* What is below an ignored folder exists or not; that is looked up by itself. */
	if (r == 0 && p->above)
		p->exists = fstatat(root_fd, relative, &p->st, AT_SYMLINK_NOFOLLOW) == 0;
	return r;
}

int place_look(int root_fd, const struct inlay_ignore_options *options, const char *relative,
	       bool is_dir, struct place *ret, struct inlay_error *err)
{
	struct place p = {0};
	int r = look(&p, root_fd, options, relative, is_dir, err);

	if (r == 0 && *relative == 0)
		p.exists = fstat(root_fd, &p.st) == 0;
	if (r < 0)
		place_fini(&p);
	else
		*ret = p;
	return r;
}
