/* SPDX-License-Identifier: Apache-2.0 */
#include "image/plant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct planter {
	struct inlay_store *store;
	struct inlay_buf path; /* of the directory at hand */
	uint64_t *groups;      /* given away: a table by number */
	size_t group_count, group_slots;
};

static int by_name(const void *a, const void *b)
{
	const struct merge_node *x = *(struct merge_node *const *)a;
	const struct merge_node *y = *(struct merge_node *const *)b;
	size_t common = x->name_len < y->name_len ? x->name_len : y->name_len;
	int c = memcmp(x->name, y->name, common);

	return c ? c : (int)x->name_len - (int)y->name_len;
}

static int grow_groups(struct planter *p, struct inlay_error *err)
{
	size_t slots = p->group_slots ? 2 * p->group_slots : 256;
	uint64_t *groups = calloc(slots, sizeof *groups);

	if (!groups)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < p->group_slots; i++) {
		size_t at = (size_t)p->groups[i] % slots;
		if (!p->groups[i])
			continue;
		while (groups[at])
			at = (at + 1) % slots;
		groups[at] = p->groups[i];
	}
	free(p->groups);
	p->groups = groups;
	p->group_slots = slots;
	return 0;
}

/* Two groups never get one number, also when somebody looked for names that collide. */
static int give_group(struct planter *p, struct merge_inode *i, struct inlay_error *err)
{
	if (2 * p->group_count >= p->group_slots) {
		int r = grow_groups(p, err);
		if (r < 0)
			return r;
	}
	uint64_t number = inlay_xxh3(p->path.data, p->path.len) | 1;
	size_t at = (size_t)number % p->group_slots;
	while (p->groups[at]) {
		if (p->groups[at] == number) {
			number += 2;
			at = (size_t)number % p->group_slots;
		} else {
			at = (at + 1) % p->group_slots;
		}
	}
	p->groups[at] = number;
	p->group_count++;
	i->group = number;
	return 0;
}

static int put_tree(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		    struct inlay_error *err)
{
	(void)id;
	return inlay_store_put(ctx, bytes, len, NULL, err);
}

static int plant_dir(struct planter *p, const struct merge_node *dir, struct inlay_tree_built *ret,
		     struct inlay_error *err);

static int plant_node(struct planter *p, const struct merge_node *n, struct inlay_entry *e,
		      struct inlay_error *err)
{
	struct merge_inode *i = n->inode;
	struct inlay_tree_built built;

	*e = (struct inlay_entry){.name = n->name,
				  .name_len = n->name_len,
				  .mode = i->mode,
				  .mtime_ns = i->mtime_ns,
				  .uid = i->uid,
				  .gid = i->gid,
				  .xattrs = i->xattrs};
	if (S_ISDIR(i->mode)) {
		int r = plant_dir(p, n, &built, err);
		e->id = built.id;
		e->below = built.below;
		e->subdirs = built.subdirs;
		return r;
	}
	if (S_ISLNK(i->mode)) {
		e->target = i->target;
		e->target_len = i->target_len;
		e->size = i->target_len;
		return 0;
	}
	e->id = i->id;
	e->size = i->size;
	if (i->names > 1 && !i->group) {
		int r = give_group(p, i, err);
		if (r < 0)
			return r;
	}
	e->link_group = i->group;
	return 0;
}

static int add_child(struct planter *p, const struct merge_node *n, struct inlay_tree_builder *b,
		     struct inlay_error *err)
{
	size_t len = p->path.len;
	struct inlay_entry e;

	inlay_buf_u8(&p->path, '/');
	inlay_buf_add(&p->path, n->name, n->name_len);
	int r = inlay_buf_check(&p->path, err);
	if (r == 0)
		r = plant_node(p, n, &e, err);
	p->path.len = len;
	return r < 0 ? r : inlay_tree_builder_add(b, &e, err);
}

static int plant_dir(struct planter *p, const struct merge_node *dir, struct inlay_tree_built *ret,
		     struct inlay_error *err)
{
	__attribute__((
		cleanup(inlay_cleanup_inlay_tree_builder_fini))) struct inlay_tree_builder b = {0};
	auto_free const struct merge_node **sorted =
		reallocarray(NULL, dir->child_count + 1, sizeof(struct merge_node *));
	size_t count = 0;
	int r = 0;

	if (!sorted)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (const struct merge_node *n = dir->children; n; n = n->next)
		sorted[count++] = n;
	qsort(sorted, count, sizeof *sorted, by_name);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = add_child(p, sorted[i], &b, err);
	return r < 0 ? r : inlay_tree_build(&b, put_tree, p->store, ret, err);
}

int plant(struct merge *m, struct inlay_store *store, struct inlay_entry *ret,
	  struct inlay_error *err)
{
	struct planter p = {.store = store};
	int r = plant_node(&p, merge_root(m), ret, err);

	inlay_buf_fini(&p.path);
	free(p.groups);
	return r;
}
