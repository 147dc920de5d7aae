/* SPDX-License-Identifier: Apache-2.0 */
/* pull: what was written on a target comes to the dev machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/ignore.h"
#include "inlay/text.h"
#include "inlay/written.h"
#include "session/landing.h"

static const char help[] =
	"usage: inlay pull [options] HOST:PATH [DST]\n"
	"\n"
	"Brings the files that were written on the target at PATH into the folder DST; without "
	"DST, "
	"into a new\n"
	"folder that has the workspace's name. Nothing outside of it is touched. Local files that "
	"changed\n"
	"since the last sync or pull are kept.\n"
	"\n"
	"      --back PATTERN     only these (gitignore syntax); may be given more than once\n"
	"      --force            overwrite local files that changed\n"
	"  -n, --dry-run          only tell what would be brought\n" COMMON_HELP;

enum { OPT_BACK = OPT_FIRST_OWN, OPT_FORCE, PATTERNS_MAX = 1000 };

struct item {
	struct message_upper m; /* path and target are the item's own, with NULs behind */
	bool done;
};

struct options {
	struct common common;
	struct target target;
	const char *patterns[PATTERNS_MAX];
	size_t pattern_count;
	bool force, dry_run;
	struct inlay_ignore *rules; /* NULL: everything */
	struct item *items;
	size_t count, cap;
	struct landing landing;
	bool landed; /* the landing is open */
	uint64_t brought, bytes, same, conflicts, failures, skipped, removed;
	/* while files come */
	struct item **asked; /* of the request at hand */
	size_t asked_count;
	struct item *current;
	struct landing_file file;
	uint64_t left;
	bool writing;
	struct inlay_error trouble; /* of the current file, on this side */
};

/* ---- output ---- */

static void say(const struct options *o, const char *mark, const char *event, const char *path,
		const char *why)
{
	struct inlay_buf b = {0};

	if (o->common.json) {
		json_t *j = json_pack("{s:i, s:s, s:o}", "schema", 1, "event", event, "path",
				      print_json_name(path, strlen(path)));
		if (why)
			(void)json_object_set_new(j, "text", print_json_name(why, strlen(why)));
		print_json(j);
		return;
	}
	if (o->common.verbose < 0 && *mark != '!')
		return;
	inlay_buf_printf(&b, "%s ", mark);
	inlay_text_escape(&b, path, strlen(path));
	if (why) {
		inlay_buf_printf(&b, ": ");
		inlay_text_escape(&b, why, strlen(why));
	}
	inlay_buf_u8(&b, '\n');
	print_text(*mark == '!' ? stderr : stdout, &b);
}

static void say_landed(struct options *o, struct item *it, int result)
{
	const char *path = it->m.path.bytes;

	it->done = true;
	switch (result) {
	case LANDING_NEW:
	case LANDING_CHANGED:
		o->brought++;
		say(o, result == LANDING_NEW ? "+" : "M",
		    result == LANDING_NEW ? "added" : "changed", path, NULL);
		break;
	case LANDING_SAME:
		o->same++;
		break;
	default:
		o->conflicts++;
		say(o, "!", "conflict", path, "it was changed here; --force overwrites it");
	}
}

static void say_failed(struct options *o, struct item *it, const char *why)
{
	it->done = true;
	o->failures++;
	say(o, "!", "failed", it->m.path.bytes, why);
}

/* ---- which ---- */

static bool selected(struct options *o, const struct message_upper *m)
{
	struct inlay_ignore *rules = o->rules;
	const char *path = m->path.bytes, *end = path + m->path.len;
	bool is_dir = m->kind == INLAY_UPPER_DIR, found = false;

	if (!rules)
		return true;
	rules = inlay_ignore_ref(rules);
	for (;;) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);
		struct inlay_ignore *next = NULL;
		found = inlay_ignore_match(rules, path, n, slash || is_dir, NULL);
		if (found || !slash ||
		    inlay_ignore_enter(rules, -1, path, n, false, false, &next, NULL) < 0)
			break;
		inlay_ignore_unref(rules);
		rules = next;
		path = slash + 1;
	}
	inlay_ignore_unref(rules);
	return found;
}

static int make_rules(struct options *o, struct inlay_error *err)
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

static int keep_item(struct options *o, const struct message_upper *m, struct inlay_error *err)
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

static int on_upper(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
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
		say(o, "!", "skipped", path ? path : "?",
		    "not a path that a target may write here");
		return 0;
	}
	return selected(o, &m) ? keep_item(o, &m, err) : 0;
}

/* ---- what needs no bytes ---- */

static void land_small(struct options *o, struct item *it)
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
		say(o, "-", "removed", path, "removed on the target; it stays here");
		return;
	case INLAY_UPPER_ATTR:
		it->done = true;
		return;
	case INLAY_UPPER_MOVED:
	case INLAY_UPPER_SPECIAL:
		o->skipped++;
		it->done = true;
		say(o, "!", "skipped", path,
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

static int file_begins(struct options *o, const struct message_pulled *m, struct inlay_error *err)
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

static int file_goes_on(struct options *o, const struct message_pulled *m, struct inlay_error *err)
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

static void file_ends(struct options *o, struct item *it, const struct message_pulled *m)
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
	struct options *o = ctx;
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
static int pull_some(struct options *o, struct client *c, size_t *at, struct inlay_error *err)
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

static int talk(struct options *o, struct client *c, struct inlay_error *err)
{
	static const struct message_request list = {.verb = MESSAGE_VERB_UPPER};
	struct message_open open = {.path = message_text_of(o->target.path)};
	struct frame f;
	int r = client_open_workspace(c, &open, err);

	if (r == 0)
		r = client_recv(c, 0, &f, err);
	if (r == 0)
		r = client_request(c, &list, on_upper, o, err);
	for (size_t i = 0; r == 0 && i < o->count; i++) {
		land_small(o, &o->items[i]);
		if (o->dry_run && !o->items[i].done)
			say_landed(o, &o->items[i], LANDING_NEW);
	}
	for (size_t at = 0; r == 0 && !o->dry_run && at < o->count;)
		r = pull_some(o, c, &at, err);
	return r;
}

static int talk_once(struct options *o, struct inlay_error *err)
{
	struct transport_options transport = common_transport(&o->common, &o->target);
	struct client client = {0};
	int r = client_open(&client, &transport, 0, err);

	if (r == 0)
		r = talk(o, &client, err);
	client_close(&client);
	return r == CLIENT_FAILED ? err->code : r;
}

static int print_summary(const struct options *o, const char *dst)
{
	struct inlay_buf b = {0};

	if (o->common.json) {
		print_json(json_pack("{s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "schema",
				     1, "folder", print_json_name(dst, strlen(dst)), "brought",
				     (json_int_t)o->brought, "bytes", (json_int_t)o->bytes, "same",
				     (json_int_t)o->same, "conflicts", (json_int_t)o->conflicts,
				     "failed", (json_int_t)o->failures, "skipped",
				     (json_int_t)o->skipped, "removed_there",
				     (json_int_t)o->removed, "dry_run", o->dry_run));
	} else if (o->common.verbose >= 0) {
		inlay_text_escape(&b, dst, strlen(dst));
		inlay_buf_printf(&b, ": %llu %s", (unsigned long long)o->brought,
				 o->dry_run ? "would be brought" : "brought");
		if (!o->dry_run) {
			inlay_buf_printf(&b, " (");
			inlay_text_size(&b, o->bytes);
			inlay_buf_printf(&b, ")");
		}
		inlay_buf_printf(&b, ", %llu the same", (unsigned long long)o->same);
		if (o->conflicts)
			inlay_buf_printf(&b, ", %llu kept", (unsigned long long)o->conflicts);
		if (o->failures)
			inlay_buf_printf(&b, ", %llu failed", (unsigned long long)o->failures);
		inlay_buf_u8(&b, '\n');
		print_text(stdout, &b);
	}
	if (o->failures)
		return INLAY_EXIT_FAILURE;
	return o->conflicts ? INLAY_EXIT_HALT : INLAY_EXIT_OK;
}

static int run(struct options *o, const char *from, const char *dst)
{
	struct inlay_error err = {0};
	int r = target_parse(from, &o->target, &err);

	if (r == 0 && !dst) {
		const char *slash = strrchr(o->target.path, '/');
		dst = slash ? slash + 1 : o->target.path;
		if (!*dst || strcmp(dst, "~") == 0 || !landing_path_allowed(dst, strlen(dst)))
			return common_usage("pull", "the folder needs a name: give DST");
	}
	if (r == 0)
		r = make_rules(o, &err);
	if (r == 0 && !o->dry_run) {
		r = landing_open(&o->landing, dst, o->common.state, o->force, &err);
		o->landed = true;
	}
	for (int i = 0; r == 0 && i < 2; i++) {
		r = talk_once(o, &err);
		if (r == 0)
			break;
		r = r == CLIENT_AGAIN && i == 0 ? 0 : r;
	}
	if (r > 0)
		r = inlay_error_set(&err, -EREMOTEIO, "inlayd was installed, but is not found");
	/* Also what came before a failure is remembered. */
	struct inlay_error save = {0};
	if (o->landed && landing_save(&o->landing, &save) < 0 && r == 0) {
		err = save;
		r = save.code;
	}
	return r < 0 ? common_fail(&o->common, &err) : print_summary(o, dst);
}

static int parse_and_run(struct options *o, int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"back", required_argument, NULL, OPT_BACK},
					      {"force", no_argument, NULL, OPT_FORCE},
					      {"dry-run", no_argument, NULL, 'n'},
					      {0}};
	struct inlay_error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "n", table, NULL)) >= 0) {
		if (c == OPT_BACK && o->pattern_count < PATTERNS_MAX)
			o->patterns[o->pattern_count++] = optarg;
		else if (c == OPT_FORCE)
			o->force = true;
		else if (c == 'n')
			o->dry_run = true;
		else if (!common_take(&o->common, c))
			return common_usage("pull", "bad options");
	}
	if (o->common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (argc - optind < 1 || argc - optind > 2)
		return common_usage("pull", "HOST:PATH is needed, and one folder at most");
	if (common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	return run(o, argv[optind], argv[optind + 1]);
}

int cmd_pull(int argc, char **argv)
{
	struct options o = {.landing = {.root = -1, .state_fd = -1}};
	int code = parse_and_run(&o, argc, argv);

	for (size_t i = 0; i < o.count; i++) {
		free((char *)(uintptr_t)o.items[i].m.path.bytes);
		free((char *)(uintptr_t)o.items[i].m.target.bytes);
	}
	free(o.items);
	inlay_ignore_unref(o.rules);
	if (o.landed)
		landing_close(&o.landing);
	target_fini(&o.target);
	common_fini(&o.common);
	return code;
}
