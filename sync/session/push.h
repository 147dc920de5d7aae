/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_PUSH_H
#define SESSION_PUSH_H

/*
 * One change set, from a source folder to a target.
 *
 * When the target's state is known (it acknowledged a root whose trees are remembered), everything goes in
 * one flight: what changed, the changed directories, COMMIT. When it is not, the target is asked first: an empty
 * one gets files while they are read; otherwise what it has already is not sent.
 */

#include <stdbool.h>
#include <stdint.h>

#include "session/client.h"
#include "session/sender.h"
#include "session/source.h"

enum push_phase {
	PUSH_SCANNING,
	PUSH_READING, /* hashing what changed */
	PUSH_SENDING,
	PUSH_WAITING, /* for the target */
};

struct push_progress {
	enum push_phase phase;
	uint64_t files_done, files_total;
	uint64_t bytes_done, bytes_total;
	uint64_t sent_bytes;   /* on the connection, */
	uint64_t queued_bytes; /* and made from bytes_done, but not yet sent */
};

struct share;

struct push_options {
	bool force;      /* accept what would halt */
	bool dry_run;    /* tell what would be done */
	bool keep_extra; /* do not delete on the target what the source does not have */
	bool boot;       /* register the mount for the next boot */
	bool no_mount;
	bool steal; /* take the lock from whoever holds it */
	bool adopt; /* take over a folder that is there and no workspace yet */
	const struct message_config *config; /* of the workspace; NULL = as it is */
	int level;                           /* zstd; 0 = the default */
	struct share *share;  /* with other targets of the source; NULL = there are none */
	int64_t lock_wait_ns; /* for the target's lock */
	int64_t patience_ns;  /* how long an answer may take; 0 = the default, if any */
	struct message_text
		before;    /* what runs there before it is shown: see struct message_open */
	int64_t before_ns; /* the time that it has */
	/* What `before` says. May be NULL. */
	void (*hook)(void *ctx, const struct message_hook *m);
	void (*progress)(void *ctx, const struct push_progress *p); /* may be NULL; called often */
	/* Each change, when all is done (or would be). May be NULL. */
	void (*change)(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		       const struct inlay_entry *after);
	void *ctx;
};

struct push_result {
	uint64_t generation;
	struct inlay_root root;
	bool changed; /* a new generation was made */
	bool durable;
	bool changes_known; /* added, changed, removed count against what the target had */
	uint64_t added, modified, removed;   /* entries */
	uint64_t entries, bytes;             /* of the tree */
	uint64_t files_read, read_bytes;     /* that were hashed */
	uint64_t cache_hits;                 /* files whose hash was remembered */
	struct codecs codecs;                /* what travelled how */
	uint64_t sent_bytes, received_bytes; /* on the connection */
	uint64_t special, hardlinked;
	int64_t scan_ns, read_ns; /* walking the folder; hashing (and sending, of a fresh target) */
	int64_t visible_ns, total_ns; /* visible: from the start of sending to visible */
	char path[4096];              /* on the target, absolute */
	char mount_text[256];         /* why it is not mounted, or a warning */
	bool mounted;
	char aside[4096]; /* adopted: where what was there is now; "" = nothing was */
};

/* Locks are the caller's: `s` is open. */
int push(struct source *s, const struct target *t, const struct transport_options *transport,
	 uint64_t bwlimit, const struct push_options *o, struct push_result *ret,
	 struct inlay_error *err) inlay_must_check;

#endif
