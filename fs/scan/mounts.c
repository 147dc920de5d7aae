/* SPDX-License-Identifier: Apache-2.0 */
#include "scan/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

enum { MOUNTINFO_MAX = 64 << 20 };

struct scan_device {
	uint64_t dev;
	bool is_inlay;
};

int scan_mounts_init(struct scan_mounts *m, struct inlay_error *err)
{
	*m = (struct scan_mounts){0};
	int r = pthread_mutex_init(&m->lock, NULL);
	return r ? inlay_error_sys(err, -r, "make a lock") : 0;
}

void scan_mounts_fini(struct scan_mounts *m)
{
	(void)pthread_mutex_destroy(&m->lock);
	free(m->devices);
}

/* ---- mountinfo ---- */

/* The next field of the line: what stands before a space. False at its end. */
static bool next_field(const char **at, const char *end, const char **ret, size_t *ret_len)
{
	while (*at < end && **at == ' ')
		++*at;
	*ret = *at;
	while (*at < end && **at != ' ')
		++*at;
	*ret_len = (size_t)(*at - *ret);
	return *ret_len > 0;
}

static bool number(const char **at, const char *end, char stop, unsigned *ret)
{
	uint64_t v = 0;
	const char *start = *at;

	while (*at < end && **at >= '0' && **at <= '9' && v <= UINT32_MAX)
		v = v * 10 + (unsigned)(*(*at)++ - '0');
	bool good =
		*at > start && v <= UINT32_MAX && (stop ? *at < end && **at == stop : *at == end);
	if (good && stop)
		++*at;
	*ret = (unsigned)v;
	return good;
}

/* 36 35 98:0 /root /point rw,noatime master:1 - type source options */
static bool line_has(const char *at, const char *end, uint64_t dev, const char *type)
{
	const char *field;
	size_t len;
	unsigned major, minor;

	for (int i = 0; i < 3; i++)
		if (!next_field(&at, end, &field, &len))
			return false;
	const char *p = field;
	if (!number(&p, field + len, ':', &major) || !number(&p, field + len, 0, &minor) ||
	    makedev(major, minor) != dev)
		return false;
	for (int i = 0; i < 3; i++)
		if (!next_field(&at, end, &field, &len))
			return false;
	/* Any number of optional fields, then a dash. */
	do {
		if (!next_field(&at, end, &field, &len))
			return false;
	} while (len != 1 || *field != '-');
	return next_field(&at, end, &field, &len) && len == strlen(type) &&
	       memcmp(field, type, len) == 0;
}

bool scan_mountinfo_has(const char *text, size_t len, uint64_t dev, const char *type)
{
	const char *end = text + len;

	while (text < end) {
		const char *stop = memchr(text, '\n', (size_t)(end - text));
		if (!stop)
			stop = end;
		if (line_has(text, stop, dev, type))
			return true;
		text = stop + (stop < end);
	}
	return false;
}

/* ---- devices ---- */

static int look_up(uint64_t dev, bool *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf text = {0};
	int r = inlay_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, err);

	if (r == INLAY_IO_MISSING)
		return inlay_error_set(
			err, -ENOENT, "what is mounted there cannot be told: /proc is not mounted");
	if (r < 0)
		return r;
	*ret = scan_mountinfo_has((const char *)text.data, text.len, dev, "fuse.inlay");
	return 0;
}

int scan_mounts_is_inlay(struct scan_mounts *m, uint64_t dev, bool *ret, struct inlay_error *err)
{
	scope_lock(&m->lock);
	for (size_t i = 0; i < m->count; i++) {
		if (m->devices[i].dev == dev) {
			*ret = m->devices[i].is_inlay;
			return 0;
		}
	}
	struct scan_device found = {.dev = dev};
	int r = look_up(dev, &found.is_inlay, err);
	if (r < 0)
		return r;
	struct scan_device *more = reallocarray(m->devices, m->count + 1, sizeof *more);
	if (!more)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	m->devices = more;
	m->devices[m->count++] = found;
	*ret = found.is_inlay;
	return 0;
}
