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
#include "cmd/setup.h"
#include "cmd/syncall.h"
#include "cmd/syncprint.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "session/fanout.h"
#include "watch/control.h"

static const char help[] =
	"usage: inlay sync [options] SRC DST...\n"
	"       inlay sync [options] [COMPONENT...]\n"
	"\n"
	"Makes the folder SRC appear at each DST, as one change set. DST is host:path, "
	"user@host:path,\n"
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
	"      --host HOST        of a project: only this host or @group\n"
	"      --file FILE        the project's file\n" SETUP_HELP COMMON_HELP "\n"
	"Without SRC and DST, the components of inlay.yaml are synced to all their hosts, with a "
	"line for "
	"each.\n"
	"-a, -r, -z, --delete and --partial are accepted and change nothing: it is always so.\n";

enum {
	OPT_NO_DELETE = OPT_FIRST_OWN,
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
	bool itemize, progress, exit_code, boot, no_boot;
	const char *file; /* of the project */
	const char *hosts[HOSTS_MAX + 1];
	size_t host_count;
	uint64_t bwlimit;
	struct sync_report report;
	struct sync_told told;
	struct setup setup;
};

static const struct option table[] = {
	COMMON_OPTIONS,
	SETUP_OPTIONS,
	{"dry-run", no_argument, NULL, 'n'},
	{"itemize-changes", no_argument, NULL, 'i'},
	{"checksum", no_argument, NULL, 'c'},
	PATTERNS_OPTIONS,
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
	int r;

	if (setup_take(&o->setup, c, optarg, &why))
		return why ? inlay_error_set(err, -EINVAL, "%s", why) : 0;
	if (patterns_take(&o->patterns, c, optarg, &r, err))
		return r;
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
		o->report.stats = true;
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

/* ---- running ---- */

static void on_progress(void *ctx, const struct push_progress *p)
{
	progress_update(&((struct sync_report *)ctx)->line, p);
}

static void waiting(void *ctx)
{
	const struct options *o = ctx;

	if (o->common.verbose >= 0 && !o->common.json)
		(void)fputs("waiting for another inlay that works on this folder\n", stderr);
}

/* One target: what is read goes out at once. */
static int push_to_one(struct options *o, struct source *s, struct fanout_host *h)
{
	int r = push(s, h->target, &h->transport, o->bwlimit, &o->push, &h->result, &h->err);

	h->code = r;
	sync_tell(&o->told, h);
	return 0;
}

static int sync_with_source(struct options *o, struct source *s, const struct target *targets,
			    size_t count)
{
	auto_free struct fanout_host *hosts = calloc(count, sizeof *hosts);
	auto_free struct transport_options **ways =
		calloc(count, sizeof(struct transport_options *));
	struct lines lines = {0};
	struct inlay_error err = {0};
	int r = hosts && ways ? 0 : inlay_error_set(&err, -ENOMEM, "out of memory");

	o->told = (struct sync_told){.report = &o->report,
				     .source = s,
				     .several = count > 1,
				     .mounts = !o->push.no_mount && !o->push.dry_run};
	for (size_t i = 0; r == 0 && i < count; i++) {
		hosts[i].target = &targets[i];
		hosts[i].transport = common_transport(&o->common, &targets[i]);
		ways[i] = &hosts[i].transport;
		r = pair_check_nesting(s->path, &targets[i], &err);
	}
	if (r == 0)
		r = common_lines(&o->common, &lines, ways, count, &err);
	if (r == 0)
		r = count == 1 ? push_to_one(o, s, &hosts[0])
			       : fanout_push(s, &o->push, o->bwlimit, hosts, count, sync_tell,
					     &o->told, &err);
	lines_end(&lines);
	if (r < 0) {
		progress_clear(&o->report.line);
		return common_fail(&o->common, &err);
	}
	int code = sync_exit(&o->told);
	return code == INLAY_EXIT_OK && o->exit_code && o->told.changed ? EXIT_CHANGED : code;
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
	if (o->push.dry_run || o->scan.checksum || o->itemize || o->report.stats) {
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

/* Several, if a watch has them all. */
static int all_by_watch(struct options *o, const char *real, int fd, const struct target *targets,
			size_t count)
{
	int worst = sync_by_watch(o, fd, &targets[0]);
	size_t failed = worst != INLAY_EXIT_OK && worst != EXIT_CHANGED;

	for (size_t i = 1; i < count; i++) {
		auto_close int next = -1;
		struct inlay_error err = {0};
		int r = control_connect(o->common.state, real, &next, &err);
		if (r > 0)
			r = inlay_error_set(&err, -ESRCH, "the watch of this folder ended");
		int code =
			r < 0 ? common_fail(&o->common, &err) : sync_by_watch(o, next, &targets[i]);
		failed += code != INLAY_EXIT_OK && code != EXIT_CHANGED;
		if (code != INLAY_EXIT_OK)
			worst = code;
	}
	return failed > 0 && failed < count ? INLAY_EXIT_SOME_HOSTS : worst;
}

static int run_with(struct options *o, const char *src, const struct target *targets, size_t count)
{
	auto_free char *real = realpath(src, NULL);
	auto_close int watch_fd = -1;
	struct inlay_error err = {0};
	struct source s;

	if (control_connect(o->common.state, real ? real : src, &watch_fd, NULL) == 0)
		return all_by_watch(o, real ? real : src, watch_fd, targets, count);
	struct source_options so = {.state = o->common.state,
				    .scan = o->scan,
				    .lock_wait_ns = o->push.lock_wait_ns,
				    .waiting = waiting,
				    .ctx = o};
	if (source_open(&s, src, &so, &err) != 0)
		return common_fail(&o->common, &err);
	int code = sync_with_source(o, &s, targets, count);
	source_close(&s);
	return code;
}

static int run(struct options *o, const char *src, char **dst, size_t count)
{
	auto_free struct target *targets = calloc(count, sizeof *targets);
	struct inlay_error err = {0};
	size_t parsed = 0;
	int code = INLAY_EXIT_FAILURE;
	int r = targets ? 0 : inlay_error_set(&err, -ENOMEM, "out of memory");

	patterns_use(&o->patterns, &o->scan.ignore);
	o->report.common = &o->common;
	o->report.dry_run = o->push.dry_run;
	o->report.line.on = !o->common.json && o->common.verbose >= 0 && (o->progress || isatty(2));
	o->push.config = setup_finish(&o->setup);
	o->push.progress = on_progress;
	o->push.ctx = &o->report;
	if (o->itemize || o->common.verbose > 0)
		o->push.change = o->common.json ? sync_print_change_json
				 : o->itemize   ? sync_print_change
						: sync_print_name;
	for (; r == 0 && parsed < count; parsed += r == 0)
		r = target_parse(dst[parsed], &targets[parsed], &err);
	if (r == 0 && count > 1 && o->common.hosts == 0)
		o->common.hosts = (unsigned)count;
	code = r < 0 ? common_fail(&o->common, &err) : run_with(o, src, targets, count);
	for (size_t i = 0; i < parsed; i++)
		target_fini(&targets[i]);
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

/* SRC and DST..., and not names of components? */
static bool is_given(char **args, int count)
{
	struct stat st;

	if (count < 2)
		return false;
	/* One that is typed wrong shall say what it says without a project, too. */
	bool targets = true;
	for (int i = 1; i < count; i++)
		targets &= strpbrk(args[i], "/:") != NULL;
	return targets || strchr(args[0], '/') ||
	       (count == 2 && stat(args[0], &st) == 0 && S_ISDIR(st.st_mode));
}

static int parse_and_run(struct options *o, int argc, char **argv)
{
	struct inlay_error err = {0};
	bool own_state = getenv("INLAY_STATE");
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
	if (!is_given(argv + optind, argc - optind))
		return sync_components(o, argv);
	/* State that lies elsewhere is a trial or a test: the system's boot is not touched for it. */
	o->push.boot = o->boot || (!own_state && !o->common.remote_state && !o->no_boot);
	if (common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	return run(o, argv[optind], argv + optind + 1, (size_t)(argc - optind - 1));
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
