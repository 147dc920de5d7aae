/* SPDX-License-Identifier: Apache-2.0 */
/* up, down, build: a project on all its hosts. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/print.h"
#include "cmd/project.h"
#include "cmd/steps.h"
#include "cmd/upimage.h"
#include "cmd/upview.h"
#include "inlay/cleanup.h"
#include "inlay/host.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "project/trust.h"
#include "project/raise.h"

static const char up_help[] =
	"usage: inlay up [options] [COMPONENT...]\n"
	"\n"
	"Brings the project of inlay.yaml up: each component appears on its hosts, is built there, "
	"runs, and follows\n"
	"every change from then on, until Ctrl-C. Mounts and programs stay when it ends.\n"
	"\n"
	"  -f, --file FILE        the project's file (inlay.yaml in this directory or above)\n"
	"  -H, --host HOST        only this host or @group; may be given more than once\n"
	"      --once             end when everything is up\n"
	"      --trust            this project may run its commands on hosts; remembered\n"
	"      --steal            take the workspaces over from another inlay that holds them\n"
	"      --no-boot          do not mount and start again after a reboot\n" COMMON_HELP;

static const char down_help[] =
	"usage: inlay down [options] [COMPONENT...]\n"
	"\n"
	"Stops the programs of the project's components and ends their mounts. What was synced "
	"stays on the hosts.\n"
	"\n"
	"  -f, --file FILE        the project's file\n"
	"  -H, --host HOST        only this host or @group; may be given more than once\n"
	"      --purge            forget it on the hosts, too: histories, logs, what was written "
	"there\n" COMMON_HELP;

static const char build_help[] =
	"usage: inlay build [options] [COMPONENT...]\n"
	"\n"
	"Runs the build of each component on its hosts now, whatever changed. What it writes comes "
	"line by line.\n"
	"\n"
	"  -f, --file FILE        the project's file\n"
	"  -H, --host HOST        only this host or @group; may be given more than once\n"
	"      --trust            this project may run its commands on hosts; "
	"remembered\n" COMMON_HELP;

enum { OPT_ONCE = OPT_FIRST_OWN, OPT_TRUST, OPT_NO_BOOT, OPT_PURGE, OPT_STEAL };

enum { NAMES_MAX = 1024 };

struct options {
	struct common common;
	const char *file;
	const char *hosts[NAMES_MAX + 1];
	size_t host_count;
	bool once, trust, no_boot, purge, steal;
	/* printing */
	struct up *up;
	struct upstate state;
	struct upview view;
	struct up_images images;
	pthread_mutex_t rebuilding;
	struct steps_lines lines;
};

static struct transport_options reach(void *ctx, const struct target *t)
{
	return common_transport(ctx, t);
}

/* ---- options ---- */

static int parse(struct options *o, int argc, char **argv, const char *help, int *ret_code)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"file", required_argument, NULL, 'f'},
					      {"host", required_argument, NULL, 'H'},
					      {"once", no_argument, NULL, OPT_ONCE},
					      {"trust", no_argument, NULL, OPT_TRUST},
					      {"no-boot", no_argument, NULL, OPT_NO_BOOT},
					      {"steal", no_argument, NULL, OPT_STEAL},
					      {"purge", no_argument, NULL, OPT_PURGE},
					      {0}};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "f:H:", table, NULL)) >= 0) {
		bool known = true;
		if (c == 'f')
			o->file = optarg;
		else if (c == 'H' && o->host_count < NAMES_MAX)
			o->hosts[o->host_count++] = optarg;
		else if (c == OPT_TRUST)
			o->trust = true;
		else if (c == OPT_ONCE)
			o->once = known = help == up_help;
		else if (c == OPT_NO_BOOT)
			o->no_boot = known = help == up_help;
		else if (c == OPT_STEAL)
			o->steal = known = help == up_help;
		else if (c == OPT_PURGE)
			o->purge = known = help == down_help;
		else
			known = common_take(&o->common, c);
		if (!known) {
			*ret_code = common_usage(argv[0], "bad options");
			return 1;
		}
	}
	if (!o->common.help)
		return 0;
	(void)fputs(help, stdout);
	*ret_code = INLAY_EXIT_OK;
	return 1;
}

/* ---- trust ---- */

static bool ask_person(const struct config *c)
{
	auto_buf struct inlay_buf list = {0};
	char answer[16];

	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return false;
	trust_list(c, &list);
	(void)fprintf(stderr,
		      "%s runs commands on your hosts:\n%s"
		      "Do you trust this project? [y/N] ",
		      c->path, inlay_buf_cstr(&list));
	return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int check_trust(const struct options *o, const struct config *c, struct inlay_error *err)
{
	int r = trust_needed(c) ? trust_check(o->common.state, c, err) : 0;

	if (r <= 0)
		return r;
	if (o->trust || ask_person(c))
		return trust_give(o->common.state, c, err);
	r = inlay_error_set(
		err, -EPERM,
		"%s runs commands on hosts ('inlay config show' says which) and was not trusted "
		"yet; --trust does that",
		c->path);
	(void)inlay_error_set_exit(err, INLAY_EXIT_HALT);
	return r;
}

/* ---- lines ---- */

static void begin_line(struct inlay_buf *b, const char *host, const char *component)
{
	time_t now = (time_t)(inlay_now_ns() / 1000000000);
	struct tm tm;
	char clock[16] = "";

	if (localtime_r(&now, &tm))
		(void)strftime(clock, sizeof clock, "%H:%M:%S", &tm);
	inlay_buf_printf(b, "%s %s%s%s", clock, host ? host : "", host ? " " : "", component);
}

static void put_line(struct options *o, struct inlay_buf *b, bool lazy)
{
	inlay_buf_u8(b, '\n');
	upview_clear(&o->view);
	print_text(stdout, b);
	upview_draw(&o->view, lazy);
}

struct output {
	struct options *o;
	const struct up_event *e;
};

static void put_output_line(void *ctx, const struct inlay_buf *text)
{
	const struct output *p = ctx;
	struct inlay_buf b = {0};

	begin_line(&b, p->e->host, p->e->component);
	inlay_buf_printf(&b, " | ");
	inlay_buf_add(&b, text->data, text->len);
	put_line(p->o, &b, true);
}

/* Whole lines of what a hook writes, `host component | text`. */
static void put_output(struct options *o, const struct up_event *e)
{
	struct output p = {o, e};

	steps_lines_add(&o->lines, e->step->site, e->step, put_output_line, &p);
}

/* ---- JSON ---- */

static json_t *json_event(const char *event, const struct up_event *e)
{
	json_t *j = json_pack("{s:i, s:s, s:o}", "schema", 1, "event", event, "time",
			      print_json_time(inlay_now_ns()));

	if (e->component)
		(void)json_object_set_new(j, "component", json_string(e->component));
	if (e->host)
		(void)json_object_set_new(j, "host", json_string(e->host));
	return j;
}

static void event_json(const struct up_event *e)
{
	static const char *const names[] = {"", "visible", "state", "note", "ready"};
	json_t *j = json_event(
		e->kind == UP_SITE ? steps_event_name(e->step->kind) : names[e->kind], e);

	if (e->kind == UP_SITE)
		steps_fill_json(j, e->step);
	if (e->told)
		(void)json_object_update_missing(j, (json_t *)e->told);
	print_json(j);
}

/* ---- events as text ---- */

static void step_text(struct options *o, const struct up_event *e)
{
	const struct site_event *s = e->step;
	struct inlay_buf b = {0};

	if (s->kind == SITE_TEXT || s->kind == SITE_END)
		put_output(o, e);
	if (s->kind == SITE_TEXT)
		return;
	if (s->kind == SITE_DONE || (s->kind == SITE_BEGIN && o->common.verbose <= 0)) {
		upview_draw(&o->view, false);
		return;
	}
	begin_line(&b, e->host, e->component);
	switch (s->kind) {
	case SITE_BEGIN:
		inlay_buf_printf(&b, ": %s", s->step);
		break;
	case SITE_END:
		inlay_buf_printf(&b, ": %s ", s->step);
		steps_put_end(&b, s);
		break;
	case SITE_BACK:
		inlay_buf_printf(&b, ": ");
		steps_put_back(&b, s->back);
		break;
	case SITE_UP:
		inlay_buf_printf(&b, ": up");
		break;
	default:
		inlay_buf_printf(&b, ": ");
		inlay_text_escape(&b, s->text, s->len);
	}
	put_line(o, &b, false);
}

static int64_t int_of(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static void visible_text(struct options *o, const struct up_event *e)
{
	const json_t *j = e->told;
	double ms = json_number_value(json_object_get(j, "visible_ms"));
	struct inlay_buf b = {0};

	begin_line(&b, e->host, e->component);
	inlay_buf_printf(&b, ": generation %lld: ", (long long)int_of(j, "generation"));
	if (json_is_true(json_object_get(j, "changed")))
		inlay_buf_printf(&b, "%lld added, %lld changed, %lld removed",
				 (long long)int_of(j, "added"), (long long)int_of(j, "modified"),
				 (long long)int_of(j, "removed"));
	else
		inlay_buf_printf(&b, "no change");
	if (ms > 0)
		inlay_buf_printf(&b, "; visible %.1f ms after the edit", ms);
	put_line(o, &b, false);
}

static void told_text(struct options *o, const struct up_event *e)
{
	const char *why =
		json_string_value(json_object_get(e->told, e->kind == UP_STATE ? "why" : "text"));
	struct inlay_buf b = {0};

	if (!why)
		return;
	begin_line(&b, e->host, e->component);
	inlay_buf_printf(&b, ": ");
	inlay_text_escape(&b, why, strlen(why));
	put_line(o, &b, false);
}

static void on_event(void *ctx, const struct up_event *e)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	if (o->state.rows)
		upstate_hear(&o->state, e);
	if (o->common.json) {
		event_json(e);
		return;
	}
	if (o->common.verbose < 0 && e->kind != UP_STATE &&
	    !(e->kind == UP_SITE && e->step->kind == SITE_FAIL))
		return;
	switch (e->kind) {
	case UP_SITE:
		step_text(o, e);
		break;
	case UP_VISIBLE:
		visible_text(o, e);
		break;
	case UP_STATE:
	case UP_NOTE:
		told_text(o, e);
		break;
	case UP_READY:
		begin_line(&b, NULL,
			   o->once ? "all is done" : "all is up; watching, Ctrl-C ends it");
		put_line(o, &b, false);
		break;
	}
}

/* ---- up ---- */

static void on_settled(void *ctx)
{
	struct options *o = ctx;

	upstate_save(&o->state);
	upview_draw(&o->view, false);
}

/* One image at a time: a builder takes all there is anyway. */
static int rebuild(void *ctx, struct site *p, struct inlay_error *err)
{
	struct options *o = ctx;

	scope_lock(&o->rebuilding);
	return up_image_again(&o->common, o->up, p, &o->images, err);
}

static int begin_view(struct options *o, struct inlay_error *err)
{
	int r = upstate_init(&o->state, o->up, o->common.state, err);

	if (r == 0 && !o->common.json && o->common.verbose >= 0)
		upview_init(&o->view, &o->state);
	if (r == 0)
		upview_draw(&o->view, false);
	return r;
}

static int finish_up(struct options *o, size_t failed, size_t count)
{
	upview_clear(&o->view);
	upstate_fini(&o->state);
	steps_lines_fini(&o->lines);
	return failed == 0       ? INLAY_EXIT_OK
	       : failed == count ? INLAY_EXIT_FAILURE
				 : INLAY_EXIT_SOME_HOSTS;
}

/* Reads the project and makes its sites. */
static int open_project(struct options *o, struct config_set *set, struct up_options *uo,
			struct up *up, char **components, struct inlay_error *err)
{
	const char *state = o->common.state, *transport = o->common.transport;
	int r = common_finish(&o->common, err);

	if (r == 0)
		r = project_load(o->file, set, err);
	*uo = (struct up_options){.set = set,
				  .components =
					  *components ? (const char *const *)components : NULL,
				  .hosts = o->host_count ? o->hosts : NULL,
				  .state = state,
				  .dev_state = o->common.state,
				  .rsh = o->common.rsh,
				  .transport = transport,
				  .once = o->once,
				  .no_boot = o->no_boot,
				  .steal = o->steal,
				  .reach = reach,
				  .ctx = &o->common};
	if (r == 0)
		r = up_init(up, uo, err);
	if (r == 0)
		o->common.hosts = sites_host_count(&up->sites);
	return r;
}

int cmd_up(int argc, char **argv)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	struct inlay_error err = {0};
	struct up_options uo;
	struct up up = {0};
	auto_free struct options *o = calloc(1, sizeof *o);
	size_t failed = 0, left_out = 0;
	int code = INLAY_EXIT_FAILURE;

	if (!o || parse(o, argc, argv, up_help, &code) != 0)
		return code;
	int r = open_project(o, &set, &uo, &up, argv + optind, &err);
	o->up = &up;
	up.tell = on_event;
	up.settled = on_settled;
	up.ctx = o;
	up.sites.rebuild = rebuild;
	up.sites.rebuild_ctx = o;
	(void)pthread_mutex_init(&o->rebuilding, NULL);
	if (r == 0)
		r = check_trust(o, set.config, &err);
	if (r == 0)
		r = up_images(&o->common, &up, &o->images, &left_out, &err);
	if (r == 0)
		r = begin_view(o, &err);
	if (r == 0) {
		r = up_run(&up, &failed, &err);
		code = finish_up(o, failed + left_out, up.sites.count + left_out);
	}
	if (r < 0)
		code = common_fail(&o->common, &err);
	up_fini(&up);
	up_images_fini(&o->images);
	common_fini(&o->common);
	return code;
}

/* ---- down ---- */

static int ask(const struct options *o, const struct site *p, const struct message_request *m,
	       struct inlay_error *err)
{
	struct message_open open = {.path = message_text_of(p->target.path)};

	return common_ask(&o->common, &p->target, &open, m, NULL, NULL, err);
}

static int take_down(const struct options *o, const struct site *p, struct inlay_error *err)
{
	struct message_request m = {.verb = MESSAGE_VERB_REMOVE};

	if (o->purge)
		return ask(o, p, &m, err);
	int r = 0;
	if (p->component->run.head.at) {
		m = (struct message_request){.verb = MESSAGE_VERB_PROGRAM,
					     .args = {INLAY_PROGRAM_STOP},
					     .body = message_text_of(p->component->head.name)};
		r = ask(o, p, &m, err);
	}
	if (r == 0 || r == -ENOENT) {
		m = (struct message_request){.verb = MESSAGE_VERB_UMOUNT};
		r = ask(o, p, &m, err);
	}
	return r;
}

static int take_all_down(const struct options *o, struct up *up)
{
	size_t failed = 0;

	/* What needs others goes before them. */
	for (size_t i = up->sites.count; i-- > 0;) {
		const struct site *p = &up->sites.list[i];
		struct inlay_error err = {0};
		int r = take_down(o, p, &err);
		if (r < 0) {
			failed++;
			(void)inlay_error_prefix(&err, r, "%s on %s", p->component->head.name,
						 p->host->head.name);
			(void)common_fail(&o->common, &err);
		} else if (o->common.json) {
			print_json(json_pack("{s:i, s:s, s:s, s:s}", "schema", 1, "component",
					     p->component->head.name, "host", p->host->head.name,
					     "result", o->purge ? "forgotten" : "down"));
		} else if (o->common.verbose >= 0) {
			(void)printf("%s %s: %s\n", p->host->head.name, p->component->head.name,
				     o->purge ? "forgotten" : "down");
		}
	}
	if (failed == 0 && !up->o->components && !up->o->hosts)
		upstate_forget(up->o->set->config, o->common.state);
	return failed == 0                 ? INLAY_EXIT_OK
	       : failed == up->sites.count ? INLAY_EXIT_FAILURE
					   : INLAY_EXIT_SOME_HOSTS;
}

int cmd_down(int argc, char **argv)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	struct inlay_error err = {0};
	struct up_options uo;
	struct up up = {0};
	auto_free struct options *o = calloc(1, sizeof *o);
	int code = INLAY_EXIT_FAILURE;

	if (!o || parse(o, argc, argv, down_help, &code) != 0)
		return code;
	int r = open_project(o, &set, &uo, &up, argv + optind, &err);
	code = r < 0 ? common_fail(&o->common, &err) : take_all_down(o, &up);
	up_fini(&up);
	common_fini(&o->common);
	return code;
}

/* ---- build ---- */

static void on_step(void *ctx, const struct site_event *e)
{
	struct up_event up = {.kind = UP_SITE,
			      .step = e,
			      .component = e->site->component->head.name,
			      .host = e->site->host->head.name};

	on_event(ctx, &up);
}

static int find_generation(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct message_status m;
	int r = message_decode_status(f->payload, f->len, &m, err);

	if (r == 0)
		*(uint64_t *)ctx = m.live.number;
	return r;
}

static int build_one(struct options *o, struct site *p, struct inlay_error *err)
{
	struct message_open open = {.path = message_text_of(p->target.path)};
	struct message_request m = {.verb = MESSAGE_VERB_STATUS};
	int r = common_ask(&o->common, &p->target, &open, &m, find_generation, &p->shown, err);

	if (r == 0 && p->shown == 0)
		r = inlay_error_set(err, -ENOENT, "nothing was synced there yet; see 'inlay up'");
	return r < 0 ? r : site_build(p, err);
}

static int build_all(struct options *o, struct up *up)
{
	size_t failed = 0, built = 0;

	sites_alone(&up->sites, on_step, o);
	for (size_t i = 0; i < up->sites.count; i++) {
		struct site *p = &up->sites.list[i];
		struct inlay_error err = {0};
		if (!p->component->build.head.at)
			continue;
		built++;
		int r = build_one(o, p, &err);
		if (r < 0) {
			failed++;
			(void)inlay_error_prefix(&err, r, "%s on %s", p->component->head.name,
						 p->host->head.name);
			(void)common_fail(&o->common, &err);
		}
	}
	if (built == 0)
		return common_usage("build",
				    "no component of the project that was named has a build");
	return finish_up(o, failed, built);
}

int cmd_build(int argc, char **argv)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	struct inlay_error err = {0};
	struct up_options uo;
	struct up up = {0};
	auto_free struct options *o = calloc(1, sizeof *o);
	int code = INLAY_EXIT_FAILURE;

	if (!o || parse(o, argc, argv, build_help, &code) != 0)
		return code;
	int r = open_project(o, &set, &uo, &up, argv + optind, &err);
	o->up = &up;
	if (r == 0)
		r = check_trust(o, set.config, &err);
	code = r < 0 ? common_fail(&o->common, &err) : build_all(o, &up);
	up_fini(&up);
	common_fini(&o->common);
	return code;
}
