/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_CONTAINER_H
#define INLAY_CONTAINER_H

/*
 * What a workspace runs in when it has a base image: a root of its own, and an OCI runtime that puts programs,
 * hooks and shells into it.
 *
 *     images/<manifest>/root        the image's tree, read-only, shared by all (imagetree.h)
 *     ws/<id>/root                  which image, and how things run in it: struct inlay_container_spec
 *     ws/<id>/root.before           the same before it was changed last
 *     ws/<id>/roots/<manifest>/m    the root: kernel overlayfs, with the workspace mounted at its own path inside
 *     ws/<id>/roots/<manifest>/upper, work   what was written to it beside the workspace
 *
 * Each version of the image has its own upper side: what was installed by hand into one does not shadow files
 * of the next, and going back finds it again. Only the present one and the one before are kept.
 *
 * The runtime gets `rslave`, so that a workspace which is mounted anew appears in containers that run.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/digest.h"
#include "inlay/error.h"

enum inlay_runtime {
	INLAY_RUNTIME_HOST = 0, /* no container: the root is there, but nothing runs in it */
	INLAY_RUNTIME_AUTO = 1, /* runc */
	INLAY_RUNTIME_RUNC = 2,
	INLAY_RUNTIME_PODMAN = 3, /* podman with runc, for programs; all else is runc's */
};

enum {
	INLAY_CONTAINER_USER_MAX = 256,
	INLAY_CONTAINER_NAME_MAX = 100, /* bytes of a container's name, with the NUL */
};

#define INLAY_CONTAINER_ROOTS  "roots"
#define INLAY_CONTAINER_NOW    "root"
#define INLAY_CONTAINER_BEFORE "root.before"

struct inlay_container_spec {
	struct inlay_digest image; /* the manifest */
	enum inlay_runtime runtime;
	char *user; /* "name", "1000", "name:group", ...: as in the image's own passwd; "" = root */
	char **env; /* "NAME=value": all that there is but for what a program adds */
	char **entrypoint; /* in front of each command, but for those of `inlay exec` into what runs */
};

/* Appends it encoded. */
void inlay_container_spec_encode(const struct inlay_container_spec *spec, struct inlay_buf *b);
/* Checks everything; -EBADMSG, -EPROTONOSUPPORT for a newer version. Ended with fini. */
int inlay_container_spec_decode(const void *bytes, size_t len, struct inlay_container_spec *ret,
				struct inlay_error *err) inlay_must_check;
void inlay_container_spec_fini(struct inlay_container_spec *spec);
INLAY_DEFINE_FINI(struct inlay_container_spec, inlay_container_spec_fini)

enum { INLAY_CONTAINER_NONE = 1 }; /* positive result: no root, or nothing runs in it */

/* Of the workspace whose directory ws/<id> this is. NONE: it has none. */
int inlay_container_read(int ws_fd, struct inlay_container_spec *ret, struct inlay_error *err)
	inlay_must_check;

/* "roots/<manifest>/m", relative to ws/<id>. */
void inlay_container_root(const struct inlay_digest *image, char *ret, size_t size);

/* The path of the program that runs containers. -ENOENT, with what cures it. */
int inlay_container_find(char *ret, size_t size, struct inlay_error *err) inlay_must_check;

/* Something that is run once, in a container that is there already or in one for this alone. */
struct inlay_contain {
	const char *ws_dir;    /* <state>/ws/<id>, absolute */
	const char *workspace; /* its path, here and inside */
	const char *program; /* in the container of this program, if it runs; NULL = in a new one */
	const char *name;    /* of a new one */
	const char *dir;     /* relative to the workspace, or absolute; "" = the workspace */
	const char *
		shows; /* a directory of ours that is seen inside under its own path, read-only; NULL */
	char *const *argv; /* NULL-terminated */
	char *const *env;  /* "NAME=value", over those of the spec; NULL-terminated */
	bool tty;
};

/* Waits for it; SIGTERM, SIGINT and SIGHUP are passed on. *ret_status as of waitpid. NONE: the workspace has no root
 * in which things run. */
int inlay_contain(const struct inlay_contain *o, int *ret_status, struct inlay_error *err)
	inlay_must_check;

#endif
