/* SPDX-License-Identifier: Apache-2.0 */
/* inlay.yaml of any bytes, also as the file over itself: read and checked, or refused with a place. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/hostsfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *variable(void *ctx, const char *name)
{
	(void)ctx;
	return strcmp(name, "HOME") == 0 ? "/home/u" : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_set set = {0};
	struct inlay_error err = {0};
	struct yaml_node *root, *half;

	if (yaml_tree_new(&set.tree, &err) < 0)
		abort();
	struct field_reader reader = {
		.tree = set.tree, .problems = &set.problems, .variable = variable};
	set.config = yaml_alloc(set.tree, sizeof *set.config);
	int r = yaml_parse(set.tree, "a", data, size, &root, &err);
	if (r < 0 && (err.code != r || !*err.text))
		abort();
	if (r == 0 && yaml_parse(set.tree, "b", data, size / 2, &half, &err) == 0)
		r = yaml_merge(set.tree, half, root, &set.merged, &err);
	if (r == 0 && set.merged && set.merged->kind == YAML_MAP) {
		set.config->directory = yaml_dup(set.tree, "/", 1);
		if (fields_read(&reader, config_project_fields, set.merged, set.config, &err) == 0)
			(void)!config_resolve(&set, &err);
	}
	config_set_fini(&set);
	return 0;
}
