/* SPDX-License-Identifier: Apache-2.0 */
#include "project/trust.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/text.h"

enum { NAME_BYTES = 17, FILE_MAX = 8192 };

static const struct config_component *component(const struct config *c, size_t i)
{
	return (const struct config_component *)c->components.items + i;
}

static void list_command(struct inlay_buf *b, const char *component, const char *what,
			 const struct config_texts *command)
{
	/* `sh -c` is what a text became. */
	size_t from = command->count == 3 && !strcmp(command->items[0], "sh") ? 2 : 0;

	if (command->count == 0)
		return;
	inlay_buf_printf(b, "  %s, %s:", component, what);
	for (size_t i = from; i < command->count; i++) {
		inlay_buf_u8(b, ' ');
		inlay_text_escape(b, command->items[i], strlen(command->items[i]));
	}
	inlay_buf_u8(b, '\n');
}

void trust_list(const struct config *c, struct inlay_buf *b)
{
	for (size_t i = 0; i < c->components.count; i++) {
		const struct config_component *x = component(c, i);
		const struct config_reload *rules = x->reload.items;
		/* What an image runs by itself is not known here. */
		if (x->base)
			list_command(b, x->head.name, "in the image",
				     &(struct config_texts){&x->base->name, 1});
		list_command(b, x->head.name, "entrypoint", &x->entrypoint);
		list_command(b, x->head.name, "before", &x->before.run);
		list_command(b, x->head.name, "build", &x->build.run);
		list_command(b, x->head.name, "run", &x->run.command);
		for (size_t k = 0; k < x->reload.count; k++)
			list_command(b, x->head.name, "reload", &rules[k].run);
		list_command(b, x->head.name, "after", &x->after.run);
	}
}

bool trust_needed(const struct config *c)
{
	auto_buf struct inlay_buf b = {0};

	trust_list(c, &b);
	return b.len > 0 || b.failed;
}

static int open_trusted(const char *state, const struct config *c, int *ret_fd,
			char name[static NAME_BYTES], struct inlay_error *err)
{
	auto_buf struct inlay_buf path = {0};
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_of(c->directory, strlen(c->directory), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(name, NAME_BYTES, "%.16s", hex);
	inlay_buf_printf(&path, "%s/trusted", state);
	return inlay_open_dir(AT_FDCWD, inlay_buf_cstr(&path), 0700, ret_fd, err);
}

int trust_check(const char *state, const struct config *c, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	auto_close int fd = -1;
	char name[NAME_BYTES];
	int r = open_trusted(state, c, &fd, name, err);

	if (r == 0)
		r = inlay_read_file(fd, name, FILE_MAX, &b, err);
	if (r < 0)
		return r;
	return r == 0 && strcmp(inlay_buf_cstr(&b), c->directory) == 0 ? 0 : TRUST_NO;
}

int trust_give(const char *state, const struct config *c, struct inlay_error *err)
{
	auto_close int fd = -1;
	char name[NAME_BYTES];
	int r = open_trusted(state, c, &fd, name, err);

	return r < 0 ? r
		     : inlay_replace_file(fd, name, c->directory, strlen(c->directory), 0600,
					  INLAY_REPLACE_DURABLE, err);
}
