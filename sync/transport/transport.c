/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"
#include "transport/agents.h"
#include "transport/children.h"
#include "transport/choose.h"
#include "transport/ssh2.h"

enum {
	CONNECT_TIMEOUT_S = 20,
	LAST_WORDS_MAX = 4096,
	SSH_FAILED = 255, /* ssh(1): its own failure, not the command's */
	CLOSE_MS = 3000,  /* for a child whose input was closed */
};

#define NO_AGENT_TEXT "inlay-no-agent "

extern char **environ;

/* ---- names ---- */

static const char *const kinds[] = {"auto", "local", "openssh", "libssh2"};

bool transport_kind_parse(const char *text, enum transport_kind *ret)
{
	for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (strcmp(text, kinds[i]) == 0) {
			*ret = (enum transport_kind)i;
			return true;
		}
	}
	return false;
}

const char *transport_kind_name(enum transport_kind kind)
{
	return kinds[kind];
}

/* ---- what is run ---- */

/* Everything that could talk, forward or ask in between is off. Questions (a new host key, a passphrase)
 * are for a person: without a terminal they are refused at once. */
static void add_ssh(struct child_args *a, const struct transport_options *o, bool compress)
{
	char timeout[48];

	child_add_split(a, o->ssh ? o->ssh : "ssh");
	child_add(a, "-T");
	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		child_add(a, "-oBatchMode=yes");
	child_add(a, "-oClearAllForwardings=yes");
	child_add(a, "-oForwardAgent=no");
	child_add(a, "-oForwardX11=no");
	child_add(a, "-oRemoteCommand=none");
	child_add(a, "-oPermitLocalCommand=no");
	child_add(a, "-oServerAliveInterval=15");
	(void)snprintf(timeout, sizeof timeout, "-oConnectTimeout=%lld",
		       (long long)(o->connect_ns ? (o->connect_ns + 999999999) / 1000000000
						 : CONNECT_TIMEOUT_S));
	child_add(a, timeout);
	child_add(a, compress ? "-oCompression=yes" : "-oCompression=no");
	if (o->port) {
		child_add(a, "-p");
		child_add(a, o->port);
	}
	child_add(a, "--");
	child_add(a, o->host);
}

void transport_ssh_args(const struct transport_options *o, struct child_args *ret)
{
	add_ssh(ret, o, false);
}

/* What a remote shell gets between single quotes. */
static bool is_plain(const char *text)
{
	return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
			    "_-./+:@,=%~") == strlen(text);
}

/*
 * The user's shell there may be any: it only sees `exec sh -c '...'`. sh takes the agent that fits: a name holds
 * the digest of one binary for one architecture, so the first that is there is the right one.
 */
static int agent_command(const struct transport_options *o, const char *verb, const char *missing,
			 struct inlay_buf *b, struct inlay_error *err)
{
	static const char *const machines[] = {"x86_64", "aarch64"};

	inlay_buf_printf(b, "exec sh -c 'd=\"${XDG_CACHE_HOME:-$HOME/.cache}/inlay\"; ");
	for (size_t i = 0; i < 2; i++) {
		struct agent agent;
		char name[AGENT_NAME_BYTES];
		int r = agent_find(o->agents, o->cache, machines[i], &agent, err);
		if (r == AGENT_NONE)
			continue;
		if (r < 0)
			return r;
		agent_name(&agent, name);
		inlay_buf_printf(b, "[ -x \"$d/%s\" ] && exec \"$d/%s\" %s", name, name, verb);
		if (o->remote_state)
			inlay_buf_printf(b, " --state \"%s\"", o->remote_state);
		inlay_buf_printf(b, " \"$@\"; ");
	}
	inlay_buf_printf(b, "%s'", missing);
	if (o->remote_state && !is_plain(o->remote_state))
		return inlay_error_set(
			err, -EINVAL,
			"the state directory on the host may have letters, digits and "
			"_-./ only: '%s'",
			o->remote_state);
	return inlay_buf_check(b, err);
}

/* ---- the child ---- */

static int local_args(const struct transport_options *o, struct child_args *a,
		      struct inlay_error *err)
{
	struct utsname u;
	struct agent agent;

	(void)uname(&u);
	int r = agent_find(o->agents, o->cache, u.machine, &agent, err);
	if (r == AGENT_NONE)
		return inlay_error_set(err, -ENOENT,
				       "inlayd-%s is not beside inlay nor in ../libexec/inlay",
				       u.machine);
	if (r < 0)
		return r;
	child_add(a, agent.path);
	child_add(a, "serve");
	if (o->state) {
		child_add(a, "--state");
		child_add(a, o->state);
	}
	return 0;
}

/* Our own ssh: this program again, so that nothing of this process is in the one that talks to the host. What
 * it needs to know comes in a memory file, never in arguments. */
static int libssh2_args(const char *host, const struct inlay_buf *conf,
			const struct inlay_buf *command, struct child_args *a, int *ret_extra,
			struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	auto_close int fd = memfd_create("inlay-ssh2", MFD_CLOEXEC);

	child_add(a, "/proc/self/exe");
	child_add(a, SSH2_CHILD);
	child_add(a, host); /* for those who look at ps */
	inlay_buf_printf(&b, SSH2_COMMAND "%s\n", (const char *)command->data);
	inlay_buf_add(&b, conf->data, conf->len);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "make a memory file");
	int r = inlay_buf_check(&b, err);
	if (r == 0)
		r = inlay_write_all(fd, b.data, b.len, "the settings", err);
	if (r == 0)
		*ret_extra = take_fd(fd);
	return r;
}

/* What runs the command on the host. */
static int host_args(const struct transport_options *o, const struct inlay_buf *command,
		     bool compress, struct child_args *a, int *ret_extra,
		     enum transport_kind *ret_kind, struct inlay_error *err)
{
	auto_of(choice_fini) struct choice c = {0};
	int r = choose_transport(o, &c, err);

	if (r < 0)
		return r;
	*ret_kind = c.kind;
	if (c.kind == TRANSPORT_LIBSSH2)
		return libssh2_args(o->host, &c.conf, command, a, ret_extra, err);
	add_ssh(a, o, compress);
	child_add(a, (const char *)command->data);
	return 0;
}

/* ---- over a line that others share ---- */

void transport_doubt(const struct transport_options *o)
{
	if (o->door)
		(void)!inlay_unix_send(o->door, "?", 1, NULL, 0, NULL);
}

/* False: whoever held the line is gone. */
static bool open_at_door(const struct transport_options *o, struct transport *ret)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return false;
	bool sent = inlay_unix_send(o->door, "+", 1, &pair[1], 1, NULL) == 0;
	(void)close(pair[1]);
	if (!sent)
		(void)close(pair[0]);
	else
		*ret = (struct transport){.rfd = pair[0],
					  .wfd = pair[0],
					  .pid = -1,
					  .stderr_fd = -1,
					  .kind = TRANSPORT_OPENSSH};
	return sent;
}

int transport_open(const struct transport_options *o, struct transport *ret,
		   struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};
	auto_buf struct inlay_buf command = {0};
	auto_close int extra = -1;
	struct transport t = {
		.rfd = -1, .wfd = -1, .pid = -1, .stderr_fd = -1, .kind = TRANSPORT_LOCAL};
	int pair[2], r;

	if (o->host && o->door && open_at_door(o, ret))
		return 0;
	if (o->host && o->kind == TRANSPORT_LOCAL) {
		r = inlay_error_set(err, -EINVAL, "%s is a host: '--transport local' is for paths",
				    o->host);
		(void)inlay_error_set_exit(err, INLAY_EXIT_USAGE);
	} else if (o->host) {
		r = agent_command(o, o->trunk ? "trunk" : "serve",
				  "echo \"" NO_AGENT_TEXT "$(uname -m)\"", &command, err);
		(void)inlay_buf_cstr(&command);
		if (r == 0)
			r = host_args(o, &command, false, &a, &extra, &t.kind, err);
	} else {
		r = local_args(o, &a, err);
	}
	if (r < 0)
		return r;
	t.stderr_fd = memfd_create("inlay-stderr", MFD_CLOEXEC);
	if (t.stderr_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		inlay_cleanup_close(&t.stderr_fd);
		return inlay_error_sys(err, -errno, "make a socket pair");
	}
	r = child_spawn(&a,
			&(struct child_fds){
				.in = pair[1], .out = pair[1], .err = t.stderr_fd, .extra = extra},
			&t.pid, err);
	(void)close(pair[1]);
	t.rfd = t.wfd = pair[0];
	if (r < 0) {
		transport_close(&t, NULL);
		return r;
	}
	*ret = t;
	return 0;
}

void transport_close(struct transport *t, int *ret_status)
{
	int status = 0;

	if (t->wfd != t->rfd)
		inlay_cleanup_close(&t->wfd);
	inlay_cleanup_close(&t->rfd);
	if (t->pid > 0)
		child_end(t->pid, CLOSE_MS, &status);
	inlay_cleanup_close(&t->stderr_fd);
	*t = (struct transport){.rfd = -1, .wfd = -1, .pid = -1, .stderr_fd = -1};
	if (ret_status)
		*ret_status = status;
}

/* ---- what went wrong ---- */

/* The end of what the child said, without blank lines around. */
static void last_words(int fd, struct inlay_buf *b)
{
	struct stat st;
	size_t n = 0;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
		return;
	uint64_t from = st.st_size > LAST_WORDS_MAX ? (uint64_t)st.st_size - LAST_WORDS_MAX : 0;
	uint8_t *room = inlay_buf_reserve(b, LAST_WORDS_MAX);
	if (!room || inlay_pread_full(fd, room, LAST_WORDS_MAX, from, &n, "stderr", NULL) < 0)
		return;
	b->len = n;
	while (b->len > 0 && strchr(" \r\n", b->data[b->len - 1]))
		b->len--;
}

static int ssh_failed(const struct transport_options *o, const struct inlay_buf *words,
		      struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	const char *hint = "";

	inlay_text_escape(&b, words->data, words->len);
	const char *text = inlay_buf_cstr(&b);
	if (strstr(text, "Host key verification failed"))
		hint = ". If the host is new, connect once with ssh and check its key; if its key "
		       "changed, find out why before you trust it";
	else if (strstr(text, "Permission denied"))
		hint = ". Does 'ssh' to that host work without a password? A new key has to be in "
		       "its "
		       "authorized_keys, or in your agent (ssh-add)";
	else if (strstr(text, "Connection refused"))
		hint = ". Does sshd run there, on that port?";
	int r = inlay_error_set(err, -ECONNREFUSED, "cannot connect to %s: %s%s", o->host,
				*text ? text : "ssh said nothing", hint);
	(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
	return r;
}

/* libssh2 cannot honour what this host needs. */
static int ssh_unfit(const struct transport_options *o, const struct inlay_buf *words,
		     struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	inlay_text_escape(&b, words->data, words->len);
	const char *text = inlay_buf_cstr(&b);
	if (o->kind == TRANSPORT_AUTO) {
		auto_buf struct inlay_buf said = {0};
		choose_refused(o->host, text);
		inlay_buf_printf(&said, "%s: %s; using ssh", o->host, text);
		if (o->note)
			o->note(o->ctx, inlay_buf_cstr(&said));
		return TRANSPORT_UNFIT;
	}
	int r = inlay_error_set(err, -EOPNOTSUPP,
				"cannot connect to %s: %s. '--transport auto' and 'openssh' leave "
				"it to ssh",
				o->host, text);
	(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
	return r;
}

static bool no_agent(const struct inlay_buf *noise, char ret_machine[static 32])
{
	static const char mark[] = NO_AGENT_TEXT;
	const char *at = noise->len ? memmem(noise->data, noise->len, mark, sizeof mark - 1) : NULL;

	if (!at)
		return false;
	at += sizeof mark - 1;
	size_t left = noise->len - (size_t)(at - (const char *)noise->data), n = 0;
	while (n < left && n < 31 && at[n] > ' ')
		n++;
	memcpy(ret_machine, at, n);
	ret_machine[n] = 0;
	return true;
}

int transport_explain(struct transport *t, const struct transport_options *o,
		      const struct inlay_buf *noise, char ret_machine[static 32],
		      struct inlay_error *err)
{
	auto_buf struct inlay_buf words = {0};
	auto_buf struct inlay_buf said = {0};
	auto_close int stderr_fd = take_fd(t->stderr_fd);
	enum transport_kind kind = t->kind;
	int status;

	transport_close(t, &status);
	if (no_agent(noise, ret_machine))
		return TRANSPORT_NO_AGENT;
	last_words(stderr_fd, &words);
	int code = kind != TRANSPORT_LOCAL && WIFEXITED(status) ? WEXITSTATUS(status) : 0;
	if (kind == TRANSPORT_LIBSSH2 && code == SSH2_UNFIT)
		return ssh_unfit(o, &words, err);
	if (code == SSH_FAILED)
		return ssh_failed(o, &words, err);
	inlay_text_escape(&said, words.data, words.len);
	if (said.len == 0 && noise->len > 0)
		inlay_text_escape(&said, noise->data, noise->len < 300 ? noise->len : 300);
	int r = inlay_error_set(err, -ECONNRESET, "%s ended the connection: %s",
				o->host ? o->host : "inlayd",
				said.len ? inlay_buf_cstr(&said) : "it said nothing");
	(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
	return r;
}

/* ---- a command in a workspace ---- */

static int exec_args_there(const struct transport_options *o, const struct transport_exec *e,
			   struct child_args *a, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	char missing[32];

	(void)snprintf(missing, sizeof missing, "exit %d", TRANSPORT_EXEC_NO_AGENT);
	add_ssh(a, o, false);
	/* -tt: also when our own input is none. The last one of -T and -t counts. */
	if (e->tty) {
		char *host = a->argv[--a->count], *dashes = a->argv[--a->count];
		child_add(a, "-tt");
		child_add(a, dashes);
		child_add(a, host);
		free(host);
		free(dashes);
	}
	int r = agent_command(o, "exec", missing, &b, err);
	if (r < 0)
		return r;
	inlay_buf_printf(&b, " inlay");
	if (e->program) {
		inlay_buf_printf(&b, " --program");
		child_add_quoted(&b, e->program);
	}
	inlay_buf_printf(&b, " --");
	child_add_quoted(&b, e->path);
	for (char *const *arg = e->command; *arg; arg++)
		child_add_quoted(&b, *arg);
	child_add(a, inlay_buf_cstr(&b));
	return inlay_buf_check(&b, err);
}

static int exec_args_here(const struct transport_options *o, const struct transport_exec *e,
			  struct child_args *a, struct inlay_error *err)
{
	int r = local_args(o, a, err);

	if (r < 0)
		return r;
	free(a->argv[1]); /* "serve" */
	a->argv[1] = strdup("exec");
	a->failed |= !a->argv[1];
	if (e->program) {
		child_add(a, "--program");
		child_add(a, e->program);
	}
	child_add(a, "--");
	child_add(a, e->path);
	for (char *const *arg = e->command; *arg; arg++)
		child_add(a, *arg);
	return 0;
}

int transport_exec(const struct transport_options *o, const struct transport_exec *e,
		   int *ret_status, struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};
	pid_t pid;
	int status;
	int r = o->host ? exec_args_there(o, e, &a, err) : exec_args_here(o, e, &a, err);

	if (r == 0 && (a.failed || a.count == 0))
		r = inlay_error_set(err, -E2BIG, "the command has too many arguments");
	if (r < 0)
		return r;
	a.argv[a.count] = NULL;
	/* In our own group, with our own terminal: what is typed, Ctrl-C too, is for the command. */
	r = posix_spawnp(&pid, a.argv[0], NULL, NULL, a.argv, environ);
	if (r != 0) {
		r = inlay_error_sys(err, -r, "start %s", a.argv[0]);
		(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
		return r;
	}
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGQUIT, SIG_IGN);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	*ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return 0;
}

/* ---- bringing the agent ---- */

static void install_command(const struct agent *a, struct inlay_buf *b)
{
	char name[AGENT_NAME_BYTES], hex[INLAY_DIGEST_HEX];

	agent_name(a, name);
	inlay_digest_hex(&a->id, hex);
	/* It checks itself, byte for byte, before it gets its name; and it must be able to run there. */
	inlay_buf_printf(
		b,
		"exec sh -c 'umask 077; d=\"${XDG_CACHE_HOME:-$HOME/.cache}/inlay\"; "
		"mkdir -p \"$d\" && t=\"$d/.new-$$\" && cat > \"$t\" && chmod 700 \"$t\" && "
		"\"$t\" selfcheck %s && mv -f \"$t\" \"$d/%s\" && exit 0; "
		"r=$?; rm -f \"$t\"; echo \"inlayd does not run in $d (is it mounted noexec, or "
		"full?)\" >&2; exit $r'",
		hex, name);
}

int transport_install(const struct transport_options *o, const char *machine,
		      struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};
	auto_buf struct inlay_buf command = {0};
	auto_buf struct inlay_buf words = {0};
	auto_buf struct inlay_buf said = {0};
	auto_close int extra = -1;
	enum transport_kind kind;
	struct agent agent;
	pid_t pid;
	int status;
	int r = agent_find(o->agents, o->cache, machine, &agent, err);

	if (r == AGENT_NONE)
		return inlay_error_set(err, -ENOEXEC,
				       "%s is a %s machine; there is no inlayd-%s beside inlay",
				       o->host, machine, machine);
	if (r < 0)
		return r;
	if (o->note) {
		inlay_buf_printf(&said, "installing inlayd on %s", o->host);
		o->note(o->ctx, inlay_buf_cstr(&said));
		inlay_buf_clear(&said);
	}
	auto_close int in = open(agent.path, O_RDONLY | O_CLOEXEC);
	auto_close int out = memfd_create("inlay-stderr", MFD_CLOEXEC);
	if (in < 0 || out < 0)
		return inlay_error_sys(err, -errno, "open %s", agent.path);
	install_command(&agent, &command);
	(void)inlay_buf_cstr(&command);
	r = inlay_buf_check(&command, err);
	if (r == 0)
		r = host_args(o, &command, true, &a, &extra, &kind, err);
	if (r == 0)
		r = child_spawn(
			&a, &(struct child_fds){.in = in, .out = out, .err = out, .extra = extra},
			&pid, err);
	if (r < 0)
		return r;
	if (!child_wait(pid, -1, o->stop_fd, &status)) {
		child_end(pid, 0, &status);
		return inlay_error_set(err, -ECANCELED,
				       "told to end while inlayd was installed on %s", o->host);
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	last_words(out, &words);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SSH_FAILED)
		return ssh_failed(o, &words, err);
	inlay_text_escape(&said, words.data, words.len);
	return inlay_error_set(err, -EREMOTEIO, "cannot install inlayd on %s: %s", o->host,
			       inlay_buf_cstr(&said));
}
