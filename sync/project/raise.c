/* SPDX-License-Identifier: Apache-2.0 */
#include "project/raise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "project/orders.h"
#include "session/lines.h"

enum {
	ARGS_MAX = 4096,
	LINE_MAX_BYTES = 1 << 20, /* of what a child tells */
	READ_BYTES = 64 << 10,
	CHILDREN_MAX = 1024, /* as many as there can be components */
	NAMES_COMPARED_MAX = 256,
};

extern char **environ;

/* ---- sites ---- */

int up_target(const struct config_component *c, const struct config_host *h, char **ret,
	      struct inlay_error *err)
{
	const char *address = h->address ? h->address : h->head.name, *home = getenv("HOME");
	auto_buf struct inlay_buf b = {0};

	if (strcmp(address, "local") == 0) {
		if (c->target[0] != '/')
			inlay_buf_printf(&b, "%s/", home ? home : "");
		inlay_buf_printf(&b, "%s", strncmp(c->target, "~/", 2) ? c->target : c->target + 2);
	} else if (h->port) {
		inlay_buf_printf(&b, "ssh://%s:%s/%s%s", address, h->port,
				 c->target[0] == '/' ? "" : "~/",
				 c->target[0] == '/' ? c->target + 1 : c->target);
	} else {
		inlay_buf_printf(&b, "%s:%s", address, c->target);
	}
	*ret = b.failed ? NULL : strdup(inlay_buf_cstr(&b));
	return *ret ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

static bool listed(const char *const *list, const char *name)
{
	for (; list && *list; list++)
		if (strcmp(*list, name) == 0)
			return true;
	return false;
}

static bool is_used(const struct up_options *o, const char *host)
{
	const struct config *c = o->set->config;

	for (size_t i = 0; i < c->components.count; i++)
		for (size_t k = 0; k < c->ordered[i]->host_count; k++)
			if (config_means_host(o->set, host, c->ordered[i]->host_list[k]->head.name))
				return true;
	return false;
}

static int no_component(const struct config *c, const char *name, struct inlay_error *err)
{
	const char *names[NAMES_COMPARED_MAX];
	size_t count = 0;

	for (; count < c->components.count && count < NAMES_COMPARED_MAX; count++)
		names[count] = c->ordered[count]->head.name;
	const char *near = fields_nearest(name, names, count);
	return inlay_error_set(err, -ENOENT, "the project has no component '%s'%s%s%s", name,
			       near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static int check_names(const struct up_options *o, struct inlay_error *err)
{
	for (const char *const *n = o->hosts; n && *n; n++)
		if (!is_used(o, *n))
			return inlay_error_set(err, -ENOENT,
					       "no component of the project is on '%s'", *n);
	for (const char *const *n = o->components; n && *n; n++)
		if (!config_find(o->set->config, *n))
			return no_component(o->set->config, *n, err);
	return 0;
}

static bool is_meant(const struct up_options *o, const struct config_host *h)
{
	for (const char *const *n = o->hosts; *n; n++)
		if (config_means_host(o->set, *n, h->head.name))
			return true;
	return false;
}

static bool wanted(const struct up_options *o, const struct config_component *c,
		   const struct config_host *h)
{
	return (!o->components || listed(o->components, c->head.name)) &&
	       (!o->hosts || is_meant(o, h));
}

static int add_site(struct up *up, const struct config_component *c, const struct config_host *h,
		    struct inlay_error *err)
{
	struct site *p = &up->sites.list[up->sites.count];

	*p = (struct site){.component = c, .host = h, .no_hooks = up->o->no_hooks, .fd = -1};
	int r = up_target(c, h, &p->target_text, err);
	if (r == 0)
		r = target_parse(p->target_text, &p->target, err);
	if (r == 0) {
		p->transport = up->o->reach(up->o->ctx, &p->target);
		up->sites.count++;
	} else {
		free(p->target_text);
	}
	return r;
}

int up_init(struct up *up, const struct up_options *o, struct inlay_error *err)
{
	const struct config *c = o->set->config;
	size_t count = 0;
	int r = check_names(o, err);

	up->o = o;
	up->sites = (struct sites){.backs = &up->backs};
	for (size_t i = 0; i < c->components.count; i++)
		count += c->ordered[i]->host_count;
	up->sites.list = calloc(count + 1, sizeof *up->sites.list);
	if (!up->sites.list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = backs_init(&up->backs, c, o->dev_state, err);
	for (size_t i = 0; r == 0 && i < c->components.count; i++)
		for (size_t h = 0; r == 0 && h < c->ordered[i]->host_count; h++)
			if (wanted(o, c->ordered[i], c->ordered[i]->host_list[h]))
				r = add_site(up, c->ordered[i], c->ordered[i]->host_list[h], err);
	if (r == 0 && up->sites.count == 0)
		r = inlay_error_set(err, -ENOENT, "no component of the project is on that host");
	return r;
}

void up_fini(struct up *up)
{
	for (size_t i = 0; i < up->sites.count; i++)
		site_fini(&up->sites.list[i]);
	free(up->sites.list);
	backs_fini(&up->backs);
	up->sites = (struct sites){0};
}

/* ---- children ---- */

struct child {
	const struct config_component *component;
	pid_t pid;
	int fd; /* its standard output */
	struct inlay_buf line;
	bool ended;
	char error[512]; /* what it said of its end */
};

struct args {
	const char *list[ARGS_MAX];
	size_t count, text_count;
	char texts[8][32]; /* numbers among them */
};

static void add(struct args *a, const char *text)
{
	if (a->count + 1 < ARGS_MAX)
		a->list[a->count++] = text;
}

static void add_option(struct args *a, const char *name, const char *value)
{
	if (value) {
		add(a, name);
		add(a, value);
	}
}

static void add_number(struct args *a, const char *name, uint64_t n, const char *unit)
{
	char *text = a->texts[a->text_count++];

	(void)snprintf(text, sizeof a->texts[0], "%llu%s", (unsigned long long)n, unit);
	add_option(a, name, text);
}

static void add_duration(struct args *a, const char *name, int64_t ns)
{
	if (ns)
		add_number(a, name, ((uint64_t)ns + 999999) / 1000000, "ms");
}

/* `before_fd` has the order of what runs before a change set is shown; -1 = nothing. */
static void child_args(const struct up *up, const struct config_component *c, int before_fd,
		       const char *doors, struct args *a)
{
	const struct config *project = up->o->set->config;

	add(a, "inlay");
	add(a, "watch");
	add(a, "--json");
	add_option(a, "--state", up->o->state);
	add_option(a, "-e", up->o->rsh);
	add_option(a, "--transport", up->o->transport);
	if (up->o->no_boot)
		add(a, "--no-boot");
	if (up->o->steal)
		add(a, "--steal");
	if (c->gitignore == CONFIG_NO)
		add(a, "--no-gitignore");
	for (size_t i = 0; i < c->ignore.count; i++)
		add_option(a, "--exclude", c->ignore.items[i]);
	for (size_t i = 0; i < c->redirect.count; i++)
		add_option(a, "--redirect", c->redirect.items[i]);
	add_duration(a, "--settle", project->watch.settle_ns);
	add_duration(a, "--max-delay", project->watch.max_delay_ns);
	add_duration(a, "--patience", c->timeouts.push_ns);
	add_duration(a, "--connect-timeout", c->timeouts.connect_ns);
	if (project->bwlimit)
		add_number(a, "--bwlimit", (project->bwlimit + 1023) / 1024, "k");
	add_option(a, "--doors", doors);
	if (before_fd >= 0) {
		add_number(a, "--before-fd", (uint64_t)before_fd, "");
		add_duration(a, "--before-time",
			     c->before.timeout_ns ? c->before.timeout_ns
						  : order_timeout(c, "before"));
	}
	add(a, "--");
	add(a, c->source_path);
	for (size_t i = 0; i < up->sites.count; i++)
		if (up->sites.list[i].component == c)
			add(a, up->sites.list[i].target_text);
}

/* The order of a component's `before` as a memory file; -1 = it has none. */
static int before_file(const struct up *up, const struct config_component *c, int *ret,
		       struct inlay_error *err)
{
	auto_buf struct inlay_buf order = {0};

	*ret = -1;
	if (!c->before.head.at || up->o->no_hooks)
		return 0;
	int r = order_run(&order, c, "before", &c->before, err);
	if (r < 0)
		return r;
	auto_close int fd = memfd_create("inlay-before", MFD_CLOEXEC);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "make a memory file");
	r = inlay_write_all(fd, order.data, order.len, "an order", err);
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = inlay_error_sys(err, -errno, "rewind a memory file");
	if (r == 0)
		*ret = take_fd(fd);
	return r;
}

static int start_child(const struct up *up, const struct config_component *c, struct child *ret,
		       struct inlay_error *err)
{
	auto_free struct args *a = calloc(1, sizeof *a);
	auto_close int before_fd = -1;
	auto_buf struct inlay_buf doors = {0};
	int out[2];
	pid_t self = getpid();
	int r = a ? before_file(up, c, &before_fd, err)
		  : inlay_error_set(err, -ENOMEM, "out of memory");

	if (r < 0)
		return r;
	sites_doors(&up->sites, c, &doors);
	child_args(up, c, before_fd, inlay_buf_cstr(&doors), a);
	if (a->count + 1 >= ARGS_MAX)
		return inlay_error_set(err, -E2BIG, "'%s' has too many hosts or patterns",
				       c->head.name);
	if (pipe2(out, O_CLOEXEC) < 0)
		return inlay_error_sys(err, -errno, "make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		sigset_t none;
		/* It has no use of its own: it ends with us, however we end. */
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
		(void)sigemptyset(&none);
		(void)sigprocmask(SIG_SETMASK, &none, NULL);
		(void)dup2(out[1], 1);
		if (before_fd >= 0)
			(void)fcntl(before_fd, F_SETFD, 0);
		for (size_t i = 0; i < up->sites.count; i++)
			if (up->sites.list[i].component == c && up->sites.list[i].transport.door)
				(void)fcntl(up->sites.list[i].transport.door, F_SETFD, 0);
		if (getppid() == self)
			(void)execv("/proc/self/exe", (char **)a->list);
		_exit(127);
	}
	(void)close(out[1]);
	if (pid < 0) {
		(void)close(out[0]);
		return inlay_error_sys(err, -errno, "start a watch");
	}
	*ret = (struct child){.component = c, .pid = pid, .fd = out[0]};
	return 0;
}

/* ---- what children tell ---- */

static struct site *find_site(struct up *up, const struct child *c, const char *target)
{
	for (size_t i = 0; i < up->sites.count; i++) {
		struct site *p = &up->sites.list[i];
		auto_buf struct inlay_buf text = {0};
		target_text(&p->target, &text);
		if (p->component == c->component && strcmp(inlay_buf_cstr(&text), target) == 0)
			return p;
	}
	return NULL;
}

static void tell(struct up *up, const struct up_event *e)
{
	scope_lock(&up->sites.telling);
	up->tell(up->ctx, e);
}

/* "hook-begin", "hook-output", "hook-end": of what runs before a change set is shown. */
static bool hear_hook(struct up *up, struct site *p, const char *event, const json_t *j)
{
	static const char *const names[] = {"hook-begin", "hook-output", "hook-end"};
	struct site_event s = {.site = p,
			       .step = json_string_value(json_object_get(j, "step")),
			       .text = json_string_value(json_object_get(j, "text"))};
	const char *stream = json_string_value(json_object_get(j, "stream"));
	int64_t code = json_integer_value(json_object_get(j, "exit"));
	size_t i = 0;

	while (i < 3 && strcmp(event, names[i]) != 0)
		i++;
	if (i == 3 || !s.step)
		return false;
	s.kind = (enum site_event_kind)i;
	s.len = s.text ? strlen(s.text) : 0;
	s.errors = stream && strcmp(stream, "stderr") == 0;
	s.ok = json_is_true(json_object_get(j, "ok"));
	s.timed_out = json_is_true(json_object_get(j, "timed_out"));
	s.cut = json_is_true(json_object_get(j, "cut"));
	s.status = code > 128 ? (int)(code - 128) : (int)code << 8;
	s.took_ns = (int64_t)(json_number_value(json_object_get(j, "took_ms")) * 1e6);
	tell(up, &(struct up_event){.kind = UP_SITE,
				    .step = &s,
				    .component = p->component->head.name,
				    .host = p->host->head.name});
	return true;
}

/* Why a watch cannot run is the last that it says. */
static void hear_error(struct child *c, const json_t *error)
{
	const char *text = json_string_value(json_object_get(error, "text"));

	if (text)
		(void)snprintf(c->error, sizeof c->error, "%s", text);
}

static void hear_line(struct up *up, struct child *c, const char *line, size_t len)
{
	json_t *j = json_loadb(line, len, 0, NULL);
	const char *event = json_string_value(json_object_get(j, "event"));
	const char *target = json_string_value(json_object_get(j, "target"));
	struct site *p = target ? find_site(up, c, target) : NULL;
	struct up_event e = {.component = c->component->head.name,
			     .host = p ? p->host->head.name : NULL,
			     .told = j};

	if (event && strcmp(event, "visible") == 0 && p) {
		e.kind = UP_VISIBLE;
		tell(up, &e);
		sites_shown(&up->sites, p,
			    (uint64_t)json_integer_value(json_object_get(j, "generation")));
	} else if (event && p && hear_hook(up, p, event, j)) {
		/* told */
	} else if (event) {
		e.kind = strcmp(event, "state") == 0 ? UP_STATE : UP_NOTE;
		tell(up, &e);
		if (e.kind == UP_STATE && p)
			sites_lost(&up->sites, p);
	} else {
		hear_error(c, json_object_get(j, "error"));
	}
	json_decref(j);
}

static void hear(struct up *up, struct child *c)
{
	uint8_t *room = inlay_buf_reserve(&c->line, READ_BYTES);
	ssize_t n = room ? read(c->fd, room, READ_BYTES) : 0;

	if (n <= 0) {
		if (n < 0 && errno == EINTR)
			return;
		inlay_cleanup_close(&c->fd);
		c->fd = -1;
		c->ended = true;
		return;
	}
	c->line.len += (size_t)n;
	uint8_t *at = c->line.data, *end = at + c->line.len, *newline;
	while ((newline = memchr(at, '\n', (size_t)(end - at)))) {
		hear_line(up, c, (const char *)at, (size_t)(newline - at));
		at = newline + 1;
	}
	c->line.len = (size_t)(end - at);
	memmove(c->line.data, at, c->line.len);
	if (c->line.len > LINE_MAX_BYTES)
		inlay_buf_clear(&c->line);
}

/* ---- the loop ---- */

struct run {
	struct up *up;
	struct child *children;
	size_t count;
	int signal_fd, wake_fd;
	bool ready_told, end;
	struct inlay_error failed; /* a watch that ended by itself */
};

static void on_site(void *ctx, const struct site_event *e)
{
	struct run *r = ctx;
	const struct up_event up = {.kind = UP_SITE,
				    .step = e,
				    .component = e->site->component->head.name,
				    .host = e->site->host->head.name};

	r->up->tell(r->up->ctx, &up);
}

static void on_settled(void *ctx)
{
	const struct run *r = ctx;
	uint64_t one = 1;

	(void)!write(r->wake_fd, &one, sizeof one);
}

static bool all_settled(struct up *up, size_t *ret_failed)
{
	size_t settled = 0;

	*ret_failed = 0;
	scope_lock(&up->sites.lock);
	for (size_t i = 0; i < up->sites.count; i++) {
		const struct site *p = &up->sites.list[i];
		settled += p->rounds > 0 && !p->busy;
		*ret_failed += !p->up || p->failed;
	}
	return settled == up->sites.count;
}

static int open_signals(int *ret, struct inlay_error *err)
{
	static const int heard[] = {SIGINT, SIGTERM, SIGHUP, 0};

	return inlay_signal_fd(heard, ret, err);
}

/* A watch that ends before it was told to has said why on standard error. */
static void child_ended(struct run *run, struct child *c)
{
	int status = 0;

	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	c->pid = 0;
	if (run->end || run->failed.code)
		return;
	(void)inlay_error_set(&run->failed, -ECHILD, "the watch of '%s' ended%s%s",
			      c->component->head.name, c->error[0] ? ": " : "", c->error);
	(void)inlay_error_set_exit(&run->failed, WIFEXITED(status) && WEXITSTATUS(status)
							 ? (enum inlay_exit)WEXITSTATUS(status)
							 : INLAY_EXIT_FAILURE);
	run->end = true;
}

static void turn(struct run *run)
{
	struct pollfd fds[2 + CHILDREN_MAX];
	struct signalfd_siginfo info;
	uint64_t count;
	size_t failed;

	fds[0] = (struct pollfd){.fd = run->signal_fd, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = run->wake_fd, .events = POLLIN};
	for (size_t i = 0; i < run->count; i++)
		fds[2 + i] = (struct pollfd){.fd = run->children[i].fd, .events = POLLIN};
	if (poll(fds, 2 + run->count, -1) < 0)
		return;
	if (fds[0].revents && read(run->signal_fd, &info, sizeof info) == sizeof info)
		run->end = true;
	bool settled = fds[1].revents && read(run->wake_fd, &count, sizeof count) == sizeof count;
	for (size_t i = 0; i < run->count; i++) {
		struct child *c = &run->children[i];
		if (fds[2 + i].revents)
			hear(run->up, c);
		if (c->ended && c->pid)
			child_ended(run, c);
	}
	if (settled && run->up->settled) {
		scope_lock(&run->up->sites.telling);
		run->up->settled(run->up->ctx);
	}
	if (run->ready_told || !all_settled(run->up, &failed))
		return;
	run->ready_told = true;
	tell(run->up, &(struct up_event){.kind = UP_READY});
	run->end |= run->up->o->once;
}

static void end_children(struct run *run)
{
	for (size_t i = 0; i < run->count; i++)
		if (run->children[i].pid)
			(void)kill(run->children[i].pid, SIGTERM);
	for (size_t i = 0; i < run->count; i++) {
		struct child *c = &run->children[i];
		while (c->pid && waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
		inlay_cleanup_close(&c->fd);
		inlay_buf_fini(&c->line);
	}
}

static int start_children(struct run *run, struct inlay_error *err)
{
	const struct config *c = run->up->o->set->config;
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->components.count; i++) {
		bool any = false;
		for (size_t k = 0; k < run->up->sites.count; k++)
			any |= run->up->sites.list[k].component == c->ordered[i];
		if (!any)
			continue;
		r = start_child(run->up, c->ordered[i], &run->children[run->count], err);
		run->count += r == 0;
	}
	return r;
}

int up_run(struct up *up, size_t *ret_failed, struct inlay_error *err)
{
	auto_free struct child *children =
		calloc(up->o->set->config->components.count + 1, sizeof *children);
	auto_close int signal_fd = -1;
	auto_close int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct run run = {.up = up, .children = children, .wake_fd = wake_fd};
	struct lines lines = {0};

	if (!children || wake_fd < 0)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = open_signals(&signal_fd, err);
	run.signal_fd = signal_fd;
	up->sites.tell = on_site;
	up->sites.settled = on_settled;
	up->sites.ctx = &run;
	/* Before any thread: lines and children are made by fork. A site has a session for its change sets and one
	 * for its hooks. */
	for (size_t i = 0; r == 0 && i < up->sites.count; i++)
		r = lines_join(&lines, &up->sites.list[i].transport, err);
	if (r == 0)
		r = start_children(&run, err);
	bool threads = r == 0;
	if (r == 0)
		r = sites_start(&up->sites, err);
	while (r == 0 && !run.end)
		turn(&run);
	if (threads)
		sites_stop(&up->sites);
	end_children(&run);
	lines_end(&lines);
	if (r == 0)
		(void)all_settled(up, ret_failed);
	if (r == 0 && run.failed.code) {
		*err = run.failed;
		r = err->code;
	}
	return r;
}
