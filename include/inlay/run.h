/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_RUN_H
#define INLAY_RUN_H

/*
 * Programs that a host runs for a workspace: what `inlay run` and a component's `run:` start.
 *
 * Each program has a supervisor of its own (`inlayd supervise`), a small process that starts it, restarts
 * it with backoff, keeps its last lines and ends it in order. The supervisor goes on when the keeper
 * ends, as a mount's worker does, and the next keeper finds it by its socket. The program dies with its
 * supervisor, never the other way round.
 *
 *     ws/<id>/run/<name>/spec      what is to run (docs/format.md)
 *     ws/<id>/run/<name>/run.sock  where the supervisor listens
 *     ws/<id>/run/<name>/log       its last lines, and
 *     ws/<id>/run/<name>/log.1     those before: together at most 2 x INLAY_RUN_LOG_BYTES
 *
 * A line of the log: the time (RFC 3339, UTC), a blank, `o` (standard output), `e` (standard error) or `-`
 * (what the supervisor says), a blank, the bytes as they were written, a newline.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/error.h"

enum {
	INLAY_RUN_NAME_MAX = 64,       /* bytes; [A-Za-z0-9._-], not starting with a dot */
	INLAY_RUN_STRINGS_MAX = 1024,  /* arguments, and as many variables */
	INLAY_RUN_SPEC_MAX = 60 << 10, /* bytes of an encoded spec */
	INLAY_RUN_LOG_BYTES = 4 << 20, /* of one of the two log files */
	INLAY_RUN_LINE_MAX = 8 << 10,  /* bytes of a line; longer ones are cut into several */
};

/* ---- what is to run ---- */

enum inlay_run_restart {
	INLAY_RUN_ALWAYS = 0,
	INLAY_RUN_ON_FAILURE = 1, /* not when it ended with 0 */
	INLAY_RUN_NEVER = 2,
};

struct inlay_run_spec {
	char name[INLAY_RUN_NAME_MAX + 1];
	char **argv; /* NULL-terminated; argv[0] is searched in PATH; owned with what it points to */
	char **env;  /* NULL-terminated "NAME=value", added to the keeper's environment */
	char **devices; /* paths that it cannot do without: looked at before each start */
	char *dir; /* relative to the workspace's path, or absolute; "" = the workspace itself */
	int stop_signal;
	int64_t stop_timeout_ns; /* from the signal to SIGKILL */
	enum inlay_run_restart restart;
	bool wanted; /* it shall run, also after a reboot */
};

bool inlay_run_name_valid(const char *name, size_t len);

/* Appends the encoded spec. */
void inlay_run_spec_encode(const struct inlay_run_spec *spec, struct inlay_buf *b);
/* Checks everything; -EBADMSG with the reason, -EPROTONOSUPPORT for a newer version. Ended with fini. */
int inlay_run_spec_decode(const void *bytes, size_t len, struct inlay_run_spec *ret,
			  struct inlay_error *err) inlay_must_check;
void inlay_run_spec_fini(struct inlay_run_spec *spec);
INLAY_DEFINE_FINI(struct inlay_run_spec, inlay_run_spec_fini)
/* A list of texts that ends with NULL; accepts NULL. */
void inlay_run_strings_free(char **list);
INLAY_DEFINE_CLEANUP(char *, inlay_run_strings_free)

/* -ENODEV, -EACCES with the cure, when one of its devices is not there, or not for this user. */
int inlay_run_check_devices(const struct inlay_run_spec *spec, struct inlay_error *err)
	inlay_must_check;

/* "TERM", "SIGTERM", "15". -EINVAL. */
int inlay_run_parse_signal(const char *text, int *ret, struct inlay_error *err) inlay_must_check;

/* ---- how it goes ---- */

enum inlay_run_state {
	INLAY_RUN_STOPPED = 0, /* it shall not run */
	INLAY_RUN_RUNNING,
	INLAY_RUN_STOPPING, /* it was told to end */
	INLAY_RUN_WAITING,  /* it ended and is started again at next_ns */
	INLAY_RUN_ENDED,    /* it ended and is not started again */
};

struct inlay_run_status {
	char name[INLAY_RUN_NAME_MAX + 1];
	uint32_t state; /* enum inlay_run_state */
	int32_t pid;    /* RUNNING, STOPPING */
	int32_t ended;  /* how it ended last, as of waitpid; -1 = it did not yet */
	uint32_t unused;
	uint64_t starts;
	int64_t since_ns; /* CLOCK_REALTIME: in this state since */
	int64_t next_ns;  /* WAITING: CLOCK_REALTIME of the next start */
};

const char *inlay_run_state_name(enum inlay_run_state state);

/* ---- the log ---- */

/* Written by the supervisor alone. */
struct inlay_runlog {
	int dirfd; /* borrowed */
	int fd;
	uint64_t bytes; /* of `log` */
	struct inlay_buf line[2];
};

int inlay_runlog_open(int dirfd, struct inlay_runlog *ret, struct inlay_error *err)
	inlay_must_check;
void inlay_runlog_close(struct inlay_runlog *log);
/* Bytes that came from a stream ('o' or 'e'); whole lines are written, the rest waits for its end. */
void inlay_runlog_add(struct inlay_runlog *log, char stream, const void *bytes, size_t len);
/* The stream ended: what waits is a line. */
void inlay_runlog_end(struct inlay_runlog *log, char stream);
/* What the supervisor says. */
void inlay_runlog_note(struct inlay_runlog *log, const char *fmt, ...) inlay_printf(2, 3);

/*
 * Reads it, from the last `lines` lines on, also across the change of files. One thread. Bytes come as they
 * stand in the log, whole lines.
 */
struct inlay_runlog_reader {
	int dirfd; /* owned */
	int fd;
	uint64_t off;
	bool old; /* reading log.1 */
};

int inlay_runlog_reader_open(int dirfd, uint64_t lines, struct inlay_runlog_reader *ret,
			     struct inlay_error *err) inlay_must_check;
void inlay_runlog_reader_close(struct inlay_runlog_reader *r);
enum { INLAY_RUNLOG_NONE = 1 }; /* positive result: nothing new */
/* Appends at most about 64 KiB of whole lines. */
int inlay_runlog_read(struct inlay_runlog_reader *r, struct inlay_buf *b, struct inlay_error *err)
	inlay_must_check;

/* ---- the supervisor ---- */

struct inlay_supervise_options {
	const char *dir;       /* ws/<id>/run/<name> */
	const char *workspace; /* the workspace's path: the working directory of the program */
	int ready_fd;          /* a byte is written when it listens; -1 = none */
};

/* Runs until it is told to stop. */
int inlay_supervise(const struct inlay_supervise_options *o, struct inlay_error *err)
	inlay_must_check;

#endif
