/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes: read, write, size, holes, copies, mappings. */
#include "posix.h"

#include <linux/falloc.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void beyond_limit(void)
{
	struct rlimit old, limit;
	int fd = open("limited", O_RDWR | O_CREAT, 0644);

	(void)signal(SIGXFSZ, SIG_IGN);
	(void)getrlimit(RLIMIT_FSIZE, &old);
	limit = old;
	limit.rlim_cur = 8192;
	(void)setrlimit(RLIMIT_FSIZE, &limit);
	check("limit.write", pwrite(fd, "x", 1, 8192));
	value("limit.partial", "%zd", pwrite(fd, "abcdefgh", 8, 8190));
	check("limit.truncate", ftruncate(fd, 8193));
	check("limit.truncate.ok", ftruncate(fd, 8192));
	(void)setrlimit(RLIMIT_FSIZE, &old);
	(void)signal(SIGXFSZ, SIG_DFL);
	(void)close(fd);
}

static void readers_see_writers(void)
{
	/* Opened before the first change of the file. */
	int reader = open("h", O_RDONLY), writer = open("h", O_RDWR);
	char back[16] = {0};

	check("shared.write", pwrite(writer, "THI", 3, 0));
	value("shared.read", "%zd", pread(reader, back, 15, 0));
	value("shared.bytes", "%s", back);
	struct stat a, b;
	(void)fstat(reader, &a);
	(void)fstat(writer, &b);
	claim("shared.inode", a.st_ino == b.st_ino && a.st_dev == b.st_dev);
	check("shared.truncate", ftruncate(writer, 1));
	value("shared.truncated", "%zd", pread(reader, back, 15, 0));
	(void)close(reader);
	(void)close(writer);
}

void section_data(void)
{
	char buf[64] = {0};
	int fd = open("f", O_RDWR);

	value("pread", "%zd %.5s", pread(fd, buf, 5, 0), buf);
	value("pread.end", "%zd", pread(fd, buf, 5, 6));
	value("pread.beyond", "%zd", pread(fd, buf, 5, 1000));
	check("pwrite.middle", pwrite(fd, "XX", 2, 1));
	value("pwrite.content", "%s", content("f"));
	check("pwrite.beyond", pwrite(fd, "end", 3, 100000));
	value("pwrite.size", "%ld", (long)stat_of("f").st_size);
	memset(buf, 1, sizeof buf);
	bytes("pwrite.hole", pread(fd, buf, 32, 50000), buf, 0, 31);
	value("seek.end", "%ld", (long)lseek(fd, 0, SEEK_END));
	check("seek.negative", lseek(fd, -1, SEEK_SET));
	check("pwrite.negative", pwrite(fd, "x", 1, -1));
	check("ftruncate.down", ftruncate(fd, 4));
	value("ftruncate.down.content", "%s", content("f"));
	check("ftruncate.up", ftruncate(fd, 5000));
	memset(buf, 1, sizeof buf);
	bytes("ftruncate.up.zero", pread(fd, buf, 32, 4), buf, 0, 31);
	check("ftruncate.negative", ftruncate(fd, -1));
	check("ftruncate.zero", ftruncate(fd, 0));
	value("ftruncate.zero.content", "<%s>", content("f"));
	struct iovec iov[] = {{(char[]){"one "}, 4}, {(char[]){"two"}, 3}};
	(void)lseek(fd, 0, SEEK_SET);
	value("writev", "%zd", writev(fd, iov, 2));
	value("writev.content", "%s", content("f"));
	value("write.zero", "%zd", write(fd, "", 0));
	void *nothing = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check("write.fault", write(fd, nothing, 100));
	(void)munmap(nothing, 4096);
	check("fsync", fsync(fd));
	check("fdatasync", fdatasync(fd));
	check("sync_file_range", sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
	check("syncfs", syncfs(fd));
	(void)close(fd);
	fd = open("f", O_RDONLY);
	check("fsync.rdonly", fsync(fd));
	check("ftruncate.rdonly", ftruncate(fd, 0));
	(void)close(fd);
	fd = open("d", O_RDONLY);
	check("fsync.dir", fsync(fd));
	check("fdatasync.dir", fdatasync(fd));
	check("ftruncate.dir", ftruncate(fd, 0));
	(void)close(fd);

	check("truncate.down", truncate("g", 3));
	value("truncate.content", "%s", content("g"));
	check("truncate.up", truncate("g", 10));
	check("truncate.missing", truncate("missing", 0));
	check("truncate.dir", truncate("d", 0));
	check("truncate.loop", truncate("loop", 0));
	check("truncate.file.as.dir", truncate("f/x", 0));
	check("truncate.negative", truncate("g", -1));
	check("truncate.link", truncate("link", 2));
	value("truncate.link.content", "%s", content("f"));

	/* A write into the middle of a large file changes nothing round it. */
	uint64_t hash = hash_of("big");
	fd = open("big", O_RDWR);
	char was[2];
	(void)!pread(fd, was, 2, 131071);
	check("big.pwrite", pwrite(fd, "zz", 2, 131071));
	claim("big.changed", hash_of("big") != hash);
	check("big.pwrite.back", pwrite(fd, was, 2, 131071));
	claim("big.same", hash_of("big") == hash);
	value("big.hash", "%016lx", (unsigned long)hash);
	(void)close(fd);
	readers_see_writers();
	beyond_limit();
}

/* ---- holes and preallocation ---- */

static void seek_holes(void)
{
	int fd = open("sparse", O_RDWR | O_CREAT | O_TRUNC, 0644);
	const long mib = 1048576;

	must(pwrite(fd, "data", 4, 0) == 4 && pwrite(fd, "data", 4, 4 * mib) == 4, "pwrite");
	(void)fsync(fd);
	value("seek.data.0", "%ld", (long)lseek(fd, 0, SEEK_DATA));
	long hole = lseek(fd, 0, SEEK_HOLE);
	claim("seek.hole.0", hole > 0 && hole <= 65536);
	value("seek.data.1m", "%ld", (long)lseek(fd, mib, SEEK_DATA));
	value("seek.hole.1m", "%ld", (long)lseek(fd, mib, SEEK_HOLE));
	claim("seek.hole.end", lseek(fd, 4 * mib, SEEK_HOLE) == 4 * mib + 4);
	check("seek.data.beyond", lseek(fd, 5 * mib, SEEK_DATA));
	check("seek.hole.beyond", lseek(fd, 5 * mib, SEEK_HOLE));
	check("seek.data.negative", lseek(fd, -1, SEEK_DATA));
	claim("sparse.blocks", stat_of("sparse").st_blocks <= 256);
	value("sparse.size", "%ld", (long)stat_of("sparse").st_size);
	/* Written through a mapping that is still there, then flushed. */
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 2 * mib);
	p[0] = 'm';
	value("mapped", "%ld", (long)lseek(fd, mib, SEEK_DATA));
	(void)msync(p, 4096, MS_SYNC);
	value("mapped.flushed", "%ld", (long)lseek(fd, mib, SEEK_DATA));
	(void)munmap(p, 4096);
	(void)close(fd);
	fd = open("empty", O_RDONLY);
	check("seek.data.empty", lseek(fd, 0, SEEK_DATA));
	(void)close(fd);
}

void section_holes(void)
{
	int fd = open("big", O_RDWR);
	uint8_t b[2];

	seek_holes();
	check("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 65536));
	value("punch.size", "%ld", (long)stat_of("big").st_size);
	bytes("punch.before", pread(fd, b, 1, 65535), b, 0, 0);
	bytes("punch.in", pread(fd, b, 1, 65536), b, 0, 0);
	bytes("punch.last", pread(fd, b, 1, 131071), b, 0, 0);
	bytes("punch.behind", pread(fd, b, 1, 131072), b, 0, 0);
	check("punch.odd", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 200001, 3));
	bytes("punch.odd.in", pread(fd, b, 2, 200000), b, 0, 1);
	check("punch.beyond",
	      fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096));
	value("punch.beyond.size", "%ld", (long)stat_of("big").st_size);
	check("punch.nokeep", fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
	check("zero", fallocate(fd, FALLOC_FL_ZERO_RANGE, 10, 100));
	bytes("zero.in", pread(fd, b, 1, 10), b, 0, 0);
	bytes("zero.behind", pread(fd, b, 1, 110), b, 0, 0);
	check("zero.extend", fallocate(fd, FALLOC_FL_ZERO_RANGE, 299990, 100));
	value("zero.extend.size", "%ld", (long)stat_of("big").st_size);
	check("zero.keep", fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 300000, 1000));
	value("zero.keep.size", "%ld", (long)stat_of("big").st_size);
	check("alloc", fallocate(fd, 0, 0, 400000));
	value("alloc.size", "%ld", (long)stat_of("big").st_size);
	check("alloc.keep", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 20));
	value("alloc.keep.size", "%ld", (long)stat_of("big").st_size);
	claim("alloc.keep.blocks", stat_of("big").st_blocks >= 2048);
	check("alloc.zero", fallocate(fd, 0, 0, 0));
	check("alloc.negative", fallocate(fd, 0, -1, 10));
	check("alloc.toobig", fallocate(fd, 0, LONG_MAX - 10, 100));
	check("collapse", fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 65536));
	check("insert", fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 65536));
	(void)close(fd);
	check("posix_fallocate.grow",
	      (fd = open("g", O_RDWR), errno = posix_fallocate(fd, 0, 5000)) ? -1 : 0);
	value("posix_fallocate.size", "%ld", (long)stat_of("g").st_size);
	(void)close(fd);
	value("posix_fallocate.content", "%s", content("g"));
	fd = open("f", O_RDONLY);
	check("alloc.rdonly", fallocate(fd, 0, 0, 10));
	(void)close(fd);
	fd = open("d", O_RDONLY);
	check("alloc.dir", fallocate(fd, 0, 0, 10));
	(void)close(fd);
}

/* ---- concurrent appends ---- */

enum { APPENDERS = 4, RECORDS = 200, RECORD = 37 };

static void append_records(const char *path, char who)
{
	char record[RECORD];
	int fd = open(path, O_WRONLY | O_APPEND);

	memset(record, who, RECORD - 1);
	record[RECORD - 1] = '\n';
	for (int i = 0; i < RECORDS; i++)
		if (write(fd, record, RECORD) != RECORD)
			_exit(1);
	_exit(0);
}

static unsigned whole_records(const char *path, long from)
{
	FILE *f = fopen(path, "r");
	char line[RECORD + 2];
	unsigned whole = 0;

	if (!f || fseek(f, from, SEEK_SET) < 0)
		return 0;
	while (fgets(line, sizeof line, f)) {
		bool same = strlen(line) == RECORD;
		for (int i = 1; same && i < RECORD - 1; i++)
			same = line[i] == line[0];
		whole += same;
	}
	(void)fclose(f);
	return whole;
}

void section_append(void)
{
	int fd = open("f", O_WRONLY | O_APPEND), status, bad = 0;

	check("write", write(fd, "more\n", 5));
	value("content", "%s", content("f"));
	value("position", "%ld", (long)lseek(fd, 0, SEEK_CUR));
	check("pwrite", pwrite(fd, "again\n", 6, 0));
	value("pwrite.content", "%s", content("f"));
	check("shell", system("echo from a shell >> f"));
	check("shell.after", write(fd, "mine\n", 5));
	value("mixed", "%s", content("f"));
	(void)close(fd);

	static const char *subjects[] = {"g", "many-writers"};
	put("many-writers", "");
	for (size_t s = 0; s < 2; s++) {
		long size = stat_of(subjects[s]).st_size;
		for (int i = 0; i < APPENDERS; i++)
			if (fork() == 0)
				append_records(subjects[s], (char)('a' + i));
		for (int i = 0; i < APPENDERS; i++)
			bad += wait(&status) < 0 || status != 0;
		char name[64];
		(void)snprintf(name, sizeof name, "concurrent.%zu.size", s);
		value(name, "%ld", (long)stat_of(subjects[s]).st_size - size);
		(void)snprintf(name, sizeof name, "concurrent.%zu.whole", s);
		value(name, "%u", whole_records(subjects[s], size));
	}
	value("concurrent.failed", "%d", bad);
}

/* ---- copies inside the kernel ---- */

void section_copy(void)
{
	int from = open("big", O_RDONLY), to = open("copy", O_RDWR | O_CREAT, 0644);
	off_t in = 0, out = 0;
	long total = 0, n;

	while ((n = copy_file_range(from, &in, to, &out, POSIX_BIG, 0)) > 0)
		total += n;
	value("whole", "%ld", total);
	claim("whole.same", hash_of("copy") == hash_of("big"));
	in = POSIX_BIG + 10;
	value("beyond", "%zd", copy_file_range(from, &in, to, &out, 10, 0));
	in = 1000;
	out = 0;
	value("part", "%zd", copy_file_range(from, &in, to, &out, 3000, 0));
	char a[3000], b[3000];
	claim("part.same", pread(from, a, 3000, 1000) == 3000 && pread(to, b, 3000, 0) == 3000 &&
				   memcmp(a, b, 3000) == 0);
	value("part.size", "%ld", (long)stat_of("copy").st_size);
	check("flags", copy_file_range(from, NULL, to, NULL, 10, 1));
	check("to.rdonly", copy_file_range(to, NULL, from, NULL, 10, 0));
	in = 0;
	out = 10;
	check("overlap", copy_file_range(to, &in, to, &out, 100, 0));
	in = 0;
	out = 100000;
	value("same.file", "%zd", copy_file_range(to, &in, to, &out, 100, 0));
	(void)close(to);
	to = open("copy", O_WRONLY | O_APPEND);
	check("to.append", copy_file_range(from, NULL, to, NULL, 10, 0));
	(void)close(to);
	to = open("g", O_RDWR);
	in = out = 0;
	value("over", "%zd", copy_file_range(from, &in, to, &out, 4, 0));
	value("over.size", "%ld", (long)stat_of("g").st_size);
	int dir = open("d", O_RDONLY);
	check("dir", copy_file_range(dir, NULL, to, NULL, 10, 0));
	(void)close(dir);
	(void)close(to);
	to = open("sent", O_RDWR | O_CREAT, 0644);
	in = 0;
	total = 0;
	while ((n = sendfile(to, from, &in, POSIX_BIG)) > 0)
		total += n;
	value("sendfile", "%ld", total);
	claim("sendfile.same", hash_of("sent") == hash_of("big"));
	(void)close(to);
	(void)close(from);
}

/* ---- mappings ---- */

static int touch_beyond(void *arg)
{
	volatile char *p = arg;

	p[8192] = 1;
	return 0;
}

static int write_in_child(void *arg)
{
	memcpy(arg, "CHILD", 5);
	return 0;
}

static void map_basic(const char *path, const char *what)
{
	int fd = open(path, O_RDWR), second = open(path, O_RDONLY);
	char name[64], back[16] = {0};

	must(ftruncate(fd, 8192) == 0, "ftruncate");
	char *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *q = mmap(NULL, 8192, PROT_READ, MAP_SHARED, second, 0);
	char *r = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	must(p != MAP_FAILED && q != MAP_FAILED && r != MAP_FAILED, "mmap");
	memcpy(p, "through the map", 15);
	(void)snprintf(name, sizeof name, "%s.read", what);
	value(name, "%zd %.15s", pread(second, back, 15, 0), back);
	(void)snprintf(name, sizeof name, "%s.other", what);
	value(name, "%.15s", q);
	must(pwrite(fd, "written", 7, 4096) == 7, "pwrite");
	(void)snprintf(name, sizeof name, "%s.written", what);
	value(name, "%.7s %.7s", p + 4096, q + 4096);
	memcpy(r + 100, "private", 7);
	(void)snprintf(name, sizeof name, "%s.private", what);
	value(name, "%d", p[100]);
	(void)snprintf(name, sizeof name, "%s.child", what);
	value(name, "%d %.5s", in_child(write_in_child, p), q);
	(void)snprintf(name, sizeof name, "%s.msync", what);
	check(name, msync(p, 8192, MS_SYNC));
	(void)snprintf(name, sizeof name, "%s.beyond", what);
	value(name, "%d", in_child(touch_beyond, p) == 128 + SIGBUS);
	/* Bytes behind the end in the last page are no part of the file. */
	must(ftruncate(fd, 5000) == 0, "ftruncate");
	p[5100] = 'x';
	must(ftruncate(fd, 6000) == 0, "ftruncate");
	(void)snprintf(name, sizeof name, "%s.tail", what);
	bytes(name, pread(second, back, 1, 5100), back, 0, 0);
	(void)snprintf(name, sizeof name, "%s.tail.mapped", what);
	value(name, "%d", p[5100]);
	(void)snprintf(name, sizeof name, "%s.unlinked", what);
	must(unlink(path) == 0, "unlink");
	memcpy(p, "gone", 4);
	value(name, "%zd %.4s", pread(second, back, 4, 0), back);
	(void)munmap(p, 16384);
	(void)munmap(q, 8192);
	(void)munmap(r, 8192);
	(void)close(second);
	(void)close(fd);
}

void section_mmap(void)
{
	map_basic("f", "file");
	map_basic("big", "big");
	int fd = open("g", O_RDONLY);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check("rdonly.shared", p == MAP_FAILED ? -1 : 0);
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	check("rdonly", p == MAP_FAILED ? -1 : 0);
	/* Mapped before anybody changed the file. */
	int writer = open("g", O_WRONLY);
	must(pwrite(writer, "SECOND", 6, 0) == 6, "pwrite");
	value("before.change", "%.6s", (char *)p);
	(void)close(writer);
	(void)close(fd);
	(void)munmap(p, 4096);
	/* What a mapping left is there when it is gone. */
	fd = open("h", O_RDWR);
	char *m = mmap(NULL, 6, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)close(fd);
	m[0] = 'T';
	(void)munmap(m, 6);
	value("after.unmap", "%s", content("h"));
	fd = open("d", O_RDONLY);
	check("dir", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	(void)close(fd);
}
