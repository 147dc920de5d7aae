/* SPDX-License-Identifier: Apache-2.0 */
#include "project/orders.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "inlay/run.h"
#include "wire/message.h"

#define S INT64_C(1000000000)

static const int64_t stop_timeout_ns = 10 * S;

int64_t order_timeout(const struct config_component *c, const char *step)
{
	const struct config_timeouts *t = &c->timeouts;

	if (strcmp(step, "before") == 0)
		return t->before_ns ? t->before_ns : 30 * S;
	if (strcmp(step, "reload") == 0)
		return t->reload_ns ? t->reload_ns : 120 * S;
	return t->build_ns ? t->build_ns : 3600 * S;
}

static int64_t stop_time(const struct config_component *c)
{
	return c->run.stop_timeout_ns ? c->run.stop_timeout_ns : stop_timeout_ns;
}

int64_t order_start_time(const struct config_component *c)
{
	return stop_time(c) + (c->timeouts.run_ns ? c->timeouts.run_ns : 60 * S);
}

/* "a\nb" from a list of patterns. */
static void join(const struct config_texts *list, struct inlay_buf *b)
{
	for (size_t i = 0; i < list->count; i++) {
		inlay_buf_printf(b, i ? "\n" : "");
		inlay_buf_add(b, list->items[i], strlen(list->items[i]));
	}
}

static int check_size(const struct inlay_buf *b, struct inlay_error *err)
{
	if (b->failed)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	return b->len > INLAY_MESSAGE_TEXT_MAX
		       ? inlay_error_set(err, -E2BIG, "a command with its variables is too long")
		       : 0;
}

static struct inlay_run_spec spec_of(const struct config_component *c,
				     const struct config_texts *command, const char *dir,
				     int64_t timeout_ns)
{
	struct inlay_run_spec s = {.argv = (char **)command->items,
				   .env = (char **)c->env.items,
				   .dir = (char *)dir,
				   .stop_signal = SIGTERM,
				   .stop_timeout_ns = timeout_ns};

	(void)snprintf(s.name, sizeof s.name, "%s", c->head.name);
	return s;
}

static int put(struct inlay_buf *b, struct message_order *order, const struct config_texts *match,
	       struct inlay_error *err)
{
	auto_buf struct inlay_buf lines = {0};

	join(match, &lines);
	int r = check_size(&lines, err);
	if (r < 0)
		return r;
	order->patterns = (struct message_text){(const char *)lines.data, lines.len};
	message_encode_order(b, order);
	return check_size(b, err);
}

static int put_run(struct inlay_buf *b, const char *name, const struct inlay_run_spec *run,
		   const struct config_texts *match, struct inlay_error *err)
{
	auto_buf struct inlay_buf spec = {0};

	inlay_run_spec_encode(run, &spec);
	int r = check_size(&spec, err);
	struct message_order order = {.action = MESSAGE_ACTION_RUN,
				      .name = message_text_of(name),
				      .spec = {(const char *)spec.data, spec.len}};
	return r < 0 ? r : put(b, &order, match, err);
}

int order_run(struct inlay_buf *b, const struct config_component *c, const char *step,
	      const struct config_hook *hook, struct inlay_error *err)
{
	char name[INLAY_RUN_NAME_MAX + 1];
	struct inlay_run_spec run =
		spec_of(c, &hook->run, hook->dir,
			hook->timeout_ns ? hook->timeout_ns : order_timeout(c, step));

	(void)snprintf(name, sizeof name, "%.40s.%.10s", c->head.name, step);
	return put_run(b, name, &run, &hook->inputs, err);
}

int order_reload(struct inlay_buf *b, const struct config_component *c, size_t i,
		 struct inlay_error *err)
{
	const struct config_reload *rule = (const struct config_reload *)c->reload.items + i;
	char name[INLAY_RUN_NAME_MAX + 1];
	int number = 0, r = 0;

	(void)snprintf(name, sizeof name, "%.30s.reload%zu", c->head.name, i + 1);
	if (rule->run.count) {
		struct inlay_run_spec run =
			spec_of(c, &rule->run, NULL,
				rule->timeout_ns ? rule->timeout_ns : order_timeout(c, "reload"));
		return put_run(b, name, &run, &rule->match, err);
	}
	if (rule->signal)
		r = inlay_run_parse_signal(rule->signal, &number, err);
	struct message_order order = {.action = rule->signal ? MESSAGE_ACTION_SIGNAL
						: rule->rebuild_base == CONFIG_YES
							? MESSAGE_ACTION_NONE
							: MESSAGE_ACTION_RESTART,
				      .name = message_text_of(name),
				      .program = message_text_of(c->head.name),
				      .signal = (uint8_t)number};
	return r < 0 ? r : put(b, &order, &rule->match, err);
}

int order_program(struct inlay_buf *b, const struct config_component *c,
		  const struct config_texts *command, const char *dir, struct inlay_error *err)
{
	const struct config_program *p = &c->run;
	bool own = p->command.count > 0;

	if (!own && command->count == 0)
		return inlay_error_set(err, -EINVAL,
				       "run has no command, and the image has none either");
	struct inlay_run_spec run =
		spec_of(c, own ? &p->command : command, p->dir || own ? p->dir : dir, stop_time(c));

	run.wanted = true;
	run.devices = (char **)c->devices.items;
	if (p->restart)
		run.restart = (enum inlay_run_restart)(p->restart - 1);
	if (p->stop_signal) {
		int r = inlay_run_parse_signal(p->stop_signal, &run.stop_signal, err);
		if (r < 0)
			return r;
	}
	inlay_run_spec_encode(&run, b);
	return check_size(b, err);
}
