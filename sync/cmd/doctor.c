/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/checkup.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "transport/agents.h"
#include "transport/choose.h"
#include "transport/ssh2.h"

static const char help[] =
	"usage: inlay doctor [options] [HOST...]\n"
	"\n"
	"Looks at this machine and at each host (user@host, an ssh alias; without one, at this "
	"machine as a\n"
	"target), and tells what is well, what could be better and what is broken, with the cure.\n"
	"\n"
	"      --fix              put right what can be: mount again, take dead mounts "
	"away\n" COMMON_HELP "\n"
	"Ends with 0 when nothing is broken, with 1 when something is, with 5 when a host cannot "
	"be "
	"reached,\n"
	"with 3 when that is so for some of the hosts only.\n";

enum { OPT_FIX = OPT_FIRST_OWN };

struct options {
	struct common common;
	bool fix;
	const char *where; /* whose findings come now */
	unsigned bad, warnings;
};

/* ---- output ---- */

static const char *const levels[] = {"ok", "warn", "bad"};

static void print_check_json(const struct options *o, const struct inlay_check *c)
{
	json_t *j = json_pack("{s:i, s:o, s:s, s:s, s:o, s:b}", "schema", 1, "where",
			      print_json_name(o->where, strlen(o->where)), "check", c->name,
			      "level", levels[c->level], "text",
			      print_json_name(c->text, strlen(c->text)), "fixed", c->fixed);

	if (j && *c->cure)
		(void)json_object_set_new(j, "cure", print_json_name(c->cure, strlen(c->cure)));
	print_json(j);
}

static void on_check(void *ctx, const struct inlay_check *c)
{
	struct options *o = ctx;
	struct inlay_buf b = {0};

	o->bad += c->level == INLAY_CHECK_BAD;
	o->warnings += c->level == INLAY_CHECK_WARN;
	if (o->common.json) {
		print_check_json(o, c);
		return;
	}
	if (o->common.verbose < 0 && c->level == INLAY_CHECK_OK && !c->fixed)
		return;
	inlay_buf_printf(&b, "  %-5s  ", c->fixed ? "fixed" : levels[c->level]);
	size_t name = b.len;
	inlay_text_escape(&b, c->name, strlen(c->name));
	inlay_buf_printf(&b, "%*s  ", name + 11 > b.len ? (int)(name + 11 - b.len) : 0, "");
	inlay_text_escape(&b, c->text, strlen(c->text));
	inlay_buf_u8(&b, '\n');
	if (*c->cure) {
		inlay_buf_printf(&b, "  %-5s  %-11s  cure: ", "", "");
		inlay_text_escape(&b, c->cure, strlen(c->cure));
		inlay_buf_u8(&b, '\n');
	}
	print_text(stdout, &b);
}

static void begin(struct options *o, const char *where)
{
	struct inlay_buf b = {0};

	o->where = where;
	if (o->common.json)
		return;
	inlay_text_escape(&b, where, strlen(where));
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

/* ---- this machine ---- */

static void check_agents(struct options *o)
{
	static const char *const machines[] = {"x86_64", "aarch64"};
	char found[64] = "";

	for (size_t i = 0; i < 2; i++) {
		struct agent a;
		size_t len = strlen(found);
		if (agent_find(getenv("INLAY_AGENTS"), o->common.state, machines[i], &a, NULL) == 0)
			(void)snprintf(found + len, sizeof found - len, " %s", machines[i]);
	}
	if (*found)
		inlay_check_tell(on_check, o, INLAY_CHECK_OK, "agents", "",
				 "inlay %s has an inlayd for:%s", INLAY_VERSION, found);
	else
		inlay_check_tell(on_check, o, INLAY_CHECK_BAD, "agents",
				 "put inlayd-x86_64 or inlayd-aarch64 beside inlay, or into "
				 "../libexec/inlay",
				 "there is no inlayd to bring to hosts");
}

static void check_here(struct options *o)
{
	struct inlay_error err = {0};
	auto_close int fd = -1;

	begin(o, "here");
	check_agents(o);
	inlay_checkup_kernel(on_check, o);
	inlay_checkup_inotify(on_check, o);
	if (inlay_open_dir(AT_FDCWD, o->common.state, 0700, &fd, &err) < 0)
		inlay_check_tell(on_check, o, INLAY_CHECK_BAD, "disk",
				 "--state DIR or INLAY_STATE puts it elsewhere", "%s", err.text);
	else
		inlay_checkup_disk(fd, o->common.state, on_check, o);
}

/* ---- a host ---- */

static int on_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct options *o = ctx;
	struct message_check m;
	auto_buf struct inlay_buf name = {0}, text = {0}, cure = {0};
	int r = message_decode_check(f->payload, f->len, &m, err);

	if (r < 0)
		return r;
	inlay_buf_add(&name, m.name.bytes, m.name.len);
	inlay_buf_add(&text, m.text.bytes, m.text.len);
	inlay_buf_add(&cure, m.cure.bytes, m.cure.len);
	on_check(o, &(struct inlay_check){.level = (enum inlay_check_level)m.level,
					  .name = inlay_buf_cstr(&name),
					  .text = inlay_buf_cstr(&text),
					  .cure = inlay_buf_cstr(&cure),
					  .fixed = m.fixed});
	return 0;
}

static int ask(struct options *o, const struct common *common, const struct target *t, uint8_t verb,
	       int (*row)(void *, const struct frame *, struct inlay_error *),
	       struct inlay_error *err)
{
	const struct message_request request = {.verb = verb,
						.args = {(uint64_t)inlay_now_ns(), o->fix ? 1 : 0}};

	return common_ask(common, t, NULL, &request, row, o, err);
}

/* Which way is taken to the host, and why; and whether the other one would be there. */
static void check_transport(struct options *o, const struct target *t)
{
	struct transport_options options = common_transport(&o->common, t);
	auto_of(choice_fini) struct choice c = {0};
	struct common other = o->common;
	struct inlay_error err = {0};

	if (choose_transport(&options, &c, &err) < 0) {
		inlay_check_tell(on_check, o, INLAY_CHECK_BAD, "transport",
				 "--transport auto leaves it to ssh", "%s", err.text);
		return;
	}
	inlay_check_tell(on_check, o, INLAY_CHECK_OK, "transport", "", "%s: %s",
			 transport_kind_name(c.kind), c.why);
	if (c.kind == TRANSPORT_LIBSSH2)
		return;
	other.transport_kind = TRANSPORT_LIBSSH2;
	other.verbose = -1;
	if (ask(o, &other, t, MESSAGE_VERB_STATUS, NULL, &err) < 0)
		inlay_check_tell(on_check, o, INLAY_CHECK_OK, "libssh2", "",
				 "not for this host: %s", err.text);
	else
		inlay_check_tell(on_check, o, INLAY_CHECK_OK, "libssh2", "",
				 "%s would do as well; 'auto' takes it for many hosts",
				 ssh2_version());
}

/* HOST alone, as the beginning of a target. NULL: this machine. */
static int host_target(const char *name, struct target *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	bool url = name && strncmp(name, "ssh://", 6) == 0;

	if (!name)
		return 0;
	if (!url && strchr(name, '/')) {
		int r = inlay_error_set(err, -EINVAL, "'%s' is a path, not a host", name);
		(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
		return r;
	}
	inlay_buf_printf(&b, url ? "%s/~" : strchr(name, ':') ? "[%s]:~" : "%s:~", name);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : target_parse(inlay_buf_cstr(&b), ret, err);
}

static int check_host(struct options *o, const char *name)
{
	struct target t = {0};
	struct inlay_error err = {0};

	begin(o, name ? name : "this machine as a target");
	int r = host_target(name, &t, &err);
	if (r == 0)
		r = ask(o, &o->common, &t, MESSAGE_VERB_DOCTOR, on_row, &err);
	if (r == 0 && t.host)
		check_transport(o, &t);
	target_fini(&t);
	if (r == 0)
		return INLAY_EXIT_OK;
	inlay_check_tell(on_check, o, INLAY_CHECK_BAD, "connection", "", "%s", err.text);
	return inlay_error_exit(&err);
}

static int run(struct options *o, int argc, char **argv)
{
	struct inlay_error err = {0};
	int hosts = argc - optind, failures = 0, code = INLAY_EXIT_OK;

	if (common_finish(&o->common, &err) < 0)
		return common_fail(&o->common, &err);
	o->common.hosts = (unsigned)hosts;
	check_here(o);
	for (int i = optind; i < argc || (i == optind && hosts == 0); i++) {
		int one = check_host(o, hosts ? argv[i] : NULL);
		failures += one != INLAY_EXIT_OK;
		code = one != INLAY_EXIT_OK ? one : code;
	}
	if (failures > 0)
		return failures < hosts ? INLAY_EXIT_SOME_HOSTS : code;
	if (!o->common.json && o->common.verbose >= 0)
		(void)printf("%s\n", o->bad        ? "something is broken"
				     : o->warnings ? "nothing is broken"
						   : "all is well");
	return o->bad ? INLAY_EXIT_FAILURE : INLAY_EXIT_OK;
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option table[] = {
		COMMON_OPTIONS, {"fix", no_argument, NULL, OPT_FIX}, {0}};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (c == OPT_FIX)
			o.fix = true;
		else if (!common_take(&o.common, c))
			return common_usage("doctor", "bad options");
	}
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	int code = run(&o, argc, argv);
	common_fini(&o.common);
	return code;
}
