/* SPDX-License-Identifier: Apache-2.0 */
/* open and its errors; names and paths at their limits. */
#include "posix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void create_with_modes(void)
{
	int fd = open("m640", O_WRONLY | O_CREAT | O_EXCL, 0640);

	value("create.mode", "%o", stat_of("m640").st_mode);
	(void)close(fd);
	(void)umask(027);
	check_fd("create.umask", open("m666", O_WRONLY | O_CREAT, 0666));
	value("create.umask.mode", "%o", stat_of("m666").st_mode);
	(void)umask(022);
	fd = open("m000", O_RDWR | O_CREAT | O_EXCL, 0);
	check("create.mode0.write", write(fd, "abc", 3));
	char back[3] = {0};
	check("create.mode0.read", pread(fd, back, 3, 0));
	claim("create.mode0.same", memcmp(back, "abc", 3) == 0);
	(void)close(fd);
	check_fd("create.suid", open("m4755", O_WRONLY | O_CREAT | O_EXCL, 04755));
	value("create.suid.mode", "%o", stat_of("m4755").st_mode);
}

static void create_as_nobody(void)
{
	int fd = open("e/theirs", O_RDWR | O_CREAT | O_EXCL, 0);

	check("nobody.create.mode0", fd);
	check("nobody.create.mode0.write", write(fd, "abc", 3));
	check_fd("nobody.open.mode0", open("e/theirs", O_RDONLY));
	struct stat st = stat_of("e/theirs");
	value("nobody.create.owner", "%u %u", st.st_uid, st.st_gid);
	check_fd("nobody.create.denied", open("d/new", O_WRONLY | O_CREAT, 0644));
	check_fd("nobody.open.write.denied", open("f", O_WRONLY));
	check_fd("nobody.open.trunc.denied", open("f", O_RDONLY | O_TRUNC));
}

void section_open(void)
{
	check_fd("excl.new", open("new", O_WRONLY | O_CREAT | O_EXCL, 0644));
	check_fd("excl.exists", open("f", O_WRONLY | O_CREAT | O_EXCL, 0644));
	check_fd("excl.link", open("link", O_WRONLY | O_CREAT | O_EXCL, 0644));
	check_fd("excl.dangling", open("dangling", O_WRONLY | O_CREAT | O_EXCL, 0644));
	check_fd("excl.dir", open("d", O_RDONLY | O_CREAT | O_EXCL, 0644));
	check_fd("create.dangling", open("dangling", O_WRONLY | O_CREAT, 0644));
	claim("create.dangling.made", exists("nowhere"));
	check_fd("create.dir", open("d", O_RDONLY | O_CREAT, 0644));
	check_fd("create.slash", open("nofile/", O_WRONLY | O_CREAT, 0644));
	check_fd("file.slash", open("f/", O_RDONLY));
	check_fd("missing", open("missing", O_RDONLY));
	check_fd("missing.dir", open("missing/x", O_WRONLY | O_CREAT, 0644));
	check_fd("file.as.dir", open("f/x", O_WRONLY | O_CREAT, 0644));
	check_fd("empty.path", open("", O_RDONLY));
	check_fd("dir.write", open("d", O_WRONLY));
	check_fd("dir.rdwr", open("d", O_RDWR));
	check_fd("dir.trunc", open("d", O_RDONLY | O_TRUNC));
	check_fd("dir.read", open("d", O_RDONLY));
	check_fd("directory.file", open("f", O_RDONLY | O_DIRECTORY));
	check_fd("directory.dir", open("d", O_RDONLY | O_DIRECTORY));
	check_fd("directory.link", open("dirlink", O_RDONLY | O_DIRECTORY));
	check_fd("nofollow", open("link", O_RDONLY | O_NOFOLLOW));
	check_fd("nofollow.dir", open("dirlink", O_RDONLY | O_NOFOLLOW | O_DIRECTORY));
	check_fd("path.link", open("link", O_PATH | O_NOFOLLOW));
	check_fd("loop", open("loop", O_RDONLY));
	check_fd("loop.create", open("loop", O_WRONLY | O_CREAT, 0644));

	check_fd("trunc", open("g", O_WRONLY | O_TRUNC));
	value("trunc.size", "%ld", (long)stat_of("g").st_size);
	value("trunc.content", "<%s>", content("g"));
	int fd = open("big", O_RDWR | O_CREAT | O_TRUNC, 0600);
	check("create.trunc", fd);
	value("create.trunc.mode", "%o", stat_of("big").st_mode);
	check("create.trunc.write", write(fd, "abc", 3));
	value("create.trunc.content", "<%s>", content("big"));
	(void)close(fd);

	char c;
	fd = open("f", O_RDONLY);
	check("rdonly.write", write(fd, "x", 1));
	(void)close(fd);
	fd = open("f", O_WRONLY);
	check("wronly.read", read(fd, &c, 1));
	(void)close(fd);
	fd = open("f", O_PATH);
	check("path.read", read(fd, &c, 1));
	(void)close(fd);
	fd = open("d", O_RDONLY);
	check("dir.pread", pread(fd, &c, 1, 0));
	check_fd("at", openat(fd, "a", O_RDONLY));
	check_fd("at.create", openat(fd, "made", O_WRONLY | O_CREAT | O_EXCL, 0644));
	check_fd("at.dotdot", openat(fd, "../f", O_RDONLY));
	(void)close(fd);
	fd = open("f", O_RDONLY);
	check_fd("at.file", openat(fd, "a", O_RDONLY));
	(void)close(fd);
	check_fd("tmpfile", open("d", O_TMPFILE | O_WRONLY, 0600));
	check_fd("sync", open("synced-file", O_WRONLY | O_CREAT | O_SYNC, 0644));
	create_with_modes();
	must(chmod("e", 0777) == 0, "chmod");
	as_nobody(create_as_nobody);
}

/* ---- names ---- */

static void try_long(const char *what, const char *name, const char *other)
{
	char line[64];
	struct stat st;
	char buf[16];

	(void)snprintf(line, sizeof line, "%s.create", what);
	check_fd(line, open(name, O_WRONLY | O_CREAT | O_EXCL, 0644));
	(void)snprintf(line, sizeof line, "%s.stat", what);
	check(line, lstat(name, &st));
	(void)snprintf(line, sizeof line, "%s.link", what);
	check(line, link(name, other));
	(void)snprintf(line, sizeof line, "%s.rename", what);
	check(line, rename(name, other));
	(void)snprintf(line, sizeof line, "%s.rename.to", what);
	check(line, rename("g", name));
	(void)snprintf(line, sizeof line, "%s.rename.from", what);
	check(line, rename(name, "g"));
	(void)snprintf(line, sizeof line, "%s.unlink", what);
	check(line, unlink(name));
	(void)snprintf(line, sizeof line, "%s.mkdir", what);
	check(line, mkdir(name, 0755));
	(void)snprintf(line, sizeof line, "%s.rmdir", what);
	check(line, rmdir(name));
	(void)snprintf(line, sizeof line, "%s.symlink", what);
	check(line, symlink("f", name));
	(void)snprintf(line, sizeof line, "%s.readlink", what);
	check(line, readlink(name, buf, sizeof buf));
	(void)snprintf(line, sizeof line, "%s.mknod", what);
	check(line, mknod(other, S_IFIFO | 0644, 0));
	(void)snprintf(line, sizeof line, "%s.remove", what);
	check(line, remove(name));
	(void)remove(other);
	(void)snprintf(line, sizeof line, "%s.linkto", what);
	check(line, link("f", name));
	(void)remove(name);
}

/* A chain of directories whose path is longer than PATH_MAX; then out again, removing it. */
static void deep(void)
{
	char name[251];
	int depth = 0;

	memset(name, 'n', 250);
	name[250] = 0;
	while (depth < 20) {
		if (mkdir(name, 0755) < 0 || chdir(name) < 0)
			break;
		depth++;
	}
	value("deep.depth", "%d", depth);
	put("bottom", "bottom\n");
	value("deep.content", "%s", content("bottom"));
	check("deep.rename", rename("bottom", "floor"));
	char path[8192], *p = path;
	for (int i = 0; i < depth; i++) {
		must(chdir("..") == 0, "chdir ..");
		p += sprintf(p, "%s/", name);
	}
	strcpy(p, "floor");
	check_fd("deep.long.path", open(path, O_RDONLY));
	/* Exactly PATH_MAX - 1 and PATH_MAX bytes: 16 names of 250 with slashes, then one that fills up. */
	size_t below = (size_t)16 * 251;
	memset(path + below, 'x', 4096);
	path[4095] = 0;
	check_fd("deep.4095.create", open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
	check("deep.4095.unlink", unlink(path));
	path[4095] = 'x';
	path[4096] = 0;
	check_fd("deep.4096", open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
	for (int i = 0; i < depth; i++)
		must(chdir(name) == 0, "chdir down");
	check("deep.unlink", unlink("floor"));
	for (int i = 0; i < depth; i++)
		must(chdir("..") == 0 && rmdir(name) == 0, "rmdir up");
	claim("deep.gone", !exists(name));
}

void section_names(void)
{
	char n255[256], n256[257], other[256];

	memset(n255, 'a', 255);
	memset(n256, 'b', 256);
	memset(other, 'c', 255);
	n255[255] = n256[256] = other[255] = 0;
	try_long("255", n255, other);
	put("g", "second\n");
	try_long("256", n256, other);

	static const char *odd[] = {".wh.f",
				    ".wh..wh..opq",
				    ".wh.",
				    "a b\tc\nd",
				    "\xff\xfe",
				    "\xc3\xa9",
				    "e\xcc\x81",
				    "...",
				    "-rf",
				    "*",
				    ".wh..wh.aufs",
				    ".inlay",
				    "con\\aux",
				    "\x1b[2J",
				    "trusted.overlay",
				    ".fuse_hidden0001",
				    "CASE",
				    "case",
				    "\x01"};
	unsigned made = 0, same = 0;
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
		put(odd[i], odd[i]);
		made++;
	}
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
		same += strcmp(content(odd[i]), odd[i]) == 0;
	value("odd", "%u %u", made, same);
	claim("odd.f.untouched", strcmp(content("f"), "first\n") == 0);
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
		made -= unlink(odd[i]) == 0;
	value("odd.left", "%u", made);
	deep();
}
