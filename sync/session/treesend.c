/* SPDX-License-Identifier: Apache-2.0 */
#include "session/treesend.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/cleanup.h"

/* Names and targets of a directory's ops: they must outlive the listing that they come from. */
struct names {
	struct block {
		struct block *next;
		size_t used, size;
		char bytes[];
	} * blocks;
};

static char *keep(struct names *names, const char *bytes, size_t len)
{
	struct block *b = names->blocks;

	if (!b || b->size - b->used < len) {
		size_t size = len > 8192 ? len : 8192;
		b = malloc(sizeof *b + size);
		if (!b)
			return NULL;
		*b = (struct block){.next = names->blocks, .size = size};
		names->blocks = b;
	}
	char *p = b->bytes + b->used;
	memcpy(p, bytes, len);
	b->used += len;
	return p;
}

static void names_fini(struct names *names)
{
	for (struct block *b = names->blocks, *next; b; b = next) {
		next = b->next;
		free(b);
	}
}

struct changes {
	const struct treesend *t;
	struct names names;
	struct objects_op *ops;
	size_t count, cap;
	bool against_basis;
};

static uint8_t inherited(const struct inlay_entry *before, const struct inlay_entry *after)
{
	uint8_t bits = 0;

	if (!before || (before->mode & S_IFMT) != (after->mode & S_IFMT))
		return 0;
	if (inlay_entry_same_content(before, after))
		bits |= OBJECTS_SAME_CONTENT;
	if (before->mtime_ns == after->mtime_ns)
		bits |= OBJECTS_SAME_MTIME;
	if (before->mode == after->mode)
		bits |= OBJECTS_SAME_MODE;
	return bits;
}

static int add_op(struct changes *c, const struct inlay_entry *before,
		  const struct inlay_entry *after, struct inlay_error *err)
{
	if (c->count == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 16;
		struct objects_op *ops = reallocarray(c->ops, cap, sizeof *ops);
		if (!ops)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		c->ops = ops;
		c->cap = cap;
	}
	struct objects_op op = {.entry = after ? *after : *before, .remove = !after};
	if (after && c->against_basis)
		op.inherit = inherited(before, after);
	op.entry.name = keep(&c->names, op.entry.name, op.entry.name_len);
	if (op.entry.target_len)
		op.entry.target = keep(&c->names, op.entry.target, op.entry.target_len);
	if (!op.entry.name || (op.entry.target_len && !op.entry.target))
		return inlay_error_set(err, -ENOMEM, "out of memory");
	c->ops[c->count++] = op;
	return 0;
}

static int on_change(void *ctx, const struct inlay_entry *before, const struct inlay_entry *after,
		     struct inlay_error *err)
{
	struct changes *c = ctx;
	int r = 0;

	if (after && inlay_entry_is_dir(after))
		r = treesend(c->t, before && inlay_entry_is_dir(before) ? &before->id : NULL,
			     &after->id, err);
	return r == 0 ? add_op(c, before, after, err) : r;
}

int treesend(const struct treesend *t, const struct inlay_digest *before,
	     const struct inlay_digest *after, struct inlay_error *err)
{
	struct changes c = {.t = t, .against_basis = before};

	if (t->has(t->ctx, after) || (before && inlay_digest_equal(before, after)))
		return 0;
	int r = t->begin ? t->begin(t->ctx, err) : 0;
	if (r == 0)
		r = inlay_dir_diff(t->trees, before, after, on_change, &c, err);
	uint64_t raw = t->out->raw;
	if (r == 0)
		r = objects_out_tree(t->out, before, c.ops, c.count, after, err);
	t->sent(t->ctx, t->out->raw - raw);
	free(c.ops);
	names_fini(&c.names);
	return r == INLAY_TREES_MISSING
		       ? inlay_error_set(err, -ESTALE, "a remembered tree is missing")
		       : r;
}
