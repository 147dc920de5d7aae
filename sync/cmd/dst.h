/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_DST_H
#define CMD_DST_H

/*
 * What a command's DST means:
 *
 *     host:path, /path, ./path    a place, as target_parse() reads it
 *     NAME, NAME@HOST             a component of the project around (project.h), on its one host or on that one
 *
 * A name that is no component's, or for which there is no project, is a path.
 */

#include "inlay/cleanup.h"
#include "inlay/error.h"
#include "session/client.h"

struct dst {
	struct target target;
	char *component, *host; /* NULL: a place */
};

struct dst_list {
	struct dst *items;
	size_t count;
};

/* All places that are meant: a component's on each of its hosts; of all components when `text` is NULL, which without
 * a project is a failure. Never empty. */
int dst_find(const char *text, struct dst_list *ret, struct inlay_error *err) inlay_must_check;
void dst_list_fini(struct dst_list *list);
INLAY_DEFINE_FINI(struct dst_list, dst_list_fini)

/* The one place that is meant. -EINVAL (exit code 2) when a component is on several hosts and none was named.
 * *component (may be NULL) gets the component's name, which the caller frees, or NULL. */
int dst_parse(const char *text, struct target *ret, char **component, struct inlay_error *err)
	inlay_must_check;

#endif
