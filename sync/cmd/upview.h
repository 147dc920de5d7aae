/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_UPVIEW_H
#define CMD_UPVIEW_H

/*
 * The live view of `inlay up` on a terminal: below the lines that scroll, one for each site, drawn anew in place. Where
 * the sites do not fit there is one for each host, and where these do not, one for all.
 */

#include "project/upstate.h"

struct upview {
	const struct upstate *state;
	bool on, colour;
	size_t lines; /* on the screen */
	int64_t drawn_ns;
};

/* Not on a terminal: it stays off, and everything below does nothing. */
void upview_init(struct upview *v, const struct upstate *state);
/* Takes it from the screen, before something is printed. */
void upview_clear(struct upview *v);
/* `lazy`: not more often than the eye sees; something that is not lazy follows. */
void upview_draw(struct upview *v, bool lazy);

#endif
