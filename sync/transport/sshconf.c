/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/sshconf.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/bytes.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "transport/children.h"

enum { ASK_TIMEOUT_MS = 20000 };

/* ---- the answer ---- */

/* What changes the way to the host or who is trusted, and what libssh2 does not have. */
static const struct {
	const char *key, *harmless, *name;
} obstacles[] = {
	{"proxyjump", "none", "ProxyJump"},
	{"proxycommand", "none", "ProxyCommand"},
	{"controlpath", "none", "ControlPath"},
	{"certificatefile", "none", "CertificateFile"},
	{"pkcs11provider", "none", "PKCS11Provider"},
	{"knownhostscommand", "none", "KnownHostsCommand"},
	{"revokedhostkeys", "none", "RevokedHostKeys"},
	{"bindaddress", "none", "BindAddress"},
	{"bindinterface", "none", "BindInterface"},
	{"setenv", NULL, "SetEnv"},
	{"pubkeyauthentication", "true", "PubkeyAuthentication"},
};

static void look_for_obstacle(struct sshconf *c, const char *key, const char *value)
{
	for (size_t i = 0; i < sizeof obstacles / sizeof *obstacles; i++) {
		if (strcmp(key, obstacles[i].key) != 0)
			continue;
		const char *ok = obstacles[i].harmless;
		/* "yes" and "true" are one, in different versions of ssh. */
		if (ok && (strcmp(value, ok) == 0 ||
			   (strcmp(ok, "true") == 0 && strcmp(value, "yes") == 0)))
			continue;
		c->obstacle = obstacles[i].name;
	}
}

static void add_file(struct sshconf *c, const char *list[], const char *path)
{
	size_t n = 0;

	if (strcmp(path, "none") == 0 || *path == 0)
		return;
	while (list[n])
		n++;
	if (n == SSHCONF_FILES_MAX)
		c->obstacle = "that many files";
	else
		list[n] = path;
	if (strchr(path, '%') || strstr(path, "${"))
		c->obstacle = "a token in the name of a key file";
}

static void add_files(struct sshconf *c, const char *list[], char *paths)
{
	char *save = NULL;

	for (char *p = strtok_r(paths, " ", &save); p; p = strtok_r(NULL, " ", &save))
		add_file(c, list, p);
}

static bool take_text(struct sshconf *c, const char *key, const char *value)
{
	const struct {
		const char *key;
		const char **to;
	} texts[] = {
		{"hostname", &c->hostname},
		{"user", &c->user},
		{"port", &c->port},
		{"hostkeyalias", &c->alias},
		{"ciphers", &c->ciphers},
		{"macs", &c->macs},
		{"kexalgorithms", &c->kex},
		{"hostkeyalgorithms", &c->host_keys},
		{"pubkeyacceptedalgorithms", &c->user_keys},
		{"identityagent", &c->identity_agent},
	};

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		if (strcmp(key, texts[i].key) == 0) {
			*texts[i].to = value;
			return true;
		}
	}
	return false;
}

/* 0, and what is no number ("none"), leaves our own. */
static bool take_number(struct sshconf *c, const char *key, const char *value)
{
	const struct {
		const char *key;
		int *to;
	} numbers[] = {
		{"connecttimeout", &c->connect_timeout_s},
		{"serveraliveinterval", &c->alive_s},
		{"serveralivecountmax", &c->alive_count},
	};
	uint64_t n;

	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		if (strcmp(key, numbers[i].key) != 0)
			continue;
		if (inlay_parse_u64(value, &n, NULL) == 0 && n > 0 && n < 3600)
			*numbers[i].to = (int)n;
		return true;
	}
	return false;
}

static void take_line(struct sshconf *c, const char *key, char *value)
{
	if (take_text(c, key, value) || take_number(c, key, value))
		return;
	if (strcmp(key, "identityfile") == 0)
		add_file(c, c->identity, value);
	else if (strcmp(key, "userknownhostsfile") == 0 || strcmp(key, "globalknownhostsfile") == 0)
		add_files(c, c->known_hosts, value);
	else if (strcmp(key, "identitiesonly") == 0)
		c->identities_only = strcmp(value, "yes") == 0;
	else if (strcmp(key, "addressfamily") == 0)
		c->family = strcmp(value, "inet") == 0    ? AF_INET
			    : strcmp(value, "inet6") == 0 ? AF_INET6
							  : AF_UNSPEC;
	else
		look_for_obstacle(c, key, value);
}

int sshconf_parse(const char *text, size_t len, struct sshconf *ret, struct inlay_error *err)
{
	struct sshconf c = {.family = AF_UNSPEC,
			    .connect_timeout_s = SSHCONF_CONNECT_TIMEOUT_S,
			    .alive_s = SSHCONF_ALIVE_S,
			    .alive_count = SSHCONF_ALIVE_COUNT};
	char *save = NULL;

	if (len > SSHCONF_BYTES_MAX || memchr(text, 0, len))
		return inlay_error_set(err, -EPROTO, "'ssh -G' gave an answer that is no text");
	c.text = inlay_dup(text, len);
	if (!c.text)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (char *line = strtok_r(c.text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *space = strchr(line, ' ');
		if (!space)
			continue;
		*space = 0;
		take_line(&c, line, space + 1);
	}
	if (!c.hostname || !c.user || !c.port || !c.ciphers || !c.macs || !c.kex || !c.host_keys) {
		sshconf_fini(&c);
		return inlay_error_set(err, -EPROTO, "'ssh -G' did not tell how to connect");
	}
	*ret = c;
	return 0;
}

void sshconf_fini(struct sshconf *c)
{
	free(c->text);
	*c = (struct sshconf){0};
}

/* ---- asking ---- */

static int wait_for_answer(pid_t pid, int out, const char *host, int stop_fd, struct inlay_buf *ret,
			   struct inlay_error *err)
{
	size_t n = 0;
	int status, r = 0;

	if (!child_wait(pid, ASK_TIMEOUT_MS, stop_fd, &status)) {
		child_end(pid, 0, &status);
		r = inlay_error_set(err, -ETIMEDOUT, "'ssh -G %s' did not end", host);
	}
	uint8_t *room = inlay_buf_reserve(ret, SSHCONF_BYTES_MAX + 1);
	if (r == 0 && room)
		r = inlay_pread_full(out, room, SSHCONF_BYTES_MAX + 1, 0, &n, "ssh -G", err);
	ret->len += n;
	if (r == 0)
		r = inlay_buf_check(ret, err);
	if (r == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
		auto_buf struct inlay_buf said = {0};
		inlay_text_escape(&said, ret->data, n < 500 ? n : 500);
		r = inlay_error_set(err, -EINVAL, "'ssh -G %s' failed: %s", host,
				    inlay_buf_cstr(&said));
	}
	if (r < 0)
		(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
	return r;
}

int sshconf_ask(const char *ssh, const char *port, const char *host, int stop_fd,
		struct inlay_buf *ret, struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};
	auto_close int out = memfd_create("inlay-ssh-G", MFD_CLOEXEC);
	auto_close int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pid_t pid;

	child_add_split(&a, ssh ? ssh : "ssh");
	child_add(&a, "-G");
	if (port) {
		child_add(&a, "-p");
		child_add(&a, port);
	}
	child_add(&a, "--");
	child_add(&a, host);
	if (out < 0 || in < 0)
		return inlay_error_sys(err, -errno, "make a memory file");
	int r = child_spawn(&a, &(struct child_fds){.in = in, .out = out, .err = out}, &pid, err);
	return r < 0 ? r : wait_for_answer(pid, out, host, stop_fd, ret, err);
}

/* ---- words ---- */

void sshconf_path(const char *path, struct inlay_buf *ret)
{
	if (path[0] != '~' || path[1] != '/') {
		inlay_buf_printf(ret, "%s", path);
		return;
	}
	char text[4096];
	struct passwd pw, *found = NULL;
	/* As ssh: the password file counts, not HOME. */
	(void)getpwuid_r(getuid(), &pw, text, sizeof text, &found);
	inlay_buf_printf(ret, "%s%s", found ? found->pw_dir : "", path + 1);
}

bool sshconf_lists(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; p && *p;) {
		size_t n = strcspn(p, ",");
		if (n == len && memcmp(p, word, n) == 0)
			return true;
		p += n + (p[n] == ',');
	}
	return false;
}

/* ---- lines of known_hosts ---- */

/* One word of a line, which has `left` bytes; its length. */
static size_t word_at(const char **at, const char *end)
{
	const char *p = *at;

	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	*at = p;
	while (p < end && *p != ' ' && *p != '\t')
		p++;
	return (size_t)(p - *at);
}

/* Is a name of the list the host's, or a pattern for it? A hashed one may be. */
static bool may_mean(const char *names, size_t len, const char *name, bool patterns_only)
{
	const char *end = names + len;

	for (const char *p = names; p < end;) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		const char *stop = comma ? comma : end;
		char pattern[512];
		size_t n = (size_t)(stop - p);
		bool negated = n > 0 && *p == '!';
		if (n >= sizeof pattern || (n > 0 && *p == '|' && !patterns_only))
			return true;
		memcpy(pattern, p + negated, n - negated);
		pattern[n - negated] = 0;
		/* ssh's patterns know * and ? alone; a bracket is of [host]:port. */
		bool pattern_like = negated || strpbrk(pattern, "*?");
		char quoted[2 * sizeof pattern], *q = quoted;
		for (const char *c = pattern; *c; c++) {
			if (*c == '[' || *c == ']' || *c == '\\')
				*q++ = '\\';
			*q++ = *c;
		}
		*q = 0;
		if ((pattern_like || !patterns_only) && fnmatch(quoted, name, FNM_CASEFOLD) == 0)
			return true;
		p = stop + (comma != NULL);
	}
	return false;
}

const char *sshconf_special_known_host(const char *text, size_t len, const char *name)
{
	const char *end = text + len;

	for (const char *line = text; line < end;) {
		const char *newline = memchr(line, '\n', (size_t)(end - line));
		const char *stop = newline ? newline : end;
		const char *at = line;
		size_t n = word_at(&at, stop);
		line = stop + (newline != NULL);
		if (n == 0 || *at == '#')
			continue;
		const char *marker = *at == '@' ? at : NULL;
		size_t marker_len = n;
		if (marker) {
			at += n;
			n = word_at(&at, stop);
		}
		if (n == 0 || !may_mean(at, n, name, !marker))
			continue;
		return !marker                                                 ? "a pattern"
		       : marker_len == 8 && memcmp(marker, "@revoked", 8) == 0 ? "@revoked"
		       : marker_len == 15 && memcmp(marker, "@cert-authority", 15) == 0
			       ? "@cert-authority"
			       : "a marker";
	}
	return NULL;
}
