/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_LANDING_H
#define SESSION_LANDING_H

/*
 * Where `inlay pull` writes: one local folder, and nothing outside of it whatever the target says. Every path from
 * the target is a list of plain names; directories are opened one below the other (openat2 with RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS), and a file gets its name only when all of it is there. Symlinks are written as data.
 *
 * A local file is overwritten when it is what an earlier pull brought, or what was synced to the target; anything
 * else is somebody's work, and stays unless `force`. What was brought is remembered in pulled/<id> of
 * the state. Used by one thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/error.h"

struct landing_record;

struct landing {
	int root;        /* the folder */
	int state_fd;    /* pulled/ */
	char record[17]; /* its name there */
	bool force;
	struct landing_record *records; /* sorted by path up to `sorted` */
	size_t count, cap, sorted;
};

/* Opens the folder, making it when it is missing, and reads what is remembered of it. */
int landing_open(struct landing *l, const char *folder, const char *state, bool force,
		 struct inlay_error *err) inlay_must_check;
/* Remembers what was brought. */
int landing_save(struct landing *l, struct inlay_error *err) inlay_must_check;
void landing_close(struct landing *l);

/* May a target name this path? Plain names, no ".git" (whose hooks are run). */
bool landing_path_allowed(const char *path, size_t len);

enum landing_result {
	LANDING_NEW = 0,
	LANDING_CHANGED,  /* an earlier one was overwritten */
	LANDING_SAME,     /* it was there already */
	LANDING_CONFLICT, /* somebody's work is there: it stays */
};

/* Results of these are enum landing_result or negative. `path` ends with a NUL and is allowed. */
int landing_dir(struct landing *l, const char *path, struct inlay_error *err) inlay_must_check;
int landing_symlink(struct landing *l, const char *path, const char *target,
		    struct inlay_error *err) inlay_must_check;

/* A file on its way, under a temporary name beside its own. */
struct landing_file {
	struct landing *landing;
	int dir, fd; /* -1 = not open */
	char temp[40];
	const char *name; /* of the last component; borrowed */
	const char *path; /* borrowed */
	struct inlay_hasher hasher;
	uint64_t written;
};

int landing_begin(struct landing *l, const char *path, struct landing_file *ret,
		  struct inlay_error *err) inlay_must_check;
int landing_write(struct landing_file *f, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;
/* Gives the file its name. `synced` (may be NULL): the content that the target had there from a sync. */
int landing_end(struct landing_file *f, uint32_t mode, int64_t mtime_ns,
		const struct inlay_digest *synced, struct inlay_error *err) inlay_must_check;
/* Throws it away, if it is still there. */
void landing_drop(struct landing_file *f);

/* The remembered list, bytes <-> structs. */
void landing_encode(const struct landing *l, struct inlay_buf *b);
int landing_decode(struct landing *l, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;

#endif
