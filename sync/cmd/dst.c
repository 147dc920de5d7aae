/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/dst.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/project.h"
#include "project/raise.h"

void dst_list_fini(struct dst_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		target_fini(&list->items[i].target);
		free(list->items[i].component);
		free(list->items[i].host);
	}
	free(list->items);
	*list = (struct dst_list){0};
}

static struct dst *add(struct dst_list *list, struct inlay_error *err)
{
	struct dst *more = reallocarray(list->items, list->count + 1, sizeof *more);

	if (!more) {
		(void)inlay_error_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	list->items = more;
	list->items[list->count] = (struct dst){0};
	return &list->items[list->count++];
}

static int add_site(struct dst_list *list, const struct config_component *c,
		    const struct config_host *h, struct inlay_error *err)
{
	auto_free char *text = NULL;
	struct dst *d = add(list, err);

	if (!d)
		return err->code;
	d->component = strdup(c->head.name);
	d->host = strdup(h->head.name);
	if (!d->component || !d->host)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = up_target(c, h, &text, err);
	return r < 0 ? r : target_parse(text, &d->target, err);
}

static int add_component(struct dst_list *list, const struct config_component *c, const char *host,
			 struct inlay_error *err)
{
	size_t before = list->count;
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->host_count; i++)
		if (!host || strcmp(c->host_list[i]->head.name, host) == 0)
			r = add_site(list, c, c->host_list[i], err);
	if (r == 0 && list->count == before) {
		r = inlay_error_set(err, -ENOENT, "component '%s' is not on host '%s'",
				    c->head.name, host);
		(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	}
	return r;
}

static int add_place(struct dst_list *list, const char *text, struct inlay_error *err)
{
	struct dst *d = add(list, err);

	return d ? target_parse(text, &d->target, err) : err->code;
}

/* NAME or NAME@HOST of this project, or a path. */
static int add_named(struct dst_list *list, const struct config *c, const char *text,
		     struct inlay_error *err)
{
	const char *at = strchr(text, '@');
	auto_free char *name = strndup(text, at ? (size_t)(at - text) : strlen(text));
	const struct config_component *component = name ? config_find(c, name) : NULL;

	if (!name)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	return component ? add_component(list, component, at ? at + 1 : NULL, err)
			 : add_place(list, text, err);
}

static int find(const char *text, struct dst_list *list, struct inlay_error *err)
{
	auto_of(config_set_fini) struct config_set set = {0};

	if (text && strpbrk(text, "/:"))
		return add_place(list, text, err);
	int r = text ? project_find(NULL, &set, err) : project_load(NULL, &set, err);
	if (r == CONFIG_NONE)
		return add_place(list, text, err);
	if (r < 0)
		return r;
	if (text)
		return add_named(list, set.config, text, err);
	for (size_t i = 0; r == 0 && i < set.config->components.count; i++)
		r = add_component(list, set.config->ordered[i], NULL, err);
	return r;
}

int dst_find(const char *text, struct dst_list *ret, struct inlay_error *err)
{
	*ret = (struct dst_list){0};
	int r = find(text, ret, err);
	if (r < 0)
		dst_list_fini(ret);
	return r;
}

int dst_parse(const char *text, struct target *ret, char **component, struct inlay_error *err)
{
	auto_of(dst_list_fini) struct dst_list list;
	int r = dst_find(text, &list, err);

	if (component)
		*component = NULL;
	if (r < 0)
		return r;
	if (list.count > 1) {
		auto_buf struct inlay_buf b = {0};
		for (size_t i = 0; i < list.count; i++)
			inlay_buf_printf(&b, "%s%s@%s", i ? " or " : "", text, list.items[i].host);
		(void)inlay_error_set(err, -EINVAL, "component '%s' is on %zu hosts: say %s", text,
				      list.count, inlay_buf_cstr(&b));
		return inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	}
	*ret = list.items[0].target;
	list.items[0].target = (struct target){0};
	if (component)
		*component = take_ptr(list.items[0].component);
	return 0;
}
