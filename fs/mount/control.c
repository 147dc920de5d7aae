/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/control.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"
#include "inlay/text.h"

enum { CHANGES_MAX = 100000 }; /* lines of `changes` */

static const uint64_t first_number = 1ull << 63;

struct file {
	uint64_t number;
	uint64_t nlookup;
	struct inlay_buf bytes;
	struct file *next;
};

struct control {
	pthread_mutex_t lock; /* everything below */
	struct control_options options;
	struct file *files;
	uint64_t next_number;
	struct inlay_digest before; /* the root that was shown before */
	uint64_t durable;
};

int control_new(const struct control_options *options, struct control **ret,
		struct inlay_error *err)
{
	struct control *c = calloc(1, sizeof *c);

	if (!c)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)pthread_mutex_init(&c->lock, NULL);
	c->options = *options;
	c->next_number = first_number + 1;
	*ret = c;
	return 0;
}

static void free_file(struct file *f)
{
	inlay_buf_fini(&f->bytes);
	free(f);
}

void control_free(struct control *c)
{
	if (!c)
		return;
	for (struct file *f = c->files, *next; f; f = next) {
		next = f->next;
		free_file(f);
	}
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
}

static void fill(const struct control *c, uint64_t number, mode_t mode, uint64_t size,
		 struct view_entry *ret)
{
	struct inlay_generation gen;

	view_generation(c->options.view, &gen);
	*ret = (struct view_entry){.number = number};
	ret->attr = (struct stat){.st_ino = number,
				  .st_mode = mode,
				  .st_nlink = S_ISDIR(mode) ? 2 : 1,
				  .st_uid = c->options.uid,
				  .st_gid = c->options.gid,
				  .st_size = (off_t)size,
				  .st_blksize = 4096};
	ret->attr.st_mtim.tv_sec = gen.time_ns / 1000000000;
	ret->attr.st_mtim.tv_nsec = gen.time_ns % 1000000000;
	ret->attr.st_ctim = ret->attr.st_atim = ret->attr.st_mtim;
}

void control_root(struct control *c, struct view_entry *ret)
{
	fill(c, first_number, S_IFDIR | 0555, 4096, ret);
}

/* ---- what the files say ---- */

static void write_generation(struct control *c, struct inlay_buf *b)
{
	struct inlay_generation gen;
	char hex[INLAY_DIGEST_HEX];

	view_generation(c->options.view, &gen);
	inlay_digest_hex(&gen.root.tree, hex);
	inlay_buf_printf(b, "%llu%s %s\n", (unsigned long long)gen.number,
			 gen.number > c->durable ? "~" : "", hex);
}

static void write_status(struct control *c, struct inlay_buf *b)
{
	inlay_buf_printf(b, "generation: ");
	write_generation(c, b);
	c->options.status(c->options.ctx, b);
}

struct changes {
	struct inlay_buf *out;
	unsigned count;
};

static int write_change(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
			const struct inlay_entry *after, struct inlay_error *err)
{
	struct changes *w = ctx;
	bool dirs = before && after && inlay_entry_is_dir(before) && inlay_entry_is_dir(after);

	(void)err;
	/* A directory is changed by what is in it, which has its own line. */
	if (dirs && before->mode == after->mode)
		return 0;
	if (w->count++ == CHANGES_MAX) {
		inlay_buf_printf(w->out, "...\n");
		return INLAY_TREES_STOP;
	}
	inlay_buf_printf(w->out, "%c ", !before ? '+' : !after ? '-' : 'M');
	inlay_text_escape(w->out, path, len);
	inlay_buf_u8(w->out, '\n');
	return 0;
}

static int write_changes(struct control *c, struct inlay_buf *b, struct inlay_error *err)
{
	struct inlay_generation gen;
	struct changes w = {.out = b};

	view_generation(c->options.view, &gen);
	if (inlay_digest_is_zero(&c->before))
		return 0;
	int r = inlay_tree_diff(c->options.trees, &c->before, &gen.root.tree, write_change, &w,
				err);
	if (r == INLAY_TREES_MISSING)
		inlay_buf_printf(b, "the previous generation is no longer in the store\n");
	return r < 0 ? r : 0;
}

static const char *const names[] = {"status", "generation", "changes"};

const char *control_name(unsigned i)
{
	return i < sizeof names / sizeof *names ? names[i] : NULL;
}

static int write_file(struct control *c, const char *name, struct inlay_buf *b,
		      struct inlay_error *err)
{
	int r = 0;

	if (strcmp(name, "status") == 0)
		write_status(c, b);
	else if (strcmp(name, "generation") == 0)
		write_generation(c, b);
	else if (strcmp(name, "changes") == 0)
		r = write_changes(c, b, err);
	else
		return inlay_error_set(err, -ENOENT, "no such control file");
	return r < 0 ? r : inlay_buf_check(b, err);
}

/* ---- files as the kernel sees them ---- */

int control_lookup(struct control *c, uint64_t dir, const char *name, struct view_entry *ret,
		   struct inlay_error *err)
{
	if (dir != first_number)
		return inlay_error_set(err, -ENOTDIR, "not a directory");
	scope_lock(&c->lock);
	struct file *f = calloc(1, sizeof *f);
	if (!f)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = write_file(c, name, &f->bytes, err);
	if (r < 0) {
		free_file(f);
		return r;
	}
	f->number = c->next_number++;
	f->nlookup = 1;
	f->next = c->files;
	c->files = f;
	fill(c, f->number, S_IFREG | 0444, f->bytes.len, ret);
	return 0;
}

/* The link that points to the file; *link is NULL when there is none. */
static struct file **find(struct control *c, uint64_t number)
{
	struct file **link = &c->files;

	while (*link && (*link)->number != number)
		link = &(*link)->next;
	return link;
}

void control_forget(struct control *c, uint64_t number, uint64_t count)
{
	scope_lock(&c->lock);
	struct file **link = find(c, number), *f = *link;

	if (!f || (f->nlookup -= count < f->nlookup ? count : f->nlookup) > 0)
		return;
	*link = f->next;
	free_file(f);
}

int control_getattr(struct control *c, uint64_t number, struct stat *ret, struct inlay_error *err)
{
	struct view_entry e;

	scope_lock(&c->lock);
	if (number == first_number) {
		control_root(c, &e);
	} else {
		const struct file *f = *find(c, number);
		if (!f)
			return inlay_error_set(err, -ESTALE, "no such control file");
		fill(c, number, S_IFREG | 0444, f->bytes.len, &e);
	}
	*ret = e.attr;
	return 0;
}

int control_read(struct control *c, uint64_t number, void *buf, size_t len, uint64_t off,
		 size_t *ret_n, struct inlay_error *err)
{
	scope_lock(&c->lock);
	const struct file *f = *find(c, number);

	if (!f)
		return inlay_error_set(err, -ESTALE, "no such control file");
	size_t left = off < f->bytes.len ? f->bytes.len - (size_t)off : 0;
	*ret_n = left < len ? left : len;
	if (*ret_n)
		memcpy(buf, f->bytes.data + off, *ret_n);
	return 0;
}

void control_switched(struct control *c, const struct inlay_digest *before)
{
	scope_lock(&c->lock);
	c->before = *before;
}

void control_durable(struct control *c, uint64_t number)
{
	scope_lock(&c->lock);
	c->durable = number;
}
