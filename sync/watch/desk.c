/* SPDX-License-Identifier: Apache-2.0 */
/* Where other commands ask: what the watch does, to bring the targets to the present state, to stop. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inlay/io.h"
#include "watch/loop.h"

int desk_open(struct live *l, struct inlay_error *err)
{
	return inlay_unix_listen(l->source->state_fd, CONTROL_SOCKET, SOCK_SEQPACKET, &l->listen_fd,
				 err);
}

static void end_client(struct live *l, size_t i)
{
	(void)close(l->clients[i].fd);
	free(l->clients[i].generations);
	l->clients[i] = l->clients[--l->client_count];
}

void desk_close(struct live *l)
{
	while (l->client_count > 0)
		end_client(l, 0);
	if (l->listen_fd >= 0)
		(void)unlinkat(l->source->state_fd, CONTROL_SOCKET, 0);
	inlay_cleanup_close(&l->listen_fd);
}

void desk_accept(struct live *l)
{
	struct ucred who;
	socklen_t len = sizeof who;
	int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	/* The directory keeps others out; root may ask too. */
	bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
		     (who.uid == geteuid() || who.uid == 0);
	if (!known || l->client_count == LIVE_CLIENTS_MAX) {
		(void)close(fd);
		return;
	}
	l->clients[l->client_count++] = (struct live_client){.fd = fd};
}

/* ---- answers ---- */

/* A client that does not read its answer gets none. */
static void send_packet(int fd, const struct control_packet *p)
{
	auto_buf struct inlay_buf b = {0};

	control_encode(&b, p);
	if (inlay_buf_check(&b, NULL) == 0)
		(void)!inlay_unix_send(fd, b.data, b.len, NULL, 0, NULL);
}

static void send_head(struct live *l, int fd)
{
	struct control_packet p = {.kind = CONTROL_HEAD};
	struct control_head *h = &p.head;

	h->pid = (uint64_t)getpid();
	h->since_ns = l->started_ns;
	h->seq = l->seq;
	h->watches = watcher_count(l->watcher);
	h->cold = watcher_cold_count(l->watcher);
	h->overflows = watcher_changes(l->watcher)->overflows;
	h->held = l->held_count;
	share_figures(&l->share, &h->encoded, &h->shared);
	h->halted = l->away;
	(void)snprintf(h->source, sizeof h->source, "%s", l->source->path);
	(void)snprintf(h->why, sizeof h->why, "%s", l->why);
	send_packet(fd, &p);
}

static bool is_meant(const struct live *l, const struct live_client *c, size_t peer)
{
	return !c->request.target[0] || strcmp(c->request.target, peer_target(l->peers[peer])) == 0;
}

static void send_rows(struct live *l, const struct live_client *c)
{
	for (size_t i = 0; i < l->peer_count; i++) {
		struct control_packet p = {.kind = CONTROL_ROW};
		if (!is_meant(l, c, i))
			continue;
		peer_get_status(l->peers[i], &p.row.status);
		p.row.changed = c->generations && c->generations[i] != p.row.status.generation;
		(void)snprintf(p.row.target, sizeof p.row.target, "%s", peer_target(l->peers[i]));
		send_packet(c->fd, &p);
	}
}

static void send_end(int fd, int exit_code, const char *text)
{
	struct control_packet p = {.kind = CONTROL_END};

	p.end.exit_code = (uint8_t)exit_code;
	(void)snprintf(p.end.text, sizeof p.end.text, "%.900s", text);
	send_packet(fd, &p);
}

/* ---- flush ---- */

static void begin_flush(struct live *l, struct live_client *c)
{
	struct inlay_error err = {0};
	size_t meant = 0;

	c->generations = calloc(l->peer_count + 1, sizeof *c->generations);
	for (size_t i = 0; i < l->peer_count; i++) {
		struct peer_status s;
		if (!is_meant(l, c, i))
			continue;
		meant++;
		peer_get_status(l->peers[i], &s);
		if (c->generations)
			c->generations[i] = s.generation;
		if (c->request.force)
			peer_force(l->peers[i]);
		if (c->request.steal)
			peer_steal(l->peers[i]);
	}
	if (meant == 0) {
		send_end(c->fd, INLAY_EXIT_LOCKED,
			 "the watch of this folder that runs does not have that target; end it "
			 "first "
			 "('inlay watch --stop SRC')");
		return;
	}
	if (c->request.force && survey_accept(l, &err) < 0) {
		send_end(c->fd, INLAY_EXIT_HALT, err.text);
		return;
	}
	/* What was done before the question was asked is in the kernel's queue by now. */
	if (watcher_read(l->watcher, inlay_monotonic_ns(), &err) < 0) {
		send_end(c->fd, INLAY_EXIT_FAILURE, err.text);
		return;
	}
	watcher_poll_cold(l->watcher);
	/* A file that changed under the reader a moment ago is at rest by now, or it is left out again. */
	survey_unhold(l);
	survey(l);
	if (l->away || l->failed) {
		send_end(c->fd, l->away ? INLAY_EXIT_HALT : INLAY_EXIT_FAILURE, l->why);
		return;
	}
	c->waiting = true;
	c->seq = l->seq;
	c->deadline_ns = c->request.timeout_ms
				 ? inlay_monotonic_ns() + (int64_t)c->request.timeout_ms * 1000000
				 : 0;
}

/* 1: answered. */
static bool try_answer(struct live *l, struct live_client *c)
{
	bool late = c->deadline_ns && inlay_monotonic_ns() >= c->deadline_ns;
	char text[CONTROL_TEXT_MAX + 600];
	size_t behind = 0, all = 0;

	for (size_t i = 0; i < l->peer_count; i++) {
		struct peer_status s;
		if (!is_meant(l, c, i))
			continue;
		all++;
		peer_get_status(l->peers[i], &s);
		if (s.seq >= c->seq && s.state == PEER_WATCHING)
			continue;
		behind++;
		(void)snprintf(text, sizeof text, "%s: %s", peer_target(l->peers[i]),
			       s.why[0] ? s.why : "does not show the present state yet");
		if (s.state == PEER_HALTED && s.tried_seq >= c->seq && !s.force_pending) {
			send_rows(l, c);
			send_end(c->fd, s.exit_code, s.why);
			return true;
		}
	}
	if (behind > 0 && !late)
		return false;
	send_rows(l, c);
	send_end(c->fd, behind > 0 ? INLAY_EXIT_TIMEOUT : INLAY_EXIT_OK, behind > 0 ? text : "");
	return true;
}

void desk_answer(struct live *l)
{
	for (size_t i = 0; i < l->client_count;) {
		if (l->clients[i].waiting && l->clients[i].request.verb == CONTROL_FLUSH &&
		    try_answer(l, &l->clients[i]))
			end_client(l, i);
		else
			i++;
	}
}

int64_t desk_due(const struct live *l)
{
	int64_t due = 0;

	for (size_t i = 0; i < l->client_count; i++) {
		int64_t d = l->clients[i].waiting ? l->clients[i].deadline_ns : 0;
		if (d && (!due || d < due))
			due = d;
	}
	return due;
}

/* ---- questions ---- */

void desk_hear(struct live *l, size_t client)
{
	struct live_client *c = &l->clients[client];
	uint8_t bytes[CONTROL_PACKET_MAX];
	int fds[INLAY_UNIX_FDS];
	struct inlay_error err = {0};
	size_t n = 0;
	int r = inlay_unix_recv(c->fd, bytes, sizeof bytes, &n, fds, &err);

	for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
		inlay_cleanup_close(&fds[i]);
	if (r < 0 || n == 0 || c->waiting) {
		end_client(l, client);
		return;
	}
	r = control_decode_request(bytes, n, &c->request, &err);
	if (r < 0) {
		send_end(c->fd, INLAY_EXIT_FAILURE, err.text);
	} else if (c->request.verb == CONTROL_FLUSH) {
		begin_flush(l, c);
	} else if (c->request.verb == CONTROL_STATUS) {
		send_head(l, c->fd);
		send_rows(l, c);
		send_end(c->fd, 0, "");
	} else {
		/* The connection is closed when all is done. */
		send_end(c->fd, 0, "");
		l->ending = c->waiting = true;
	}
	if (!c->waiting)
		end_client(l, client);
}
