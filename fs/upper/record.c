/* SPDX-License-Identifier: Apache-2.0 */
/* The assignments of the journal: bytes and back, and what they mean. docs/format.md has the bytes. */
#include <errno.h>
#include <stdlib.h>

#include "inlay/tree.h"
#include "upper/upper.h"

enum op { OP_NODE = 1, OP_NAME, OP_DROP, OP_XATTR, OP_SHOWN };

enum node_bits {
	BITS_FROM = 3, /* enum upper_from */
	BIT_OWN_ATTR = 1 << 2,
	BIT_EXACT_TIME = 1 << 3,
	BITS_NODE = 15,
};

void upper_txn_node(struct upper_txn *t, const struct upper_node *image)
{
	struct inlay_buf *b = &t->ops;

	inlay_buf_u8(b, OP_NODE);
	inlay_buf_varint(b, image->n);
	inlay_buf_u8(b, (uint8_t)(image->from | (image->own_attr ? BIT_OWN_ATTR : 0) |
				  (image->exact_time ? BIT_EXACT_TIME : 0)));
	inlay_buf_u32(b, image->mode);
	inlay_buf_u32(b, image->uid);
	inlay_buf_u32(b, image->gid);
	inlay_buf_u64(b, (uint64_t)image->atime_ns);
	inlay_buf_u64(b, (uint64_t)image->mtime_ns);
	inlay_buf_u64(b, (uint64_t)image->ctime_ns);
	if (S_ISLNK(image->mode))
		inlay_buf_string(b, image->target, strlen(image->target));
	if (image->from == UPPER_OBJECT) {
		inlay_buf_add(b, image->id.b, sizeof image->id.b);
		inlay_buf_varint(b, image->size);
	}
}

void upper_txn_name(struct upper_txn *t, uint64_t dir, const char *name, size_t len, uint64_t n,
		    bool quiet)
{
	inlay_buf_u8(&t->ops, OP_NAME);
	inlay_buf_varint(&t->ops, dir);
	inlay_buf_string(&t->ops, name, len);
	inlay_buf_varint(&t->ops, n);
	inlay_buf_u8(&t->ops, quiet);
}

void upper_txn_drop(struct upper_txn *t, uint64_t dir, const char *name, size_t len)
{
	inlay_buf_u8(&t->ops, OP_DROP);
	inlay_buf_varint(&t->ops, dir);
	inlay_buf_string(&t->ops, name, len);
}

void upper_txn_xattr(struct upper_txn *t, uint64_t n, const char *name, const void *value,
		     size_t len)
{
	inlay_buf_u8(&t->ops, OP_XATTR);
	inlay_buf_varint(&t->ops, n);
	inlay_buf_string(&t->ops, name, strlen(name));
	inlay_buf_u8(&t->ops, value != NULL);
	if (value)
		inlay_buf_string(&t->ops, value, len);
}

void upper_txn_shown(struct upper_txn *t, const struct inlay_digest *tree)
{
	inlay_buf_u8(&t->ops, OP_SHOWN);
	inlay_buf_add(&t->ops, tree->b, sizeof tree->b);
}

/* ---- what they mean ---- */

static int bad(struct inlay_error *err, const char *what)
{
	return inlay_error_set(err, -EBADMSG, "the upper's journal: %s", what);
}

static bool type_is_known(uint32_t mode, unsigned from)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return from <= UPPER_MERGED;
	case S_IFREG:
		return from <= UPPER_OBJECT;
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
		return from == UPPER_OWN;
	default:
		return false;
	}
}

static int set_target(struct upper_node *node, const uint8_t *target, size_t len,
		      struct inlay_error *err)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	memcpy(copy, target, len);
	copy[len] = 0;
	free(node->target);
	node->target = copy;
	return 0;
}

struct node_op {
	uint64_t n, size;
	uint8_t bits;
	uint32_t mode, uid, gid;
	int64_t atime, mtime, ctime;
	const uint8_t *target, *id;
	size_t target_len;
};

static bool decode_node(struct inlay_cursor *c, struct node_op *op)
{
	*op = (struct node_op){.n = inlay_cursor_varint(c)};
	op->bits = inlay_cursor_u8(c);
	op->mode = inlay_cursor_u32(c);
	op->uid = inlay_cursor_u32(c);
	op->gid = inlay_cursor_u32(c);
	op->atime = (int64_t)inlay_cursor_u64(c);
	op->mtime = (int64_t)inlay_cursor_u64(c);
	op->ctime = (int64_t)inlay_cursor_u64(c);
	if (S_ISLNK(op->mode))
		op->target = inlay_cursor_string(c, INLAY_LINK_MAX, &op->target_len);
	if ((op->bits & BITS_FROM) == UPPER_OBJECT) {
		op->id = inlay_cursor_bytes(c, sizeof(struct inlay_digest));
		op->size = inlay_cursor_varint(c);
	}
	return !c->failed && op->n > 0 && op->n < UINT64_MAX && !(op->bits & ~BITS_NODE) &&
	       !(op->mode & ~(uint32_t)(S_IFMT | 07777)) && op->size <= INLAY_OBJECT_MAX &&
	       type_is_known(op->mode, op->bits & BITS_FROM) &&
	       (!S_ISLNK(op->mode) ||
		(op->target_len > 0 && !memchr(op->target, 0, op->target_len)));
}

static int apply_node(struct upper *u, struct inlay_cursor *c, struct inlay_error *err)
{
	struct node_op op;

	if (!decode_node(c, &op))
		return bad(err, "a damaged node");
	struct upper_node *node = upper_find(u, op.n);
	/* What a node is does not change, and the root is where the synced tree is. */
	if ((node && node->mode && (node->mode & S_IFMT) != (op.mode & S_IFMT)) ||
	    (op.n == UPPER_ROOT && (op.bits & BITS_FROM) != UPPER_MERGED))
		return bad(err, "a node becomes another one");
	if (!node) {
		node = upper_add_node(u, op.n);
		if (!node)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		upper_note_nameless(u, node);
	}
	if (S_ISLNK(op.mode)) {
		int r = set_target(node, op.target, op.target_len, err);
		if (r < 0)
			return r;
		node->size = op.target_len;
	}
	node->mode = op.mode;
	node->uid = op.uid;
	node->gid = op.gid;
	node->atime_ns = op.atime;
	node->mtime_ns = op.mtime;
	node->ctime_ns = op.ctime;
	node->exact_time = op.bits & BIT_EXACT_TIME;
	/* It would count in another way where its name is: that is taken away before, and given anew behind. */
	if (node->links > 0 && (op.bits & BITS_FROM) != node->from && S_ISDIR(op.mode))
		return bad(err, "a directory that has a name changes its base");
	node->from = op.bits & BITS_FROM;
	upper_set_own_attr(node, op.bits & BIT_OWN_ATTR);
	if (op.id) {
		memcpy(node->id.b, op.id, sizeof node->id.b);
		node->size = op.size;
	} else if (S_ISREG(op.mode) && !node->has_file) {
		node->size = 0;
	}
	return 0;
}

static const char *dir_and_name(struct upper *u, struct inlay_cursor *c,
				struct upper_node **ret_dir, size_t *ret_len)
{
	uint64_t n = inlay_cursor_varint(c);
	const char *name = (const char *)inlay_cursor_string(c, INLAY_NAME_MAX, ret_len);

	*ret_dir = c->failed ? NULL : upper_find(u, n);
	if (!*ret_dir || !S_ISDIR((*ret_dir)->mode) || !inlay_name_valid(name, *ret_len))
		return NULL;
	return name;
}

static void touch_dir(struct upper_node *dir, int64_t time_ns)
{
	dir->mtime_ns = dir->ctime_ns = time_ns;
	dir->exact_time = false;
}

static int apply_name(struct upper *u, struct inlay_cursor *c, int64_t time_ns,
		      struct inlay_error *err)
{
	struct upper_node *dir, *node = NULL;
	size_t len;
	const char *name = dir_and_name(u, c, &dir, &len);
	uint64_t n = inlay_cursor_varint(c);
	uint8_t quiet = inlay_cursor_u8(c);

	if (!name || c->failed || quiet > 1)
		return bad(err, "a damaged name");
	if (n > 0) {
		node = upper_find(u, n);
		if (!node)
			return bad(err, "a name of nothing");
	}
	/* What had the name may live on under another one. */
	struct upper_dent *was = upper_name(dir, name, len);
	if (was && was->node && was->node != node && !quiet)
		was->node->ctime_ns = time_ns;
	int r = upper_set_name(u, dir, name, len, node, err);
	if (r < 0 || quiet)
		return r;
	touch_dir(dir, time_ns);
	if (node)
		node->ctime_ns = time_ns;
	return 0;
}

static int apply_drop(struct upper *u, struct inlay_cursor *c, int64_t time_ns,
		      struct inlay_error *err)
{
	struct upper_node *dir;
	size_t len;
	const char *name = dir_and_name(u, c, &dir, &len);
	struct upper_dent *d = name ? upper_name(dir, name, len) : NULL;

	if (!d)
		return bad(err, "a name goes that is not there");
	if (d->node)
		d->node->ctime_ns = time_ns;
	upper_drop_name(u, d);
	touch_dir(dir, time_ns);
	return 0;
}

static int set_xattr(struct upper_node *node, const char *name, size_t name_len,
		     const uint8_t *value, size_t len, struct inlay_error *err)
{
	struct upper_xattr **at = &node->xattrs, *old, *x;

	while (*at && ((*at)->name_len != name_len || memcmp((*at)->name, name, name_len) != 0))
		at = &(*at)->next;
	old = *at;
	if (!value) {
		if (old)
			*at = old->next;
		free(old);
		return 0;
	}
	x = malloc(sizeof *x + name_len + 1 + len);
	if (!x)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*x = (struct upper_xattr){
		.next = old ? old->next : NULL, .len = len, .name_len = (uint8_t)name_len};
	memcpy(x->name, name, name_len);
	x->name[name_len] = 0;
	memcpy(x->name + name_len + 1, value, len);
	*at = x;
	free(old);
	return 0;
}

static int apply_xattr(struct upper *u, struct inlay_cursor *c, int64_t time_ns,
		       struct inlay_error *err)
{
	struct upper_node *node = upper_find(u, inlay_cursor_varint(c));
	const uint8_t *value = NULL;
	size_t name_len, len = 0;
	const uint8_t *name = inlay_cursor_string(c, INLAY_XATTR_NAME_MAX, &name_len);
	uint8_t set = inlay_cursor_u8(c);

	if (set == 1)
		value = inlay_cursor_string(c, INLAY_XATTR_VALUE_MAX, &len);
	if (c->failed || !node || set > 1 || name_len == 0 || memchr(name, 0, name_len))
		return bad(err, "a damaged xattr");
	node->ctime_ns = time_ns;
	return set_xattr(node, (const char *)name, name_len, value, len, err);
}

static int apply_shown(struct upper *u, struct inlay_cursor *c, struct inlay_error *err)
{
	const uint8_t *id = inlay_cursor_bytes(c, sizeof u->shown.b);

	if (c->failed)
		return bad(err, "a damaged tree");
	memcpy(u->shown.b, id, sizeof u->shown.b);
	return 0;
}

int upper_apply(struct upper *u, const uint8_t *ops, size_t len, int64_t time_ns,
		struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(ops, len);
	int r = 0;

	while (r == 0 && c.left > 0) {
		switch (inlay_cursor_u8(&c)) {
		case OP_NODE:
			r = apply_node(u, &c, err);
			break;
		case OP_NAME:
			r = apply_name(u, &c, time_ns, err);
			break;
		case OP_DROP:
			r = apply_drop(u, &c, time_ns, err);
			break;
		case OP_XATTR:
			r = apply_xattr(u, &c, time_ns, err);
			break;
		case OP_SHOWN:
			r = apply_shown(u, &c, err);
			break;
		default:
			r = bad(err, "an unknown assignment");
		}
	}
	upper_settle_nameless(u);
	return r;
}
