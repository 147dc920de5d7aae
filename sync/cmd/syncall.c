/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each site (a component on a host) is synced by an `inlay sync` of its own, so that a host which is slow or gone
 * delays no other. Those of one component wait for each other at its folder's lock; the second finds everything
 * scanned.
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
	const struct site *site;
	pid_t pid;
	int fd; /* its standard output; -1 = it does not run */
	struct inlay_buf said;
};

struct run {
	const struct syncall *s;
	const struct config *config;
	struct up up;
	size_t next, failed, done;
	int worst;
	struct one running[AT_A_TIME];
};

static void put(const char **argv, size_t *n, const char *text)
{
	if (*n + 1 < ARGS_MAX)
		argv[(*n)++] = text;
}

static int start(struct run *run, struct one *one, struct inlay_error *err)
{
	const struct site *p = &run->up.sites.list[run->next++];
	const struct config_component *c = p->component;
	auto_free const char **argv = calloc(ARGS_MAX, sizeof *argv);
	posix_spawn_file_actions_t actions;
	char hosts[24];
	size_t n = 0;
	int out[2];

	(void)snprintf(hosts, sizeof hosts, "%u", sites_host_count(&run->up.sites));
	if (!argv)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	put(argv, &n, "inlay");
	put(argv, &n, "sync");
	put(argv, &n, "--json");
	put(argv, &n, "--host-count");
	put(argv, &n, hosts);
	if (c->gitignore == CONFIG_NO)
		put(argv, &n, "--no-gitignore");
	for (size_t i = 0; i < c->ignore.count; i++) {
		put(argv, &n, "--exclude");
		put(argv, &n, c->ignore.items[i]);
	}
	for (char *const *o = run->s->options; *o; o++)
		put(argv, &n, *o);
	put(argv, &n, "--");
	put(argv, &n, c->source_path);
	put(argv, &n, p->target_text);
	if (pipe2(out, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	*one = (struct one){.site = p, .fd = out[0]};
	int r = posix_spawn(&one->pid, "/proc/self/exe", &actions, NULL, (char **)argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(out[1]);
	if (r == 0)
		return 0;
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

static void report(struct run *run, const struct one *one, int code)
{
	const struct site *p = one->site;
	auto_buf struct inlay_buf last = {0};
	struct inlay_buf b = {0};
	json_t *j;

	/* The result is the last line; changes may stand before it. */
	inlay_buf_add(&last, one->said.data, one->said.len);
	char *text = (char *)inlay_buf_cstr(&last);
	while (last.len > 0 && text[last.len - 1] == '\n')
		text[--last.len] = 0;
	char *line = strrchr(text, '\n');
	j = json_loads(line ? line + 1 : text, 0, NULL);
	if (run->s->common->json) {
		j = j ? j : json_object();
		(void)json_object_set_new(j, "component", json_string(p->component->head.name));
		(void)json_object_set_new(j, "host", json_string(p->host->head.name));
		(void)json_object_set_new(j, "exit", json_integer(code));
		print_json(j);
		return;
	}
	if (run->s->common->verbose >= 0 || code != 0) {
		inlay_buf_printf(&b, "%s %s: ", p->host->head.name, p->component->head.name);
		if (j)
			put_result(j, &b);
		else
			inlay_buf_printf(&b, "failed with %d", code);
		inlay_buf_u8(&b, '\n');
		print_text(code ? stderr : stdout, &b);
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
	run->done++;
	run->failed += code != 0;
	if (code)
		run->worst = code;
	report(run, one, code);
	inlay_buf_fini(&one->said);
}

static void hear(struct run *run, struct one *one)
{
	uint8_t *room = inlay_buf_reserve(&one->said, READ_BYTES);
	ssize_t n = room ? read(one->fd, room, READ_BYTES) : 0;

	if (n < 0 && errno == EINTR)
		return;
	if (n > 0)
		one->said.len += (size_t)n;
	else
		finish(run, one);
}

static int run_all(struct run *run, struct inlay_error *err)
{
	int r = 0;

	for (size_t i = 0; i < AT_A_TIME; i++)
		run->running[i].fd = -1;
	while (run->done < run->up.sites.count) {
		struct pollfd fds[AT_A_TIME];
		for (size_t i = 0; i < AT_A_TIME; i++) {
			struct one *one = &run->running[i];
			if (one->fd < 0 && run->next < run->up.sites.count)
				r = start(run, one, err);
			if (r < 0)
				return r;
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

int syncall(const struct syncall *s)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	auto_free struct run *run = calloc(1, sizeof *run);
	struct inlay_error err = {0};
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
	if (r == 0)
		r = run_all(run, &err);
	size_t count = run->up.sites.count;
	up_fini(&run->up);
	if (r < 0)
		return common_fail(s->common, &err);
	if (run->failed == 0)
		return INLAY_EXIT_OK;
	return run->failed < count ? INLAY_EXIT_SOME_HOSTS : run->worst;
}
