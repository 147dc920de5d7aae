/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGEREF_H
#define IMAGE_IMAGEREF_H

/* What an image is called, as the name of a ref and as the origin of its generations. */

#include <stdbool.h>

#include "inlay/image.h"

#define IMAGEREF_PREFIX "image-"
enum { IMAGEREF_NAME = 40 };

void imageref_name(const struct inlay_image_key *key, char ret[static IMAGEREF_NAME]);
void imageref_origin(const struct inlay_image_key *key, char ret[static INLAY_ORIGIN_MAX + 1]);
/* False when an origin is not that of an image. */
bool imageref_parse(const char *origin, struct inlay_image_key *ret);

#endif
