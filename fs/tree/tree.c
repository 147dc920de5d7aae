/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/tree.h"

#include <errno.h>

#include "tree/encode.h"
#include "tree/layout.h"

bool inlay_name_valid(const char *name, size_t len)
{
	if (len == 0 || len > INLAY_NAME_MAX)
		return false;
	if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
		return false;
	return !memchr(name, '/', len) && !memchr(name, 0, len);
}

bool inlay_entry_same_content(const struct inlay_entry *a, const struct inlay_entry *b)
{
	if ((a->mode & S_IFMT) != (b->mode & S_IFMT))
		return false;
	if (S_ISLNK(a->mode))
		return a->target_len == b->target_len &&
		       memcmp(a->target, b->target, a->target_len) == 0;
	return inlay_digest_equal(&a->id, &b->id);
}

bool inlay_entry_equal(const struct inlay_entry *a, const struct inlay_entry *b)
{
	return a->mode == b->mode && a->mtime_ns == b->mtime_ns && a->uid == b->uid &&
	       a->gid == b->gid && a->link_group == b->link_group &&
	       inlay_digest_equal(&a->xattrs, &b->xattrs) && inlay_entry_same_content(a, b);
}

/* ---- decoding ---- */

static const uint8_t *record_at(const struct inlay_tree *t, uint32_t i)
{
	return t->bytes + INLAY_TREE_HEADER_BYTES + (size_t)i * INLAY_TREE_RECORD_BYTES;
}

static const uint8_t *heap_of(const struct inlay_tree *t)
{
	return record_at(t, t->count);
}

static void parse_extensions(struct inlay_cursor *c, struct inlay_entry *e)
{
	int last = 0;

	while (c->left > 0 && !c->failed) {
		uint8_t tag = inlay_cursor_u8(c);
		uint16_t len = inlay_cursor_u16(c);
		const uint8_t *body = inlay_cursor_bytes(c, len);
		struct inlay_cursor sub = inlay_cursor_of(body, body ? len : 0);
		if (!body || tag <= last)
			break;
		last = tag;
		switch (tag) {
		case TREE_EXT_TARGET:
			e->target = (const char *)inlay_cursor_bytes(&sub, len);
			e->target_len = len;
			break;
		case TREE_EXT_DIR:
			e->subdirs = inlay_cursor_u32(&sub);
			e->below.entries = inlay_cursor_u64(&sub);
			e->below.bytes = inlay_cursor_u64(&sub);
			break;
		case TREE_EXT_OWNER:
			e->uid = inlay_cursor_u32(&sub);
			e->gid = inlay_cursor_u32(&sub);
			break;
		case TREE_EXT_XATTRS: {
			const uint8_t *id = inlay_cursor_bytes(&sub, INLAY_DIGEST_BYTES);
			if (id)
				memcpy(e->xattrs.b, id, INLAY_DIGEST_BYTES);
			break;
		}
		case TREE_EXT_LINK_GROUP:
			e->link_group = inlay_cursor_u64(&sub);
			break;
		default:
			c->failed = true;
			return;
		}
		if (!inlay_cursor_done(&sub)) {
			c->failed = true;
			return;
		}
	}
	if (c->left > 0)
		c->failed = true;
}

/* The fields whose position is fixed. The caller knows that name and extensions lie in the heap. */
static void parse_record(const uint8_t *rec, const uint8_t *heap, struct inlay_entry *e)
{
	*e = (struct inlay_entry){0};
	memcpy(e->id.b, rec, INLAY_DIGEST_BYTES);
	e->size = inlay_get_le64(rec + 32);
	e->mtime_ns = (int64_t)inlay_get_le64(rec + 40);
	e->mode = inlay_get_le32(rec + 48);
	e->name = (const char *)heap + inlay_get_le32(rec + 52);
	e->name_len = rec[62];
}

void inlay_tree_entry(const struct inlay_tree *leaf, uint32_t i, struct inlay_entry *ret)
{
	const uint8_t *rec = record_at(leaf, i);

	parse_record(rec, heap_of(leaf), ret);
	struct inlay_cursor c =
		inlay_cursor_of(ret->name + ret->name_len, inlay_get_le16(rec + 60));
	parse_extensions(&c, ret);
}

static bool ext_is_canonical(const struct inlay_entry *e, size_t ext_len)
{
	size_t want = 0;

	if (S_ISLNK(e->mode))
		want += 3u + e->target_len;
	if (S_ISDIR(e->mode))
		want += 3 + 20;
	if (e->uid || e->gid)
		want += 3 + 8;
	if (!inlay_digest_is_zero(&e->xattrs))
		want += 3 + INLAY_DIGEST_BYTES;
	if (e->link_group)
		want += 3 + 8;
	return want == ext_len;
}

static const char *entry_flaw(const struct inlay_entry *e, size_t ext_len)
{
	if (!inlay_name_valid(e->name, e->name_len))
		return "a name that cannot be";
	if (e->mode & ~(uint32_t)(S_IFMT | 07777))
		return "unknown mode bits";
	if (!ext_is_canonical(e, ext_len))
		return "extensions that do not fit the entry";
	switch (e->mode & S_IFMT) {
	case S_IFREG:
		return e->size <= INLAY_OBJECT_MAX ? NULL : "a file that is too large";
	case S_IFDIR:
		return e->size == 0 && e->below.entries <= INLAY_ENTRIES_MAX ? NULL
									     : "a bad directory";
	case S_IFLNK:
		if (e->target_len == 0 || e->target_len > INLAY_LINK_MAX ||
		    e->size != e->target_len || memchr(e->target, 0, e->target_len) ||
		    !inlay_digest_is_zero(&e->id))
			return "a bad symlink";
		return NULL;
	default:
		return "an unknown type";
	}
}

static int name_order(uint64_t hash_a, const struct inlay_entry *a, uint64_t hash_b,
		      const struct inlay_entry *b)
{
	if (hash_a != hash_b)
		return hash_a < hash_b ? -1 : 1;
	size_t common = a->name_len < b->name_len ? a->name_len : b->name_len;
	int c = memcmp(a->name, b->name, common);
	return c ? c : (int)a->name_len - (int)b->name_len;
}

/* Adds what is below a directory to the sums; false when they overflow. */
static bool add_totals(struct inlay_tree_totals *sum, const struct inlay_tree_totals *more)
{
	return !__builtin_add_overflow(sum->entries, more->entries, &sum->entries) &&
	       !__builtin_add_overflow(sum->bytes, more->bytes, &sum->bytes);
}

static bool count_entry(struct inlay_tree_totals *sum, uint32_t *subdirs,
			const struct inlay_entry *e)
{
	struct inlay_tree_totals one = {.entries = 1};

	if (S_ISREG(e->mode))
		one.bytes = e->size;
	if (S_ISDIR(e->mode)) {
		++*subdirs;
		if (!add_totals(&one, &e->below))
			return false;
	}
	return add_totals(sum, &one);
}

static int check_leaf(const struct inlay_tree *t, size_t heap_bytes, struct inlay_error *err)
{
	struct inlay_tree_totals sum = {0};
	struct inlay_entry last = {0};
	uint64_t last_hash = 0;
	uint32_t subdirs = 0;
	size_t at = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		const uint8_t *rec = record_at(t, i);
		size_t ext_len = inlay_get_le16(rec + 60);
		if (inlay_get_le32(rec + 52) != at || heap_bytes - at < rec[62] + ext_len ||
		    rec[63])
			return inlay_error_set(err, -EBADMSG, "tree: entry %u lies outside", i);
		struct inlay_entry e;
		parse_record(rec, heap_of(t), &e);
		struct inlay_cursor c = inlay_cursor_of(e.name + e.name_len, ext_len);
		parse_extensions(&c, &e);
		const char *flaw = c.failed ? "bad extensions" : entry_flaw(&e, ext_len);
		if (flaw)
			return inlay_error_set(err, -EBADMSG, "tree: entry %u has %s", i, flaw);
		uint64_t hash = inlay_name_hash(e.name, e.name_len);
		if (hash >> 32 != inlay_get_le32(rec + 56) ||
		    (i > 0 && name_order(last_hash, &last, hash, &e) >= 0))
			return inlay_error_set(err, -EBADMSG, "tree: entry %u is out of order", i);
		if (!count_entry(&sum, &subdirs, &e))
			return inlay_error_set(err, -EBADMSG, "tree: sums overflow");
		at += rec[62] + ext_len;
		last = e;
		last_hash = hash;
	}
	if (at != heap_bytes || sum.entries != t->below.entries || sum.bytes != t->below.bytes ||
	    t->own != t->count || subdirs != t->subdirs)
		return inlay_error_set(err, -EBADMSG, "tree: sums do not fit");
	return 0;
}

static const uint8_t *bucket_at(const struct inlay_tree *t, uint32_t i)
{
	return t->bytes + INLAY_TREE_HEADER_BYTES + (size_t)i * INLAY_TREE_BUCKET_BYTES;
}

static int check_split(const struct inlay_tree *t, struct inlay_error *err)
{
	struct inlay_tree_totals sum = {0};
	uint64_t own = 0, subdirs = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		const uint8_t *b = bucket_at(t, i);
		struct inlay_digest id;
		struct inlay_tree_totals below = {inlay_get_le64(b + 40), inlay_get_le64(b + 48)};
		uint32_t bucket_own = inlay_get_le32(b + 32);
		uint32_t bucket_subdirs = inlay_get_le32(b + 36);
		memcpy(id.b, b, INLAY_DIGEST_BYTES);
		if (inlay_digest_is_zero(&id) != (bucket_own == 0) || bucket_subdirs > bucket_own ||
		    below.entries < bucket_own ||
		    (bucket_own == 0 && (below.entries || below.bytes)))
			return inlay_error_set(err, -EBADMSG, "tree: bucket %u is bad", i);
		own += bucket_own;
		subdirs += bucket_subdirs;
		if (!add_totals(&sum, &below))
			return inlay_error_set(err, -EBADMSG, "tree: sums overflow");
	}
	if (own != t->own || subdirs != t->subdirs || sum.entries != t->below.entries ||
	    sum.bytes != t->below.bytes)
		return inlay_error_set(err, -EBADMSG, "tree: sums do not fit");
	return 0;
}

/* The number of buckets follows from the number of entries alone, so that equal listings have equal
 * bytes whatever their history. */
uint8_t tree_split_bits(uint64_t count)
{
	uint8_t bits = 0;

	if (count <= INLAY_TREE_SPLIT)
		return 0;
	while (bits < INLAY_TREE_BITS_MAX && count >> bits > INLAY_TREE_BUCKET)
		bits++;
	return bits;
}

int inlay_tree_decode(const uint8_t *bytes, size_t len, struct inlay_tree *ret_tree,
		      struct inlay_error *err)
{
	struct inlay_tree t = {.bytes = bytes, .len = len};

	if (len < INLAY_TREE_HEADER_BYTES || len > INLAY_TREE_BYTES_MAX ||
	    memcmp(bytes, TREE_MAGIC, 4) != 0)
		return inlay_error_set(err, -EBADMSG, "not a tree object");
	if (bytes[4] > INLAY_TREE_VERSION || bytes[5] != INLAY_DIGEST_SHA256)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "tree of version %u, hash %u: this inlay knows version %u, "
				       "hash %u; update inlay",
				       bytes[4], bytes[5], INLAY_TREE_VERSION, INLAY_DIGEST_SHA256);
	if (bytes[4] == 0 || bytes[6] > 1)
		return inlay_error_set(err, -EBADMSG, "tree: bad header");
	t.split = bytes[6] == 1;
	t.bits = bytes[7];
	t.count = inlay_get_le32(bytes + 8);
	t.below =
		(struct inlay_tree_totals){inlay_get_le64(bytes + 16), inlay_get_le64(bytes + 24)};
	t.own = inlay_get_le32(bytes + 32);
	t.subdirs = inlay_get_le32(bytes + 36);
	size_t heap = inlay_get_le32(bytes + 12), body = len - INLAY_TREE_HEADER_BYTES;
	int r;
	if (t.split) {
		if (heap != 0 || t.bits == 0 || t.bits != tree_split_bits(t.own) ||
		    t.count != 1u << t.bits || body != (size_t)t.count * INLAY_TREE_BUCKET_BYTES)
			return inlay_error_set(err, -EBADMSG, "tree: bad split header");
		r = check_split(&t, err);
	} else {
		/* A leaf may be one bucket of a split directory: its bits say so only there. */
		if (t.bits != 0 || body / INLAY_TREE_RECORD_BYTES < t.count ||
		    body - (size_t)t.count * INLAY_TREE_RECORD_BYTES != heap)
			return inlay_error_set(err, -EBADMSG, "tree: bad leaf header");
		r = check_leaf(&t, heap, err);
	}
	if (r == 0)
		*ret_tree = t;
	return r;
}

/* ---- looking up ---- */

static uint64_t hash_at(const struct inlay_tree *leaf, uint32_t i)
{
	const uint8_t *rec = record_at(leaf, i);

	return inlay_xxh3(heap_of(leaf) + inlay_get_le32(rec + 52), rec[62]);
}

uint32_t inlay_tree_seek(const struct inlay_tree *leaf, uint64_t hash)
{
	uint32_t top = (uint32_t)(hash >> 32);
	uint32_t low = 0, high = leaf->count;

	/* The stored half of the hash decides nearly always; the whole one is computed for ties. */
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		uint32_t here = inlay_get_le32(record_at(leaf, mid) + 56);
		if (here < top || (here == top && hash_at(leaf, mid) < hash))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool inlay_tree_find(const struct inlay_tree *leaf, const char *name, size_t len,
		     struct inlay_entry *ret)
{
	uint64_t hash = inlay_name_hash(name, len);
	const uint8_t *heap = heap_of(leaf);

	for (uint32_t i = inlay_tree_seek(leaf, hash); i < leaf->count; i++) {
		const uint8_t *rec = record_at(leaf, i);
		const uint8_t *here = heap + inlay_get_le32(rec + 52);
		if (rec[62] == len && memcmp(here, name, len) == 0) {
			inlay_tree_entry(leaf, i, ret);
			return true;
		}
		if (inlay_xxh3(here, rec[62]) != hash)
			return false;
	}
	return false;
}

bool inlay_tree_bucket(const struct inlay_tree *split, uint32_t i, struct inlay_digest *ret_leaf)
{
	memcpy(ret_leaf->b, bucket_at(split, i), INLAY_DIGEST_BYTES);
	return !inlay_digest_is_zero(ret_leaf);
}
