/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small life of an upper, and every call of it failing once: a write, a torn write, a full disk, a sync, a name,
 * the process ending there. What was acknowledged is there when it is opened again, the rest is not there by half.
 */
#include "scratch.h"

#include <sys/socket.h>
#include <sys/wait.h>

#include "calls.h"
#include "inlay/tree.h"
#include "upper/upper.h"

static struct inlay_error err;

enum { STEPS = 60, LARGE = 300 };

/* What a process that may end says in time: how many steps were acknowledged. */
struct progress {
	unsigned done, tried;
};

/* A name that tells its number and is long, so that records cross the space that was taken ahead. */
static void name_of(unsigned i, char ret[static INLAY_NAME_MAX + 1])
{
	int n = snprintf(ret, INLAY_NAME_MAX + 1, "%u-", i);
	memset(ret + n, 'x', 100);
	ret[n + 100] = 0;
}

/* A name comes; each third step the one before goes. */
static int step(struct upper *u, unsigned i)
{
	auto_txn struct upper_txn t = {0};
	struct upper_node image = {.n = u->next, .mode = S_IFREG | 0600};
	char name[INLAY_NAME_MAX + 1];
	char value[LARGE] = {0};
	int64_t now;

	bool goes = i % 3 == 2;
	name_of(goes ? i - 1 : i, name);
	if (goes) {
		upper_txn_drop(&t, 1, name, strlen(name));
	} else {
		upper_txn_node(&t, &image);
		upper_txn_name(&t, 1, name, strlen(name), image.n, false);
		upper_txn_xattr(&t, image.n, "user.large", value, sizeof value);
	}
	int r = upper_append(u, &t, goes, &now, &err);
	return r < 0 ? r : upper_apply(u, t.ops.data, t.ops.len, now, &err);
}

/* One call failed: the same works the next time. */
static int step_again(struct upper *u, unsigned i, enum fault_mode mode)
{
	int r = step(u, i);

	return r < 0 && mode != FAULT_FULL ? step(u, i) : r;
}

static bool is_there(struct upper *u, unsigned i)
{
	char name[INLAY_NAME_MAX + 1];

	name_of(i, name);
	return upper_name(u->root, name, strlen(name)) != NULL;
}

/* Steps below `done` were acknowledged; `tried` were begun. */
static void check(int dir, unsigned done, unsigned tried)
{
	struct upper *u;

	assert_ok(upper_open(dir, false, &u, &err));
	assert_int_equal(u->damaged, 0);
	for (unsigned i = 0; i < tried; i++) {
		if (i % 3 == 2)
			continue;
		bool gone = i % 3 == 1 && i + 1 < done, maybe = i % 3 == 1 && i + 1 < tried;
		if (i < done && !gone && !maybe)
			assert_true(is_there(u, i));
		if (gone)
			assert_false(is_there(u, i));
	}
	/* And it goes on. */
	assert_ok(step(u, STEPS * 3));
	assert_ok(upper_rewrite(u));
	upper_close(u);
	assert_ok(upper_open(dir, false, &u, &err));
	assert_true(is_there(u, STEPS * 3));
	upper_close(u);
}

static void clear(int dir)
{
	(void)unlinkat(dir, UPPER_JOURNAL, 0);
	(void)unlinkat(dir, "." UPPER_JOURNAL ".new", 0);
	assert_ok(inlay_remove_tree(dir, UPPER_FILES, &err));
}

/* False when the n-th call was not reached any more. */
static bool live_with_fault(int dir, enum fault_mode mode, enum fault_kinds kinds, uint64_t n)
{
	unsigned done = 0, tried = 0;
	struct upper *u;

	clear(dir);
	fault_arm(mode, kinds, n, 0);
	int r = upper_open(dir, false, &u, &err);
	if (r == 0) {
		for (; tried < STEPS; tried++) {
			if (step_again(u, tried, mode) < 0)
				break;
			done = tried + 1;
		}
		assert_true(mode == FAULT_FULL || done == STEPS);
		tried += tried < STEPS;
		(void)!upper_rewrite(u);
		/* After a rename that may not last nothing more is promised. */
		assert_true(step_again(u, STEPS * 2 + 1, mode) == 0 || u->broken ||
			    mode == FAULT_FULL);
		upper_close(u);
	}
	bool hit = fault_disarm();
	check(dir, done, tried);
	return hit;
}

static void calls_fail(void **state)
{
	static const struct {
		enum fault_mode mode;
		enum fault_kinds kinds;
	} plans[] = {{FAULT_FAIL, FAULT_WRITE}, {FAULT_TORN, FAULT_WRITE},
		     {FAULT_FULL, FAULT_WRITE}, {FAULT_FAIL, FAULT_SYNC},
		     {FAULT_FAIL, FAULT_NAME},  {FAULT_FAIL, FAULT_READ}};
	int dir = scratch_dir(state);

	for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
		uint64_t n = 0;
		while (live_with_fault(dir, plans[i].mode, plans[i].kinds, n))
			n++;
		print_message("mode %d, kinds %d: %llu calls\n", plans[i].mode, plans[i].kinds,
			      (unsigned long long)n);
		assert_true(n > 0);
	}
}

static bool live_and_end(int dir, uint64_t n)
{
	auto_close int progress = -1;
	int p[2], status;
	struct progress now = {0}, last = {0};

	clear(dir);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p), 0);
	progress = p[0];
	pid_t pid = fork();
	if (pid == 0) {
		struct upper *u;
		if (upper_open(dir, false, &u, NULL) < 0)
			_exit(3);
		fault_arm(FAULT_KILL, FAULT_WRITE | FAULT_SYNC | FAULT_NAME, n, 0);
		for (unsigned i = 0; i < STEPS; i++) {
			int r = step(u, i);
			now = (struct progress){i + (r == 0), i + 1};
			/* Not write(), which may end the process. */
			if (send(p[1], &now, sizeof now, 0) != sizeof now)
				_exit(4);
		}
		(void)!upper_rewrite(u);
		_exit(fault_disarm() ? 5 : 0);
	}
	(void)close(p[1]);
	while (recv(progress, &now, sizeof now, 0) == sizeof now)
		last = now;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) &&
		    (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FAULT_EXIT));
	check(dir, last.done, last.done + 1 < STEPS ? last.done + 1 : STEPS);
	return WEXITSTATUS(status) == FAULT_EXIT;
}

static void the_process_ends(void **state)
{
	int dir = scratch_dir(state);
	uint64_t n = 0;

	while (live_and_end(dir, n))
		n++;
	assert_true(n > STEPS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {scratch_test(calls_fail),
					   scratch_test(the_process_ends)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
