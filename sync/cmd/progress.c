/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/progress.h"

#include <stdio.h>

#include "cmd/print.h"
#include "inlay/io.h"
#include "inlay/text.h"

enum { REDRAW_MS = 100, FIRST_MS = 300 };

/* What is read and compressed, but not sent yet, is not done. */
static uint64_t really_done(const struct push_progress *p)
{
	uint64_t wire = p->sent_bytes + p->queued_bytes;

	if (p->phase != PUSH_SENDING || p->queued_bytes == 0)
		return p->bytes_done;
	return (uint64_t)((double)p->bytes_done * (double)p->sent_bytes / (double)wire);
}

static void draw_amounts(struct inlay_buf *b, struct progress_line *l,
			 const struct push_progress *p, int64_t now)
{
	uint64_t done = really_done(p);

	done = l->done = done > l->done ? done : l->done;
	uint64_t percent = p->bytes_total ? done * 100 / p->bytes_total : 0;

	inlay_buf_printf(b, "%3llu%%  ", (unsigned long long)(percent > 100 ? 100 : percent));
	inlay_text_count(b, p->files_done);
	inlay_buf_u8(b, '/');
	inlay_text_count(b, p->files_total);
	inlay_buf_printf(b, " files  ");
	inlay_text_size(b, done);
	inlay_buf_u8(b, '/');
	inlay_text_size(b, p->bytes_total);
	if (p->phase == PUSH_SENDING) {
		inlay_buf_printf(b, "  sent ");
		inlay_text_size(b, p->sent_bytes);
	}
	/* The rest takes as long as what is done took; before there is something to go by, nothing is said. */
	int64_t took = now - l->phase_from_ns;
	if (percent >= 2 && percent < 100 && took > 1000000000) {
		double left = (double)took * ((double)p->bytes_total / (double)done - 1);
		inlay_buf_printf(b, "  ");
		inlay_text_duration(b, (int64_t)left);
		inlay_buf_printf(b, " left");
	}
}

void progress_update(void *line, const struct push_progress *p)
{
	static const char *const names[] = {"scanning", "reading", "sending", "waiting"};
	struct progress_line *l = line;
	struct inlay_buf b = {0};
	int64_t now;

	if (!l->on)
		return;
	now = inlay_monotonic_ns();
	if (l->phase_from_ns == 0 || l->phase != p->phase) {
		l->phase = p->phase;
		l->phase_from_ns = now;
		l->done = 0;
		if (l->next_ns == 0)
			l->next_ns = now + FIRST_MS * 1000000ll;
	}
	if (now < l->next_ns)
		return;
	l->next_ns = now + REDRAW_MS * 1000000ll;
	l->shown = true;
	inlay_buf_printf(&b, "\r\033[K%s  ", names[p->phase]);
	if (p->phase == PUSH_READING || p->phase == PUSH_SENDING)
		draw_amounts(&b, l, p, now);
	print_text(stderr, &b);
}

void progress_clear(struct progress_line *l)
{
	if (l->shown)
		(void)fputs("\r\033[K", stderr);
	l->shown = false;
}
