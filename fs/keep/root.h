/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_ROOT_H
#define KEEP_ROOT_H

/*
 * The roots of a workspace (inlay/container.h): kernel overlays on the trees of images, with the workspace mounted
 * inside at its own path. All with ws->change held.
 */

#include "keep/host.h"

/* Mounts the root, if the workspace has one, and the workspace in it, if that is mounted; harmless when both are. In
 * place of a mount that died without a moment of nothing. Why it did not work is told in state.mount_text and the
 * log. */
void workspace_enter_root(struct inlay_workspace *ws);
/* Before an unmount: takes the workspace out of its roots, and the roots away. -EBUSY when a program runs in one and
 * it is not lazy. */
int workspace_leave_root(struct inlay_workspace *ws, bool lazy, struct inlay_error *err)
	inlay_must_check;
/* Removes what was written to the roots, too; after leaving them. */
int workspace_forget_root(struct inlay_workspace *ws, struct inlay_error *err) inlay_must_check;

#endif
