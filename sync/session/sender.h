/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_SENDER_H
#define SESSION_SENDER_H

/*
 * Objects on their way to a target: files as they are read, directories as changes of directories that
 * the target has. What the target is known to have is not sent.
 */

#include "session/client.h"
#include "session/encoded.h"
#include "session/source.h"
#include "wire/objects.h"

/* How objects travelled. */
enum codec {
	CODEC_WHOLE, /* in one solid stream */
	CODEC_DELTA, /* against old content that both sides have */
	CODEC_PATCH, /* librsync, against old content that the target alone has */
	CODEC_TREES, /* directories, as changes */
	CODEC_KNOWN, /* not at all: the target had it */
	CODEC_COUNT
};

struct codec_count {
	uint64_t objects;
	uint64_t raw;  /* bytes of what the target has now */
	uint64_t wire; /* compressed bytes */
};

struct codecs {
	struct codec_count by[CODEC_COUNT];
};

void codecs_add(struct codecs *sum, const struct codecs *more);
/* "whole", "delta", ... */
const char *codec_name(enum codec c);

struct sender {
	struct source *source;
	struct client *client;
	struct objects_out out;
	const struct inlay_idset *known; /* ids that the target has; borrowed; may be NULL */
	struct codecs codecs;            /* of what was sent */
	enum codec codec;                /* of what is being sent */
	uint64_t large;                  /* size of the file in pieces at hand */
	uint64_t packed_before;          /* out.packed when it began */
	int level;                       /* zstd's, when it was given; 0 = by the link's speed */
	uint64_t rate;        /* bytes a second that the link took when it was full, at best */
	unsigned measured;    /* how often it was full */
	uint64_t whole_bytes; /* about what the solid stream carries */
	struct encoded *onto; /* there is no connection: the stream goes there */
	int interrupted;      /* what client.h's positive result stopped the sending; 0 = nothing */
	void (*moved)(void *ctx); /* after each piece; may be NULL */
	void *ctx;
};

/* Client and source outlive it. */
int sender_init(struct sender *s, struct source *source, struct client *client,
		struct inlay_error *err) inlay_must_check;
void sender_fini(struct sender *s);

/* A piece of the stream, on its way; waits when much piles up. */
int sender_pass(struct sender *s, const void *bytes, size_t len, struct inlay_error *err)
	inlay_must_check;

/* True when the object need not be sent: the target has it, or it was sent in this change set. */
bool sender_has(const struct sender *s, const struct inlay_digest *id);

/* Forgets the stream: the target dropped it, and begins anew with the next byte. */
int sender_restart(struct sender *s, struct inlay_error *err) inlay_must_check;

/* zstd's level for this link: what was given, or by how fast it takes bytes. */
int sender_level(const struct sender *s);

/* The files that follow, about so many bytes, travel whole. When the link turns out to be slow the level
 * rises on the way. */
int sender_whole(struct sender *s, uint64_t bytes, struct inlay_error *err) inlay_must_check;
/* They travel as differences to these old contents. */
int sender_delta(struct sender *s, const struct objects_frame *f, struct inlay_error *err)
	inlay_must_check;

/* As librsync's deltas: about so many bytes of files. */
int sender_patches(struct sender *s, uint64_t bytes, struct inlay_error *err) inlay_must_check;
/* A file that was sent not through the consumer. */
void sender_count(struct sender *s, uint64_t size);

/* A file that need not be sent, for the figures. */
void sender_count_known(struct sender *s, uint64_t size);

/* What comes from here on travels like that; the figures follow. */
int sender_codec(struct sender *s, enum codec codec, struct inlay_error *err) inlay_must_check;

/* What source_read and its like give their files to. `done` is not set. */
struct source_consumer sender_consumer(struct sender *s);

/* Sends the directory `after` and all below it that the target lacks; `before` (NULL = none) is the
 * directory at that place in the target's tree, whose trees are in the source's store. */
int sender_tree(struct sender *s, const struct inlay_digest *before,
		const struct inlay_digest *after, struct inlay_error *err) inlay_must_check;

/* Ends the change set's objects. */
int sender_end(struct sender *s, struct inlay_error *err) inlay_must_check;

#endif
