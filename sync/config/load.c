/* SPDX-License-Identifier: Apache-2.0 */
/* Files into one checked configuration. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/hostsfile.h"
#include "inlay/io.h"

#define PROJECT_FILE "inlay.yaml"
#define LOCAL_FILE   "inlay.local.yaml"

static int no_memory(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOMEM, "out of memory");
}

/* Reads a file into a tree; *ret is NULL when it does not exist or is empty. `shown` is how messages call it. */
static int read_yaml(struct yaml_tree *t, const char *path, const char *shown,
		     struct yaml_node **ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(AT_FDCWD, path, YAML_FILE_MAX, &b, err);

	*ret = NULL;
	if (r == INLAY_IO_MISSING)
		return 0;
	if (r < 0)
		return inlay_error_prefix(err, r, "read %s", shown);
	return yaml_parse(t, shown, b.data, b.len, ret, err);
}

/* inlay.yaml in the directory or above it. */
static int find_project(const char *directory, char ret[static PATH_MAX], struct inlay_error *err)
{
	char at[PATH_MAX];

	if (!realpath(directory, at))
		return inlay_error_sys(err, -errno, "resolve %s", directory);
	for (;;) {
		size_t len = strlen(at);
		int n = snprintf(ret, PATH_MAX, "%s/%s", len == 1 ? "" : at, PROJECT_FILE);
		if (n < PATH_MAX && access(ret, F_OK) == 0)
			return 0;
		if (len == 1)
			return CONFIG_NONE;
		char *slash = strrchr(at, '/');
		slash[slash == at] = 0;
	}
}

static int set_paths(struct config_set *set, const char *path, struct inlay_error *err)
{
	char full[PATH_MAX];

	if (!realpath(path, full))
		return inlay_error_sys(err, -errno, "open %s", path);
	set->config->path = yaml_dup(set->tree, full, strlen(full));
	size_t len = (size_t)(strrchr(full, '/') - full);
	set->config->directory = yaml_dup(set->tree, full, len ? len : 1);
	return set->config->path && set->config->directory ? 0 : no_memory(err);
}

static int load_project(struct config_set *set, const struct field_reader *reader, const char *path,
			struct inlay_error *err)
{
	struct yaml_node *base, *local = NULL;
	char local_path[PATH_MAX + 32];

	int r = set_paths(set, path, err);
	if (r == 0)
		r = read_yaml(set->tree, path, PROJECT_FILE, &base, err);
	if (r < 0)
		return r;
	(void)snprintf(local_path, sizeof local_path, "%s/%s", set->config->directory, LOCAL_FILE);
	r = read_yaml(set->tree, local_path, LOCAL_FILE, &local, err);
	if (r == 0)
		r = yaml_merge(set->tree, base, local, &set->merged, err);
	if (r < 0)
		return r;
	if (!set->merged || set->merged->kind != YAML_MAP) {
		config_problem(&set->problems, set->merged,
			       "%s is empty or no map; 'inlay init' writes one", PROJECT_FILE);
		return 0;
	}
	set->config->head.at = set->merged;
	r = fields_read(reader, config_project_fields, set->merged, set->config, err);
	if (r == 0 && set->config->version > 1)
		config_problem(&set->problems, yaml_get(set->merged, "version"),
			       "version %llu is newer than this inlay, which knows 1",
			       (unsigned long long)set->config->version);
	else if (r == 0 && set->config->version == 0 && yaml_get(set->merged, "version"))
		config_problem(&set->problems, yaml_get(set->merged, "version"),
			       "the version is 1");
	return r;
}

static int load_hosts(struct config_set *set, const struct field_reader *reader, const char *path,
		      struct inlay_error *err)
{
	struct hosts_file file = {0};
	struct yaml_node *root;
	int r = read_yaml(set->tree, path, path, &root, err);

	if (r < 0 || !root)
		return r;
	if (root->kind != YAML_MAP) {
		config_problem(&set->problems, root, "the file is no map");
		return 0;
	}
	r = fields_read(reader, config_hosts_fields, root, &file, err);
	set->host_list = file.hosts;
	set->groups = file.groups;
	return r;
}

/* The first line of the problems is the error. */
static int fail(struct config_set *set, struct inlay_error *err)
{
	const char *text = inlay_buf_cstr(&set->problems.text), *end = strchr(text, '\n');
	int len = end ? (int)(end - text) : (int)strlen(text);
	int r;

	if (set->problems.count > 1)
		r = inlay_error_set(err, -EINVAL, "%.*s (and %zu more: 'inlay config check')", len,
				    text, set->problems.count - 1);
	else
		r = inlay_error_set(err, -EINVAL, "%.*s", len, text);
	(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	return r;
}

int config_load(const struct config_files *files, struct config_set *ret, struct inlay_error *err)
{
	char found[PATH_MAX];
	const char *path = files->project;

	*ret = (struct config_set){0};
	int r = path ? 0 : find_project(files->directory, found, err);
	if (r != 0)
		return r;
	r = yaml_tree_new(&ret->tree, err);
	if (r < 0)
		return r;
	ret->config = yaml_alloc(ret->tree, sizeof *ret->config);
	if (!ret->config)
		return no_memory(err);
	struct field_reader reader = {.tree = ret->tree,
				      .problems = &ret->problems,
				      .variable = files->variable,
				      .ctx = files->ctx};
	if (files->hosts)
		r = load_hosts(ret, &reader, files->hosts, err);
	if (r == 0)
		r = load_project(ret, &reader, path ? path : found, err);
	if (r == 0)
		r = config_resolve(ret, err);
	if (r == -EBADMSG || r == -E2BIG)
		(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	return r == 0 && ret->problems.count > 0 ? fail(ret, err) : r;
}

void config_set_fini(struct config_set *set)
{
	inlay_buf_fini(&set->problems.text);
	yaml_tree_free(set->tree);
	*set = (struct config_set){0};
}

const struct config_component *config_find(const struct config *c, const char *name)
{
	const struct config_component *list = c->components.items;

	for (size_t i = 0; i < c->components.count; i++)
		if (strcmp(list[i].head.name, name) == 0)
			return &list[i];
	return NULL;
}
