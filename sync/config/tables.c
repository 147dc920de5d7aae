/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of inlay.yaml and hosts.yaml. docs and schema say what stands here. */
#include "config/config.h"
#include "config/hostsfile.h"

#define KEY(s, n, t, m, h) .name = (n), .type = (t), .offset = offsetof(struct s, m), .help = (h)
#define OBJECT(table, s)   .fields = (table), .size = sizeof(struct s)

static const struct field hook_fields[] = {
	{KEY(config_hook, "run", FIELD_COMMAND, run, "what is run there"), .required = true},
	{KEY(config_hook, "dir", FIELD_TEXT, dir, "directory, relative to the component's")},
	{KEY(config_hook, "timeout", FIELD_DURATION, timeout_ns,
	     "then it is ended and counts as failed")},
	{KEY(config_hook, "inputs", FIELD_TEXTS, inputs,
	     "patterns; it is skipped while nothing that matches has changed")},
	{0},
};

static const struct field reload_fields[] = {
	{KEY(config_reload, "match", FIELD_TEXTS, match,
	     "patterns as in .gitignore; without any, every change matches")},
	{KEY(config_reload, "run", FIELD_COMMAND, run, "what is run there")},
	{KEY(config_reload, "timeout", FIELD_DURATION, timeout_ns,
	     "then it is ended and counts as failed")},
	{KEY(config_reload, "restart", FIELD_SWITCH, restart, "restart the component's program")},
	{KEY(config_reload, "signal", FIELD_TEXT, signal,
	     "send this signal to the component's program")},
	{KEY(config_reload, "rebuild-base", FIELD_SWITCH, rebuild_base,
	     "build the component's image anew, bring it there, and start the programs in it")},
	{0},
};

static const char *const restart_choices[] = {"always", "on-failure", "never", NULL};

static const struct field program_fields[] = {
	{KEY(config_program, "command", FIELD_COMMAND, command,
	     "the program; without one, that of the image")},
	{KEY(config_program, "dir", FIELD_TEXT, dir, "directory, relative to the component's")},
	{KEY(config_program, "restart", FIELD_CHOICE, restart,
	     "when it is started again after it ended"),
	 .choices = restart_choices},
	{KEY(config_program, "stop-signal", FIELD_TEXT, stop_signal,
	     "how it is told to end (TERM)")},
	{KEY(config_program, "stop-timeout", FIELD_DURATION, stop_timeout_ns,
	     "then it is killed (10s)")},
	{0},
};

static const struct field image_fields[] = {
	{KEY(config_image, "name", FIELD_TEXT, name,
	     "as 'inlay image list' has it (the last part of build)")},
	{KEY(config_image, "build", FIELD_TEXT, build,
	     "a folder with a recipe, which is built when it changed")},
	{KEY(config_image, "variant", FIELD_TEXT, variant, "which variant of it")},
	{0},
};
#define IMAGE OBJECT(image_fields, config_image), .short_form = "name"

/* As enum inlay_runtime, behind host, which is 0 there. */
static const char *const runtime_choices[] = {"host", "auto", "runc", "podman", NULL};

static const struct field back_fields[] = {
	{KEY(config_back, "match", FIELD_TEXTS, match,
	     "patterns as in .gitignore of what was written there"),
	 .required = true},
	{KEY(config_back, "to", FIELD_TEXT, to,
	     "the folder here, relative to the project; {host} in it is the host's name"),
	 .required = true},
	{0},
};

static const struct field timeout_fields[] = {
	{KEY(config_timeouts, "connect", FIELD_DURATION, connect_ns, "to reach a host (20s)")},
	{KEY(config_timeouts, "push", FIELD_DURATION, push_ns,
	     "between two answers of a host while a change set is sent (2m)")},
	{KEY(config_timeouts, "before", FIELD_DURATION, before_ns, "for 'before' (30s)")},
	{KEY(config_timeouts, "build", FIELD_DURATION, build_ns, "for 'build' and 'after' (1h)")},
	{KEY(config_timeouts, "run", FIELD_DURATION, run_ns,
	     "until the program is started or restarted (1m)")},
	{KEY(config_timeouts, "reload", FIELD_DURATION, reload_ns, "for each of 'reload' (2m)")},
	{0},
};

#define TIMEOUTS OBJECT(timeout_fields, config_timeouts)
#define HOOK     OBJECT(hook_fields, config_hook), .short_form = "run"

static const struct field component_fields[] = {
	{KEY(config_component, "source", FIELD_TEXT, source,
	     "the folder here, relative to the project"),
	 .required = true},
	{KEY(config_component, "target", FIELD_TEXT, target,
	     "where it appears on the hosts, relative to the home directory, or absolute"),
	 .required = true},
	{KEY(config_component, "hosts", FIELD_TEXTS, hosts,
	     "hosts and @groups; without any, the project's")},
	{KEY(config_component, "ignore", FIELD_TEXTS, ignore,
	     "patterns as in .gitignore of what is not synced")},
	{KEY(config_component, "gitignore", FIELD_SWITCH, gitignore,
	     "whether .gitignore files count (true)")},
	{KEY(config_component, "env", FIELD_VARS, env, "variables of its program and hooks")},
	{KEY(config_component, "image", FIELD_OBJECT, image,
	     "the base image that it runs in; without one, the project's"),
	 IMAGE},
	{KEY(config_component, "runtime", FIELD_CHOICE, runtime,
	     "what runs it in its image (auto): auto is runc, host is no container"),
	 .choices = runtime_choices},
	{KEY(config_component, "user", FIELD_TEXT, user,
	     "who it runs as in its image (as that says)")},
	{KEY(config_component, "entrypoint", FIELD_TEXTS, entrypoint,
	     "what stands in front of each command in its image (as that says)")},
	{KEY(config_component, "devices", FIELD_TEXTS, devices,
	     "devices of the host that its program needs")},
	{KEY(config_component, "redirect", FIELD_TEXTS, redirect,
	     "directories there that are plain local storage")},
	{KEY(config_component, "needs", FIELD_TEXTS, needs, "components that come first")},
	{KEY(config_component, "before", FIELD_OBJECT, before,
	     "run there before a change set is shown; when it fails, nothing is shown"),
	 HOOK},
	{KEY(config_component, "build", FIELD_OBJECT, build,
	     "run when the sources are there, or changed"),
	 HOOK},
	{KEY(config_component, "run", FIELD_OBJECT, run, "the program that runs there, for good"),
	 OBJECT(program_fields, config_program), .short_form = "command"},
	{KEY(config_component, "reload", FIELD_LIST, reload, "what is done behind a change set"),
	 OBJECT(reload_fields, config_reload)},
	{KEY(config_component, "after", FIELD_OBJECT, after, "run when all the rest is done"),
	 HOOK},
	{KEY(config_component, "back", FIELD_LIST, back,
	     "what is brought here after a build, or by 'inlay pull'"),
	 OBJECT(back_fields, config_back)},
	{KEY(config_component, "timeouts", FIELD_OBJECT, timeouts,
	     "how long each operation may take, for this component"),
	 TIMEOUTS},
	{0},
};

static const struct field watch_fields[] = {
	{KEY(config_watch, "settle", FIELD_DURATION, settle_ns,
	     "a burst has ended when nothing came for this long (5ms)")},
	{KEY(config_watch, "max-delay", FIELD_DURATION, max_delay_ns,
	     "a change set waits at most this long for a burst to end (100ms)")},
	{0},
};

const struct field config_project_fields[] = {
	{KEY(config, "version", FIELD_COUNT, version, "the format of this file: 1"),
	 .required = true},
	{KEY(config, "name", FIELD_TEXT, name, "what the project is called")},
	{KEY(config, "hosts", FIELD_TEXTS, hosts,
	     "hosts and @groups of components that name none")},
	{KEY(config, "components", FIELD_MAP, components, "the parts of the project"),
	 .required = true, OBJECT(component_fields, config_component)},
	{KEY(config, "image", FIELD_OBJECT, image, "the base image of components that name none"),
	 IMAGE},
	{KEY(config, "watch", FIELD_OBJECT, watch, "when a burst of changes is a change set"),
	 OBJECT(watch_fields, config_watch)},
	{KEY(config, "timeouts", FIELD_OBJECT, timeouts, "how long each operation may take"),
	 TIMEOUTS},
	{KEY(config, "bwlimit", FIELD_SIZE, bwlimit, "bytes a second to each host")},
	{0},
};

static const struct field host_fields[] = {
	{KEY(config_host, "address", FIELD_TEXT, address,
	     "for ssh: [user@]host; 'local' is this machine; without it, the name itself")},
	{KEY(config_host, "port", FIELD_TEXT, port, "the port, where ssh is not told it")},
	{0},
};

static const struct field group_fields[] = {
	{KEY(config_group, "hosts", FIELD_TEXTS, hosts, "hosts and @groups"), .required = true},
	{0},
};

const struct field config_hosts_fields[] = {
	{KEY(hosts_file, "hosts", FIELD_MAP, hosts, "hosts by name"),
	 OBJECT(host_fields, config_host), .short_form = "address"},
	{KEY(hosts_file, "groups", FIELD_MAP, groups, "groups of hosts by name"),
	 OBJECT(group_fields, config_group), .short_form = "hosts"},
	{0},
};
