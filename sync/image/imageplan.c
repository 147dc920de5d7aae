/* SPDX-License-Identifier: Apache-2.0 */
#include "image/imageplan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "inlay/limits.h"

enum { BLOCK_BYTES = 4096 };

/* A file of the basis. */
struct old {
	struct inlay_digest id;
	uint64_t size;
};

/* Files of the basis by what their path becomes. */
struct alike {
	uint64_t key; /* XXH3 of it */
	size_t file;
};

struct likes {
	struct alike *list;
	size_t count, cap;
};

struct planner {
	struct inlay_store *store;
	struct imageplan *plan;
	struct inlay_idset known; /* contents that the basis has, and those planned */
	struct inlay_idset groups;
	struct old *olds;
	size_t old_count, old_cap;
	struct likes paths, libraries;
};

void imageplan_fini(struct imageplan *p)
{
	free(p->items);
	inlay_buf_fini(&p->paths);
	*p = (struct imageplan){0};
}

static void planner_fini(struct planner *p)
{
	inlay_idset_fini(&p->known);
	inlay_idset_fini(&p->groups);
	free(p->olds);
	free(p->paths.list);
	free(p->libraries.list);
}

/* Room for one more in an array. */
static int grow(void *array, size_t count, size_t *cap, size_t size, struct inlay_error *err)
{
	void **p = array;

	if (count < *cap)
		return 0;
	size_t more = *cap ? 2 * *cap : 1024;
	void *grown = reallocarray(*p, more, size);
	if (!grown)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*p = grown;
	*cap = more;
	return 0;
}

/* ---- what is like what ---- */

static uint64_t key_without_digits(const char *text, size_t len)
{
	auto_buf struct inlay_buf b = {0};

	for (size_t i = 0; i < len; i++)
		if (text[i] < '0' || text[i] > '9')
			inlay_buf_u8(&b, (uint8_t)text[i]);
	return inlay_xxh3(b.data, b.len);
}

/* The part of a path that names a shared library; 0 = none does. */
static size_t library_name(const char *path, size_t len, const char **ret)
{
	const char *slash = memrchr(path, '/', len);

	*ret = slash ? slash + 1 : path;
	size_t n = len - (size_t)(*ret - path);
	return memmem(*ret, n, ".so", 3) ? n : 0;
}

static int add_alike(struct likes *l, const char *text, size_t len, size_t file,
		     struct inlay_error *err)
{
	int r = grow(&l->list, l->count, &l->cap, sizeof *l->list, err);

	if (r == 0)
		l->list[l->count++] = (struct alike){key_without_digits(text, len), file};
	return r;
}

static int by_key(const void *a, const void *b)
{
	const struct alike *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->file < y->file ? -1 : x->file > y->file;
}

static uint64_t apart(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* The one whose size is nearest; NULL when there is none. */
static const struct old *find_alike(const struct planner *p, const struct likes *l,
				    const char *text, size_t len, uint64_t size)
{
	uint64_t key = key_without_digits(text, len);
	const struct old *best = NULL;
	size_t low = 0, high = l->count;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (l->list[mid].key < key)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < l->count && l->list[low].key == key; low++) {
		const struct old *o = &p->olds[l->list[low].file];
		if (!best || apart(o->size, size) < apart(best->size, size))
			best = o;
	}
	return best;
}

/* ---- the basis ---- */

static int see_old(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		   const struct inlay_entry *e, struct inlay_error *err)
{
	struct planner *p = ctx;
	const char *name;

	(void)before;
	int r = inlay_digest_is_zero(&e->xattrs) ? 0 : inlay_idset_add(&p->known, &e->xattrs, err);
	if (r < 0 || !S_ISREG(e->mode))
		return r < 0 ? r : 0;
	r = inlay_idset_add(&p->known, &e->id, err);
	if (r >= 0)
		r = grow(&p->olds, p->old_count, &p->old_cap, sizeof *p->olds, err);
	if (r < 0)
		return r;
	p->olds[p->old_count] = (struct old){e->id, e->size};
	r = add_alike(&p->paths, path, len, p->old_count, err);
	size_t n = library_name(path, len, &name);
	if (r == 0 && n > 0)
		r = add_alike(&p->libraries, name, n, p->old_count, err);
	p->old_count++;
	return r;
}

/* ---- what is new ---- */

static int add_item(struct planner *p, const struct inlay_digest *id, uint64_t size,
		    const char *path, size_t len, struct imageplan_item **ret,
		    struct inlay_error *err)
{
	struct imageplan *plan = p->plan;
	int r = inlay_idset_add(&p->known, id, err);

	*ret = NULL;
	if (r != 0)
		return r < 0 ? r : 0;
	r = grow(&plan->items, plan->count, &plan->cap, sizeof *plan->items, err);
	if (r < 0)
		return r;
	*ret = &plan->items[plan->count++];
	**ret = (struct imageplan_item){.id = *id, .size = size, .path = plan->paths.len};
	inlay_buf_add(&plan->paths, path, len);
	inlay_buf_u8(&plan->paths, 0);
	plan->content_bytes += size;
	return inlay_buf_check(&plan->paths, err);
}

static void choose_basis(struct planner *p, struct imageplan_item *item, const char *path,
			 size_t len, const struct inlay_entry *before)
{
	struct old same = {.size = before ? before->size : 0};
	const struct old *o = before && S_ISREG(before->mode) ? &same : NULL;
	const char *name;
	size_t n = library_name(path, len, &name);

	if (o)
		same.id = before->id;
	if (!o)
		o = find_alike(p, &p->paths, path, len, item->size);
	if (!o && n > 0)
		o = find_alike(p, &p->libraries, name, n, item->size);
	if (!o || o->size == 0 || o->size + item->size > INLAY_DELTA_MAX ||
	    !inlay_store_has(p->store, &o->id))
		return;
	item->basis = o->id;
	item->basis_size = o->size;
}

/* What a target writes for an entry that is not the same in everything. */
static int count_written(struct planner *p, const struct inlay_entry *e, struct inlay_error *err)
{
	struct inlay_digest group = {0};

	if (e->link_group) {
		memcpy(group.b, &e->link_group, sizeof e->link_group);
		int r = inlay_idset_add(&p->groups, &group, err);
		if (r != 0)
			return r < 0 ? r : 0;
	}
	p->plan->files++;
	p->plan->bytes += (e->size + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
	return 0;
}

static int see_new(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		   const struct inlay_entry *e, struct inlay_error *err)
{
	struct planner *p = ctx;
	struct imageplan_item *item;
	uint64_t size;
	int r = 0;

	if (!e || inlay_entry_is_dir(e))
		r = 0;
	else
		r = count_written(p, e, err);
	if (r == 0 && e && !inlay_digest_is_zero(&e->xattrs) &&
	    inlay_store_stat(p->store, &e->xattrs, &size) == 0)
		r = add_item(p, &e->xattrs, size, path, len, &item, err);
	if (r < 0 || !e || !S_ISREG(e->mode))
		return r;
	r = add_item(p, &e->id, e->size, path, len, &item, err);
	if (r == 0 && item)
		choose_basis(p, item, path, len, before);
	return r;
}

/* Every directory is made anew, whatever is in it. */
static int count_dirs(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		      const struct inlay_entry *e, struct inlay_error *err)
{
	struct imageplan *plan = ctx;

	(void)path;
	(void)len;
	(void)before;
	(void)err;
	if (inlay_entry_is_dir(e)) {
		plan->files++;
		plan->bytes += BLOCK_BYTES;
	}
	return 0;
}

static int by_path(const void *a, const void *b, void *paths)
{
	const struct imageplan_item *x = a, *y = b;

	return strcmp((const char *)paths + x->path, (const char *)paths + y->path);
}

static int plan_it(struct planner *p, struct inlay_trees *trees, const struct inlay_digest *basis,
		   struct inlay_error *err)
{
	struct imageplan *plan = p->plan;
	int r = basis ? inlay_tree_diff(trees, NULL, basis, see_old, p, err) : 0;

	if (r != 0)
		return r < 0 ? r : IMAGEPLAN_MISSING;
	if (p->paths.count > 0)
		qsort(p->paths.list, p->paths.count, sizeof *p->paths.list, by_key);
	if (p->libraries.count > 0)
		qsort(p->libraries.list, p->libraries.count, sizeof *p->libraries.list, by_key);
	r = inlay_tree_diff(trees, basis, &plan->manifest, see_new, p, err);
	if (r == 0)
		r = inlay_tree_diff(trees, NULL, &plan->manifest, count_dirs, plan, err);
	if (r > 0)
		return basis ? IMAGEPLAN_MISSING
			     : inlay_error_set(err, -EBADMSG, "the image's tree is not complete");
	if (r == 0 && plan->count > 0)
		qsort_r(plan->items, plan->count, sizeof *plan->items, by_path, plan->paths.data);
	return r;
}

int imageplan_make(struct inlay_store *store, struct inlay_trees *trees,
		   const struct inlay_digest *manifest, const struct inlay_digest *basis,
		   struct imageplan *ret, struct inlay_error *err)
{
	struct imageplan plan = {.manifest = *manifest};
	struct planner p = {.store = store, .plan = &plan};

	if (basis)
		plan.basis = *basis;
	int r = plan_it(&p, trees, basis, err);
	planner_fini(&p);
	if (r == 0)
		*ret = plan;
	else
		imageplan_fini(&plan);
	return r;
}

int imageplan_of_ids(struct inlay_store *store, const struct inlay_idset *ids,
		     const struct inlay_digest *manifest, struct imageplan *ret,
		     struct inlay_error *err)
{
	struct imageplan plan = {.manifest = *manifest};
	struct planner p = {.store = store, .plan = &plan};
	struct imageplan_item *item;
	uint64_t size;
	int r = 0;

	for (size_t i = 0; r == 0 && i < ids->count; i++) {
		if (inlay_store_stat(store, &ids->members[i], &size) != 0)
			r = inlay_error_set(err, -ESTALE,
					    "the target lacks what the image here lacks, too; "
					    "import or build it again");
		else
			r = add_item(&p, &ids->members[i], size, "", 0, &item, err);
	}
	planner_fini(&p);
	if (r == 0)
		*ret = plan;
	else
		imageplan_fini(&plan);
	return r;
}
