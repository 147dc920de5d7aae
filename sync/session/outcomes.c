/* SPDX-License-Identifier: Apache-2.0 */
#include "session/outcomes.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/text.h"

#define SUFFIX ".done"

enum {
	OUTCOME_FILE_MAX = 512,
	OUTCOMES_MAX = 128, /* that STATUS tells */
	SUM_BYTES = 8,
};

static void file_name(char ret[static INLAY_RUN_NAME_MAX + 16], const char *name)
{
	(void)snprintf(ret, INLAY_RUN_NAME_MAX + 16, "%.*s" SUFFIX, INLAY_RUN_NAME_MAX, name);
}

/* Fills *b with the file; *ret borrows from it. */
static bool read_file(int dirfd, const char *name, struct inlay_buf *b, struct message_outcome *ret)
{
	char file[INLAY_RUN_NAME_MAX + 16];

	file_name(file, name);
	if (inlay_read_file(dirfd, file, OUTCOME_FILE_MAX, b, NULL) != 0 || b->len < SUM_BYTES)
		return false;
	size_t len = b->len - SUM_BYTES;
	return inlay_get_le64(b->data + len) == inlay_xxh3(b->data, len) &&
	       message_decode_outcome(b->data, len, ret, NULL) == 0 &&
	       ret->name.len == strlen(name) && memcmp(ret->name.bytes, name, ret->name.len) == 0;
}

void outcome_read(int dirfd, const char *name, struct message_outcome *ret)
{
	auto_buf struct inlay_buf b = {0};

	if (!read_file(dirfd, name, &b, ret))
		*ret = (struct message_outcome){0};
	ret->name = message_text_of(name);
}

void outcome_write(int dirfd, const struct message_outcome *m)
{
	auto_buf struct inlay_buf b = {0};
	auto_free char *name = inlay_dup(m->name.bytes, m->name.len);
	char file[INLAY_RUN_NAME_MAX + 16];

	message_encode_outcome(&b, m);
	inlay_buf_u64(&b, inlay_xxh3(b.data, b.len));
	if (b.failed || !name)
		return;
	file_name(file, name);
	(void)!inlay_replace_file(dirfd, file, b.data, b.len, 0600, 0, NULL);
}

void outcomes_list(int dirfd, struct inlay_buf *b)
{
	auto_close int own = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
	DIR *dir = own < 0 ? NULL : fdopendir(own);
	const struct dirent *d;
	unsigned count = 0;

	if (!dir)
		return;
	own = -1;
	while (count < OUTCOMES_MAX && (d = readdir(dir))) {
		auto_buf struct inlay_buf file = {0};
		auto_buf struct inlay_buf one = {0};
		struct message_outcome m;
		char name[INLAY_RUN_NAME_MAX + 1];
		size_t len = strlen(d->d_name), end = strlen(SUFFIX);
		if (len <= end || len - end >= sizeof name ||
		    strcmp(d->d_name + len - end, SUFFIX) != 0)
			continue;
		(void)snprintf(name, sizeof name, "%.*s", (int)(len - end), d->d_name);
		if (!read_file(dirfd, name, &file, &m) || m.time_ns == 0)
			continue;
		message_encode_outcome(&one, &m);
		message_add_text(b, one.data, one.len);
		count++;
	}
	(void)closedir(dir);
}
