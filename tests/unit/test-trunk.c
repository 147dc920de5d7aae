/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "wire/message.h"
#include "wire/trunk.h"

/* Both ends in one thread, and the socket of the last channel that was made at the serving one. */
static struct trunk client, server;
static int made = -1;
static struct inlay_error err;

static int on_open(void *ctx, int *ret, struct inlay_error *e)
{
	int pair[2];

	(void)ctx;
	(void)e;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	*ret = pair[0];
	made = pair[1];
	return 0;
}

static int setup(void **state)
{
	int pair[2];

	(void)state;
	made = -1;
	err = (struct inlay_error){0};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_ok(trunk_init(&client, pair[0], pair[0], NULL, NULL, &err));
	assert_ok(trunk_init(&server, pair[1], pair[1], on_open, NULL, &err));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	trunk_fini(&client);
	trunk_fini(&server);
	return 0;
}

static void turns(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		assert_int_equal(trunk_turn(&client, -1, 1, &err), 0);
		assert_int_equal(trunk_turn(&server, -1, 1, &err), 0);
	}
}

/* A channel; our ends of it are *ret and `made`. */
static void channel(int *ret)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	assert_ok(trunk_add(&client, pair[1], &err));
	turns(3);
	*ret = pair[0];
}

static void say(enum message_type type, struct message_channel m)
{
	auto_buf struct inlay_buf b = {0};

	message_encode_channel(&b, &m);
	assert_ok(conn_send(&client.conn, (uint8_t)type, b.data, b.len, &err));
	assert_ok(conn_drain(&client.conn, 0, 0, &err));
}

static void bytes_go_both_ways_and_ends_follow_them(void **state)
{
	char got[16] = "";
	int near;

	(void)state;
	channel(&near);
	assert_int_equal(write(near, "question", 8), 8);
	turns(3);
	assert_int_equal(read(made, got, sizeof got), 8);
	assert_int_equal(write(made, "answer", 6), 6);
	(void)close(made);
	turns(3);
	assert_int_equal(read(near, got, sizeof got), 6);
	assert_int_equal(read(near, got, sizeof got), 0);
	(void)close(near);
	turns(3);
	assert_int_equal(client.count + server.count, 0);
}

static void one_that_is_not_read_stops_itself_alone(void **state)
{
	static char bulk[1 << 16];
	char got[8];
	int stuck, other;
	size_t sent = 0;
	ssize_t n;

	(void)state;
	channel(&stuck);
	int stuck_there = made;
	channel(&other);
	for (unsigned i = 0; i < 400; i++) {
		while ((n = write(stuck, bulk, sizeof bulk)) > 0)
			sent += (size_t)n;
		turns(1);
	}
	/* The window, and what the sockets at both ends hold. */
	assert_true(sent >= TRUNK_WINDOW && sent < TRUNK_WINDOW + (2 << 20));
	assert_int_equal(write(other, "hello", 5), 5);
	turns(3);
	assert_int_equal(read(made, got, sizeof got), 5);
	/* Read at last, it goes on. */
	size_t taken = 0;
	static char room[1 << 16];
	for (unsigned i = 0; i < 400 && taken < sent; i++) {
		while ((n = read(stuck_there, room, sizeof room)) > 0)
			taken += (size_t)n;
		turns(1);
	}
	assert_int_equal(taken, sent);
	(void)close(stuck);
	(void)close(stuck_there);
	(void)close(other);
	(void)close(made);
}

static void bad_peers(void **state)
{
	static char bulk[60000];
	const struct message_text much = {bulk, sizeof bulk};
	int near;

	channel(&near);
	say(MESSAGE_CHANNEL, (struct message_channel){.id = 7});
	assert_int_equal(trunk_turn(&server, -1, 1, &err), -EPROTO);
	(void)teardown(state);
	(void)setup(state);
	say(MESSAGE_CARRY, (struct message_channel){.id = 0});
	assert_int_equal(trunk_turn(&server, -1, 1, &err), -EPROTO);
	(void)teardown(state);
	(void)setup(state);
	say(MESSAGE_CHANNEL, (struct message_channel){.id = 0});
	say(MESSAGE_CREDIT, (struct message_channel){.id = 0, .count = 1});
	assert_int_equal(trunk_turn(&server, -1, 1, &err), -EPROTO);
	(void)teardown(state);
	(void)setup(state);
	/* More than the window, of which nothing is read. */
	say(MESSAGE_CHANNEL, (struct message_channel){.id = 0});
	int r = 0;
	for (unsigned i = 0; r == 0 && i < 100; i++) {
		say(MESSAGE_CARRY, (struct message_channel){.id = 0, .bytes = much});
		r = trunk_turn(&server, -1, 1, &err);
	}
	assert_int_equal(r, -EPROTO);
	(void)teardown(state);
	(void)setup(state);
	for (uint64_t i = 0; i < TRUNK_CHANNELS_MAX; i++) {
		say(MESSAGE_CHANNEL, (struct message_channel){.id = i});
		assert_int_equal(trunk_turn(&server, -1, 1, &err), 0);
		(void)close(made);
		server.channels[server.count - 1].may_send = 0; /* so that its end is not seen */
	}
	say(MESSAGE_CHANNEL, (struct message_channel){.id = TRUNK_CHANNELS_MAX});
	assert_int_equal(trunk_turn(&server, -1, 1, &err), -EMFILE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bytes_go_both_ways_and_ends_follow_them, setup,
						teardown),
		cmocka_unit_test_setup_teardown(one_that_is_not_read_stops_itself_alone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(bad_peers, setup, teardown),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
