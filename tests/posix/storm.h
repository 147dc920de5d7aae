/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_STORM_H
#define TESTS_STORM_H

/* What a directory tree must be: the model that storm.c holds a filesystem to. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	STORM_FILE_MAX = 200000,
	STORM_NAME = 256,
	STORM_PATH = 8192,
	STORM_ENTRIES = 32,
};

struct inode {
	unsigned long id;
	mode_t mode;
	unsigned nlink, refs; /* refs: its names, and descriptors and mappings of the storm */
	/* a file */
	off_t size;
	uint8_t *data; /* STORM_FILE_MAX bytes, zeros behind size */
	/* a symlink */
	char target[32];
	/* a directory */
	struct inode *parent; /* NULL: the root, or removed */
	unsigned count;
	struct {
		char name[STORM_NAME];
		struct inode *inode;
	} * entries;
};

struct inode *model_root(void);
/* Reads a directory into the model. */
int model_load(struct inode *dir, const char *path);

struct inode *model_new(mode_t mode);
void model_unref(struct inode *n);

struct inode *model_find(const struct inode *dir, const char *name);
/* Takes one reference; gives n. */
struct inode *model_add(struct inode *dir, const char *name, struct inode *n);
void model_remove(struct inode *dir, const char *name);
void model_rename(struct inode *from, const char *name, struct inode *to, const char *to_name,
		  bool exchange);

/* The path of a directory with "/" behind it, "./" for the root. */
void model_path(const struct inode *dir, char path[static STORM_PATH]);
unsigned model_depth(const struct inode *dir);

void model_write(struct inode *n, off_t from, const uint8_t *bytes, size_t len);
void model_zero(struct inode *n, off_t from, size_t len);
void model_truncate(struct inode *n, off_t size);

#endif
