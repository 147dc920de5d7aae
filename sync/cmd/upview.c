/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/upview.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cmd/print.h"
#include "cmd/steps.h"
#include "inlay/io.h"
#include "inlay/text.h"

enum {
	NAME_WIDTH_MAX = 20,
	STATE_WIDTH = 12,
	KEEP_ROWS = 4, /* of the terminal, for what scrolls */
	LAZY_NS = 40000000,
};

struct layout {
	int host, component; /* widths */
	size_t width, height;
};

void upview_init(struct upview *v, const struct upstate *state)
{
	const char *term = getenv("TERM");

	*v = (struct upview){.state = state,
			     .on = isatty(STDOUT_FILENO) && (!term || strcmp(term, "dumb") != 0),
			     .colour = !getenv("NO_COLOR")};
}

void upview_clear(struct upview *v)
{
	if (v->lines)
		(void)printf("\033[%zuA\033[J", v->lines);
	v->lines = 0;
}

/* ---- lines ---- */

/* Cut to the width of the terminal; a character is taken as one column. */
static void put_cut(const struct upview *v, const struct inlay_buf *line, size_t width,
		    const char *colour)
{
	size_t columns = 0, n = 0;

	for (; n < line->len; n++) {
		bool begins = (line->data[n] & 0xc0) != 0x80;
		if (begins && columns + 1 >= width)
			break;
		columns += begins;
	}
	(void)printf("\033[2K%s%.*s%s\n", v->colour ? colour : "", (int)n, (const char *)line->data,
		     v->colour ? "\033[0m" : "");
}

static const char *colour_of(enum upstate_word w)
{
	switch (w) {
	case UPSTATE_UP:
		return "\033[32m";
	case UPSTATE_FAILED:
	case UPSTATE_LOST:
		return "\033[31m";
	case UPSTATE_WORKING:
		return "\033[33m";
	default:
		return "\033[2m";
	}
}

static void put_word(struct inlay_buf *b, const struct upstate_row *r)
{
	char text[48];

	if (r->word == UPSTATE_WORKING)
		(void)snprintf(text, sizeof text, "%s ...", r->step);
	else
		(void)snprintf(text, sizeof text, "%s", upstate_word(r));
	inlay_buf_printf(b, "%-*s ", STATE_WIDTH, text);
}

/* What ended last, or why it is not well. */
static void put_end(struct inlay_buf *b, const struct upstate_row *r)
{
	const struct upstate_step *last = NULL;

	if (r->why[0]) {
		inlay_buf_printf(b, "%s", r->why);
		return;
	}
	for (size_t i = 0; i < r->step_count; i++)
		if (!last || r->steps[i].time_ns >= last->time_ns)
			last = &r->steps[i];
	if (!last)
		return;
	inlay_buf_printf(b, "%s ", last->name);
	steps_put_result(b, last->status, last->timed_out);
	inlay_buf_printf(b, ", ");
	inlay_text_duration(b, last->took_ns);
}

static void put_row(const struct upview *v, const struct layout *l, const struct site *p,
		    const struct upstate_row *r)
{
	auto_buf struct inlay_buf b = {0};
	auto_buf struct inlay_buf part = {0};
	int64_t p50 = upstate_p50(r);

	inlay_buf_printf(&b, "%-*.*s %-*.*s ", l->host, l->host, p->host->head.name, l->component,
			 l->component, p->component->head.name);
	put_word(&b, r);
	inlay_buf_printf(&b, "%5llu  ", (unsigned long long)r->generation);
	if (r->shown_ns) {
		print_clock(&part, r->shown_ns);
		inlay_buf_printf(&b, "%.8s +%llu ~%llu -%llu", inlay_buf_cstr(&part),
				 (unsigned long long)r->added, (unsigned long long)r->modified,
				 (unsigned long long)r->removed);
	}
	inlay_buf_clear(&part);
	if (p50) {
		inlay_buf_printf(&b, "  ");
		inlay_text_duration(&part, p50);
	}
	inlay_buf_printf(&b, "%s  ", inlay_buf_cstr(&part));
	put_end(&b, r);
	put_cut(v, &b, l->width, colour_of(r->word));
}

/* ---- what fits ---- */

static struct layout lay_out(const struct sites *all)
{
	struct winsize size = {0};
	struct layout l = {.host = 4, .component = 9};

	(void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	l.width = size.ws_col ? size.ws_col : 80;
	l.height = size.ws_row ? size.ws_row : 24;
	for (size_t i = 0; i < all->count; i++) {
		int host = (int)strlen(all->list[i].host->head.name);
		int component = (int)strlen(all->list[i].component->head.name);
		l.host = host > l.host ? host : l.host;
		l.component = component > l.component ? component : l.component;
	}
	l.host = l.host < NAME_WIDTH_MAX ? l.host : NAME_WIDTH_MAX;
	l.component = l.component < NAME_WIDTH_MAX ? l.component : NAME_WIDTH_MAX;
	return l;
}

static bool first_of_host(const struct sites *all, size_t at)
{
	for (size_t i = 0; i < at; i++)
		if (all->list[i].host == all->list[at].host)
			return false;
	return true;
}

/* "bot1  5 of 6 up, p50 8 ms  nav: build failed with 3"; host NULL: of all. */
static void put_sum(const struct upview *v, const struct layout *l, const struct config_host *host)
{
	const struct sites *all = &v->state->up->sites;
	size_t up = 0, count = 0;
	int64_t slowest = 0;
	const struct upstate_row *bad = NULL;
	const struct site *bad_site = NULL;
	auto_buf struct inlay_buf b = {0};

	for (size_t i = 0; i < all->count; i++) {
		const struct upstate_row *r = &v->state->rows[i];
		int64_t p50 = upstate_p50(r);
		if (host && all->list[i].host != host)
			continue;
		count++;
		up += r->word == UPSTATE_UP;
		slowest = p50 > slowest ? p50 : slowest;
		if (!bad && (r->word == UPSTATE_FAILED || r->word == UPSTATE_LOST)) {
			bad = r;
			bad_site = &all->list[i];
		}
	}
	inlay_buf_printf(&b, "%-*.*s %zu of %zu up", l->host, l->host,
			 host ? host->head.name : "all", up, count);
	if (slowest) {
		inlay_buf_printf(&b, ", p50 at most ");
		inlay_text_duration(&b, slowest);
	}
	if (bad)
		inlay_buf_printf(&b, "  %s: %s", bad_site->component->head.name, bad->why);
	put_cut(v, &b, l->width,
		colour_of(bad           ? UPSTATE_FAILED
			  : up == count ? UPSTATE_UP
					: UPSTATE_SYNCED));
}

static void put_head(const struct upview *v, const struct layout *l)
{
	auto_buf struct inlay_buf b = {0};

	inlay_buf_printf(&b, "%-*s %-*s %-*s %5s  %-17s  %s", l->host, "HOST", l->component,
			 "COMPONENT", STATE_WIDTH, "STATE", "GEN", "LAST CHANGE", "P50, HOOKS");
	put_cut(v, &b, l->width, "\033[2m");
}

void upview_draw(struct upview *v, bool lazy)
{
	int64_t now = inlay_monotonic_ns();
	size_t hosts = 0;

	if (!v->on || (lazy && now - v->drawn_ns < LAZY_NS))
		return;
	const struct sites *all = &v->state->up->sites;
	struct layout l = lay_out(all);
	size_t room = l.height > KEEP_ROWS ? l.height - KEEP_ROWS : 1;
	upview_clear(v);
	for (size_t i = 0; i < all->count; i++)
		hosts += first_of_host(all, i);
	if (all->count + 1 <= room) {
		put_head(v, &l);
		for (size_t i = 0; i < all->count; i++)
			put_row(v, &l, &all->list[i], &v->state->rows[i]);
		v->lines = all->count + 1;
	} else if (hosts <= room) {
		for (size_t i = 0; i < all->count; i++)
			if (first_of_host(all, i))
				put_sum(v, &l, all->list[i].host);
		v->lines = hosts;
	} else {
		put_sum(v, &l, NULL);
		v->lines = 1;
	}
	v->drawn_ns = now;
	(void)fflush(stdout);
}
