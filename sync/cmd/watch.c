/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/background.h"
#include "cmd/cmd.h"
#include "cmd/livestatus.h"
#include "cmd/pair.h"
#include "cmd/patterns.h"
#include "cmd/print.h"
#include "cmd/setup.h"
#include "cmd/steps.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "watch/control.h"
#include "watch/live.h"

static const char help[] =
	"usage: inlay watch [options] SRC DST...\n"
	"       inlay watch --list\n"
	"       inlay watch --stop [SRC...]\n"
	"\n"
	"Syncs SRC to each DST, and again whenever something changes, until it is stopped. One "
	"line for each\n"
	"change set tells how long after the edit it was visible. Connections that break are made "
	"anew.\n"
	"\n"
	"  -d, --detach           go on in the background once every DST shows SRC\n"
	"      --list             the watches that run       --stop  end those of SRC, or all\n"
	"      --settle D         a change set begins when nothing happened for D (5ms)\n"
	"      --max-delay D      ... and at the latest D after its first event (100ms)\n"
	"      --poll D           look that often at directories that cannot be watched (10s)\n"
	"      --exclude PATTERN  leave out (gitignore syntax); may be given more than once\n"
	"      --include PATTERN  do not leave out, although another rule does\n"
	"      --exclude-from F   patterns from a file\n"
	"      --no-gitignore     do not read .gitignore files\n"
	"      --no-delete        keep on DST what SRC does not have\n"
	"      --force            go on where a safety halt would stop, the first time\n"
	"      --steal            take each DST over from another inlay that holds it, the first "
	"time\n"
	"      --no-mount         do not mount DST      --no-boot  do not mount it again after a "
	"reboot\n" SETUP_HELP
	"      --bwlimit RATE     bytes a second, at most (KiB without a unit)\n" COMMON_HELP;

enum {
	OPT_LIST = OPT_FIRST_OWN,
	OPT_STOP,
	OPT_SETTLE,
	OPT_MAX_DELAY,
	OPT_POLL,
	OPT_NO_DELETE,
	OPT_FORCE,
	OPT_STEAL,
	OPT_NO_MOUNT,
	OPT_NO_BOOT,
	OPT_BOOT,
	OPT_BWLIMIT,
	OPT_LEVEL,
	/* not for people: how `inlay up` hands on what a project says */
	OPT_BEFORE_FD,
	OPT_BEFORE_TIME,
	OPT_PATIENCE,
};

enum { BEFORE_MAX = INLAY_MESSAGE_TEXT_MAX };

struct options {
	struct common common;
	struct push_options push;
	struct inlay_scan_options scan;
	struct patterns patterns;
	struct setup setup;
	struct inlay_buf before;
	struct steps_lines lines;
	struct live_options live;
	bool detach, list, stop, boot, no_boot, own_state;
	uint64_t bwlimit;
	struct background background;
	size_t begun;            /* targets that had their first result */
	enum inlay_exit stopped; /* the background's first result was bad: it ends */
	char stopped_text[2048];
};

static const struct option table[] = {
	COMMON_OPTIONS,
	{"detach", no_argument, NULL, 'd'},
	{"list", no_argument, NULL, OPT_LIST},
	{"stop", no_argument, NULL, OPT_STOP},
	{"settle", required_argument, NULL, OPT_SETTLE},
	{"max-delay", required_argument, NULL, OPT_MAX_DELAY},
	{"poll", required_argument, NULL, OPT_POLL},
	PATTERNS_OPTIONS,
	{"no-delete", no_argument, NULL, OPT_NO_DELETE},
	{"force", no_argument, NULL, OPT_FORCE},
	{"steal", no_argument, NULL, OPT_STEAL},
	{"no-mount", no_argument, NULL, OPT_NO_MOUNT},
	{"no-boot", no_argument, NULL, OPT_NO_BOOT},
	{"boot", no_argument, NULL, OPT_BOOT},
	{"bwlimit", required_argument, NULL, OPT_BWLIMIT},
	{"compress-level", required_argument, NULL, OPT_LEVEL},
	{"before-fd", required_argument, NULL, OPT_BEFORE_FD},
	{"before-time", required_argument, NULL, OPT_BEFORE_TIME},
	{"patience", required_argument, NULL, OPT_PATIENCE},
	SETUP_OPTIONS,
	{0},
};

/* ---- options ---- */

static bool take_flag(struct options *o, int c)
{
	const struct {
		int option;
		bool *flag;
	} flags[] = {{'d', &o->detach},
		     {OPT_LIST, &o->list},
		     {OPT_STOP, &o->stop},
		     {OPT_NO_DELETE, &o->push.keep_extra},
		     {OPT_FORCE, &o->push.force},
		     {OPT_STEAL, &o->push.steal},
		     {OPT_NO_MOUNT, &o->push.no_mount},
		     {OPT_NO_BOOT, &o->no_boot},
		     {OPT_BOOT, &o->boot}};

	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		if (flags[i].option == c)
			return *flags[i].flag = true;
	return false;
}

/* What is to run before a change set is shown comes as the bytes of an order. */
static int take_before(struct options *o, struct inlay_error *err)
{
	uint64_t fd;
	int r = inlay_parse_u64(optarg, &fd, err);

	if (r < 0 || fd > INT_MAX)
		return inlay_error_set(err, -EINVAL, "--before-fd takes a descriptor");
	auto_close int own = (int)fd;
	uint8_t *room = inlay_buf_reserve(&o->before, BEFORE_MAX);
	if (!room)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	r = inlay_read_full(own, room, BEFORE_MAX, &o->before.len, "an order", err);
	o->push.before = (struct message_text){(const char *)o->before.data, o->before.len};
	return r;
}

static int take(struct options *o, int c, struct inlay_error *err)
{
	const char *why = NULL;
	uint64_t n;
	int r;

	if (take_flag(o, c))
		return 0;
	if (setup_take(&o->setup, c, optarg, &why))
		return why ? inlay_error_set(err, -EINVAL, "%s", why) : 0;
	if (patterns_take(&o->patterns, c, optarg, &r, err))
		return r;
	switch (c) {
	case OPT_SETTLE:
		return inlay_parse_duration(optarg, &o->live.settle_ns, err);
	case OPT_MAX_DELAY:
		return inlay_parse_duration(optarg, &o->live.max_delay_ns, err);
	case OPT_POLL:
		if (inlay_parse_duration(optarg, &o->live.poll_ns, err) < 0 ||
		    o->live.poll_ns < 1000000000)
			return inlay_error_set(err, -EINVAL, "--poll is at least 1s");
		return 0;
	case OPT_BEFORE_FD:
		return take_before(o, err);
	case OPT_BEFORE_TIME:
		return inlay_parse_duration(optarg, &o->push.before_ns, err);
	case OPT_PATIENCE:
		return inlay_parse_duration(optarg, &o->push.patience_ns, err);
	case OPT_BWLIMIT:
		return pair_parse_rate(optarg, &o->bwlimit, err);
	case OPT_LEVEL:
		if (inlay_parse_u64(optarg, &n, err) < 0 || n < 1 || n > 19)
			return inlay_error_set(err, -EINVAL, "the level is 1 to 19");
		o->push.level = (int)n;
		return 0;
	default:
		return inlay_error_set(err, -EINVAL, "unknown option");
	}
}

/* ---- what is told ---- */

static void begin_line(struct options *o, struct inlay_buf *b)
{
	background_bound(&o->background);
	print_clock(b, inlay_now_ns());
	inlay_buf_u8(b, ' ');
}

static void print_line(struct inlay_buf *b)
{
	inlay_buf_u8(b, '\n');
	print_text(stdout, b);
	(void)fflush(stdout);
}

static json_t *json_event(const char *event)
{
	return json_pack("{s:i, s:s, s:o}", "schema", 1, "event", event, "time",
			 print_json_time(inlay_now_ns()));
}

static void put_json(struct options *o, json_t *j)
{
	background_bound(&o->background);
	print_json(j);
	(void)fflush(stdout);
}

/* The parent of a background watch hears when every target had its first result. */
static void begun(struct options *o, enum inlay_exit code, const char *target, const char *why)
{
	if (!o->detach || o->stopped)
		return;
	if (code != INLAY_EXIT_OK) {
		(void)snprintf(o->stopped_text, sizeof o->stopped_text, "%.500s: %.1400s", target,
			       why);
		o->stopped = code;
		(void)kill(getpid(), SIGTERM);
		return;
	}
	if (++o->begun == o->live.target_count)
		background_report(&o->background, INLAY_EXIT_OK, "");
}

static void visible_json(struct options *o, const struct peer *p, const struct push_result *r,
			 int64_t edit_ns)
{
	char hex[INLAY_DIGEST_HEX];
	const char *target = peer_target(p);
	json_t *j = json_event("visible");

	inlay_digest_hex(&r->root.tree, hex);
	(void)json_object_update_new(
		j, json_pack("{s:o, s:b, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "target",
			     print_json_name(target, strlen(target)), "changed", r->changed,
			     "generation", (json_int_t)r->generation, "root", hex, "added",
			     (json_int_t)r->added, "modified", (json_int_t)r->modified, "removed",
			     (json_int_t)r->removed, "sent_bytes", (json_int_t)r->sent_bytes,
			     "received_bytes", (json_int_t)r->received_bytes, "send_ms",
			     print_json_ms(r->total_ns), "codecs", pair_codecs_json(&r->codecs)));
	if (edit_ns)
		(void)json_object_set_new(j, "visible_ms", print_json_ms(edit_ns));
	put_json(o, j);
}

static void visible(void *ctx, const struct peer *p, const struct peer_goal *goal,
		    const struct push_result *r, int64_t edit_ns)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	(void)goal;
	if (o->common.json) {
		visible_json(o, p, r, edit_ns);
	} else if (o->common.verbose >= 0) {
		begin_line(o, &b);
		inlay_text_escape(&b, peer_target(p), strlen(peer_target(p)));
		inlay_buf_printf(&b, ": generation %llu: ", (unsigned long long)r->generation);
		if (r->changed)
			pair_put_counts(&b, r);
		else
			inlay_buf_printf(&b, "no change");
		inlay_buf_printf(&b, "; ");
		inlay_text_size(&b, r->sent_bytes);
		inlay_buf_printf(&b, " sent");
		if (r->changed) {
			inlay_buf_printf(&b, ", visible ");
			inlay_text_duration(&b, edit_ns ? edit_ns : r->total_ns);
			inlay_buf_printf(&b, edit_ns ? " after the edit" : " after it began");
		}
		print_line(&b);
	}
	if (r->mount_text[0] && !o->common.json) {
		struct inlay_buf text = {0};
		inlay_buf_printf(&text, "inlay: ");
		inlay_text_escape(&text, r->mount_text, strlen(r->mount_text));
		inlay_buf_u8(&text, '\n');
		print_text(stderr, &text);
	}
	begun(o, INLAY_EXIT_OK, peer_target(p), "");
}

static void state(void *ctx, const struct peer *p, const struct peer_status *s)
{
	struct options *o = ctx;
	const char *target = peer_target(p);
	struct inlay_buf b = {0};

	/* What goes well is told by the change sets. */
	if (!s->why[0])
		return;
	if (o->common.json) {
		json_t *j = json_event("state");
		(void)json_object_update_new(j, json_pack("{s:o, s:s, s:o, s:i}", "target",
							  print_json_name(target, strlen(target)),
							  "state", livestatus_word(s->state), "why",
							  print_json_name(s->why, strlen(s->why)),
							  "exit", s->exit_code));
		put_json(o, j);
	} else {
		begin_line(o, &b);
		inlay_text_escape(&b, target, strlen(target));
		inlay_buf_printf(&b, ": %s: ", livestatus_word(s->state));
		inlay_text_escape(&b, s->why, strlen(s->why));
		print_line(&b);
	}
	begun(o, (enum inlay_exit)(s->exit_code ? s->exit_code : INLAY_EXIT_FAILURE), target,
	      s->why);
}

struct output {
	struct options *o;
	const char *target;
};

static void put_hook_line(void *ctx, const struct inlay_buf *text)
{
	const struct output *p = ctx;
	struct inlay_buf b = {0};

	begin_line(p->o, &b);
	inlay_text_escape(&b, p->target, strlen(p->target));
	inlay_buf_printf(&b, " before | ");
	inlay_buf_add(&b, text->data, text->len);
	print_line(&b);
}

static void hook(void *ctx, const struct peer *p, const struct message_hook *m)
{
	struct options *o = ctx;
	const char *target = peer_target(p);
	struct output output = {o, target};
	struct inlay_buf b = {0};
	struct site_event e;

	if (!site_event_of(m, "before", &e))
		return;
	if (o->common.json) {
		json_t *j = json_event(steps_event_name(e.kind));
		(void)json_object_set_new(j, "target", print_json_name(target, strlen(target)));
		steps_fill_json(j, &e);
		put_json(o, j);
		return;
	}
	steps_lines_add(&o->lines, p, &e, put_hook_line, &output);
	if (e.kind != SITE_END)
		return;
	begin_line(o, &b);
	inlay_text_escape(&b, target, strlen(target));
	inlay_buf_printf(&b, ": before ");
	steps_put_end(&b, &e);
	print_line(&b);
}

static void note(void *ctx, const char *text)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	if (o->common.json) {
		json_t *j = json_event("note");
		(void)json_object_set_new(j, "text", print_json_name(text, strlen(text)));
		put_json(o, j);
		return;
	}
	begin_line(o, &b);
	inlay_text_escape(&b, text, strlen(text));
	print_line(&b);
}

/* ---- running ---- */

static int watch_source(struct options *o, struct source *s, struct inlay_error *err)
{
	const struct live_events events = {
		.visible = visible, .state = state, .hook = hook, .note = note, .ctx = o};
	int r = 0;

	for (size_t i = 0; r == 0 && i < o->live.target_count; i++)
		r = pair_check_nesting(s->path, o->live.targets[i].target, err);
	if (r == 0 && o->detach)
		r = background_log(&o->background, s->state_fd, err);
	return r < 0 ? r : live_run(s, &o->live, &events, err);
}

static int fail(struct options *o, const struct inlay_error *err)
{
	background_report(&o->background, inlay_error_exit(err), err->text);
	return common_fail(&o->common, err);
}

static int run(struct options *o, const char *src, char **dst, size_t count)
{
	auto_free struct target *targets = calloc(count, sizeof *targets);
	auto_free struct peer_options *peers = calloc(count, sizeof *peers);
	auto_free struct transport_options **ways =
		calloc(count, sizeof(struct transport_options *));
	struct lines lines = {0};
	struct inlay_error err = {0};
	struct source s;
	int r = targets && peers && ways ? 0 : inlay_error_set(&err, -ENOMEM, "out of memory");

	patterns_use(&o->patterns, &o->scan.ignore);
	o->push.config = setup_finish(&o->setup);
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = target_parse(dst[i], &targets[i], &err);
		o->common.hosts += r == 0 && targets[i].host;
	}
	for (size_t i = 0; r == 0 && i < count; i++) {
		ways[i] = &peers[i].transport;
		peers[i] = (struct peer_options){.target = &targets[i],
						 .transport =
							 common_transport(&o->common, &targets[i]),
						 .push = o->push,
						 .bwlimit = o->bwlimit};
	}
	o->live.targets = peers;
	o->live.target_count = count;
	o->live.force = o->push.force;
	if (r == 0 && o->detach)
		r = background_begin(&o->background, &err);
	if (r == 0)
		r = common_lines(&o->common, &lines, ways, count, &err);
	const struct source_options so = {.state = o->common.state, .scan = o->scan};
	if (r == 0) {
		r = source_open(&s, src, &so, &err);
		if (r == 0) {
			r = watch_source(o, &s, &err);
			source_close(&s);
		}
	}
	lines_end(&lines);
	int code = r != 0 ? fail(o, &err) : (int)o->stopped;
	if (o->stopped)
		background_report(&o->background, o->stopped, o->stopped_text);
	for (size_t i = 0; targets && i < count; i++)
		target_fini(&targets[i]);
	return code;
}

/* ---- the others that run ---- */

struct others {
	struct options *o;
	size_t count;
};

static int list_packet(void *ctx, const struct control_packet *p, struct inlay_error *err)
{
	struct others *t = ctx;

	(void)err;
	t->count += p->kind == CONTROL_HEAD;
	livestatus_print(t->o->common.json, p);
	return 0;
}

static int list_one(void *ctx, int fd, struct inlay_error *err)
{
	static const struct control_request request = {.verb = CONTROL_STATUS};
	struct others *t = ctx;
	auto_close int own = fd;

	(void)err;
	/* One that ends just now is not there. */
	(void)!control_ask(own, &request, list_packet, t, NULL);
	return 0;
}

static int stop_one(void *ctx, int fd, struct inlay_error *err)
{
	static const struct control_request request = {.verb = CONTROL_STOP};
	struct others *t = ctx;
	auto_close int own = fd;
	char byte;

	int r = control_ask(own, &request, NULL, NULL, err);
	/* It closes the connection with everything else, when it ends. */
	while (r == 0 && read(own, &byte, 1) > 0)
		;
	t->count += r == 0;
	return r;
}

static int stop_source(struct others *t, const char *src, struct inlay_error *err)
{
	auto_free char *real = realpath(src, NULL);
	int fd, r = control_connect(t->o->common.state, real ? real : src, &fd, err);

	if (r == CONTROL_NOBODY)
		return inlay_error_set(err, -ESRCH, "no watch of %s runs", src);
	return r < 0 ? r : stop_one(t, fd, err);
}

static int manage(struct options *o, char **src, int count)
{
	struct others t = {.o = o};
	struct inlay_error err = {0};
	int r = 0;

	if (o->list)
		r = control_each(o->common.state, list_one, &t, &err);
	else if (count == 0)
		r = control_each(o->common.state, stop_one, &t, &err);
	for (int i = 0; r == 0 && o->stop && i < count; i++)
		r = stop_source(&t, src[i], &err);
	if (r < 0)
		return common_fail(&o->common, &err);
	if (t.count == 0 && !o->common.json && o->common.verbose >= 0)
		(void)puts("no watch runs");
	return INLAY_EXIT_OK;
}

/* ---- the command ---- */

static int parse_and_run(struct options *o, int argc, char **argv)
{
	struct inlay_error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "d", table, NULL)) >= 0) {
		if (c == '?')
			return common_usage("watch", "bad options");
		o->own_state |= c == OPT_STATE;
		if (!common_take(&o->common, c) && take(o, c, &err) < 0)
			return common_usage("watch", err.text);
	}
	if (o->common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (!o->list && !o->stop && argc - optind < 2)
		return common_usage("watch", "SRC and DST are needed");
	if (o->live.max_delay_ns < o->live.settle_ns)
		o->live.max_delay_ns = o->live.settle_ns;
	/* State that lies elsewhere is a trial or a test: the system's boot is not touched for it. */
	o->push.boot = o->boot || (!o->own_state && !o->common.remote_state && !o->no_boot);
	if (common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	if (o->list || o->stop)
		return manage(o, argv + optind, argc - optind);
	return run(o, argv[optind], argv + optind + 1, (size_t)(argc - optind - 1));
}

int cmd_watch(int argc, char **argv)
{
	struct options o = {
		.live = {.settle_ns = 5000000, .max_delay_ns = 100000000, .poll_ns = 10000000000},
		.background = {.report_fd = -1, .log_dirfd = -1},
		.own_state = getenv("INLAY_STATE") != NULL};
	int code = parse_and_run(&o, argc, argv);

	patterns_fini(&o.patterns);
	setup_fini(&o.setup);
	steps_lines_fini(&o.lines);
	inlay_buf_fini(&o.before);
	common_fini(&o.common);
	return code;
}
