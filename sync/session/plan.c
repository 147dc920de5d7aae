/* SPDX-License-Identifier: Apache-2.0 */
#include "session/plan.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"

struct maker {
	struct plan *p;
	enum plan_flags flags;
};

static int add_id(struct inlay_idset *set, const struct inlay_digest *id, struct inlay_error *err)
{
	int r = inlay_idset_add(set, id, err);

	return r < 0 ? r : 0;
}

static int add_file(struct plan *p, struct plan_file **files, size_t *n, size_t *cap,
		    const char *path, size_t len, const struct inlay_entry *e,
		    struct inlay_error *err)
{
	if (*n == *cap) {
		size_t more = *cap ? *cap * 2 : 64;
		struct plan_file *grown = reallocarray(*files, more, sizeof *grown);
		if (!grown)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		*files = grown;
		*cap = more;
	}
	if (p->paths.len > UINT32_MAX - INLAY_PATH_MAX)
		return inlay_error_set(err, -E2BIG, "more than 4 GiB of changed paths");
	(*files)[(*n)++] = (struct plan_file){.id = e->id,
					      .size = e->size,
					      .path = (uint32_t)p->paths.len,
					      .path_len = (uint32_t)len};
	inlay_buf_add(&p->paths, path, len);
	inlay_buf_u8(&p->paths, 0);
	return inlay_buf_check(&p->paths, err);
}

static int add_new(struct plan *p, const char *path, size_t len, const struct inlay_entry *before,
		   const struct inlay_entry *after, struct inlay_error *err)
{
	int r = add_file(p, &p->files, &p->file_count, &p->file_cap, path, len, after, err);

	if (r == 0 && before && S_ISREG(before->mode)) {
		p->files[p->file_count - 1].basis = before->id;
		p->files[p->file_count - 1].basis_size = before->size;
	}
	p->file_bytes += after->size;
	return r;
}

static void count(struct plan *p, const struct inlay_entry *before, const struct inlay_entry *after)
{
	if (!before)
		p->added++;
	else if (!after)
		p->removed++;
	/* A directory is changed by what is in it, unless its own mode is. */
	else if (!inlay_entry_is_dir(before) || !inlay_entry_is_dir(after) ||
		 before->mode != after->mode)
		p->modified++;
}

static int on_difference(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
			 const struct inlay_entry *after, struct inlay_error *err)
{
	struct maker *m = ctx;
	struct plan *p = m->p;
	bool new_content = after && (!before || !inlay_entry_same_content(before, after));
	int r = 0;

	count(p, before, after);
	if (new_content && S_ISREG(after->mode) && (m->flags & PLAN_FILES))
		r = add_new(p, path, len, before, after, err);
	if (r == 0 && new_content && !S_ISLNK(after->mode) && (m->flags & PLAN_NEEDED))
		r = add_id(&p->needed, &after->id, err);
	if (r == 0 && (m->flags & PLAN_GONE) && before && !S_ISLNK(before->mode) &&
	    (!after || !inlay_entry_same_content(before, after)))
		r = add_id(&p->gone, &before->id, err);
	if (r == 0 && (m->flags & PLAN_GONE) && before && !after && S_ISREG(before->mode))
		r = add_file(p, &p->lost, &p->lost_count, &p->lost_cap, path, len, before, err);
	return r;
}

static const char *extension(const char *path, size_t len)
{
	const char *slash = memrchr(path, '/', len);
	const char *name = slash ? slash + 1 : path;
	const char *dot = memrchr(name, '.', len - (size_t)(name - path));

	return dot && dot > name ? dot : path + len;
}

static int by_extension(const void *a, const void *b, void *ctx)
{
	const struct plan *p = ctx;
	const struct plan_file *x = a, *y = b;
	const char *px = plan_path(p, x), *py = plan_path(p, y);
	int c = strcmp(extension(px, x->path_len), extension(py, y->path_len));

	return c ? c : strcmp(px, py);
}

int plan_make(struct plan *p, struct source *s, const struct inlay_digest *base,
	      const struct inlay_digest *goal, enum plan_flags flags, struct inlay_error *err)
{
	struct maker m = {.p = p, .flags = flags};
	struct inlay_dir dir;

	*p = (struct plan){.against_base = base};
	int r = inlay_dir_open(s->trees, goal, &dir, err);
	if (r == 0) {
		p->entries = inlay_dir_tree(&dir)->below.entries;
		p->bytes = inlay_dir_tree(&dir)->below.bytes;
		inlay_dir_close(&dir);
		r = add_id(&p->needed, goal, err);
	}
	if (r == 0)
		r = inlay_tree_diff(s->trees, base, goal, on_difference, &m, err);
	if (r == INLAY_TREES_MISSING)
		r = inlay_error_set(err, -ESTALE, "a remembered tree is missing");
	if (r == 0 && p->file_count > 0)
		qsort_r(p->files, p->file_count, sizeof *p->files, by_extension, p);
	return r;
}

/* ---- renamed and edited ---- */

enum { RENAMED_PAIRS_MAX = 4 << 20 }; /* names that are compared at most, so that it costs little */

static const char *base_name(const struct plan *p, const struct plan_file *f, size_t *ret_len)
{
	const char *path = plan_path(p, f);
	const char *slash = memrchr(path, '/', f->path_len);
	const char *name = slash ? slash + 1 : path;

	*ret_len = f->path_len - (size_t)(name - path);
	return name;
}

/* How much two names look alike, 0..100: what their starts and their ends share. */
static size_t likeness(const char *a, size_t a_len, const char *b, size_t b_len)
{
	size_t min = a_len < b_len ? a_len : b_len, max = a_len < b_len ? b_len : a_len;
	size_t head = 0, tail = 0;

	while (head < min && a[head] == b[head])
		head++;
	while (head + tail < min && a[a_len - 1 - tail] == b[b_len - 1 - tail])
		tail++;
	return 100 * (head + tail) / (max ? max : 1);
}

/* Of equally good names the one whose size is nearer. */
static bool better(size_t score, size_t best, const struct plan_file *f, const struct plan_file *c,
		   const struct plan_file *other)
{
	if (score != best || !other)
		return score > best;
	uint64_t a = f->size > c->size ? f->size - c->size : c->size - f->size;
	uint64_t b = f->size > other->size ? f->size - other->size : other->size - f->size;
	return a < b;
}

static void match(struct plan *p, struct plan_file *f)
{
	enum { ALIKE = 50 }; /* below this it is another file */
	size_t best = ALIKE - 1, len, other_len;
	const struct plan_file *found = NULL;
	const char *name = base_name(p, f, &len);

	for (size_t i = 0; i < p->lost_count; i++) {
		const char *other = base_name(p, &p->lost[i], &other_len);
		size_t score = likeness(name, len, other, other_len);
		if (better(score, best, f, &p->lost[i], found)) {
			best = score;
			found = &p->lost[i];
		}
	}
	if (found) {
		f->basis = found->id;
		f->basis_size = found->size;
	}
}

void plan_match_renamed(struct plan *p)
{
	if (p->lost_count == 0 || p->file_count > RENAMED_PAIRS_MAX / p->lost_count)
		return;
	for (size_t i = 0; i < p->file_count; i++)
		if (inlay_digest_is_zero(&p->files[i].basis))
			match(p, &p->files[i]);
}

struct teller {
	plan_change_fn *change;
	void *ctx;
};

static int tell(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		const struct inlay_entry *after, struct inlay_error *err)
{
	struct teller *t = ctx;

	(void)err;
	t->change(t->ctx, path, len, before, after);
	return 0;
}

int plan_tell(struct source *s, const struct inlay_digest *base, const struct inlay_digest *goal,
	      plan_change_fn *change, void *ctx, struct inlay_error *err)
{
	struct teller t = {change, ctx};
	int r = inlay_tree_diff(s->trees, base, goal, tell, &t, err);

	return r == INLAY_TREES_MISSING
		       ? inlay_error_set(err, -ESTALE, "a remembered tree is missing")
		       : r;
}

void plan_fini(struct plan *p)
{
	free(p->files);
	free(p->lost);
	inlay_buf_fini(&p->paths);
	inlay_idset_fini(&p->needed);
	inlay_idset_fini(&p->gone);
	*p = (struct plan){0};
}

/* ---- remembered trees ---- */

static int see_tree(void *ctx, const struct inlay_digest *id, bool is_tree, uint64_t size,
		    struct inlay_error *err)
{
	(void)size;
	if (!is_tree)
		return 0;
	int r = inlay_idset_add(ctx, id, err);
	return r == INLAY_IDSET_THERE ? INLAY_TREES_NONE : r;
}

bool plan_has_tree(struct source *s, const struct inlay_digest *root)
{
	struct inlay_idset seen = {0};
	int r = inlay_tree_reach(s->trees, root, see_tree, NULL, &seen, NULL);

	inlay_idset_fini(&seen);
	return r == 0;
}

int plan_count(struct source *s, const struct inlay_digest *root, uint64_t *ret_entries,
	       struct inlay_error *err)
{
	struct inlay_dir dir;
	int r = inlay_dir_open(s->trees, root, &dir, err);

	if (r != 0)
		return r < 0 ? r : inlay_error_set(err, -ESTALE, "a remembered tree is missing");
	*ret_entries = inlay_dir_tree(&dir)->below.entries;
	inlay_dir_close(&dir);
	return 0;
}

/* ---- keeping what the source does not have ---- */

static int put_tree(void *ctx, const struct inlay_digest *id, const uint8_t *bytes, size_t len,
		    struct inlay_error *err)
{
	struct source *s = ctx;

	(void)id;
	return inlay_store_put(s->store, bytes, len, NULL, err);
}

struct merge {
	struct source *s;
	struct inlay_tree_op *ops;
	size_t count, cap;
	struct inlay_buf names; /* of ops; offsets are in entry.name until the end */
};

static int merge_dirs(struct source *s, const struct inlay_digest *base,
		      const struct inlay_digest *over, struct inlay_tree_built *ret,
		      struct inlay_error *err);

static int merge_entry(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		       struct inlay_error *err)
{
	struct merge *m = ctx;
	struct inlay_tree_built built;

	if (!after)
		return 0; /* only the base has it: it stays */
	if (m->count == m->cap) {
		size_t cap = m->cap ? m->cap * 2 : 16;
		struct inlay_tree_op *ops = reallocarray(m->ops, cap, sizeof *ops);
		if (!ops)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		m->ops = ops;
		m->cap = cap;
	}
	struct inlay_entry e = *after;
	if (before && inlay_entry_is_dir(before) && inlay_entry_is_dir(after)) {
		int r = merge_dirs(m->s, &before->id, &after->id, &built, err);
		if (r < 0)
			return r;
		e.id = built.id;
		e.below = built.below;
		e.subdirs = built.subdirs;
	}
	/* The listing goes on and takes its pointers with it. */
	e.name = (const char *)m->names.len;
	inlay_buf_add(&m->names, after->name, after->name_len);
	e.target = (const char *)m->names.len;
	inlay_buf_add(&m->names, after->target, after->target_len);
	m->ops[m->count++] = (struct inlay_tree_op){.entry = e};
	return inlay_buf_check(&m->names, err);
}

static int merge_dirs(struct source *s, const struct inlay_digest *base,
		      const struct inlay_digest *over, struct inlay_tree_built *ret,
		      struct inlay_error *err)
{
	struct merge m = {.s = s};
	int r = inlay_dir_diff(s->trees, base, over, merge_entry, &m, err);

	for (size_t i = 0; i < m.count; i++) {
		struct inlay_entry *e = &m.ops[i].entry;
		e->name = (const char *)m.names.data + (size_t)e->name;
		e->target = (const char *)m.names.data + (size_t)e->target;
	}
	if (r == 0)
		r = inlay_tree_edit(s->trees, base, m.ops, m.count, put_tree, s, ret, err);
	free(m.ops);
	inlay_buf_fini(&m.names);
	return r == INLAY_TREES_MISSING
		       ? inlay_error_set(err, -ESTALE, "a remembered tree is missing")
		       : r;
}

int plan_union(struct source *s, const struct inlay_digest *base, const struct inlay_root *over,
	       struct inlay_root *ret, struct inlay_error *err)
{
	struct inlay_tree_built built;
	int r = merge_dirs(s, base, &over->tree, &built, err);

	if (r < 0)
		return r;
	*ret = *over;
	ret->tree = built.id;
	return 0;
}

struct fetch {
	struct source *s;
	struct inlay_buf object;
};

static int fetch_row(void *ctx, const struct frame *f, struct inlay_error *err)
{
	struct fetch *t = ctx;

	if (f->len < 1 || f->payload[0] > 1 || t->object.len + f->len > INLAY_TREE_BYTES_MAX)
		return inlay_error_set(err, -EPROTO, "a bad tree from the target");
	inlay_buf_add(&t->object, f->payload + 1, f->len - 1);
	int r = inlay_buf_check(&t->object, err);
	if (r < 0 || f->payload[0])
		return r;
	/* Its id is computed here: the target cannot make us take one tree for another. */
	r = inlay_store_put(t->s->store, t->object.data, t->object.len, NULL, err);
	inlay_buf_clear(&t->object);
	return r;
}

int plan_fetch_trees(struct source *s, struct client *c, struct inlay_error *err)
{
	struct fetch t = {.s = s};
	struct message_request m = {.verb = MESSAGE_VERB_TREES};
	int r = client_request(c, &m, fetch_row, &t, err);

	inlay_buf_fini(&t.object);
	return r;
}
