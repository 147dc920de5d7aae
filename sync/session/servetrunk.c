/* SPDX-License-Identifier: Apache-2.0 */
/* The serving end of a trunk: each channel becomes a connection of its own to the keeper. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/session.h"
#include "wire/message.h"
#include "wire/trunk.h"

struct gate {
	int (*hand_over)(void *ctx, int fd, struct inlay_error *err);
	void *ctx;
};

struct session {
	const struct gate *gate;
	int fd;
};

/* The other end hears why, in place of an answer. */
static void refuse(int fd, const struct inlay_error *why)
{
	auto_buf struct inlay_buf b = {0};
	struct message_failed m = {.code = why->code ? why->code : -EIO,
				   .exit_code = (uint8_t)inlay_error_exit(why),
				   .text = message_text_of(why->text)};
	struct conn c;

	message_encode_failed(&b, &m);
	if (conn_init(&c, fd, fd, NULL) == 0 && !b.failed &&
	    conn_send(&c, MESSAGE_FAILED, b.data, b.len, NULL) == 0)
		(void)!conn_drain(&c, 0, inlay_monotonic_ns() + 5000000000ll, NULL);
	conn_fini(&c);
}

static void *run(void *arg)
{
	auto_free struct session *s = arg;
	struct inlay_error err = {0};

	/* Until the session's end, or before it began. */
	if (s->gate->hand_over(s->gate->ctx, s->fd, &err) < 0)
		refuse(s->fd, &err);
	return NULL;
}

static int open_channel(void *ctx, int *ret, struct inlay_error *err)
{
	struct session *s = malloc(sizeof *s);
	pthread_attr_t attr;
	pthread_t thread;
	int pair[2];

	if (!s)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		free(s);
		return inlay_error_sys(err, -errno, "make a socket pair");
	}
	*s = (struct session){.gate = ctx, .fd = pair[1]};
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int r = pthread_create(&thread, &attr, run, s);
	(void)pthread_attr_destroy(&attr);
	if (r != 0) {
		(void)close(pair[0]);
		(void)close(pair[1]);
		free(s);
		return inlay_error_sys(err, -r, "start a thread");
	}
	*ret = pair[0];
	return 0;
}

int inlay_serve_trunk(int rfd, int wfd,
		      int (*hand_over)(void *ctx, int fd, struct inlay_error *err), void *ctx,
		      struct inlay_error *err)
{
	static struct gate gate; /* threads may outlive the call, as the process ends behind it */
	static struct trunk trunk;
	int r;

	gate = (struct gate){.hand_over = hand_over, .ctx = ctx};
	r = trunk_init(&trunk, rfd, wfd, open_channel, &gate, err);
	while (r == 0)
		r = trunk_turn(&trunk, -1, 0, err);
	trunk_fini(&trunk);
	return r < 0 ? r : 0;
}
