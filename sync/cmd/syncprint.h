/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_SYNCPRINT_H
#define CMD_SYNCPRINT_H

/* What a sync tells: its changes while it goes on, its result at the end. */

#include "cmd/cmd.h"
#include "cmd/progress.h"
#include "session/fanout.h"

struct sync_report {
	const struct common *common;
	bool stats, dry_run;
	struct progress_line line;
};

/* For push_options.change; ctx is the report. rsync's form: >f+++++++++ new, >f.st...... changed, cd+++++++++ a new
 * directory, *deleting. */
void sync_print_change(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		       const struct inlay_entry *after);
/* As an object each. */
void sync_print_change_json(void *ctx, const char *path, size_t len,
			    const struct inlay_entry *before, const struct inlay_entry *after);
/* -v: names, as rsync does. */
void sync_print_name(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		     const struct inlay_entry *after);

/* What was told so far, of one target or of several. */
struct sync_told {
	struct sync_report *report;
	const struct source *source;
	bool several; /* failures name their target */
	bool mounts;  /* one that is not mounted has failed */
	bool changed;
	size_t good, failed;
	enum inlay_exit worst;
};

/* For fanout_push; ctx is a struct sync_told. */
void sync_tell(void *ctx, const struct fanout_host *h);
/* 3 when some failed; what the last one failed with when all did. */
enum inlay_exit sync_exit(const struct sync_told *t);

#endif
