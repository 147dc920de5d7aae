/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGEJSON_H
#define IMAGE_IMAGEJSON_H

/* image.json: what a runtime needs to know of an image, in one canonical form. */

#include <jansson.h>

#include "inlay/bytes.h"
#include "inlay/error.h"

/* From an OCI or docker configuration (NULL: none) and a normalised platform. -EBADMSG when what the
 * runtime would use is not of its type. */
int imagejson_make(const json_t *config, const char *platform, struct inlay_buf *b,
		   struct inlay_error *err) inlay_must_check;

#endif
