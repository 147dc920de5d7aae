/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGEREF_H
#define IMAGE_IMAGEREF_H

/* What the ref of an image is called. */

#include "inlay/image.h"

#define IMAGEREF_PREFIX "image-"
enum { IMAGEREF_NAME = 40 };

void imageref_name(const struct inlay_image_key *key, char ret[static IMAGEREF_NAME]);

#endif
