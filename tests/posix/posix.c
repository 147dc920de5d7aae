/* SPDX-License-Identifier: Apache-2.0 */
/*
 *     posix-calls --fill DIR        makes DIR/given, which the filesystem is to show before the run
 *     posix-calls DIR [SECTION]     runs the checks there
 */
#include "posix.h"

#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *subject, *section;

void must(bool holds, const char *what)
{
	if (holds)
		return;
	(void)fflush(stdout);
	(void)fprintf(stderr, "%s %s: %s: %s\n", subject, section, what, strerror(errno));
	_exit(3);
}

static void line(const char *name, const char *result)
{
	printf("%s %s.%s %s\n", subject, section, name, result);
}

void check(const char *name, long ret)
{
	line(name, ret >= 0 ? "ok" : strerrorname_np(errno));
}

void check_fd(const char *name, int fd)
{
	check(name, fd);
	if (fd >= 0)
		(void)close(fd);
}

void value(const char *name, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(text, sizeof text, format, args);
	va_end(args);
	for (char *p = text; *p; p++)
		if (*p == '\n')
			*p = '|';
	line(name, text);
}

void bytes(const char *name, ssize_t ret, const void *buf, size_t first, size_t second)
{
	const uint8_t *p = buf;

	value(name, "%zd %d %d", ret, p[first], p[second]);
}

void claim(const char *name, bool holds)
{
	line(name, holds ? "yes" : "no");
}

int in_child(int (*fn)(void *arg), void *arg)
{
	int status;

	(void)fflush(stdout);
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		struct rlimit no_core = {0};
		(void)setrlimit(RLIMIT_CORE, &no_core);
		int r = fn(arg);
		(void)fflush(stdout);
		_exit(r);
	}
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int become_nobody(void *arg)
{
	void (*fn)(void) = *(void (**)(void))arg;
	gid_t groups[] = {NOBODY};

	must(setgroups(1, groups) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
		     setresuid(NOBODY, NOBODY, NOBODY) == 0,
	     "become nobody");
	fn();
	return 0;
}

void as_nobody(void (*fn)(void))
{
	if (geteuid() == 0)
		must(in_child(become_nobody, &fn) == 0, "a child as nobody");
}

const char *content(const char *path)
{
	static char bufs[4][4097]; /* so that four can be arguments of one call */
	static unsigned turn;
	char *buf = bufs[turn++ % 4];
	int fd = open(path, O_RDONLY | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0)
		return "<error>";
	n = read(fd, buf, sizeof bufs[0] - 1);
	(void)close(fd);
	if (n < 0)
		return "<error>";
	buf[n] = 0;
	return buf;
}

void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	must(fd >= 0, path);
	must(write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
	must(close(fd) == 0, path);
}

uint64_t hash_of(const char *path)
{
	static uint8_t buf[65536];
	uint64_t hash = 0xcbf29ce484222325;
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return 0;
	while ((n = read(fd, buf, sizeof buf)) > 0)
		for (ssize_t i = 0; i < n; i++)
			hash = (hash ^ buf[i]) * 0x100000001b3;
	(void)close(fd);
	return n < 0 ? 0 : hash;
}

struct stat stat_of(const char *path)
{
	struct stat st;

	must(lstat(path, &st) == 0, path);
	return st;
}

bool exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

/* Files are stamped with the clock of the last tick of the kernel's timer. */
void tick(void)
{
	struct timespec start, now, pause = {.tv_nsec = 1000000};

	(void)clock_gettime(CLOCK_REALTIME_COARSE, &start);
	for (int moved = 0; moved < 2;) {
		(void)nanosleep(&pause, NULL);
		(void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
		if (before(start, now)) {
			start = now;
			moved++;
		}
	}
}

bool before(struct timespec a, struct timespec b)
{
	return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* ---- what each section finds ---- */

static void make_many(void)
{
	char name[32];

	must(mkdir("many", 0755) == 0, "many");
	for (int i = 0; i < POSIX_MANY; i++) {
		(void)snprintf(name, sizeof name, "many/file-%04d", i);
		put(name, name);
	}
}

static void make_big(void)
{
	int fd = open("big", O_WRONLY | O_CREAT | O_EXCL, 0644);
	static uint8_t bytes[POSIX_BIG];

	for (size_t i = 0; i < POSIX_BIG; i++)
		bytes[i] = (uint8_t)(i * 2654435761u >> 24 | 1);
	must(fd >= 0 && write(fd, bytes, POSIX_BIG) == POSIX_BIG && close(fd) == 0, "big");
}

static void fill(const char *dir, bool many)
{
	must(mkdir(dir, 0755) == 0 && chdir(dir) == 0, dir);
	put("f", "first\n");
	put("g", "second\n");
	put("h", "third\n");
	put("empty", "");
	put("tool", "#!/bin/sh\nexit 7\n");
	must(chmod("tool", 0755) == 0, "chmod");
	make_big();
	must(mkdir("d", 0755) == 0 && mkdir("d/sub", 0755) == 0 && mkdir("e", 0755) == 0 &&
		     mkdir("full", 0755) == 0 && mkdir("top", 0755) == 0,
	     "mkdir");
	put("d/a", "a\n");
	put("d/sub/b", "b\n");
	put("full/x", "x\n");
	put("top/x", "x\n");
	must(symlink("f", "link") == 0 && symlink("nowhere", "dangling") == 0 &&
		     symlink("loop", "loop") == 0 && symlink("d", "dirlink") == 0,
	     "symlink");
	if (many)
		make_many();
	must(chdir("..") == 0, "chdir");
}

static const struct {
	const char *name;
	void (*run)(void);
	bool many;
} sections[] = {
	{"open", section_open, false},     {"data", section_data, false},
	{"holes", section_holes, false},   {"append", section_append, false},
	{"copy", section_copy, false},     {"mmap", section_mmap, false},
	{"rename", section_rename, false}, {"renamedir", section_renamedir, false},
	{"link", section_link, false},     {"symlink", section_symlink, false},
	{"unlink", section_unlink, false}, {"dirs", section_dirs, false},
	{"mknod", section_mknod, false},   {"mode", section_mode, false},
	{"times", section_times, false},   {"xattr", section_xattr, false},
	{"locks", section_locks, false},   {"readdir", section_readdir, true},
	{"names", section_names, false},   {"access", section_access, false},
	{"exec", section_exec, false},     {"inode", section_inode, false},
	{"race", section_race, false},
};

static void fill_all(const char *dir)
{
	must(mkdir(dir, 0755) == 0 && chdir(dir) == 0, dir);
	for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
		fill(sections[i].name, sections[i].many);
	must(chdir("..") == 0, "chdir");
}

static void run(const char *dir, const char *only)
{
	subject = dir;
	must(chdir(dir) == 0, dir);
	for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
		section = sections[i].name;
		if (only && strcmp(only, section) != 0)
			continue;
		must(chdir(section) == 0, section);
		sections[i].run();
		(void)fflush(stdout);
		must(chdir("..") == 0, section);
	}
	must(chdir("..") == 0, "chdir");
}

int main(int argc, char **argv)
{
	bool filling = argc == 3 && strcmp(argv[1], "--fill") == 0;

	subject = section = "posix-calls";
	(void)umask(022);
	if (argc < 2 || argc > 3) {
		(void)fprintf(stderr, "usage: posix-calls [--fill] DIR [SECTION]\n");
		return 2;
	}
	must(chdir(argv[filling ? 2 : 1]) == 0, "chdir");
	if (filling) {
		fill_all("given");
		return 0;
	}
	fill_all("own");
	run("own", argv[2]);
	run("given", argv[2]);
	return 0;
}
