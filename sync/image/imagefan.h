/* SPDX-License-Identifier: Apache-2.0 */
#ifndef IMAGE_IMAGEFAN_H
#define IMAGE_IMAGEFAN_H

/* A base image to many hosts at once: a thread for each, and one for each distinct stream (imagestream.h). */

#include "image/imagestream.h"
#include "inlay/image.h"
#include "session/client.h"

struct imagefan_options {
	struct inlay_store *store;
	struct inlay_trees *trees;
	int spool_fd;                     /* a directory on a disk */
	const struct inlay_image *images; /* the image, for one platform or for several */
	size_t image_count;
	bool emulate, squash;
	int64_t lock_wait_ns;
	uint64_t bwlimit;
};

enum imagefan_phase {
	IMAGEFAN_CONNECTING,
	IMAGEFAN_SENDING,
	IMAGEFAN_LAYING, /* the target makes the tree */
	IMAGEFAN_ENDED,
};

struct imagefan_host {
	const char *name; /* as the user gave it */
	struct transport_options transport;
	/* while it runs, for another thread */
	_Atomic int phase;
	_Atomic uint64_t sent;
	struct imagestream *_Atomic stream;
	/* the result */
	int result; /* 0 or negative, with err */
	struct inlay_error err;
	struct inlay_image image; /* which one it got */
	bool there;               /* it had it already: nothing was sent */
	uint64_t generation;      /* there */
	bool had_basis;
	bool shared_stream; /* it was encoded for another host */
	uint64_t objects;   /* contents that were sent */
	uint64_t entries, shared, written_bytes, xattrs;
	int64_t laid_ns, sync_ns, total_ns;
	uint64_t sent_bytes, received_bytes; /* on the connection */
	struct image_figures figures;        /* of all that was sent */
	unsigned rounds;
};

struct imagefan_watch {
	/* Some times a second; may be NULL. */
	void (*progress)(void *ctx, struct imagefan_host *hosts, size_t count);
	void (*ended)(void *ctx, const struct imagefan_host *host); /* as soon as one has */
	void *ctx;
};

/* Returns when all have ended. */
int imagefan(const struct imagefan_options *o, struct imagefan_host *hosts, size_t count,
	     const struct imagefan_watch *watch, struct inlay_error *err) inlay_must_check;

/* imagehost.c: one host, from connecting to the end; h->result tells. */
void imagehost_run(const struct imagefan_options *o, struct imagestreams *streams,
		   struct imagefan_host *h);

#endif
