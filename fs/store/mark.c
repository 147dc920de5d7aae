/* SPDX-License-Identifier: Apache-2.0 */
#include "store/mark.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"

enum {
	BOOT_ID = 36,
	WORD = 8,
	MARK_BYTES = WORD + BOOT_ID + 1, /* and a newline */
};

/* The kernel's random name of this boot; spaces when there is none. */
static void boot_id(char ret[static BOOT_ID + 1])
{
	char text[BOOT_ID];
	size_t n = 0;
	auto_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || inlay_read_full(fd, text, sizeof text, &n, "boot_id", NULL) < 0 ||
	    n < sizeof text)
		memset(text, ' ', sizeof text);
	memcpy(ret, text, sizeof text);
	ret[BOOT_ID] = 0;
}

static void mark_text(enum mark mark, char ret[static MARK_BYTES + 1])
{
	static const char *const words[] = {"open", "flushed", "synced"};
	char id[BOOT_ID + 1];

	boot_id(id);
	(void)snprintf(ret, MARK_BYTES + 1, "%-8s%s\n", words[mark], id);
}

enum mark mark_read(int fd)
{
	char text[MARK_BYTES + 1], want[MARK_BYTES + 1];
	size_t n;

	if (inlay_pread_full(fd, text, sizeof text, 0, &n, "lock", NULL) < 0 || n != MARK_BYTES)
		return MARK_OPEN;
	mark_text(MARK_SYNCED, want);
	if (memcmp(text, want, WORD) == 0 && text[MARK_BYTES - 1] == '\n')
		return MARK_SYNCED;
	mark_text(MARK_FLUSHED, want);
	if (memcmp(text, want, MARK_BYTES) == 0 && want[WORD] != ' ')
		return MARK_FLUSHED;
	return MARK_OPEN;
}

int mark_write(int fd, enum mark mark, struct inlay_error *err)
{
	char text[MARK_BYTES + 1];

	mark_text(mark, text);
	return inlay_pwrite_all(fd, text, MARK_BYTES, 0, "its lock", err);
}
