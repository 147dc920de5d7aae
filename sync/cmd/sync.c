/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/pair.h"
#include "cmd/patterns.h"
#include "cmd/print.h"
#include "cmd/progress.h"
#include "cmd/syncall.h"
#include "cmd/setup.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "session/push.h"
#include "watch/control.h"

static const char help[] =
	"usage: inlay sync [options] SRC DST\n"
	"       inlay sync [options] [COMPONENT...]\n"
	"\n"
	"Makes the folder SRC appear at DST, as one change set. DST is host:path, user@host:path,\n"
	"ssh://user@host:port/path or a local path; it is mounted there. Names that are not in SRC "
	"go from\n"
	"DST; what .gitignore names is left out.\n"
	"\n"
	"  -n, --dry-run          only tell what would be done\n"
	"  -i, --itemize-changes  one line for each change (with --json: an object each, before "
	"the "
	"result)\n"
	"  -c, --checksum         compare contents, not times and sizes\n"
	"      --exclude PATTERN  leave out (gitignore syntax); may be given more than once\n"
	"      --include PATTERN  do not leave out, although another rule does\n"
	"      --exclude-from F   patterns from a file\n"
	"      --no-gitignore     do not read .gitignore files\n"
	"      --no-delete        keep on DST what SRC does not have\n"
	"      --adopt            take over a folder that is at DST: what is there is compared "
	"with, and "
	"moved\n"
	"                         to DST.before-inlay\n"
	"      --force            go on where a safety halt would stop\n"
	"      --no-mount         do not mount DST      --no-boot  do not mount it again after a "
	"reboot\n"
	"      --bwlimit RATE     bytes a second, at most (as in rsync: KiB without a unit)\n"
	"      --stats            figures at the end     --progress  show it also when it is no "
	"terminal\n"
	"      --steal            take DST over from another inlay that holds it, which then "
	"halts\n"
	"      --lock-wait D      wait that long for another sync (60s)\n"
	"      --exit-code        end with 10 when something changed\n"
	"      --host HOST        of a project: only this host    --file FILE  the project's "
	"file\n" SETUP_HELP COMMON_HELP "\n"
	"Without SRC and DST, the components of inlay.yaml are synced to all their hosts, with a "
	"line for "
	"each.\n"
	"-a, -r, -z, --delete and --partial are accepted and change nothing: it is always so.\n";

enum {
	OPT_EXCLUDE = OPT_FIRST_OWN,
	OPT_INCLUDE,
	OPT_EXCLUDE_FROM,
	OPT_NO_GITIGNORE,
	OPT_NO_DELETE,
	OPT_FORCE,
	OPT_ADOPT,
	OPT_NO_MOUNT,
	OPT_NO_BOOT,
	OPT_BOOT,
	OPT_BWLIMIT,
	OPT_STATS,
	OPT_HOST,
	OPT_FILE,
	OPT_PROGRESS,
	OPT_STEAL,
	OPT_LOCK_WAIT,
	OPT_EXIT_CODE,
	OPT_LEVEL,
	OPT_IGNORED,
	EXIT_CHANGED = 10,
};

enum { HOSTS_MAX = 256 };

struct options {
	struct common common;
	struct push_options push;
	struct inlay_scan_options scan;
	struct patterns patterns;
	bool changed; /* a watch did something */
	bool itemize, stats, progress, exit_code, boot, no_boot;
	const char *file; /* of the project */
	const char *hosts[HOSTS_MAX + 1];
	size_t host_count;
	uint64_t bwlimit;
	struct progress_line line;
	struct setup setup;
};

static const struct option table[] = {
	COMMON_OPTIONS,
	SETUP_OPTIONS,
	{"dry-run", no_argument, NULL, 'n'},
	{"itemize-changes", no_argument, NULL, 'i'},
	{"checksum", no_argument, NULL, 'c'},
	{"exclude", required_argument, NULL, OPT_EXCLUDE},
	{"include", required_argument, NULL, OPT_INCLUDE},
	{"exclude-from", required_argument, NULL, OPT_EXCLUDE_FROM},
	{"no-gitignore", no_argument, NULL, OPT_NO_GITIGNORE},
	{"no-delete", no_argument, NULL, OPT_NO_DELETE},
	{"force", no_argument, NULL, OPT_FORCE},
	{"adopt", no_argument, NULL, OPT_ADOPT},
	{"no-mount", no_argument, NULL, OPT_NO_MOUNT},
	{"no-boot", no_argument, NULL, OPT_NO_BOOT},
	{"boot", no_argument, NULL, OPT_BOOT},
	{"bwlimit", required_argument, NULL, OPT_BWLIMIT},
	{"stats", no_argument, NULL, OPT_STATS},
	{"host", required_argument, NULL, OPT_HOST},
	{"file", required_argument, NULL, OPT_FILE},
	{"progress", no_argument, NULL, OPT_PROGRESS},
	{"steal", no_argument, NULL, OPT_STEAL},
	{"lock-wait", required_argument, NULL, OPT_LOCK_WAIT},
	{"exit-code", no_argument, NULL, OPT_EXIT_CODE},
	{"compress-level", required_argument, NULL, OPT_LEVEL},
	{"delete", no_argument, NULL, OPT_IGNORED},
	{"partial", no_argument, NULL, OPT_IGNORED},
	{"archive", no_argument, NULL, OPT_IGNORED},
	{"recursive", no_argument, NULL, OPT_IGNORED},
	{"compress", no_argument, NULL, OPT_IGNORED},
	{0},
};

/* ---- options ---- */

static int take(struct options *o, int c, struct inlay_error *err)
{
	const char *why = NULL;
	uint64_t n;

	if (setup_take(&o->setup, c, optarg, &why))
		return why ? inlay_error_set(err, -EINVAL, "%s", why) : 0;
	switch (c) {
	case 'n':
		o->push.dry_run = true;
		return 0;
	case 'i':
		o->itemize = true;
		return 0;
	case 'c':
		o->scan.checksum = true;
		return 0;
	case OPT_EXCLUDE:
		return patterns_add(&o->patterns, "", optarg, strlen(optarg), err);
	case OPT_INCLUDE:
		return patterns_add(&o->patterns, "!", optarg, strlen(optarg), err);
	case OPT_EXCLUDE_FROM:
		return patterns_add_from(&o->patterns, optarg, err);
	case OPT_NO_GITIGNORE:
		o->scan.ignore.no_gitignore = true;
		return 0;
	case OPT_NO_DELETE:
		o->push.keep_extra = true;
		return 0;
	case OPT_ADOPT:
		o->push.adopt = true;
		return 0;
	case OPT_FORCE:
		o->push.force = true;
		return 0;
	case OPT_NO_MOUNT:
		o->push.no_mount = true;
		return 0;
	case OPT_NO_BOOT:
		o->no_boot = true;
		return 0;
	case OPT_BOOT:
		o->boot = true;
		return 0;
	case OPT_BWLIMIT:
		return pair_parse_rate(optarg, &o->bwlimit, err);
	case OPT_HOST:
		if (o->host_count < HOSTS_MAX)
			o->hosts[o->host_count++] = optarg;
		return 0;
	case OPT_FILE:
		o->file = optarg;
		return 0;
	case OPT_STATS:
		o->stats = true;
		return 0;
	case OPT_PROGRESS:
		o->progress = true;
		return 0;
	case OPT_STEAL:
		o->push.steal = true;
		return 0;
	case OPT_LOCK_WAIT:
		return inlay_parse_duration(optarg, &o->push.lock_wait_ns, err);
	case OPT_EXIT_CODE:
		o->exit_code = true;
		return 0;
	case OPT_LEVEL:
		if (inlay_parse_u64(optarg, &n, err) < 0 || n < 1 || n > 19)
			return inlay_error_set(err, -EINVAL, "the level is 1 to 19");
		o->push.level = (int)n;
		return 0;
	case 'a':
	case 'r':
	case 'z':
	case OPT_IGNORED:
		return 0;
	default:
		return inlay_error_set(err, -EINVAL, "unknown option");
	}
}

/* ---- output ---- */

/* rsync's form: >f+++++++++ new, >f.st...... changed, cd+++++++++ a new directory, *deleting. */
static void itemize(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		    const struct inlay_entry *after)
{
	struct options *o = ctx;
	const struct inlay_entry *e = after ? after : before;
	char type = S_ISREG(e->mode) ? 'f' : S_ISDIR(e->mode) ? 'd' : 'L';
	struct inlay_buf b = {0};

	progress_clear(&o->line);
	if (!after) {
		inlay_buf_printf(&b, "*deleting   ");
	} else if (!before || (before->mode & S_IFMT) != (after->mode & S_IFMT)) {
		inlay_buf_printf(&b, "%c%c+++++++++ ", type == 'f' ? '>' : 'c', type);
	} else {
		bool content = type != 'd' && !inlay_entry_same_content(before, after);
		if (type == 'd' && before->mode == after->mode)
			return;
		inlay_buf_printf(
			&b, "%c%c%c%c%c%c..... ", content ? (type == 'f' ? '>' : 'c') : '.', type,
			content ? 'c' : '.', type == 'f' && before->size != after->size ? 's' : '.',
			type != 'd' && before->mtime_ns != after->mtime_ns ? 't' : '.',
			before->mode != after->mode ? 'p' : '.');
	}
	inlay_text_escape(&b, path, len);
	if (type == 'd')
		inlay_buf_u8(&b, '/');
	if (after && type == 'L') {
		inlay_buf_printf(&b, " -> ");
		inlay_text_escape(&b, after->target, after->target_len);
	}
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

static void change_json(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
			const struct inlay_entry *after)
{
	const struct inlay_entry *e = after ? after : before;
	bool same_type = before && after && (before->mode & S_IFMT) == (after->mode & S_IFMT);

	(void)ctx;
	if (same_type && S_ISDIR(e->mode) && before->mode == after->mode)
		return;
	print_json(json_pack(
		"{s:i, s:s, s:o, s:s, s:b}", "schema", 1, "change",
		!before  ? "added"
		: !after ? "removed"
			 : "modified",
		"path", print_json_name(path, len), "type",
		S_ISREG(e->mode)   ? "file"
		: S_ISDIR(e->mode) ? "directory"
				   : "symlink",
		"content",
		!same_type || (!S_ISDIR(e->mode) && !inlay_entry_same_content(before, after))));
}

/* -v: names, as rsync does. */
static void name_change(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
			const struct inlay_entry *after)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	if (before && after && S_ISDIR(after->mode) && before->mode == after->mode)
		return;
	progress_clear(&o->line);
	inlay_buf_printf(&b, "%s", after ? "" : "deleting ");
	inlay_text_escape(&b, path, len);
	inlay_buf_printf(&b, S_ISDIR((after ? after : before)->mode) ? "/\n" : "\n");
	print_text(stdout, &b);
}

static void print_summary(const struct options *o, const char *target, const struct push_result *r)
{
	struct inlay_buf b = {0};

	inlay_text_escape(&b, target, strlen(target));
	if (o->push.dry_run)
		inlay_buf_printf(&b, ": would be: ");
	else if (r->changed)
		inlay_buf_printf(&b, ": generation %llu: ", (unsigned long long)r->generation);
	if (r->changed || (o->push.dry_run && (r->added || r->modified || r->removed)))
		pair_put_counts(&b, r);
	else
		inlay_buf_printf(&b, o->push.dry_run ? "no change" : ": no change, generation %llu",
				 (unsigned long long)r->generation);
	if (r->changed) {
		inlay_buf_printf(&b, "; ");
		inlay_text_size(&b, r->sent_bytes);
		inlay_buf_printf(&b, " sent, visible after ");
		inlay_text_duration(&b, r->visible_ns);
	}
	inlay_buf_printf(&b, " (");
	inlay_text_duration(&b, r->total_ns);
	inlay_buf_printf(&b, " in all)\n");
	print_text(stdout, &b);
}

static void print_stats(const struct push_result *r)
{
	struct inlay_buf b = {0};
	const struct {
		const char *name;
		uint64_t n;
		bool size;
	} rows[] = {
		{"Entries", r->entries, false},
		{"Total file size", r->bytes, true},
		{"Files read", r->files_read, false},
		{"Bytes read", r->read_bytes, true},
		{"Created", r->added, false},
		{"Changed", r->modified, false},
		{"Deleted", r->removed, false},
		{"Sent on the wire", r->sent_bytes, true},
		{"Received on the wire", r->received_bytes, true},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		inlay_buf_printf(&b, "%-21s ", rows[i].name);
		inlay_text_count(&b, rows[i].n);
		inlay_buf_printf(&b, "%s\n", rows[i].size ? " bytes" : "");
	}
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		const struct codec_count *c = &r->codecs.by[i];
		char name[32];
		(void)snprintf(name, sizeof name, "Travelled as %s", codec_name(i));
		inlay_buf_printf(&b, "%-21s ", name);
		inlay_text_count(&b, c->objects);
		inlay_buf_printf(&b, " objects, ");
		inlay_text_count(&b, c->raw);
		inlay_buf_printf(&b, " bytes, ");
		inlay_text_count(&b, c->wire);
		inlay_buf_printf(&b, " on the wire\n");
	}
	uint64_t wire = r->sent_bytes + r->received_bytes;
	inlay_buf_printf(&b, "%-21s %.2f\n", "Speedup", wire ? (double)r->bytes / (double)wire : 0);
	print_text(stdout, &b);
}

static void print_result_json(const struct options *o, const struct source *s, const char *target,
			      const struct push_result *r)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&r->root.tree, hex);
	json_t *j = json_pack(
		"{s:i, s:o, s:o, s:o, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:o, s:b, s:o}",
		"schema", 1, "source", print_json_name(s->path, strlen(s->path)), "target",
		print_json_name(target, strlen(target)), "path",
		print_json_name(r->path, strlen(r->path)), "dry_run", o->push.dry_run, "changed",
		r->changed, "generation", (json_int_t)r->generation, "added", (json_int_t)r->added,
		"modified", (json_int_t)r->modified, "removed", (json_int_t)r->removed, "entries",
		(json_int_t)r->entries, "bytes", (json_int_t)r->bytes, "files_read",
		(json_int_t)r->files_read, "files_sent",
		(json_int_t)(r->codecs.by[CODEC_WHOLE].objects + r->codecs.by[CODEC_DELTA].objects +
			     r->codecs.by[CODEC_PATCH].objects),
		"sent_bytes", (json_int_t)r->sent_bytes, "received_bytes",
		(json_int_t)r->received_bytes, "total_ms", print_json_ms(r->total_ns), "mounted",
		r->mounted, "codecs", pair_codecs_json(&r->codecs));
	if (!o->push.dry_run)
		(void)json_object_set_new(j, "root", json_string(hex));
	if (r->changed)
		(void)json_object_set_new(j, "visible_ms", print_json_ms(r->visible_ns));
	(void)json_object_set_new(j, "skipped_special", json_integer((json_int_t)r->special));
	(void)json_object_set_new(j, "hardlinked", json_integer((json_int_t)r->hardlinked));
	if (r->aside[0])
		(void)json_object_set_new(j, "aside", print_json_name(r->aside, strlen(r->aside)));
	if (r->mount_text[0])
		(void)json_object_set_new(j, "mount_text",
					  print_json_name(r->mount_text, strlen(r->mount_text)));
	print_json(j);
}

static void print_aside(const struct push_result *r)
{
	struct inlay_buf b = {0};

	if (!r->aside[0])
		return;
	inlay_buf_printf(&b, "inlay: what was there is in ");
	inlay_text_escape(&b, r->aside, strlen(r->aside));
	inlay_buf_printf(&b, "; delete it when it is not needed any more\n");
	print_text(stderr, &b);
}

/* What was left out or is not as people may expect. */
static void print_remarks(const struct source *s, const struct push_result *r)
{
	const struct inlay_scan_stats *st = s->now ? inlay_snapshot_stats(s->now) : NULL;
	struct inlay_buf b = {0};

	print_aside(r);
	if (r->mount_text[0]) {
		inlay_buf_printf(&b, "inlay: %s", r->mounted ? "" : "synced, but not mounted: ");
		inlay_text_escape(&b, r->mount_text, strlen(r->mount_text));
		inlay_buf_u8(&b, '\n');
	}
	if (r->special) {
		inlay_buf_printf(&b, "inlay: %llu fifos, sockets or devices left out:",
				 (unsigned long long)r->special);
		for (size_t i = 0; st && i < INLAY_SCAN_NAMES && st->special_names[i]; i++) {
			inlay_buf_u8(&b, ' ');
			inlay_text_escape(&b, st->special_names[i], strlen(st->special_names[i]));
		}
		inlay_buf_u8(&b, '\n');
	}
	print_text(stderr, &b);
}

static void print_result(struct options *o, const struct source *s, const struct target *t,
			 const struct push_result *r)
{
	auto_buf struct inlay_buf text = {0};

	progress_clear(&o->line);
	target_text(t, &text);
	if (o->common.json) {
		print_result_json(o, s, inlay_buf_cstr(&text), r);
		return;
	}
	if (o->stats)
		print_stats(r);
	if (o->common.verbose >= 0)
		print_summary(o, inlay_buf_cstr(&text), r);
	if (r->hardlinked && o->common.verbose >= 0 &&
	    (o->common.verbose > 0 || (r->changed && r->generation == 1)))
		(void)fprintf(stderr,
			      "inlay: %llu files have several links; they become separate files\n",
			      (unsigned long long)r->hardlinked);
	print_remarks(s, r);
}

/* ---- running ---- */

static void on_progress(void *ctx, const struct push_progress *p)
{
	progress_update(&((struct options *)ctx)->line, p);
}

static void waiting(void *ctx)
{
	const struct options *o = ctx;

	if (o->common.verbose >= 0 && !o->common.json)
		(void)fputs("waiting for another inlay that works on this folder\n", stderr);
}

static int sync_with_source(struct options *o, struct source *s, const struct target *t)
{
	struct transport_options transport = common_transport(&o->common, t);
	struct push_result result = {0};
	struct inlay_error err = {0};
	int r = pair_check_nesting(s->path, t, &err);

	if (r == 0)
		r = push(s, t, &transport, o->bwlimit, &o->push, &result, &err);
	if (r < 0) {
		progress_clear(&o->line);
		/* That was done before it failed. */
		print_aside(&result);
		return common_fail(&o->common, &err);
	}
	print_result(o, s, t, &result);
	/* It was asked for at DST, and is not seen there. */
	if (!result.mounted && !o->push.no_mount && !o->push.dry_run)
		return INLAY_EXIT_FAILURE;
	return o->exit_code && result.changed ? EXIT_CHANGED : INLAY_EXIT_OK;
}

/* ---- through a watch ---- */

static int print_watched(void *ctx, const struct control_packet *p, struct inlay_error *err)
{
	struct options *o = ctx;
	const struct control_row *row = &p->row;
	struct push_result r = {.generation = row->status.generation,
				.root = row->status.root,
				.changed = row->changed,
				.mounted = row->status.mounted};
	struct inlay_buf b = {0};

	(void)err;
	if (p->kind != CONTROL_ROW)
		return 0;
	o->changed = row->changed;
	if (o->common.json) {
		char hex[INLAY_DIGEST_HEX];
		inlay_digest_hex(&r.root.tree, hex);
		print_json(json_pack("{s:i, s:o, s:b, s:b, s:I, s:s, s:b}", "schema", 1, "target",
				     print_json_name(row->target, strlen(row->target)), "watched",
				     true, "changed", r.changed, "generation",
				     (json_int_t)r.generation, "root", hex, "mounted", r.mounted));
	} else if (o->common.verbose >= 0) {
		inlay_text_escape(&b, row->target, strlen(row->target));
		inlay_buf_printf(&b, ": %sgeneration %llu, by the watch that runs\n",
				 r.changed ? "" : "no change, ", (unsigned long long)r.generation);
		print_text(stdout, &b);
	}
	return 0;
}

/* A watch of the folder holds its lock and knows what the target has: it does the work. */
static int sync_by_watch(struct options *o, int fd, const struct target *t)
{
	struct control_request m = {
		.verb = CONTROL_FLUSH, .force = o->push.force, .steal = o->push.steal};
	auto_buf struct inlay_buf text = {0};
	struct inlay_error err = {0};
	int r = 0;

	target_text(t, &text);
	(void)snprintf(m.target, sizeof m.target, "%s", inlay_buf_cstr(&text));
	if (o->push.dry_run || o->scan.checksum || o->itemize || o->stats) {
		r = inlay_error_set(
			&err, -EWOULDBLOCK,
			"a watch of this folder runs and does the syncing; for -n, -i, -c and "
			"--stats end it first ('inlay watch --stop SRC')");
		(void)inlay_error_set_exit(&err, INLAY_EXIT_LOCKED);
	}
	if (r == 0)
		r = control_ask(fd, &m, print_watched, o, &err);
	if (r < 0)
		return common_fail(&o->common, &err);
	return o->exit_code && o->changed ? EXIT_CHANGED : INLAY_EXIT_OK;
}

static int run(struct options *o, const char *src, const char *dst)
{
	auto_free char *real = realpath(src, NULL);
	auto_close int watch_fd = -1;
	struct inlay_error err = {0};
	struct target t = {0};
	struct source s;
	int code;

	patterns_use(&o->patterns, &o->scan.ignore);
	o->line.on = !o->common.json && o->common.verbose >= 0 && (o->progress || isatty(2));
	o->push.config = setup_finish(&o->setup);
	o->push.progress = on_progress;
	o->push.ctx = o;
	if (o->itemize || o->common.verbose > 0)
		o->push.change = o->common.json ? change_json : o->itemize ? itemize : name_change;
	int r = target_parse(dst, &t, &err);
	if (r < 0)
		return common_fail(&o->common, &err);
	if (control_connect(o->common.state, real ? real : src, &watch_fd, NULL) == 0) {
		code = sync_by_watch(o, watch_fd, &t);
		target_fini(&t);
		return code;
	}
	struct source_options so = {.state = o->common.state,
				    .scan = o->scan,
				    .lock_wait_ns = o->push.lock_wait_ns,
				    .waiting = waiting,
				    .ctx = o};
	r = source_open(&s, src, &so, &err);
	if (r != 0)
		code = common_fail(&o->common, &err);
	else
		code = sync_with_source(o, &s, &t);
	if (r == 0)
		source_close(&s);
	target_fini(&t);
	return code;
}

/* What stands before `optind` are options, since getopt sorts them there; they are for each single sync. */
static int sync_components(struct options *o, char **argv)
{
	auto_free char **options = calloc((size_t)optind + 1, sizeof *options);
	struct inlay_error err = {0};
	size_t n = 0;

	if (!options || common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	for (int i = 1; i < optind && strcmp(argv[i], "--") != 0; i++) {
		if (!strcmp(argv[i], "--host") || !strcmp(argv[i], "--file"))
			i++;
		else if (strncmp(argv[i], "--host=", 7) && strncmp(argv[i], "--file=", 7))
			options[n++] = argv[i];
	}
	const struct syncall s = {.common = &o->common,
				  .file = o->file,
				  .hosts = o->host_count ? o->hosts : NULL,
				  .options = options,
				  .components = argv + optind};
	return syncall(&s);
}

static int parse_and_run(struct options *o, int argc, char **argv)
{
	struct inlay_error err = {0};
	bool own_state = getenv("INLAY_STATE");
	struct stat st;
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "nicarz", table, NULL)) >= 0) {
		if (c == '?')
			return common_usage("sync", "bad options");
		own_state |= c == OPT_STATE;
		if (common_take(&o->common, c))
			continue;
		if (take(o, c, &err) < 0)
			return common_usage("sync", err.text);
	}
	if (o->common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	bool pair = argc - optind == 2 && stat(argv[optind], &st) == 0 && S_ISDIR(st.st_mode);
	/* One that is typed wrong shall say what it says without a project, too. */
	pair |= argc - optind == 2 &&
		(strchr(argv[optind], '/') || strpbrk(argv[optind + 1], "/:"));
	if (!pair)
		return sync_components(o, argv);
	/* State that lies elsewhere is a trial or a test: the system's boot is not touched for it. */
	o->push.boot = o->boot || (!own_state && !o->common.remote_state && !o->no_boot);
	if (common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	return run(o, argv[optind], argv[optind + 1]);
}

int cmd_sync(int argc, char **argv)
{
	struct options o = {.push = {.lock_wait_ns = 60ll * 1000000000}};
	int code = parse_and_run(&o, argc, argv);

	patterns_fini(&o.patterns);
	setup_fini(&o.setup);
	common_fini(&o.common);
	return code;
}
