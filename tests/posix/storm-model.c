/* SPDX-License-Identifier: Apache-2.0 */
#include "storm.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void *need(void *p)
{
	if (p)
		return p;
	(void)fprintf(stderr, "storm: out of memory\n");
	exit(3);
}

struct inode *model_new(mode_t mode)
{
	static unsigned long ids;
	struct inode *n = need(calloc(1, sizeof *n));

	n->id = ++ids;
	n->mode = mode;
	n->nlink = 1;
	if (S_ISREG(mode))
		n->data = need(calloc(1, STORM_FILE_MAX));
	if (S_ISDIR(mode))
		n->entries = need(calloc(STORM_ENTRIES, sizeof *n->entries));
	return n;
}

struct inode *model_root(void)
{
	static struct inode *root;

	if (!root) {
		root = model_new(S_IFDIR | 0755);
		root->refs = 1;
	}
	return root;
}

void model_unref(struct inode *n)
{
	if (--n->refs > 0)
		return;
	free(n->data);
	free(n->entries);
	free(n);
}

static int index_of(const struct inode *dir, const char *name)
{
	for (unsigned i = 0; i < dir->count; i++)
		if (strcmp(dir->entries[i].name, name) == 0)
			return (int)i;
	return -1;
}

struct inode *model_find(const struct inode *dir, const char *name)
{
	int i = index_of(dir, name);

	return i < 0 ? NULL : dir->entries[i].inode;
}

struct inode *model_add(struct inode *dir, const char *name, struct inode *n)
{
	assert(dir->count < STORM_ENTRIES);
	(void)snprintf(dir->entries[dir->count].name, STORM_NAME, "%s", name);
	dir->entries[dir->count++].inode = n;
	n->refs++;
	return n;
}

/* Takes the entry out; its reference is the caller's. */
static struct inode *take(struct inode *dir, const char *name)
{
	int i = index_of(dir, name);
	struct inode *n = dir->entries[i].inode;

	dir->entries[i] = dir->entries[--dir->count];
	return n;
}

void model_remove(struct inode *dir, const char *name)
{
	struct inode *n = take(dir, name);

	n->nlink--;
	n->parent = NULL;
	model_unref(n);
}

static void set_parent(struct inode *n, struct inode *dir)
{
	if (S_ISDIR(n->mode))
		n->parent = dir;
}

void model_rename(struct inode *from, const char *name, struct inode *to, const char *to_name,
		  bool exchange)
{
	struct inode *a = model_find(from, name), *b = model_find(to, to_name);

	if (a == b)
		return;
	if (exchange) {
		from->entries[index_of(from, name)].inode = b;
		to->entries[index_of(to, to_name)].inode = a;
		set_parent(b, from);
		set_parent(a, to);
		return;
	}
	if (b)
		model_remove(to, to_name);
	a = take(from, name);
	(void)model_add(to, to_name, a);
	set_parent(a, to);
	model_unref(a);
}

void model_path(const struct inode *dir, char path[static STORM_PATH])
{
	if (!dir->parent) {
		strcpy(path, "./");
		return;
	}
	model_path(dir->parent, path);
	for (unsigned i = 0; i < dir->parent->count; i++)
		if (dir->parent->entries[i].inode == dir)
			(void)snprintf(path + strlen(path), STORM_NAME + 1, "%s/",
				       dir->parent->entries[i].name);
}

unsigned model_depth(const struct inode *dir)
{
	return dir->parent ? model_depth(dir->parent) + 1 : 0;
}

void model_write(struct inode *n, off_t from, const uint8_t *bytes, size_t len)
{
	assert(from + (off_t)len <= STORM_FILE_MAX);
	memcpy(n->data + from, bytes, len);
	if (len > 0 && from + (off_t)len > n->size)
		n->size = from + (off_t)len;
}

void model_zero(struct inode *n, off_t from, size_t len)
{
	memset(n->data + from, 0, len);
}

void model_truncate(struct inode *n, off_t size)
{
	if (size < n->size)
		memset(n->data + size, 0, (size_t)(n->size - size));
	n->size = size;
}

static int load_one(struct inode *dir, const char *path, const char *name)
{
	struct stat st;
	struct inode *n;

	if (lstat(path, &st) < 0)
		return -1;
	n = model_add(dir, name, model_new(st.st_mode));
	if (S_ISDIR(st.st_mode)) {
		n->parent = dir;
		return model_load(n, path);
	}
	if (S_ISLNK(st.st_mode))
		return readlink(path, n->target, sizeof n->target - 1) < 0 ? -1 : 0;
	n->size = st.st_size;
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, n->data, STORM_FILE_MAX);
	(void)close(fd);
	return got == st.st_size ? 0 : -1;
}

int model_load(struct inode *dir, const char *path)
{
	char sub[STORM_PATH];
	struct dirent *e;
	DIR *d = opendir(path);
	int r = d ? 0 : -1;

	while (r == 0 && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		(void)snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
		r = load_one(dir, sub, e->d_name);
	}
	if (d)
		(void)closedir(d);
	return r;
}
