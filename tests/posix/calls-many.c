/* SPDX-License-Identifier: Apache-2.0 */
/* Listings, permissions, programs, and several processes at once. */
#include "posix.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- listings ---- */

enum { SEEN_MAX = 4096 };

struct seen {
	unsigned count[SEEN_MAX]; /* of file-NNNN */
	unsigned dots, others, twice, wrong_type, wrong_inode;
};

static void look_at(struct seen *s, const struct dirent *e, bool stats)
{
	unsigned n;
	char path[300];
	struct stat st;

	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
		s->dots++;
	} else if (sscanf(e->d_name, "file-%u", &n) == 1 && n < SEEN_MAX) {
		s->twice += s->count[n]++ > 0;
	} else {
		s->others++;
	}
	(void)snprintf(path, sizeof path, "many/%s", e->d_name);
	if (!stats || lstat(path, &st) < 0)
		return;
	s->wrong_type += e->d_type != IFTODT(st.st_mode);
	s->wrong_inode += strcmp(e->d_name, "..") != 0 && e->d_ino != st.st_ino;
}

static unsigned found(const struct seen *s, unsigned from, unsigned to, unsigned step)
{
	unsigned n = 0;

	for (unsigned i = from; i < to; i += step)
		n += s->count[i] == 1;
	return n;
}

static struct seen list_all(bool stats)
{
	struct seen s = {0};
	DIR *d = opendir("many");
	struct dirent *e;

	must(d != NULL, "opendir");
	while ((e = readdir(d)))
		look_at(&s, e, stats);
	(void)closedir(d);
	return s;
}

static void print_seen(const char *name, const struct seen *s)
{
	value(name, "dots %u others %u twice %u type %u inode %u", s->dots, s->others, s->twice,
	      s->wrong_type, s->wrong_inode);
}

static void file(char *path, const char *prefix, unsigned n)
{
	(void)sprintf(path, "%s/file-%04u", prefix, n);
}

/* Removes, makes and renames while a listing is under way; what was there all the time is seen once. */
static void change_while_listing(void)
{
	struct seen s = {0};
	DIR *d = opendir("many");
	struct dirent *e;
	char path[64], to[64];
	unsigned n = 0;

	while ((e = readdir(d))) {
		look_at(&s, e, false);
		if (n < 200) { /* odd numbers go, their namesakes above 1000 come */
			file(path, "many", n * 2 + 1);
			(void)unlink(path);
			file(path, "many", 1000 + n);
			put(path, "new\n");
		} else if (n == 200) {
			for (unsigned i = 401; i < 450; i += 2) {
				file(path, "many", i);
				file(to, "e", i);
				(void)rename(path, to);
			}
		}
		n++;
	}
	(void)closedir(d);
	value("changing.stayed", "%u", found(&s, 0, POSIX_MANY, 2));
	value("changing.twice", "%u", s.twice);
	struct seen after = list_all(true);
	value("changed.old", "%u %u", found(&after, 0, POSIX_MANY, 2),
	      found(&after, 1, POSIX_MANY, 2));
	value("changed.new", "%u", found(&after, 1000, 1200, 1));
	print_seen("changed", &after);
}

static void remove_while_listing(void)
{
	DIR *d = opendir("many");
	struct dirent *e;
	char path[300];
	unsigned failed = 0;

	while ((e = readdir(d))) {
		if (e->d_name[0] == '.' && (!e->d_name[1] || e->d_name[1] == '.'))
			continue;
		(void)snprintf(path, sizeof path, "many/%s", e->d_name);
		failed += remove(path) < 0;
	}
	(void)closedir(d);
	value("remove.failed", "%u", failed);
	check("remove.rmdir", rmdir("many"));
}

static void seek_in_listing(void)
{
	DIR *d = opendir("many");
	struct dirent *e;
	long where = 0;
	char expect[256] = "", first[256] = "";
	unsigned n = 0, rest = 0, again = 0;

	while ((e = readdir(d)) && n < 250)
		n++;
	where = telldir(d);
	e = readdir(d);
	(void)snprintf(expect, sizeof expect, "%s", e ? e->d_name : "");
	while ((e = readdir(d)))
		rest++;
	seekdir(d, where);
	e = readdir(d);
	claim("seek", e && strcmp(e->d_name, expect) == 0);
	while ((e = readdir(d)))
		again++;
	claim("seek.rest", rest == again && rest > 0);
	rewinddir(d);
	e = readdir(d);
	(void)snprintf(first, sizeof first, "%s", e ? e->d_name : "");
	put("many/later", "");
	put("many/file-2000", "");
	rewinddir(d);
	bool later = false;
	n = 0;
	while ((e = readdir(d))) {
		later |= strcmp(e->d_name, "later") == 0;
		n++;
	}
	claim("rewind", later);
	value("rewind.entries", "%u", n);
	(void)unlink("many/later");
	(void)unlink("many/file-2000");
	/* Positions hold while names before them come and go. */
	seekdir(d, where);
	(void)closedir(d);
}

static void types(void)
{
	DIR *d = opendir(".");
	struct dirent *e;
	struct stat st;
	unsigned n = 0, wrong = 0;

	must(mkfifo("fifo", 0644) == 0, "mkfifo");
	d = (closedir(d), opendir("."));
	while ((e = readdir(d))) {
		if (lstat(e->d_name, &st) < 0)
			wrong += 100;
		else
			wrong += e->d_type != IFTODT(st.st_mode);
		n++;
	}
	(void)closedir(d);
	value("types", "%u %u", n, wrong);
}

static void long_names(void)
{
	char name[256], path[300];
	unsigned n = 0;

	must(mkdir("long", 0755) == 0, "mkdir");
	for (int i = 0; i < 100; i++) {
		memset(name, 'a' + i % 26, 255);
		(void)snprintf(name, 8, "%04d", i);
		name[4] = '-';
		name[255] = 0;
		(void)snprintf(path, sizeof path, "long/%s", name);
		put(path, "");
	}
	DIR *d = opendir("long");
	struct dirent *e;
	while ((e = readdir(d)))
		n += strlen(e->d_name) == 255;
	(void)closedir(d);
	value("long", "%u", n);
}

void section_readdir(void)
{
	struct seen s = list_all(true);

	print_seen("all", &s);
	value("all.files", "%u", found(&s, 0, POSIX_MANY, 1));
	seek_in_listing();
	types();
	long_names();
	change_while_listing();
	remove_while_listing();
	DIR *d = opendir("missing");
	check("missing", d ? 0 : -1);
	d = opendir("f");
	check("file", d ? 0 : -1);
}

/* ---- who may do what ---- */

static void nobody_tries(void)
{
	check_fd("read", open("f", O_RDONLY));
	check_fd("read.private", open("private", O_RDONLY));
	check_fd("write", open("f", O_WRONLY));
	check_fd("create", open("d/x", O_WRONLY | O_CREAT, 0644));
	check("mkdir", mkdir("d/x", 0755));
	check("symlink", symlink("x", "d/x"));
	check("mknod", mknod("d/x", S_IFIFO | 0644, 0));
	check("unlink", unlink("d/a"));
	check("rmdir", rmdir("d/sub"));
	check("rename", rename("d/a", "d/b"));
	check("rename.to", rename("open/theirs", "d/b"));
	check("link", link("open/theirs", "d/b"));
	check("truncate", truncate("f", 0));
	check_fd("search", open("nosearch/x", O_RDONLY));
	check_fd("list", open("nolist", O_RDONLY | O_DIRECTORY));
	check_fd("list.inside", open("nolist/x", O_RDONLY));
	check("search.stat", access("nosearch/x", F_OK));
	check("access.read", access("f", R_OK));
	check("access.write", access("f", W_OK));
	check("access.exec", access("f", X_OK));
	check("access.tool", access("tool", X_OK));
	check("chdir.nosearch", chdir("nosearch"));
	/* In a sticky directory names belong to their owners. */
	check("sticky.create", (put("sticky/mine", "mine\n"), 0));
	check("sticky.unlink", unlink("sticky/root"));
	check("sticky.rename", rename("sticky/root", "sticky/x"));
	check("sticky.over", rename("sticky/mine", "sticky/root"));
	check("sticky.rmdir", rmdir("sticky/dir"));
	check("sticky.own.rename", rename("sticky/mine", "sticky/mine2"));
	check("sticky.own", unlink("sticky/mine2"));
	/* The owner's bits count for the owner, also when others' give more. */
	check_fd("owner.without", open("open/ownerless", O_RDONLY));
	check_fd("group", open("open/group", O_RDONLY));
	check_fd("group.write", open("open/group", O_WRONLY));
	check("kill.dir.write", rename("open/theirs", "open/theirs2"));
}

static void given_paths(void)
{
	put("private", "secret\n");
	must(chmod("private", 0600) == 0 && mkdir("open", 0777) == 0 && chmod("open", 0777) == 0 &&
		     mkdir("sticky", 01777) == 0 && chmod("sticky", 01777) == 0,
	     "modes");
	must(chmod("full", 0644) == 0 && rename("full", "nosearch") == 0, "nosearch");
	must(chmod("top", 0711) == 0 && rename("top", "nolist") == 0, "nolist");
	put("sticky/root", "root\n");
	must(mkdir("sticky/dir", 0777) == 0, "mkdir");
	put("open/theirs", "theirs\n");
	put("open/ownerless", "x\n");
	put("open/group", "x\n");
	must(chown("open/theirs", NOBODY, NOBODY) == 0 &&
		     chown("open/ownerless", NOBODY, NOBODY) == 0 &&
		     chmod("open/ownerless", 0077) == 0 && chown("open/group", 0, NOBODY) == 0 &&
		     chmod("open/group", 0640) == 0,
	     "owners");
}

void section_access(void)
{
	if (geteuid() != 0)
		return;
	given_paths();
	as_nobody(nobody_tries);
	value("unharmed", "%s%s", content("d/a"), content("f"));
	check_fd("root.private", open("private", O_RDONLY));
	must(chmod("f", 0) == 0, "chmod");
	check_fd("root.mode0", open("f", O_RDWR));
	check("root.exec", access("f", X_OK));
}

/* ---- programs ---- */

static int run_program(void *arg)
{
	execl(arg, arg, (char *)NULL);
	return 200 + (errno == EACCES) + 2 * (errno == ETXTBSY) + 4 * (errno == ENOEXEC) +
	       8 * (errno == ENOENT);
}

static int run(const char *program)
{
	return in_child(run_program, (void *)(uintptr_t)program);
}

static void copy_program(const char *from, const char *to)
{
	char buf[65536];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT, 0755);
	ssize_t n;

	while ((n = read(in, buf, sizeof buf)) > 0)
		must(write(out, buf, (size_t)n) == n, "write");
	(void)close(in);
	(void)close(out);
}

void section_exec(void)
{
	value("script", "%d", run("./tool"));
	value("no.x", "%d", run("./f"));
	check("chmod", chmod("tool", 0644));
	value("no.x.now", "%d", run("./tool"));
	check("chmod.back", chmod("tool", 0755));
	put("tool", "#!/bin/sh\nexit 9\n");
	value("script.changed", "%d", run("./tool"));
	copy_program("/bin/true", "true");
	value("binary", "%d", run("./true"));
	int fd = open("true", O_WRONLY);
	value("binary.busy", "%d", run("./true"));
	(void)close(fd);
	value("binary.free", "%d", run("./true"));
	copy_program("/bin/sleep", "sleep");
	(void)fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		execl("./sleep", "sleep", "30", (char *)NULL);
		_exit(1);
	}
	char exe[64], target[4096];
	(void)snprintf(exe, sizeof exe, "/proc/%d/exe", pid);
	for (int i = 0; i < 5000; i++) {
		ssize_t n = readlink(exe, target, sizeof target - 1);
		target[n > 0 ? n : 0] = 0;
		if (strstr(target, "/sleep"))
			break;
		usleep(1000);
	}
	check_fd("running.write", open("sleep", O_WRONLY));
	check("running.truncate", truncate("sleep", 0));
	check("running.unlink", unlink("sleep"));
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

/* ---- several at once ---- */

enum { RACERS = 4, PRIZES = 100 };

static void race(const char *name, int (*fn)(int prize))
{
	int total = 0, status;

	(void)fflush(stdout);
	for (int i = 0; i < RACERS; i++)
		if (fork() == 0) {
			int won = 0;
			for (int p = 0; p < PRIZES; p++)
				won += fn(p) == 0;
			_exit(won);
		}
	for (int i = 0; i < RACERS; i++)
		total += wait(&status) > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 10000;
	value(name, "%d", total);
}

static const char *prize(const char *what, int n)
{
	static char path[64];

	(void)snprintf(path, sizeof path, "e/%s-%d", what, n);
	return path;
}

static int race_create(int n)
{
	int fd = open(prize("file", n), O_WRONLY | O_CREAT | O_EXCL, 0644);

	if (fd >= 0)
		(void)close(fd);
	return fd >= 0 ? 0 : -1;
}

static int race_mkdir(int n)
{
	return mkdir(prize("dir", n), 0755);
}

static int race_link(int n)
{
	return link("f", prize("link", n));
}

static int race_rename(int n)
{
	return rename(prize("file", n), prize("moved", n));
}

static int race_unlink(int n)
{
	return unlink(prize("moved", n));
}

static int race_rmdir(int n)
{
	return rmdir(prize("dir", n));
}

static int race_symlink(int n)
{
	return symlink("target", prize("symlink", n));
}

static int race_unlink_given(int n)
{
	return n < 2 ? unlink(n ? "d/a" : "top/x") : -1;
}

static int exchanger(void *arg)
{
	(void)arg;
	for (int i = 0; i < 300; i++)
		if (renameat2(AT_FDCWD, "g", AT_FDCWD, "h", RENAME_EXCHANGE) < 0)
			return 1;
	return 0;
}

void section_race(void)
{
	race("create", race_create);
	race("mkdir", race_mkdir);
	race("link", race_link);
	value("link.count", "%lu", (unsigned long)stat_of("f").st_nlink);
	race("rename", race_rename);
	race("unlink", race_unlink);
	race("rmdir", race_rmdir);
	race("symlink", race_symlink);
	race("unlink.given", race_unlink_given);
	/* Both names are there at every moment. */
	(void)fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		_exit(exchanger(NULL));
	unsigned missing = 0;
	int status;
	while (waitpid(pid, &status, WNOHANG) == 0) {
		missing += !exists("g");
		missing += !exists("h");
	}
	value("exchange", "%d %u", WEXITSTATUS(status), missing);
	value("exchange.content", "%s%s", content("g"), content("h"));
}
