/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGEENCODE_H
#define IMAGE_IMAGEENCODE_H

/*
 * A plan as an object stream: contents with an old one as differences to it, a frame for a few of them; the rest in
 * one stream in the order of their paths; then the directories, as changes of those that the basis has.
 */

#include <stdatomic.h>

#include "image/imageplan.h"

enum image_way { IMAGE_PATCHED, IMAGE_WHOLE, IMAGE_TREES, IMAGE_WAYS };

/* "patched", ... */
const char *image_way_name(enum image_way way);

struct image_figures {
	struct {
		uint64_t objects, raw, wire;
	} by[IMAGE_WAYS];
};

struct imageencode {
	struct inlay_store *store;
	struct inlay_trees *trees;
	const struct imageplan *plan;
	const uint8_t *had; /* a bit for each item that is not sent; NULL = none */
	bool no_trees;
	int (*emit)(void *ctx, const void *bytes, size_t len, struct inlay_error *err);
	void *ctx;
	_Atomic uint64_t done; /* bytes of contents that were read, for another thread */
	struct image_figures figures;
};

static inline bool imageencode_skips(const uint8_t *had, size_t i)
{
	return had && (had[i / 8] >> i % 8 & 1);
}

int imageencode(struct imageencode *e, struct inlay_error *err) inlay_must_check;

#endif
