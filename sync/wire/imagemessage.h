/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_IMAGEMESSAGE_H
#define WIRE_IMAGEMESSAGE_H

/* The messages about base images, as bodies and rows of a REQUEST. As in message.h: pure, checked, borrowed. */

#include "wire/message.h"

/* An image on a target; a row of IMAGES. */
struct message_image {
	bool newest, whole, in_use;         /* as in struct inlay_imagetree_info */
	struct inlay_generation generation; /* with its origin: name, variant and platform */
};

/* The body of IMAGE_PUSH. */
struct message_image_push {
	struct inlay_digest manifest;
	struct inlay_digest basis; /* a manifest that the target has; zeros = none */
	bool squash, emulate;
	struct message_text origin; /* "name variant platform" */
	struct message_text owner;  /* who asks */
};

enum message_image_end {
	MESSAGE_IMAGE_DONE = 1,
	MESSAGE_IMAGE_LACKS = 2, /* ids: contents or trees that are missing */
	MESSAGE_IMAGE_REFUSED =
		3, /* ids: eight-byte prefixes of contents that are not to be built on */
};

/* The row of IMAGE_FINISH. */
struct message_image_done {
	uint8_t end; /* enum message_image_end */
	/* DONE */
	uint64_t number;
	bool changed;
	uint64_t entries, shared, written_bytes, xattrs;
	uint64_t laid_ns, sync_ns;
	/* otherwise */
	struct message_text ids;
};

MESSAGE_CODEC(image);
MESSAGE_CODEC(image_push);
MESSAGE_CODEC(image_done);

#endif
