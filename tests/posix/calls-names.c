/* SPDX-License-Identifier: Apache-2.0 */
/* Names: rename, link, symlink, unlink, directories, special files. */
#include "posix.h"

#include <dirent.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int rename_flags(const char *from, const char *to, unsigned flags)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	if (!d)
		return 9999;
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n;
}

static void rename_errors(void)
{
	check("missing", rename("missing", "x"));
	check("missing.parent", rename("f", "missing/x"));
	check("file.parent", rename("f", "g/x"));
	check("file.parent.from", rename("g/x", "f"));
	check("file.over.dir", rename("f", "e"));
	check("dir.over.file", rename("e", "f"));
	check("dir.over.full", rename("e", "full"));
	check("dir.into.itself", rename("d", "d/sub/d"));
	check("dir.over.parent", rename("d/sub", "d"));
	check("dot", rename("d/.", "x"));
	check("dotdot", rename("d/..", "x"));
	check("to.dot", rename("e", "d/."));
	check("file.slash", rename("f/", "x"));
	check("file.to.slash", rename("f", "x/"));
	check("loop", rename("loop/x", "x"));
	check("empty", rename("", "x"));
	check("to.empty", rename("f", ""));
	check("exdev", rename("f", "/dev/shm/inlay-posix-exdev"));
	check("exdev.from", rename("/proc/self/status", "x"));
	check("noreplace.exists", rename_flags("f", "g", RENAME_NOREPLACE));
	check("noreplace.dir", rename_flags("f", "d", RENAME_NOREPLACE));
	check("noreplace.dangling", rename_flags("f", "dangling", RENAME_NOREPLACE));
	check("exchange.missing", rename_flags("f", "missing", RENAME_EXCHANGE));
	check("exchange.from.missing", rename_flags("missing", "f", RENAME_EXCHANGE));
	check("exchange.into.itself", rename_flags("d", "d/sub", RENAME_EXCHANGE));
	check("exchange.noreplace", rename_flags("f", "g", RENAME_EXCHANGE | RENAME_NOREPLACE));
	check("exchange.whiteout", rename_flags("f", "g", RENAME_EXCHANGE | RENAME_WHITEOUT));
	check("flags", rename_flags("f", "g", 1u << 20));
	value("unharmed", "%s%s%s", content("f"), content("g"), content("d/sub/b"));
}

void section_rename(void)
{
	rename_errors();
	check("same", rename("f", "f"));
	value("same.content", "%s", content("f"));
	check("new", rename("f", "f2"));
	claim("new.old", exists("f"));
	value("new.content", "%s", content("f2"));
	check_fd("new.create.old", open("f", O_WRONLY | O_CREAT | O_EXCL, 0644));
	value("new.created", "<%s>", content("f"));
	check("back.over", rename("f2", "f"));
	value("back.content", "%s", content("f"));
	claim("back.old", exists("f2"));

	int fd = open("g", O_RDONLY);
	ino_t ino = stat_of("h").st_ino;
	char back[8] = {0};
	check("over.open", rename("h", "g"));
	value("over.open.fd", "%zd %.7s", pread(fd, back, 7, 0), back);
	struct stat st;
	(void)fstat(fd, &st);
	value("over.open.nlink", "%lu", (unsigned long)st.st_nlink);
	claim("over.inode", stat_of("g").st_ino == ino);
	value("over.content", "%s", content("g"));
	(void)close(fd);

	check("noreplace.new", rename_flags("g", "g2", RENAME_NOREPLACE));
	check("exchange.files", rename_flags("f", "g2", RENAME_EXCHANGE));
	value("exchange.files.content", "%s%s", content("f"), content("g2"));
	check("exchange.types", rename_flags("f", "d", RENAME_EXCHANGE));
	value("exchange.types.content", "%s%s", content("d"), content("f/sub/b"));
	check("exchange.types.back", rename_flags("d", "f", RENAME_EXCHANGE));
	check("exchange.depths", rename_flags("f", "d/sub/b", RENAME_EXCHANGE));
	value("exchange.depths.content", "%s%s", content("f"), content("d/sub/b"));
	check("whiteout", rename_flags("tool", "tool2", RENAME_WHITEOUT));

	check("link", rename("link", "link2"));
	char target[16] = {0};
	value("link.target", "%zd %s", readlink("link2", target, 15), target);
	check("link.dangling", rename("dangling", "dangling2"));
	check("link.over.file", rename("dangling2", "empty"));
	value("link.over.file.mode", "%o", stat_of("empty").st_mode >> 12);
	check("file.over.link", rename("g2", "link2"));
	value("file.over.link.mode", "%o", stat_of("link2").st_mode >> 12);
	check("names.of.one", (link("f", "fl") == 0) ? rename("f", "fl") : -1);
	claim("names.of.one.stay", exists("f") && exists("fl"));
	check("across", rename("f", "d/sub/moved"));
	check("across.up", rename("d/sub/moved", "e/moved"));
	value("across.content", "%s", content("e/moved"));
	value("across.nlink", "%lu", (unsigned long)stat_of("fl").st_nlink);
	for (int i = 0; i < 50; i++)
		must(rename("fl", "x1") == 0 && rename("x1", "x2") == 0 && rename("x2", "fl") == 0,
		     "rename round");
	value("round", "%s", content("fl"));
	claim("round.left", exists("x1") || exists("x2"));
}

static bool ends_with(const char *text, const char *tail)
{
	size_t n = strlen(text), t = strlen(tail);

	return n >= t && strcmp(text + n - t, tail) == 0;
}

void section_renamedir(void)
{
	char cwd[4096], buf[8] = {0};
	int fd = open("d/sub/b", O_RDONLY), dir = open("d/sub", O_RDONLY);

	check("new", rename("d", "d2"));
	value("new.content", "%s%s", content("d2/a"), content("d2/sub/b"));
	claim("new.old", exists("d") || exists("d/a"));
	value("new.fd", "%zd %.1s", pread(fd, buf, 2, 0), buf);
	check_fd("new.at", openat(dir, "b", O_RDONLY));
	check_fd("new.at.create", openat(dir, "c", O_WRONLY | O_CREAT | O_EXCL, 0644));
	claim("new.at.created", exists("d2/sub/c"));
	check("recreate", mkdir("d", 0755));
	value("recreate.entries", "%u", entries("d"));
	check("recreate.rmdir", rmdir("d"));
	check("slash", rename("d2/", "d3/"));
	check("over.empty", rename("d3", "e"));
	value("over.empty.entries", "%u", entries("e"));
	value("over.empty.content", "%s", content("e/sub/b"));
	check("into.other", rename("e/sub", "full/sub"));
	ino_t full = stat_of("full").st_ino;
	claim("into.other.dotdot", stat_of("full/sub/..").st_ino == full);
	value("into.other.content", "%s", content("full/sub/b"));
	check("over.itself.parent", rename("full", "full/sub/x"));
	check("exchange.dirs", rename_flags("e", "full", RENAME_EXCHANGE));
	value("exchange.content", "%s%s", content("e/x"), content("full/a"));
	claim("exchange.dotdot", stat_of("e/sub/..").st_ino == stat_of("e").st_ino);
	/* A working directory goes along. */
	must(chdir("e/sub") == 0, "chdir");
	check("cwd", rename("../../e", "../../e2"));
	claim("cwd.path", getcwd(cwd, sizeof cwd) && ends_with(cwd, "/e2/sub"));
	check_fd("cwd.create", open("made-here", O_WRONLY | O_CREAT | O_EXCL, 0644));
	must(chdir("../..") == 0, "chdir");
	claim("cwd.created", exists("e2/sub/made-here"));
	/* Changed below, removed, made again. */
	check("fill.unlink", unlink("e2/sub/b"));
	check("fill.recreate", (put("e2/sub/b", "new b\n"), 0));
	check("fill.rename", rename("e2/sub", "e2/sub2"));
	value("fill.content", "%s", content("e2/sub2/b"));
	value("fill.entries", "%u", entries("e2/sub2"));
	(void)close(dir);
	(void)close(fd);
}

void section_link(void)
{
	check("new", link("f", "f2"));
	struct stat a = stat_of("f"), b = stat_of("f2");
	claim("inode", a.st_ino == b.st_ino);
	value("nlink", "%lu %lu", (unsigned long)a.st_nlink, (unsigned long)b.st_nlink);
	put("f2", "changed\n");
	value("content", "%s", content("f"));
	check("chmod", chmod("f2", 0600));
	value("mode", "%o", stat_of("f").st_mode);
	check("third", link("f2", "d/sub/f3"));
	value("third.nlink", "%lu", (unsigned long)stat_of("f").st_nlink);
	int fd = open("f", O_WRONLY | O_APPEND);
	check("append", write(fd, "more\n", 5));
	value("append.content", "%s", content("d/sub/f3"));
	check("unlink", unlink("f"));
	struct stat st;
	(void)fstat(fd, &st);
	value("unlink.nlink", "%lu", (unsigned long)st.st_nlink);
	value("unlink.content", "%s", content("f2"));
	check("unlink.append", write(fd, "still\n", 6));
	value("unlink.append.content", "%s", content("d/sub/f3"));
	(void)close(fd);
	check("dir", link("d", "d2"));
	check("exists", link("f2", "g"));
	check("exists.same", link("f2", "d/sub/f3"));
	check("exists.dangling", link("f2", "dangling"));
	check("missing", link("missing", "x"));
	check("missing.parent", link("f2", "missing/x"));
	check("file.parent", link("f2", "g/x"));
	check("slash", link("f2", "x/"));
	check("loop", link("loop/x", "x"));
	check("exdev", link("f2", "/dev/shm/inlay-posix-exdev"));
	check("symlink", link("link", "link2"));
	value("symlink.mode", "%o %lu", stat_of("link2").st_mode >> 12,
	      (unsigned long)stat_of("link").st_nlink);
	check("follow.dangling", linkat(AT_FDCWD, "dangling", AT_FDCWD, "x", AT_SYMLINK_FOLLOW));
	check("follow", linkat(AT_FDCWD, "dirlink/a", AT_FDCWD, "a2", AT_SYMLINK_FOLLOW));
	check("flags", linkat(AT_FDCWD, "g", AT_FDCWD, "x", 1));
	/* What has no name any more gets none. */
	char path[64];
	fd = open("h", O_RDONLY);
	must(unlink("h") == 0, "unlink");
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	check("unlinked", linkat(AT_FDCWD, path, AT_FDCWD, "h", AT_SYMLINK_FOLLOW));
	(void)close(fd);
	check("rename.over", rename("f2", "g"));
	value("rename.over.nlink", "%lu", (unsigned long)stat_of("g").st_nlink);
	char name[32];
	for (int i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof name, "e/l%d", i);
		must(link("g", name) == 0, "link");
	}
	value("many", "%lu", (unsigned long)stat_of("g").st_nlink);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof name, "e/l%d", i);
		must(unlink(name) == 0, "unlink");
	}
	value("many.gone", "%lu", (unsigned long)stat_of("g").st_nlink);
}

void section_symlink(void)
{
	char target[4200], back[4200], name[32];

	check("new", symlink("f", "new"));
	value("new.content", "%zd", readlink("new", back, sizeof back));
	struct stat st = stat_of("new");
	value("new.stat", "%o %ld %lu", st.st_mode, (long)st.st_size, (unsigned long)st.st_nlink);
	value("short.buffer", "%zd", readlink("dirlink/../dangling", back, 3));
	check("exists", symlink("x", "f"));
	check("exists.dangling", symlink("x", "dangling"));
	check("exists.dir", symlink("x", "d"));
	check("empty", symlink("", "x"));
	check("missing.parent", symlink("x", "missing/x"));
	check("file.parent", symlink("x", "f/x"));
	check("readlink.file", readlink("f", back, 10));
	check("readlink.dir", readlink("d", back, 10));
	check("readlink.missing", readlink("missing", back, 10));
	memset(target, 't', sizeof target);
	target[4095] = 0;
	check("4095", symlink(target, "long"));
	value("4095.back", "%zd", readlink("long", back, sizeof back));
	claim("4095.same", memcmp(target, back, 4095) == 0);
	target[4095] = 't';
	target[4096] = 0;
	check("4096", symlink(target, "longer"));
	/* 40 links are followed, 41 are not. */
	check("chain", symlink("f", "c0"));
	for (int i = 1; i <= 40; i++) {
		(void)snprintf(name, sizeof name, "c%d", i);
		(void)snprintf(target, sizeof target, "c%d", i - 1);
		must(symlink(target, name) == 0, "symlink");
	}
	check_fd("chain.40", open("c39", O_RDONLY));
	check_fd("chain.41", open("c40", O_RDONLY));
	check("chmod.nofollow", fchmodat(AT_FDCWD, "new", 0600, AT_SYMLINK_NOFOLLOW));
	check("chmod", chmod("new", 0600));
	value("chmod.mode", "%o", stat_of("f").st_mode);
	struct timespec times[] = {{1000, 5}, {2000, 7}};
	check("utimens", utimensat(AT_FDCWD, "new", times, AT_SYMLINK_NOFOLLOW));
	st = stat_of("new");
	value("utimens.mtime", "%ld.%ld", (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	claim("utimens.not.followed", stat_of("f").st_mtim.tv_sec != 2000);
	check("unlink", unlink("new"));
	claim("unlink.target", exists("f"));
	check("given.unlink", unlink("link"));
	check("given.replace", symlink("g", "link"));
	bytes("given.content", readlink("link", back, sizeof back), back, 0, 0);
	check("rmdir", rmdir("dirlink"));
	check("through", mkdir("dirlink/made", 0755));
	claim("through.made", exists("d/made"));
}

static void unlink_open(void)
{
	int fd = open("f", O_RDWR), reader = open("f", O_RDONLY);
	struct stat st;
	char back[32] = {0};

	check("open", unlink("f"));
	(void)fstat(fd, &st);
	value("open.nlink", "%lu", (unsigned long)st.st_nlink);
	value("open.read", "%zd %.5s", pread(reader, back, 5, 0), back);
	check("open.write", pwrite(fd, "written", 7, 3));
	value("open.read.new", "%zd %s", pread(reader, back, 20, 0), back);
	check("open.truncate", ftruncate(fd, 5));
	(void)fstat(reader, &st);
	value("open.size", "%ld", (long)st.st_size);
	check("open.chmod", fchmod(fd, 0600));
	(void)fstat(reader, &st);
	value("open.mode", "%o", st.st_mode);
	check("open.fsync", fsync(fd));
	check_fd("open.again", open("f", O_RDONLY));
	check_fd("open.recreate", open("f", O_RDWR | O_CREAT | O_EXCL, 0644));
	value("open.recreated", "<%s>", content("f"));
	(void)fstat(fd, &st);
	claim("open.recreated.other", st.st_ino != stat_of("f").st_ino);
	(void)close(reader);
	(void)close(fd);
	/* Opened before the first change, written after the last name went. */
	fd = open("g", O_RDWR);
	must(unlink("g") == 0, "unlink");
	check("late.write", write(fd, "LATE", 4));
	value("late.read", "%zd %.7s", pread(fd, back, 7, 0), back);
	(void)close(fd);
}

void section_unlink(void)
{
	check("dir", unlink("d"));
	check("missing", unlink("missing"));
	check("missing.parent", unlink("missing/x"));
	check("file.parent", unlink("f/x"));
	check("slash", unlink("f/"));
	check("dot", unlink("."));
	check("loop", unlink("loop/x"));
	unlink_open();
	check("given", unlink("d/a"));
	claim("given.there", exists("d/a"));
	check("given.again", unlink("d/a"));
	check("recreate", (put("d/a", "again\n"), 0));
	value("recreate.content", "%s", content("d/a"));
	check("recreate.unlink", unlink("d/a"));
	claim("recreate.there", exists("d/a"));
	check("as.dir", mkdir("d/a", 0755));
	value("as.dir.entries", "%u", entries("d/a"));
	check("as.dir.rmdir", rmdir("d/a"));
	check("symlink", unlink("link"));
	check("unlinkat.dir", unlinkat(AT_FDCWD, "e", AT_REMOVEDIR));
	check("unlinkat.flags", unlinkat(AT_FDCWD, "full", 1));
	check("remove", remove("full/x"));
	value("entries", "%u %u", entries("full"), entries("d"));
}

static void removed_directory(void)
{
	char cwd[4096];
	struct stat st;

	must(mkdir("gone", 0755) == 0, "mkdir");
	int dir = open("gone", O_RDONLY | O_DIRECTORY);
	must(chdir("gone") == 0, "chdir");
	check("gone.rmdir", rmdir("../gone"));
	check("gone.getcwd", getcwd(cwd, sizeof cwd) ? 0 : -1);
	check_fd("gone.create", open("x", O_WRONLY | O_CREAT, 0644));
	check("gone.mkdir", mkdir("x", 0755));
	check("gone.symlink", symlink("x", "y"));
	check("gone.link", link("/proc/self/status", "y"));
	check("gone.rename", rename("../g", "y"));
	check_fd("gone.dot", open(".", O_RDONLY));
	check("gone.stat", stat(".", &st));
	value("gone.nlink", "%lu", (unsigned long)st.st_nlink);
	check_fd("gone.at", openat(dir, "x", O_WRONLY | O_CREAT, 0644));
	DIR *d = fdopendir(dir);
	unsigned n = 0;
	while (readdir(d))
		n++;
	value("gone.entries", "%u", n);
	(void)closedir(d);
	must(chdir("..") == 0, "chdir ..");
}

void section_dirs(void)
{
	check("new", mkdir("new", 0755));
	value("new.entries", "%u", entries("new"));
	value("new.mode", "%o", stat_of("new").st_mode);
	check("mode", mkdir("m", 01777));
	value("mode.mode", "%o", stat_of("m").st_mode);
	check("exists", mkdir("d", 0755));
	check("exists.file", mkdir("f", 0755));
	check("exists.dangling", mkdir("dangling", 0755));
	check("slash", mkdir("slash/", 0755));
	check("missing.parent", mkdir("missing/x", 0755));
	check("file.parent", mkdir("f/x", 0755));
	check("dot", mkdir(".", 0755));
	check("empty.path", mkdir("", 0755));
	check("rmdir.file", rmdir("f"));
	check("rmdir.full", rmdir("full"));
	check("rmdir.missing", rmdir("missing"));
	check("rmdir.dot", rmdir("d/."));
	check("rmdir.dotdot", rmdir("d/sub/.."));
	check("rmdir.link", rmdir("dirlink"));
	check("rmdir", rmdir("new"));
	check("rmdir.slash", rmdir("slash/"));
	check("rmdir.given", rmdir("e"));
	check("rmdir.given.again", rmdir("e"));
	check("remake", mkdir("e", 0700));
	value("remake.stat", "%o %u", stat_of("e").st_mode, entries("e"));
	/* Emptied, removed, made again: nothing of the old one shines through. */
	check("empty.unlink", unlink("full/x"));
	check("empty.rmdir", rmdir("full"));
	check("empty.remake", mkdir("full", 0755));
	value("empty.entries", "%u", entries("full"));
	claim("empty.old", exists("full/x"));
	put("full/x", "new x\n");
	value("empty.content", "%s", content("full/x"));
	check("file.over", (unlink("full/x"), rmdir("full"), put("full", "a file\n"), 0));
	value("file.over.content", "%s", content("full"));
	check("file.over.back", (unlink("full"), mkdir("full", 0755)));
	value("file.over.entries", "%u", entries("full"));
	/* The group bit is inherited. */
	check("setgid", (chmod("d", 02775) < 0 || chown("d", (uid_t)-1, 4711) < 0) ? -1 : 0);
	check("setgid.mkdir", mkdir("d/inherits", 0755));
	struct stat st = stat_of("d/inherits");
	value("setgid.mode", "%o %u", st.st_mode, st.st_gid);
	put("d/inherits/file", "");
	value("setgid.file", "%u", stat_of("d/inherits/file").st_gid);
	value("nlink", "%lu", (unsigned long)stat_of("d").st_nlink);
	must(mkdir("d/one-more", 0755) == 0, "mkdir");
	value("nlink.more", "%lu", (unsigned long)stat_of("d").st_nlink);
	must(rename("d/one-more", "full/one-more") == 0, "rename");
	value("nlink.moved", "%lu %lu", (unsigned long)stat_of("d").st_nlink,
	      (unsigned long)stat_of("full").st_nlink);
	removed_directory();
}

static int fifo_writer(void *arg)
{
	int fd = open(arg, O_WRONLY);

	return fd >= 0 && write(fd, "through", 7) == 7 ? 0 : 1;
}

static void fifo_passes(const char *path)
{
	char back[16] = {0};

	(void)fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		_exit(fifo_writer((void *)(uintptr_t)path));
	int fd = open(path, O_RDONLY);
	value("fifo.read", "%zd %s", read(fd, back, 15), back);
	(void)close(fd);
	(void)waitpid(pid, NULL, 0);
}

static void nobody_makes(void)
{
	check("nobody.device", mknod("top/device", S_IFCHR | 0600, makedev(1, 3)));
	check("nobody.fifo", mknod("top/fifo", S_IFIFO | 0600, 0));
	value("nobody.fifo.mode", "%o %u", stat_of("top/fifo").st_mode, stat_of("top/fifo").st_uid);
}

void section_mknod(void)
{
	struct stat st;

	check("file", mknod("file", S_IFREG | 0640, 0));
	value("file.mode", "%o %ld", stat_of("file").st_mode, (long)stat_of("file").st_size);
	check("zero", mknod("zero", 0640, 0));
	value("zero.mode", "%o", stat_of("zero").st_mode);
	check("exists", mknod("f", S_IFREG | 0644, 0));
	check("dir", mknod("dir", S_IFDIR | 0755, 0));
	check("link", mknod("lnk", S_IFLNK | 0755, 0));
	check("fifo", mkfifo("fifo", 0644));
	value("fifo.mode", "%o", stat_of("fifo").st_mode);
	fifo_passes("fifo");
	check("fifo.rename", rename("fifo", "fifo2"));
	check("fifo.link", link("fifo2", "fifo3"));
	value("fifo.nlink", "%lu", (unsigned long)stat_of("fifo2").st_nlink);
	check("fifo.unlink", unlink("fifo2"));
	check("socket", mknod("sock", S_IFSOCK | 0600, 0));
	value("socket.mode", "%o", stat_of("sock").st_mode);
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "listens"};
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	check("bind", bind(s, (struct sockaddr *)&name, sizeof name));
	check("bind.again", bind(c, (struct sockaddr *)&name, sizeof name));
	check("listen", listen(s, 1));
	check("connect", connect(c, (struct sockaddr *)&name, sizeof name));
	value("bind.mode", "%o", stat_of("listens").st_mode);
	(void)close(s);
	(void)close(c);
	check("device", mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	check("device.stat", lstat("null", &st));
	check("block", mknod("blk", S_IFBLK | 0600, makedev(7, 99)));
	must(chmod("top", 0777) == 0, "chmod");
	as_nobody(nobody_makes);
}
