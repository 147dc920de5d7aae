/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that listens to the keeper. It is the only one that shows another generation and the only
 * one that notifies the kernel, and it holds no lock while it does: a notification from a handler, or
 * under a lock that a handler takes, blocks for good (the kernel waits for the handler's answer while it
 * holds the directory).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "mount/worker.h"

enum { DURABLE_WAIT_S = 20 };

static void tell_kernel(struct worker *w, const struct view_notes *notes)
{
	for (size_t i = 0; i < notes->count; i++) {
		const struct view_note *n = &notes->notes[i];
		const char *name = (const char *)notes->names.data + n->name;
		/* -ENOENT is the usual answer for what the kernel does not hold. */
		switch (n->kind) {
		case VIEW_NOTE_NAME:
			(void)fuse_lowlevel_notify_inval_entry(w->session, n->number, name,
							       n->name_len);
			break;
		case VIEW_NOTE_GONE:
			/* Who watches the file itself hears of its end. A name that the kernel holds
			 * for another node ends too, before -ENOENT is said. */
			(void)fuse_lowlevel_notify_delete(w->session, n->number, n->child, name,
							  n->name_len);
			break;
		case VIEW_NOTE_ATTR:
			(void)fuse_lowlevel_notify_inval_inode(w->session, n->number, -1, 0);
			break;
		case VIEW_NOTE_LIST:
			(void)fuse_lowlevel_notify_inval_inode(w->session, n->number, 0, 0);
			break;
		}
	}
}

static int send_msg(struct worker *w, struct worker_msg *m, const int *fds, size_t count)
{
	m->version = WORKER_VERSION;
	scope_lock(&w->lock);
	if (w->conn < 0)
		return -ENOTCONN;
	return inlay_unix_send(w->conn, m, sizeof *m, fds, count, NULL);
}

void worker_report_damage(struct worker *w, const struct inlay_digest *id)
{
	struct worker_msg m = {.version = WORKER_VERSION, .type = WORKER_DAMAGED, .id = *id};

	scope_lock(&w->lock);
	/* A keeper that does not read must not stop a reader; it hears of the object another time. */
	if (w->conn >= 0)
		(void)send(w->conn, &m, sizeof m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void worker_tell_replayed(struct worker *w, uint64_t number)
{
	struct worker_msg m = {.version = WORKER_VERSION, .type = WORKER_REPLAYED, .count = number};

	scope_lock(&w->lock);
	/* One that is lost is made up for by the next. */
	if (w->conn >= 0)
		(void)send(w->conn, &m, sizeof m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void fail(struct worker_msg *m, int r, const struct inlay_error *err)
{
	m->result = r;
	(void)snprintf(m->text, sizeof m->text, "%.*s", (int)sizeof m->text - 1, err->text);
}

static void show(struct worker *w, struct worker_msg *m, struct view_notes *notes)
{
	struct inlay_generation gen = m->gen, before;
	struct inlay_error err = {0};
	int64_t start = inlay_monotonic_ns();

	view_generation(w->view, &before);
	int r = view_switch(w->view, &gen, notes, &err);
	m->type = WORKER_SHOWN;
	if (r < 0) {
		fail(m, r, &err);
	} else {
		control_switched(w->control, &before.root.tree);
		tell_kernel(w, notes);
		replay_switched(&w->replay, notes);
		m->count = notes->count;
		m->took_ns = inlay_monotonic_ns() - start;
		worker_count(&w->stats.switches, 1);
		worker_count(&w->stats.notes, notes->count);
	}
	scope_lock(&w->lock);
	if (r == 0) {
		w->shown = true;
		(void)pthread_cond_broadcast(&w->shown_cond);
	}
}

int worker_wait_durable(struct worker *w)
{
	struct inlay_generation gen;
	struct timespec until;
	int r = 0;

	view_generation(w->view, &gen);
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DURABLE_WAIT_S;
	scope_lock(&w->lock);
	while (w->durable < gen.number && r == 0)
		r = pthread_cond_timedwait(&w->durable_cond, &w->lock, &until);
	return w->durable < gen.number ? -EIO : 0;
}

static void durable(struct worker *w, uint64_t number)
{
	control_durable(w->control, number);
	scope_lock(&w->lock);
	if (number > w->durable)
		w->durable = number;
	(void)pthread_cond_broadcast(&w->durable_cond);
}

static void reset(struct worker *w, struct worker_msg *m, int fd)
{
	struct view_notes notes = {0};
	struct inlay_error err = {0};
	auto_buf struct inlay_buf path = {0};
	size_t n = 0;
	int r = m->count <= INLAY_PATH_MAX
			? 0
			: inlay_error_set(&err, -ENAMETOOLONG, "the path is too long");

	uint8_t *room = r == 0 ? inlay_buf_reserve(&path, m->count + 1) : NULL;
	if (r == 0 && !room)
		r = inlay_buf_check(&path, &err);
	if (r == 0)
		r = inlay_pread_full(fd, room, m->count, 0, &n, "the path", &err);
	if (r == 0 && n != m->count)
		r = inlay_error_set(&err, -EPROTO, "the path is cut");
	if (r == 0)
		r = view_reset(w->view, (const char *)room, n, &notes, &err);
	if (r < 0)
		fail(m, r, &err);
	/* Also after a failure half-way: what went is not to be remembered. */
	tell_kernel(w, &notes);
	m->count = notes.count;
	view_notes_fini(&notes);
	(void)send_msg(w, m, NULL, 0);
}

static void send_upper(struct worker *w, struct worker_msg *m)
{
	auto_buf struct inlay_buf out = {0};
	struct inlay_error err = {0};
	auto_close int fd = memfd_create("inlay-upper", MFD_CLOEXEC);
	int r = fd < 0 ? inlay_error_sys(&err, -errno, "list the upper")
		       : view_report_upper(w->view, w->trees, &out, &m->count, &err);

	if (r == 0)
		r = inlay_write_all(fd, out.data, out.len, "the upper's list", &err);
	if (r < 0)
		fail(m, r, &err);
	(void)send_msg(w, m, &fd, r == 0);
}

struct pin_list {
	struct inlay_buf buf;
	uint64_t count;
};

static int add_pin(void *ctx, const struct inlay_digest *id, bool is_tree)
{
	struct pin_list *list = ctx;
	struct worker_pin pin = {*id, is_tree};

	inlay_buf_add(&list->buf, &pin, sizeof pin);
	list->count++;
	return 0;
}

static void send_pins(struct worker *w, struct worker_msg *m)
{
	struct pin_list list = {0};
	struct inlay_error err = {0};
	auto_close int fd = memfd_create("inlay-pins", MFD_CLOEXEC);

	(void)view_pins(w->view, add_pin, &list);
	int r = fd < 0 ? -errno : inlay_buf_check(&list.buf, &err);
	if (r == 0)
		r = inlay_write_all(fd, list.buf.data, list.buf.len, "pins", &err);
	if (r < 0)
		fail(m, r, &err);
	m->count = list.count;
	inlay_buf_fini(&list.buf);
	(void)send_msg(w, m, &fd, r == 0);
}

static void send_stats(struct worker *w, struct worker_msg *m)
{
	struct view_usage u;

	view_usage(w->view, &u);
	m->stats = (struct worker_stats){.requests = worker_counted(&w->stats.requests),
					 .reads = worker_counted(&w->stats.reads),
					 .read_bytes = worker_counted(&w->stats.read_bytes),
					 .nodes = u.nodes,
					 .dents = u.dents,
					 .table_bytes = u.table_bytes,
					 .errors = worker_counted(&w->stats.errors),
					 .switches = worker_counted(&w->stats.switches),
					 .notes = worker_counted(&w->stats.notes)};
	(void)send_msg(w, m, NULL, 0);
}

static void answer(struct worker *w, struct worker_msg *m, int fd)
{
	struct view_notes notes = {0};
	uint64_t number = m->gen.number;

	m->result = 0;
	switch (m->type) {
	case WORKER_SHOW:
		show(w, m, &notes);
		(void)send_msg(w, m, NULL, 0);
		if (m->result == 0)
			replay_shown(&w->replay, &notes, number);
		view_notes_fini(&notes);
		break;
	case WORKER_DURABLE:
		durable(w, m->gen.number);
		break;
	case WORKER_STATS:
		send_stats(w, m);
		break;
	case WORKER_PINS:
		send_pins(w, m);
		break;
	case WORKER_UPPER:
		send_upper(w, m);
		break;
	case WORKER_RESET:
		reset(w, m, fd);
		break;
	default:
		m->result = -EOPNOTSUPP;
		(void)send_msg(w, m, NULL, 0);
	}
}

/* A new keeper takes the place of the old one. */
static void welcome(struct worker *w)
{
	int fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct worker_msg m = {.type = WORKER_HELLO, .pid = getpid()};

	if (fd < 0)
		return;
	view_generation(w->view, &m.gen);
	{
		scope_lock(&w->lock);
		inlay_cleanup_close(&w->conn);
		w->conn = fd;
	}
	(void)send_msg(w, &m, &w->fuse_fd, 1);
}

static void part(struct worker *w)
{
	scope_lock(&w->lock);
	inlay_cleanup_close(&w->conn);
	w->conn = -1;
	/* Without a generation to show, a mount without a keeper is of no use to anybody. */
	if (!w->shown) {
		w->shown = w->gone = true;
		(void)pthread_cond_broadcast(&w->shown_cond);
	}
}

void *worker_listen(void *arg)
{
	struct worker *w = arg;

	for (;;) {
		struct pollfd fds[2] = {{.fd = w->listen_fd, .events = POLLIN},
					{.fd = w->conn, .events = POLLIN}};
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[0].revents)
			welcome(w);
		if (!fds[1].revents || fds[1].fd != w->conn)
			continue;
		struct worker_msg m;
		int got[INLAY_UNIX_FDS];
		size_t n;
		int r = inlay_unix_recv(w->conn, &m, sizeof m, &n, got, NULL);
		if (r < 0 || n != sizeof m || m.version != WORKER_VERSION)
			part(w);
		else
			answer(w, &m, got[0]);
		for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
			inlay_cleanup_close(&got[i]);
	}
	return NULL;
}
