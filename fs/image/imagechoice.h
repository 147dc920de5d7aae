/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGECHOICE_H
#define IMAGE_IMAGECHOICE_H

/*
 * Which image of an archive, and what it consists of: index.json, manifest.json, manifests and
 * configurations, each checked against the digest and the size that named it.
 */

#include <jansson.h>
#include <stdbool.h>

#include "image/shelf.h"
#include "inlay/digest.h"
#include "inlay/image.h"

struct imagechoice_layer {
	char *member;               /* its name in the archive */
	bool described;             /* digest and size are known */
	struct inlay_digest digest; /* of the file as it lies there */
	uint64_t size;
	struct inlay_digest diff_id; /* of the tar that it unpacks to */
};

struct imagechoice {
	char *tag;                                   /* that the archive gives it; NULL = none */
	char platform[INLAY_IMAGE_PLATFORM_MAX + 1]; /* normalised; "" = it does not say */
	json_t *config;                              /* the OCI or docker configuration */
	struct imagechoice_layer *layers;
	size_t layer_count;
};

/* `platform` (normalised) and `tag` may be NULL. -ENOENT with a list when none or several fit. */
int imagechoice_make(struct shelf *s, const char *platform, const char *tag,
		     struct imagechoice *ret, struct inlay_error *err) inlay_must_check;
void imagechoice_fini(struct imagechoice *c);
INLAY_DEFINE_FINI(struct imagechoice, imagechoice_fini)

/* ---- between imagechoice.c and its two kinds of archives ---- */

/* Reads a configuration: platform, and `count` layers' diff_ids into c->layers. */
int imagechoice_take_config(struct imagechoice *c, json_t *config, struct inlay_error *err)
	inlay_must_check;
int imagechoice_add_layer(struct imagechoice *c, const char *member,
			  const struct inlay_digest *digest, uint64_t size, struct inlay_error *err)
	inlay_must_check;

/* docker-archive. */
int docker_choose(struct shelf *s, const char *tag, struct imagechoice *ret,
		  struct inlay_error *err) inlay_must_check;

#endif
