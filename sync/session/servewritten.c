/* SPDX-License-Identifier: Apache-2.0 */
/* What was written on a target: listed, given back, brought to the client. */
#include "inlay/written.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/io.h"
#include "session/serve.h"

enum {
	SHADOWED_PATHS_BYTES = 4096, /* that status tells */
	PULL_CHUNK = 256 << 10,
};

/* ---- how the workspace is set up ---- */

int serve_configure(struct serve *s, const struct message_config *m, struct inlay_error *err)
{
	struct inlay_workspace_state st;
	int r = 0;

	if (m->upper || m->xattrs || m->owner) {
		inlay_workspace_state(s->ws, &st);
		if (m->upper)
			st.policy.upper = (enum inlay_upper_policy)(m->upper - 1);
		if (m->xattrs)
			st.policy.xattrs = m->xattrs == 2;
		if (m->owner)
			st.policy.keep_owners = m->owner == 2;
		if (m->owner == 2 && geteuid() != 0)
			return inlay_error_set(err, -EPERM,
					       "only root can give synced entries their owners");
		r = inlay_workspace_set_policy(s->ws, &st.policy, err);
	}
	if (r == 0 && m->set_redirects)
		r = inlay_workspace_set_redirects(s->ws, m->redirects.bytes, m->redirects.len, err);
	return r;
}

void serve_written_status(struct inlay_workspace *ws, const struct inlay_workspace_state *st,
			  struct message_status *m, struct inlay_buf *paths,
			  struct inlay_buf *redirects)
{
	auto_of(inlay_upper_list_fini) struct inlay_upper_list list = {0};

	inlay_workspace_redirects(ws, redirects);
	m->config = (struct message_config){
		.upper = (uint8_t)(st->policy.upper + 1),
		.xattrs = st->policy.xattrs ? 2 : 1,
		.owner = st->policy.keep_owners ? 2 : 1,
		.redirects = {(const char *)redirects->data, redirects->len}};
	if (!m->mounted || inlay_workspace_upper(ws, &list, NULL) < 0)
		return;
	m->upper_entries = list.count;
	for (size_t i = 0; i < list.count; i++) {
		const struct inlay_upper_entry *e = &list.entries[i];
		if (!e->shadows)
			continue;
		m->shadowed++;
		if (paths->len + e->path_len + 1 > SHADOWED_PATHS_BYTES)
			continue;
		inlay_buf_add(paths, e->path, e->path_len);
		inlay_buf_u8(paths, 0);
	}
	m->shadowed_paths = (struct message_text){(const char *)paths->data, paths->len};
}

/* ---- the list ---- */

static int upper_row(struct serve *s, const struct inlay_upper_entry *e, struct inlay_error *err)
{
	struct inlay_buf b = {0};
	struct message_upper m = {.kind = e->kind,
				  .shadows = e->shadows,
				  .mode = e->mode,
				  .size = e->size,
				  .mtime_ns = e->mtime_ns,
				  .path = {e->path, e->path_len},
				  .target = {e->target, e->target_len}};

	if (e->shadows) {
		/* A tree that cannot be read is no reason to tell nothing. */
		int r = inlay_workspace_synced(s->ws, e->path, e->path_len, &m.synced, NULL);
		m.has_synced = r == 0;
	}
	message_encode_upper(&b, &m);
	return serve_row(s, &b, err);
}

int serve_upper(struct serve *s, struct inlay_error *err)
{
	auto_of(inlay_upper_list_fini) struct inlay_upper_list list = {0};
	int r = inlay_workspace_upper(s->ws, &list, err);

	for (size_t i = 0; r == 0 && i < list.count; i++)
		r = upper_row(s, &list.entries[i], err);
	return r;
}

/* ---- reset ---- */

int serve_reset(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	struct inlay_buf b = {0};
	struct message_reset row = {0};

	if (m->body.len && memchr(m->body.bytes, 0, m->body.len))
		return inlay_error_set(err, -EINVAL, "a path with a NUL");
	int r = inlay_workspace_reset(s->ws, m->body.bytes, m->body.len, &row.count, err);
	if (r < 0)
		return r;
	message_encode_reset(&b, &row);
	return serve_row(s, &b, err);
}

/* ---- pull ---- */

struct content {
	struct serve *s;
	const struct inlay_upper_entry *e;
	int fd; /* -1: the bytes of an object, or none */
};

static int read_content(const struct content *c, void *buf, size_t len, uint64_t off, size_t *ret_n,
			struct inlay_error *err)
{
	static const struct inlay_digest none;

	*ret_n = 0;
	if (c->fd >= 0)
		return inlay_pread_full(c->fd, buf, len, off, ret_n, "what was written", err);
	if (inlay_digest_equal(&c->e->id, &none) || off >= c->e->size)
		return 0;
	int r = inlay_store_pread(inlay_host_store(c->s->host), &c->e->id, buf, len, off, ret_n,
				  err);
	return r == INLAY_STORE_MISSING ? inlay_error_set(err, -EIO, "its object is missing") : r;
}

static int send_pulled(struct serve *s, const struct message_pulled *m, struct inlay_error *err)
{
	struct inlay_buf b = {0};

	message_encode_pulled(&b, m);
	return serve_row(s, &b, err);
}

/* Failures of the file go into *why; failures of the connection are returned. */
static int send_content(struct serve *s, const struct inlay_upper_entry *e, uint64_t index,
			struct inlay_error *why, struct inlay_error *err)
{
	auto_close int fd = -1;
	auto_free char *buf = malloc(PULL_CHUNK);
	struct message_pulled m = {.step = MESSAGE_PULLED_BEGIN,
				   .index = index,
				   .size = e->size,
				   .mode = e->mode,
				   .mtime_ns = e->mtime_ns};
	struct stat st;
	size_t n;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (e->file && inlay_workspace_upper_open(s->ws, e, &fd, why) < 0)
		return 0;
	if (fd >= 0 && fstat(fd, &st) == 0) {
		m.size = (uint64_t)st.st_size;
		m.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	}
	int r = send_pulled(s, &m, err);
	struct content c = {s, e, fd};
	for (uint64_t off = 0, left = m.size; r == 0 && left > 0; off += n, left -= n) {
		size_t want = left < PULL_CHUNK ? (size_t)left : PULL_CHUNK;
		if (read_content(&c, buf, want, off, &n, why) < 0)
			break;
		if (n == 0) {
			(void)inlay_error_set(why, -EAGAIN, "it became shorter while it was read");
			break;
		}
		r = send_pulled(
			s,
			&(struct message_pulled){.step = MESSAGE_PULLED_BYTES, .bytes = {buf, n}},
			err);
	}
	return r;
}

static const struct inlay_upper_entry *find(const struct inlay_upper_list *list, const char *path)
{
	size_t len = strlen(path);

	for (size_t i = 0; i < list->count; i++)
		if (list->entries[i].kind == INLAY_UPPER_FILE && list->entries[i].path_len == len &&
		    memcmp(list->entries[i].path, path, len) == 0)
			return &list->entries[i];
	return NULL;
}

int serve_pull(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	auto_of(inlay_upper_list_fini) struct inlay_upper_list list = {0};
	const char *paths = m->body.bytes;
	uint64_t index = 0;

	if (m->body.len == 0 || paths[m->body.len - 1] != 0)
		return inlay_error_set(err, -EPROTO, "a bad list of paths");
	int r = inlay_workspace_upper(s->ws, &list, err);
	for (size_t at = 0; r == 0 && at < m->body.len; at += strlen(paths + at) + 1, index++) {
		struct inlay_error why = {0};
		const struct inlay_upper_entry *e = find(&list, paths + at);
		if (e)
			r = send_content(s, e, index, &why, err);
		else
			(void)inlay_error_set(&why, -ENOENT, "it is gone");
		if (r == 0)
			r = send_pulled(
				s,
				&(struct message_pulled){.step = MESSAGE_PULLED_END,
							 .code = why.code,
							 .bytes = message_text_of(why.text)},
				err);
	}
	return r;
}
