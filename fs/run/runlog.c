/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program's last lines in two files of bounded size: when `log` is full it becomes `log.1`, over the
 * one before. A batch of lines is one write(), so that a program which logs much costs little, and a
 * reader never sees a line that is cut.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "inlay/io.h"
#include "inlay/run.h"
#include "inlay/text.h"

enum { READ_BYTES = 64 << 10 };

static int open_log(struct inlay_runlog *log, struct inlay_error *err)
{
	struct stat st;

	log->fd = openat(log->dirfd, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW,
			 0600);
	if (log->fd < 0 || fstat(log->fd, &st) < 0)
		return inlay_error_sys(err, -errno, "open the program's log");
	log->bytes = (uint64_t)st.st_size;
	return 0;
}

int inlay_runlog_open(int dirfd, struct inlay_runlog *ret, struct inlay_error *err)
{
	*ret = (struct inlay_runlog){.dirfd = dirfd, .fd = -1};
	return open_log(ret, err);
}

void inlay_runlog_close(struct inlay_runlog *log)
{
	inlay_cleanup_close(&log->fd);
	inlay_buf_fini(&log->line[0]);
	inlay_buf_fini(&log->line[1]);
}

/* A log that cannot be written (the disk is full) must not stop the program: lines are lost then. */
static void write_lines(struct inlay_runlog *log, const struct inlay_buf *b)
{
	if (b->failed || b->len == 0)
		return;
	if (log->bytes > 0 && log->bytes + b->len > INLAY_RUN_LOG_BYTES) {
		inlay_cleanup_close(&log->fd);
		(void)renameat(log->dirfd, "log", log->dirfd, "log.1");
		if (open_log(log, NULL) < 0)
			return;
	}
	if (log->fd >= 0 && inlay_write_all(log->fd, b->data, b->len, "log", NULL) == 0)
		log->bytes += b->len;
}

static void put_line(struct inlay_buf *b, const char *stamp, size_t stamp_len, char stream,
		     const void *text, size_t len)
{
	inlay_buf_add(b, stamp, stamp_len);
	inlay_buf_u8(b, ' ');
	inlay_buf_u8(b, (uint8_t)stream);
	inlay_buf_u8(b, ' ');
	inlay_buf_add(b, text, len);
	inlay_buf_u8(b, '\n');
}

static struct inlay_buf *rest_of(struct inlay_runlog *log, char stream)
{
	return &log->line[stream == 'e'];
}

void inlay_runlog_add(struct inlay_runlog *log, char stream, const void *bytes, size_t len)
{
	auto_buf struct inlay_buf out = {0};
	auto_buf struct inlay_buf stamp = {0};
	struct inlay_buf *rest = rest_of(log, stream);
	const char *at = bytes, *end = at + len;

	/* One time for all lines of a batch. */
	inlay_text_time(&stamp, inlay_now_ns());
	while (at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		size_t n = (size_t)((newline ? newline : end) - at);
		if (rest->len + n > INLAY_RUN_LINE_MAX) {
			n = INLAY_RUN_LINE_MAX - rest->len;
			newline = NULL;
		}
		inlay_buf_add(rest, at, n);
		at += n + (newline ? 1 : 0);
		if (!newline && rest->len < INLAY_RUN_LINE_MAX)
			break;
		put_line(&out, (const char *)stamp.data, stamp.len, stream, rest->data, rest->len);
		inlay_buf_clear(rest);
	}
	write_lines(log, &out);
}

void inlay_runlog_end(struct inlay_runlog *log, char stream)
{
	if (rest_of(log, stream)->len > 0)
		inlay_runlog_add(log, stream, "\n", 1);
}

void inlay_runlog_note(struct inlay_runlog *log, const char *fmt, ...)
{
	auto_buf struct inlay_buf out = {0};
	auto_buf struct inlay_buf stamp = {0};
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	inlay_text_time(&stamp, inlay_now_ns());
	put_line(&out, (const char *)stamp.data, stamp.len, '-', text, strlen(text));
	write_lines(log, &out);
}

/* ---- reading ---- */

/* The place of the last `lines` lines of a file; *ret_found tells how many there are behind it. */
static int seek_lines(int fd, uint64_t lines, uint64_t *ret_off, uint64_t *ret_found,
		      struct inlay_error *err)
{
	auto_free char *buf = malloc(READ_BYTES);
	struct stat st;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (fstat(fd, &st) < 0)
		return inlay_error_sys(err, -errno, "look at a log");
	uint64_t at = (uint64_t)st.st_size, found = 0;
	while (at > 0) {
		size_t n = at < READ_BYTES ? (size_t)at : READ_BYTES, got;
		int r = inlay_pread_full(fd, buf, n, at - n, &got, "a log", err);
		if (r < 0)
			return r;
		for (size_t i = got; i > 0; i--) {
			/* A newline ends a line; the one before the first wanted line is the place. */
			if (buf[i - 1] != '\n')
				continue;
			if (found == lines) {
				*ret_off = at - n + i;
				*ret_found = found;
				return 0;
			}
			found++;
		}
		at -= n;
	}
	*ret_off = 0;
	*ret_found = found;
	return 0;
}

static int open_to_read(int dirfd, const char *name)
{
	return openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

int inlay_runlog_reader_open(int dirfd, uint64_t lines, struct inlay_runlog_reader *ret,
			     struct inlay_error *err)
{
	struct inlay_runlog_reader r = {.dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 3)};
	uint64_t found = 0;
	int result = 0;

	if (r.dirfd < 0)
		return inlay_error_sys(err, -errno, "open a log");
	r.fd = open_to_read(r.dirfd, "log");
	if (r.fd >= 0)
		result = seek_lines(r.fd, lines, &r.off, &found, err);
	if (result == 0 && found < lines) {
		int old = open_to_read(r.dirfd, "log.1");
		if (old >= 0) {
			inlay_cleanup_close(&r.fd);
			r.fd = old;
			r.old = true;
			result = seek_lines(old, lines - found, &r.off, &found, err);
		}
	}
	if (result < 0)
		inlay_runlog_reader_close(&r);
	else
		*ret = r;
	return result;
}

void inlay_runlog_reader_close(struct inlay_runlog_reader *r)
{
	inlay_cleanup_close(&r->fd);
	inlay_cleanup_close(&r->dirfd);
	r->fd = r->dirfd = -1;
}

/* Opens `log` when it is another file than the one at hand; -1 when it is not. */
static int open_younger(const struct inlay_runlog_reader *r)
{
	struct stat now, mine;
	int fd = open_to_read(r->dirfd, "log");

	if (fd >= 0 && r->fd >= 0 && fstat(fd, &now) == 0 && fstat(r->fd, &mine) == 0 &&
	    now.st_ino == mine.st_ino && now.st_dev == mine.st_dev) {
		(void)close(fd);
		fd = -1;
	}
	return fd;
}

/* Whole lines from the file at hand. Lines are written whole, and none is longer than a read. */
static int read_lines(struct inlay_runlog_reader *r, struct inlay_buf *b, struct inlay_error *err)
{
	uint8_t *room = inlay_buf_reserve(b, READ_BYTES);
	size_t n = 0;

	if (!room)
		return inlay_buf_check(b, err);
	if (r->fd < 0)
		return INLAY_RUNLOG_NONE;
	int e = inlay_pread_full(r->fd, room, READ_BYTES, r->off, &n, "a log", err);
	if (e < 0)
		return e;
	const uint8_t *last = n ? memrchr(room, '\n', n) : NULL;
	if (!last)
		return INLAY_RUNLOG_NONE;
	n = (size_t)(last - room) + 1;
	b->len += n;
	r->off += n;
	return 0;
}

int inlay_runlog_read(struct inlay_runlog_reader *r, struct inlay_buf *b, struct inlay_error *err)
{
	for (;;) {
		int e = read_lines(r, b, err);
		if (e != INLAY_RUNLOG_NONE)
			return e;
		int younger = open_younger(r);
		if (younger < 0)
			return INLAY_RUNLOG_NONE;
		/* Once there is a younger file, the old one does not grow any more: this is its end. */
		e = read_lines(r, b, err);
		if (e != INLAY_RUNLOG_NONE) {
			(void)close(younger);
			return e;
		}
		inlay_cleanup_close(&r->fd);
		r->fd = younger;
		r->off = 0;
		r->old = false;
	}
}
