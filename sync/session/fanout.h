/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_FANOUT_H
#define SESSION_FANOUT_H

/*
 * One change set, from a source folder to several targets at once: the folder is scanned once, what goes to those that
 * have the same state is encoded once (share.h), and each target has a thread and a connection of its own, so that
 * one that is slow or gone delays no other. Each has a result of its own.
 */

#include "session/push.h"

struct fanout_host {
	const struct target *target;
	struct transport_options transport;
	/* the result */
	int code; /* 0, or negative and err */
	struct inlay_error err;
	struct push_result result;
	/* private */
	struct fanout *all;
	struct push_options push;
	bool pending;
};

/* done() is called for each target as soon as it has its result; by one thread at a time. progress() of `o` tells of
 * the scan alone; change() is called just before done(). An error is one of the folder: nothing
 * was sent and done() was not called, or all is done and what was hashed cannot be remembered. */
int fanout_push(struct source *s, const struct push_options *o, uint64_t bwlimit,
		struct fanout_host *hosts, size_t count,
		void (*done)(void *ctx, const struct fanout_host *h), void *ctx,
		struct inlay_error *err) inlay_must_check;

#endif
