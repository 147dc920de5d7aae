/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/checkup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/io.h"
#include "inlay/text.h"

void inlay_check_tell(inlay_check_fn *fn, void *ctx, enum inlay_check_level level, const char *name,
		      const char *cure, const char *fmt, ...)
{
	char text[INLAY_CHECK_TEXT];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	fn(ctx, &(struct inlay_check){.level = level, .name = name, .text = text, .cure = cure});
}

/* Calls with arguments that no kernel takes: one that has the call says so in another way than ENOSYS. */
static bool has_call(long number)
{
	return syscall(number, -1, -1, -1, -1, -1, -1) >= 0 || errno != ENOSYS;
}

void inlay_checkup_kernel(inlay_check_fn *fn, void *ctx)
{
	const struct {
		const char *name;
		long number;
	} calls[] = {
		{"statx", SYS_statx},           {"memfd_create", SYS_memfd_create},
		{"pidfd_open", SYS_pidfd_open}, {"openat2", SYS_openat2},
		{"renameat2", SYS_renameat2},
	};
	char missing[128] = "";
	struct utsname u;

	(void)uname(&u);
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		size_t len = strlen(missing);
		if (!has_call(calls[i].number))
			(void)snprintf(missing + len, sizeof missing - len, " %s", calls[i].name);
	}
	if (*missing)
		inlay_check_tell(fn, ctx, INLAY_CHECK_WARN, "kernel",
				 "use Linux 5.6 or newer, and let a container's filter pass these "
				 "calls",
				 "Linux %s, %s; not there:%s", u.release, u.machine, missing);
	else
		inlay_check_tell(fn, ctx, INLAY_CHECK_OK, "kernel", "",
				 "Linux %s, %s, with all calls that are used", u.release,
				 u.machine);
}

static bool read_number(const char *path, uint64_t *ret)
{
	auto_buf struct inlay_buf b = {0};

	if (inlay_read_file(AT_FDCWD, path, 64, &b, NULL) != 0)
		return false;
	while (b.len > 0 && b.data[b.len - 1] == '\n')
		b.len--;
	return inlay_parse_u64(inlay_buf_cstr(&b), ret, NULL) == 0;
}

void inlay_checkup_inotify(inlay_check_fn *fn, void *ctx)
{
	uint64_t watches, instances;

	if (!read_number("/proc/sys/fs/inotify/max_user_watches", &watches) ||
	    !read_number("/proc/sys/fs/inotify/max_user_instances", &instances)) {
		inlay_check_tell(fn, ctx, INLAY_CHECK_BAD, "inotify",
				 "mount /proc; without it changes are found by polling",
				 "the limits in /proc/sys/fs/inotify cannot be read");
		return;
	}
	bool few = watches < INLAY_CHECK_WATCHES, small = instances < INLAY_CHECK_INSTANCES;
	inlay_check_tell(fn, ctx, few || small ? INLAY_CHECK_WARN : INLAY_CHECK_OK, "inotify",
			 few     ? "sysctl fs.inotify.max_user_watches=524288 (and a file in "
				   "/etc/sysctl.d)"
			 : small ? "sysctl fs.inotify.max_user_instances=512 (and a file in "
				   "/etc/sysctl.d)"
				 : "",
			 "%llu watches and %llu instances for each user",
			 (unsigned long long)watches, (unsigned long long)instances);
}

void inlay_checkup_disk(int dirfd, const char *what, inlay_check_fn *fn, void *ctx)
{
	auto_buf struct inlay_buf size = {0};
	struct statvfs v;

	if (fstatvfs(dirfd, &v) < 0) {
		inlay_check_tell(fn, ctx, INLAY_CHECK_BAD, "disk", "", "%s: %s", what,
				 strerror(errno));
		return;
	}
	uint64_t free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
	/* Some filesystems count no inodes. */
	bool few_inodes = v.f_files > 0 && (uint64_t)v.f_favail * 100 <
						   (uint64_t)v.f_files * INLAY_CHECK_DISK_PERCENT;
	bool few_blocks =
		(uint64_t)v.f_bavail * 100 < (uint64_t)v.f_blocks * INLAY_CHECK_DISK_PERCENT;
	bool full = free_bytes < (uint64_t)INLAY_CHECK_DISK_MIB << 20 ||
		    (v.f_files > 0 && v.f_favail < 64);

	inlay_text_size(&size, free_bytes);
	inlay_check_tell(fn, ctx,
			 full                       ? INLAY_CHECK_BAD
			 : few_inodes || few_blocks ? INLAY_CHECK_WARN
						    : INLAY_CHECK_OK,
			 "disk",
			 full || few_inodes || few_blocks
				 ? "make room there; 'inlay gc' frees what no generation needs"
				 : "",
			 "%s: %s free%s", what, inlay_buf_cstr(&size),
			 few_inodes ? ", few inodes are left" : "");
}
