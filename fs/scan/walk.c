/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/io.h"
#include "tree/encode.h"

enum {
	THREADS_DEFAULT = 2,
	/* A helper is started when that many directories wait: for less it is not worth it. */
	HELP_FROM = 4,
	RETRIES = 3,
};

static bool is_set(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

/* ---- results ---- */

/* One block without the directories that went away; the others' children move together. */
static int drop_from(struct scan_node *node, uint32_t number, uint32_t *child, uint32_t *to)
{
	struct scan_block *b = node->blocks[number];
	auto_free bool *drop = calloc(b->count + 1u, sizeof *drop);
	bool any = false;

	if (!drop)
		return -ENOMEM;
	for (uint32_t i = 0; i < b->count; i++) {
		if (!S_ISDIR(b->entries[i].mode))
			continue;
		struct scan_dir *d = take_ptr(node->children[*child]);
		++*child;
		drop[i] = !d;
		any |= !d;
		if (d)
			node->children[(*to)++] = d;
	}
	if (!any)
		return 0;
	node->blocks[number] = scan_block_without(b, drop);
	scan_block_unref(b);
	return node->blocks[number] ? 0 : -ENOMEM;
}

static int own_blocks(struct scan_node *node)
{
	if (node->blocks)
		return 0;
	node->blocks = calloc((size_t)1 << node->bits, sizeof(struct scan_block *));
	if (!node->blocks)
		return -ENOMEM;
	for (uint32_t i = 0; i < 1u << node->bits; i++)
		node->blocks[i] = scan_block_ref(node->before->blocks[i]);
	node->same_blocks = false;
	return 0;
}

/* Directories that went away between the look at them and their opening are not there. */
static int drop_gone(struct scan_walk *w, struct scan_node *node)
{
	uint32_t child = 0, to = 0;
	uint64_t visible = 0;
	int r = own_blocks(node);

	for (uint32_t b = 0; r == 0 && b < 1u << node->bits; b++) {
		r = drop_from(node, b, &child, &to);
		if (r == 0)
			visible += node->blocks[b]->count - node->blocks[b]->specials;
	}
	if (r < 0)
		return r;
	node->child_count = to;
	node->listing_is_new = true;
	if (tree_split_bits(visible) != node->bits)
		__atomic_store_n(&w->retry, true, __ATOMIC_RELAXED);
	return 0;
}

static bool same_as_before(const struct scan_node *node)
{
	const struct scan_dir *d = node->before;

	if (!d || d->bits != node->bits || d->child_count != node->child_count ||
	    d->ignored != node->ignored || d->rule_files != node->rule_files ||
	    d->rules != inlay_ignore_fingerprint(node->rules))
		return false;
	for (uint32_t i = 0; i < d->block_count; i++)
		if (node->blocks && node->blocks[i] != d->blocks[i])
			return false;
	for (uint32_t i = 0; i < d->child_count; i++)
		if (node->children[i] != d->children[i])
			return false;
	return true;
}

/* What its trees are compared with when they are built. A snapshot that was given up before its own
 * were leads to the one before it. */
static struct scan_dir *last_built(struct scan_dir *d)
{
	if (d && !d->built)
		d = d->before;
	return d ? scan_dir_ref(d) : NULL;
}

static int make_dir(struct scan_walk *w, struct scan_node *node, struct scan_dir **ret)
{
	bool gone = false;

	for (uint32_t i = 0; i < node->child_count; i++)
		gone |= !node->children[i];
	int r = gone ? drop_gone(w, node) : 0;
	if (r < 0)
		return r;
	if (same_as_before(node)) {
		*ret = scan_dir_ref(node->before);
		return 0;
	}
	r = own_blocks(node);
	if (r < 0)
		return r;
	struct scan_dir *d = scan_dir_new(node->bits, node->child_count);
	if (!d)
		return -ENOMEM;
	for (uint32_t i = 0; i < d->block_count; i++)
		d->blocks[i] = take_ptr(node->blocks[i]);
	for (uint32_t i = 0; i < d->child_count; i++)
		d->children[i] = take_ptr(node->children[i]);
	d->ignored = node->ignored;
	d->rule_files = node->rule_files;
	d->rules = inlay_ignore_fingerprint(node->rules);
	/* When the last snapshot was never built, what was new in it still is. */
	d->listing_is_new = w->had_before && (node->listing_is_new || node->before->listing_is_new);
	d->mtime_ns = w->had_before && !node->listing_is_new ? node->before->mtime_ns
							     : node->folder_mtime_ns;
	d->before = last_built(node->before);
	scan_dir_sum(d);
	*ret = d;
	return 0;
}

/* A directory, or the last one in it, is done: its result goes up, and so on. */
static void node_done(struct scan_walk *w, struct scan_node *node)
{
	while (node && __atomic_sub_fetch(&node->pending, 1, __ATOMIC_ACQ_REL) == 0) {
		struct scan_node *parent = node->parent;
		struct scan_dir *d = NULL;
		bool wanted = node->listed && !is_set(&w->failed) && !is_set(&w->retry);
		if (wanted && make_dir(w, node, &d) < 0)
			scan_walk_no_memory(w);
		if (parent)
			parent->children[node->index] = d;
		else
			w->result = d;
		scan_node_free(node);
		node = parent;
	}
}

/* ---- threads ---- */

static void *run(void *arg);

/* Takes the list of nodes over. */
static void push(struct scan_walk *w, struct scan_node *list, unsigned count)
{
	scope_lock(&w->lock);
	while (list) {
		struct scan_node *next = list->next;
		list->next = w->queue;
		w->queue = list;
		list = next;
	}
	w->queued += count;
	if (w->idle > 0)
		(void)pthread_cond_broadcast(&w->wake);
	else if (w->queued >= HELP_FROM && w->helpers < w->helpers_max &&
		 pthread_create(&w->threads[w->helpers], NULL, run, w) == 0)
		w->helpers++; /* without help it takes longer, that is all */
}

static void work(struct scan_lister *l, struct scan_node *node)
{
	struct scan_walk *w = l->walk;
	struct inlay_error e;

	l->children = NULL;
	l->child_nodes = 0;
	if (is_set(&w->stop) || is_set(&w->retry)) {
		if (node->parent)
			scan_node_opened(w, node->parent);
	} else if (scan_node_open(w, node) && scan_list(l, node, &e) < 0) {
		scan_walk_give_up(w, &e);
	}
	if (l->child_nodes > 0) {
		node->pending += l->child_nodes;
		node->openers += l->child_nodes;
		if (__atomic_load_n(&w->open, __ATOMIC_RELAXED) > w->open_max)
			scan_node_close(w, node);
	}
	scan_node_opened(w, node);
	if (l->child_nodes > 0)
		push(w, l->children, l->child_nodes);
	node_done(w, node);
}

static void *run(void *arg)
{
	struct scan_walk *w = arg;
	auto_of(scan_lister_fini) struct scan_lister l = {.walk = w};

	(void)pthread_mutex_lock(&w->lock);
	while (w->queue || w->busy > 0) {
		struct scan_node *node = w->queue;
		if (!node) {
			w->idle++;
			(void)pthread_cond_wait(&w->wake, &w->lock);
			w->idle--;
			continue;
		}
		w->queue = node->next;
		w->queued--;
		w->busy++;
		(void)pthread_mutex_unlock(&w->lock);
		work(&l, node);
		(void)pthread_mutex_lock(&w->lock);
		w->busy--;
	}
	(void)pthread_cond_broadcast(&w->wake);
	(void)pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* ---- the walk ---- */

static void walk_fini(struct scan_walk *w)
{
	scan_dir_unref(w->result);
	scan_mounts_fini(&w->mounts);
	scan_trouble_fini(&w->trouble);
	(void)pthread_mutex_destroy(&w->lock);
	(void)pthread_cond_destroy(&w->wake);
}

static int walk_init(struct scan_walk *w, int rootfd, const struct inlay_scan_options *options,
		     struct inlay_error *err)
{
	unsigned threads = options->threads ? options->threads : THREADS_DEFAULT;

	*w = (struct scan_walk){.options = options, .rootfd = rootfd, .start_ns = inlay_now_ns()};
	w->helpers_max = (threads < SCAN_THREADS_MAX ? threads : SCAN_THREADS_MAX) - 1;
	w->open_max = scan_open_limit();
	if (fstat(rootfd, &w->root_stat) < 0)
		return inlay_error_sys(err, -errno, "stat the folder");
	int r = scan_mounts_init(&w->mounts, err);
	if (r < 0)
		return r;
	r = scan_trouble_init(&w->trouble, err);
	if (r < 0) {
		scan_mounts_fini(&w->mounts);
		return r;
	}
	/* These two cannot fail with default attributes. */
	(void)pthread_mutex_init(&w->lock, NULL);
	(void)pthread_cond_init(&w->wake, NULL);
	return 0;
}

static int go(struct scan_walk *w, struct inlay_snapshot *old, const struct scan_wants *wants,
	      struct inlay_error *err)
{
	struct scan_node *root = scan_node_new(NULL, "", 0);

	if (!root)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	root->dev = w->root_stat.st_dev;
	root->folder_mtime_ns =
		scan_time_ns(w->root_stat.st_mtim.tv_sec, (uint32_t)w->root_stat.st_mtim.tv_nsec);
	root->before = old ? old->root : NULL;
	root->wants = *wants;
	w->had_before = old != NULL;
	push(w, root, 1);
	(void)run(w);
	for (unsigned i = 0; i < w->helpers; i++)
		(void)pthread_join(w->threads[i], NULL);
	int r = scan_trouble_result(&w->trouble, err);
	if (r == 0 && !w->result && !w->retry)
		r = inlay_error_set(err, -ENOENT, "the folder is gone");
	return r;
}

static int take_snapshot(struct scan_walk *w, const struct inlay_snapshot *old,
			 struct inlay_snapshot **ret, struct inlay_error *err)
{
	auto_of(inlay_snapshot_unref) struct inlay_snapshot *s = scan_snapshot_new();

	if (!s)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	s->owners = w->options->owners;
	s->mode = w->root_stat.st_mode & 07777;
	s->dev = w->root_stat.st_dev;
	s->ino = w->root_stat.st_ino;
	s->root = take_ptr(w->result);
	/* Nothing new: what was saved for the old one holds for this one. */
	if (old && old->root == s->root && old->mode == s->mode && old->dev == s->dev &&
	    old->ino == s->ino)
		s->saved = scan_snapshot_saved((struct inlay_snapshot *)old);
	int r = scan_snapshot_count(s, err);
	if (r < 0)
		return r;
	*ret = take_ptr(s);
	return 0;
}

int scan_walk_wants(int rootfd, const struct inlay_scan_options *options,
		    struct inlay_snapshot *old, const struct scan_wants *wants,
		    struct inlay_snapshot **ret, struct inlay_error *err)
{
	int r = 0;

	if (old && old->owners != options->owners)
		old = NULL;
	for (int i = 0; i < RETRIES; i++) {
		struct scan_walk w;
		r = walk_init(&w, rootfd, options, err);
		if (r < 0)
			return r;
		r = go(&w, old, wants, err);
		bool retry = w.retry;
		if (r == 0 && !retry)
			r = take_snapshot(&w, old, ret, err);
		walk_fini(&w);
		if (r < 0 || !retry)
			return r;
	}
	return inlay_error_set(err, -EBUSY, "names become files, directories and links in turn");
}

int inlay_scan_walk(int rootfd, const struct inlay_scan_options *options,
		    struct inlay_snapshot *old, struct inlay_snapshot **ret,
		    struct inlay_error *err)
{
	return scan_walk_wants(rootfd, options, old, &(struct scan_wants){0}, ret, err);
}
