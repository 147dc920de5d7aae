/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MOUNT_DROPS_H
#define MOUNT_DROPS_H

/*
 * Names of the upper that go, so that what is synced is seen there again: because the source wins, or because
 * somebody asked for it (reset). Found under `change`, written to the journal, then dropped under `lock`.
 */

#include <stdbool.h>
#include <stddef.h>

#include "inlay/error.h"
#include "mount/view.h"
#include "upper/upper.h"

struct settle;

struct view_drops {
	struct upper_dent **dents; /* none lies below another one */
	size_t count, cap;
	int64_t time_ns;
};

static inline void view_drops_fini(struct view_drops *d)
{
	free(d->dents);
}
INLAY_DEFINE_FINI(struct view_drops, view_drops_fini)
#define auto_of_drops __attribute__((cleanup(inlay_cleanup_view_drops_fini)))

/* A change set that has `after` (NULL: nothing any more) at the dent's name: does the dent go? */
bool view_source_wins(const struct upper_dent *d, const struct inlay_entry *after);
int view_drops_add(struct view_drops *drops, struct upper_dent *d, struct inlay_error *err)
	inlay_must_check;
/* Writes them to the journal. */
int view_drops_log(struct view *v, struct view_drops *drops, struct inlay_error *err)
	inlay_must_check;
/* Drops them; the settling notes what the kernel is to be told. Lock held for writing, and change. */
int view_drops_apply(struct view *v, struct view_drops *drops, struct settle *settle,
		     struct inlay_error *err) inlay_must_check;

#endif
