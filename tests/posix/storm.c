/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A storm of random operations on a directory, judged after each step by a model in memory.
 *
 *     posix-storm --fill DIR SEED       makes a start tree in DIR
 *     posix-storm DIR SEED STEPS        takes what is in DIR as the start, and removes all of it in the end
 *
 * Ends with 0 and one line of counts; with 1 at the first step whose result, bytes, size, link count or listing differs
 * from the model's, and then prints the steps that led there. Seeds repeat.
 */
#include "storm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HELD = 24, MAPS = 4, HISTORY = 64, FULL_EVERY = 1000 };

struct held {
	int fd;
	struct inode *inode;
};

struct map {
	uint8_t *at;
	struct inode *inode;
};

static struct held held[HELD];
static struct map maps[MAPS];
static uint64_t random_state, seed, step;
static char history[HISTORY][256];
static unsigned counts[64], failures_expected;
static uint8_t buffer[STORM_FILE_MAX * 2];

/* ---- chance ---- */

static uint32_t chance(uint32_t below)
{
	/* splitmix64 */
	uint64_t z = random_state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (uint32_t)((z ^ (z >> 31)) >> 32) % below;
}

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	char text[4096], *out = history[step % HISTORY];
	(void)vsnprintf(text, sizeof text, format, args);
	va_end(args);
	/* The long name as L. */
	for (const char *p = text; *p && out < history[step % HISTORY] + sizeof history[0] - 1; p++)
		if (p[0] != 'L' || p[1] != 'L')
			*out++ = *p;
	*out = 0;
}

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void fail(const char *format, ...)
{
	va_list args;

	(void)fprintf(stderr, "storm: seed %lu, step %lu: ", (unsigned long)seed,
		      (unsigned long)step);
	va_start(args, format);
	(void)vfprintf(stderr, format, args);
	va_end(args);
	(void)fprintf(stderr, "\nthe last steps:\n");
	for (uint64_t s = step > HISTORY - 1 ? step - (HISTORY - 1) : 0; s <= step; s++)
		(void)fprintf(stderr, "  %lu %s\n", (unsigned long)s, history[s % HISTORY]);
	exit(1);
}

/* Compares what a call gave with what the model says. True when it was to succeed. */
static bool judge(long ret, int expected_errno)
{
	int got = ret < 0 ? errno : 0;

	if (got != expected_errno)
		fail("gave %s, not %s", got ? strerrorname_np(got) : "success",
		     expected_errno ? strerrorname_np(expected_errno) : "success");
	failures_expected += expected_errno != 0;
	return expected_errno == 0;
}

/* ---- places ---- */

static struct inode *any_dir(void)
{
	struct inode *d = model_root();

	for (unsigned i = chance(5); i > 0; i--) {
		struct inode *subs[STORM_ENTRIES];
		unsigned n = 0;
		for (unsigned e = 0; e < d->count; e++)
			if (S_ISDIR(d->entries[e].inode->mode))
				subs[n++] = d->entries[e].inode;
		if (n == 0)
			break;
		d = subs[chance(n)];
	}
	return d;
}

struct place {
	struct inode *dir, *inode; /* inode: NULL when there is nothing */
	char name[STORM_NAME], path[STORM_PATH];
};

static void name_place(struct place *p, struct inode *dir)
{
	p->dir = dir;
	unsigned n = chance(14);
	if (n == 13) { /* a long one, also for the copy that a rename makes */
		memset(p->name, 'L', 255);
		p->name[255] = 0;
	} else {
		(void)snprintf(p->name, sizeof p->name, "%c", 'a' + (int)n);
	}
	p->inode = model_find(dir, p->name);
	model_path(dir, p->path);
	(void)snprintf(p->path + strlen(p->path), 300, "%s", p->name);
}

static struct place any_place(void)
{
	struct place p;

	name_place(&p, any_dir());
	return p;
}

/* A place where something is, mostly a file. */
static struct place some_file(void)
{
	struct place p = any_place();

	for (unsigned i = 0; i < 8 && (!p.inode || !S_ISREG(p.inode->mode)); i++)
		p = any_place();
	return p;
}

/* ---- checks ---- */

static void check_stat(const struct inode *n, const struct stat *st)
{
	if (st->st_mode != n->mode)
		fail("mode is %o, not %o", st->st_mode, n->mode);
	if (!S_ISDIR(n->mode) && st->st_nlink != n->nlink)
		fail("nlink is %lu, not %u", (unsigned long)st->st_nlink, n->nlink);
	if (S_ISREG(n->mode) && st->st_size != n->size)
		fail("size is %ld, not %ld", (long)st->st_size, (long)n->size);
	if (S_ISLNK(n->mode) && st->st_size != (off_t)strlen(n->target))
		fail("a symlink's size is %ld", (long)st->st_size);
}

static void compare(const struct inode *n, off_t from, const uint8_t *got, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (got[i] != n->data[from + (off_t)i])
			fail("byte %ld of %ld is %02x, not %02x", (long)(from + (off_t)i),
			     (long)n->size, got[i], n->data[from + (off_t)i]);
}

static void check_bytes(const struct inode *n, int fd, off_t from, size_t len)
{
	ssize_t got = pread(fd, buffer, len, from);
	off_t expect = from >= n->size               ? 0
		       : n->size - from < (off_t)len ? n->size - from
						     : (off_t)len;

	if (got != expect)
		fail("read of %zu at %ld gave %zd (%s), not %ld", len, (long)from, got,
		     got < 0 ? strerror(errno) : "", (long)expect);
	compare(n, from, buffer, (size_t)got);
}

static void check_fd(const struct inode *n, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		fail("fstat: %s", strerror(errno));
	check_stat(n, &st);
}

static void check_path(const struct place *p)
{
	struct stat st;

	if (lstat(p->path, &st) < 0) {
		if (errno != ENOENT || model_find(p->dir, p->name))
			fail("lstat of %s: %s", p->path, strerror(errno));
		return;
	}
	if (!model_find(p->dir, p->name))
		fail("%s is there", p->path);
	check_stat(model_find(p->dir, p->name), &st);
}

static void check_listing(struct inode *d, const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	bool seen[STORM_ENTRIES] = {0};

	if (!dir)
		fail("opendir %s: %s", path, strerror(errno));
	while ((e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		unsigned i = 0;
		while (i < d->count && strcmp(d->entries[i].name, e->d_name) != 0)
			i++;
		if (i == d->count)
			fail("%s lists %s", path, e->d_name);
		if (seen[i])
			fail("%s lists %s twice", path, e->d_name);
		seen[i] = true;
		if (e->d_type != IFTODT(d->entries[i].inode->mode))
			fail("%s lists %s as type %d", path, e->d_name, e->d_type);
	}
	(void)closedir(dir);
	for (unsigned i = 0; i < d->count; i++)
		if (!seen[i])
			fail("%s does not list %s", path, d->entries[i].name);
}

static void check_tree(struct inode *d)
{
	char path[STORM_PATH], target[STORM_PATH];

	model_path(d, path);
	check_listing(d, path);
	size_t end = strlen(path);
	for (unsigned i = 0; i < d->count; i++) {
		struct inode *n = d->entries[i].inode;
		struct stat st;
		(void)snprintf(path + end, sizeof path - end, "%s", d->entries[i].name);
		if (lstat(path, &st) < 0)
			fail("lstat of %s: %s", path, strerror(errno));
		check_stat(n, &st);
		if (S_ISDIR(n->mode)) {
			check_tree(n);
		} else if (S_ISLNK(n->mode)) {
			ssize_t len = readlink(path, target, sizeof target - 1);
			if (len < 0 || (target[len] = 0, strcmp(target, n->target) != 0))
				fail("%s points elsewhere", path);
		} else {
			int fd = open(path, O_RDONLY);
			if (fd < 0)
				fail("open %s: %s", path, strerror(errno));
			check_bytes(n, fd, 0, STORM_FILE_MAX);
			(void)close(fd);
		}
	}
}

static void check_all(void)
{
	check_tree(model_root());
	for (unsigned i = 0; i < HELD; i++)
		if (held[i].inode) {
			check_fd(held[i].inode, held[i].fd);
			check_bytes(held[i].inode, held[i].fd, 0, STORM_FILE_MAX);
		}
	for (unsigned i = 0; i < MAPS; i++)
		if (maps[i].inode)
			compare(maps[i].inode, 0, maps[i].at, (size_t)maps[i].inode->size);
}

/* ---- a file to work on: by a path, or one that is held open ---- */

static void drop_held(unsigned i)
{
	if (!held[i].inode)
		return;
	(void)close(held[i].fd);
	model_unref(held[i].inode);
	held[i].inode = NULL;
}

static void hold(int fd, struct inode *n)
{
	unsigned i = chance(HELD);

	drop_held(i);
	held[i] = (struct held){fd, n};
	n->refs++;
}

struct work {
	int fd;
	struct inode *inode;
	bool kept;  /* the descriptor stays open */
	bool leave; /* it does not become a held one */
};

static bool work_on(struct work *w, int flags, const char *what)
{
	if (chance(3) == 0) {
		struct held *h = &held[chance(HELD)];
		if (h->inode) {
			*w = (struct work){h->fd, h->inode, true, false};
			note("%s on a held file of %ld bytes, nlink %u", what, (long)h->inode->size,
			     h->inode->nlink);
			return true;
		}
	}
	struct place p = some_file();
	int expect = !p.inode                 ? ENOENT
		     : S_ISLNK(p.inode->mode) ? ELOOP
		     : S_ISDIR(p.inode->mode) ? EISDIR
					      : 0;

	note("%s on %s (%ld bytes)", what, p.path, p.inode ? (long)p.inode->size : -1);
	int fd = open(p.path, flags | O_NOFOLLOW);
	if (!judge(fd, expect))
		return false;
	*w = (struct work){fd, p.inode, false, false};
	return true;
}

static void work_done(struct work *w)
{
	check_fd(w->inode, w->fd);
	check_bytes(w->inode, w->fd, chance(STORM_FILE_MAX), 1 + chance(8192));
	if (w->kept)
		return;
	if (!w->leave && chance(8) == 0)
		hold(w->fd, w->inode);
	else
		(void)close(w->fd);
}

/* ---- steps: bytes ---- */

static off_t any_offset(const struct inode *n)
{
	switch (chance(4)) {
	case 0:
		return chance(STORM_FILE_MAX);
	case 1:
		return n->size;
	case 2:
		return chance(STORM_FILE_MAX / 4096) * 4096;
	default:
		return n->size ? chance((uint32_t)n->size) : 0;
	}
}

static size_t any_length(off_t from)
{
	size_t len = chance(3) == 0 ? 4096 * (1 + chance(8)) : 1 + chance(chance(2) ? 100 : 20000);

	return from + (off_t)len > STORM_FILE_MAX ? (size_t)(STORM_FILE_MAX - from) : len;
}

static void fill_random(uint8_t *p, size_t len)
{
	uint8_t base = (uint8_t)(1 + chance(255));

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(base + i * 7);
}

static void step_write(void)
{
	struct work w;

	if (!work_on(&w, O_RDWR, "write"))
		return;
	off_t from = any_offset(w.inode);
	size_t len = any_length(from);
	note("write %zu at %ld of %ld bytes, ino %lu", len, (long)from, (long)w.inode->size,
	     w.inode->id);
	fill_random(buffer, len);
	model_write(w.inode, from, buffer, len);
	ssize_t n = pwrite(w.fd, buffer, len, from);
	if (n != (ssize_t)len)
		fail("pwrite gave %zd: %s", n, strerror(errno));
	check_bytes(w.inode, w.fd, from > 100 ? from - 100 : 0, len + 200);
	work_done(&w);
}

static void step_append(void)
{
	struct place p = some_file();
	uint8_t bytes[3000];

	if (!p.inode || !S_ISREG(p.inode->mode))
		return;
	size_t len = 1 + chance(sizeof bytes);
	if (p.inode->size + (off_t)len > STORM_FILE_MAX)
		return;
	note("append %zu to %s (%ld bytes)", len, p.path, (long)p.inode->size);
	int fd = open(p.path, O_WRONLY | O_APPEND);
	judge(fd, 0);
	fill_random(bytes, len);
	if (write(fd, bytes, len) != (ssize_t)len)
		fail("append: %s", strerror(errno));
	model_write(p.inode, p.inode->size, bytes, len);
	check_fd(p.inode, fd);
	(void)close(fd);
}

static void step_read(void)
{
	struct work w;

	if (!work_on(&w, O_RDWR, "read"))
		return;
	check_bytes(w.inode, w.fd, 0, STORM_FILE_MAX);
	work_done(&w);
}

static void step_truncate(void)
{
	struct work w;
	bool by_path = chance(2);

	if (by_path) {
		struct place p = some_file();
		off_t size = chance(3) == 0 ? 0 : any_offset(p.inode ? p.inode : model_root());
		note("truncate %s (%ld bytes) to %ld", p.path, p.inode ? (long)p.inode->size : -1,
		     (long)size);
		if (p.inode && S_ISLNK(p.inode->mode))
			return;
		int expect = !p.inode ? ENOENT : S_ISDIR(p.inode->mode) ? EISDIR : 0;
		if (judge(truncate(p.path, size), expect))
			model_truncate(p.inode, size);
		check_path(&p);
		return;
	}
	if (!work_on(&w, O_RDWR, "ftruncate"))
		return;
	off_t size = any_offset(w.inode);
	note("ftruncate from %ld to %ld, ino %lu", (long)w.inode->size, (long)size, w.inode->id);
	judge(ftruncate(w.fd, size), 0);
	model_truncate(w.inode, size);
	work_done(&w);
}

static void step_open_trunc(void)
{
	struct work w;

	if (!work_on(&w, O_RDWR | O_TRUNC, "open with O_TRUNC"))
		return;
	if (!w.kept)
		model_truncate(w.inode, 0);
	work_done(&w);
}

static void step_fallocate(void)
{
	static const int modes[] = {0,
				    FALLOC_FL_KEEP_SIZE,
				    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    FALLOC_FL_ZERO_RANGE,
				    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
	struct work w;

	if (!work_on(&w, O_RDWR, "fallocate"))
		return;
	int mode = modes[chance(6)];
	off_t from = any_offset(w.inode);
	size_t len = any_length(from);
	note("fallocate mode %d, %zu at %ld of %ld, ino %lu", mode, len, (long)from,
	     (long)w.inode->size, w.inode->id);
	if (judge(fallocate(w.fd, mode, from, (off_t)len), len == 0 ? EINVAL : 0)) {
		if (!(mode & FALLOC_FL_KEEP_SIZE) && from + (off_t)len > w.inode->size)
			model_truncate(w.inode, from + (off_t)len);
		if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
			model_zero(w.inode, from, len);
	}
	check_bytes(w.inode, w.fd, from > 100 ? from - 100 : 0, len + 200);
	work_done(&w);
}

static void step_copy_range(void)
{
	struct work a, b;

	if (!work_on(&a, O_RDWR, "copy_file_range from"))
		return;
	if (!work_on(&b, O_RDWR, "copy_file_range to")) {
		work_done(&a);
		return;
	}
	b.leave = true; /* it could take the place of the other */
	loff_t in = any_offset(a.inode), out = any_offset(b.inode);
	size_t len = any_length(in > out ? in : out);
	off_t there = in >= a.inode->size ? 0 : a.inode->size - in;
	size_t expect = there < (off_t)len ? (size_t)there : len;
	off_t from = in, to = out;
	if (a.inode != b.inode || from + (off_t)len <= to || to + (off_t)len <= from) {
		note("copy_file_range %zu from %ld of %ld (ino %lu) to %ld of %ld (ino %lu)", len,
		     (long)from, (long)a.inode->size, a.inode->id, (long)to, (long)b.inode->size,
		     b.inode->id);
		size_t done = 0;
		while (done < expect) {
			ssize_t n = copy_file_range(a.fd, &in, b.fd, &out, expect - done, 0);
			if (n <= 0)
				fail("copy_file_range gave %zd: %s", n,
				     n < 0 ? strerror(errno) : "");
			done += (size_t)n;
		}
		if (expect) {
			memcpy(buffer, a.inode->data + from, expect);
			model_write(b.inode, to, buffer, expect);
		}
		check_bytes(b.inode, b.fd, to > 100 ? to - 100 : 0, len + 200);
	}
	work_done(&b);
	work_done(&a);
}

/* What is called a hole must read as zeros; where there are other bytes, there is data. */
static void step_seek(void)
{
	struct work w;

	if (!work_on(&w, O_RDWR, "seek"))
		return;
	off_t at = 0;
	while (at < w.inode->size) {
		off_t data = lseek(w.fd, at, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			fail("SEEK_DATA: %s", strerror(errno));
		off_t end = data < 0 ? w.inode->size : data;
		if (end < at || end > w.inode->size)
			fail("SEEK_DATA from %ld gave %ld of %ld", (long)at, (long)end,
			     (long)w.inode->size);
		for (off_t i = at; i < end; i++)
			if (w.inode->data[i])
				fail("byte %ld is called a hole", (long)i);
		if (data < 0)
			break;
		at = lseek(w.fd, data, SEEK_HOLE);
		if (at <= data || at > w.inode->size)
			fail("SEEK_HOLE from %ld gave %ld of %ld", (long)data, (long)at,
			     (long)w.inode->size);
	}
	work_done(&w);
}

static void step_map(void)
{
	struct work w;

	if (!work_on(&w, O_RDWR, "mmap"))
		return;
	uint8_t *p = mmap(NULL, STORM_FILE_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, w.fd, 0);
	if (p == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	if (w.inode->size > 0) {
		off_t from = chance((uint32_t)w.inode->size);
		size_t len = any_length(from);
		if (from + (off_t)len > w.inode->size)
			len = (size_t)(w.inode->size - from);
		note("mmap, write %zu at %ld of %ld, ino %lu", len, (long)from, (long)w.inode->size,
		     w.inode->id);
		compare(w.inode, from, p + from, len);
		fill_random(buffer, len);
		memcpy(p + from, buffer, len);
		model_write(w.inode, from, buffer, len);
		check_bytes(w.inode, w.fd, from > 100 ? from - 100 : 0, len + 200);
	}
	unsigned i = chance(MAPS * 4);
	if (i < MAPS) {
		if (maps[i].inode) {
			(void)munmap(maps[i].at, STORM_FILE_MAX);
			model_unref(maps[i].inode);
		}
		maps[i] = (struct map){p, w.inode};
		w.inode->refs++;
	} else {
		(void)munmap(p, STORM_FILE_MAX);
	}
	work_done(&w);
}

/* A mapping that was made some time ago. */
static void step_old_map(void)
{
	struct map *m = &maps[chance(MAPS)];

	note("old mapping");
	if (!m->inode || m->inode->size == 0)
		return;
	compare(m->inode, 0, m->at, (size_t)m->inode->size);
	off_t from = chance((uint32_t)m->inode->size);
	size_t len = any_length(from);
	if (from + (off_t)len > m->inode->size)
		len = (size_t)(m->inode->size - from);
	note("write %zu at %ld of %ld by an old mapping, ino %lu", len, (long)from,
	     (long)m->inode->size, m->inode->id);
	fill_random(buffer, len);
	memcpy(m->at + from, buffer, len);
	model_write(m->inode, from, buffer, len);
	if (chance(4) == 0)
		(void)msync(m->at, STORM_FILE_MAX, MS_SYNC);
}

/* ---- steps: names ---- */

static void step_create(void)
{
	struct place p = any_place();
	bool excl = chance(2);
	mode_t mode = chance(4) ? 0644 : 0755;

	if (p.dir->count >= STORM_ENTRIES - 1)
		return;
	note("create %s%s", p.path, excl ? " with O_EXCL" : "");
	int expect = !p.inode                 ? 0
		     : excl                   ? EEXIST
		     : S_ISLNK(p.inode->mode) ? ELOOP
		     : S_ISDIR(p.inode->mode) ? EISDIR
					      : 0;
	int fd = open(p.path, O_RDWR | O_CREAT | O_NOFOLLOW | (excl ? O_EXCL : 0), mode);
	if (!judge(fd, expect))
		return;
	if (!p.inode)
		p.inode = model_add(p.dir, p.name, model_new(S_IFREG | mode));
	check_fd(p.inode, fd);
	hold(fd, p.inode);
	check_path(&p);
}

static void step_mkdir(void)
{
	struct place p = any_place();

	if (p.dir->count >= STORM_ENTRIES - 1 || model_depth(p.dir) > 5)
		return;
	note("mkdir %s", p.path);
	if (judge(mkdir(p.path, 0755), p.inode ? EEXIST : 0)) {
		struct inode *n = model_add(p.dir, p.name, model_new(S_IFDIR | 0755));
		n->parent = p.dir;
	}
	check_path(&p);
}

static void step_symlink(void)
{
	struct place p = any_place();
	char target[32];

	if (p.dir->count >= STORM_ENTRIES - 1)
		return;
	(void)snprintf(target, sizeof target, "target-%u", chance(1000000));
	note("symlink %s", p.path);
	if (judge(symlink(target, p.path), p.inode ? EEXIST : 0)) {
		struct inode *n = model_add(p.dir, p.name, model_new(S_IFLNK | 0777));
		(void)snprintf(n->target, sizeof n->target, "%s", target);
	}
	check_path(&p);
}

static void step_link(void)
{
	struct place a = some_file(), b = any_place();

	if (b.dir->count >= STORM_ENTRIES - 1)
		return;
	note("link %s to %s", a.path, b.path);
	int expect = !a.inode ? ENOENT : b.inode ? EEXIST : S_ISDIR(a.inode->mode) ? EPERM : 0;
	if (judge(link(a.path, b.path), expect)) {
		(void)model_add(b.dir, b.name, a.inode);
		a.inode->nlink++;
	}
	check_path(&a);
	check_path(&b);
}

static void step_unlink(void)
{
	struct place p = some_file();

	note("unlink %s", p.path);
	int expect = !p.inode ? ENOENT : S_ISDIR(p.inode->mode) ? EISDIR : 0;
	if (judge(unlink(p.path), expect))
		model_remove(p.dir, p.name);
	check_path(&p);
}

static void step_rmdir(void)
{
	struct place p = any_place();

	for (unsigned i = 0; i < 4 && (!p.inode || !S_ISDIR(p.inode->mode)); i++)
		p = any_place();
	note("rmdir %s", p.path);
	int expect = !p.inode                  ? ENOENT
		     : !S_ISDIR(p.inode->mode) ? ENOTDIR
		     : p.inode->count          ? ENOTEMPTY
					       : 0;
	if (judge(rmdir(p.path), expect))
		model_remove(p.dir, p.name);
	check_path(&p);
}

static bool above(const struct inode *ancestor, const struct inode *n)
{
	for (; n; n = n->parent)
		if (n == ancestor)
			return true;
	return false;
}

/* In the order in which the kernel looks. */
static int rename_errno(const struct place *a, const struct place *b, unsigned flags)
{
	if (!a->inode)
		return ENOENT;
	if (flags & RENAME_NOREPLACE && b->inode)
		return EEXIST;
	if (flags & RENAME_EXCHANGE && !b->inode)
		return ENOENT;
	if (S_ISDIR(a->inode->mode) && above(a->inode, b->dir))
		return EINVAL;
	if (b->inode && S_ISDIR(b->inode->mode) && above(b->inode, a->dir))
		return flags & RENAME_EXCHANGE ? EINVAL : ENOTEMPTY;
	if (!b->inode || a->inode == b->inode || flags & RENAME_EXCHANGE)
		return 0;
	if (S_ISDIR(a->inode->mode) != S_ISDIR(b->inode->mode))
		return S_ISDIR(a->inode->mode) ? ENOTDIR : EISDIR;
	return S_ISDIR(b->inode->mode) && b->inode->count ? ENOTEMPTY : 0;
}

static unsigned height(const struct inode *n)
{
	unsigned high = 0;

	for (unsigned i = 0; i < n->count; i++) {
		unsigned h = height(n->entries[i].inode);
		high = h > high ? h : high;
	}
	return high + 1;
}

static void step_rename(void)
{
	static const unsigned flags_of[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
	struct place a = any_place(), b = any_place();
	unsigned flags = flags_of[chance(5)];

	for (unsigned i = 0; i < 6 && !a.inode; i++)
		a = any_place();
	if (b.dir->count >= STORM_ENTRIES - 1)
		return;
	if (a.inode && model_depth(b.dir) + height(a.inode) > 8)
		return;
	if (flags & RENAME_EXCHANGE && b.inode && model_depth(a.dir) + height(b.inode) > 8)
		return;
	note("rename %s to %s, flags %u", a.path, b.path, flags);
	if (judge(renameat2(AT_FDCWD, a.path, AT_FDCWD, b.path, flags),
		  rename_errno(&a, &b, flags)))
		model_rename(a.dir, a.name, b.dir, b.name, flags & RENAME_EXCHANGE);
	check_path(&a);
	check_path(&b);
}

static void step_list(void)
{
	struct inode *d = any_dir();
	char path[STORM_PATH];

	model_path(d, path);
	note("list %s", path);
	check_listing(d, path);
}

static void step_stat(void)
{
	struct place p = any_place();

	note("stat %s", p.path);
	check_path(&p);
}

static void step_chmod(void)
{
	struct place p = any_place();
	mode_t mode = chance(2) ? 0600 : 0640;

	note("chmod %s", p.path);
	if (p.inode && (S_ISLNK(p.inode->mode) || S_ISDIR(p.inode->mode)))
		return;
	if (judge(chmod(p.path, mode), p.inode ? 0 : ENOENT))
		p.inode->mode = S_IFREG | mode;
	check_path(&p);
}

static void step_times(void)
{
	struct place p = any_place();
	struct timespec times[] = {{1, 2}, {chance(1u << 31), chance(1000000000)}};
	struct stat st;

	note("utimensat %s", p.path);
	if (!judge(utimensat(AT_FDCWD, p.path, times, AT_SYMLINK_NOFOLLOW), p.inode ? 0 : ENOENT))
		return;
	if (lstat(p.path, &st) < 0 || st.st_mtim.tv_sec != times[1].tv_sec ||
	    st.st_mtim.tv_nsec != times[1].tv_nsec)
		fail("another mtime");
	check_path(&p);
}

static void step_sync(void)
{
	struct work w;

	if (!work_on(&w, O_RDWR, "fsync"))
		return;
	judge(chance(2) ? fsync(w.fd) : fdatasync(w.fd), 0);
	work_done(&w);
}

static void step_release(void)
{
	note("close a held file");
	drop_held(chance(HELD));
}

/* ---- the run ---- */

static const struct {
	const char *name;
	void (*run)(void);
	unsigned weight;
} steps[] = {
	{"write", step_write, 18},      {"append", step_append, 6},
	{"read", step_read, 8},         {"truncate", step_truncate, 8},
	{"otrunc", step_open_trunc, 2}, {"fallocate", step_fallocate, 8},
	{"copy", step_copy_range, 5},   {"seek", step_seek, 4},
	{"mmap", step_map, 8},          {"oldmap", step_old_map, 5},
	{"create", step_create, 12},    {"mkdir", step_mkdir, 6},
	{"symlink", step_symlink, 4},   {"link", step_link, 6},
	{"unlink", step_unlink, 8},     {"rmdir", step_rmdir, 4},
	{"rename", step_rename, 16},    {"list", step_list, 6},
	{"stat", step_stat, 6},         {"chmod", step_chmod, 3},
	{"utimens", step_times, 3},     {"fsync", step_sync, 1},
	{"close", step_release, 4},
};

enum { STEPS = sizeof steps / sizeof *steps };

static unsigned any_step(void)
{
	unsigned total = 0, i = 0;

	for (unsigned s = 0; s < STEPS; s++)
		total += steps[s].weight;
	unsigned at = chance(total);
	while (at >= steps[i].weight)
		at -= steps[i++].weight;
	return i;
}

static void storm(uint64_t count)
{
	for (step = 0; step < count; step++) {
		unsigned s = any_step();
		note("%s", steps[s].name);
		counts[s]++;
		steps[s].run();
		if (step % FULL_EVERY == FULL_EVERY - 1) {
			note("%s, then a look at everything", history[step % HISTORY]);
			check_all();
		}
	}
	step = count - 1;
	check_all();
}

/* Everything can be removed, with files open. */
static void remove_tree(struct inode *d)
{
	char path[STORM_PATH];

	while (d->count > 0) {
		struct inode *n = d->entries[0].inode;
		if (S_ISDIR(n->mode))
			remove_tree(n);
		model_path(d, path);
		(void)snprintf(path + strlen(path), STORM_NAME, "%s", d->entries[0].name);
		if ((S_ISDIR(n->mode) ? rmdir(path) : unlink(path)) < 0)
			fail("remove %s: %s", path, strerror(errno));
		model_remove(d, d->entries[0].name);
	}
}

static void end(void)
{
	note("remove everything");
	remove_tree(model_root());
	check_listing(model_root(), ".");
	for (unsigned i = 0; i < HELD; i++)
		if (held[i].inode) {
			check_fd(held[i].inode, held[i].fd);
			check_bytes(held[i].inode, held[i].fd, 0, STORM_FILE_MAX);
			drop_held(i);
		}
	for (unsigned i = 0; i < MAPS; i++)
		if (maps[i].inode) {
			compare(maps[i].inode, 0, maps[i].at, (size_t)maps[i].inode->size);
			(void)munmap(maps[i].at, STORM_FILE_MAX);
			model_unref(maps[i].inode);
		}
}

static void fill(const char *prefix, unsigned depth)
{
	char path[STORM_PATH];

	for (char c = 'a'; c <= 'm'; c++) {
		(void)snprintf(path, sizeof path, "%s%c", prefix, c);
		unsigned kind = chance(8);
		if (kind == 0 || (kind <= 2 && depth < 3)) {
			if (mkdir(path, 0755) < 0)
				fail("mkdir %s: %s", path, strerror(errno));
			(void)snprintf(path, sizeof path, "%s%c/", prefix, c);
			if (kind != 0)
				fill(path, depth + 1);
		} else if (kind == 3) {
			if (symlink("target", path) < 0)
				fail("symlink %s: %s", path, strerror(errno));
		} else if (kind < 7) {
			size_t len = chance(3) ? chance(5000) : chance(STORM_FILE_MAX);
			fill_random(buffer, len);
			int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, kind == 4 ? 0755 : 0644);
			if (fd < 0 || write(fd, buffer, len) != (ssize_t)len)
				fail("write %s: %s", path, strerror(errno));
			(void)close(fd);
		}
	}
}

int main(int argc, char **argv)
{
	bool filling = argc == 4 && strcmp(argv[1], "--fill") == 0;

	if (argc != 4) {
		(void)fprintf(stderr, "usage: posix-storm --fill DIR SEED | DIR SEED STEPS\n");
		return 2;
	}
	(void)umask(022);
	seed = random_state = strtoull(argv[filling ? 3 : 2], NULL, 10);
	if (chdir(argv[filling ? 2 : 1]) < 0)
		fail("chdir: %s", strerror(errno));
	if (filling) {
		fill("", 0);
		return 0;
	}
	if (model_load(model_root(), ".") < 0)
		fail("load: %s", strerror(errno));
	storm(strtoull(argv[3], NULL, 10));
	end();
	printf("seed %s: %s steps, %u of them refused as expected:", argv[2], argv[3],
	       failures_expected);
	for (unsigned s = 0; s < STEPS; s++)
		printf(" %s %u", steps[s].name, counts[s]);
	printf("\n");
	model_unref(model_root());
	return 0;
}
