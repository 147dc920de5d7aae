/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers like `git check-ignore -z -v -n --stdin`, for many roots at once. Standard input is a
 * sequence of strings, each ended by a NUL: "R<directory>" opens another root, "P<path>" asks for a
 * path below it. For each path: source, line, pattern, path, each ended by a NUL.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/ignore.h"

static struct inlay_error e;

static bool exists(int fd, const char *name)
{
	return faccessat(fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void print(const struct inlay_ignore_why *why, const char *path)
{
	if (why->pattern)
		printf("%s%c%u%c%s%c%s%c", why->source, 0, why->line, 0, why->pattern, 0, path, 0);
	else
		printf("%c%c%c%s%c", 0, 0, 0, path, 0);
}

static void answer(int rootfd, const char *path)
{
	const struct inlay_ignore_options options = {.no_builtin = true};
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = NULL;
	auto_close int at = dup(rootfd);
	struct inlay_ignore_why why;

	if (inlay_ignore_root(rootfd, &options, &rules, &e) < 0)
		errx(1, "%s", e.text);
	for (const char *rest = path;;) {
		size_t len = strcspn(rest, "/");
		auto_free char *name = strndup(rest, len);
		struct stat st;
		bool dir = rest[len] == '/' || (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
						S_ISDIR(st.st_mode));
		bool out = inlay_ignore_match(rules, name, len, dir, &why);
		if (out || rest[len] == 0)
			break;
		int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			err(1, "%s", path);
		close(at);
		at = next;
		struct inlay_ignore *below;
		if (inlay_ignore_enter(rules, at, name, len, exists(at, ".gitignore"), false,
				       &below, &e) < 0)
			errx(1, "%s", e.text);
		inlay_ignore_unref(rules);
		rules = below;
		rest += len + 1;
	}
	print(&why, path);
}

int main(void)
{
	auto_free char *line = NULL;
	size_t cap = 0;
	int rootfd = -1;

	while (getdelim(&line, &cap, 0, stdin) > 0) {
		if (line[0] == 'P') {
			answer(rootfd, line + 1);
			continue;
		}
		if (rootfd >= 0)
			close(rootfd);
		rootfd = open(line + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (rootfd < 0)
			err(1, "%s", line + 1);
	}
	if (rootfd >= 0)
		close(rootfd);
	return 0;
}
