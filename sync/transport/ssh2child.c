/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/ssh2.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "transport/children.h"
#include "transport/ssh2in.h"

static struct ssh2 self = {.sock = -1, .phase = "start"};

/* ---- ending ---- */

void ssh2_die(const struct ssh2 *s, int code, const char *fmt, ...)
{
	va_list args;

	(void)s;
	va_start(args, fmt);
	(void)vdprintf(STDERR_FILENO, fmt, args);
	va_end(args);
	_exit(code);
}

const char *ssh2_why(const struct ssh2 *s)
{
	char *text = NULL;

	(void)libssh2_session_last_error(s->session, &text, NULL, 0);
	return text && *text ? text : "libssh2 gives no reason";
}

/* One deadline for all that can hang before the command runs: a name server, an agent, a host. */
static void on_alarm(int signal)
{
	static const char before[] = "Connection timed out during ";

	(void)signal;
	(void)!write(STDERR_FILENO, before, sizeof before - 1);
	(void)!write(STDERR_FILENO, self.phase, strlen(self.phase));
	_exit(SSH2_FAILED);
}

static void begin(const char *phase, int seconds)
{
	self.phase = phase;
	(void)alarm((unsigned)seconds);
}

void ssh2_wait(const struct ssh2 *s)
{
	int to = libssh2_session_block_directions(s->session);
	struct pollfd p = {.fd = s->sock, .events = POLLIN};

	if (to & LIBSSH2_SESSION_BLOCK_OUTBOUND)
		p.events = (short)((to & LIBSSH2_SESSION_BLOCK_INBOUND ? POLLIN : 0) | POLLOUT);
	(void)poll(&p, 1, 1000);
}

/* ---- the connection ---- */

static int connect_in_time(const struct addrinfo *a, int ms)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int error = 0;

	if (fd < 0)
		return -errno;
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		error = errno;
		if (error == EINPROGRESS) {
			int n;
			do
				n = poll(&p, 1, ms);
			while (n < 0 && errno == EINTR);
			error = n == 0 ? ETIMEDOUT : 0;
			if (n > 0)
				(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
		}
	}
	if (error) {
		(void)close(fd);
		return -error;
	}
	return fd;
}

static void connect_host(struct ssh2 *s)
{
	const struct addrinfo want = {.ai_family = s->conf.family, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	int left = 0, fd = -EADDRNOTAVAIL, one = 1;
	int64_t end = inlay_monotonic_ns() + s->conf.connect_timeout_s * 1000000000ll;

	begin("the look-up of the name", s->conf.connect_timeout_s + 2);
	int r = getaddrinfo(s->conf.hostname, s->conf.port, &want, &list);
	if (r != 0)
		ssh2_die(s, SSH2_FAILED, "Could not resolve hostname %s: %s", s->conf.hostname,
			 gai_strerror(r));
	for (const struct addrinfo *a = list; a; a = a->ai_next)
		left++;
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
		/* An address that does not answer leaves time for the others. */
		int64_t ms = (end - inlay_monotonic_ns()) / 1000000 / left--;
		fd = connect_in_time(a, ms > 0 ? (int)ms : 0);
	}
	freeaddrinfo(list);
	if (fd < 0)
		ssh2_die(s, SSH2_FAILED, "connect to host %s port %s: %s", s->conf.hostname,
			 s->conf.port, strerror(-fd));
	/* Or each pair of small messages waits for an acknowledgement: 40 ms. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	s->sock = fd;
}

/* ---- what it was told ---- */

static void take_orders(struct ssh2 *s)
{
	static const char head[] = SSH2_COMMAND;
	struct inlay_buf b = {0};
	struct inlay_error err;
	size_t n = 0, max = SSHCONF_BYTES_MAX + 65536;
	uint8_t *room = inlay_buf_reserve(&b, max);

	if (!room || inlay_pread_full(CHILD_EXTRA_FD, room, max, 0, &n, "settings", NULL) < 0)
		ssh2_die(s, SSH2_FAILED, "the settings cannot be read");
	(void)close(CHILD_EXTRA_FD);
	char *newline = n > sizeof head ? memchr(room, '\n', n) : NULL;
	if (!newline || memcmp(room, head, sizeof head - 1) != 0)
		ssh2_die(s, SSH2_FAILED, "this is started by inlay itself");
	*newline = 0;
	s->command = (char *)room + sizeof head - 1; /* kept to the end */
	if (sshconf_parse(newline + 1, n - (size_t)(newline + 1 - (char *)room), &s->conf, &err) <
	    0)
		ssh2_die(s, SSH2_FAILED, "%s", err.text);
	if (s->conf.alias || strcmp(s->conf.port, "22") == 0)
		(void)snprintf(s->name, sizeof s->name, "%s",
			       s->conf.alias ? s->conf.alias : s->conf.hostname);
	else
		(void)snprintf(s->name, sizeof s->name, "[%s]:%s", s->conf.hostname, s->conf.port);
}

static void shake_hands(struct ssh2 *s)
{
	int r;

	begin("the key exchange", s->conf.connect_timeout_s);
	while ((r = libssh2_session_handshake(s->session, s->sock)) == LIBSSH2_ERROR_EAGAIN)
		ssh2_wait(s);
	switch (r) {
	case 0:
		return;
	case LIBSSH2_ERROR_KEX_FAILURE:
	case LIBSSH2_ERROR_METHOD_NONE:
	case LIBSSH2_ERROR_METHOD_NOT_SUPPORTED:
		ssh2_die(s, SSH2_UNFIT,
			 "the server and libssh2 %s have no cipher, MAC or key exchange in common",
			 libssh2_version(0));
	default:
		ssh2_die(s, SSH2_FAILED, "the key exchange with %s failed: %s", s->name,
			 ssh2_why(s));
	}
}

const char *ssh2_version(void)
{
	return libssh2_version(0);
}

void ssh2_main(void)
{
	struct ssh2 *s = &self;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)signal(SIGALRM, on_alarm);
	take_orders(s);
	connect_host(s);
	begin("the reading of keys", SSH2_AUTH_S);
	/* All that a library would open later. */
	unsigned char some[16];
	(void)OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CRYPTO_STRINGS | OPENSSL_INIT_LOAD_CONFIG |
					  OPENSSL_INIT_ADD_ALL_CIPHERS |
					  OPENSSL_INIT_ADD_ALL_DIGESTS,
				  NULL);
	if (RAND_bytes(some, sizeof some) != 1 || libssh2_init(0) != 0)
		ssh2_die(s, SSH2_FAILED, "libssh2 does not start");
	s->session = libssh2_session_init();
	if (!s->session)
		ssh2_die(s, SSH2_FAILED, "out of memory");
	libssh2_session_set_blocking(s->session, 0);
	ssh2_read_known(s);
	ssh2_read_keys(s);
	ssh2_prefer(s);
	ssh2_jail();
	shake_hands(s);
	ssh2_check_host(s);
	begin("the authentication", SSH2_AUTH_S);
	ssh2_authenticate(s);
	begin("the start of the command", SSH2_AUTH_S);
	/* Nothing is left to be flushed, and what runs at exit does not know the jail. */
	_exit(ssh2_run(s));
}
