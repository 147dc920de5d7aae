/* SPDX-License-Identifier: Apache-2.0 */
#include "build/buildinputs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/text.h"

enum { INPUTS_VERSION = 1, READ_BYTES = 256 << 10, DEPTH_MAX = 200, EXCLUDES_MAX = 256 };

struct walk {
	struct inlay_buf *out;
	struct inlay_buf path;
	struct inlay_buf ignore; /* .dockerignore with NULs for its line ends */
	const char *excludes[EXCLUDES_MAX];
	size_t exclude_count;
	uint8_t *piece;
};

/* ---- .dockerignore ---- */

static void take_exclude(struct walk *w, char *line)
{
	size_t len = strlen(line);

	while (len > 0 && strchr(" \t\r/", line[len - 1]))
		line[--len] = 0;
	while (*line == '/' || *line == ' ' || *line == '\t')
		line++;
	if (*line == '!') {
		w->exclude_count = 0;
		return;
	}
	if (!*line || *line == '#' || strstr(line, "**") || w->exclude_count == EXCLUDES_MAX)
		return;
	w->excludes[w->exclude_count++] = line;
}

static int read_excludes(struct walk *w, int dirfd, struct inlay_error *err)
{
	int r = inlay_read_file(dirfd, ".dockerignore", RECIPE_MAX, &w->ignore, err);

	if (r != 0)
		return r < 0 ? r : 0;
	inlay_buf_u8(&w->ignore, 0);
	r = inlay_buf_check(&w->ignore, err);
	char *next, *text = (char *)w->ignore.data;
	for (char *line = r == 0 ? text : NULL; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		take_exclude(w, line);
	}
	return r;
}

static bool is_excluded(struct walk *w)
{
	const char *path = inlay_buf_cstr(&w->path);

	if (strcmp(path, BUILD_LOCK_FILE) == 0)
		return true;
	for (size_t i = 0; i < w->exclude_count; i++)
		if (fnmatch(w->excludes[i], path, FNM_PATHNAME) == 0)
			return true;
	return false;
}

/* ---- the files ---- */

static int hash_file(struct walk *w, int dirfd, const char *name, struct inlay_digest *ret,
		     struct inlay_error *err)
{
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct inlay_hasher h;
	size_t n;

	if (fd < 0)
		return inlay_error_sys(err, -errno, "open %s", inlay_buf_cstr(&w->path));
	inlay_hasher_init(&h);
	do {
		int r = inlay_read_full(fd, w->piece, READ_BYTES, &n, inlay_buf_cstr(&w->path),
					err);
		if (r < 0)
			return r;
		inlay_hasher_add(&h, w->piece, n);
	} while (n == READ_BYTES);
	inlay_hasher_end(&h, ret);
	return 0;
}

static int walk_dir(struct walk *w, int dirfd, unsigned depth, struct inlay_error *err);

static int walk_entry(struct walk *w, int dirfd, const char *name, unsigned depth,
		      struct inlay_error *err)
{
	char hex[INLAY_DIGEST_HEX] = "-", target[INLAY_LINK_MAX + 1];
	struct inlay_digest id;
	struct stat st;
	int r = 0;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return inlay_error_sys(err, -errno, "%s", inlay_buf_cstr(&w->path));
	inlay_buf_printf(w->out, S_ISDIR(st.st_mode) ? "folder " : "file ");
	inlay_text_escape(w->out, w->path.data, w->path.len);
	if (S_ISREG(st.st_mode))
		r = hash_file(w, dirfd, name, &id, err);
	else if (S_ISLNK(st.st_mode)) {
		ssize_t n = readlinkat(dirfd, name, target, sizeof target);
		inlay_digest_of(target, n > 0 ? (size_t)n : 0, &id);
	} else
		id = (struct inlay_digest){0};
	if (r < 0)
		return r;
	inlay_digest_hex(&id, hex);
	inlay_buf_printf(w->out, " %o %s\n", st.st_mode, hex);
	if (!S_ISDIR(st.st_mode))
		return 0;
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open %s", inlay_buf_cstr(&w->path));
	return walk_dir(w, fd, depth + 1, err);
}

static int keep_names(const struct dirent *d)
{
	return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int walk_dir(struct walk *w, int dirfd, unsigned depth, struct inlay_error *err)
{
	struct dirent **names;
	size_t len = w->path.len;
	int r = 0;

	if (depth > DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "the context is more than %d directories deep",
				       DEPTH_MAX);
	int count = scandirat(dirfd, ".", &names, keep_names, by_bytes);
	if (count < 0)
		return inlay_error_sys(err, -errno, "list %s", inlay_buf_cstr(&w->path));
	for (int i = 0; i < count; i++) {
		if (len > 0)
			inlay_buf_u8(&w->path, '/');
		inlay_buf_add(&w->path, names[i]->d_name, strlen(names[i]->d_name));
		if (r == 0 && !is_excluded(w))
			r = walk_entry(w, dirfd, names[i]->d_name, depth, err);
		w->path.len = len;
		free(names[i]);
	}
	free(names);
	return r;
}

int build_context_read(int dirfd, const struct recipe *recipe, struct build_context *ret,
		       struct inlay_error *err)
{
	struct walk w = {.out = &ret->lines};

	*ret = (struct build_context){0};
	w.piece = malloc(READ_BYTES);
	int r = w.piece ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
	inlay_buf_printf(&ret->builder, "builder %s%s\n", recipe->builder, recipe->version);
	if (r == 0 && recipe->kind != BUILDER_MMDEBSTRAP) {
		r = read_excludes(&w, dirfd, err);
		if (r == 0)
			r = walk_dir(&w, dirfd, 0, err);
	}
	inlay_buf_fini(&w.path);
	inlay_buf_fini(&w.ignore);
	free(w.piece);
	return r == 0 ? inlay_buf_check(&ret->lines, err) : r;
}

void build_context_fini(struct build_context *c)
{
	inlay_buf_fini(&c->lines);
	inlay_buf_fini(&c->builder);
}

/* ---- the lines ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int build_inputs(const struct recipe *r, const struct build_context *c, const char *platform,
		 const char *variant, const char *const *args, size_t arg_count, const char *bases,
		 struct inlay_buf *ret, struct inlay_error *err)
{
	auto_free const char **sorted = reallocarray(NULL, arg_count + 1, sizeof *sorted);
	struct inlay_digest id;
	char hex[INLAY_DIGEST_HEX];

	if (!sorted)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < arg_count; i++)
		sorted[i] = args[i];
	qsort(sorted, arg_count, sizeof *sorted, by_text);
	inlay_digest_of(r->text.data, r->text.len, &id);
	inlay_digest_hex(&id, hex);
	inlay_buf_printf(ret, "inputs %d\nplatform %s\nvariant %s\nrecipe %s %s\n", INPUTS_VERSION,
			 platform, variant, r->file, hex);
	inlay_buf_add(ret, c->builder.data, c->builder.len);
	for (size_t i = 0; i < arg_count; i++) {
		inlay_buf_printf(ret, "argument ");
		inlay_text_escape(ret, sorted[i], strlen(sorted[i]));
		inlay_buf_u8(ret, '\n');
	}
	inlay_buf_add(ret, bases, strlen(bases));
	inlay_buf_add(ret, c->lines.data, c->lines.len);
	return inlay_buf_check(ret, err);
}

/* ---- what differs ---- */

struct lines {
	const char **at;
	size_t count;
};

static int line_order(const void *a, const void *b)
{
	const char *x = *(const char *const *)a, *y = *(const char *const *)b;
	size_t nx = strcspn(x, "\n"), ny = strcspn(y, "\n");
	int c = memcmp(x, y, nx < ny ? nx : ny);

	return c ? c : (nx > ny) - (nx < ny);
}

static int sort_lines(const char *text, struct lines *ret, struct inlay_error *err)
{
	size_t count = 0;

	for (const char *p = text; *p; p++)
		count += *p == '\n';
	*ret = (struct lines){calloc(count + 1, sizeof(char *)), 0};
	if (!ret->at)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (const char *p = text; ret->count < count; p = strchr(p, '\n') + 1)
		ret->at[ret->count++] = p;
	qsort(ret->at, count, sizeof *ret->at, line_order);
	return 0;
}

int build_inputs_differ(const char *before, const char *after,
			void (*fn)(void *ctx, char sign, const char *line, size_t len), void *ctx,
			struct inlay_error *err)
{
	struct lines a = {0}, b = {0};
	size_t i = 0, k = 0;
	int r = sort_lines(before, &a, err);

	if (r == 0)
		r = sort_lines(after, &b, err);
	while (r == 0 && (i < a.count || k < b.count)) {
		int c = i == a.count ? 1 : k == b.count ? -1 : line_order(&a.at[i], &b.at[k]);
		if (c < 0)
			fn(ctx, '-', a.at[i], strcspn(a.at[i], "\n"));
		if (c > 0)
			fn(ctx, '+', b.at[k], strcspn(b.at[k], "\n"));
		i += c <= 0;
		k += c >= 0;
	}
	free(a.at);
	free(b.at);
	return r;
}
