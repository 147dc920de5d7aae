/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each component is synced by an `inlay sync` of its own, to all its hosts at once: its folder is scanned once, and a
 * host which is slow or gone delays no other. What a child tells of each of its targets is told as soon as it comes.
 */
#include "cmd/syncall.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/print.h"
#include "cmd/project.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "project/raise.h"

enum { AT_A_TIME = 8, ARGS_MAX = 4096, READ_BYTES = 64 << 10 };

extern char **environ;

struct one {
	const struct config_component *component;
	pid_t pid;
	int fd; /* its standard output; -1 = it does not run */
	struct inlay_buf said;
};

struct run {
	const struct syncall *s;
	const struct config *config;
	struct up up;
	bool *told; /* for each site */
	size_t next, failed, running_count;
	int worst;
	struct one running[AT_A_TIME];
};

static void put(const char **argv, size_t *n, const char *text)
{
	if (*n + 1 < ARGS_MAX)
		argv[(*n)++] = text;
}

static int start(struct run *run, const struct config_component *c, struct one *one,
		 struct inlay_error *err)
{
	const struct sites *sites = &run->up.sites;
	auto_free const char **argv = calloc(ARGS_MAX, sizeof *argv);
	posix_spawn_file_actions_t actions;
	auto_buf struct inlay_buf doors = {0};
	char hosts[24];
	size_t n = 0;
	int out[2];

	(void)snprintf(hosts, sizeof hosts, "%u", sites_host_count(sites));
	if (!argv)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	put(argv, &n, "inlay");
	put(argv, &n, "sync");
	put(argv, &n, "--json");
	put(argv, &n, "--host-count");
	put(argv, &n, hosts);
	sites_doors(sites, c, &doors);
	put(argv, &n, "--doors");
	put(argv, &n, inlay_buf_cstr(&doors));
	if (c->gitignore == CONFIG_NO)
		put(argv, &n, "--no-gitignore");
	for (size_t i = 0; i < c->ignore.count; i++) {
		put(argv, &n, "--exclude");
		put(argv, &n, c->ignore.items[i]);
	}
	for (size_t i = 0; i < c->redirect.count; i++) {
		put(argv, &n, "--redirect");
		put(argv, &n, c->redirect.items[i]);
	}
	for (char *const *o = run->s->options; *o; o++)
		put(argv, &n, *o);
	put(argv, &n, "--");
	put(argv, &n, c->source_path);
	for (size_t i = 0; i < sites->count; i++)
		if (sites->list[i].component == c)
			put(argv, &n, sites->list[i].target_text);
	if (n + 1 >= ARGS_MAX)
		return inlay_error_set(err, -E2BIG, "'%s' has too many hosts or patterns",
				       c->head.name);
	if (pipe2(out, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	for (size_t i = 0; i < sites->count; i++)
		if (sites->list[i].component == c && sites->list[i].transport.door)
			(void)posix_spawn_file_actions_adddup2(&actions,
							       sites->list[i].transport.door,
							       sites->list[i].transport.door);
	*one = (struct one){.component = c, .fd = out[0]};
	int r = posix_spawn(&one->pid, "/proc/self/exe", &actions, NULL, (char **)argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(out[1]);
	if (r == 0) {
		run->running_count++;
		return 0;
	}
	inlay_cleanup_close(&one->fd);
	one->fd = -1;
	return inlay_error_sys(err, -r, "start a sync");
}

static void put_result(const json_t *j, struct inlay_buf *b)
{
	const char *error = json_string_value(json_object_get(json_object_get(j, "error"), "text"));

	if (error) {
		inlay_text_escape(b, error, strlen(error));
		return;
	}
	inlay_buf_printf(b, "generation %lld: ",
			 (long long)json_integer_value(json_object_get(j, "generation")));
	if (json_is_true(json_object_get(j, "changed")))
		inlay_buf_printf(b, "%lld added, %lld changed, %lld removed",
				 (long long)json_integer_value(json_object_get(j, "added")),
				 (long long)json_integer_value(json_object_get(j, "modified")),
				 (long long)json_integer_value(json_object_get(j, "removed")));
	else
		inlay_buf_printf(b, "no change");
	inlay_buf_printf(b, "; ");
	inlay_text_size(b, (uint64_t)json_integer_value(json_object_get(j, "sent_bytes")));
	inlay_buf_printf(b, " sent");
}

static void report(struct run *run, size_t site, json_t *j, int code)
{
	const struct site *p = &run->up.sites.list[site];
	struct inlay_buf b = {0};

	if (run->told[site])
		return;
	run->told[site] = true;
	run->failed += code != 0;
	if (code)
		run->worst = code;
	if (run->s->common->json) {
		j = j ? json_deep_copy(j) : json_object();
		(void)json_object_set_new(j, "component", json_string(p->component->head.name));
		(void)json_object_set_new(j, "host", json_string(p->host->head.name));
		(void)json_object_set_new(j, "exit", json_integer(code));
		print_json(j);
		(void)fflush(stdout);
		return;
	}
	if (run->s->common->verbose < 0 && code == 0)
		return;
	inlay_buf_printf(&b, "%s %s: ", p->host->head.name, p->component->head.name);
	if (j)
		put_result(j, &b);
	else
		inlay_buf_printf(&b, "failed with %d", code);
	inlay_buf_u8(&b, '\n');
	print_text(code ? stderr : stdout, &b);
	(void)fflush(stdout);
}

/* What a result says of how it went. Of a target that is not mounted it says nothing else. */
static int code_of(const json_t *j, bool mounts)
{
	const json_t *error = json_object_get(j, "error");

	if (error)
		return (int)json_integer_value(json_object_get(error, "exit"));
	return mounts && !json_is_true(json_object_get(j, "mounted")) ? INLAY_EXIT_FAILURE
								      : INLAY_EXIT_OK;
}

static bool is_told_not_to_mount(const struct run *run)
{
	for (char *const *o = run->s->options; *o; o++)
		if (!strcmp(*o, "--no-mount") || !strcmp(*o, "--dry-run") || !strcmp(*o, "-n"))
			return true;
	return false;
}

/* Its own lines about changes have no target, and neither has a failure of the folder: that is of all its sites. */
static void hear_line(struct run *run, const struct one *one, const char *line, size_t len)
{
	json_t *j = json_loadb(line, len, 0, NULL);
	const char *target = json_string_value(json_object_get(j, "target"));
	bool of_all = !target && json_object_get(j, "error");

	for (size_t i = 0; i < run->up.sites.count && (target || of_all); i++) {
		const struct site *p = &run->up.sites.list[i];
		auto_buf struct inlay_buf text = {0};
		target_text(&p->target, &text);
		if (p->component == one->component &&
		    (of_all || strcmp(inlay_buf_cstr(&text), target) == 0))
			report(run, i, j, code_of(j, !is_told_not_to_mount(run)));
	}
	json_decref(j);
}

static void finish(struct run *run, struct one *one)
{
	int status = 0;

	inlay_cleanup_close(&one->fd);
	one->fd = -1;
	while (waitpid(one->pid, &status, 0) < 0 && errno == EINTR)
		;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : INLAY_EXIT_FAILURE;
	run->running_count--;
	for (size_t i = 0; i < run->up.sites.count; i++)
		if (run->up.sites.list[i].component == one->component)
			report(run, i, NULL, code ? code : INLAY_EXIT_FAILURE);
	inlay_buf_fini(&one->said);
}

static void hear(struct run *run, struct one *one)
{
	uint8_t *room = inlay_buf_reserve(&one->said, READ_BYTES);
	ssize_t n = room ? read(one->fd, room, READ_BYTES) : 0;

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		finish(run, one);
		return;
	}
	one->said.len += (size_t)n;
	uint8_t *at = one->said.data, *end = at + one->said.len, *newline;
	while ((newline = memchr(at, '\n', (size_t)(end - at)))) {
		hear_line(run, one, (const char *)at, (size_t)(newline - at));
		at = newline + 1;
	}
	one->said.len = (size_t)(end - at);
	memmove(one->said.data, at, one->said.len);
}

/* The next component that has a site in this run; NULL = none. */
static const struct config_component *next_component(struct run *run)
{
	while (run->next < run->config->components.count) {
		const struct config_component *c = run->config->ordered[run->next++];
		for (size_t i = 0; i < run->up.sites.count; i++)
			if (run->up.sites.list[i].component == c)
				return c;
	}
	return NULL;
}

static int run_all(struct run *run, struct inlay_error *err)
{
	const struct config_component *next;

	for (size_t i = 0; i < AT_A_TIME; i++)
		run->running[i].fd = -1;
	next = next_component(run);
	while (next || run->running_count > 0) {
		struct pollfd fds[AT_A_TIME];
		for (size_t i = 0; i < AT_A_TIME; i++) {
			struct one *one = &run->running[i];
			if (one->fd < 0 && next) {
				int r = start(run, next, one, err);
				if (r < 0)
					return r;
				next = next_component(run);
			}
			fds[i] = (struct pollfd){.fd = one->fd, .events = POLLIN};
		}
		if (poll(fds, AT_A_TIME, -1) < 0)
			continue;
		for (size_t i = 0; i < AT_A_TIME; i++)
			if (fds[i].fd >= 0 && fds[i].revents)
				hear(run, &run->running[i]);
	}
	return 0;
}

static struct transport_options reach(void *ctx, const struct target *t)
{
	return common_transport(ctx, t);
}

static int join_lines(struct run *run, struct lines *lines, struct inlay_error *err)
{
	struct sites *sites = &run->up.sites;
	auto_free struct transport_options **ways =
		calloc(sites->count + 1, sizeof(struct transport_options *));

	if (!ways)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < sites->count; i++)
		ways[i] = &sites->list[i].transport;
	return lines_join_shared(lines, ways, sites->count, err);
}

int syncall(const struct syncall *s)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	auto_free struct run *run = calloc(1, sizeof *run);
	struct inlay_error err = {0};
	struct lines lines = {0};
	struct up_options uo = {.set = &set,
				.components =
					*s->components ? (const char *const *)s->components : NULL,
				.hosts = s->hosts,
				.reach = reach,
				.ctx = (void *)s->common};
	int r = run ? 0 : inlay_error_set(&err, -ENOMEM, "out of memory");

	if (r == 0)
		r = project_load(s->file, &set, &err);
	if (r < 0)
		return common_fail(s->common, &err);
	run->s = s;
	run->config = set.config;
	r = up_init(&run->up, &uo, &err);
	size_t count = run->up.sites.count;
	auto_free bool *told = calloc(count + 1, sizeof *told);
	run->told = told;
	if (r == 0 && !told)
		r = inlay_error_set(&err, -ENOMEM, "out of memory");
	if (r == 0)
		r = join_lines(run, &lines, &err);
	if (r == 0)
		r = run_all(run, &err);
	lines_end(&lines);
	up_fini(&run->up);
	if (r < 0)
		return common_fail(s->common, &err);
	if (run->failed == 0)
		return INLAY_EXIT_OK;
	return run->failed < count ? INLAY_EXIT_SOME_HOSTS : run->worst;
}
