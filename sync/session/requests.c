/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked of a host beside changing a workspace: rows, then END. */
#include <errno.h>
#include <stdlib.h>

#include "inlay/io.h"
#include "session/outcomes.h"
#include "session/serve.h"

int serve_row(struct serve *s, struct inlay_buf *b, struct inlay_error *err)
{
	int r = inlay_buf_check(b, err);

	if (r == 0)
		r = serve_send(s, MESSAGE_ROW, b, err);
	inlay_buf_fini(b);
	/* A long answer must not pile up here. */
	return r < 0 ? r : conn_drain(&s->conn, INLAY_FRAME_MAX, 0, err);
}

/* ---- status ---- */

static void list_outcomes(struct inlay_workspace *ws, struct inlay_buf *b)
{
	char path[INLAY_HOST_PATH_MAX + 64];
	auto_close int dirfd = -1;

	if (inlay_workspace_scratch(ws, &dirfd, path, sizeof path, NULL) == 0)
		outcomes_list(dirfd, b);
}

static int status_row(void *ctx, struct inlay_workspace *ws, struct inlay_error *err)
{
	struct serve *s = ctx;
	struct inlay_workspace_state st;
	struct inlay_store_usage usage = {0};
	struct inlay_buf b = {0};

	inlay_workspace_state(ws, &st);
	(void)!inlay_store_usage(inlay_host_store(s->host), &usage, NULL);
	struct message_status m = {.path = message_text_of(st.path),
				   .id = message_text_of(st.id),
				   .live = st.live,
				   .durable = st.durable,
				   .durable_failed = st.durable_failed,
				   .mount_wanted = st.mount_wanted,
				   .mounted = st.mounted,
				   .everybody = st.everybody,
				   .worker_pid = (uint64_t)st.worker_pid,
				   .worker_starts = st.worker_starts,
				   .damaged = st.damaged,
				   .durable_text = message_text_of(st.durable_text),
				   .mount_text = message_text_of(st.mount_text),
				   .owner = message_text_of(st.owner),
				   .owner_since_ns = (uint64_t)st.owner_since_ns,
				   .store_objects = usage.objects,
				   .store_bytes = usage.pack_bytes + usage.loose_bytes};
	auto_buf struct inlay_buf paths = {0}, redirects = {0}, hooks = {0};
	serve_written_status(ws, &st, &m, &paths, &redirects);
	list_outcomes(ws, &hooks);
	m.hooks = (struct message_text){(const char *)hooks.data, hooks.len};
	message_encode_status(&b, &m);
	return serve_row(s, &b, err);
}

static int status(struct serve *s, struct inlay_error *err)
{
	return s->ws ? status_row(s, s->ws, err) : inlay_host_each(s->host, status_row, s, err);
}

/* ---- history ---- */

static int log_rows(struct serve *s, struct inlay_error *err)
{
	auto_free struct inlay_history *h = NULL;
	int r = inlay_workspace_history(s->ws, &h, err);

	for (size_t i = 0; r == 0 && i < h->count; i++) {
		struct inlay_buf b = {0};
		message_encode_generation(&b, &h->gens[i]);
		r = serve_row(s, &b, err);
	}
	return r;
}

/* The generation of that number; 0 = the newest, or the one before `of` when that is given. */
static const struct inlay_generation *pick(const struct inlay_history *h, uint64_t number,
					   const struct inlay_generation *before)
{
	for (size_t i = 0; i < h->count; i++) {
		if (number ? h->gens[i].number == number
			   : !before || h->gens[i].number < before->number)
			return &h->gens[i];
	}
	return NULL;
}

static int no_generation(uint64_t number, struct inlay_error *err)
{
	int r = number ? inlay_error_set(err, -ENOENT,
					 "generation %llu is not in the history (see 'inlay log')",
					 (unsigned long long)number)
		       : inlay_error_set(err, -ENOENT, "there is no generation before this one");

	(void)inlay_error_set_exit(err, INLAY_EXIT_FAILURE);
	return r;
}

static uint8_t type_code(const struct inlay_entry *e)
{
	return !e ? 0 : S_ISREG(e->mode) ? 1 : S_ISDIR(e->mode) ? 2 : 3;
}

static int change_row(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		      const struct inlay_entry *after, struct inlay_error *err)
{
	struct serve *s = ctx;
	struct inlay_buf b = {0};
	struct message_change m = {.before_type = type_code(before),
				   .after_type = type_code(after),
				   .before_size = before ? before->size : 0,
				   .after_size = after ? after->size : 0,
				   .path = {path, len}};
	if (before && after) {
		m.mode = before->mode != after->mode;
		m.mtime = before->mtime_ns != after->mtime_ns;
		m.content = !inlay_entry_is_dir(after) && !inlay_entry_same_content(before, after);
		/* A directory is changed by what is in it, which has its own row. */
		if (inlay_entry_is_dir(before) && inlay_entry_is_dir(after) && !m.mode)
			return 0;
	}
	message_encode_change(&b, &m);
	return serve_row(s, &b, err);
}

static int diff_rows(struct serve *s, const uint64_t args[2], struct inlay_error *err)
{
	auto_free struct inlay_history *h = NULL;
	int r = inlay_workspace_history(s->ws, &h, err);

	if (r < 0)
		return r;
	const struct inlay_generation *to = pick(h, args[1], NULL);
	if (!to)
		return no_generation(args[1], err);
	const struct inlay_generation *from = pick(h, args[0], to);
	if (!from && args[0])
		return no_generation(args[0], err);
	r = inlay_tree_diff(inlay_host_trees(s->host), from ? &from->root.tree : NULL,
			    &to->root.tree, change_row, s, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -ENOENT,
				       "a tree of these generations is missing; run "
				       "'inlay fsck'");
	return r;
}

static int rollback(struct serve *s, uint64_t number, struct inlay_error *err)
{
	auto_free struct inlay_history *h = NULL;
	struct inlay_generation gen;
	struct inlay_idset missing = {0};
	struct inlay_buf b = {0};

	if (!s->locked)
		return inlay_error_set(err, -EPROTO, "a rollback without an OPEN for writing");
	int r = inlay_workspace_history(s->ws, &h, err);
	if (r < 0)
		return r;
	const struct inlay_generation *now = pick(h, 0, NULL);
	const struct inlay_generation *to = pick(h, number, now);
	if (!now || !to)
		return no_generation(number, err);
	struct inlay_commit commit = {.expect = now->root.tree,
				      .root = to->root,
				      .rollback_of = to->number,
				      .origin = s->origin};
	int64_t start = inlay_monotonic_ns();
	r = inlay_workspace_commit(s->ws, &commit, &gen, &missing, err);
	inlay_idset_fini(&missing);
	if (r == INLAY_HOST_INCOMPLETE)
		return inlay_error_set(err, -EBADMSG,
				       "generation %llu is no longer complete; run 'inlay fsck'",
				       (unsigned long long)to->number);
	if (r != 0)
		return r < 0 ? r : inlay_error_set(err, -EAGAIN, "the workspace changed meanwhile");
	s->told_visible = gen.number;
	struct message_visible m = {.number = gen.number,
				    .root = gen.root.tree,
				    .took_ns = (uint64_t)(inlay_monotonic_ns() - start)};
	message_encode_visible(&b, &m);
	return serve_row(s, &b, err);
}

/* ---- trees ---- */

struct tree_rows {
	struct serve *s;
	struct inlay_idset sent;
};

static int tree_row(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		    struct inlay_error *err)
{
	struct tree_rows *t = ctx;
	auto_buf struct inlay_buf object = {0};

	(void)size;
	if (!is_tree)
		return 0;
	int r = inlay_idset_add(&t->sent, id, err);
	if (r != 0)
		return r == INLAY_IDSET_THERE ? INLAY_TREES_NONE : r;
	r = inlay_store_get(inlay_host_store(t->s->host), id, INLAY_TREE_BYTES_MAX, 0, &object,
			    err);
	if (r != 0)
		return r < 0 ? r : INLAY_TREES_NONE;
	for (size_t at = 0; r == 0 && at < object.len;) {
		struct inlay_buf b = {0};
		size_t left = object.len - at,
		       n = left < INLAY_FRAME_MAX / 2 ? left : INLAY_FRAME_MAX / 2;
		inlay_buf_u8(&b, n < left);
		inlay_buf_add(&b, object.data + at, n);
		at += n;
		r = serve_row(t->s, &b, err);
	}
	return r;
}

static int skip_missing(void *ctx, const struct inlay_digest *id, struct inlay_error *err)
{
	(void)ctx;
	(void)id;
	(void)err;
	return 0;
}

static int trees(struct serve *s, struct inlay_error *err)
{
	struct tree_rows t = {.s = s};
	struct inlay_workspace_state st;

	inlay_workspace_state(s->ws, &st);
	if (st.live.number == 0)
		return 0;
	int r = inlay_tree_reach(inlay_host_trees(s->host), &st.live.root.tree, tree_row,
				 skip_missing, &t, err);
	inlay_idset_fini(&t.sent);
	return r;
}

/* ---- signatures ---- */

struct signing {
	struct serve *s;
	const struct inlay_digest *id;
	struct inlay_buf row;
};

static int read_object(void *ctx, void *buf, size_t len, uint64_t off, size_t *ret_n,
		       struct inlay_error *err)
{
	struct signing *g = ctx;
	int r = inlay_store_pread(inlay_host_store(g->s->host), g->id, buf, len, off, ret_n, err);

	return r > 0 ? inlay_error_set(err, -EIO, "an object went while it was read") : r;
}

static int end_row(struct signing *g, uint8_t what, struct inlay_error *err)
{
	if (g->row.len == 0)
		inlay_buf_u8(&g->row, what);
	int r = inlay_buf_check(&g->row, err);
	if (r == 0) {
		g->row.data[0] = what;
		r = conn_send(&g->s->conn, MESSAGE_ROW, g->row.data, g->row.len, err);
	}
	inlay_buf_clear(&g->row);
	/* A signature can be large; the client reads while it waits for it. */
	return r == 0 ? conn_drain(&g->s->conn, INLAY_FRAME_MAX, 0, err) : r;
}

static int write_signature(void *ctx, const void *bytes, size_t len, struct inlay_error *err)
{
	struct signing *g = ctx;

	if (g->row.len == 0)
		inlay_buf_u8(&g->row, 0);
	inlay_buf_add(&g->row, bytes, len);
	return g->row.len > INLAY_FRAME_MAX / 2 ? end_row(g, 1, err) : 0;
}

static int signatures(struct serve *s, struct message_text body, struct inlay_error *err)
{
	struct signing g = {.s = s};
	struct inlay_digest id;
	int r = body.len % INLAY_DIGEST_BYTES ? inlay_error_set(err, -EPROTO, "bad ids") : 0;

	for (size_t at = 0; r == 0 && at < body.len; at += INLAY_DIGEST_BYTES) {
		uint64_t size;
		memcpy(id.b, body.bytes + at, INLAY_DIGEST_BYTES);
		g.id = &id;
		int known = inlay_store_stat(inlay_host_store(s->host), &id, &size);
		if (known == 0)
			r = rdiff_signature(size, read_object, write_signature, &g, err);
		/* A damaged object is none; what was sent of its signature is not one either. */
		if (r == 0 || r == -EBADMSG)
			r = end_row(&g, known == 0 && r == 0 ? 0 : 2, err);
	}
	inlay_buf_fini(&g.row);
	return r;
}

/* ---- mount, fsck, gc ---- */

static int do_mount(struct serve *s, uint8_t flags, struct inlay_error *err)
{
	int r = inlay_workspace_mount(s->ws, flags & MESSAGE_OPEN_BOOT ? INLAY_MOUNT_BOOT : 0, err);

	if (r == INLAY_HOST_MISSING)
		return inlay_error_set(err, -ENOENT, "nothing was synced there yet");
	return r;
}

struct finding {
	struct serve *s;
	struct inlay_error err;
	int result;
};

static void send_finding(struct finding *f, const struct message_finding *m)
{
	struct inlay_buf b = {0};

	if (f->result < 0)
		return;
	message_encode_finding(&b, m);
	f->result = serve_row(f->s, &b, &f->err);
}

static void on_found(void *ctx, const char *what)
{
	send_finding(ctx, &(struct message_finding){.text = message_text_of(what)});
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
	send_finding(ctx,
		     &(struct message_finding){.progress = true, .done = done, .total = total});
}

static int fsck(struct serve *s, struct inlay_error *err)
{
	struct finding f = {.s = s};
	uint64_t bad;
	int r = inlay_host_fsck(s->host, on_found, on_progress, &f, &bad, err);

	if (r == 0 && f.result < 0) {
		*err = f.err;
		r = f.result;
	}
	return r;
}

static int gc(struct serve *s, uint64_t grace_ns, struct inlay_error *err)
{
	struct inlay_store_sweep sweep;
	struct inlay_buf b = {0};
	int r = inlay_host_gc(s->host, (int64_t)(grace_ns & INT64_MAX), &sweep, err);

	if (r < 0)
		return r;
	struct message_gc m = {sweep.removed, sweep.removed_bytes, sweep.freed_bytes, sweep.young};
	message_encode_gc(&b, &m);
	return serve_row(s, &b, err);
}

static void on_check(void *ctx, const struct inlay_check *c)
{
	struct finding *f = ctx;
	struct inlay_buf b = {0};
	const struct message_check m = {.level = (uint8_t)c->level,
					.fixed = c->fixed,
					.name = message_text_of(c->name),
					.text = message_text_of(c->text),
					.cure = message_text_of(c->cure)};

	if (f->result < 0)
		return;
	message_encode_check(&b, &m);
	f->result = serve_row(f->s, &b, &f->err);
}

static int doctor(struct serve *s, const uint64_t args[2], struct inlay_error *err)
{
	struct finding f = {.s = s};
	int r = inlay_host_checkup(s->host, (int64_t)(args[0] & INT64_MAX), args[1] == 1, on_check,
				   &f, err);

	if (r == 0 && f.result < 0) {
		*err = f.err;
		r = f.result;
	}
	return r;
}

static int carry_out(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	switch (m->verb) {
	case MESSAGE_VERB_STATUS:
		return status(s, err);
	case MESSAGE_VERB_FSCK:
		return fsck(s, err);
	case MESSAGE_VERB_GC:
		return gc(s, m->args[0], err);
	case MESSAGE_VERB_DOCTOR:
		return doctor(s, m->args, err);
	case MESSAGE_VERB_IMAGES:
	case MESSAGE_VERB_IMAGE_INSPECT:
	case MESSAGE_VERB_IMAGE_REMOVE:
	case MESSAGE_VERB_IMAGE_PUSH:
	case MESSAGE_VERB_IMAGE_SPACE:
	case MESSAGE_VERB_IMAGE_FINISH:
		return serve_image(s, m, err);
	default:
		break;
	}
	if (!s->ws)
		return inlay_error_set(err, -EPROTO, "a request without an OPEN");
	switch (m->verb) {
	case MESSAGE_VERB_LOG:
		return log_rows(s, err);
	case MESSAGE_VERB_DIFF:
		return diff_rows(s, m->args, err);
	case MESSAGE_VERB_ROLLBACK:
		return rollback(s, m->args[0], err);
	case MESSAGE_VERB_MOUNT:
		return do_mount(s, m->flags, err);
	case MESSAGE_VERB_UMOUNT:
		return inlay_workspace_umount(s->ws, m->args[0] == 1, err);
	case MESSAGE_VERB_TREES:
		return trees(s, err);
	case MESSAGE_VERB_SIGNATURES:
		return signatures(s, m->body, err);
	case MESSAGE_VERB_REMOVE:
		return inlay_workspace_remove(s->ws, err);
	case MESSAGE_VERB_RUN:
		return serve_program_run(s, m, err);
	case MESSAGE_VERB_PROGRAM:
		return serve_program(s, m, err);
	case MESSAGE_VERB_PROGRAMS:
		return serve_program_list(s, err);
	case MESSAGE_VERB_LOGS:
		return serve_program_logs(s, m, err);
	case MESSAGE_VERB_HOOK:
		return serve_hook(s, m, err);
	case MESSAGE_VERB_UPPER:
		return serve_upper(s, err);
	case MESSAGE_VERB_RESET:
		return serve_reset(s, m, err);
	case MESSAGE_VERB_ROOT:
		if (m->args[0] == 1)
			return inlay_workspace_clear_root(s->ws, err);
		return m->body.len
			       ? inlay_workspace_set_root(s->ws, m->body.bytes, m->body.len, err)
			       : inlay_workspace_rollback_root(s->ws, err);
	case MESSAGE_VERB_PULL:
		return serve_pull(s, m, err);
	default:
		return inlay_error_set(err, -EOPNOTSUPP,
				       "this host's inlay does not know request %u", m->verb);
	}
}

int serve_request(struct serve *s, const struct frame *f, struct inlay_error *err)
{
	struct message_request m;
	struct inlay_error cause = {0};
	struct inlay_buf none = {0};
	int r = message_decode_request(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	r = carry_out(s, &m, &cause);
	if (r == -EPROTO || r == -EPIPE || r == -ECONNRESET) {
		*err = cause;
		return r;
	}
	if (r < 0)
		return serve_failed(s, MESSAGE_REASON_OTHER, &cause, err);
	return serve_send(s, MESSAGE_END, &none, err);
}
