/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_STORE_MARK_H
#define INLAY_STORE_MARK_H

/*
 * The text in the lock file: how the last writer left the store. Always the same length and written
 * in place, so that a torn write gives a text that is none of these, and that means OPEN.
 *
 *     OPEN     a writer is at work, or ended without a word: the tail has to be verified
 *     FLUSHED  all was written but not all of it synced: good for as long as this kernel runs
 *     SYNCED   everything is on the disk
 */

#include "inlay/error.h"

enum mark { MARK_OPEN, MARK_FLUSHED, MARK_SYNCED };

/* FLUSHED by an earlier boot is OPEN: the machine may have lost power. */
enum mark mark_read(int fd);
/* Not synced. OPEN has to be, before anything is written: else a power cut could bring back the
 * SYNCED that stood there. */
int mark_write(int fd, enum mark mark, struct inlay_error *err) inlay_must_check;

#endif
