/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done behind a change set, if one of its paths matches: a program is restarted or gets a signal, or a hook is
 * run, once; and what quiesces a program before a change set is shown. A hook gets the changed paths as files, what it
 * writes goes to the client as it comes, and it ends with its time, or with the client. Which tree a hook ended well
 * with is remembered, so that it can be left out as long as nothing that it reads has changed, also by another client.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/ignore.h"
#include "inlay/io.h"
#include "inlay/run.h"
#include "inlay/text.h"
#include "session/outcomes.h"
#include "session/serve.h"

enum {
	OUTPUT_MAX = 4 << 20, /* bytes that are passed on; what comes then is left out */
	READ_BYTES = 32 << 10,
	KILL_AFTER_S = 2, /* from the signal to SIGKILL */
	ENV_OWN = 8,
	PATTERNS_MAX = 1024,
	CANNOT_RUN = 127, /* what a shell says of a command that is not there */
	HOOK_VAR_MAX = INLAY_HOST_PATH_MAX + 300, /* bytes of one of our variables */
};

extern char **environ;

struct span {
	bool nothing; /* there is no generation to compare with: everything changed */
	struct inlay_digest from, to;
};

struct hook {
	struct serve *s;
	char name[INLAY_RUN_NAME_MAX + 1], program[INLAY_RUN_NAME_MAX + 1];
	struct inlay_run_spec spec;
	int dirfd; /* scratch: ws/<id>/hooks */
	char nul_path[INLAY_HOST_PATH_MAX + 256], json_path[INLAY_HOST_PATH_MAX + 256];
	char base[INLAY_RUN_NAME_MAX + 48]; /* of the names of both */
	pid_t pid;
	int pidfd, epfd, out[2];
	struct span span;
	struct message_outcome outcome; /* of the last time, then of this one */
	uint64_t passed;                /* bytes of output */
	bool cut, timed_out, gone;
	int64_t started_ns, kill_ns;
};

/* ---- what changed ---- */

static const struct inlay_generation *generation(const struct inlay_history *h, uint64_t number)
{
	for (size_t i = 0; i < h->count; i++)
		if (h->gens[i].number == number)
			return &h->gens[i];
	return NULL;
}

static int find_span(struct hook *k, uint64_t from, uint64_t to, struct inlay_error *err)
{
	auto_free struct inlay_history *h = NULL;
	int r = inlay_workspace_history(k->s->ws, &h, err);

	if (r < 0)
		return r;
	const struct inlay_generation *a = generation(h, from), *b = generation(h, to);
	if (!b)
		return inlay_error_set(err, -ENOENT, "generation %llu is not in the history",
				       (unsigned long long)to);
	k->span = (struct span){.nothing = !a, .to = b->root.tree};
	if (a)
		k->span.from = a->root.tree;
	if (from == MESSAGE_HOOK_SINCE_SUCCESS) {
		k->span.nothing = !k->outcome.has_good;
		k->span.from = k->outcome.good;
	}
	return 0;
}

/* Calls fn for each changed path. A tree that gc took counts as none. */
static int each_change(struct hook *k, inlay_tree_diff_fn *fn, void *ctx, struct inlay_error *err)
{
	struct inlay_trees *trees = inlay_host_trees(k->s->host);
	int r = INLAY_TREES_MISSING;

	if (!k->span.nothing)
		r = inlay_tree_diff(trees, &k->span.from, &k->span.to, fn, ctx, err);
	if (r == INLAY_TREES_MISSING)
		r = inlay_tree_diff(trees, NULL, &k->span.to, fn, ctx, err);
	if (r == INLAY_TREES_MISSING)
		return inlay_error_set(err, -EIO, "a tree of the generation is missing");
	return r;
}

/* A directory is changed by what is in it, which is told itself. */
static bool only_a_directory(const struct inlay_entry *before, const struct inlay_entry *after)
{
	return before && after && inlay_entry_is_dir(before) && inlay_entry_is_dir(after) &&
	       before->mode == after->mode;
}

/* ---- does it concern us? ---- */

static int match_change(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
			const struct inlay_entry *after, struct inlay_error *err)
{
	if (only_a_directory(before, after))
		return 0;
	int r = inlay_ignore_match_path(ctx, path, len, inlay_entry_is_dir(after ? after : before),
					err);
	return r > 0 ? INLAY_TREES_STOP : r;
}

static int no_match(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		    const struct inlay_entry *after, struct inlay_error *err)
{
	(void)ctx;
	(void)path;
	(void)len;
	(void)err;
	return only_a_directory(before, after) ? 0 : INLAY_TREES_STOP;
}

/* Positive: something that matters has changed. */
static int concerns(struct hook *k, struct message_text patterns, struct inlay_error *err)
{
	auto_free char *text = inlay_dup(patterns.bytes, patterns.len);
	auto_free const char **lines = calloc(PATTERNS_MAX, sizeof *lines);
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = NULL;
	char *save = NULL;
	size_t count = 0;

	if (!text || !lines)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (patterns.len == 0)
		return each_change(k, no_match, NULL, err);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (count == PATTERNS_MAX)
			return inlay_error_set(err, -E2BIG, "more than %d patterns", PATTERNS_MAX);
		lines[count++] = line;
	}
	/* The scratch directory has no ignore files of its own. */
	struct inlay_ignore_options options = {.patterns = lines,
					       .pattern_count = count,
					       .no_gitignore = true,
					       .no_builtin = true};
	int r = inlay_ignore_root(k->dirfd, &options, &rules, err);
	return r < 0 ? r : each_change(k, match_change, rules, err);
}

/* ---- the lists ---- */

struct lists {
	struct inlay_buf nul, json;
	int nul_fd, json_fd;
};

static int flush_lists(struct lists *l, size_t least, struct inlay_error *err)
{
	int r = inlay_buf_check(&l->nul, err);

	if (r == 0)
		r = inlay_buf_check(&l->json, err);
	if (r < 0 || l->json.len < least)
		return r;
	r = inlay_write_all(l->nul_fd, l->nul.data, l->nul.len, "the changed paths", err);
	if (r == 0)
		r = inlay_write_all(l->json_fd, l->json.data, l->json.len, "the changed paths",
				    err);
	inlay_buf_clear(&l->nul);
	inlay_buf_clear(&l->json);
	return r;
}

static const char *type_name(const struct inlay_entry *e)
{
	return S_ISREG(e->mode) ? "file" : S_ISDIR(e->mode) ? "dir" : "link";
}

static int add_change(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		      const struct inlay_entry *after, struct inlay_error *err)
{
	struct lists *l = ctx;

	if (only_a_directory(before, after))
		return 0;
	inlay_buf_add(&l->nul, path, len);
	inlay_buf_u8(&l->nul, 0);
	inlay_buf_printf(&l->json, "{\"path\":");
	inlay_text_json(&l->json, path, len);
	inlay_buf_printf(&l->json, ",\"change\":\"%s\",\"type\":\"%s\"}\n",
			 !before  ? "added"
			 : !after ? "removed"
				  : "modified",
			 type_name(after ? after : before));
	return flush_lists(l, 1 << 20, err);
}

static int open_list(const struct hook *k, const char *suffix, int *ret, struct inlay_error *err)
{
	char name[sizeof k->base + 16];

	(void)snprintf(name, sizeof name, "%s.%s", k->base, suffix);
	*ret = openat(k->dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	return *ret < 0 ? inlay_error_sys(err, -errno, "write the changed paths") : 0;
}

/* The changed paths: a list of paths that end with NUL, and a JSON object a line. */
static int write_changes(struct hook *k, struct inlay_error *err)
{
	auto_close int nul_fd = -1;
	auto_close int json_fd = -1;
	struct lists l = {0};
	int r = open_list(k, "nul", &nul_fd, err);

	if (r == 0)
		r = open_list(k, "json", &json_fd, err);
	l.nul_fd = nul_fd;
	l.json_fd = json_fd;
	if (r == 0)
		r = each_change(k, add_change, &l, err);
	if (r == 0)
		r = flush_lists(&l, 0, err);
	inlay_buf_fini(&l.nul);
	inlay_buf_fini(&l.json);
	return r;
}

static void remove_lists(const struct hook *k)
{
	char name[sizeof k->base + 16];

	(void)snprintf(name, sizeof name, "%s.nul", k->base);
	(void)unlinkat(k->dirfd, name, 0);
	(void)snprintf(name, sizeof name, "%s.json", k->base);
	(void)unlinkat(k->dirfd, name, 0);
}

/* ---- the process ---- */

static size_t count_vars(char *const *list)
{
	size_t n = 0;

	while (list[n])
		n++;
	return n;
}

/* The keeper's environment, ours, and the spec's; of two with one name the later one counts, as getenv takes the
 * first. */
static char **make_env(const struct hook *k, char own[ENV_OWN][HOOK_VAR_MAX])
{
	size_t n = 0, outer = count_vars(environ), spec = count_vars(k->spec.env);
	char **env = calloc(outer + spec + ENV_OWN + 1, sizeof *env);

	if (!env)
		return NULL;
	for (size_t i = 0; i < spec; i++)
		env[n++] = k->spec.env[i];
	for (size_t i = 0; i < ENV_OWN && own[i][0]; i++)
		env[n++] = own[i];
	for (size_t i = 0; i < outer; i++)
		env[n++] = environ[i];
	return env;
}

/* `inside`: the command line for the workspace's root; NULL = it has none. */
static int spawn(struct hook *k, const char *path, char **inside, char **env, const int out[2],
		 const int errors[2], struct inlay_error *err)
{
	char **argv = inside ? inside : k->spec.argv;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, defaults;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	(void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	(void)posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	(void)posix_spawn_file_actions_adddup2(&actions, errors[1], 2);
	(void)posix_spawn_file_actions_addchdir_np(&actions, path);
	if (*k->spec.dir && !inside)
		(void)posix_spawn_file_actions_addchdir_np(&actions, k->spec.dir);
	(void)sigemptyset(&none);
	(void)sigemptyset(&defaults);
	(void)sigaddset(&defaults, SIGPIPE);
	(void)sigaddset(&defaults, SIGHUP);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setsigdefault(&attr, &defaults);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						      POSIX_SPAWN_SETSID);
	int r = posix_spawnp(&k->pid, inside ? "/proc/self/exe" : argv[0], &actions, &attr, argv,
			     env);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)posix_spawnattr_destroy(&attr);
	return r ? inlay_error_sys(err, -r, "run %s in %s%s%s", k->spec.argv[0], path,
				   *k->spec.dir ? ", directory " : "", k->spec.dir)
		 : 0;
}

static int watch_fd(struct hook *k, int fd, uint32_t tag)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u32 = tag};

	return epoll_ctl(k->epfd, EPOLL_CTL_ADD, fd, &e);
}

static int start(struct hook *k, uint64_t from, uint64_t to, struct inlay_error *err)
{
	static const size_t room = HOOK_VAR_MAX;
	auto_free char(*own)[HOOK_VAR_MAX] = calloc(ENV_OWN, sizeof *own);
	auto_of(inlay_run_strings_free) char **inside = NULL;
	char *vars[ENV_OWN + 1] = {NULL};
	auto_free char **env = NULL;
	struct inlay_workspace_state st;
	int out[2] = {-1, -1}, errors[2] = {-1, -1};

	inlay_workspace_state(k->s->ws, &st);
	if (!own)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)snprintf(own[0], room, "INLAY_WORKSPACE=%s", st.path);
	(void)snprintf(own[1], room, "INLAY_HOOK=%s", k->name);
	(void)snprintf(own[2], room, "INLAY_GENERATION=%llu", (unsigned long long)to);
	(void)snprintf(own[3], room, "INLAY_OLD_GENERATION=%llu", (unsigned long long)from);
	(void)snprintf(own[4], room, "INLAY_CHANGED=%s", k->nul_path);
	(void)snprintf(own[5], room, "INLAY_CHANGED_JSON=%s", k->json_path);
	for (size_t i = 0; i < ENV_OWN && own[i][0]; i++)
		vars[i] = own[i];
	env = make_env(k, own);
	if (!env)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (inlay_workspace_command(k->s->ws, &k->spec, k->name, vars, &inside, err) < 0)
		return err->code;
	k->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (k->epfd < 0 || pipe2(out, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "start a hook");
	k->out[0] = out[0];
	int r = pipe2(errors, O_CLOEXEC) < 0 ? inlay_error_sys(err, -errno, "start a hook") : 0;
	k->out[1] = errors[0];
	if (r == 0)
		r = spawn(k, st.path, inside, env, out, errors, err);
	inlay_cleanup_close(&out[1]);
	inlay_cleanup_close(&errors[1]);
	if (r < 0)
		return r;
	k->pidfd = (int)syscall(SYS_pidfd_open, k->pid, 0);
	(void)fcntl(k->out[0], F_SETFL, O_NONBLOCK);
	(void)fcntl(k->out[1], F_SETFL, O_NONBLOCK);
	if (k->pidfd < 0 || watch_fd(k, k->pidfd, 2) < 0 || watch_fd(k, k->out[0], 0) < 0 ||
	    watch_fd(k, k->out[1], 1) < 0)
		return inlay_error_sys(err, -errno, "watch a hook");
	return 0;
}

/* ---- what it says ---- */

/* False when there is nothing more for now. */
static bool pass_on(struct hook *k, int i, int *ret, struct inlay_error *err)
{
	char buf[READ_BYTES];
	struct inlay_buf b = {0};
	ssize_t n = k->out[i] < 0 ? 0 : read(k->out[i], buf, sizeof buf);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		inlay_cleanup_close(&k->out[i]);
		k->out[i] = -1;
		return false;
	}
	size_t room = OUTPUT_MAX - k->passed, len = (size_t)n < room ? (size_t)n : room;
	k->cut |= len < (size_t)n;
	k->passed += len;
	if (len == 0 || k->s->conn.ended)
		return true;
	struct message_hook m = {.kind = i ? MESSAGE_HOOK_ERRORS : MESSAGE_HOOK_OUTPUT,
				 .text = {buf, len}};
	message_encode_hook(&b, &m);
	*ret = serve_row(k->s, &b, err);
	return *ret == 0;
}

static void end_group(struct hook *k, int signal_number)
{
	(void)kill(-k->pid, signal_number);
	if (!k->kill_ns)
		k->kill_ns = inlay_monotonic_ns() + KILL_AFTER_S * 1000000000ll;
}

static int64_t deadline(const struct hook *k)
{
	if (k->kill_ns)
		return k->kill_ns;
	return k->spec.stop_timeout_ns ? k->started_ns + k->spec.stop_timeout_ns : 0;
}

static void check_time(struct hook *k)
{
	int64_t now = inlay_monotonic_ns(), until = deadline(k);

	if (!until || now < until)
		return;
	if (k->kill_ns) {
		(void)kill(-k->pid, SIGKILL);
		k->kill_ns = now + KILL_AFTER_S * 1000000000ll;
	} else {
		k->timed_out = true;
		end_group(k, k->spec.stop_signal);
	}
}

static int run_to_end(struct hook *k, int *ret_status, struct inlay_error *err)
{
	struct epoll_event events[4];
	int r = 0;

	for (;;) {
		/* A client that goes takes its hook along; what it says meanwhile waits. */
		if (k->s->conn.ended && !k->gone) {
			k->gone = true;
			end_group(k, SIGTERM);
		}
		if (k->gone) {
			int64_t left = deadline(k) - inlay_monotonic_ns();
			(void)epoll_wait(k->epfd, events, 4,
					 left > 0 ? (int)(left / 1000000) + 1 : 0);
		} else {
			r = conn_wait(&k->s->conn, k->epfd, deadline(k), err);
			if (r < 0 && r != -ETIMEDOUT)
				k->s->conn.ended = true;
		}
		check_time(k);
		int sent = 0;
		for (int i = 0; i < 2; i++)
			while (sent == 0 && pass_on(k, i, &sent, err))
				;
		if (sent < 0)
			k->s->conn.ended = true;
		if (waitpid(k->pid, ret_status, WNOHANG) == k->pid)
			break;
	}
	(void)kill(-k->pid, SIGKILL);
	for (int i = 0; i < 2; i++)
		while (pass_on(k, i, &r, err))
			;
	return 0;
}

static int send_kind(struct hook *k, const struct message_hook *m, struct inlay_error *err)
{
	struct inlay_buf b = {0};

	message_encode_hook(&b, m);
	return serve_row(k->s, &b, err);
}

static int prepare(struct hook *k, struct message_text bytes, struct message_order *ret,
		   struct inlay_error *err)
{
	char path[INLAY_HOST_PATH_MAX + 64];
	int r = message_decode_order(bytes.bytes, bytes.len, ret, err);

	if (r == 0 && !inlay_run_name_valid(ret->name.bytes, ret->name.len))
		r = inlay_error_set(err, -EINVAL, "that is no name of a hook");
	if (r == 0 &&
	    (ret->action == MESSAGE_ACTION_RESTART || ret->action == MESSAGE_ACTION_SIGNAL) &&
	    !inlay_run_name_valid(ret->program.bytes, ret->program.len))
		r = inlay_error_set(err, -EINVAL, "that is no name of a program");
	if (r == 0 && ret->program.len > INLAY_RUN_NAME_MAX)
		r = inlay_error_set(err, -E2BIG, "the name of a program is too long");
	if (r == 0)
		r = inlay_workspace_scratch(k->s->ws, &k->dirfd, path, sizeof path, err);
	if (r < 0)
		return r;
	memcpy(k->name, ret->name.bytes, ret->name.len);
	memcpy(k->program, ret->program.bytes, ret->program.len);
	/* Several sessions may run hooks of one name at a time: the address of this one tells them apart. */
	(void)snprintf(k->base, sizeof k->base, "%s-%llx-%llu", k->name,
		       (unsigned long long)(uintptr_t)k->s,
		       (unsigned long long)inlay_monotonic_ns());
	(void)snprintf(k->nul_path, sizeof k->nul_path, "%s/%s.nul", path, k->base);
	(void)snprintf(k->json_path, sizeof k->json_path, "%s/%s.json", path, k->base);
	outcome_read(k->dirfd, k->name, &k->outcome);
	return 0;
}

static int run_hook(struct hook *k, const struct message_order *order, uint64_t from, uint64_t to,
		    int *ret_status, struct inlay_error *err)
{
	int r = inlay_run_spec_decode(order->spec.bytes, order->spec.len, &k->spec, err);

	if (r == 0)
		r = write_changes(k, err);
	if (r == 0)
		r = start(k, from, to, err);
	if (r == 0)
		return run_to_end(k, ret_status, err);
	if (k->pid > 0) {
		(void)kill(-k->pid, SIGKILL);
		(void)waitpid(k->pid, ret_status, 0);
	}
	return r;
}

static int carry_out(struct hook *k, const struct message_order *order, uint64_t from, uint64_t to,
		     int *ret_status, struct inlay_error *err)
{
	struct inlay_run_status status;

	k->started_ns = inlay_monotonic_ns();
	switch (order->action) {
	case MESSAGE_ACTION_RESTART:
		return inlay_workspace_program(k->s->ws, k->program, INLAY_PROGRAM_RESTART, 0,
					       &status, err);
	case MESSAGE_ACTION_SIGNAL:
		return inlay_workspace_program(k->s->ws, k->program, INLAY_PROGRAM_SIGNAL,
					       order->signal, &status, err);
	case MESSAGE_ACTION_NONE:
		return 0;
	default:
		return run_hook(k, order, from, to, ret_status, err);
	}
}

static bool went_well(const struct hook *k, int status)
{
	return status == 0 && !k->timed_out;
}

/* Remembers how it ended, and tells the client. `why` < 0: it did not even begin. */
static int tell_end(struct hook *k, int why, int status, uint64_t generation,
		    struct inlay_error *err)
{
	struct message_outcome *o = &k->outcome;

	o->took_ns = (uint64_t)(inlay_monotonic_ns() - k->started_ns);
	o->time_ns = inlay_now_ns();
	o->generation = generation;
	o->status = why < 0 ? CANNOT_RUN << 8 : status;
	o->timed_out = k->timed_out;
	if (why == 0 && went_well(k, status)) {
		o->has_good = true;
		o->good = k->span.to;
	}
	outcome_write(k->dirfd, o);
	struct message_hook end = {.kind = MESSAGE_HOOK_END,
				   .status = status,
				   .took_ns = o->took_ns,
				   .timed_out = k->timed_out,
				   .cut = k->cut};
	return why < 0 ? why : send_kind(k, &end, err);
}

static int answer(struct hook *k, const struct message_request *m, struct inlay_error *err)
{
	struct message_order order;
	int status = 0;
	int r = prepare(k, m->body, &order, err);

	if (r == 0)
		r = find_span(k, m->args[0], m->args[1], err);
	bool remember = m->flags & MESSAGE_HOOK_REMEMBER ||
			(m->flags & MESSAGE_HOOK_REMEMBER_FIRST && !k->outcome.has_good);
	if (r == 0 && !remember)
		r = concerns(k, order.patterns, err);
	if (r == 0) {
		/* From here on is as good, and gc may take the old tree. */
		if (remember || m->args[0] == MESSAGE_HOOK_SINCE_SUCCESS) {
			k->outcome.has_good = true;
			k->outcome.good = k->span.to;
			outcome_write(k->dirfd, &k->outcome);
		}
		return send_kind(k, &(struct message_hook){.kind = MESSAGE_HOOK_SKIPPED}, err);
	}
	if (r == INLAY_TREES_STOP)
		r = send_kind(k, &(struct message_hook){.kind = MESSAGE_HOOK_BEGIN}, err);
	if (r < 0)
		return r;
	r = carry_out(k, &order, m->args[0], m->args[1], &status, err);
	return k->gone ? r : tell_end(k, r, status, m->args[1], err);
}

static void finish(struct hook *k)
{
	if (k->dirfd >= 0)
		remove_lists(k);
	inlay_run_spec_fini(&k->spec);
	inlay_cleanup_close(&k->dirfd);
	inlay_cleanup_close(&k->pidfd);
	inlay_cleanup_close(&k->epfd);
	inlay_cleanup_close(&k->out[0]);
	inlay_cleanup_close(&k->out[1]);
}

int serve_hook(struct serve *s, const struct message_request *m, struct inlay_error *err)
{
	struct hook k = {.s = s, .dirfd = -1, .pidfd = -1, .epfd = -1, .out = {-1, -1}};
	int r = answer(&k, m, err);

	finish(&k);
	return r;
}

/* ---- before a change set ---- */

static int put_off(const struct hook *k, int status, struct inlay_error *cause)
{
	char how[64];

	if (k->timed_out)
		(void)snprintf(how, sizeof how, "did not end in time");
	else if (WIFSIGNALED(status))
		(void)snprintf(how, sizeof how, "was ended by signal %d", WTERMSIG(status));
	else
		(void)snprintf(how, sizeof how, "failed with %d", WEXITSTATUS(status));
	(void)inlay_error_set(cause, -ECANCELED, "%s %s: the change set is not shown", k->name,
			      how);
	(void)inlay_error_set_exit(cause, INLAY_EXIT_HALT);
	return SERVE_PUT_OFF;
}

static int quiesce(struct hook *k, const struct inlay_generation *live,
		   const struct inlay_digest *tree, struct inlay_error *cause,
		   struct inlay_error *err)
{
	struct message_order order;
	int status = 0;
	int r = prepare(k, (struct message_text){(const char *)k->s->before.data, k->s->before.len},
			&order, err);

	if (r == 0 && order.action != MESSAGE_ACTION_RUN)
		r = inlay_error_set(err, -EPROTO, "a bad order in OPEN");
	k->span = (struct span){.from = live->root.tree, .to = *tree};
	if (r == 0)
		r = concerns(k, order.patterns, err);
	if (r == INLAY_TREES_STOP)
		r = send_kind(k, &(struct message_hook){.kind = MESSAGE_HOOK_BEGIN}, err);
	else
		return r;
	if (r < 0)
		return r;
	r = carry_out(k, &order, live->number, 0, &status, cause);
	if (k->gone)
		return inlay_error_set(err, -ECONNABORTED, "the client went");
	int sent = tell_end(k, r, status, 0, err);
	if (r < 0) {
		(void)inlay_error_prefix(cause, r, "%s", k->name);
		(void)inlay_error_set_exit(cause, INLAY_EXIT_HALT);
		return SERVE_PUT_OFF;
	}
	return sent < 0 ? sent : went_well(k, status) ? 0 : put_off(k, status, cause);
}

int serve_before(struct serve *s, const struct inlay_digest *tree, struct inlay_error *cause,
		 struct inlay_error *err)
{
	struct hook k = {.s = s, .dirfd = -1, .pidfd = -1, .epfd = -1, .out = {-1, -1}};
	struct inlay_workspace_state st;

	inlay_workspace_state(s->ws, &st);
	/* Where nothing is shown yet there is nobody to be told. */
	if (s->before.len == 0 || st.live.number == 0 ||
	    inlay_digest_equal(&st.live.root.tree, tree))
		return 0;
	int r = quiesce(&k, &st.live, tree, cause, err);
	finish(&k);
	return r;
}
