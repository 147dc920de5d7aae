/* SPDX-License-Identifier: Apache-2.0 */
#include "session/pulling.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/written.h"

struct item {
	struct message_upper m; /* path and target are the item's own, with NULs behind */
	bool done;
};

static void say(const struct pulling *o, enum pulling_event event, const char *path,
		const char *why)
{
	if (o->say)
		o->say(o->ctx, event, path, why);
}

static void say_landed(struct pulling *o, struct item *it, int result)
{
	const char *path = it->m.path.bytes;

	it->done = true;
	switch (result) {
	case LANDING_NEW:
	case LANDING_CHANGED:
		o->brought++;
		say(o, result == LANDING_NEW ? PULLING_ADDED : PULLING_CHANGED, path, NULL);
		break;
	case LANDING_SAME:
		o->same++;
		break;
	default:
		o->conflicts++;
		say(o, PULLING_CONFLICT, path, "it was changed here; --force overwrites it");
	}
}

static void say_failed(struct pulling *o, struct item *it, const char *why)
{
	it->done = true;
	o->failures++;
	say(o, PULLING_FAILED, it->m.path.bytes, why);
}

/* ---- which ---- */

static int keep_item(struct pulling *o, const struct message_upper *m, struct inlay_error *err)
{
	if (o->count == o->cap) {
		size_t cap = o->cap ? 2 * o->cap : 64;
		struct item *more = reallocarray(o->items, cap, sizeof *more);
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		o->items = more;
		o->cap = cap;
	}
	struct item *it = &o->items[o->count];
	*it = (struct item){.m = *m};
	it->m.path.bytes = strndup(m->path.bytes, m->path.len);
	it->m.target.bytes = strndup(m->target.len ? m->target.bytes : "", m->target.len);
	o->count++;
	return it->m.path.bytes && it->m.target.bytes
		       ? 0
		       : inlay_error_set(err, -ENOMEM, "out of memory");
}

static bool comes_here(const struct message_upper *m)
{
	return m->kind == INLAY_UPPER_FILE || m->kind == INLAY_UPPER_SYMLINK;
}

static int on_upper(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct pulling *o = ctx;
	struct message_upper m;
	int r = message_decode_upper(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (o->count >= INLAY_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "the target lists more than %d entries",
				       INLAY_ENTRIES_MAX);
	if (!landing_path_allowed(m.path.bytes, m.path.len)) {
		auto_free char *path = strndup(m.path.bytes, m.path.len);
		o->skipped++;
		say(o, PULLING_SKIPPED, path ? path : "?",
		    "not a path that a target may write here");
		return 0;
	}
	r = o->rules ? inlay_ignore_match_path(o->rules, m.path.bytes, m.path.len,
					       m.kind == INLAY_UPPER_DIR, err)
		     : 1;
	if (r != 1)
		return r;
	r = keep_item(o, &m, err);
	if (r == 0 && o->allow && comes_here(&m))
		r = o->allow(o->allow_ctx, o->items[o->count - 1].m.path.bytes, err);
	return r;
}

/* ---- what needs no bytes ---- */

static void land_small(struct pulling *o, struct item *it)
{
	struct inlay_error err = {0};
	const char *path = it->m.path.bytes;
	int r = 0;

	switch (it->m.kind) {
	case INLAY_UPPER_FILE:
		return;
	case INLAY_UPPER_WHITEOUT:
		o->removed++;
		it->done = true;
		say(o, PULLING_REMOVED, path, "removed on the target; it stays here");
		return;
	case INLAY_UPPER_ATTR:
		it->done = true;
		return;
	case INLAY_UPPER_MOVED:
	case INLAY_UPPER_SPECIAL:
		o->skipped++;
		it->done = true;
		say(o, PULLING_SKIPPED, path,
		    it->m.kind == INLAY_UPPER_MOVED
			    ? "a synced directory that was renamed there; only what was written "
			      "in it is brought"
			    : "a fifo or a socket");
		return;
	case INLAY_UPPER_DIR:
		r = o->dry_run ? LANDING_SAME : landing_dir(&o->landing, path, &err);
		break;
	case INLAY_UPPER_SYMLINK:
		r = o->dry_run ? LANDING_NEW
			       : landing_symlink(&o->landing, path, it->m.target.bytes, &err);
		break;
	default:
		return;
	}
	if (r < 0)
		say_failed(o, it, err.text);
	else
		say_landed(o, it, r);
}

/* ---- files ---- */

static int file_begins(struct pulling *o, const struct message_pulled *m, struct inlay_error *err)
{
	if (o->current || m->index >= o->asked_count || o->asked[m->index]->done)
		return inlay_error_set(err, -EPROTO,
				       "the target sends a file that nobody asked for");
	if (m->size > 1ull << 40)
		return inlay_error_set(err, -E2BIG, "the target sends a file of %llu bytes",
				       (unsigned long long)m->size);
	o->current = o->asked[m->index];
	o->current->m.size = o->left = m->size;
	o->current->m.mode = m->mode;
	o->current->m.mtime_ns = m->mtime_ns;
	o->trouble = (struct inlay_error){0};
	o->writing =
		landing_begin(&o->landing, o->current->m.path.bytes, &o->file, &o->trouble) == 0;
	return 0;
}

static int file_goes_on(struct pulling *o, const struct message_pulled *m, struct inlay_error *err)
{
	if (!o->current || m->bytes.len > o->left)
		return inlay_error_set(err, -EPROTO, "the target sends more than it said");
	o->left -= m->bytes.len;
	if (o->writing && landing_write(&o->file, m->bytes.bytes, m->bytes.len, &o->trouble) < 0) {
		o->writing = false;
		landing_drop(&o->file);
	}
	return 0;
}

static void file_ends(struct pulling *o, struct item *it, const struct message_pulled *m)
{
	auto_free char *why = strndup(m->bytes.bytes, m->bytes.len);
	const struct inlay_digest *synced = it->m.has_synced ? &it->m.synced : NULL;
	int r;

	if (m->code < 0 || (o->writing && o->left > 0)) {
		say_failed(o, it,
			   m->code < 0 && why && *why ? why : "the target sent less than it said");
	} else if (!o->writing) {
		say_failed(o, it, o->trouble.text);
	} else {
		r = landing_end(&o->file, it->m.mode, it->m.mtime_ns, synced, &o->trouble);
		if (r < 0)
			say_failed(o, it, o->trouble.text);
		else
			say_landed(o, it, r);
		if (r == LANDING_NEW || r == LANDING_CHANGED)
			o->bytes += it->m.size;
	}
	if (o->writing)
		landing_drop(&o->file);
	o->writing = false;
}

static int on_pulled(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct pulling *o = ctx;
	struct message_pulled m;
	int r = message_decode_pulled(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	if (m.step == MESSAGE_PULLED_BEGIN)
		return file_begins(o, &m, err);
	if (m.step == MESSAGE_PULLED_BYTES)
		return file_goes_on(o, &m, err);
	/* A file that could not be opened there has no beginning: it is the next one. */
	struct item *it = o->current;
	for (size_t i = 0; !it && i < o->asked_count; i++)
		if (!o->asked[i]->done)
			it = o->asked[i];
	if (!it)
		return inlay_error_set(err, -EPROTO,
				       "the target ends a file that nobody asked for");
	file_ends(o, it, &m);
	o->current = NULL;
	return 0;
}

/* As many files as one request can name. */
static int pull_some(struct pulling *o, struct client *c, size_t *at, struct inlay_error *err)
{
	auto_buf struct inlay_buf paths = {0};
	auto_free struct item **asked = reallocarray(NULL, o->count + 1, sizeof *asked);

	if (!asked)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	o->asked = asked;
	o->asked_count = 0;
	for (; *at < o->count; ++*at) {
		struct item *it = &o->items[*at];
		size_t n = it->m.path.len + 1;
		if (it->done || it->m.kind != INLAY_UPPER_FILE)
			continue;
		if (n > INLAY_MESSAGE_TEXT_MAX) {
			say_failed(o, it, "its path is too long");
			continue;
		}
		if (paths.len + n > INLAY_MESSAGE_TEXT_MAX)
			break;
		inlay_buf_add(&paths, it->m.path.bytes, n);
		asked[o->asked_count++] = it;
	}
	int r = inlay_buf_check(&paths, err);
	if (r < 0 || o->asked_count == 0)
		return r;
	struct message_request request = {.verb = MESSAGE_VERB_PULL,
					  .body = {(const char *)paths.data, paths.len}};
	r = client_request(c, &request, on_pulled, o, err);
	if (o->writing)
		landing_drop(&o->file);
	o->writing = false;
	for (size_t i = 0; r == 0 && i < o->asked_count; i++)
		if (!asked[i]->done)
			say_failed(o, asked[i], "the target did not send it");
	return r;
}

/* ---- the whole ---- */

static int make_rules(struct pulling *o, struct inlay_error *err)
{
	struct inlay_ignore_options io = {.patterns = o->patterns,
					  .pattern_count = o->pattern_count,
					  .no_gitignore = true,
					  .no_builtin = true};
	if (o->pattern_count == 0)
		return 0;
	/* A directory that has no rules of its own. */
	auto_close int none = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (none < 0)
		return inlay_error_sys(err, -errno, "open /proc/self");
	return inlay_ignore_root(none, &io, &o->rules, err);
}

int pulling_open(struct pulling *o, const char *folder, const char *state, struct inlay_error *err)
{
	o->landing = (struct landing){.root = -1, .state_fd = -1};
	int r = make_rules(o, err);

	if (r == 0 && !o->dry_run) {
		r = landing_open(&o->landing, folder, state, o->force, err);
		o->landed = true;
	}
	return r;
}

int pulling_run(struct pulling *o, struct client *c, struct inlay_error *err)
{
	static const struct message_request list = {.verb = MESSAGE_VERB_UPPER};
	int r = client_request(c, &list, on_upper, o, err);

	for (size_t i = 0; r == 0 && i < o->count; i++) {
		land_small(o, &o->items[i]);
		if (o->dry_run && !o->items[i].done)
			say_landed(o, &o->items[i], LANDING_NEW);
	}
	for (size_t at = 0; r == 0 && !o->dry_run && at < o->count;)
		r = pull_some(o, c, &at, err);
	return r;
}

int pulling_close(struct pulling *o, struct inlay_error *err)
{
	/* Also what came before a failure is remembered. */
	int r = o->landed ? landing_save(&o->landing, err) : 0;

	for (size_t i = 0; i < o->count; i++) {
		free((char *)(uintptr_t)o->items[i].m.path.bytes);
		free((char *)(uintptr_t)o->items[i].m.target.bytes);
	}
	free(o->items);
	inlay_ignore_unref(o->rules);
	if (o->landed)
		landing_close(&o->landing);
	o->items = NULL;
	o->rules = NULL;
	o->landed = false;
	return r;
}
