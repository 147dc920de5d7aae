/* SPDX-License-Identifier: Apache-2.0 */
/* pull: what was written on a target comes to the dev machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "cmd/project.h"
#include "cmd/steps.h"
#include "inlay/cleanup.h"
#include "inlay/text.h"
#include "project/raise.h"
#include "session/pulling.h"

static const char help[] =
	"usage: inlay pull [options] HOST:PATH [DST]\n"
	"       inlay pull [options] COMPONENT...\n"
	"\n"
	"Brings the files that were written on the target at PATH into the folder DST; without "
	"DST, "
	"into a new\n"
	"folder that has the workspace's name. With components of inlay.yaml: what their 'back' "
	"says, from each of\n"
	"their hosts. Nothing outside of the folder is touched. Local files that changed since the "
	"last sync or\n"
	"pull are kept.\n"
	"\n"
	"      --back PATTERN     only these (gitignore syntax); may be given more than once\n"
	"      --force            overwrite local files that changed\n"
	"  -n, --dry-run          only tell what would be brought\n"
	"  -f, --file FILE        the project's file (inlay.yaml in this directory or above)\n"
	"  -H, --host HOST        of components: only this host; may be given more than "
	"once\n" COMMON_HELP;

enum { OPT_BACK = OPT_FIRST_OWN, OPT_FORCE, PATTERNS_MAX = 1000, HOSTS_MAX = 256 };

struct options {
	struct common common;
	struct target target;
	const char *patterns[PATTERNS_MAX];
	const char *file;
	const char *hosts[HOSTS_MAX + 1];
	size_t host_count;
	struct pulling pulling;
	uint64_t conflicts, failures; /* of components */
};

/* ---- output ---- */

static void say(void *ctx, enum pulling_event event, const char *path, const char *why)
{
	static const struct {
		const char *mark, *event;
	} words[] = {{"+", "added"},  {"M", "changed"}, {"!", "conflict"},
		     {"!", "failed"}, {"!", "skipped"}, {"-", "removed"}};
	const struct options *o = ctx;
	const char *mark = words[event].mark;
	struct inlay_buf b = {0};

	if (o->common.json) {
		json_t *j = json_pack("{s:i, s:s, s:o}", "schema", 1, "event", words[event].event,
				      "path", print_json_name(path, strlen(path)));
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

static int exit_code(uint64_t failures, uint64_t conflicts)
{
	if (failures)
		return INLAY_EXIT_FAILURE;
	return conflicts ? INLAY_EXIT_HALT : INLAY_EXIT_OK;
}

static int print_summary(const struct options *o, const char *dst)
{
	const struct pulling *p = &o->pulling;
	struct inlay_buf b = {0};

	if (o->common.json) {
		print_json(json_pack("{s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "schema",
				     1, "folder", print_json_name(dst, strlen(dst)), "brought",
				     (json_int_t)p->brought, "bytes", (json_int_t)p->bytes, "same",
				     (json_int_t)p->same, "conflicts", (json_int_t)p->conflicts,
				     "failed", (json_int_t)p->failures, "skipped",
				     (json_int_t)p->skipped, "removed_there",
				     (json_int_t)p->removed, "dry_run", p->dry_run));
	} else if (o->common.verbose >= 0) {
		inlay_text_escape(&b, dst, strlen(dst));
		inlay_buf_printf(&b, ": %llu %s", (unsigned long long)p->brought,
				 p->dry_run ? "would be brought" : "brought");
		if (!p->dry_run) {
			inlay_buf_printf(&b, " (");
			inlay_text_size(&b, p->bytes);
			inlay_buf_printf(&b, ")");
		}
		inlay_buf_printf(&b, ", %llu the same", (unsigned long long)p->same);
		if (p->conflicts)
			inlay_buf_printf(&b, ", %llu kept", (unsigned long long)p->conflicts);
		if (p->failures)
			inlay_buf_printf(&b, ", %llu failed", (unsigned long long)p->failures);
		inlay_buf_u8(&b, '\n');
		print_text(stdout, &b);
	}
	return exit_code(p->failures, p->conflicts);
}

/* ---- one folder ---- */

static int talk(struct options *o, struct client *c, struct inlay_error *err)
{
	struct message_open open = {.path = message_text_of(o->target.path)};
	struct frame f;
	int r = client_open_workspace(c, &open, err);

	if (r == 0)
		r = client_recv(c, 0, &f, err);
	return r == 0 ? pulling_run(&o->pulling, c, err) : r;
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

static int pull_folder(struct options *o, const char *from, const char *dst)
{
	struct inlay_error err = {0}, save = {0};
	int r = target_parse(from, &o->target, &err);

	if (r == 0 && !dst) {
		const char *slash = strrchr(o->target.path, '/');
		dst = slash ? slash + 1 : o->target.path;
		if (!*dst || strcmp(dst, "~") == 0 || !landing_path_allowed(dst, strlen(dst)))
			return common_usage("pull", "the folder needs a name: give DST");
	}
	if (r == 0)
		r = pulling_open(&o->pulling, dst, o->common.state, &err);
	for (int i = 0; r == 0 && i < 2; i++) {
		r = talk_once(o, &err);
		if (r == 0)
			break;
		r = r == CLIENT_AGAIN && i == 0 ? 0 : r;
	}
	if (r > 0)
		r = inlay_error_set(&err, -EREMOTEIO, "inlayd was installed, but is not found");
	if (pulling_close(&o->pulling, &save) < 0 && r == 0) {
		err = save;
		r = save.code;
	}
	return r < 0 ? common_fail(&o->common, &err) : print_summary(o, dst);
}

/* ---- components ---- */

static struct transport_options reach(void *ctx, const struct target *t)
{
	return common_transport(ctx, t);
}

static void on_site(void *ctx, const struct site_event *e)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	if (e->kind != SITE_BACK)
		return;
	o->conflicts += e->back->conflicts;
	o->failures += e->back->failures;
	if (o->common.json) {
		json_t *j =
			json_pack("{s:i, s:s, s:s, s:s}", "schema", 1, "event",
				  steps_event_name(e->kind), "component",
				  e->site->component->head.name, "host", e->site->host->head.name);
		steps_fill_json(j, e);
		print_json(j);
	} else if (o->common.verbose >= 0) {
		inlay_buf_printf(&b, "%s %s: ", e->site->host->head.name,
				 e->site->component->head.name);
		steps_put_back(&b, e->back);
		inlay_buf_u8(&b, '\n');
		print_text(stdout, &b);
	}
}

static int pull_sites(struct options *o, struct up *up)
{
	size_t failed = 0, asked = 0;

	up->backs.force = o->pulling.force;
	up->backs.dry_run = o->pulling.dry_run;
	up->backs.say = say;
	up->backs.ctx = o;
	sites_alone(&up->sites, on_site, o);
	for (size_t i = 0; i < up->sites.count; i++) {
		struct site *p = &up->sites.list[i];
		struct inlay_error err = {0};
		if (p->component->back.count == 0)
			continue;
		asked++;
		int r = site_back(p, &err);
		if (r >= 0)
			continue;
		failed++;
		(void)inlay_error_prefix(&err, r, "%s on %s", p->component->head.name,
					 p->host->head.name);
		(void)common_fail(&o->common, &err);
	}
	if (asked == 0)
		return common_usage("pull", "no component that was named has a 'back'");
	if (failed)
		return failed < asked ? INLAY_EXIT_SOME_HOSTS : INLAY_EXIT_FAILURE;
	return exit_code(o->failures, o->conflicts);
}

static int pull_components(struct options *o, const struct config_set *set, char **names)
{
	struct inlay_error err = {0};
	struct up_options uo = {.set = set,
				.components = *names ? (const char *const *)names : NULL,
				.hosts = o->host_count ? o->hosts : NULL,
				.dev_state = o->common.state,
				.reach = reach,
				.ctx = &o->common};
	struct up up = {0};
	int r = up_init(&up, &uo, &err);
	int code = r < 0 ? common_fail(&o->common, &err) : pull_sites(o, &up);

	up_fini(&up);
	return code;
}

/* ---- the command ---- */

/* A name without ':' and '/' is a component where the project has one. */
static bool names_component(const struct config_set *set, const char *name)
{
	return !strpbrk(name, ":/") && config_find(set->config, name);
}

static int run(struct options *o, int argc, char **argv)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	struct inlay_error err = {0};
	bool project = argc == 0 || o->file || o->host_count > 0;

	/* Without a project, or with a broken one, HOST:PATH is pulled all the same. */
	int r = project || !strpbrk(argv[0], ":/") ? project_load(o->file, &set, &err) : -ENOENT;
	if (r < 0 && project)
		return common_fail(&o->common, &err);
	if (project || (r == 0 && names_component(&set, argv[0])))
		return o->pulling.pattern_count
			       ? common_usage("pull", "--back is for HOST:PATH; components have "
						      "their own 'back'")
			       : pull_components(o, &set, argv);
	if (argc > 2)
		return common_usage("pull", "HOST:PATH is needed, and one folder at most");
	return pull_folder(o, argv[0], argv[1]);
}

static int parse_and_run(struct options *o, int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"back", required_argument, NULL, OPT_BACK},
					      {"force", no_argument, NULL, OPT_FORCE},
					      {"dry-run", no_argument, NULL, 'n'},
					      {"file", required_argument, NULL, 'f'},
					      {"host", required_argument, NULL, 'H'},
					      {0}};
	struct inlay_error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "nf:H:", table, NULL)) >= 0) {
		if (c == OPT_BACK && o->pulling.pattern_count < PATTERNS_MAX)
			o->patterns[o->pulling.pattern_count++] = optarg;
		else if (c == OPT_FORCE)
			o->pulling.force = true;
		else if (c == 'n')
			o->pulling.dry_run = true;
		else if (c == 'f')
			o->file = optarg;
		else if (c == 'H' && o->host_count < HOSTS_MAX)
			o->hosts[o->host_count++] = optarg;
		else if (!common_take(&o->common, c))
			return common_usage("pull", "bad options");
	}
	if (o->common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	return run(o, argc - optind, argv + optind);
}

int cmd_pull(int argc, char **argv)
{
	struct options o = {.pulling = {.say = say}};
	o.pulling.patterns = o.patterns;
	o.pulling.ctx = &o;
	int code = parse_and_run(&o, argc, argv);

	target_fini(&o.target);
	common_fini(&o.common);
	return code;
}
