/* SPDX-License-Identifier: Apache-2.0 */
/* The directories on their way: their paths, their descriptors, what is wrong with them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "scan/walk.h"

enum {
	OPEN_MIN = 16,
	OPEN_MAX = 2048,
};

/* ---- nodes ---- */

struct scan_node *scan_node_new(struct scan_node *parent, const char *name, size_t len)
{
	struct scan_node *node = calloc(1, sizeof *node + len + 1);

	if (!node)
		return NULL;
	node->parent = parent;
	node->fd = -1;
	node->pending = 1;
	node->openers = 1;
	node->name_len = (uint8_t)len;
	memcpy(node->name, name, len);
	if (parent) {
		node->depth = parent->depth + 1;
		node->path_len = parent->path_len + (uint32_t)len + 1;
	}
	return node;
}

void scan_node_free(struct scan_node *node)
{
	inlay_ignore_unref(node->rules);
	for (uint32_t i = 0; node->children && i < node->child_count; i++)
		scan_dir_unref(node->children[i]);
	for (uint32_t i = 0; node->blocks && i < 1u << node->bits; i++)
		scan_block_unref(node->blocks[i]);
	free(node->children);
	free(node->blocks);
	free(node);
}

void scan_node_path(const struct scan_node *node, struct inlay_buf *path)
{
	uint8_t *at = inlay_buf_reserve(path, node->path_len);

	if (!at)
		return;
	path->len += node->path_len;
	/* From the end: a node knows only what is above it. */
	for (at += node->path_len; node->parent; node = node->parent) {
		*--at = '/';
		at -= node->name_len;
		memcpy(at, node->name, node->name_len);
	}
}

/* ---- trouble ---- */

void scan_walk_give_up(struct scan_walk *w, const struct inlay_error *e)
{
	scan_trouble_fatal(&w->trouble, e);
	__atomic_store_n(&w->failed, true, __ATOMIC_RELAXED);
	__atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
}

void scan_walk_no_memory(struct scan_walk *w)
{
	struct inlay_error e;

	(void)inlay_error_set(&e, -ENOMEM, "out of memory");
	scan_walk_give_up(w, &e);
}

void scan_walk_trouble(struct scan_walk *w, const struct scan_node *node, const char *name,
		       size_t len, int code, const char *what, const char *why)
{
	auto_buf struct inlay_buf path = {0}, shown = {0};
	struct inlay_error e;

	scan_node_path(node, &path);
	if (name)
		inlay_buf_add(&path, name, len);
	else if (path.len > 0)
		path.len--; /* the slash behind a directory */
	if (path.len > 0)
		scan_show_path(&shown, path.data, path.len);
	else
		inlay_buf_add(&shown, ".", 1);
	const char *text = inlay_buf_cstr(&shown);
	if (path.failed || shown.failed) {
		scan_walk_no_memory(w);
		return;
	}
	if (why)
		(void)inlay_error_set(&e, code, "%s '%s': %s", what, text, why);
	else
		(void)inlay_error_sys(&e, code, "%s '%s'", what, text);
	scan_trouble_add(&w->trouble, &path, &e);
	__atomic_store_n(&w->failed, true, __ATOMIC_RELAXED);
}

/* ---- descriptors ---- */

void scan_node_close(struct scan_walk *w, struct scan_node *node)
{
	if (node->fd < 0)
		return;
	(void)close(node->fd);
	node->fd = -1;
	(void)__atomic_sub_fetch(&w->open, 1, __ATOMIC_RELAXED);
}

/* Nobody opens anything in the directory any more. */
void scan_node_opened(struct scan_walk *w, struct scan_node *node)
{
	if (__atomic_sub_fetch(&node->openers, 1, __ATOMIC_ACQ_REL) == 0)
		scan_node_close(w, node);
}

static int open_at(int at, const char *name)
{
	int fd;

	do
		fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	while (fd < 0 && errno == EINTR);
	return fd;
}

/* Opens a directory whose descriptor was closed to save some, one component after the other. -1 and
 * errno. */
static int open_again(const struct scan_walk *w, const struct scan_node *node)
{
	const struct scan_node *up[INLAY_DEPTH_MAX + 2];
	size_t depth = 0;
	int at = w->rootfd;

	for (; node->parent; node = node->parent)
		up[depth++] = node;
	while (depth-- > 0) {
		int fd = open_at(at, up[depth]->name);
		int saved = errno;
		if (at != w->rootfd)
			(void)close(at);
		errno = saved;
		if (fd < 0)
			return -1;
		at = fd;
	}
	return at;
}

static int open_below(const struct scan_walk *w, const struct scan_node *node)
{
	struct scan_node *parent = node->parent;

	if (parent->fd >= 0)
		return open_at(parent->fd, node->name);
	int above = open_again(w, parent);
	if (above < 0)
		return -1;
	int fd = open_at(above, node->name);
	int saved = errno;
	if (above != w->rootfd)
		(void)close(above);
	errno = saved;
	return fd;
}

bool scan_node_open(struct scan_walk *w, struct scan_node *node)
{
	/* The root is opened again too: the caller's descriptor has a place in the listing. */
	node->fd = node->parent ? open_below(w, node) : open_at(w->rootfd, ".");
	int error = errno;
	if (node->parent)
		scan_node_opened(w, node->parent);
	if (node->fd >= 0) {
		(void)__atomic_add_fetch(&w->open, 1, __ATOMIC_RELAXED);
		return true;
	}
	if (error == ENOENT)
		return false;
	if (node->parent && (error == ENOTDIR || error == ELOOP))
		__atomic_store_n(&w->retry, true, __ATOMIC_RELAXED);
	else
		scan_walk_trouble(w, node, NULL, 0, -error, "cannot list", NULL);
	return false;
}

unsigned scan_open_limit(void)
{
	struct rlimit lim;

	/* Half of what is left for all the others of this process. */
	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur / 2 > OPEN_MAX)
		return OPEN_MAX;
	return lim.rlim_cur / 2 > OPEN_MIN ? (unsigned)(lim.rlim_cur / 2) : OPEN_MIN;
}
