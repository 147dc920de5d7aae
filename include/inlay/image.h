/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_IMAGE_H
#define INLAY_IMAGE_H

/*
 * Base images on the dev machine: archives become trees in a store, and refs say which tree an image
 * is. Import is linked into inlay only: a target never sees an archive (imagetree.h is its side).
 *
 * What is accepted: an OCI layout directory, the same as a tar (oci-archive), docker-archive (also that
 * of docker 25, which is both), a plain tar of a root filesystem or of a single layer; each plain or
 * packed with gzip or zstd, told by its bytes and never by its name.
 *
 * Parse, validate, merge in memory, then objects: no name in an archive ever reaches a call that opens
 * or makes something. Digests, diff_ids and sizes are checked before anything is visible. A refused
 * archive leaves the store's refs and objects as they were.
 *
 * An image is one tree with two entries (docs/format.md):
 *
 *     image.json   platform and configuration, in one canonical form
 *     root         the root directory
 *
 * so that its id, the *manifest*, changes exactly when something in the image does. The ref of an
 * (name, variant, platform) is a history of such trees; the generation's origin says which.
 *
 * Devices, pipes and sockets are not kept (counted), nor are attributes that overlayfs would take for
 * its own. Owners are numbers; times have nanoseconds; hard links keep their group.
 */

#include <stdbool.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/store.h"
#include "inlay/trees.h"

enum {
	INLAY_IMAGE_NAME_MAX = 128,    /* [A-Za-z0-9] and then also . _ / : @ - */
	INLAY_IMAGE_VARIANT_MAX = 32,  /* [A-Za-z0-9._-]*; usually empty, dev or prod */
	INLAY_IMAGE_PLATFORM_MAX = 64, /* os/architecture[/variant] */
	INLAY_IMAGE_KEEP = 3,          /* generations of an image */
};

struct inlay_image_key {
	char name[INLAY_IMAGE_NAME_MAX + 1];
	char variant[INLAY_IMAGE_VARIANT_MAX + 1];
	char platform[INLAY_IMAGE_PLATFORM_MAX + 1];
};

/* What an archive had and the tree does not. */
struct inlay_image_skipped {
	uint64_t devices;  /* character and block devices */
	uint64_t pipes;    /* and sockets */
	uint64_t acls;     /* entries whose access lists were written in tar's own form */
	uint64_t xattrs;   /* trusted.overlay.* */
	uint64_t metadata; /* .wh..wh.* of a storage driver */
};

struct inlay_image {
	struct inlay_image_key key;
	struct inlay_generation generation; /* its root.tree is the manifest */
};

/* Checks the three texts (variant and platform may be empty) and normalises the platform: x86_64 becomes
 * linux/amd64, aarch64 and linux/arm64/v8 become linux/arm64. -EINVAL. */
int inlay_image_key_make(const char *name, const char *variant, const char *platform,
			 struct inlay_image_key *ret, struct inlay_error *err) inlay_must_check;
/* "name variant platform", the origin of an image's generations. False when it is none. */
bool inlay_image_key_parse(const char *origin, struct inlay_image_key *ret);
void inlay_image_key_text(const struct inlay_image_key *key, char ret[static INLAY_ORIGIN_MAX + 1]);
/* This machine's, "linux/amd64". */
void inlay_image_host_platform(char ret[static INLAY_IMAGE_PLATFORM_MAX + 1]);

/* ---- import ---- */

struct inlay_image_import {
	const char *path;     /* of the archive */
	const char *name;     /* NULL: the archive's tag, or made from its file name */
	const char *variant;  /* NULL: none */
	const char *platform; /* NULL: the only one, or this machine's */
	const char *tag;      /* which image of an archive with several; NULL: the only one */
	const char *spool;    /* a directory for what has to be unpacked first; unnamed files */
};

struct inlay_image_imported {
	struct inlay_image image;
	bool changed; /* false: the ref has this tree already */
	struct inlay_image_skipped skipped;
	uint64_t layers, archive_entries;
	uint64_t content_bytes; /* of files, in all layers */
};

/* Publishes the image. The store is open for writing. */
int inlay_image_import(struct inlay_store *store, const struct inlay_image_import *o,
		       struct inlay_image_imported *ret, struct inlay_error *err) inlay_must_check;

/* The same without a ref: gives the tree alone. For unpacking. */
int inlay_image_read(struct inlay_store *store, const struct inlay_image_import *o,
		     struct inlay_image_imported *ret, struct inlay_error *err) inlay_must_check;

/* ---- what is there; these are linked into inlayd, too ---- */

/* Makes generation.root.tree, which is complete, the newest of its image, and gives the generation its number and
 * origin; unless it is that already. */
int inlay_image_publish(struct inlay_store *store, struct inlay_image *image, size_t keep,
			bool *ret_changed, struct inlay_error *err) inlay_must_check;

/* Calls fn for each image; stops when it gives a value other than 0 and returns that. */
int inlay_image_each(struct inlay_store *store,
		     int (*fn)(void *ctx, const struct inlay_image *image, struct inlay_error *err),
		     void *ctx, struct inlay_error *err) inlay_must_check;

enum { INLAY_IMAGE_MISSING = 1 };

/* The entry of the root directory and the text of image.json. MISSING: there is no such entry. */
int inlay_image_open(struct inlay_trees *trees, struct inlay_store *store,
		     const struct inlay_digest *manifest, struct inlay_entry *ret_root,
		     struct inlay_buf *ret_json, struct inlay_error *err) inlay_must_check;

/* Forgets the image; positive: MISSING. What no other needs is freed by inlay_image_gc(). */
int inlay_image_remove(struct inlay_store *store, const struct inlay_image_key *key,
		       struct inlay_error *err) inlay_must_check;

/* Frees every object that no image needs, however young: the caller holds the store's lock. */
int inlay_image_gc(struct inlay_store *store, struct inlay_store_sweep *ret,
		   struct inlay_error *err) inlay_must_check;

#endif
