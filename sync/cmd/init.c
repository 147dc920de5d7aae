/* SPDX-License-Identifier: Apache-2.0 */
/* init: a first inlay.yaml, with what a compose file says about watching. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "config/yamltree.h"
#include "inlay/io.h"
#include "inlay/run.h"

static const char help[] =
	"usage: inlay init [options]\n"
	"\n"
	"Writes a commented inlay.yaml into this directory. A compose file that is there is read: "
	"what "
	"'develop.watch'\n"
	"of its services says becomes components.\n"
	"\n"
	"      --from FILE        the compose file (compose.yaml, docker-compose.yml, ... when "
	"there "
	"is one)\n"
	"      --force            write over an inlay.yaml that is there\n" COMMON_HELP;

static const char head[] =
	"# What this project puts onto hosts, and what is done there when it changes.\n"
	"# 'inlay config check' says what is wrong with it, 'inlay config schema' gives editors "
	"its "
	"schema.\n"
	"# What is personal goes into inlay.local.yaml beside it, which need not be in git.\n"
	"version: 1\n"
	"name: ";

static const char hosts[] = "\n"
			    "# Names that 'ssh NAME' reaches, or that ~/.config/inlay/hosts.yaml "
			    "knows; @NAME is a group of "
			    "that file.\n"
			    "# 'local' is this machine.\n"
			    "hosts: [local]\n"
			    "\n"
			    "components:\n";

static const char example[] =
	"  app:\n"
	"    source: .                   # a folder here ...\n"
	"    target: inlay/app           # ... and where it is mounted there, below the home "
	"directory\n"
	"    # hosts: [robot1, \"@lab\"]   # instead of the project's\n"
	"    # ignore: [build/, \"*.bag\"] # besides .gitignore and .inlayignore\n"
	"    # env: {LOG: debug}         # for all that is run below\n"
	"    # needs: [base]             # components that come up before this one\n"
	"    # build: make -j2           # run there when it is there, and when it changed\n"
	"    # run: [python3, -m, app]   # runs there for good; 'inlay logs', 'inlay ps'\n"
	"    # reload:                   # what happens behind a change; the first that matches\n"
	"    #   - {match: [\"*.py\"], restart: true}\n"
	"    #   - {match: [\"*.conf\"], signal: HUP}\n"
	"    #   - {match: [\"*.c\", \"*.h\"], run: make -j2, timeout: 10m}\n";

enum { OPT_FROM = OPT_FIRST_OWN, OPT_FORCE };

struct options {
	struct common common;
	const char *from;
	bool force;
};

/* ---- from a compose file ---- */

/* As YAML in double quotes: JSON's strings are YAML. */
static void put_quoted(struct inlay_buf *b, const char *text)
{
	json_t *j = json_string(text);
	char *quoted = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;

	inlay_buf_printf(b, "%s", quoted ? quoted : "\"\"");
	free(quoted);
	json_decref(j);
}

/* A text, or the texts of a list: as a list. */
static void put_list(struct inlay_buf *b, const struct yaml_node *n)
{
	inlay_buf_u8(b, '[');
	for (size_t i = 0; n->kind == YAML_LIST && i < n->count; i++) {
		inlay_buf_printf(b, i ? ", " : "");
		put_quoted(b, n->items[i]->kind == YAML_TEXT ? n->items[i]->text : "");
	}
	if (n->kind == YAML_TEXT)
		put_quoted(b, n->text);
	inlay_buf_u8(b, ']');
}

/* `a: x` as it stands; a list stays a list of arguments, a text one for the shell. */
static void put_command(struct inlay_buf *b, const struct yaml_node *n)
{
	if (n->kind == YAML_TEXT)
		put_quoted(b, n->text);
	else
		put_list(b, n);
}

static const char *text_of(const struct yaml_node *n, const char *otherwise)
{
	return n && n->kind == YAML_TEXT ? n->text : otherwise;
}

/* {A: x}, or a list of "A=x"; what has no value is the container's own business. */
static void put_env(struct inlay_buf *b, const struct yaml_node *n)
{
	size_t count = 0;

	for (size_t i = 0; n && n->kind != YAML_TEXT && i < n->count; i++) {
		const char *item = text_of(n->items[i], "");
		const char *key = n->kind == YAML_MAP ? n->keys[i]->text : item;
		const char *sign = n->kind == YAML_MAP ? NULL : strchr(item, '=');
		auto_free char *name = strndup(key, sign ? (size_t)(sign - key) : strlen(key));
		if (!name || !*name || (n->kind == YAML_LIST && !sign))
			continue;
		inlay_buf_printf(b, count++ ? ", " : "    env: {");
		put_quoted(b, name);
		inlay_buf_printf(b, ": ");
		put_quoted(b, sign ? sign + 1 : item);
	}
	if (count)
		inlay_buf_printf(b, "}\n");
}

static bool rebuilds(const struct yaml_node *watch)
{
	return strcmp(text_of(yaml_get(watch, "action"), "sync"), "rebuild") == 0;
}

/* A service of which a component is made. */
static bool is_synced(const struct yaml_node *service)
{
	const struct yaml_node *watch = yaml_get(yaml_get(service, "develop"), "watch");

	for (size_t i = 0; watch && watch->kind == YAML_LIST && i < watch->count; i++)
		if (!rebuilds(watch->items[i]))
			return true;
	return false;
}

/* `depends_on`: a list of names, or a map of them. */
static void put_needs(struct inlay_buf *b, const struct yaml_node *services,
		      const struct yaml_node *n)
{
	size_t count = 0;

	for (size_t i = 0; n && n->kind != YAML_TEXT && i < n->count; i++) {
		const char *name =
			n->kind == YAML_MAP ? n->keys[i]->text : text_of(n->items[i], "");
		if (!is_synced(yaml_get(services, name)))
			continue;
		inlay_buf_printf(b, count++ ? ", " : "    needs: [");
		put_quoted(b, name);
	}
	if (count)
		inlay_buf_printf(b, "]\n");
}

/* What rebuilds the image there needs an image here. */
static void put_rebuilds(struct inlay_buf *b, const struct yaml_node *watch)
{
	for (size_t i = 0; i < watch->count; i++) {
		if (!rebuilds(watch->items[i]))
			continue;
		inlay_buf_printf(b, "    # the compose file says 'rebuild' for ");
		put_quoted(b, text_of(yaml_get(watch->items[i], "path"), "."));
		inlay_buf_printf(b, ": with an 'image' that has a 'build', that is\n"
				    "    # reload: [{match: ..., rebuild-base: true}]\n");
	}
}

static void put_watch(struct inlay_buf *b, const char *name, size_t number,
		      const struct yaml_node *service, const struct yaml_node *watch)
{
	const char *action = text_of(yaml_get(watch, "action"), "sync");
	const struct yaml_node *ignore = yaml_get(watch, "ignore");
	const struct yaml_node *command = yaml_get(service, "command");
	const struct yaml_node *exec = yaml_get(yaml_get(watch, "exec"), "command");
	bool restart = strcmp(action, "sync+restart") == 0 || strcmp(action, "restart") == 0;
	char full[INLAY_RUN_NAME_MAX + 32];

	(void)snprintf(full, sizeof full, number ? "%s-%zu" : "%s", name, number + 1);
	inlay_buf_printf(b, "  %s:\n    source: ", full);
	put_quoted(b, text_of(yaml_get(watch, "path"), "."));
	inlay_buf_printf(b, "\n    target: ");
	inlay_buf_printf(b, "inlay/%s    # in the container it was %s\n", full,
			 text_of(yaml_get(watch, "target"), "not given"));
	if (ignore) {
		inlay_buf_printf(b, "    ignore: ");
		put_list(b, ignore);
		inlay_buf_u8(b, '\n');
	}
	put_env(b, yaml_get(service, "environment"));
	if (command && number == 0) {
		inlay_buf_printf(b, "    run: ");
		put_command(b, command);
		inlay_buf_u8(b, '\n');
	}
	if (restart && command && number == 0)
		inlay_buf_printf(b, "    reload: [{restart: true}]\n");
	else if (exec) {
		inlay_buf_printf(b, "    reload:\n      - run: ");
		put_command(b, exec);
		inlay_buf_u8(b, '\n');
	} else if (strcmp(action, "sync") != 0) {
		inlay_buf_printf(b, "    # the compose file says '%s' here\n", action);
	}
}

/* How many components came of it. */
static size_t put_services(struct inlay_buf *b, const struct yaml_node *compose)
{
	const struct yaml_node *services = yaml_get(compose, "services");
	size_t count = 0;

	for (size_t i = 0; services && services->kind == YAML_MAP && i < services->count; i++) {
		const struct yaml_node *watch =
			yaml_get(yaml_get(services->items[i], "develop"), "watch");
		const char *name = services->keys[i]->text;
		size_t number = 0;
		if (!is_synced(services->items[i]) || !inlay_run_name_valid(name, strlen(name)))
			continue;
		for (size_t w = 0; w < watch->count; w++) {
			if (rebuilds(watch->items[w]))
				continue;
			put_watch(b, name, number, services->items[i], watch->items[w]);
			if (number++ > 0)
				continue;
			put_needs(b, services, yaml_get(services->items[i], "depends_on"));
			put_rebuilds(b, watch);
		}
		count += number;
	}
	return count;
}

static int read_compose(const struct options *o, struct inlay_buf *b, size_t *ret_count,
			const char **ret_name, struct inlay_error *err)
{
	static const char *const usual[] = {"compose.yaml", "compose.yml", "docker-compose.yaml",
					    "docker-compose.yml"};
	auto_of(yaml_tree_free) struct yaml_tree *tree = NULL;
	auto_buf struct inlay_buf bytes = {0};
	struct yaml_node *root;
	int r = INLAY_IO_MISSING;

	*ret_count = 0;
	*ret_name = o->from;
	for (size_t i = 0; !o->from && r == INLAY_IO_MISSING && i < 4; i++) {
		*ret_name = usual[i];
		r = inlay_read_file(AT_FDCWD, usual[i], YAML_FILE_MAX, &bytes, err);
	}
	if (o->from)
		r = inlay_read_file(AT_FDCWD, o->from, YAML_FILE_MAX, &bytes, err);
	if (r == INLAY_IO_MISSING)
		return o->from ? inlay_error_set(err, -ENOENT, "there is no %s", o->from) : 0;
	if (r == 0)
		r = yaml_tree_new(&tree, err);
	if (r == 0)
		r = yaml_parse(tree, *ret_name, bytes.data, bytes.len, &root, err);
	if (r == 0)
		*ret_count = put_services(b, root);
	return r;
}

/* ---- writing ---- */

static int write_new(const struct options *o, const struct inlay_buf *b, struct inlay_error *err)
{
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (o->force ? O_TRUNC : O_EXCL);
	auto_close int fd = open("inlay.yaml", flags, 0666);

	if (fd < 0 && errno == EEXIST)
		return inlay_error_set(err, -EEXIST,
				       "there is an inlay.yaml already; --force writes over it");
	if (fd < 0)
		return inlay_error_sys(err, -errno, "write inlay.yaml");
	return inlay_write_all(fd, b->data, b->len, "inlay.yaml", err);
}

static int init(const struct options *o, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	auto_buf struct inlay_buf components = {0};
	auto_free char *cwd = getcwd(NULL, 0);
	const char *from;
	size_t count;

	if (!cwd)
		return inlay_error_sys(err, -errno, "find the current directory");
	int r = read_compose(o, &components, &count, &from, err);
	if (r < 0)
		return r;
	inlay_buf_printf(&b, "%s", head);
	put_quoted(&b, strrchr(cwd, '/') + 1);
	inlay_buf_u8(&b, '\n');
	inlay_buf_printf(&b, "%s", hosts);
	if (count)
		inlay_buf_add(&b, components.data, components.len);
	else
		inlay_buf_printf(&b, "%s", example);
	r = inlay_buf_check(&b, err);
	if (r == 0)
		r = write_new(o, &b, err);
	if (r == 0 && o->common.json)
		print_json(json_pack("{s:i, s:s, s:I}", "schema", 1, "wrote", "inlay.yaml",
				     "components", (json_int_t)(count ? count : 1)));
	else if (r == 0 && o->common.verbose >= 0 && count)
		(void)printf("wrote inlay.yaml with %zu components of %s\n", count, from);
	else if (r == 0 && o->common.verbose >= 0)
		(void)printf("wrote inlay.yaml; see 'inlay config check'\n");
	return r;
}

int cmd_init(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"from", required_argument, NULL, OPT_FROM},
					      {"force", no_argument, NULL, OPT_FORCE},
					      {0}};
	struct options o = {0};
	struct inlay_error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0) {
		if (c == OPT_FROM)
			o.from = optarg;
		else if (c == OPT_FORCE)
			o.force = true;
		else if (!common_take(&o.common, c))
			return common_usage("init", "bad options");
	}
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (optind < argc)
		return common_usage("init", "too many arguments");
	return init(&o, &err) < 0 ? common_fail(&o.common, &err) : INLAY_EXIT_OK;
}
