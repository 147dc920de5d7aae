/* SPDX-License-Identifier: Apache-2.0 */
/* What names mean: hosts and groups, sources, the order of components. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/hostsfile.h"
#include "inlay/run.h"

enum {
	HOSTS_MAX = 4096, /* of one component, and of all */
	COMPONENTS_MAX = 1024,
	GROUP_DEPTH_MAX = 16,
	NAMES_MAX = 256, /* that are compared for a suggestion */
};

struct resolve {
	struct config_set *set;
	const struct config_host *
		*hosts; /* all that are known, also those that hosts.yaml does not name */
	size_t host_count, host_cap;
};

static int no_memory(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOMEM, "out of memory");
}

static struct config_component *component(const struct config *c, size_t i)
{
	return (struct config_component *)c->components.items + i;
}

/* ---- hosts ---- */

static const struct config_group *find_group(const struct config_set *set, const char *name)
{
	const struct config_group *list = set->groups.items;

	for (size_t i = 0; i < set->groups.count; i++)
		if (strcmp(list[i].head.name, name) == 0)
			return &list[i];
	return NULL;
}

static void unknown_group(const struct config_set *set, const struct yaml_node *at,
			  const char *name)
{
	const struct config_group *list = set->groups.items;
	const char *names[NAMES_MAX];
	size_t count = 0;

	for (size_t i = 0; i < set->groups.count && count < NAMES_MAX; i++)
		names[count++] = list[i].head.name;
	const char *near = fields_nearest(name, names, count);
	if (near)
		config_problem((struct config_problems *)&set->problems, at,
			       "there is no group '@%s'; did you mean '@%s'?", name, near);
	else
		config_problem((struct config_problems *)&set->problems, at,
			       "there is no group '@%s'; hosts.yaml names groups", name);
}

/* The host of that name, known or new. */
static int get_host(struct resolve *r, const char *name, const struct config_host **ret,
		    struct inlay_error *err)
{
	for (size_t i = 0; i < r->host_count; i++) {
		if (strcmp(r->hosts[i]->head.name, name) == 0) {
			*ret = r->hosts[i];
			return 0;
		}
	}
	if (r->host_count == HOSTS_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d hosts", HOSTS_MAX);
	struct config_host *h = yaml_alloc(r->set->tree, sizeof *h);
	if (!h)
		return no_memory(err);
	h->head.name = name;
	*ret = r->hosts[r->host_count++] = h;
	return 0;
}

static int add_host(struct resolve *r, struct config_component *c, const char *name,
		    struct inlay_error *err)
{
	const struct config_host *h;
	int e = get_host(r, name, &h, err);

	for (size_t i = 0; e == 0 && i < c->host_count; i++)
		if (c->host_list[i] == h)
			return 0;
	if (e == 0)
		c->host_list[c->host_count++] = h;
	return e;
}

static bool means_host(const struct config_set *set, const char *name, const char *host,
		       unsigned depth)
{
	if (name[0] != '@')
		return strcmp(name, host) == 0;
	const struct config_group *g = depth <= GROUP_DEPTH_MAX ? find_group(set, name + 1) : NULL;
	for (size_t i = 0; g && i < g->hosts.count; i++)
		if (means_host(set, g->hosts.items[i], host, depth + 1))
			return true;
	return false;
}

bool config_means_host(const struct config_set *set, const char *name, const char *host)
{
	return means_host(set, name, host, 0);
}

/* `at` is where the first of the names stands; in a group it is the group. */
static int add_hosts(struct resolve *r, struct config_component *c,
		     const struct config_texts *names, const struct yaml_node *at, unsigned depth,
		     struct inlay_error *err)
{
	int e = 0;

	if (depth > GROUP_DEPTH_MAX) {
		config_problem(&r->set->problems, at, "groups name each other in a circle");
		return 0;
	}
	for (size_t i = 0; e == 0 && i < names->count; i++) {
		const char *name = names->items[i];
		const struct yaml_node *here =
			at && at->kind == YAML_LIST && i < at->count ? at->items[i] : at;
		if (name[0] == '@') {
			const struct config_group *g = find_group(r->set, name + 1);
			if (g)
				e = add_hosts(r, c, &g->hosts, here, depth + 1, err);
			else
				unknown_group(r->set, here, name + 1);
		} else if (!*name || *name == '-' || strchr(name, '/') || strchr(name, ' ')) {
			config_problem(&r->set->problems, here, "'%s' is no name of a host", name);
		} else {
			e = add_host(r, c, name, err);
		}
	}
	return e;
}

static int resolve_hosts(struct resolve *r, struct config_component *c, struct inlay_error *err)
{
	const struct yaml_node *own =
		yaml_get(yaml_get(r->set->merged, "components"), c->head.name);
	const struct yaml_node *at = yaml_get(own, "hosts");
	bool project = c->hosts.count == 0;

	c->host_list = yaml_alloc(r->set->tree, HOSTS_MAX * sizeof *c->host_list);
	if (!c->host_list)
		return no_memory(err);
	int e = add_hosts(r, c, project ? &r->set->config->hosts : &c->hosts,
			  project ? yaml_get(r->set->merged, "hosts") : at, 0, err);
	if (e == 0 && c->host_count == 0)
		config_problem(&r->set->problems, c->head.at,
			       "component '%s' has no hosts, and the project names none",
			       c->head.name);
	return e;
}

/* ---- targets ---- */

/* "a//b/./c/" and "a/b/c" are one place. */
static void plain_path(const char *path, char *ret, size_t size)
{
	size_t n = 0;

	if (strncmp(path, "~/", 2) == 0)
		path += 2;
	for (const char *p = path; *p && n + 1 < size; p++) {
		bool start = n == 0 || ret[n - 1] == '/';
		if (*p == '/' && n > 0 && ret[n - 1] == '/')
			continue;
		if (*p == '.' && start && (p[1] == '/' || !p[1])) {
			p += p[1] == '/';
			continue;
		}
		ret[n++] = *p;
	}
	while (n > 1 && ret[n - 1] == '/')
		n--;
	ret[n] = 0;
}

static bool share_a_host(const struct config_component *a, const struct config_component *b,
			 const char **ret)
{
	for (size_t i = 0; i < a->host_count; i++)
		for (size_t j = 0; j < b->host_count; j++)
			if (a->host_list[i] == b->host_list[j]) {
				*ret = a->host_list[i]->head.name;
				return true;
			}
	return false;
}

static bool inside(const char *inner, const char *outer)
{
	size_t len = strlen(outer);

	return strncmp(inner, outer, len) == 0 && (inner[len] == '/' || !inner[len]);
}

static void check_targets(struct resolve *r)
{
	const struct config *c = r->set->config;
	const char *host;
	char a[4096], b[4096];

	for (size_t i = 0; i < c->components.count; i++) {
		const struct config_component *x = component(c, i);
		if (!x->target)
			continue;
		plain_path(x->target, a, sizeof a);
		if (!*a || strstr(a, "..") == a || strstr(a, "/../"))
			config_problem(&r->set->problems, x->head.at,
				       "'%s' cannot be a target: it is empty or leads upwards",
				       x->target);
		for (size_t j = 0; j < i; j++) {
			const struct config_component *y = component(c, j);
			if (!y->target || !share_a_host(x, y, &host))
				continue;
			plain_path(y->target, b, sizeof b);
			if (inside(a, b) || inside(b, a))
				config_problem(&r->set->problems, x->head.at,
					       "the targets of '%s' and '%s' on %s are the same or "
					       "inside one "
					       "another",
					       x->head.name, y->head.name, host);
		}
	}
}

/* ---- the order ---- */

static int64_t index_of(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->components.count; i++)
		if (strcmp(component(c, i)->head.name, name) == 0)
			return (int64_t)i;
	return -1;
}

static void unknown_need(struct resolve *r, const struct config_component *c, const char *name)
{
	const char *names[NAMES_MAX];
	size_t count = 0;

	for (size_t i = 0; i < r->set->config->components.count && count < NAMES_MAX; i++)
		names[count++] = component(r->set->config, i)->head.name;
	const char *near = fields_nearest(name, names, count);
	config_problem(&r->set->problems, c->head.at,
		       "'%s' needs '%s', which is no component%s%s%s", c->head.name, name,
		       near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

struct order {
	struct resolve *r;
	uint8_t *state; /* 0 new, 1 on the way, 2 done */
	const char *way[COMPONENTS_MAX + 1];
	size_t depth, next;
};

static void tell_circle(struct order *o, const char *name)
{
	auto_buf struct inlay_buf b = {0};
	size_t from = 0;

	while (from < o->depth && strcmp(o->way[from], name) != 0)
		from++;
	for (size_t i = from; i < o->depth; i++)
		inlay_buf_printf(&b, "%s -> ", o->way[i]);
	config_problem(&o->r->set->problems, config_find(o->r->set->config, name)->head.at,
		       "components need each other in a circle: %s%s", inlay_buf_cstr(&b), name);
}

static void visit(struct order *o, size_t i)
{
	struct config_component *c = component(o->r->set->config, i);

	if (o->state[i] == 1)
		tell_circle(o, c->head.name);
	if (o->state[i])
		return;
	o->state[i] = 1;
	o->way[o->depth++] = c->head.name;
	for (size_t n = 0; n < c->needs.count; n++) {
		int64_t j = index_of(o->r->set->config, c->needs.items[n]);
		if (j >= 0)
			visit(o, (size_t)j);
		else
			unknown_need(o->r, c, c->needs.items[n]);
	}
	o->depth--;
	o->state[i] = 2;
	c->order = o->next;
	o->r->set->config->ordered[o->next++] = c;
}

static int put_in_order(struct resolve *r, struct inlay_error *err)
{
	struct config *c = r->set->config;
	struct order o = {.r = r, .state = yaml_alloc(r->set->tree, c->components.count + 1)};

	c->ordered = yaml_alloc(r->set->tree, (c->components.count + 1) * sizeof(void *));
	if (!o.state || !c->ordered)
		return no_memory(err);
	for (size_t i = 0; i < c->components.count; i++)
		visit(&o, i);
	return 0;
}

/* ---- one component ---- */

static void check_signal(struct resolve *r, const struct yaml_node *at, const char *signal)
{
	struct inlay_error why = {0};
	int number;

	if (signal && inlay_run_parse_signal(signal, &number, &why) < 0)
		config_problem(&r->set->problems, at, "%s", why.text);
}

static void check_reload(struct resolve *r, const struct config_component *c)
{
	const struct config_reload *list = c->reload.items;

	for (size_t i = 0; i < c->reload.count; i++) {
		const struct config_reload *l = &list[i];
		int actions = (l->run.count > 0) + (l->restart == CONFIG_YES) +
			      (l->signal != NULL) + (l->rebuild_base == CONFIG_YES);
		if (actions != 1)
			config_problem(
				&r->set->problems, l->head.at,
				"exactly one of run, restart, signal and rebuild-base is wanted "
				"here");
		if ((l->restart == CONFIG_YES || l->signal) && !c->run.head.at)
			config_problem(
				&r->set->problems, l->head.at,
				"'%s' has no program to restart or to signal: 'run' is missing",
				c->head.name);
		if (l->rebuild_base == CONFIG_YES && !c->build_path)
			config_problem(&r->set->problems, l->head.at,
				       "'%s' has no image that is built: 'image' with 'build' is "
				       "missing",
				       c->head.name);
		check_signal(r, l->head.at, l->signal);
	}
}

static void inherit(int64_t *own, int64_t from)
{
	if (*own == 0)
		*own = from;
}

static void inherit_timeouts(struct config_timeouts *own, const struct config_timeouts *from)
{
	inherit(&own->connect_ns, from->connect_ns);
	inherit(&own->push_ns, from->push_ns);
	inherit(&own->before_ns, from->before_ns);
	inherit(&own->build_ns, from->build_ns);
	inherit(&own->run_ns, from->run_ns);
	inherit(&own->reload_ns, from->reload_ns);
}

/* "a/../b" and "/a" lead out of a folder; so does an empty path out of one that must be inside. */
static bool leads_out(const char *path)
{
	if (!*path || *path == '/')
		return true;
	for (const char *at = path; at; at = strchr(at, '/')) {
		at += *at == '/';
		if (strncmp(at, "..", 2) == 0 && (!at[2] || at[2] == '/'))
			return true;
	}
	return false;
}

static void check_places(struct resolve *r, const struct config_component *c)
{
	const struct config_back *back = c->back.items;

	for (size_t i = 0; i < c->back.count; i++) {
		const struct yaml_node *at = back[i].head.at;
		if (!back[i].to)
			continue;
		if (leads_out(back[i].to))
			config_problem(&r->set->problems, at,
				       "'to' is a folder inside the project, not '%s'", back[i].to);
		else if (c->host_count > 1 && !strstr(back[i].to, "{host}"))
			config_problem(&r->set->problems, at,
				       "'%s' is on %zu hosts, whose files would overwrite each "
				       "other: put {host} into '%s'",
				       c->head.name, c->host_count, back[i].to);
	}
	for (size_t i = 0; i < c->devices.count; i++)
		if (c->devices.items[i][0] != '/')
			config_problem(&r->set->problems, c->head.at,
				       "the device '%s' is not an absolute path like /dev/video0",
				       c->devices.items[i]);
	if (c->devices.count && !c->run.head.at)
		config_problem(&r->set->problems, c->head.at,
			       "'%s' has devices and no program that needs them: 'run' is missing",
			       c->head.name);
	for (size_t i = 0; i < c->redirect.count; i++)
		if (leads_out(c->redirect.items[i]))
			config_problem(&r->set->problems, c->head.at,
				       "'%s' is no directory inside '%s' to redirect",
				       c->redirect.items[i], c->head.name);
}

/* A path in the project. NULL when memory is out. */
static char *in_project(struct resolve *r, const char *path)
{
	auto_buf struct inlay_buf b = {0};

	if (path[0] != '/')
		inlay_buf_printf(&b, "%s/", r->set->config->directory);
	inlay_buf_printf(&b, "%s", path);
	return b.failed ? NULL : yaml_dup(r->set->tree, (const char *)b.data, b.len);
}

static const char *last_part(struct resolve *r, const char *path)
{
	size_t len = strlen(path);

	while (len > 1 && path[len - 1] == '/')
		len--;
	const char *slash = memrchr(path, '/', len);
	const char *from = slash ? slash + 1 : path;
	return yaml_dup(r->set->tree, from, (size_t)(path + len - from));
}

static int resolve_image(struct resolve *r, struct config_component *c, struct inlay_error *err)
{
	struct config *all = r->set->config;
	struct config_image *image = c->image.head.at     ? &c->image
				     : all->image.head.at ? &all->image
							  : NULL;

	if (c->run.head.at && c->run.command.count == 0 && !image)
		config_problem(&r->set->problems, c->run.head.at,
			       "'command' is missing: the program (only an image could have one)");
	if (!image && (c->runtime || c->user || c->entrypoint.items))
		config_problem(&r->set->problems, c->head.at,
			       "'%s' has no image: runtime, user and entrypoint are about one",
			       c->head.name);
	if (!image)
		return 0;
	if (!image->name && !image->build)
		config_problem(&r->set->problems, image->head.at,
			       "an image needs a name, or a folder to build it from");
	c->base = image;
	if (!image->build)
		return 0;
	if (!image->name)
		image->name = last_part(r, image->build);
	c->build_path = in_project(r, image->build);
	return image->name && c->build_path ? 0 : no_memory(err);
}

static int resolve_component(struct resolve *r, struct config_component *c, struct inlay_error *err)
{
	if (!inlay_run_name_valid(c->head.name, strlen(c->head.name)))
		config_problem(&r->set->problems, c->head.at,
			       "a component's name has 1 to %d letters, digits and ._-",
			       INLAY_RUN_NAME_MAX);
	if (c->source) {
		c->source_path = in_project(r, c->source);
		if (!c->source_path)
			return no_memory(err);
	}
	check_signal(r, c->run.head.at, c->run.stop_signal);
	inherit_timeouts(&c->timeouts, &r->set->config->timeouts);
	int e = resolve_image(r, c, err);
	check_reload(r, c);
	if (e == 0)
		e = resolve_hosts(r, c, err);
	check_places(r, c);
	return e;
}

int config_resolve(struct config_set *set, struct inlay_error *err)
{
	struct config *c = set->config;
	struct resolve r = {.set = set};
	int e = 0;

	if (set->host_list.count > HOSTS_MAX || c->components.count > COMPONENTS_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d hosts or %d components",
				       HOSTS_MAX, COMPONENTS_MAX);
	r.hosts = yaml_alloc(set->tree, (HOSTS_MAX + 1) * sizeof *r.hosts);
	if (!r.hosts)
		return no_memory(err);
	for (size_t i = 0; i < set->host_list.count; i++)
		r.hosts[r.host_count++] = (struct config_host *)set->host_list.items + i;
	if (c->head.at && c->components.count == 0 && set->problems.count == 0)
		config_problem(&set->problems, c->head.at, "there are no components");
	for (size_t i = 0; e == 0 && i < c->components.count; i++)
		e = resolve_component(&r, component(c, i), err);
	if (e == 0)
		check_targets(&r);
	return e < 0 ? e : put_in_order(&r, err);
}
