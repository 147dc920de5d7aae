/* SPDX-License-Identifier: Apache-2.0 */
/* What is known about files: modes, owners, times, attributes, locks, inodes. */
#include "posix.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

/* ---- modes and owners ---- */

static void nobody_changes_modes(void)
{
	check("nobody.chmod", chmod("f", 0777));
	check("nobody.chown", chown("f", NOBODY, NOBODY));
	check("nobody.own.chmod", chmod("theirs", 0640));
	check("nobody.own.suid", chmod("theirs", 06755));
	value("nobody.own.mode", "%o", stat_of("theirs").st_mode);
	int fd = open("theirs", O_WRONLY | O_APPEND);
	check("nobody.own.write", write(fd, "x", 1));
	value("nobody.write.clears", "%o", stat_of("theirs").st_mode);
	check("nobody.own.suid2", chmod("theirs", 06755));
	check("nobody.own.truncate", ftruncate(fd, 0));
	value("nobody.truncate.clears", "%o", stat_of("theirs").st_mode);
	(void)close(fd);
	fd = open("theirs", O_RDWR);
	check("nobody.own.suid3", chmod("theirs", 06755));
	check("nobody.own.allocate", fallocate(fd, 0, 0, 100));
	value("nobody.allocate.clears", "%o", stat_of("theirs").st_mode);
	check("nobody.own.suid4", chmod("theirs", 06755));
	check("nobody.own.copy", copy_file_range(fd, &(off_t){0}, fd, &(off_t){50}, 10, 0));
	value("nobody.copy.clears", "%o", stat_of("theirs").st_mode);
	check("nobody.own.sgid", chmod("theirs", 02644));
	check("nobody.own.write2", pwrite(fd, "x", 1, 0));
	value("nobody.write.no.group.exec", "%o", stat_of("theirs").st_mode);
	(void)close(fd);
	check("nobody.own.chown", chown("theirs", 0, (gid_t)-1));
	check("nobody.own.chgrp", chown("theirs", (uid_t)-1, 4711));
	check("nobody.own.same", chown("theirs", NOBODY, NOBODY));
	check("nobody.foreign.group", chmod("groupless", 02755));
	value("nobody.foreign.group.mode", "%o", stat_of("groupless").st_mode);
	check("nobody.write.others",
	      (fd = open("suid", O_WRONLY | O_APPEND)) < 0 ? -1 : write(fd, "x", 1));
	value("nobody.write.others.mode", "%o", stat_of("suid").st_mode);
}

void section_mode(void)
{
	static const mode_t modes[] = {0, 0777, 0644, 01000, 02000, 04000, 07777, 0400};

	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		char name[32];
		(void)snprintf(name, sizeof name, "chmod.%o", modes[i]);
		check(name, chmod("g", modes[i]));
		(void)snprintf(name, sizeof name, "mode.%o", modes[i]);
		value(name, "%o", stat_of("g").st_mode);
	}
	check("chmod.missing", chmod("missing", 0644));
	check("chmod.file.parent", chmod("f/x", 0644));
	check("chmod.dir", chmod("d", 0700));
	value("chmod.dir.mode", "%o", stat_of("d").st_mode);
	check("chmod.dir.back", chmod("d", 0755));
	value("chmod.dir.content", "%s", content("d/a"));
	check("chmod.link", chmod("link", 0600));
	value("chmod.link.mode", "%o", stat_of("f").st_mode);
	value("chmod.content", "%s", content("f"));
	int fd = open("h", O_RDONLY);
	check("fchmod", fchmod(fd, 0604));
	value("fchmod.mode", "%o", stat_of("h").st_mode);
	check("fchown", fchown(fd, 12, 34));
	value("fchown.owner", "%u %u", stat_of("h").st_uid, stat_of("h").st_gid);
	(void)close(fd);
	check("chown", chown("f", 4711, 4712));
	value("chown.owner", "%u %u", stat_of("f").st_uid, stat_of("f").st_gid);
	check("chown.none", chown("f", (uid_t)-1, (gid_t)-1));
	check("chown.uid", chown("f", 1, (gid_t)-1));
	check("chown.gid", chown("f", (uid_t)-1, 2));
	value("chown.parts", "%u %u", stat_of("f").st_uid, stat_of("f").st_gid);
	value("chown.content", "%s", content("f"));
	check("lchown", lchown("link", 5, 6));
	value("lchown.owner", "%u %u", stat_of("link").st_uid, stat_of("f").st_uid);
	check("chown.dir", chown("d", 8, 9));
	value("chown.dir.owner", "%u %u", stat_of("d").st_uid, stat_of("d").st_gid);
	check("chown.back", chown("d", 0, 0));
	check("chown.missing", chown("missing", 1, 1));
	/* Another owner: the set-id bits go. */
	check("suid.chmod", chmod("tool", 06755));
	check("suid.chown", chown("tool", 0, 0));
	value("suid.mode", "%o", stat_of("tool").st_mode);
	put("suid", "bytes\n");
	put("theirs", "bytes\n");
	put("groupless", "bytes\n");
	must(chmod("suid", 06777) == 0 && chown("theirs", NOBODY, NOBODY) == 0 &&
		     chown("groupless", NOBODY, 4711) == 0,
	     "owners");
	as_nobody(nobody_changes_modes);
	if (geteuid() == 0) {
		must(chmod("suid", 06755) == 0, "chmod");
		fd = open("suid", O_WRONLY | O_APPEND);
		check("root.write", write(fd, "x", 1));
		value("root.write.keeps", "%o", stat_of("suid").st_mode);
		(void)close(fd);
	}
}

/* ---- times ---- */

static void print_times(const char *name, const char *path)
{
	struct stat st = stat_of(path);

	value(name, "%ld.%09ld %ld.%09ld", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec,
	      (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static void nobody_sets_times(void)
{
	struct timespec times[] = {{5, 0}, {6, 0}}, now[] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
	struct timespec mixed[] = {{0, UTIME_OMIT}, {0, UTIME_NOW}},
			omit[] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};

	check("nobody.explicit", utimensat(AT_FDCWD, "f", times, 0));
	check("nobody.now", utimensat(AT_FDCWD, "f", now, 0));
	check("nobody.mixed", utimensat(AT_FDCWD, "f", mixed, 0));
	check("nobody.omit", utimensat(AT_FDCWD, "f", omit, 0));
	check("nobody.writable.explicit", utimensat(AT_FDCWD, "open", times, 0));
	check("nobody.writable.now", utimensat(AT_FDCWD, "open", NULL, 0));
	check("nobody.writable.mixed", utimensat(AT_FDCWD, "open", mixed, 0));
}

/* Did an action change mtime and ctime of a file or directory? */
static void stamps(const char *name, const char *path, int (*action)(void))
{
	struct stat was = stat_of(path);

	tick();
	check(name, action());
	struct stat is = stat_of(path);
	char line[64];
	(void)snprintf(line, sizeof line, "%s.stamps", name);
	value(line, "%s %s", before(was.st_mtim, is.st_mtim) ? "mtime" : "-",
	      before(was.st_ctim, is.st_ctim) ? "ctime" : "-");
}

static int act_write(void)
{
	int fd = open("f", O_WRONLY | O_APPEND), r = write(fd, "x", 1) == 1 ? 0 : -1;

	(void)close(fd);
	return r;
}

static int act_truncate(void)
{
	return truncate("f", 2);
}

static int act_truncate_same(void)
{
	return truncate("f", 2);
}

static int act_open_trunc(void)
{
	int fd = open("f", O_WRONLY | O_TRUNC);

	(void)close(fd);
	return fd;
}

static int act_chmod(void)
{
	return chmod("f", 0600);
}

static int act_chown(void)
{
	return chown("f", 1, 1);
}

static int act_link(void)
{
	return link("f", "f-link");
}

static int act_rename_over_link(void)
{
	put("other", "other\n");
	return rename("other", "f-link");
}

static int act_link_again(void)
{
	return link("f", "f-link2");
}

static int act_unlink_link(void)
{
	return unlink("f-link2");
}

static int act_rename(void)
{
	return rename("f", "d/f");
}

static int act_rename_back(void)
{
	return rename("d/f", "f");
}

static int act_create(void)
{
	int fd = open("d/new", O_WRONLY | O_CREAT | O_EXCL, 0644);

	(void)close(fd);
	return fd;
}

static int act_rewrite(void)
{
	int fd = open("d/a", O_WRONLY), r = write(fd, "A", 1) == 1 ? 0 : -1;

	(void)close(fd);
	return r;
}

static int act_unlink(void)
{
	return unlink("d/new");
}

static int act_mkdir(void)
{
	return mkdir("d/newdir", 0755);
}

static int act_rmdir(void)
{
	return rmdir("d/newdir");
}

static int act_symlink(void)
{
	return symlink("x", "d/s");
}

static int act_read(void)
{
	return content("g") ? 0 : -1;
}

void section_times(void)
{
	struct timespec times[] = {{1000000001, 123456789}, {1500000002, 987654321}};
	struct timespec t[2];

	check("explicit", utimensat(AT_FDCWD, "g", times, 0));
	print_times("explicit.times", "g");
	t[0] = (struct timespec){0, UTIME_OMIT};
	t[1] = (struct timespec){77, 1};
	check("omit.atime", utimensat(AT_FDCWD, "g", t, 0));
	print_times("omit.atime.times", "g");
	t[0] = (struct timespec){88, 2};
	t[1] = (struct timespec){0, UTIME_OMIT};
	check("omit.mtime", utimensat(AT_FDCWD, "g", t, 0));
	print_times("omit.mtime.times", "g");
	t[0] = t[1] = (struct timespec){0, UTIME_OMIT};
	check("omit.both", utimensat(AT_FDCWD, "g", t, 0));
	print_times("omit.both.times", "g");
	t[0] = (struct timespec){0, UTIME_OMIT};
	t[1] = (struct timespec){0, UTIME_NOW};
	check("now.mtime", utimensat(AT_FDCWD, "g", t, 0));
	struct stat st = stat_of("g");
	claim("now.mtime.recent", st.st_mtim.tv_sec > 1600000000);
	value("now.mtime.atime", "%ld", (long)st.st_atim.tv_sec);
	check("null", utimensat(AT_FDCWD, "g", NULL, 0));
	claim("null.recent", stat_of("g").st_atim.tv_sec > 1600000000);
	t[0] = t[1] = (struct timespec){-5, 1000};
	check("negative", utimensat(AT_FDCWD, "g", t, 0));
	print_times("negative.times", "g");
	t[0] = t[1] = (struct timespec){7258118400, 1};
	check("far", utimensat(AT_FDCWD, "g", t, 0));
	print_times("far.times", "g");
	t[0] = (struct timespec){0, 1000000000};
	check("invalid", utimensat(AT_FDCWD, "g", t, 0));
	check("missing", utimensat(AT_FDCWD, "missing", times, 0));
	int fd = open("h", O_RDONLY);
	check("futimens", futimens(fd, times));
	print_times("futimens.times", "h");
	(void)close(fd);
	check("dir", utimensat(AT_FDCWD, "e", times, 0));
	print_times("dir.times", "e");
	value("content", "%s%s", content("g"), content("h"));

	stamps("read", "g", act_read);
	stamps("write", "f", act_write);
	stamps("truncate", "f", act_truncate);
	stamps("truncate.same", "f", act_truncate_same);
	stamps("open.trunc", "f", act_open_trunc);
	stamps("open.trunc.empty", "f", act_open_trunc);
	stamps("chmod", "f", act_chmod);
	stamps("chown", "f", act_chown);
	stamps("link", "f", act_link);
	stamps("link.renamed.over", "f", act_rename_over_link);
	stamps("link.again", "f", act_link_again);
	stamps("link.unlink", "f", act_unlink_link);
	stamps("parent.rename", "d", act_rename);
	stamps("parent.rename.from", "d", act_rename_back);
	stamps("parent.create", "d", act_create);
	stamps("parent.rewrite", "d", act_rewrite);
	stamps("parent.unlink", "d", act_unlink);
	stamps("parent.mkdir", "d", act_mkdir);
	stamps("parent.rmdir", "d", act_rmdir);
	stamps("parent.symlink", "d", act_symlink);
	put("open", "");
	must(chmod("open", 0666) == 0, "chmod");
	as_nobody(nobody_sets_times);
}

/* ---- extended attributes ---- */

static void list_attributes(const char *name, const char *path)
{
	char list[4096], line[512] = "";
	ssize_t n = llistxattr(path, list, sizeof list);

	/* Only ours, in the order of names: security modules add their own. */
	for (char c = 'a'; c <= 'z'; c++)
		for (ssize_t i = 0; i < n; i += (ssize_t)strlen(list + i) + 1)
			if (strncmp(list + i, "user.", 5) == 0 && list[i + 5] == c &&
			    strlen(line) < 400)
				(void)snprintf(line + strlen(line), sizeof line - strlen(line),
					       " %s", list + i);
	value(name, "%zd%s", n < 0 ? n : 0, line);
}

static void nobody_attributes(void)
{
	check("nobody.set", setxattr("f", "user.x", "1", 1, 0));
	check("nobody.trusted", setxattr("open", "trusted.x", "1", 1, 0));
	check("nobody.get", getxattr("f", "user.a", NULL, 0));
}

void section_xattr(void)
{
	char back[4096] = {0}, large[3000], name[300];

	check("set", setxattr("f", "user.a", "one", 3, 0));
	value("get", "%zd %s", getxattr("f", "user.a", back, sizeof back), back);
	value("size", "%zd", getxattr("f", "user.a", NULL, 0));
	check("range", getxattr("f", "user.a", back, 2));
	check("missing", getxattr("f", "user.none", back, 10));
	check("create.exists", setxattr("f", "user.a", "two", 3, XATTR_CREATE));
	check("replace.missing", setxattr("f", "user.b", "two", 3, XATTR_REPLACE));
	check("create", setxattr("f", "user.b", "", 0, XATTR_CREATE));
	value("empty", "%zd", getxattr("f", "user.b", back, 10));
	check("replace", setxattr("f", "user.a", "longer value", 12, XATTR_REPLACE));
	value("replaced", "%zd", getxattr("f", "user.a", back, sizeof back));
	list_attributes("list", "f");
	check("remove", removexattr("f", "user.b"));
	check("remove.again", removexattr("f", "user.b"));
	list_attributes("list.removed", "f");
	memset(large, 'v', sizeof large);
	check("large", setxattr("f", "user.large", large, sizeof large, 0));
	value("large.back", "%zd", getxattr("f", "user.large", back, sizeof back));
	claim("large.same", memcmp(large, back, sizeof large) == 0);
	memset(name, 'n', sizeof name);
	memcpy(name, "user.", 5);
	name[255] = 0;
	check("name.255", setxattr("g", name, "x", 1, 0));
	name[255] = 'n';
	name[256] = 0;
	check("name.256", setxattr("g", name, "x", 1, 0));
	check("no.namespace", setxattr("g", "plain", "x", 1, 0));
	check("namespace.only", setxattr("g", "user.", "x", 1, 0));
	check("symlink", lsetxattr("link", "user.a", "x", 1, 0));
	check("dir", setxattr("d", "user.d", "dir", 3, 0));
	list_attributes("dir.list", "d");
	check("overlay.name", setxattr("f", "user.overlay.opaque", "y", 1, 0));
	value("overlay.get", "%zd", getxattr("f", "user.overlay.opaque", back, 10));
	check("renamed", rename("f", "f2"));
	list_attributes("renamed.list", "f2");
	check("renamed.back", rename("f2", "f"));
	check("linked", link("f", "f3"));
	list_attributes("linked.list", "f3");
	value("content", "%s", content("f"));
	int fd = open("h", O_RDWR);
	check("fset", fsetxattr(fd, "user.z", "z", 1, 0));
	check("fset.write", write(fd, "x", 1));
	value("fget", "%zd", fgetxattr(fd, "user.z", back, 10));
	(void)close(fd);
	put("open", "");
	must(chmod("open", 0666) == 0, "chmod");
	as_nobody(nobody_attributes);
}

/* ---- locks ---- */

struct lock_try {
	const char *path;
	int how;
};

static int try_flock(void *arg)
{
	struct lock_try *t = arg;
	int fd = open(t->path, O_RDWR);

	return flock(fd, t->how | LOCK_NB) == 0 ? 0 : errno;
}

static int try_fcntl(void *arg)
{
	struct lock_try *t = arg;
	int fd = open(t->path, O_RDWR);
	struct flock l = {.l_type = (short)t->how, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};

	return fcntl(fd, F_SETLK, &l) == 0 ? 0 : errno;
}

static int get_lock(void *arg)
{
	struct lock_try *t = arg;
	int fd = open(t->path, O_RDWR);
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_GETLK, &l) < 0)
		return 99;
	return l.l_type == F_UNLCK ? 0 : l.l_pid == getppid() ? 1 : 2;
}

static void print_try(const char *name, int (*fn)(void *), const char *path, int how)
{
	struct lock_try t = {path, how};
	int r = in_child(fn, &t);

	value(name, "%s", r == 0 ? "ok" : r < 120 ? strerrorname_np(r) : "killed");
}

static void lock_file(const char *path)
{
	int fd = open(path, O_RDWR), second = open(path, O_RDWR);

	check("flock", flock(fd, LOCK_EX));
	check("flock.second", flock(second, LOCK_EX | LOCK_NB));
	print_try("flock.other", try_flock, path, LOCK_EX);
	check("flock.shared", flock(fd, LOCK_SH));
	print_try("flock.other.shared", try_flock, path, LOCK_SH);
	print_try("flock.other.exclusive", try_flock, path, LOCK_EX);
	check("flock.unlock", flock(fd, LOCK_UN));
	print_try("flock.other.free", try_flock, path, LOCK_EX);

	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10};
	check("fcntl", fcntl(fd, F_SETLK, &l));
	print_try("fcntl.other", try_fcntl, path, F_WRLCK);
	print_try("fcntl.other.read", try_fcntl, path, F_RDLCK);
	struct lock_try t = {path, 0};
	value("fcntl.get", "%d", in_child(get_lock, &t));
	l.l_type = F_UNLCK;
	l.l_len = 5;
	check("fcntl.part", fcntl(fd, F_SETLK, &l));
	print_try("fcntl.other.part", try_fcntl, path, F_WRLCK);
	(void)close(second); /* also ends this process's locks */
	value("fcntl.closed", "%d", in_child(get_lock, &t));
	second = open(path, O_RDWR);

	struct flock o = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
	check("ofd", fcntl(fd, F_OFD_SETLK, &o));
	check("ofd.second", fcntl(second, F_OFD_SETLK, &o));
	print_try("ofd.other", try_fcntl, path, F_WRLCK);
	o.l_type = F_UNLCK;
	check("ofd.unlock", fcntl(fd, F_OFD_SETLK, &o));
	o.l_type = F_WRLCK;
	check("ofd.then", fcntl(second, F_OFD_SETLK, &o));
	/* A lock lives on in a file without a name, and through its first change. */
	check("ofd.write", pwrite(second, "L", 1, 0));
	o.l_type = F_WRLCK;
	check("ofd.after.write", fcntl(fd, F_OFD_SETLK, &o));
	(void)close(second);
	(void)close(fd);
}

void section_locks(void)
{
	lock_file("f");
	int fd = open("g", O_RDONLY), second = open("g", O_RDONLY);
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	check("rdonly.write", fcntl(fd, F_SETLK, &l));
	check("rdonly.flock", flock(fd, LOCK_EX));
	must(unlink("g") == 0, "unlink");
	check("unlinked.flock", flock(second, LOCK_EX | LOCK_NB));
	(void)close(fd);
	check("unlinked.free", flock(second, LOCK_EX | LOCK_NB));
	(void)close(second);
	fd = open("d", O_RDONLY);
	check("dir.flock", flock(fd, LOCK_EX));
	print_try("dir.other", try_flock, "d", LOCK_EX);
	(void)close(fd);
}

/* ---- inodes and the filesystem ---- */

void section_inode(void)
{
	struct stat was = stat_of("f"), is;
	struct statvfs fs;
	int fd = open("f", O_RDONLY);

	check("chmod", chmod("f", 0600));
	claim("chmod.same", stat_of("f").st_ino == was.st_ino);
	put("f", "changed\n");
	claim("write.same", stat_of("f").st_ino == was.st_ino);
	(void)fstat(fd, &is);
	claim("write.open.same", is.st_ino == was.st_ino && is.st_dev == was.st_dev);
	value("write.open.size", "%ld", (long)is.st_size);
	was = stat_of("g");
	check("rename", rename("g", "g2"));
	claim("rename.same", stat_of("g2").st_ino == was.st_ino);
	was = stat_of("d");
	put("d/more", "more\n");
	claim("dir.same", stat_of("d").st_ino == was.st_ino);
	check("dir.rename", rename("d", "d2"));
	claim("dir.rename.same", stat_of("d2").st_ino == was.st_ino);
	claim("dirs.dev", stat_of("d2/sub").st_dev == stat_of("big").st_dev);
	(void)close(fd);

	fd = open("blocks", O_WRONLY | O_CREAT, 0644);
	static char zeros[65536];
	memset(zeros, 1, sizeof zeros);
	for (int i = 0; i < 16; i++)
		must(write(fd, zeros, sizeof zeros) == sizeof zeros, "write");
	(void)fsync(fd);
	is = stat_of("blocks");
	value("blocks", "%d", is.st_blocks >= 2048 && is.st_blocks < 2200);
	must(ftruncate(fd, 0) == 0, "ftruncate");
	value("blocks.truncated", "%ld", (long)stat_of("blocks").st_blocks);
	must(ftruncate(fd, 1 << 30) == 0, "ftruncate");
	claim("blocks.sparse", stat_of("blocks").st_blocks < 256);
	(void)close(fd);
	is = stat_of("big");
	value("big", "%ld %lu %d", (long)is.st_size, (unsigned long)is.st_nlink,
	      is.st_blocks >= POSIX_BIG / 512);
	value("empty", "%ld %ld", (long)stat_of("empty").st_size, (long)stat_of("empty").st_blocks);
	value("blksize", "%d", is.st_blksize >= 512);
	value("rdev", "%lu", (unsigned long)is.st_rdev);

	check("statvfs", statvfs(".", &fs));
	value("statvfs.namemax", "%lu", fs.f_namemax);
	claim("statvfs.sane", fs.f_blocks > 0 && fs.f_bfree <= fs.f_blocks &&
				      fs.f_bavail <= fs.f_bfree && fs.f_frsize > 0);
	fd = open("f", O_RDONLY);
	check("fstatvfs", fstatvfs(fd, &fs));
	claim("readonly", fs.f_flag & ST_RDONLY);
	(void)close(fd);
	value("pathconf", "%ld %ld", pathconf(".", _PC_NAME_MAX), pathconf(".", _PC_PATH_MAX));
	struct statx x;
	check("statx", statx(AT_FDCWD, "f", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x));
	value("statx.size", "%lu", (unsigned long)x.stx_size);
}
