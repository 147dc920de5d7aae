/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KEEP_WRITTEN_H
#define KEEP_WRITTEN_H

/* What the parts of the keeper do about the upper and redirects. All with ws->change held. */

#include "inlay/written.h"
#include "keep/host.h"

/* redirects.c: from ws/<id>/workspace. */
void workspace_decode_redirects(struct inlay_workspace *ws, struct inlay_cursor *c);

/* redirect.c: makes the redirected directories lead to their storage, where they do not yet. What does not work is told
 * in state.mount_text and the log. */
void workspace_apply_redirects(struct inlay_workspace *ws);
/* Before an unmount: the binds inside the mount. -EBUSY when one is in use and it is not lazy. */
int workspace_drop_redirects(struct inlay_workspace *ws, bool lazy, struct inlay_error *err)
	inlay_must_check;

#endif
