/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into the libssh2 transport: each look for stderr comes 10 ms late, so that what the host sends after
 * stdout was looked for is found by the look for stderr. On a busy machine this happens by itself.
 */
#include <dlfcn.h>
#include <libssh2.h>
#include <time.h>

static long ms_since(const struct timespec *a)
{
	struct timespec b;

	(void)clock_gettime(CLOCK_MONOTONIC, &b);
	return (b.tv_sec - a->tv_sec) * 1000 + (b.tv_nsec - a->tv_nsec) / 1000000;
}

__attribute__((visibility("default"))) ssize_t
libssh2_channel_read_ex(LIBSSH2_CHANNEL *channel, int stream, char *buf, size_t len)
{
	static ssize_t (*real)(LIBSSH2_CHANNEL *, int, char *, size_t);
	struct timespec from;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "libssh2_channel_read_ex");
	(void)clock_gettime(CLOCK_MONOTONIC, &from);
	while (stream == SSH_EXTENDED_DATA_STDERR && ms_since(&from) < 10)
		; /* the transport's jail has no sleep */
	return real(channel, stream, buf, len);
}
