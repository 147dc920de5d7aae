/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_POSIX_H
#define TESTS_POSIX_H

/*
 * What a program may expect of a filesystem, one line a check: SUBJECT SECTION.CHECK RESULT. The lines are the
 * same on every filesystem that keeps its promises, so two runs are compared with diff.
 *
 * Each section runs twice: in `own`, where the program made the files itself, and in `given`, where they were
 * there before (the lower layer of an overlay, the synced tree of a workspace).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

enum {
	POSIX_BIG = 300000, /* bytes of the file `big` */
	POSIX_MANY = 600,   /* files in `many` */
	NOBODY = 65534,
};

/* One line: "ok", or the name of errno when ret is negative. */
void check(const char *name, long ret);
/* The same; closes the descriptor. */
void check_fd(const char *name, int fd);
/* One line with a value. */
void value(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One line with what a call gave, and two of the bytes that it read (arguments have no order of evaluation). */
void bytes(const char *name, ssize_t ret, const void *buf, size_t first, size_t second);
/* One line: "yes" or "no". */
void claim(const char *name, bool holds);

/* Ends the program when something fails that no check is about. */
void must(bool holds, const char *what);

/* Runs fn in a child as a user without rights; the checks that it makes are printed. Nothing when not root. */
void as_nobody(void (*fn)(void));
/* Runs fn in a child; gives its exit status, or 128 + the signal that ended it. */
int in_child(int (*fn)(void *arg), void *arg);

/* The whole file as a string (up to 4 KiB, good for the next three calls); "<error>" when it cannot be read. */
const char *content(const char *path);
/* Makes a file with these bytes, replacing what was there. */
void put(const char *path, const char *text);
/* A hash of a file's bytes, 0 when it cannot be read. */
uint64_t hash_of(const char *path);
struct stat stat_of(const char *path);
bool exists(const char *path);
/* Waits until the clock that stamps files has moved on. */
void tick(void);
bool before(struct timespec a, struct timespec b);

void section_open(void);
void section_data(void);
void section_holes(void);
void section_append(void);
void section_copy(void);
void section_mmap(void);
void section_rename(void);
void section_renamedir(void);
void section_link(void);
void section_symlink(void);
void section_unlink(void);
void section_dirs(void);
void section_mknod(void);
void section_mode(void);
void section_times(void);
void section_xattr(void);
void section_locks(void);
void section_readdir(void);
void section_names(void);
void section_access(void);
void section_exec(void);
void section_inode(void);
void section_race(void);

#endif
