/* SPDX-License-Identifier: Apache-2.0 */
#include "keep/upperlist.h"

#include <errno.h>
#include <stdlib.h>

#include "inlay/limits.h"
#include "inlay/tree.h"
#include "mount/worker_proto.h"

static bool good_path(const char *path, size_t len)
{
	if (len == 0 || len > INLAY_PATH_MAX)
		return false;
	for (size_t at = 0; at <= len;) {
		const char *slash = at < len ? memchr(path + at, '/', len - at) : NULL;
		size_t n = slash ? (size_t)(slash - path) - at : len - at;
		if (!inlay_name_valid(path + at, n))
			return false;
		at += n + 1;
	}
	return true;
}

static bool take(struct inlay_cursor *c, struct inlay_upper_entry *e)
{
	struct worker_upper w;
	const uint8_t *head = inlay_cursor_bytes(c, sizeof w);

	if (!head)
		return false;
	memcpy(&w, head, sizeof w);
	uint64_t need = sizeof w + (uint64_t)w.path_len + w.target_len;
	if (w.bytes % 8 || w.bytes < need || w.bytes - need >= 8 || w.kind == 0 ||
	    w.kind > INLAY_UPPER_KINDS || w.target_len > INLAY_LINK_MAX || w.shadows > 1)
		return false;
	const char *path = (const char *)inlay_cursor_bytes(c, w.bytes - sizeof w);
	if (!path || !good_path(path, w.path_len))
		return false;
	*e = (struct inlay_upper_entry){.kind = (uint8_t)w.kind,
					.shadows = w.shadows,
					.mode = w.mode,
					.size = w.size,
					.mtime_ns = w.mtime_ns,
					.path = path,
					.path_len = w.path_len,
					.target = path + w.path_len,
					.target_len = w.target_len,
					.file = w.file,
					.id = w.id};
	return true;
}

int upper_list_parse(const void *bytes, size_t len, uint64_t count, struct inlay_upper_list *list,
		     struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);

	_Static_assert((int)INLAY_UPPER_KINDS == (int)WORKER_UPPER_SPECIAL, "one set of kinds");
	if (count > INLAY_ENTRIES_MAX)
		return inlay_error_set(err, -E2BIG, "the upper has more than %d entries",
				       INLAY_ENTRIES_MAX);
	list->entries = reallocarray(NULL, (size_t)count + 1, sizeof *list->entries);
	if (!list->entries)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (list->count = 0; list->count < count; list->count++)
		if (!take(&c, &list->entries[list->count]))
			return inlay_error_set(err, -EBADMSG,
					       "entry %zu of the upper's list is bad", list->count);
	return 0;
}
