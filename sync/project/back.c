/* SPDX-License-Identifier: Apache-2.0 */
#include "project/back.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "session/place.h"

#define HOST_WORD "{host}"

int backs_init(struct backs *b, const struct config *c, const char *state, struct inlay_error *err)
{
	*b = (struct backs){.config = c, .state = state};
	(void)pthread_mutex_init(&b->lock, NULL);
	b->feeds = calloc(c->components.count * c->components.count + 1, sizeof *b->feeds);
	return b->feeds ? 0 : inlay_error_set(err, -ENOMEM, "out of memory");
}

void backs_fini(struct backs *b)
{
	if (b->feeds)
		(void)pthread_mutex_destroy(&b->lock);
	free(b->feeds);
	*b = (struct backs){0};
}

/* ---- loops ---- */

static const struct config_component *component(const struct backs *b, size_t i)
{
	return (const struct config_component *)b->config->components.items + i;
}

static size_t index_of(const struct backs *b, const struct config_component *c)
{
	return (size_t)(c - (const struct config_component *)b->config->components.items);
}

/* Appends the way from `at` to `goal`, "web -> nav"; false when there is none. */
static bool find_way(const struct backs *b, size_t at, size_t goal, bool *seen,
		     struct inlay_buf *way)
{
	size_t count = b->config->components.count, len = way->len;

	inlay_buf_printf(way, "%s%s", len ? " -> " : "", component(b, at)->head.name);
	if (at == goal)
		return true;
	seen[at] = true;
	for (size_t i = 0; i < count; i++)
		if (b->feeds[at * count + i] && !seen[i] && find_way(b, i, goal, seen, way))
			return true;
	way->len = len;
	return false;
}

/* The path in the component's source; NULL when it is outside. */
static const char *inside(const struct config_component *c, const char *full)
{
	char source[PATH_MAX];

	if (!realpath(c->source_path, source))
		return NULL;
	size_t len = strlen(source);
	return strncmp(full, source, len) == 0 && full[len] == '/' ? full + len + 1 : NULL;
}

static int is_synced(const struct config_component *c, const char *relative, bool *ret,
		     struct inlay_error *err)
{
	auto_of(place_fini) struct place place = {0};
	auto_close int fd = open(c->source_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct inlay_ignore_options o = {.patterns = c->ignore.items,
					 .pattern_count = c->ignore.count,
					 .no_gitignore = c->gitignore == CONFIG_NO};

	if (fd < 0)
		return inlay_error_sys(err, -errno, "open %s", c->source_path);
	int r = place_look(fd, &o, relative, false, &place, err);
	*ret = !place.out;
	return r;
}

static int is_input(const struct config_component *c, const char *relative, struct inlay_error *err)
{
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = NULL;
	struct inlay_ignore_options o = {.patterns = c->build.inputs.items,
					 .pattern_count = c->build.inputs.count,
					 .no_gitignore = true,
					 .no_builtin = true};

	if (c->build.inputs.count == 0)
		return 1;
	auto_close int none = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (none < 0)
		return inlay_error_sys(err, -errno, "open /proc/self");
	int r = inlay_ignore_root(none, &o, &rules, err);
	return r < 0 ? r : inlay_ignore_match_path(rules, relative, strlen(relative), false, err);
}

/* Positive: the file would start that component's build. */
static int starts_build(const struct config_component *c, const char *full, struct inlay_error *err)
{
	const char *relative = c->build.head.at ? inside(c, full) : NULL;
	bool synced = false;

	if (!relative)
		return 0;
	int r = is_synced(c, relative, &synced, err);
	return r < 0 || !synced ? r : is_input(c, relative, err);
}

struct bringing {
	struct backs *b;
	const struct config_component *c;
	char folder[PATH_MAX]; /* resolved */
};

static int refuse(const struct config_component *from, const struct config_component *to,
		  const char *path, const struct inlay_buf *way, struct inlay_error *err)
{
	int r;

	if (from == to)
		r = inlay_error_set(err, -ELOOP,
				    "'back' of '%s' would bring %s to where it is an input of its "
				    "own build, which would run "
				    "for ever: take it out by 'inputs' or 'ignore', or bring it "
				    "elsewhere",
				    from->head.name, path);
	else
		r = inlay_error_set(err, -ELOOP,
				    "'back' of '%s' would bring %s to where it is an input of "
				    "'%s', and builds would start each "
				    "other for ever: %s -> %s",
				    from->head.name, path, to->head.name, from->head.name,
				    inlay_buf_cstr((struct inlay_buf *)way));
	(void)inlay_error_set_exit(err, INLAY_EXIT_HALT);
	return r;
}

static int allow(void *ctx, const char *path, struct inlay_error *err)
{
	struct bringing *w = ctx;
	size_t count = w->b->config->components.count, from = index_of(w->b, w->c);
	auto_free bool *seen = calloc(count, sizeof *seen);
	char full[2 * PATH_MAX];
	int r = 0;

	if (!seen)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)snprintf(full, sizeof full, "%s/%s", w->folder, path);
	scope_lock(&w->b->lock);
	for (size_t to = 0; r == 0 && to < count; to++) {
		auto_buf struct inlay_buf way = {0};
		r = starts_build(component(w->b, to), full, err);
		if (r <= 0)
			continue;
		r = 0;
		memset(seen, 0, count * sizeof *seen);
		if (find_way(w->b, to, from, seen, &way))
			r = refuse(w->c, component(w->b, to), path, &way, err);
		else
			w->b->feeds[from * count + to] = true;
	}
	return r;
}

/* ---- one rule ---- */

/* "out/{host}" below the project's directory. */
static int folder_of(const struct backs *b, const struct config_back *rule,
		     const struct config_host *h, struct inlay_buf *ret, struct inlay_error *err)
{
	const char *at = rule->to, *word;

	if (strcmp(h->head.name, "..") == 0 || strcmp(h->head.name, ".") == 0)
		return inlay_error_set(err, -EINVAL, "'%s' is no name of a folder", h->head.name);
	inlay_buf_printf(ret, "%s/", b->config->directory);
	for (; (word = strstr(at, HOST_WORD)); at = word + strlen(HOST_WORD)) {
		inlay_buf_add(ret, at, (size_t)(word - at));
		inlay_buf_printf(ret, "%s", h->head.name);
	}
	inlay_buf_printf(ret, "%s", at);
	return inlay_buf_check(ret, err);
}

static int bring(struct backs *b, const struct config_component *c, const struct config_host *h,
		 const struct config_back *rule, struct client *client, struct back_counts *ret,
		 struct inlay_error *err)
{
	auto_buf struct inlay_buf folder = {0};
	auto_free struct bringing *w = malloc(sizeof *w);
	struct inlay_error save = {0};
	struct pulling p = {.patterns = rule->match.items,
			    .pattern_count = rule->match.count,
			    .force = b->force,
			    .dry_run = b->dry_run,
			    .say = b->say,
			    .allow = b->dry_run ? NULL : allow,
			    .ctx = b->ctx};
	int r = w ? folder_of(b, rule, h, &folder, err)
		  : inlay_error_set(err, -ENOMEM, "out of memory");

	if (r < 0)
		return r;
	w->b = b;
	w->c = c;
	p.allow_ctx = w;
	r = pulling_open(&p, inlay_buf_cstr(&folder), b->state, err);
	if (r == 0 && !b->dry_run && !realpath(inlay_buf_cstr(&folder), w->folder))
		r = inlay_error_sys(err, -errno, "resolve %s", inlay_buf_cstr(&folder));
	if (r == 0)
		r = pulling_run(&p, client, err);
	if (pulling_close(&p, &save) < 0 && r == 0) {
		*err = save;
		r = save.code;
	}
	*ret = (struct back_counts){.folder = rule->to,
				    .brought = p.brought,
				    .bytes = p.bytes,
				    .same = p.same,
				    .conflicts = p.conflicts,
				    .failures = p.failures,
				    .skipped = p.skipped};
	return r;
}

int back_bring(struct backs *b, const struct config_component *c, const struct config_host *h,
	       struct client *client, void (*told)(void *ctx, const struct back_counts *counts),
	       void *ctx, struct inlay_error *err)
{
	const struct config_back *rules = c->back.items;
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->back.count; i++) {
		struct back_counts counts;
		r = bring(b, c, h, &rules[i], client, &counts, err);
		if (r == 0)
			told(ctx, &counts);
	}
	return r;
}
