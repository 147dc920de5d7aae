/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_SERVE_H
#define SESSION_SERVE_H

/* What the parts of the serving side share. */

#include <stdbool.h>

#include "delta/rdiff.h"
#include "inlay/host.h"
#include "wire/conn.h"
#include "wire/message.h"
#include "wire/objects.h"

/* One session. Belongs to its thread. */
struct serve {
	struct inlay_host *host;
	struct conn conn;
	bool greeted;               /* the peer's HELLO came */
	struct inlay_workspace *ws; /* after OPEN */
	bool locked;                /* we hold its lock */
	uint8_t open_flags;
	char origin[INLAY_ORIGIN_MAX + 1];
	char mount_text[256];            /* a warning about the mount */
	char aside[INLAY_HOST_PATH_MAX]; /* what was adopted is there now */
	struct inlay_buf before;         /* what OPEN said is to run before a change set */
	int durable_fd;                  /* eventfd: the workspace's durable generation moved */
	uint64_t told_durable, told_visible;
	bool told_failed;
	/* objects on their way */
	struct inlay_store *store; /* where trees go: the host's, or that of its images */
	struct inlay_trees *trees;
	struct inlay_imagepush *image; /* contents go into an image's tree (inlay/imagetree.h) */
	bool receiving;
	struct objects_in *objects;
	struct inlay_buf small;          /* a blob below INLAY_STORE_LOOSE_MIN */
	struct inlay_store_put *put;     /* a larger one */
	enum message_reason last_reason; /* of the FAILED that ends the session */
	/* A content that DATA builds on: what comes is dropped until COMMIT, which gets NAK. */
	bool refused;
	uint64_t taken;        /* objects that came before */
	struct inlay_buf lost; /* prefixes of the bases */
	/* a patch on its way */
	struct rdiff_patch *patch; /* NULL: it is let pass, nothing comes of it */
	struct inlay_digest patch_basis, patch_result;
};

/* Sends a message whose payload is in *b. */
int serve_send(struct serve *s, enum message_type type, const struct inlay_buf *b,
	       struct inlay_error *err) inlay_must_check;
/* Tells that something failed; the session goes on. */
int serve_failed(struct serve *s, enum message_reason reason, const struct inlay_error *cause,
		 struct inlay_error *err) inlay_must_check;

/* receive.c: one DATA payload. */
int serve_data(struct serve *s, const struct frame *f, struct inlay_error *err) inlay_must_check;
void serve_end_receiving(struct serve *s);
int serve_tree(void *s, const uint64_t *basis, struct objects_op *ops, size_t count,
	       struct inlay_tree_built *ret, struct inlay_error *err) inlay_must_check;
/* DATA builds on a content that is not here. */
int serve_content_gone(struct serve *s, uint64_t prefix, struct inlay_error *err) inlay_must_check;
/* The answer to a COMMIT whose DATA was refused. */
int serve_nak(struct serve *s, struct inlay_error *err) inlay_must_check;

/* requests.c */
int serve_request(struct serve *s, const struct frame *f, struct inlay_error *err) inlay_must_check;
/* Sends *b as a row of the answer and ends the buffer. */
int serve_row(struct serve *s, struct inlay_buf *b, struct inlay_error *err) inlay_must_check;

/* serveprograms.c: the requests about programs */
int serve_program_run(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;
int serve_program(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;
int serve_program_list(struct serve *s, struct inlay_error *err) inlay_must_check;
int serve_program_logs(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;

/* servehook.c */
int serve_hook(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;

/* serveimage.c */
int serve_image(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;
void serve_image_end(struct serve *s);
extern const struct objects_sink serve_image_sink;

/*
 * Runs what OPEN named, before a change set of which this is the tree is shown. SERVE_PUT_OFF: it did not go well,
 * *cause says how; the change set is not to be shown.
 */
enum { SERVE_PUT_OFF = 100 };
int serve_before(struct serve *s, const struct inlay_digest *tree, struct inlay_error *cause,
		 struct inlay_error *err) inlay_must_check;

/* servewritten.c: what was written on the target */
int serve_configure(struct serve *s, const struct message_config *m, struct inlay_error *err)
	inlay_must_check;
int serve_upper(struct serve *s, struct inlay_error *err) inlay_must_check;
int serve_reset(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;
int serve_pull(struct serve *s, const struct message_request *m, struct inlay_error *err)
	inlay_must_check;
/* Fills in what status tells of it; the texts are in *paths and *redirects. */
void serve_written_status(struct inlay_workspace *ws, const struct inlay_workspace_state *st,
			  struct message_status *m, struct inlay_buf *paths,
			  struct inlay_buf *redirects);

/* Mounts the workspace when OPEN asked for it; a failure is a text, not an error. */
void serve_mount(struct serve *s);

#endif
