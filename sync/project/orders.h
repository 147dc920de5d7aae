/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROJECT_ORDERS_H
#define PROJECT_ORDERS_H

/*
 * What a host is told to do for a component, as the bytes that travel: its hooks, the rules of `reload`, its program.
 * -E2BIG: a command with its variables does not fit into a message.
 */

#include "config/config.h"

/* The time that a hook has when its own `timeout` does not say, by its step. */
int64_t order_timeout(const struct config_component *c, const char *step);

/* How long it may take until its program was started or restarted: what was there before has its time to end. */
int64_t order_start_time(const struct config_component *c);

/* An order that runs `hook`; `step` is "before", "build" or "after". */
int order_run(struct inlay_buf *b, const struct config_component *c, const char *step,
	      const struct config_hook *hook, struct inlay_error *err) inlay_must_check;
/* Rule `i` of `reload`. */
int order_reload(struct inlay_buf *b, const struct config_component *c, size_t i,
		 struct inlay_error *err) inlay_must_check;
/* The description of its program (inlay/run.h). `command` and `dir` are what its image runs by itself. -EINVAL: neither
 * has a command. */
int order_program(struct inlay_buf *b, const struct config_component *c,
		  const struct config_texts *command, const char *dir, struct inlay_error *err)
	inlay_must_check;

#endif
