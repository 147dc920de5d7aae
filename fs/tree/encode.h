/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TREE_ENCODE_H
#define TREE_ENCODE_H

/* The parts of building a directory that building anew and editing share. */

#include "inlay/tree.h"

/* log2 of the number of buckets of a directory with that many entries; 0 = one leaf. */
uint8_t tree_split_bits(uint64_t count);

static inline size_t tree_split_bytes(uint8_t bits)
{
	return INLAY_TREE_HEADER_BYTES + ((size_t)INLAY_TREE_BUCKET_BYTES << bits);
}

/* Name, type, mode, size and target are within the limits. */
bool tree_entry_can_stand(const struct inlay_entry *e);

struct tree_sorted {
	uint64_t hash; /* of the entry's name */
	const struct inlay_entry *entry;
};

/* For qsort of struct tree_sorted. */
int tree_by_hash_and_name(const void *a, const void *b);

struct tree_encoder {
	inlay_tree_put_fn *put; /* may be NULL */
	void *ctx;
	struct inlay_buf bytes; /* the object at hand */
	struct inlay_buf heap;  /* leaf: its heap */
};

void tree_encoder_fini(struct tree_encoder *enc);

/* Encodes sorted entries as one leaf and puts it. */
int tree_encode_leaf(struct tree_encoder *enc, const struct tree_sorted *s, size_t count,
		     struct inlay_tree_built *ret, struct inlay_error *err);

/* A split node under construction: tree_split_bytes(bits) zeroed bytes, then a set for each bucket with
 * `own` entries, then the encoding, which writes the header and puts it. */
void tree_set_bucket(uint8_t *node, uint32_t i, const struct inlay_tree_built *leaf, size_t own);
int tree_encode_split(struct tree_encoder *enc, uint8_t *node, uint8_t bits,
		      struct inlay_tree_built *ret, struct inlay_error *err);

#endif
