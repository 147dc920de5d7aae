/* SPDX-License-Identifier: Apache-2.0 */
/*
 * touch-files stat|read DIR < list: lstat()s or opens, reads and closes each path of a NUL-separated list,
 * relative to DIR; prints the seconds. The list is read before the clock starts.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int read_file(const char *path)
{
	static char buf[1 << 20];
	ssize_t n;
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	do
		n = read(fd, buf, sizeof buf);
	while (n > 0);
	(void)close(fd);
	return (int)n;
}

static double seconds(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	char *line = NULL, **paths = NULL;
	size_t cap = 0, count = 0;
	struct stat st;

	if (argc != 3 || chdir(argv[2]) < 0)
		return 2;
	while (getdelim(&line, &cap, 0, stdin) > 0) {
		paths = reallocarray(paths, count + 1, sizeof *paths);
		if (!paths || !(paths[count++] = strdup(line)))
			return 1;
	}
	double start = seconds();
	for (size_t i = 0; i < count; i++) {
		int r = *argv[1] == 's' ? lstat(paths[i], &st) : read_file(paths[i]);
		if (r < 0) {
			perror(paths[i]);
			return 1;
		}
	}
	(void)printf("%.6f\n", seconds() - start);
	return 0;
}
