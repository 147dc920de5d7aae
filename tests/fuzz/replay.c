/* SPDX-License-Identifier: Apache-2.0 */
/* main() of a fuzz target without libFuzzer: feeds it each file of the directories given. So every
 * corpus is a regression test under every compiler and sanitizer. */
#include <dirent.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "inlay/bytes.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static size_t replay_dir(const char *name)
{
	struct inlay_error e = {0};
	struct dirent *d;
	size_t count = 0;
	DIR *dir = opendir(name);

	if (!dir)
		err(1, "%s", name);
	while ((d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		auto_buf struct inlay_buf b = {0};
		if (inlay_read_file(dirfd(dir), d->d_name, 64 << 20, &b, &e) != 0)
			errx(1, "%s/%s: %s", name, d->d_name, e.text);
		/* An exact copy, so that a sanitizer sees the first byte that is read behind it. */
		auto_free uint8_t *exact = malloc(b.len ? b.len : 1);
		if (!exact)
			err(1, "malloc");
		memcpy(exact, b.data, b.len);
		(void)LLVMFuzzerTestOneInput(exact, b.len);
		count++;
	}
	(void)closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	size_t count = 0;

	for (int i = 1; i < argc; i++)
		count += replay_dir(argv[i]);
	printf("%zu inputs\n", count);
	/* A corpus that was not found would be a test that cannot fail. */
	return count == 0;
}
