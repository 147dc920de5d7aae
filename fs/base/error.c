/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void born(struct inlay_error *err, int code, const char *file, int line, const char *func)
{
	*err = (struct inlay_error){.code = code, .line = line, .file = file, .func = func};
}

void inlay_error_set_at(struct inlay_error *err, int code, const char *file, int line,
			const char *func, const char *fmt, ...)
{
	int saved = errno;

	if (!err)
		return;
	born(err, code, file, line, func);
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(err->text, sizeof err->text, fmt, ap);
	va_end(ap);
	errno = saved;
}

void inlay_error_sys_at(struct inlay_error *err, int code, const char *file, int line,
			const char *func, const char *fmt, ...)
{
	int saved = errno;

	if (!err)
		return;
	born(err, code, file, line, func);
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof err->text) {
		const char *text = strerrordesc_np(-code);
		(void)snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s",
			       text ? text : "unknown error");
	}
	errno = saved;
}

int inlay_error_prefix(struct inlay_error *err, int code, const char *fmt, ...)
{
	char context[INLAY_ERROR_TEXT];

	if (!err)
		return code;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(context, sizeof context, fmt, ap);
	va_end(ap);
	/* A context that leaves no room is cut, never the cause: the cause is what helps. */
	size_t cause = strnlen(err->text, sizeof err->text - 1);
	size_t room = sizeof err->text - 1 - cause;
	if (room <= 2)
		return code;
	size_t len = strnlen(context, room - 2);
	memmove(err->text + len + 2, err->text, cause);
	memcpy(err->text, context, len);
	memcpy(err->text + len, ": ", 2);
	err->text[len + 2 + cause] = 0;
	return code;
}

int inlay_error_set_exit(struct inlay_error *err, enum inlay_exit exit_code)
{
	if (!err)
		return -EIO;
	err->exit_code = exit_code;
	return err->code;
}

enum inlay_exit inlay_error_exit(const struct inlay_error *err)
{
	if (err->exit_code)
		return (enum inlay_exit)err->exit_code;
	switch (-err->code) {
	case ENOSPC:
	case EDQUOT:
	case E2BIG:
	case EFBIG:
		return INLAY_EXIT_LIMIT;
	case ETIMEDOUT:
		return INLAY_EXIT_TIMEOUT;
	case EWOULDBLOCK:
		return INLAY_EXIT_LOCKED;
	default:
		return INLAY_EXIT_FAILURE;
	}
}
