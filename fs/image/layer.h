/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_LAYER_H
#define IMAGE_LAYER_H

/*
 * One layer: a tar whose entries go into the merged tree and whose contents go into the store while
 * it is read. Whiteouts are those of the OCI image specification.
 */

#include "image/feed.h"
#include "image/merge.h"
#include "inlay/image.h"
#include "inlay/store.h"

struct layer_reader {
	struct inlay_store *store;
	struct merge *merge;
	struct inlay_image_skipped skipped;
	uint64_t entries; /* of all layers so far */
	uint64_t content_bytes;
	uint32_t machines[2]; /* programs seen for x86-64, for aarch64 */
	uint8_t *small;       /* INLAY_STORE_LOOSE_MIN bytes */
};

int layer_reader_init(struct layer_reader *l, struct inlay_store *store, struct merge *m,
		      struct inlay_error *err) inlay_must_check;
void layer_reader_fini(struct layer_reader *l);
INLAY_DEFINE_FINI(struct layer_reader, layer_reader_fini)

/*
 * Applies what the feed gives; `bytes` is the layer's size in its file. trusted_end: somebody else
 * knows that it is whole (a digest), so that the blocks which end a tar may be missing. -EINVAL,
 * -EBADMSG, -E2BIG with the entry named.
 */
int layer_apply(struct layer_reader *l, struct feed *feed, uint64_t bytes, bool trusted_end,
		struct inlay_error *err) inlay_must_check;

#endif
