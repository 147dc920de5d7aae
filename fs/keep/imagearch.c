/* SPDX-License-Identifier: Apache-2.0 */
/* Whose programs run on this machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "inlay/io.h"
#include "keep/imagetrees.h"

#define BINFMT "/proc/sys/fs/binfmt_misc"

/* A platform, what uname says on it, and what qemu-user calls it. */
static const struct arch {
	const char *platform, *machine, *qemu;
} archs[] = {
	{"linux/amd64", "x86_64", "x86_64"},     {"linux/386", "i686", "i386"},
	{"linux/386", "x86_64", "i386"},         {"linux/arm64", "aarch64", "aarch64"},
	{"linux/arm/v7", "armv7l", "arm"},       {"linux/arm/v6", "armv7l", "arm"},
	{"linux/arm/v6", "armv6l", "arm"},       {"linux/riscv64", "riscv64", "riscv64"},
	{"linux/ppc64le", "ppc64le", "ppc64le"}, {"linux/s390x", "s390x", "s390x"},
};

/* Registered, switched on, and found also behind a change of the root directory (flag F). */
static bool emulated(const char *qemu)
{
	enum { TEXT_MAX = 4096 };
	auto_buf struct inlay_buf b = {0};
	char name[64];
	auto_close int dir = open(BINFMT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)snprintf(name, sizeof name, "qemu-%s", qemu);
	if (dir < 0 || inlay_read_file(dir, name, TEXT_MAX, &b, NULL) != 0)
		return false;
	const char *text = inlay_buf_cstr(&b), *flags = strstr(text, "\nflags:");
	if (strncmp(text, "enabled\n", 8) != 0 || !flags)
		return false;
	const char *end = strchr(flags + 1, '\n');
	return end && memchr(flags + 7, 'F', (size_t)(end - flags - 7));
}

int imagearch_check(const char *platform, bool emulate, struct inlay_error *err)
{
	struct utsname u;
	const char *qemu = NULL;

	if (uname(&u) < 0)
		return inlay_error_sys(err, -errno, "find out what machine this is");
	if (strcmp(platform, "linux/any") == 0)
		return 0;
	for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
		if (strcmp(archs[i].platform, platform) != 0)
			continue;
		if (strcmp(archs[i].machine, u.machine) == 0)
			return 0;
		qemu = archs[i].qemu;
	}
	if (emulate && qemu && emulated(qemu))
		return 0;
	if (emulate && qemu)
		(void)inlay_error_set(
			err, -ENOEXEC,
			"this machine is %.60s, the image is for %.60s, and %s/qemu-%s "
			"is not there with the flag F (Debian: qemu-user-static)",
			u.machine, platform, BINFMT, qemu);
	else
		(void)inlay_error_set(err, -ENOEXEC,
				      "this machine is %.60s, and the image is for %.60s: its "
				      "programs do not run here%s",
				      u.machine, platform,
				      qemu ? " (with qemu-user they do: --emulate)" : "");
	return inlay_error_set_exit(err, INLAY_EXIT_HALT);
}
