/* SPDX-License-Identifier: Apache-2.0 */
/* Which names a directory has. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scan/walk.h"

enum {
	RECORD_BYTES = 64 << 10, /* asked of getdents64 at a time */
};

void scan_lister_fini(struct scan_lister *l)
{
	inlay_buf_fini(&l->records);
	inlay_buf_fini(&l->targets);
	inlay_buf_fini(&l->items);
	inlay_buf_fini(&l->order);
	inlay_buf_fini(&l->seen);
	inlay_buf_fini(&l->touched);
	inlay_buf_fini(&l->asked);
	free(l->first);
}

/* A bit for each entry that stood here, and the number of each block's first one. */
static int prepare_compare(struct scan_lister *l, const struct scan_node *node,
			   struct inlay_error *err)
{
	const struct scan_dir *d = node->before;
	uint32_t count = 0;

	if (!d)
		return 0;
	if (d->block_count > l->first_cap) {
		uint32_t *first = reallocarray(l->first, d->block_count, sizeof *first);
		if (!first)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		l->first = first;
		l->first_cap = d->block_count;
	}
	for (uint32_t i = 0; i < d->block_count; i++) {
		l->first[i] = count;
		count += d->blocks[i]->count;
	}
	l->old_count = count;
	inlay_buf_clear(&l->seen);
	uint8_t *bits = inlay_buf_reserve(&l->seen, count / 8 + 1);
	if (!bits)
		return inlay_buf_check(&l->seen, err);
	memset(bits, 0, count / 8 + 1);
	return 0;
}

/* 1: read, 0: it is gone or cannot be. */
static int read_names(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	inlay_buf_clear(&l->records);
	for (;;) {
		uint8_t *room = inlay_buf_reserve(&l->records, RECORD_BYTES);
		if (!room)
			return inlay_buf_check(&l->records, err);
		ssize_t n = getdents64(node->fd, room, RECORD_BYTES);
		if (n == 0)
			return 1;
		if (n > 0) {
			l->records.len += (size_t)n;
		} else if (errno == ENOENT) {
			return 0; /* it went away after it was opened */
		} else if (errno != EINTR) {
			scan_walk_trouble(l->walk, node, NULL, 0, -errno, "cannot list", NULL);
			return 0;
		}
	}
}

static const struct dirent64 *next_record(const struct scan_lister *l, size_t *at)
{
	if (*at >= l->records.len)
		return NULL;
	const struct dirent64 *d = (const struct dirent64 *)(l->records.data + *at);
	*at += d->d_reclen;
	return d;
}

static bool is_dots(const char *name)
{
	return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

static void find_rule_files(const struct scan_lister *l, struct scan_node *node)
{
	const struct dirent64 *d;

	for (size_t at = 0; (d = next_record(l, &at));) {
		if (d->d_name[0] != '.')
			continue;
		if (strcmp(d->d_name, ".gitignore") == 0)
			node->rule_files |= SCAN_HAS_GITIGNORE;
		else if (strcmp(d->d_name, ".inlayignore") == 0)
			node->rule_files |= SCAN_HAS_INLAYIGNORE;
	}
}

/* 1: the rules are there. */
static int enter_rules(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	struct inlay_error e = {0};
	int r;

	if (!node->parent)
		r = inlay_ignore_root(node->fd, &l->walk->options->ignore, &node->rules, &e);
	else
		r = inlay_ignore_enter(node->parent->rules, node->fd, node->name, node->name_len,
				       node->rule_files & SCAN_HAS_GITIGNORE,
				       node->rule_files & SCAN_HAS_INLAYIGNORE, &node->rules, &e);
	if (r == 0)
		return 1;
	if (r == -ENOMEM) {
		if (err)
			*err = e;
		return r;
	}
	/* Its text names the file. */
	auto_buf struct inlay_buf path = {0};
	scan_node_path(node, &path);
	scan_trouble_add(&l->walk->trouble, &path, &e);
	__atomic_store_n(&l->walk->failed, true, __ATOMIC_RELAXED);
	return 0;
}

static int look_at_all(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	const struct dirent64 *d;
	int r = 0;

	for (size_t at = 0; r == 0 && (d = next_record(l, &at));) {
		size_t len = strlen(d->d_name);
		if (!is_dots(d->d_name))
			r = scan_look(l, node, d->d_name, len, d->d_type, err);
	}
	return r;
}

static int tell_enter(struct scan_lister *l, const struct scan_node *node, struct inlay_error *err)
{
	const struct inlay_scan_options *o = l->walk->options;
	auto_buf struct inlay_buf path = {0};

	if (!o->enter)
		return 0;
	scan_node_path(node, &path);
	path.len -= path.len > 0; /* the slash behind it */
	const char *text = inlay_buf_cstr(&path);
	int r = inlay_buf_check(&path, err);
	if (r == 0)
		o->enter(o->enter_ctx, node->fd, text, path.len);
	return r;
}

static int list_whole(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	int r = tell_enter(l, node, err);

	if (r == 0)
		r = read_names(l, node, err);
	if (r <= 0)
		return r;
	node->rule_files = 0;
	find_rule_files(l, node);
	r = enter_rules(l, node, err);
	if (r <= 0)
		return r;
	/* Under other rules what is below may come in or go out, so it is looked at too. */
	if (node->before && inlay_ignore_fingerprint(node->rules) != node->before->rules)
		node->wants.paths = NULL;
	l->whole = true;
	l->seen_ns = l->walk->start_ns;
	r = prepare_compare(l, node, err);
	if (r == 0)
		r = look_at_all(l, node, err);
	return r < 0 ? r : scan_compose(l, node, err);
}

/* Positive: the rules have changed, so the whole directory is to be listed. */
static int list_wants(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	node->rule_files = node->before->rule_files | scan_wants_rule_files(node);
	int r = enter_rules(l, node, err);
	if (r <= 0)
		return r;
	if (inlay_ignore_fingerprint(node->rules) != node->before->rules) {
		inlay_ignore_unref(take_ptr(node->rules));
		return 1;
	}
	l->whole = false;
	r = prepare_compare(l, node, err);
	if (r == 0)
		r = scan_look_at_wants(l, node, err);
	/* Whether a name that is left out was counted before cannot be told. */
	node->ignored = node->before->ignored;
	return r < 0 ? r : scan_compose(l, node, err);
}

int scan_list(struct scan_lister *l, struct scan_node *node, struct inlay_error *err)
{
	inlay_buf_clear(&l->items);
	inlay_buf_clear(&l->targets);
	if (node->before && node->wants.paths && !node->wants.itself) {
		int r = list_wants(l, node, err);
		if (r <= 0)
			return r;
	}
	return list_whole(l, node, err);
}
