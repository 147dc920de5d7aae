/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_LINES_H
#define SESSION_LINES_H

/*
 * One connection for a host, whatever goes there: several components, their hooks, several targets of a folder. A
 * process of its own holds it (wire/trunk.h) and makes it when it is first needed, and anew after it broke. Who has
 * the *door* of a line opens sessions over it: transport_open sends one end of a socket pair through. A door is a
 * descriptor and can be inherited; the process ends when nobody has it any more.
 *
 * The connection fails, is slow and is lost for all of its sessions alike, as the host is; a session that does not
 * read stops itself alone.
 */

#include "transport/transport.h"

struct line;

struct lines {
	struct line *list;
};

/* Gives the options the door of their host's line, which is made when there is none. Before there are threads: the
 * process is forked. The options' strings outlive the call. */
int lines_join(struct lines *l, struct transport_options *o, struct inlay_error *err)
	inlay_must_check;
/* For hosts that several of these go to; the others keep a connection of their own. */
int lines_join_shared(struct lines *l, struct transport_options *const *o, size_t count,
		      struct inlay_error *err) inlay_must_check;
/* Shuts our doors, and waits for the processes. */
void lines_end(struct lines *l);

#endif
