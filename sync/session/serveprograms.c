/* SPDX-License-Identifier: Apache-2.0 */
/* Requests about the programs of a workspace (run.h). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>

#include "inlay/io.h"
#include "session/serve.h"

enum { FOLLOWED_MAX = 256 }; /* programs whose logs one request reads */

static int status_row(void *ctx, const struct inlay_run_status *status, struct inlay_error *err)
{
	struct inlay_buf b = {0};
	struct message_program m = {.name = message_text_of(status->name),
				    .state = (uint8_t)status->state,
				    .pid = (uint64_t)status->pid,
				    .ended = status->ended,
				    .starts = status->starts,
				    .since_ns = status->since_ns,
				    .next_ns = status->next_ns};

	message_encode_program(&b, &m);
	return serve_row(ctx, &b, err);
}

int serve_program_list(struct serve *s, struct inlay_error *err)
{
	return inlay_workspace_programs(s->ws, status_row, s, err);
}

int serve_program_run(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	struct inlay_buf b = {0};
	bool kept;
	int r = inlay_workspace_run(s->ws, m->body.bytes, m->body.len, m->flags & 1, &kept, err);

	if (r < 0)
		return r;
	inlay_buf_u8(&b, kept);
	return serve_row(s, &b, err);
}

static int copy_name(struct message_text t, char ret[static INLAY_RUN_NAME_MAX + 1],
		     struct inlay_error *err)
{
	if (!inlay_run_name_valid(t.bytes, t.len))
		return inlay_error_set(err, -EINVAL, "that is no program's name");
	memcpy(ret, t.bytes, t.len);
	ret[t.len] = 0;
	return 0;
}

int serve_program(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	char name[INLAY_RUN_NAME_MAX + 1];
	struct inlay_run_status status;
	int r = copy_name(m->body, name, err);

	if (r == 0 && (m->args[0] < INLAY_PROGRAM_STOP || m->args[0] > INLAY_PROGRAM_FORGET ||
		       m->args[1] > 64))
		return inlay_error_set(err, -EPROTO, "a bad request about a program");
	if (r == 0)
		r = inlay_workspace_program(s->ws, name, (enum inlay_program_verb)m->args[0],
					    (int)m->args[1], &status, err);
	return r < 0 ? r : status_row(s, &status, err);
}

/* ---- logs ---- */

struct followed {
	char name[INLAY_RUN_NAME_MAX + 1];
	struct inlay_runlog_reader reader;
};

struct logs {
	struct serve *s;
	struct followed *list;
	size_t count;
	uint64_t lines;
	int inotify_fd; /* -1 = they are not followed */
};

static int add_log(struct logs *l, const char *name, struct inlay_error *err)
{
	struct followed *f = &l->list[l->count];
	char path[64];

	if (l->count == FOLLOWED_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d programs", FOLLOWED_MAX);
	int r = inlay_workspace_program_log(l->s->ws, name, l->lines, &f->reader, err);
	if (r < 0)
		return r;
	(void)snprintf(f->name, sizeof f->name, "%s", name);
	l->count++;
	if (l->inotify_fd < 0)
		return 0;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", f->reader.dirfd);
	if (inotify_add_watch(l->inotify_fd, path, IN_MODIFY | IN_CREATE | IN_MOVED_FROM) < 0)
		return inlay_error_sys(err, -errno, "follow the log of %s", name);
	return 0;
}

static int add_listed(void *ctx, const struct inlay_run_status *status, struct inlay_error *err)
{
	return add_log(ctx, status->name, err);
}

static int send_new(struct logs *l, struct followed *f, struct inlay_error *err)
{
	auto_buf struct inlay_buf lines = {0};
	int r = 0;

	while (r == 0 && !l->s->conn.ended) {
		struct inlay_buf b = {0};
		inlay_buf_clear(&lines);
		r = inlay_runlog_read(&f->reader, &lines, err);
		if (r != 0)
			break;
		struct message_log m = {message_text_of(f->name),
					{(const char *)lines.data, lines.len}};
		message_encode_log(&b, &m);
		r = serve_row(l->s, &b, err);
	}
	return r == INLAY_RUNLOG_NONE ? 0 : r;
}

/* Until the peer says anything, or goes. */
static int follow(struct logs *l, struct inlay_error *err)
{
	_Alignas(struct inotify_event) char events[4096];
	int r = 1;

	while (r >= 0 && !l->s->conn.ended && l->s->conn.in.len == l->s->conn.in_at) {
		r = conn_wait(&l->s->conn, l->inotify_fd, 0, err);
		if (r == 1)
			(void)!read(l->inotify_fd, events, sizeof events);
		for (size_t i = 0; r >= 0 && i < l->count; i++) {
			int sent = send_new(l, &l->list[i], err);
			r = sent < 0 ? sent : r;
		}
	}
	return r < 0 ? r : 0;
}

int serve_program_logs(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	char name[INLAY_RUN_NAME_MAX + 1];
	auto_free struct followed *list = calloc(FOLLOWED_MAX, sizeof *list);
	auto_close int inotify_fd = m->flags & 1 ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1;
	struct logs l = {.s = s, .list = list, .lines = m->args[0], .inotify_fd = inotify_fd};
	int r = 0;

	if (!list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (m->flags & 1 && inotify_fd < 0)
		return inlay_error_sys(err, -errno, "follow logs");
	if (m->body.len > 0) {
		r = copy_name(m->body, name, err);
		if (r == 0)
			r = add_log(&l, name, err);
	} else {
		r = inlay_workspace_programs(s->ws, add_listed, &l, err);
	}
	for (size_t i = 0; r == 0 && i < l.count; i++)
		r = send_new(&l, &l.list[i], err);
	if (r == 0 && m->flags & 1)
		r = follow(&l, err);
	for (size_t i = 0; i < l.count; i++)
		inlay_runlog_reader_close(&l.list[i].reader);
	return r;
}
