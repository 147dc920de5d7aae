/* SPDX-License-Identifier: Apache-2.0 */
/* The list of redirected directories: set by a session, remembered in ws/<id>/workspace. */
#include <errno.h>

#include "inlay/limits.h"
#include "inlay/tree.h"
#include "keep/host.h"
#include "keep/written.h"

static bool good_redirect(const char *path)
{
	size_t len = strlen(path);

	if (len == 0 || len > INLAY_REDIRECT_PATH_MAX)
		return false;
	for (const char *at = path;;) {
		const char *slash = strchrnul(at, '/');
		if (!inlay_name_valid(at, (size_t)(slash - at)))
			return false;
		if (!*slash)
			break;
		at = slash + 1;
	}
	return strcmp(path, ".inlay") != 0 && strncmp(path, ".inlay/", 7) != 0;
}

/* One inside another would hide behind it. */
static bool nested(const char *a, const char *b)
{
	size_t n = strlen(a);

	return strncmp(a, b, n) == 0 && (b[n] == '/' || b[n] == 0);
}

static int check_redirects(const char *list, size_t len, struct inlay_error *err)
{
	unsigned count = 0;

	if (len > 0 && list[len - 1] != 0)
		return inlay_error_set(err, -EINVAL, "a bad list of redirects");
	for (size_t at = 0; at < len; at += strlen(list + at) + 1) {
		if (!good_redirect(list + at))
			return inlay_error_set(err, -EINVAL,
					       "'%s' cannot be redirected: it must be a path "
					       "inside the workspace, of at most %d bytes",
					       list + at, INLAY_REDIRECT_PATH_MAX);
		for (size_t other = 0; other < at; other += strlen(list + other) + 1)
			if (nested(list + other, list + at) || nested(list + at, list + other))
				return inlay_error_set(err, -EINVAL,
						       "redirects lie inside each other: %s, %s",
						       list + other, list + at);
		if (++count > INLAY_REDIRECTS_MAX)
			return inlay_error_set(err, -E2BIG, "more than %d redirects",
					       INLAY_REDIRECTS_MAX);
	}
	return 0;
}

void workspace_decode_redirects(struct inlay_workspace *ws, struct inlay_cursor *c)
{
	size_t len;
	const uint8_t *list = inlay_cursor_string(
		c, (size_t)INLAY_REDIRECTS_MAX * (INLAY_REDIRECT_PATH_MAX + 1), &len);

	if (c->failed || check_redirects((const char *)list, len, NULL) < 0) {
		c->failed = true;
		return;
	}
	inlay_buf_clear(&ws->redirects);
	inlay_buf_add(&ws->redirects, list, len);
	c->failed |= ws->redirects.failed;
}

static bool same(const struct inlay_workspace *ws, const char *list, size_t len)
{
	return ws->redirects.len == len && (len == 0 || memcmp(list, ws->redirects.data, len) == 0);
}

int inlay_workspace_set_redirects(struct inlay_workspace *ws, const char *list, size_t len,
				  struct inlay_error *err)
{
	scope_lock(&ws->change);
	int r = check_redirects(list, len, err);

	if (r < 0 || same(ws, list, len))
		return r;
	/* Those that stay are made again at once. */
	if (ws->link)
		r = workspace_drop_redirects(ws, false, err);
	if (r < 0)
		return r;
	{
		scope_lock(&ws->lock);
		inlay_buf_clear(&ws->redirects);
		inlay_buf_add(&ws->redirects, list, len);
		r = inlay_buf_check(&ws->redirects, err);
		if (r == 0)
			r = workspace_save(ws, err);
	}
	if (r == 0 && ws->link)
		workspace_apply_redirects(ws);
	return r;
}

void inlay_workspace_redirects(struct inlay_workspace *ws, struct inlay_buf *ret)
{
	scope_lock(&ws->lock);
	if (ws->redirects.len)
		inlay_buf_add(ret, ws->redirects.data, ws->redirects.len);
}
