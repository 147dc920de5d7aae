/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/helptext.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

enum {
	HELP_BYTES_MAX = 64 << 10,
	WORDS_MAX = 4,
	ALIKE_MAX = 8, /* options that stand together and have one text */
};

extern char **environ;

/* ---- options ---- */

static bool name_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-';
}

/* Where a word of an option list ends: "V,..." has a comma inside. */
static const char *word_end(const char *at, const char *end)
{
	while (at < end && *at != ' ' && !(*at == ',' && (at + 1 == end || at[1] == ' ')))
		at++;
	return at;
}

static void copy(char ret[static 40], const char *from, const char *to)
{
	(void)snprintf(ret, 40, "%.*s", (int)(to - from), from);
}

/* "-e, --rsh CMD" or "--boot, --no-boot"; gives where it ends. */
static const char *read_names(const char *at, const char *end, struct help_option *list,
			      size_t *ret_count)
{
	size_t n = 0;

	while (n < ALIKE_MAX && at < end && *at == '-') {
		const char *stop = word_end(at, end);
		list[n] = (struct help_option){0};
		copy(list[n].name, at, stop);
		at = stop;
		if (end - at > 1 && at[0] == ' ' && at[1] != ' ') {
			stop = word_end(at + 1, end);
			copy(list[n].argument, at + 1, stop);
			at = stop;
		}
		n++;
		if (end - at < 3 || at[0] != ',' || at[2] != '-')
			break;
		at += 2;
	}
	/* The argument stands behind the long name alone. */
	for (size_t i = 0; i + 1 < n; i++)
		if (list[i].name[1] != '-' && list[i + 1].name[1] == '-')
			memcpy(list[i].argument, list[i + 1].argument, sizeof list[i].argument);
	*ret_count = n;
	return at;
}

/* "always (the default), on-failure, or never" into "always|on-failure|never"; anything else gives "". */
static void read_choices(const char *at, const char *end, char ret[static 64])
{
	size_t n = 0, len = 0;

	*ret = 0;
	for (;;) {
		const char *stop = at;
		while (stop < end && name_byte(*stop))
			stop++;
		if (stop == at || len + (size_t)(stop - at) + 2 > 64)
			break;
		len += (size_t)snprintf(ret + len, 64 - len, "%s%.*s", n ? "|" : "",
					(int)(stop - at), at);
		n++;
		const char *close = memchr(stop, ')', (size_t)(end - stop));
		if (end - stop > 2 && stop[0] == ' ' && stop[1] == '(' && close)
			stop = close + 1;
		at = stop;
		if (end - at > 2 && at[0] == ',')
			at++;
		if (end - at > 4 && memcmp(at, " or ", 4) == 0)
			at += 3;
		if (at == stop)
			break;
		at += at < end && *at == ' ';
	}
	if (n < 2)
		*ret = 0;
}

/* Where the next option of the line begins: behind two blanks or more. NULL: nowhere. */
static const char *next_option(const char *at, const char *end)
{
	for (; end - at > 3; at++)
		if (at[0] == ' ' && at[1] == ' ' && at[2] == '-' && name_byte(at[3]))
			return at + 2;
	return NULL;
}

bool help_each_option(const char *help, bool (*fn)(void *ctx, const struct help_option *o),
		      void *ctx)
{
	for (const char *line = help; *line;) {
		const char *end = strchrnul(line, '\n');
		const char *at = line[0] == ' ' ? next_option(line, end) : NULL;
		while (at) {
			struct help_option list[ALIKE_MAX];
			size_t count;
			const char *text = read_names(at, end, list, &count);
			while (text < end && *text == ' ')
				text++;
			at = next_option(text, end);
			const char *stop = at ? at : end;
			while (stop > text && stop[-1] == ' ')
				stop--;
			for (size_t i = 0; i < count; i++) {
				list[i].text = text;
				list[i].text_len = (size_t)(stop - text);
				if (*list[i].argument)
					read_choices(text, stop, list[i].choices);
				if (fn(ctx, &list[i]))
					return true;
			}
		}
		line = *end ? end + 1 : end;
	}
	return false;
}

/* ---- commands and arguments ---- */

bool help_each_command(const char *help,
		       bool (*fn)(void *ctx, const char *name, const char *text, size_t text_len),
		       void *ctx)
{
	for (const char *line = help; *line;) {
		const char *end = strchrnul(line, '\n'), *stop = line + 2;
		char name[40];
		if (line[0] == ' ' && line[1] == ' ' && *stop >= 'a' && *stop <= 'z') {
			while (name_byte(*stop))
				stop++;
			copy(name, line + 2, stop);
			const char *text = stop;
			while (*text == ' ')
				text++;
			if (text > stop && fn(ctx, name, text, (size_t)(end - text)))
				return true;
		}
		line = *end ? end + 1 : end;
	}
	return false;
}

/* One form of usage, behind "inlay". */
static void one_form(const char *at, const char *end, size_t skip, size_t index,
		     void (*fn)(void *ctx, const char *kind), void *ctx)
{
	char kind[40] = "";
	bool many = false;
	size_t n = 0;

	while (at < end && n <= index && !(end - at > 1 && at[0] == ' ' && at[1] == ' ')) {
		while (at < end && *at == ' ')
			at++;
		const char *stop = at;
		while (stop < end && *stop != ' ')
			stop++;
		const char *from = at;
		at = stop;
		many = stop - from > 3 && memmem(from, (size_t)(stop - from), "...", 3);
		while (from < stop && *from == '[')
			from++;
		while (stop > from && (stop[-1] == ']' || stop[-1] == '.'))
			stop--;
		copy(kind, from, stop);
		if (skip > 0) {
			skip--;
			continue;
		}
		if (strcmp(kind, "--") == 0)
			return;
		n += *kind && *kind != '-' && strcmp(kind, "options") != 0;
	}
	if (skip == 0 && n > 0 && (n > index || many))
		fn(ctx, kind);
}

void help_each_argument(const char *help, size_t skip, size_t index,
			void (*fn)(void *ctx, const char *kind), void *ctx)
{
	static const char first[] = "usage: inlay ", more[] = "       inlay ";

	for (const char *line = help; *line;) {
		const char *end = strchrnul(line, '\n');
		if (strncmp(line, first, strlen(first)) == 0 ||
		    strncmp(line, more, strlen(more)) == 0)
			one_form(line + strlen(first), end, skip, index, fn, ctx);
		line = *end ? end + 1 : end;
	}
}

/* ---- the text ---- */

bool help_of(const char *const *words, struct inlay_buf *ret)
{
	const char *argv[WORDS_MAX + 3] = {"inlay"};
	posix_spawn_file_actions_t actions;
	int out[2], status = -1;
	size_t n = 0, got = 0;
	pid_t pid;

	while (n < WORDS_MAX && words[n]) {
		argv[n + 1] = words[n];
		n++;
	}
	argv[n + 1] = "--help";
	uint8_t *room = inlay_buf_reserve(ret, HELP_BYTES_MAX);
	if (!room || pipe2(out, O_CLOEXEC) < 0)
		return false;
	auto_close int in = out[0];
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	int r = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, (char *const *)argv, environ);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(out[1]);
	if (r != 0)
		return false;
	r = inlay_read_full(in, room, HELP_BYTES_MAX, &got, "a help text", NULL);
	if (r == 0)
		ret->len += got;
	return waitpid(pid, &status, 0) == pid && status == 0 && r == 0;
}
