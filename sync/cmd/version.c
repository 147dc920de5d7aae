/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/tree.h"
#include "transport/agents.h"

static const char help[] =
	"usage: inlay version [options]\n"
	"\n"
	"The versions of inlay, of its formats and protocol, and the inlayd binaries it has.\n"
	"\n" COMMON_HELP;

static json_t *agents_json(const struct common *c)
{
	static const char *const machines[] = {"x86_64", "aarch64"};
	json_t *list = json_array();

	for (size_t i = 0; i < 2; i++) {
		struct agent a;
		char hex[INLAY_DIGEST_HEX];
		if (agent_find(getenv("INLAY_AGENTS"), c->state, machines[i], &a, NULL) != 0)
			continue;
		inlay_digest_hex(&a.id, hex);
		(void)json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I}", "machine",
							    machines[i], "path", a.path, "sha256",
							    hex, "bytes", (json_int_t)a.size));
	}
	return list;
}

int cmd_version(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	struct common c = {0};
	struct inlay_error err = {0};
	size_t i;
	json_t *agent;
	int opt;

	while ((opt = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (!common_take(&c, opt))
			return common_usage("version", "bad options");
	if (c.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	if (common_finish(&c, &err) < 0)
		return common_fail(&c, &err);
	json_t *agents = agents_json(&c);
	if (c.json) {
		print_json(json_pack("{s:i, s:s, s:i, s:i, s:o}", "schema", 1, "version",
				     INLAY_VERSION, "protocol", MESSAGE_VERSION, "tree_format",
				     INLAY_TREE_VERSION, "agents", agents));
	} else {
		(void)printf("inlay %s (protocol %d, tree format %d)\n", INLAY_VERSION,
			     MESSAGE_VERSION, INLAY_TREE_VERSION);
		json_array_foreach(agents, i, agent)(void) printf(
			"inlayd for %s: %s\n", json_string_value(json_object_get(agent, "machine")),
			json_string_value(json_object_get(agent, "path")));
		json_decref(agents);
	}
	common_fini(&c);
	return INLAY_EXIT_OK;
}
