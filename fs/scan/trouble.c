/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/trouble.h"

#include <stdio.h>
#include <string.h>

#include "inlay/cleanup.h"

int scan_trouble_init(struct scan_trouble *t, struct inlay_error *err)
{
	*t = (struct scan_trouble){0};
	int r = pthread_mutex_init(&t->lock, NULL);
	return r ? inlay_error_sys(err, -r, "make a lock") : 0;
}

void scan_trouble_fini(struct scan_trouble *t)
{
	(void)pthread_mutex_destroy(&t->lock);
	inlay_buf_fini(&t->path);
}

static bool comes_before(const struct inlay_buf *a, const struct inlay_buf *b)
{
	size_t len = a->len < b->len ? a->len : b->len;
	int c = len ? memcmp(a->data, b->data, len) : 0;

	return c ? c < 0 : a->len < b->len;
}

void scan_trouble_add(struct scan_trouble *t, struct inlay_buf *path, const struct inlay_error *e)
{
	scope_lock(&t->lock);
	t->count++;
	if (t->fatal || (t->count > 1 && !comes_before(path, &t->path)))
		return;
	inlay_buf_fini(&t->path);
	t->path = *path;
	*path = (struct inlay_buf){0};
	t->first = *e;
}

void scan_trouble_fatal(struct scan_trouble *t, const struct inlay_error *e)
{
	scope_lock(&t->lock);
	if (t->fatal)
		return;
	t->fatal = true;
	t->first = *e;
}

int scan_trouble_result(const struct scan_trouble *t, struct inlay_error *err)
{
	if (!t->fatal && t->count == 0)
		return 0;
	if (err) {
		*err = t->first;
		size_t len = strlen(err->text);
		if (!t->fatal && t->count > 1)
			(void)snprintf(err->text + len, sizeof err->text - len, ", and %llu more",
				       (unsigned long long)(t->count - 1));
	}
	return t->first.code;
}
