/* SPDX-License-Identifier: Apache-2.0 */
#include "inlay/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "inlay/cleanup.h"

int inlay_write_all(int fd, const void *buf, size_t len, const char *what, struct inlay_error *err)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = write(fd, p, len);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return inlay_error_sys(err, -errno, "write %s", what);
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int inlay_pwrite_all(int fd, const void *buf, size_t len, uint64_t off, const char *what,
		     struct inlay_error *err)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)off);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return inlay_error_sys(err, -errno, "write %s", what);
		}
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int inlay_read_full(int fd, void *buf, size_t len, size_t *ret_n, const char *what,
		    struct inlay_error *err)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = read(fd, (uint8_t *)buf + got, len - got);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return inlay_error_sys(err, -errno, "read %s", what);
		}
		if (n == 0)
			break;
		got += (size_t)n;
	}
	*ret_n = got;
	return 0;
}

int inlay_pread_full(int fd, void *buf, size_t len, uint64_t off, size_t *ret_n, const char *what,
		     struct inlay_error *err)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = pread(fd, (uint8_t *)buf + got, len - got, (off_t)(off + got));
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return inlay_error_sys(err, -errno, "read %s", what);
		}
		if (n == 0)
			break;
		got += (size_t)n;
	}
	*ret_n = got;
	return 0;
}

int inlay_read_file(int dirfd, const char *name, size_t max, struct inlay_buf *buf,
		    struct inlay_error *err)
{
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0) {
		if (errno == ENOENT)
			return INLAY_IO_MISSING;
		return inlay_error_sys(err, -errno, "open %s", name);
	}
	size_t start = buf->len;
	for (;;) {
		size_t got;
		uint8_t *room = inlay_buf_reserve(buf, 16384);
		if (!room)
			return inlay_buf_check(buf, err);
		int r = inlay_read_full(fd, room, 16384, &got, name, err);
		if (r < 0)
			return r;
		buf->len += got;
		if (buf->len - start > max)
			return inlay_error_set(err, -E2BIG, "%s is larger than %zu bytes", name,
					       max);
		if (got < 16384)
			return 0;
	}
}

static _Atomic uint64_t replaced;

uint64_t inlay_replaced_files(void)
{
	return replaced;
}

int inlay_replace_file(int dirfd, const char *name, const void *buf, size_t len, mode_t mode,
		       enum inlay_replace_flags flags, struct inlay_error *err)
{
	char tmp[300];

	/* One writer for each name is the rule of every caller, so the name of the temporary can be
	 * fixed: what a crash leaves behind is replaced the next time. */
	int n = snprintf(tmp, sizeof tmp, ".%s.new", name);
	if (n < 0 || (size_t)n >= sizeof tmp)
		return inlay_error_set(err, -ENAMETOOLONG, "name '%s' is too long", name);
	auto_close int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "create %s", tmp);
	int r = inlay_write_all(fd, buf, len, name, err);
	if (r == 0 && (flags & INLAY_REPLACE_DURABLE) && fsync(fd) < 0)
		r = inlay_error_sys(err, -errno, "sync %s", name);
	if (r == 0 && close(take_fd(fd)) < 0)
		r = inlay_error_sys(err, -errno, "close %s", name);
	if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
		r = inlay_error_sys(err, -errno, "rename %s to %s", tmp, name);
	if (r < 0) {
		(void)unlinkat(dirfd, tmp, 0);
		return r;
	}
	replaced++;
	if ((flags & INLAY_REPLACE_DURABLE) && fsync(dirfd) < 0)
		return inlay_error_sys(err, -errno, "sync the directory of %s", name);
	return 0;
}

static int make_component(int dirfd, const char *name, mode_t mode, bool last, int *ret_fd,
			  const char *path, struct inlay_error *err)
{
	int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (last ? O_NOFOLLOW : 0);

	for (int attempt = 0; attempt < 2; attempt++) {
		int fd = openat(dirfd, name, flags);
		if (fd >= 0) {
			*ret_fd = fd;
			return 0;
		}
		if (errno != ENOENT || attempt > 0)
			break;
		if (mkdirat(dirfd, name, mode) < 0 && errno != EEXIST)
			return inlay_error_sys(err, -errno, "make directory %s", path);
	}
	return inlay_error_sys(err, -errno, "open directory %s", path);
}

int inlay_open_dir(int dirfd, const char *path, mode_t mode, int *ret_fd, struct inlay_error *err)
{
	auto_free char *copy = strdup(path);
	auto_close int at = -1;
	int base = dirfd;

	if (!copy)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	char *rest = copy;
	if (*rest == '/') {
		at = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (at < 0)
			return inlay_error_sys(err, -errno, "open /");
		base = at;
	}
	for (;;) {
		while (*rest == '/')
			rest++;
		if (!*rest)
			break;
		char *end = rest + strcspn(rest, "/");
		char *next = end + strspn(end, "/");
		bool last = *next == 0;
		*end = 0;
		int fd = -1;
		int r = make_component(base, rest, mode, last, &fd, path, err);
		if (r < 0)
			return r;
		inlay_cleanup_close(&at);
		at = fd;
		base = fd;
		rest = next;
	}
	if (at < 0) {
		at = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (at < 0)
			return inlay_error_sys(err, -errno, "open directory %s", path);
	}
	*ret_fd = take_fd(at);
	return 0;
}

static int remove_below(int fd, struct inlay_error *err)
{
	DIR *dir = fdopendir(fd);

	if (!dir) {
		(void)close(fd);
		return inlay_error_sys(err, -errno, "list directory");
	}
	int r = 0;
	struct dirent *d;
	while (r == 0 && (errno = 0, d = readdir(dir))) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		if (unlinkat(dirfd(dir), d->d_name, 0) == 0)
			continue;
		/* One of ours in which we may not write. */
		if (errno == EACCES && fchmod(dirfd(dir), 0700) == 0 &&
		    unlinkat(dirfd(dir), d->d_name, 0) == 0)
			continue;
		if (errno == EISDIR || errno == EPERM)
			r = inlay_remove_tree(dirfd(dir), d->d_name, err);
		else if (errno != ENOENT)
			r = inlay_error_sys(err, -errno, "remove %s", d->d_name);
	}
	(void)closedir(dir);
	return r;
}

/* Opens a directory of ours also where its mode keeps us out. */
static int open_to_remove(int dirfd, const char *name)
{
	enum { FLAGS = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };
	char path[64];
	int fd = openat(dirfd, name, O_RDONLY | FLAGS);

	if (fd >= 0 || errno != EACCES)
		return fd;
	auto_close int place = openat(dirfd, name, O_PATH | FLAGS);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", place);
	if (place < 0 || chmod(path, 0700) < 0)
		return -1;
	return openat(dirfd, name, O_RDONLY | FLAGS);
}

int inlay_remove_tree(int dirfd, const char *name, struct inlay_error *err)
{
	int fd = open_to_remove(dirfd, name);

	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		return inlay_error_sys(err, -errno, "open %s", name);
	}
	int r = remove_below(fd, err);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "remove directory %s", name);
	return 0;
}

bool inlay_find_program(const char *name, char *ret, size_t size)
{
	const char *path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

	while (*path) {
		size_t n = strcspn(path, ":");
		(void)snprintf(ret, size, "%.*s/%s", (int)n, path, name);
		if (access(ret, X_OK) == 0)
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

/* sockaddr_un has room for 107 bytes; /proc/self/fd/N/name reaches any directory within them. */
static int unix_socket(int dirfd, const char *name, int type, struct sockaddr_un *ret_address,
		       int *ret_fd, struct inlay_error *err)
{
	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	int n = snprintf(ret_address->sun_path, sizeof ret_address->sun_path, "/proc/self/fd/%d/%s",
			 dirfd, name);
	if (n < 0 || (size_t)n >= sizeof ret_address->sun_path)
		return inlay_error_set(err, -ENAMETOOLONG, "socket name '%s' is too long", name);
	*ret_fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	return *ret_fd < 0 ? inlay_error_sys(err, -errno, "make a socket") : 0;
}

int inlay_unix_listen(int dirfd, const char *name, int type, int *ret_fd, struct inlay_error *err)
{
	struct sockaddr_un addr;
	auto_close int fd = -1;
	int r = unix_socket(dirfd, name, type, &addr, &fd, err);
	if (r < 0)
		return r;
	/* The caller holds the lock that makes it the only listener: what is there is a leftover.
	 */
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return inlay_error_sys(err, -errno, "remove old socket %s", name);
	if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0)
		return inlay_error_sys(err, -errno, "bind socket %s", name);
	if (listen(fd, 64) < 0)
		return inlay_error_sys(err, -errno, "listen on socket %s", name);
	*ret_fd = take_fd(fd);
	return 0;
}

int inlay_unix_connect(int dirfd, const char *name, int type, int *ret_fd, struct inlay_error *err)
{
	struct sockaddr_un addr;
	auto_close int fd = -1;
	int r = unix_socket(dirfd, name, type, &addr, &fd, err);
	if (r < 0)
		return r;
	if (connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return INLAY_UNIX_NOBODY;
		return inlay_error_sys(err, -errno, "connect to socket %s", name);
	}
	*ret_fd = take_fd(fd);
	return 0;
}

int inlay_unix_send(int fd, const void *buf, size_t len, const int *fds, size_t fd_count,
		    struct inlay_error *err)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * INLAY_UNIX_FDS)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count > INLAY_UNIX_FDS)
		return inlay_error_set(err, -E2BIG, "%zu descriptors in one message", fd_count);
	if (fd_count > 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
	}
	for (;;) {
		ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);
		if (n == (ssize_t)len)
			return 0;
		if (n >= 0)
			return inlay_error_set(err, -EIO, "short message on a socket");
		if (errno != EINTR)
			return inlay_error_sys(err, -errno, "send on a socket");
	}
}

int inlay_unix_recv(int fd, void *buf, size_t len, size_t *ret_n, int fds[static INLAY_UNIX_FDS],
		    struct inlay_error *err)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * INLAY_UNIX_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof control.bytes};
	ssize_t n;

	for (size_t i = 0; i < INLAY_UNIX_FDS; i++)
		fds[i] = -1;
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return inlay_error_sys(err, -errno, "receive on a socket");
	size_t count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < here && count < INLAY_UNIX_FDS; i++)
			memcpy(&fds[count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	*ret_n = (size_t)n;
	return 0;
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	(void)clock_gettime(clock, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t inlay_now_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

int64_t inlay_monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

int inlay_signal_fd(const int *signals, int *ret_fd, struct inlay_error *err)
{
	sigset_t set;

	(void)sigemptyset(&set);
	for (; *signals; signals++)
		(void)sigaddset(&set, *signals);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	*ret_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *ret_fd < 0 ? inlay_error_sys(err, -errno, "set up signals") : 0;
}

void inlay_give_memory_back(void)
{
	/* The sanitizers allocate by themselves, so glibc's own heap is never made ready, and two threads that
	 * come here at once crash while it is. */
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
	(void)malloc_trim(0);
#endif
}
