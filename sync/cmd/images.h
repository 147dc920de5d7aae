/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_IMAGES_H
#define CMD_IMAGES_H

/* What the verbs of `inlay image` share. */

#include "cmd/cmd.h"
#include "cmd/print.h"
#include "inlay/image.h"

/* The dev side's images: <state>/images/store. */
struct images {
	int fd; /* <state>/images */
	struct inlay_store *store;
	struct inlay_trees *trees;
};

enum { IMAGES_NONE = 1 };

/* Positive: NONE (not for writing, and there are none). -EWOULDBLOCK when another inlay writes there. */
int images_open(struct images *im, const struct common *c, bool write, struct inlay_error *err)
	inlay_must_check;
void images_close(struct images *im);

/* The images with that name; "" for variant and platform means any. */
struct image_list {
	struct inlay_image *items; /* sorted by name, variant, platform */
	size_t count;
};
int images_find(struct images *im, const struct inlay_image_key *want, struct image_list *ret,
		struct inlay_error *err) inlay_must_check;

/* {"name", "variant", "platform", "manifest", ...} */
json_t *images_json(const struct inlay_image *image);
/* "robot (dev, linux/arm64)" */
void images_text(struct inlay_buf *b, const struct inlay_image *image);

/* What list prints of one, without the newline. */
void images_line(struct inlay_buf *b, const struct inlay_image *image);
/* What inspect prints: `j` (taken over) with the configuration of image.json. */
int images_print_inspected(const struct common *c, json_t *j, const struct inlay_buf *json,
			   struct inlay_error *err) inlay_must_check;
void images_print_removed(const struct common *c, size_t count, uint64_t freed_bytes);

/* ---- on hosts (imagehosts.c) ---- */

/* "user@host", an alias, "ssh://user@host:port" or "local". */
int images_host(const char *name, struct target *ret, struct inlay_error *err) inlay_must_check;
int images_list_on(const struct common *c, const char *host, const struct inlay_image_key *want,
		   struct inlay_error *err) inlay_must_check;
int images_inspect_on(const struct common *c, const char *host, const struct inlay_image_key *want,
		      struct inlay_error *err) inlay_must_check;
int images_remove_on(const struct common *c, const char *host, const struct inlay_image_key *want,
		     struct inlay_error *err) inlay_must_check;

int cmd_image_push(int argc, char **argv);
int cmd_image_import(int argc, char **argv);
int cmd_image_build(int argc, char **argv);

#endif
