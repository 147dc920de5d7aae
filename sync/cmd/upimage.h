/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_UPIMAGE_H
#define CMD_UPIMAGE_H

/*
 * The base images of a project: built where they have a recipe, pushed to hosts that do not have them, and made the
 * root of their sites. Before anything is synced, so that builds and programs find what they run in.
 */

#include "cmd/cmd.h"
#include "project/raise.h"

/* What images run by themselves; sites borrow it. */
struct up_images {
	struct up_image *list;
	size_t count;
	struct up_images *next; /* of images that were built anew since */
};
void up_images_fini(struct up_images *images);
INLAY_DEFINE_FINI(struct up_images, up_images_fini)

/*
 * Sites for which it does not work are told about on standard error and taken out of up->sites, so that the others go
 * on; *ret_failed counts them. A negative errno when it works for none, or a build failed.
 */
int up_images(const struct common *c, struct up *up, struct up_images *ret, size_t *ret_failed,
	      struct inlay_error *err) inlay_must_check;

/* The image of one site once more, while `up` runs; others go on meanwhile. Adds to *images: by one thread at a time.
 * What goes wrong is told on standard error, too. */
int up_image_again(const struct common *c, const struct up *up, struct site *p,
		   struct up_images *images, struct inlay_error *err) inlay_must_check;

#endif
