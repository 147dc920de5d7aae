/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_ERROR_H
#define INLAY_ERROR_H

/*
 * The one way in which a function of inlay fails.
 *
 *     int f(..., T *ret_x, struct inlay_error *err)
 *
 *   0    done; every ret_* is set, *err is untouched.
 *   > 0  a condition that the header of f names (INLAY_STORE_MISSING, ...). The caller handles it
 *        and never forwards it. Neither ret_* nor *err are touched unless the header says so.
 *   < 0  a negative errno: this operation failed. Forwarded unchanged; *err says where and why.
 *
 * Beside the system's codes these have a fixed meaning of our own:
 *   -EBADMSG    bytes at rest are damaged or are not what their digest says
 *   -EPROTO     the peer broke the protocol
 *   -EREMOTEIO  the peer failed and said why; its text is kept
 *   -ESTALE     the basis of a change is no longer the current one
 *   -E2BIG      a named limit (limits.h) was exceeded; nothing was clamped
 *
 * struct inlay_error has no heap parts, so that it works when memory is out and in any thread.
 * `err` may be NULL everywhere. Text that came from a peer is escaped where it is printed, not
 * here.
 */

enum {
	INLAY_ERROR_TEXT = 1024 - 40,
};

/*
 * How a program of inlay ends; the exit codes of the command line and of the protocol's ERROR
 * frame.
 */
enum inlay_exit {
	INLAY_EXIT_OK = 0,
	INLAY_EXIT_FAILURE = 1,
	INLAY_EXIT_USAGE = 2,
	INLAY_EXIT_SOME_HOSTS = 3, /* some hosts failed, others did not */
	INLAY_EXIT_HALT = 4,       /* a safety halt or a conflict: nothing was changed */
	INLAY_EXIT_CONNECT = 5,    /* no connection, no authentication, wrong host key */
	INLAY_EXIT_LOCKED = 6,     /* somebody else holds the lock */
	INLAY_EXIT_LIMIT = 7,      /* disk full or a limit reached */
	INLAY_EXIT_TIMEOUT = 124,
};

struct inlay_error {
	int code;                    /* negative errno, 0 when unset */
	int exit_code;               /* enum inlay_exit; 0 = derived from code (inlay_error_exit) */
	int line;                    /* where the error was born */
	const char *file;            /* static string, borrowed */
	const char *func;            /* static string, borrowed */
	char text[INLAY_ERROR_TEXT]; /* what, where, why; one line, no newline at the end */
};

#define inlay_must_check        __attribute__((warn_unused_result))
#define inlay_printf(fmt, args) __attribute__((format(printf, fmt, args)))

/* Sets *err (when not NULL) and gives `code`, which must be negative. errno is kept. */
#define inlay_error_set(err, code, ...)                                                      \
	({                                                                                   \
		int code_ = (code);                                                          \
		inlay_error_set_at((err), code_, __FILE__, __LINE__, __func__, __VA_ARGS__); \
		code_;                                                                       \
	})
void inlay_error_set_at(struct inlay_error *err, int code, const char *file, int line,
			const char *func, const char *fmt, ...) inlay_printf(6, 7);

/* The same, with ": " and the text of errno value -code at the end. */
#define inlay_error_sys(err, code, ...)                                                      \
	({                                                                                   \
		int code_ = (code);                                                          \
		inlay_error_sys_at((err), code_, __FILE__, __LINE__, __func__, __VA_ARGS__); \
		code_;                                                                       \
	})
void inlay_error_sys_at(struct inlay_error *err, int code, const char *file, int line,
			const char *func, const char *fmt, ...) inlay_printf(6, 7);

/*
 * Puts "context: " before the text; done at the borders of modules while the error goes up. Returns
 * `code` unchanged.
 */
int inlay_error_prefix(struct inlay_error *err, int code, const char *fmt, ...) inlay_printf(3, 4);

/* Fixes how the program shall end because of this error. Returns err->code (or -EIO without err).
 */
int inlay_error_set_exit(struct inlay_error *err, enum inlay_exit exit_code);

/* The exit code that belongs to the error: the fixed one, or ENOSPC, EDQUOT, E2BIG, EFBIG -> LIMIT,
 * ETIMEDOUT -> TIMEOUT, EWOULDBLOCK -> LOCKED, everything else -> FAILURE. */
enum inlay_exit inlay_error_exit(const struct inlay_error *err);

#endif
