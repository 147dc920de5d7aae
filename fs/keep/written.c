/* SPDX-License-Identifier: Apache-2.0 */
/* What was written through a mount: the worker's list of it, and giving synced things back. */
#include "inlay/written.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "inlay/io.h"
#include "keep/host.h"
#include "keep/upperlist.h"
#include "keep/written.h"

static const int64_t ask_timeout_ns = 60ll * 1000000000;

/* ---- the list ---- */

void inlay_upper_list_fini(struct inlay_upper_list *list)
{
	free(list->entries);
	if (list->bytes)
		(void)munmap(list->bytes, list->len);
	*list = (struct inlay_upper_list){0};
}

/* Called with ws->change held. */
static int not_mounted(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOTCONN,
			       "it is not mounted, so what was written there cannot be told "
			       "('inlay mount' mounts it)");
}

static bool is_redirect(const struct inlay_workspace *ws, const struct inlay_upper_entry *e)
{
	const char *at = (const char *)ws->redirects.data, *end = at + ws->redirects.len;

	for (; at < end; at += strlen(at) + 1)
		if (strlen(at) == e->path_len && memcmp(at, e->path, e->path_len) == 0)
			return true;
	return false;
}

/* The symlinks that stand for redirected directories were not written by anybody. */
static void leave_out_redirects(const struct inlay_workspace *ws, struct inlay_upper_list *list)
{
	size_t kept = 0;

	for (size_t i = 0; ws->redirects.len > 0 && i < list->count; i++) {
		const struct inlay_upper_entry *e = &list->entries[i];
		if (e->kind != INLAY_UPPER_SYMLINK || !is_redirect(ws, e))
			list->entries[kept++] = *e;
	}
	if (ws->redirects.len > 0)
		list->count = kept;
}

static int ask_upper(struct inlay_workspace *ws, struct inlay_upper_list *ret,
		     struct inlay_error *err)
{
	struct worker_msg m = {.type = WORKER_UPPER};
	auto_of(inlay_upper_list_fini) struct inlay_upper_list list = {0};
	auto_close int fd = -1;
	struct stat st;

	if (!ws->link)
		return not_mounted(err);
	int r = link_ask(ws->link, &m, &fd, ask_timeout_ns, err);
	if (r < 0)
		return r;
	if (m.count == 0) {
		*ret = list;
		return 0;
	}
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 0)
		return inlay_error_set(err, -EBADMSG, "the mount's worker sent no list");
	list.len = (size_t)st.st_size;
	list.bytes = mmap(NULL, list.len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (list.bytes == MAP_FAILED) {
		list.bytes = NULL;
		return inlay_error_sys(err, -errno, "map the worker's list");
	}
	r = upper_list_parse(list.bytes, list.len, m.count, &list, err);
	if (r == 0) {
		leave_out_redirects(ws, &list);
		*ret = list;
		list = (struct inlay_upper_list){0};
	}
	return r;
}

int inlay_workspace_upper(struct inlay_workspace *ws, struct inlay_upper_list *ret,
			  struct inlay_error *err)
{
	scope_lock(&ws->change);
	return ask_upper(ws, ret, err);
}

int inlay_workspace_upper_open(struct inlay_workspace *ws, const struct inlay_upper_entry *e,
			       int *ret_fd, struct inlay_error *err)
{
	char name[40];

	(void)snprintf(name, sizeof name, "upper/%llu", (unsigned long long)e->file);
	int fd = openat(ws->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open what was written at %.*s",
				       (int)e->path_len, e->path);
	*ret_fd = fd;
	return 0;
}

/* ---- reset ---- */

static int send_reset(struct inlay_workspace *ws, const struct inlay_upper_entry *e,
		      struct inlay_error *err)
{
	auto_close int fd = memfd_create("inlay-reset", MFD_CLOEXEC);
	struct worker_msg m = {.type = WORKER_RESET, .count = e->path_len};

	if (fd < 0)
		return inlay_error_sys(err, -errno, "make a memory file");
	int r = inlay_write_all(fd, e->path, e->path_len, "the path", err);
	if (r == 0)
		r = link_ask_with(ws->link, &m, fd, NULL, ask_timeout_ns, err);
	return r;
}

static bool at_or_below(const struct inlay_upper_entry *e, const char *path, size_t len)
{
	if (len == 0)
		return true;
	return e->path_len >= len && memcmp(e->path, path, len) == 0 &&
	       (e->path_len == len || e->path[len] == '/');
}

/* Called with ws->change held. */
static int reset_below(struct inlay_workspace *ws, const struct inlay_upper_list *list,
		       const char *path, size_t len, uint64_t *ret_count, struct inlay_error *err)
{
	uint64_t count = 0;

	/* What is in a directory before the directory. */
	for (size_t i = list->count; i-- > 0;) {
		const struct inlay_upper_entry *e = &list->entries[i];
		struct inlay_error one = {0};
		if (!at_or_below(e, path, len))
			continue;
		int r = send_reset(ws, e, &one);
		if (r == -ENOENT)
			continue; /* it went meanwhile, or with its directory */
		if (r < 0) {
			*err = one;
			return r;
		}
		count++;
	}
	*ret_count = count;
	return 0;
}

int inlay_workspace_reset(struct inlay_workspace *ws, const char *path, size_t len,
			  uint64_t *ret_count, struct inlay_error *err)
{
	auto_of(inlay_upper_list_fini) struct inlay_upper_list list = {0};

	scope_lock(&ws->change);
	int r = ask_upper(ws, &list, err);
	if (r == 0)
		r = reset_below(ws, &list, path, len, ret_count, err);
	if (r == 0 && *ret_count == 0 && len > 0)
		return inlay_error_set(err, -ENOENT, "nothing was written at %.*s", (int)len, path);
	return r;
}

/* ---- what lies below ---- */

int inlay_workspace_synced(struct inlay_workspace *ws, const char *path, size_t len,
			   struct inlay_digest *ret, struct inlay_error *err)
{
	struct inlay_digest tree;
	{
		scope_lock(&ws->lock);
		if (ws->state.live.number == 0)
			return INLAY_HOST_MISSING;
		tree = ws->state.live.root.tree;
	}
	for (;;) {
		auto_of(inlay_dir_close) struct inlay_dir dir = {0};
		struct inlay_entry e;
		const char *slash = memchr(path, '/', len);
		size_t n = slash ? (size_t)(slash - path) : len;
		int r = inlay_dir_open(ws->host->trees, &tree, &dir, err);
		if (r == 0)
			r = inlay_dir_find(&dir, path, n, &e, err);
		if (r < 0)
			return r;
		if (r > 0 || (slash ? !S_ISDIR(e.mode) : !S_ISREG(e.mode)))
			return INLAY_HOST_MISSING;
		if (!slash) {
			*ret = e.id;
			return 0;
		}
		tree = e.id;
		path += n + 1;
		len -= n + 1;
	}
}
