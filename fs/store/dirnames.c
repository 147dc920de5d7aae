/* SPDX-License-Identifier: Apache-2.0 */
#include "store/dirnames.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/cleanup.h"

void dirnames_fini(struct dirnames *d)
{
	free(d->names);
	inlay_buf_fini(&d->text);
	*d = (struct dirnames){0};
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int collect(DIR *dir, const char *name, struct dirnames *d, struct inlay_error *err)
{
	struct dirent *entry;

	while (errno = 0, (entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		inlay_buf_add(&d->text, entry->d_name, strlen(entry->d_name) + 1);
		d->count++;
	}
	if (errno != 0)
		return inlay_error_sys(err, -errno, "list directory %s", name);
	return inlay_buf_check(&d->text, err);
}

static int sort(struct dirnames *d, struct inlay_error *err)
{
	if (d->count == 0)
		return 0;
	d->names = calloc(d->count, sizeof *d->names);
	if (!d->names)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	const char *at = (const char *)d->text.data;
	for (size_t i = 0; i < d->count; i++) {
		d->names[i] = at;
		at += strlen(at) + 1;
	}
	qsort(d->names, d->count, sizeof *d->names, by_name);
	return 0;
}

int dirnames_read(int dirfd, const char *name, struct dirnames *ret, struct inlay_error *err)
{
	struct dirnames d __attribute__((cleanup(inlay_cleanup_dirnames_fini))) = {0};
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return inlay_error_sys(err, -errno, "open directory %s", name);
	DIR *dir = fdopendir(fd);
	if (!dir)
		return inlay_error_sys(err, -errno, "list directory %s", name);
	(void)take_fd(fd);
	int r = collect(dir, name, &d, err);
	(void)closedir(dir);
	if (r == 0)
		r = sort(&d, err);
	if (r < 0)
		return r;
	*ret = d;
	d = (struct dirnames){0};
	return 0;
}
