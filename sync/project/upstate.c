/* SPDX-License-Identifier: Apache-2.0 */
#include "project/upstate.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/text.h"

#define DIRECTORY "projects"

enum { ID_BYTES = 17, STATE_FILE_MAX = 64 << 20 };

/* ---- what is heard ---- */

static struct upstate_row *row_of(struct upstate *u, const struct site *p)
{
	return &u->rows[p - u->up->sites.list];
}

static struct upstate_row *find_row(struct upstate *u, const struct up_event *e)
{
	const struct sites *all = &u->up->sites;

	for (size_t i = 0; e->host && i < all->count; i++)
		if (strcmp(all->list[i].host->head.name, e->host) == 0 &&
		    strcmp(all->list[i].component->head.name, e->component) == 0)
			return &u->rows[i];
	return NULL;
}

static void keep_text(char ret[static UPSTATE_TEXT], const char *text, size_t len)
{
	auto_buf struct inlay_buf b = {0};

	inlay_text_escape(&b, text, len);
	(void)snprintf(ret, UPSTATE_TEXT, "%s", inlay_buf_cstr(&b));
}

static void keep_step(struct upstate_row *r, const struct site_event *e)
{
	size_t i = 0;

	while (i < r->step_count && strcmp(r->steps[i].name, e->step) != 0)
		i++;
	if (i == UPSTATE_STEPS)
		return;
	r->step_count += i == r->step_count;
	r->steps[i] = (struct upstate_step){.status = e->status,
					    .timed_out = e->timed_out,
					    .took_ns = e->took_ns,
					    .time_ns = inlay_now_ns()};
	(void)snprintf(r->steps[i].name, sizeof r->steps[i].name, "%s", e->step);
}

static void hear_step(struct upstate_row *r, const struct site_event *e)
{
	switch (e->kind) {
	case SITE_BEGIN:
		r->before = r->word == UPSTATE_WORKING ? r->before : r->word;
		r->word = UPSTATE_WORKING;
		(void)snprintf(r->step, sizeof r->step, "%s", e->step);
		break;
	case SITE_END:
		keep_step(r, e);
		if (r->word == UPSTATE_WORKING)
			r->word = r->before;
		break;
	case SITE_UP:
	case SITE_DONE:
		r->word = UPSTATE_UP;
		r->why[0] = 0;
		break;
	case SITE_FAIL:
		r->word = UPSTATE_FAILED;
		keep_text(r->why, e->text, e->len);
		break;
	default:
		break;
	}
}

static uint64_t count_of(const json_t *j, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(j, key));

	return n < 0 ? 0 : (uint64_t)n;
}

static void hear_visible(struct upstate_row *r, const json_t *j)
{
	double ms = json_number_value(json_object_get(j, "visible_ms"));

	r->generation = count_of(j, "generation");
	if (r->word == UPSTATE_CONNECTING || r->word == UPSTATE_LOST)
		r->word = UPSTATE_SYNCED;
	r->why[0] = r->word == UPSTATE_FAILED ? r->why[0] : 0;
	if (!json_is_true(json_object_get(j, "changed")))
		return;
	r->shown_ns = inlay_now_ns();
	r->added = count_of(j, "added");
	r->modified = count_of(j, "modified");
	r->removed = count_of(j, "removed");
	if (ms > 0 && ms < 1e9)
		r->samples[r->sample_count++ % UPSTATE_SAMPLES] = (int64_t)(ms * 1e6);
}

void upstate_hear(struct upstate *u, const struct up_event *e)
{
	struct upstate_row *r = e->kind == UP_SITE ? row_of(u, e->step->site) : find_row(u, e);
	const char *why = e->told ? json_string_value(json_object_get(e->told, "why")) : NULL;

	if (!r)
		return;
	u->changed = true;
	if (e->kind == UP_SITE)
		hear_step(r, e->step);
	if (e->kind == UP_VISIBLE)
		hear_visible(r, e->told);
	if (e->kind == UP_STATE && why) {
		r->word = UPSTATE_LOST;
		keep_text(r->why, why, strlen(why));
	}
}

const char *upstate_word(const struct upstate_row *r)
{
	static const char *const words[] = {"connecting", "working", "synced",
					    "up",         "failed",  "lost"};

	return words[r->word];
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

int64_t upstate_p50(const struct upstate_row *r)
{
	size_t n = r->sample_count < UPSTATE_SAMPLES ? r->sample_count : UPSTATE_SAMPLES;
	int64_t sorted[UPSTATE_SAMPLES];

	if (n == 0)
		return 0;
	memcpy(sorted, r->samples, n * sizeof *sorted);
	qsort(sorted, n, sizeof *sorted, by_value);
	return sorted[(n - 1) / 2];
}

/* ---- written down ---- */

static json_t *time_json(int64_t ns)
{
	time_t s = (time_t)(ns / 1000000000);
	char text[32];
	struct tm tm;

	if (!gmtime_r(&s, &tm) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
		return json_null();
	return json_string(text);
}

static json_t *row_json(const struct site *p, const struct upstate_row *r)
{
	json_t *hooks = json_array();
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "component",
			      p->component->head.name, "host", p->host->head.name, "target",
			      p->target_text, "state", upstate_word(r), "generation",
			      (json_int_t)r->generation, "added", (json_int_t)r->added, "modified",
			      (json_int_t)r->modified, "removed", (json_int_t)r->removed);
	int64_t p50 = upstate_p50(r);

	for (size_t i = 0; i < r->step_count; i++) {
		const struct upstate_step *s = &r->steps[i];
		(void)json_array_append_new(
			hooks, json_pack("{s:s, s:b, s:b, s:i, s:i, s:f, s:o}", "step", s->name,
					 "ok", s->status == 0 && !s->timed_out, "timed_out",
					 s->timed_out, "exit",
					 WIFEXITED(s->status) ? WEXITSTATUS(s->status)
							      : 128 + WTERMSIG(s->status),
					 "status", s->status, "took_ms", (double)s->took_ns / 1e6,
					 "time", time_json(s->time_ns)));
	}
	(void)json_object_set_new(j, "hooks", hooks);
	if (r->shown_ns)
		(void)json_object_set_new(j, "last", time_json(r->shown_ns));
	if (p50)
		(void)json_object_set_new(j, "visible_p50_ms", json_real((double)p50 / 1e6));
	if (r->why[0])
		(void)json_object_set_new(j, "why", json_string(r->why));
	return j;
}

void upstate_save(struct upstate *u)
{
	json_t *sites = json_array();

	if (!u->changed || u->fd < 0) {
		json_decref(sites);
		return;
	}
	for (size_t i = 0; i < u->up->sites.count; i++)
		(void)json_array_append_new(sites, row_json(&u->up->sites.list[i], &u->rows[i]));
	json_t *all = json_pack("{s:i, s:s, s:o, s:o}", "schema", 1, "project",
				u->up->o->set->config->path, "time", time_json(inlay_now_ns()),
				"sites", sites);
	char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	if (text)
		(void)!inlay_replace_file(u->dirfd, u->name, text, strlen(text), 0600, 0, NULL);
	free(text);
	json_decref(all);
	u->changed = false;
}

/* ---- begin and end ---- */

static int open_directory(const char *state, int *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};

	inlay_buf_printf(&path, "%s/" DIRECTORY, state);
	return inlay_open_dir(AT_FDCWD, inlay_buf_cstr(&path), 0700, ret, err);
}

static int open_lock(int dirfd, const char *name)
{
	char lock[ID_BYTES + 8];

	(void)snprintf(lock, sizeof lock, "%s.lock", name);
	return openat(dirfd, lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

static void name_of(const struct config *c, char ret[static ID_BYTES])
{
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_of(c->directory, strlen(c->directory), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, ID_BYTES, "%.16s", hex);
}

void upstate_forget(const struct config *c, const char *state)
{
	auto_close int fd = -1;
	char name[ID_BYTES];

	name_of(c, name);
	if (open_directory(state, &fd, NULL) == 0)
		(void)unlinkat(fd, name, 0);
}

int upstate_init(struct upstate *u, const struct up *up, const char *state, struct inlay_error *err)
{
	*u = (struct upstate){.up = up, .fd = -1, .dirfd = -1};
	u->rows = calloc(up->sites.count + 1, sizeof *u->rows);
	if (!u->rows)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	name_of(up->o->set->config, u->name);
	int r = open_directory(state, &u->dirfd, err);
	if (r < 0)
		return r;
	u->fd = open_lock(u->dirfd, u->name);
	/* Another `up` of the project writes it: ours stays out of the way. */
	if (u->fd >= 0 && flock(u->fd, LOCK_EX | LOCK_NB) < 0) {
		(void)close(u->fd);
		u->fd = -1;
	}
	return 0;
}

void upstate_fini(struct upstate *u)
{
	if (!u->rows)
		return;
	upstate_save(u);
	inlay_cleanup_close(&u->fd);
	inlay_cleanup_close(&u->dirfd);
	free(u->rows);
	*u = (struct upstate){.fd = -1, .dirfd = -1};
}

/* ---- reading ---- */

static bool still_runs(int dirfd, const char *name)
{
	auto_close int fd = open_lock(dirfd, name);

	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

int upstate_each(const char *state, int (*fn)(void *ctx, const void *told, bool runs), void *ctx,
		 struct inlay_error *err)
{
	auto_close int fd = -1;
	int r = open_directory(state, &fd, err);
	DIR *dir = r == 0 ? fdopendir(fd) : NULL;
	const struct dirent *d;

	if (r < 0)
		return r;
	if (!dir)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	fd = -1;
	while (r == 0 && (d = readdir(dir))) {
		auto_buf struct inlay_buf b = {0};
		if (strlen(d->d_name) != ID_BYTES - 1 ||
		    inlay_read_file(dirfd(dir), d->d_name, STATE_FILE_MAX, &b, NULL) != 0)
			continue;
		/* One that is damaged is as good as none. */
		json_t *j = json_loadb((const char *)b.data, b.len, 0, NULL);
		if (json_is_array(json_object_get(j, "sites")) &&
		    json_is_string(json_object_get(j, "project")))
			r = fn(ctx, j, still_runs(dirfd(dir), d->d_name));
		json_decref(j);
	}
	(void)closedir(dir);
	return r;
}
