/* SPDX-License-Identifier: Apache-2.0 */
/* config check, show, schema: what inlay.yaml says. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cmd/print.h"
#include "cmd/project.h"

static const char help[] =
	"usage: inlay config [options] check|show|schema\n"
	"\n"
	"  check                  read inlay.yaml and what belongs to it, and say everything that "
	"is "
	"wrong\n"
	"  show                   print what holds: inlay.local.yaml over inlay.yaml, hosts and "
	"order "
	"resolved (JSON,\n"
	"                         which is YAML, too)\n"
	"  schema                 print the JSON schema of inlay.yaml for editors; with --hosts "
	"that of "
	"hosts.yaml\n"
	"\n"
	"  -f, --file FILE        the project's file (inlay.yaml in this directory or above)\n"
	"      --hosts            schema: of hosts.yaml\n" COMMON_HELP;

enum { OPT_HOSTS = OPT_FIRST_OWN };

struct options {
	struct common common;
	const char *file;
	bool hosts;
};

/* ---- schema ---- */

static json_t *schema_of(const struct field *fields);

static json_t *texts_schema(void)
{
	return json_pack("{s:[{s:s},{s:s,s:{s:s}}]}", "anyOf", "type", "string", "type", "array",
			 "items", "type", "string");
}

static json_t *choices_schema(const struct field *f)
{
	json_t *list = json_array();

	for (size_t i = 0; f->choices[i]; i++)
		(void)json_array_append_new(list, json_string(f->choices[i]));
	return json_pack("{s:o}", "enum", list);
}

static json_t *field_schema(const struct field *f)
{
	switch (f->type) {
	case FIELD_SWITCH:
		return json_pack("{s:s}", "type", "boolean");
	case FIELD_COUNT:
		return json_pack("{s:s, s:i}", "type", "integer", "minimum", 0);
	case FIELD_SIZE:
		return json_pack("{s:[s,s]}", "type", "string", "integer");
	case FIELD_DURATION:
		return json_pack("{s:[s,s], s:s}", "type", "string", "integer", "pattern",
				 "^[0-9]+(ms|s|m|h|d)?$");
	case FIELD_CHOICE:
		return choices_schema(f);
	case FIELD_TEXTS:
	case FIELD_COMMAND:
		return texts_schema();
	case FIELD_VARS:
		return json_pack("{s:s, s:{s:[s,s,s]}}", "type", "object", "additionalProperties",
				 "type", "string", "number", "boolean");
	case FIELD_OBJECT:
		return f->short_form ? json_pack("{s:[o,o]}", "anyOf", schema_of(f->fields),
						 texts_schema())
				     : schema_of(f->fields);
	case FIELD_LIST:
		return json_pack("{s:s, s:o}", "type", "array", "items", schema_of(f->fields));
	case FIELD_MAP:
		return json_pack("{s:s, s:o}", "type", "object", "additionalProperties",
				 f->short_form ? json_pack("{s:[o,o]}", "anyOf",
							   schema_of(f->fields), texts_schema())
					       : schema_of(f->fields));
	case FIELD_TEXT:
		break;
	}
	return json_pack("{s:[s,s]}", "type", "string", "number");
}

static json_t *schema_of(const struct field *fields)
{
	json_t *properties = json_object(), *required = json_array();

	for (const struct field *f = fields; f->name; f++) {
		json_t *one = field_schema(f);
		(void)json_object_set_new(one, "description", json_string(f->help));
		(void)json_object_set_new(properties, f->name, one);
		if (f->required)
			(void)json_array_append_new(required, json_string(f->name));
	}
	return json_pack("{s:s, s:b, s:o, s:o}", "type", "object", "additionalProperties", 0,
			 "properties", properties, "required", required);
}

static int schema(const struct options *o)
{
	json_t *s = schema_of(o->hosts ? config_hosts_fields : config_project_fields);

	(void)json_object_set_new(s, "$schema",
				  json_string("https://json-schema.org/draft/2020-12/schema"));
	(void)json_object_set_new(s, "title",
				  json_string(o->hosts ? "inlay hosts.yaml" : "inlay.yaml"));
	(void)json_dumpf(s, stdout, JSON_INDENT(2));
	(void)fputc('\n', stdout);
	json_decref(s);
	return INLAY_EXIT_OK;
}

/* ---- show ---- */

static json_t *json_of(const struct yaml_node *n)
{
	json_t *j;

	if (!n)
		return json_null();
	if (n->kind == YAML_TEXT)
		return json_string(n->text);
	j = n->kind == YAML_LIST ? json_array() : json_object();
	for (size_t i = 0; i < n->count; i++) {
		if (n->kind == YAML_LIST)
			(void)json_array_append_new(j, json_of(n->items[i]));
		else
			(void)json_object_set_new(j, n->keys[i]->text, json_of(n->items[i]));
	}
	return j;
}

static void show(const struct config_set *set)
{
	json_t *root = json_of(set->merged), *components = json_object();

	for (size_t i = 0; i < set->config->components.count; i++) {
		const struct config_component *c = set->config->ordered[i];
		json_t *one = json_incref(
			json_object_get(json_object_get(root, "components"), c->head.name));
		json_t *hosts = json_array();
		for (size_t h = 0; h < c->host_count; h++)
			(void)json_array_append_new(hosts, json_string(c->host_list[h]->head.name));
		(void)json_object_set_new(one, "hosts", hosts);
		(void)json_object_set_new(one, "source", json_string(c->source_path));
		(void)json_object_set_new(components, c->head.name, one);
	}
	/* In the order in which they come up. */
	(void)json_object_set_new(root, "components", components);
	(void)json_dumpf(root, stdout, JSON_INDENT(2));
	(void)fputc('\n', stdout);
	json_decref(root);
}

/* ---- check ---- */

static void print_problems(const struct options *o, const struct config_set *set)
{
	auto_buf struct inlay_buf text = {0};

	inlay_buf_add(&text, set->problems.text.data, set->problems.text.len);
	if (o->common.json) {
		json_t *list = json_array();
		for (char *at = (char *)inlay_buf_cstr(&text), *end; *at; at = end + 1) {
			end = strchrnul(at, '\n');
			(void)json_array_append_new(list, json_stringn(at, (size_t)(end - at)));
			if (!*end)
				break;
		}
		print_json(json_pack("{s:i, s:b, s:o}", "schema", 1, "ok", 0, "problems", list));
		return;
	}
	(void)fputs(inlay_buf_cstr(&text), stderr);
	if (set->problems.count > YAML_PROBLEMS_MAX)
		(void)fprintf(stderr, "... and %zu more\n",
			      set->problems.count - YAML_PROBLEMS_MAX);
}

static int check(const struct options *o, const struct config_set *set)
{
	size_t pairs = 0;

	for (size_t i = 0; i < set->config->components.count; i++)
		pairs += set->config->ordered[i]->host_count;
	if (o->common.json)
		print_json(json_pack("{s:i, s:b, s:I, s:I}", "schema", 1, "ok", 1, "components",
				     (json_int_t)set->config->components.count, "targets",
				     (json_int_t)pairs));
	else if (o->common.verbose >= 0)
		(void)printf("%s: all is well: %zu components, %zu targets\n", set->config->path,
			     set->config->components.count, pairs);
	return INLAY_EXIT_OK;
}

static int with_project(const struct options *o, bool checking)
{
	__attribute__((cleanup(inlay_cleanup_config_set_fini))) struct config_set set = {0};
	struct inlay_error err = {0};
	int r = project_load(o->file, &set, &err);

	if (r < 0 && set.problems.count > 0 && checking) {
		print_problems(o, &set);
		return inlay_error_exit(&err);
	}
	if (r < 0)
		return common_fail(&o->common, &err);
	if (checking)
		return check(o, &set);
	show(&set);
	return INLAY_EXIT_OK;
}

int cmd_config(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS,
					      {"file", required_argument, NULL, 'f'},
					      {"hosts", no_argument, NULL, OPT_HOSTS},
					      {0}};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT "f:", table, NULL)) >= 0) {
		if (c == 'f')
			o.file = optarg;
		else if (c == OPT_HOSTS)
			o.hosts = true;
		else if (!common_take(&o.common, c))
			return common_usage("config", "bad options");
	}
	if (o.common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	const char *what = argc - optind == 1 ? argv[optind] : "";
	if (strcmp(what, "schema") == 0)
		return schema(&o);
	if (strcmp(what, "show") == 0 || strcmp(what, "check") == 0)
		return with_project(&o, *what == 'c');
	return common_usage("config", "check, show or schema is wanted");
}
