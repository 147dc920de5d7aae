/* SPDX-License-Identifier: Apache-2.0 */
#include "upper/upper.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "inlay/tree.h"

enum { HEADS_MIN = 64 };

int upper_init(struct upper *u, struct inlay_error *err)
{
	*u = (struct upper){.dir_fd = -1,
			    .lock_fd = -1,
			    .journal_fd = -1,
			    .files_fd = -1,
			    .next = UPPER_ROOT + 1,
			    .head_count = HEADS_MIN};
	(void)pthread_mutex_init(&u->lock, NULL);
	(void)pthread_mutex_init(&u->ahead_lock, NULL);
	(void)pthread_cond_init(&u->work, NULL);
	u->heads = calloc(u->head_count, sizeof(struct upper_node *));
	u->root = u->heads ? upper_add_node(u, UPPER_ROOT) : NULL;
	if (!u->root)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	u->root->mode = S_IFDIR | 0755;
	u->root->from = UPPER_MERGED;
	return 0;
}

static void free_xattrs(struct upper_node *node)
{
	for (struct upper_xattr *x = node->xattrs, *next; x; x = next) {
		next = x->next;
		free(x);
	}
}

static void free_node(struct upper_node *node)
{
	free_xattrs(node);
	free(node->target);
	free(node);
}

void upper_fini(struct upper *u)
{
	/* Dents first: a walk needs the nodes. */
	for (size_t i = 0; u->heads && i < u->head_count; i++) {
		for (struct upper_node *node = u->heads[i]; node; node = node->next_in_hash) {
			while (node->dents) {
				struct upper_dent *d = node->dents;
				/* Turned until it has no left child: then the rest hangs on the right. */
				if (d->left) {
					struct upper_dent *l = d->left;
					d->left = l->right;
					l->right = d;
					node->dents = l;
				} else {
					node->dents = d->right;
					free(d);
				}
			}
		}
	}
	for (size_t i = 0; u->heads && i < u->head_count; i++) {
		for (struct upper_node *node = u->heads[i], *next; node; node = next) {
			next = node->next_in_hash;
			free_node(node);
		}
	}
	free(u->heads);
	free(u->dead);
	free(u->ahead);
	free(u->nameless);
	(void)pthread_cond_destroy(&u->work);
	(void)pthread_mutex_destroy(&u->ahead_lock);
	(void)pthread_mutex_destroy(&u->lock);
	*u = (struct upper){.dir_fd = -1, .lock_fd = -1, .journal_fd = -1, .files_fd = -1};
}

/* ---- nodes by number ---- */

static struct upper_node **head_of(const struct upper *u, uint64_t n)
{
	return &u->heads[(n * 0x9e3779b97f4a7c15ull >> 32) & (u->head_count - 1)];
}

struct upper_node *upper_find(const struct upper *u, uint64_t n)
{
	struct upper_node *node = *head_of(u, n);

	while (node && node->n != n)
		node = node->next_in_hash;
	return node;
}

/* More heads; without memory the chains become longer. */
static void grow(struct upper *u)
{
	struct upper_node **old = u->heads;
	size_t old_count = u->head_count;
	struct upper_node **heads = calloc(old_count * 2, sizeof(struct upper_node *));

	if (!heads)
		return;
	u->heads = heads;
	u->head_count = old_count * 2;
	for (size_t i = 0; i < old_count; i++) {
		for (struct upper_node *node = old[i], *next; node; node = next) {
			next = node->next_in_hash;
			node->next_in_hash = *head_of(u, node->n);
			*head_of(u, node->n) = node;
		}
	}
	free(old);
}

struct upper_node *upper_add_node(struct upper *u, uint64_t n)
{
	struct upper_node *node = calloc(1, sizeof *node);

	if (!node)
		return NULL;
	if (u->node_count >= u->head_count)
		grow(u);
	node->n = n;
	node->next_in_hash = *head_of(u, n);
	*head_of(u, n) = node;
	u->node_count++;
	if (n >= u->next)
		u->next = n + 1;
	return node;
}

void upper_bury(struct upper *u, uint64_t n)
{
	scope_lock(&u->lock);
	if (u->dead_first == u->dead_end)
		u->dead_first = u->dead_end = 0;
	if (u->dead_end == u->dead_cap) {
		size_t cap = u->dead_cap ? u->dead_cap * 2 : 64;
		struct upper_dead *more = reallocarray(u->dead, cap, sizeof *more);
		if (!more)
			return; /* the file goes when the upper is opened the next time */
		u->dead = more;
		u->dead_cap = cap;
	}
	u->dead[u->dead_end++] = (struct upper_dead){n, u->seq};
	(void)pthread_cond_signal(&u->work);
}

static void end_node(struct upper *u, struct upper_node *node)
{
	struct upper_node **at = head_of(u, node->n);

	while (*at != node)
		at = &(*at)->next_in_hash;
	*at = node->next_in_hash;
	u->node_count--;
	if (node->has_file)
		upper_bury(u, node->n);
	free_node(node);
}

/* ---- dents: a treap, ordered by (hash, name) ---- */

static int compare(uint64_t hash, const char *name, size_t len, const struct upper_dent *d)
{
	if (hash != d->hash)
		return hash < d->hash ? -1 : 1;
	int r = memcmp(name, d->name, len < d->name_len ? len : d->name_len);
	return r != 0 ? r : (int)len - (int)d->name_len;
}

struct upper_dent *upper_name(const struct upper_node *dir, const char *name, size_t len)
{
	struct upper_dent *d = dir->dents;

	if (!d)
		return NULL;
	uint64_t hash = inlay_name_hash(name, len);
	while (d) {
		int r = compare(hash, name, len, d);
		if (r == 0)
			break;
		d = r < 0 ? d->left : d->right;
	}
	return d;
}

struct upper_dent *upper_from_hash(const struct upper_node *dir, uint64_t hash)
{
	struct upper_dent *best = NULL;

	for (struct upper_dent *d = dir->dents; d;) {
		if (d->hash >= hash) {
			best = d;
			d = d->left;
		} else {
			d = d->right;
		}
	}
	return best;
}

struct upper_dent *upper_after(const struct upper_dent *d)
{
	struct upper_dent *best = NULL;

	for (struct upper_dent *at = d->parent->dents; at;) {
		if (compare(d->hash, d->name, d->name_len, at) < 0) {
			best = at;
			at = at->left;
		} else {
			at = at->right;
		}
	}
	return best;
}

struct upper_dent *upper_walk(const struct upper_node *top, struct upper_dent *d)
{
	if (!d)
		return upper_from_hash(top, 0);
	if (d->node && d->node->dents)
		return upper_from_hash(d->node, 0);
	for (;;) {
		struct upper_dent *next = upper_after(d);
		if (next || d->parent == top)
			return next;
		d = d->parent->in;
	}
}

static void insert(struct upper_node *dir, struct upper_dent *d)
{
	struct upper_dent **at = &dir->dents;

	while (*at && (*at)->rank >= d->rank)
		at = compare(d->hash, d->name, d->name_len, *at) < 0 ? &(*at)->left : &(*at)->right;
	struct upper_dent *t = *at, **left = &d->left, **right = &d->right;
	*at = d;
	while (t) {
		if (compare(d->hash, d->name, d->name_len, t) < 0) {
			*right = t;
			right = &t->left;
			t = t->left;
		} else {
			*left = t;
			left = &t->right;
			t = t->right;
		}
	}
	*left = *right = NULL;
}

static void take_out(struct upper_dent *d)
{
	struct upper_dent **at = &d->parent->dents, *a = d->left, *b = d->right;

	while (*at != d)
		at = compare(d->hash, d->name, d->name_len, *at) < 0 ? &(*at)->left : &(*at)->right;
	while (a && b) {
		if (a->rank >= b->rank) {
			*at = a;
			at = &a->right;
			a = a->right;
		} else {
			*at = b;
			at = &b->left;
			b = b->left;
		}
	}
	*at = a ? a : b;
}

/* ---- what a directory shows ---- */

bool upper_shows(const struct upper_dent *d, enum upper_below below)
{
	if (!d->node)
		return false;
	return upper_is_solid(d->node) || below == UPPER_BELOW_DIR;
}

/* How many directories the dent adds to those of the base. */
static int more_dirs(const struct upper_dent *d)
{
	bool below = d->below == UPPER_BELOW_DIR;
	bool shown = d->node && S_ISDIR(d->node->mode) && upper_shows(d, d->below);

	return (int)shown - (int)below;
}

void upper_set_below(struct upper_dent *d, enum upper_below below)
{
	d->parent->subdirs -= more_dirs(d);
	d->below = (uint8_t)below;
	d->parent->subdirs += more_dirs(d);
}

static bool is_solid(const struct upper_dent *d)
{
	return d->node && upper_is_solid(d->node);
}

/* A merged directory became solid, or is it no more: so may be those above. `in` had `dirs` before. */
static void change_solid(struct upper_node *node, int by)
{
	for (;;) {
		struct upper_dent *in = node->in;
		bool was = upper_is_solid(node);
		int dirs = in ? more_dirs(in) : 0;
		node->solid += (uint32_t)by;
		if (!in)
			return;
		in->parent->subdirs += more_dirs(in) - dirs;
		if (upper_is_solid(node) == was)
			return;
		node = in->parent;
	}
}

void upper_set_own_attr(struct upper_node *node, bool own)
{
	struct upper_dent *in = node->in;
	bool was = upper_is_solid(node);
	int dirs = in ? more_dirs(in) : 0;

	node->own_attr = own;
	if (!in)
		return;
	in->parent->subdirs += more_dirs(in) - dirs;
	if (upper_is_solid(node) != was)
		change_solid(in->parent, was ? -1 : 1);
}

/* ---- names ---- */

static void link_node(struct upper_dent *d, struct upper_node *node)
{
	d->node = node;
	if (!node)
		return;
	d->next_link = node->in;
	node->in = d;
	node->links++;
}

static void unlink_node(struct upper *u, struct upper_dent *d)
{
	struct upper_node *node = d->node;

	if (!node)
		return;
	struct upper_dent **at = &node->in;
	while (*at != d)
		at = &(*at)->next_link;
	*at = d->next_link;
	node->links--;
	d->node = NULL;
	d->next_link = NULL;
	if (node->links == 0)
		upper_note_nameless(u, node);
}

/* Changes what the dent names, with all that is counted. */
static void rename_dent(struct upper *u, struct upper_dent *d, struct upper_node *node)
{
	struct upper_node *dir = d->parent;
	bool was = is_solid(d);

	dir->subdirs -= more_dirs(d);
	unlink_node(u, d);
	link_node(d, node);
	dir->subdirs += more_dirs(d);
	if (is_solid(d) != was)
		change_solid(dir, was ? -1 : 1);
}

/* True when dir is the node, or lies below it. */
static bool is_within(const struct upper_node *dir, const struct upper_node *node)
{
	while (dir != node && dir->in)
		dir = dir->in->parent;
	return dir == node;
}

int upper_set_name(struct upper *u, struct upper_node *dir, const char *name, size_t len,
		   struct upper_node *node, struct inlay_error *err)
{
	struct upper_dent *d = upper_name(dir, name, len);

	if (node && (node->links >= UPPER_LINKS_MAX || node == u->root ||
		     (S_ISDIR(node->mode) && (node->links > 0 || is_within(dir, node)))))
		return inlay_error_set(err, -EBADMSG, "a name that cannot be");
	if (!d) {
		d = calloc(1, sizeof *d + len);
		if (!d)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		d->parent = dir;
		d->hash = inlay_name_hash(name, len);
		/* Not the hash's own order, or the tree would be a list. */
		d->rank = (uint32_t)((d->hash ^ dir->n) * 0xd6e8feb86659fd93ull >> 32);
		d->name_len = (uint8_t)len;
		memcpy(d->name, name, len);
		insert(dir, d);
		dir->count++;
		u->dent_count++;
	}
	rename_dent(u, d, node);
	return 0;
}

void upper_drop_name(struct upper *u, struct upper_dent *d)
{
	rename_dent(u, d, NULL);
	upper_set_below(d, UPPER_BELOW_NOTHING);
	d->parent->count--;
	u->dent_count--;
	take_out(d);
	free(d);
}

static void clear_dir(struct upper *u, struct upper_node *dir);

/* Ends the node when nobody knows it. */
static void end_if_unknown(struct upper *u, struct upper_node *node)
{
	if (node == u->root || node->links > 0)
		return;
	clear_dir(u, node);
	if (node->slot == 0)
		end_node(u, node);
}

/* All names below go, the deepest first, without recursion: users can make directories of any depth. */
static void clear_dir(struct upper *u, struct upper_node *top)
{
	struct upper_node *dir = top;

	while (top->dents) {
		while (dir->dents && dir->dents->node && dir->dents->node->dents)
			dir = dir->dents->node;
		struct upper_node *node = dir->dents->node;
		upper_drop_name(u, dir->dents);
		if (node && node->links == 0 && node->slot == 0)
			end_node(u, node);
		if (!dir->dents && dir != top)
			dir = dir->in->parent;
	}
}

void upper_note_nameless(struct upper *u, const struct upper_node *node)
{
	if (u->nameless_count == u->nameless_cap) {
		size_t cap = u->nameless_cap ? u->nameless_cap * 2 : 16;
		uint64_t *more = reallocarray(u->nameless, cap, sizeof *more);
		if (!more)
			return; /* it stays in memory until the end */
		u->nameless = more;
		u->nameless_cap = cap;
	}
	u->nameless[u->nameless_count++] = node->n;
}

void upper_settle_nameless(struct upper *u)
{
	/* Clearing a directory adds to the list. */
	for (size_t i = 0; i < u->nameless_count; i++) {
		struct upper_node *node = upper_find(u, u->nameless[i]);
		if (node)
			end_if_unknown(u, node);
	}
	u->nameless_count = 0;
}

void upper_forgotten(struct upper *u, struct upper_node *node)
{
	node->slot = 0;
	if (node->links == 0)
		upper_note_nameless(u, node);
}

int upper_add_orphan(struct upper *u, const struct upper_node *image, struct upper_node **ret,
		     struct inlay_error *err)
{
	struct upper_node *node = upper_add_node(u, image->n);

	if (!node)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (image->target) {
		node->target = strdup(image->target);
		if (!node->target) {
			end_node(u, node);
			return inlay_error_set(err, -ENOMEM, "out of memory");
		}
	}
	node->mode = image->mode;
	node->uid = image->uid;
	node->gid = image->gid;
	node->from = image->from;
	node->atime_ns = image->atime_ns;
	node->mtime_ns = image->mtime_ns;
	node->ctime_ns = image->ctime_ns;
	node->size = image->size;
	node->id = image->id;
	*ret = node;
	return 0;
}

const struct upper_xattr *upper_xattr(const struct upper_node *node, const char *name)
{
	const struct upper_xattr *x = node->xattrs;

	while (x && strcmp(x->name, name) != 0)
		x = x->next;
	return x;
}
