/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

/*
 * A project as its files describe it: read once, checked as a whole, constant from then on.
 *
 *     inlay.yaml         the project; found in the current directory or above, or given with -f
 *     inlay.local.yaml   beside it: what is personal; maps are merged key by key, all else replaces
 *     hosts.yaml         in the user's configuration directory ($XDG_CONFIG_HOME/inlay or ~/.config/inlay): what
 *                        hosts are called and how they are reached, and groups of them
 *
 * A host that hosts.yaml does not name is a name for ssh. `@name` is a group.
 */

#include "config/fields.h"

/* ---- hooks ---- */

/* Something that is run on a host, in the component's directory there. */
struct config_hook {
	struct config_head head;
	struct config_texts run;
	const char *dir;
	int64_t timeout_ns; /* 0 = the default of its kind */
	struct config_texts
		inputs; /* patterns; nothing of them changed -> it is skipped; none = always */
};

/* What is done when something changed; the first that matches of each kind. */
struct config_reload {
	struct config_head head;
	struct config_texts match; /* gitignore patterns of paths in the component; none = any */
	struct config_texts run;
	int64_t timeout_ns;
	int restart;        /* enum config_switch: the component's program */
	int rebuild_base;   /* enum config_switch: the component's image */
	const char *signal; /* to the component's program */
};

struct config_program {
	struct config_head head;
	struct config_texts command;
	const char *dir;
	unsigned restart; /* 1 + enum inlay_run_restart; 0 = not given */
	const char *stop_signal;
	int64_t stop_timeout_ns; /* 0 = not given */
};

/* A base image: where it comes from, and which one of that name. */
struct config_image {
	struct config_head head;
	const char *name;    /* as 'inlay image list' has it; NULL = the last part of `build` */
	const char *build;   /* a folder with a recipe, relative to the project's directory */
	const char *variant; /* NULL = none */
};

/* What was made there comes here. */
struct config_back {
	struct config_head head;
	struct config_texts match; /* gitignore patterns of paths in the component there */
	const char *to; /* the folder, relative to the project; `{host}` in it is the host's name */
};

/* How long each operation may take; 0 = not given. */
struct config_timeouts {
	struct config_head head;
	int64_t connect_ns, push_ns, before_ns, build_ns, run_ns, reload_ns;
};

/* ---- components ---- */

struct config_component {
	struct config_head head;
	const char *source; /* as written: relative to the project's directory */
	const char
		*target; /* where it appears: relative to the home directory there, or absolute */
	struct config_texts hosts;
	struct config_texts ignore; /* patterns as in .gitignore */
	int gitignore; /* enum config_switch: .gitignore files count; yes unless told otherwise */
	struct config_texts env;
	struct config_texts needs;    /* components that come first */
	struct config_texts devices;  /* host paths that its program needs */
	struct config_texts redirect; /* directories there that are plain local storage */
	struct config_hook before, build, after;
	struct config_program run;
	struct config_image image;       /* of the project, when the component names none */
	unsigned runtime;                /* 1 + enum inlay_runtime; 0 = not given */
	const char *user;                /* in the image; NULL = as the image says */
	struct config_texts entrypoint;  /* items NULL: as the image says */
	struct config_objects back;      /* struct config_back */
	struct config_timeouts timeouts; /* its own, else the project's */
	struct config_objects reload;    /* struct config_reload */
	/* found by config_load */
	char *source_path;               /* absolute */
	const struct config_image *base; /* NULL = none */
	char *build_path;                /* of base->build, absolute; NULL = it is not built */
	const struct config_host **host_list;
	size_t host_count;
	size_t order; /* 0, 1, ...: behind all that it needs */
};

/* ---- hosts ---- */

struct config_host {
	struct config_head head;
	const char
		*address; /* for ssh: [user@]host; "local" = this machine; NULL = the name itself */
	const char *port;
};

struct config_group {
	struct config_head head;
	struct config_texts hosts;
};

struct config_watch {
	struct config_head head;
	int64_t settle_ns, max_delay_ns; /* 0 = the default */
};

struct config {
	struct config_head head;
	uint64_t version; /* 1 */
	const char *name;
	struct config_texts hosts;        /* of components that name none */
	struct config_objects components; /* struct config_component, in the order of the file */
	struct config_watch watch;
	struct config_image image; /* of components that name none */
	struct config_timeouts timeouts;
	uint64_t bwlimit; /* bytes a second, 0 = none */
	/* found by config_load */
	char *path; /* of inlay.yaml, absolute */
	char *directory;
	struct config_component **ordered; /* by `order` */
};

/* ---- reading ---- */

struct config_files {
	const char *project;   /* inlay.yaml; NULL = look for it */
	const char *directory; /* where to look from */
	const char *hosts;     /* hosts.yaml; it need not exist */
	const char *(*variable)(void *ctx, const char *name);
	void *ctx;
};

struct config_set {
	struct yaml_tree *tree; /* holds everything below */
	struct config *config;
	struct yaml_node *merged; /* the project as one tree, for show */
	struct config_objects
		host_list; /* struct config_host: of hosts.yaml, then those named elsewhere */
	struct config_objects groups; /* struct config_group */
	struct config_problems problems;
};

enum { CONFIG_NONE = 1 }; /* positive result: there is no inlay.yaml */

/*
 * Reads and checks. -EINVAL (exit code 2) when something is wrong: the first problem is in *err, all of them are in
 * ret->problems. *ret is ended with fini in any case.
 */
int config_load(const struct config_files *files, struct config_set *ret, struct inlay_error *err)
	inlay_must_check;
void config_set_fini(struct config_set *set);
INLAY_DEFINE_FINI(struct config_set, config_set_fini)

const struct config_component *config_find(const struct config *c, const char *name);
/* True when what a user calls so means that host: its name, or "@group" with a group that it is in. */
bool config_means_host(const struct config_set *set, const char *name, const char *host);

/* The rows of inlay.yaml and of hosts.yaml, for the schema. */
extern const struct field config_project_fields[];
extern const struct field config_hosts_fields[];

#endif
