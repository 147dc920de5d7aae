/* SPDX-License-Identifier: Apache-2.0 */
/* One name: is it as it was? A walk over an unchanged folder spends its time here; all that is done
 * for a name that is as it was is to match, stat and compare. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "scan/walk.h"

enum {
	/* Times older than the last look by this much cannot come again by an edit behind it: the
	 * kernel stamps with its tick, which is up to 10 ms, or finer. */
	MARGIN_NS = 50 * 1000 * 1000,
	TICK_NS = 10 * 1000 * 1000,
};

/* For file systems that keep whole seconds, or two of them (FAT). */
#define COARSE_MARGIN_NS INT64_C(2000000000)
#define SECOND_NS        INT64_C(1000000000)

/* ---- is it as it was? ---- */

int64_t scan_time_ns(int64_t sec, uint32_t nsec)
{
	int64_t ns;

	if (__builtin_mul_overflow(sec, SECOND_NS, &ns) ||
	    __builtin_add_overflow(ns, (int64_t)nsec, &ns))
		return sec < 0 ? INT64_MIN : INT64_MAX;
	return ns;
}

static int64_t time_ns(const struct statx_timestamp *t)
{
	return scan_time_ns(t->tv_sec, t->tv_nsec);
}

bool scan_times_are_old(int64_t mtime_ns, int64_t ctime_ns, int64_t seen_ns)
{
	bool coarse = mtime_ns % SECOND_NS == 0 && ctime_ns % TICK_NS == 0;
	int64_t limit = seen_ns - (coarse ? COARSE_MARGIN_NS : MARGIN_NS);

	return mtime_ns < limit && ctime_ns < limit;
}

static bool same_stat(const struct scan_entry *a, const struct scan_entry *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns &&
	       a->ino == b->ino && a->dev == b->dev && a->mode == b->mode;
}

static bool same_owner(const struct scan_item *item, const struct scan_block *b, int64_t at)
{
	return !b->owners ||
	       (b->owners[at].uid == item->owner.uid && b->owners[at].gid == item->owner.gid);
}

static bool is_clean(const struct scan_lister *l, const struct scan_item *item,
		     const struct scan_block *b, int64_t at)
{
	const struct scan_entry *now = &item->entry, *old = &b->entries[at];

	if (!item->was_same || !same_owner(item, b, at))
		return false;
	switch (item->type) {
	case S_IFREG:
		if (l->walk->options->checksum || (old->flags & SCAN_DIRTY))
			return false;
		return same_stat(now, old) &&
		       scan_times_are_old(old->mtime_ns, old->ctime_ns, b->seen_ns);
	case S_IFLNK:
		return same_stat(now, old) &&
		       scan_times_are_old(old->mtime_ns, old->ctime_ns, b->seen_ns);
	case S_IFDIR:
		return same_stat(now, old);
	default:
		return true;
	}
}

/* Compares with what stood there. False when this name came already: a listing can have a name
 * twice while others are renamed. */
static bool compare(struct scan_lister *l, const struct scan_node *node, struct scan_item *item)
{
	const struct scan_dir *d = node->before;

	item->old_entry = -1;
	if (!d)
		return true;
	item->old_block = scan_block_of(d, item->hash);
	const struct scan_block *b = d->blocks[item->old_block];
	int64_t at = scan_block_find(b, d->bits, item->hash, item->name, item->name_len);
	if (at < 0)
		return true;
	uint64_t number = l->first[item->old_block] + (uint64_t)at;
	uint8_t *seen = &l->seen.data[number / 8];
	if (*seen >> number % 8 & 1)
		return false;
	*seen |= (uint8_t)(1u << number % 8);
	item->old_entry = (int32_t)at;
	item->was_same = (b->entries[at].mode & S_IFMT) == item->type;
	item->clean = is_clean(l, item, b, at);
	return true;
}

/* ---- one name ---- */

static void fill(struct scan_item *item, const struct statx *st, bool owners)
{
	struct scan_entry *e = &item->entry;

	item->type = st->stx_mode & S_IFMT;
	*e = (struct scan_entry){
		.ino = st->stx_ino,
		.dev = makedev(st->stx_dev_major, st->stx_dev_minor),
		.mode = st->stx_mode,
		.name_len = item->name_len,
	};
	if (item->type == S_IFREG || item->type == S_IFLNK) {
		e->size = st->stx_size;
		e->mtime_ns = time_ns(&st->stx_mtime);
		e->ctime_ns = time_ns(&st->stx_ctime);
	}
	if (item->type == S_IFDIR) {
		item->folder_mtime_ns = time_ns(&st->stx_mtime);
		e->ctime_ns = st->stx_mask & STATX_BTIME ? time_ns(&st->stx_btime) : 0;
	}
	if (item->type == S_IFREG && st->stx_nlink > 1)
		e->flags = SCAN_LINKED;
	if (owners)
		item->owner = (struct scan_owner){st->stx_uid, st->stx_gid};
}

/* 1: it is there, 0: it is not, or could not be looked at. */
static int stat_name(struct scan_lister *l, const struct scan_node *node, const char *name,
		     size_t len, struct statx *ret)
{
	/* Without AT_STATX_DONT_SYNC: it saves nothing on a local disk, and on a network file system
	 * it would hide what others edited. */
	int r;
	do
		r = statx(node->fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
			  STATX_BASIC_STATS | STATX_BTIME, ret);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return 1;
	if (errno == ENOENT)
		return 0;
	scan_walk_trouble(l->walk, node, name, len, -errno, "cannot look at",
			  errno == ENOTCONN ? "a mount whose server has gone; unmount or exclude it"
					    : NULL);
	return 0;
}

/* 1 to go on with it. */
static int check_device(struct scan_lister *l, const struct scan_node *node,
			const struct scan_item *item, struct inlay_error *err)
{
	struct inlay_error e = {0};
	bool is_inlay = false;

	if (item->entry.dev == node->dev)
		return 1;
	int r = scan_mounts_is_inlay(&l->walk->mounts, item->entry.dev, &is_inlay, &e);
	if (r == -ENOMEM) {
		if (err)
			*err = e;
		return r;
	}
	if (r < 0) {
		scan_walk_trouble(l->walk, node, item->name, item->name_len, r, "cannot enter",
				  e.text);
		return 0;
	}
	if (is_inlay)
		scan_walk_trouble(l->walk, node, item->name, item->name_len, -EXDEV,
				  "cannot take in", "a mount of inlay; unmount or exclude it");
	return !is_inlay;
}

/* 1: the target was read. */
static int read_target(struct scan_lister *l, const struct scan_node *node, struct scan_item *item,
		       struct inlay_error *err)
{
	item->target = (uint32_t)l->targets.len;
	char *room = (char *)inlay_buf_reserve(&l->targets, INLAY_LINK_MAX + 1);
	if (!room)
		return inlay_buf_check(&l->targets, err);
	ssize_t n = readlinkat(node->fd, item->name, room, INLAY_LINK_MAX + 1);
	if (n < 0 && errno == ENOENT)
		return 0;
	if (n < 0 && errno == EINVAL) {
		/* It was one a moment ago. */
		__atomic_store_n(&l->walk->retry, true, __ATOMIC_RELAXED);
		return 0;
	}
	if (n <= 0 || n > INLAY_LINK_MAX) {
		scan_walk_trouble(l->walk, node, item->name, item->name_len,
				  n < 0   ? -errno
				  : n > 0 ? -E2BIG
					  : -EINVAL,
				  "cannot take in the symlink",
				  n < 0   ? NULL
				  : n > 0 ? "its target has more than 4095 bytes"
					  : "its target is empty");
		return 0;
	}
	item->entry.size = (uint64_t)n;
	l->targets.len += (size_t)n;
	return 1;
}

/* What only concerns names that are not as they were. 1 to go on with it. */
static int take_new(struct scan_lister *l, const struct scan_node *node, struct scan_item *item,
		    struct inlay_error *err)
{
	if (item->type == S_IFLNK)
		return read_target(l, node, item, err);
	if (item->type != S_IFREG)
		return 1;
	item->entry.flags |= SCAN_DIRTY;
	if (item->entry.size <= INLAY_OBJECT_MAX)
		return 1;
	scan_walk_trouble(l->walk, node, item->name, item->name_len, -E2BIG, "cannot take in",
			  "a file of more than 2^40 bytes");
	return 0;
}

static bool within_limits(struct scan_lister *l, const struct scan_node *node, const char *name,
			  size_t len)
{
	const char *why = NULL;

	if (len > INLAY_NAME_MAX)
		why = "its name has more than 255 bytes";
	else if (node->depth > INLAY_DEPTH_MAX)
		why = "more than 1024 directories above it";
	else if (node->path_len + len > INLAY_PATH_MAX)
		why = "its path has more than 65535 bytes";
	if (why)
		scan_walk_trouble(l->walk, node, name, len, -E2BIG, "cannot take in", why);
	return !why;
}

/* The rules only have to know whether it is a directory. True when it is left out. */
static bool left_out(const struct scan_node *node, const char *name, size_t len, bool is_dir)
{
	return inlay_ignore_match(node->rules, name, len, is_dir, NULL);
}

static bool is_held(const struct scan_walk *w, const struct scan_node *node, const char *name,
		    size_t len)
{
	auto_buf struct inlay_buf path = {0};

	for (size_t i = 0; i < w->options->held_count; i++) {
		const char *held = w->options->held[i], *slash = strrchr(held, '/');
		const char *base = slash ? slash + 1 : held;
		if (strlen(base) != len || memcmp(base, name, len) != 0)
			continue;
		if (path.len == 0) {
			scan_node_path(node, &path);
			inlay_buf_add(&path, name, len);
		}
		if (strcmp(inlay_buf_cstr(&path), held) == 0)
			return true;
	}
	return false;
}

/* The name as it stood in the last snapshot, whatever it is now. */
static int take_held(struct scan_lister *l, const struct scan_node *node, const char *name,
		     size_t len, struct inlay_error *err)
{
	struct scan_item item = {
		.hash = inlay_name_hash(name, len), .name = name, .name_len = (uint8_t)len};

	(void)compare(l, node, &item);
	if (item.old_entry < 0)
		return 0;
	const struct scan_block *b = node->before->blocks[item.old_block];
	item.entry = b->entries[item.old_entry];
	if (!S_ISREG(item.entry.mode) || (item.entry.flags & SCAN_DIRTY))
		return 0;
	item.type = S_IFREG;
	item.was_same = item.clean = true;
	if (b->owners)
		item.owner = b->owners[item.old_entry];
	inlay_buf_add(&l->items, &item, sizeof item);
	return inlay_buf_check(&l->items, err);
}

int scan_look(struct scan_lister *l, struct scan_node *node, const char *name, size_t len,
	      unsigned char type, struct inlay_error *err)
{
	struct statx st;

	if (l->walk->options->held_count > 0 && is_held(l->walk, node, name, len))
		return take_held(l, node, name, len, err);

	if (type != DT_UNKNOWN && left_out(node, name, len, type == DT_DIR)) {
		node->ignored++;
		return 0;
	}
	if (!within_limits(l, node, name, len) || !stat_name(l, node, name, len, &st))
		return 0;
	bool is_dir = S_ISDIR(st.stx_mode);
	if ((type == DT_UNKNOWN || is_dir != (type == DT_DIR)) &&
	    left_out(node, name, len, is_dir)) {
		node->ignored++;
		return 0;
	}
	struct scan_item *item = (struct scan_item *)inlay_buf_reserve(&l->items, sizeof *item);
	if (!item)
		return inlay_buf_check(&l->items, err);
	*item = (struct scan_item){
		.hash = inlay_name_hash(name, len), .name = name, .name_len = (uint8_t)len};
	fill(item, &st, l->walk->options->owners);
	int r = check_device(l, node, item, err);
	if (r <= 0 || !compare(l, node, item))
		return r < 0 ? r : 0;
	if (!item->clean) {
		r = take_new(l, node, item, err);
		if (r <= 0)
			return r;
	}
	l->items.len += sizeof *item;
	return 0;
}
