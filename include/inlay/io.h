/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_IO_H
#define INLAY_IO_H

/*
 * Files, whole reads and writes, unix sockets. Everything that is opened is O_CLOEXEC; everything
 * that is named is named relative to a directory descriptor. Interrupted calls are continued. Any
 * thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

/* Writes all of it; -EPIPE and the like as they come. `what` names the thing in the error. */
int inlay_write_all(int fd, const void *buf, size_t len, const char *what, struct inlay_error *err)
	inlay_must_check;
int inlay_pwrite_all(int fd, const void *buf, size_t len, uint64_t off, const char *what,
		     struct inlay_error *err) inlay_must_check;

/* Reads until len or the end of the file; *ret_n tells how much came. */
int inlay_read_full(int fd, void *buf, size_t len, size_t *ret_n, const char *what,
		    struct inlay_error *err) inlay_must_check;
int inlay_pread_full(int fd, void *buf, size_t len, uint64_t off, size_t *ret_n, const char *what,
		     struct inlay_error *err) inlay_must_check;

enum { INLAY_IO_MISSING = 1 }; /* positive result: there is no such file */

/* Appends the whole of a file of at most `max` bytes to buf. INLAY_IO_MISSING when it does not
 * exist. */
int inlay_read_file(int dirfd, const char *name, size_t max, struct inlay_buf *buf,
		    struct inlay_error *err) inlay_must_check;

enum inlay_replace_flags {
	INLAY_REPLACE_DURABLE = 1 << 0, /* fsync the file, and the directory after the rename */
};

/*
 * Replaces `name` (no slash) in the directory by the given bytes, atomically: temporary in the same
 * directory, write, rename. After a crash there is the old or the new content, never a mix.
 */
int inlay_replace_file(int dirfd, const char *name, const void *buf, size_t len, mode_t mode,
		       enum inlay_replace_flags flags, struct inlay_error *err) inlay_must_check;

/* How many files this process has replaced so: for figures. */
uint64_t inlay_replaced_files(void);

/*
 * Opens a directory, making it and its missing parents with `mode`. Refuses a final component that
 * is a symlink. *ret_fd belongs to the caller.
 */
int inlay_open_dir(int dirfd, const char *path, mode_t mode, int *ret_fd, struct inlay_error *err)
	inlay_must_check;

/* Removes a directory with everything in it, without following links. Not an error when it is
 * missing. */
int inlay_remove_tree(int dirfd, const char *name, struct inlay_error *err) inlay_must_check;

/* Where a program is that may be in one of the usual directories, also when PATH is a login's without sbin. */
bool inlay_find_program(const char *name, char *ret, size_t size);

/* ---- unix sockets; the path is <dirfd>/<name>, so its length does not matter ---- */

int inlay_unix_listen(int dirfd, const char *name, int type, int *ret_fd, struct inlay_error *err)
	inlay_must_check;

enum { INLAY_UNIX_NOBODY = 1 }; /* positive result: nobody listens there */

int inlay_unix_connect(int dirfd, const char *name, int type, int *ret_fd, struct inlay_error *err)
	inlay_must_check;

/* One datagram or packet with up to INLAY_UNIX_FDS descriptors. */
enum { INLAY_UNIX_FDS = 4 };
int inlay_unix_send(int fd, const void *buf, size_t len, const int *fds, size_t fd_count,
		    struct inlay_error *err) inlay_must_check;
/* *ret_n = 0 at the end of the stream. The received descriptors belong to the caller; unused slots
 * are -1. */
int inlay_unix_recv(int fd, void *buf, size_t len, size_t *ret_n, int fds[static INLAY_UNIX_FDS],
		    struct inlay_error *err) inlay_must_check;

/* ---- time ---- */

int64_t inlay_now_ns(void);       /* CLOCK_REALTIME */
int64_t inlay_monotonic_ns(void); /* CLOCK_MONOTONIC */

/* ---- signals ---- */

/* Blocks the signals (a list that ends with 0) in the calling thread and those that it starts; they come as struct
 * signalfd_siginfo from *ret_fd, which does not block. */
int inlay_signal_fd(const int *signals, int *ret_fd, struct inlay_error *err) inlay_must_check;

/* ---- memory ---- */

/* What was freed goes back to the kernel: for the end of work that took much. */
void inlay_give_memory_back(void);

#endif
