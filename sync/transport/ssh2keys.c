/* SPDX-License-Identifier: Apache-2.0 */
/* Who the host is, and who we are. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "transport/ssh2in.h"

/* From this version on RSA keys sign with SHA-2, which is what servers still take. */
enum { RSA_SHA2_VERSION = 0x010b00 };

static const struct {
	const char *name; /* as an algorithm */
	int known;        /* as a line of known_hosts */
	int host;         /* as the server's key */
} types[] = {
	{"ssh-ed25519", LIBSSH2_KNOWNHOST_KEY_ED25519, LIBSSH2_HOSTKEY_TYPE_ED25519},
	{"ecdsa-sha2-nistp256", LIBSSH2_KNOWNHOST_KEY_ECDSA_256, LIBSSH2_HOSTKEY_TYPE_ECDSA_256},
	{"ecdsa-sha2-nistp384", LIBSSH2_KNOWNHOST_KEY_ECDSA_384, LIBSSH2_HOSTKEY_TYPE_ECDSA_384},
	{"ecdsa-sha2-nistp521", LIBSSH2_KNOWNHOST_KEY_ECDSA_521, LIBSSH2_HOSTKEY_TYPE_ECDSA_521},
	{"rsa-sha2-512", LIBSSH2_KNOWNHOST_KEY_SSHRSA, LIBSSH2_HOSTKEY_TYPE_RSA},
	{"rsa-sha2-256", LIBSSH2_KNOWNHOST_KEY_SSHRSA, LIBSSH2_HOSTKEY_TYPE_RSA},
};
enum { TYPES = sizeof types / sizeof *types };

/* ---- known_hosts ---- */

/* Lines that it cannot read are left out, as ssh does it. */
static void take_known_line(struct ssh2 *s, const char *line, size_t len)
{
	auto_buf struct inlay_buf b = {0};

	/* libssh2 takes a marker for the name of a host. */
	if (len == 0 || line[strspn(line, " \t")] == '@')
		return;
	/* It cuts a line that does not end with a newline, and may look one byte behind it. */
	inlay_buf_add(&b, line, len);
	inlay_buf_printf(&b, "\n");
	if (!b.failed)
		(void)libssh2_knownhost_readline(s->known, (const char *)b.data, b.len,
						 LIBSSH2_KNOWNHOST_FILE_OPENSSH);
}

static void read_known_file(struct ssh2 *s, const char *path)
{
	auto_buf struct inlay_buf name = {0}, text = {0};

	sshconf_path(path, &name);
	if (inlay_read_file(AT_FDCWD, inlay_buf_cstr(&name), SSH2_KNOWN_BYTES_MAX, &text, NULL) !=
	    0)
		return;
	(void)inlay_buf_cstr(&text);
	const char *special = sshconf_special_known_host((char *)text.data, text.len, s->name);
	if (special)
		s->special = special;
	for (size_t at = 0; at < text.len;) {
		const char *line = (char *)text.data + at;
		const char *end = memchr(line, '\n', text.len - at);
		size_t len = end ? (size_t)(end - line) : text.len - at;
		at += len + 1;
		take_known_line(s, line, len);
	}
}

void ssh2_read_known(struct ssh2 *s)
{
	s->known = libssh2_knownhost_init(s->session);
	if (!s->known)
		ssh2_die(s, SSH2_FAILED, "out of memory");
	for (size_t i = 0; s->conf.known_hosts[i]; i++)
		read_known_file(s, s->conf.known_hosts[i]);
	if (s->special)
		ssh2_die(s, SSH2_UNFIT, "known_hosts has %s for %s, which libssh2 does not know",
			 s->special, s->name);
}

static int look_up(const struct ssh2 *s, const char *key, size_t len, int mask)
{
	return libssh2_knownhost_checkp(s->known, s->name, -1, key, len,
					LIBSSH2_KNOWNHOST_TYPE_PLAIN | mask, NULL);
}

/* A key that nobody has: a line of that type for the host makes it a mismatch. */
static bool has_type(const struct ssh2 *s, int known)
{
	return look_up(s, "AAAA", 4, known | LIBSSH2_KNOWNHOST_KEYENC_BASE64) !=
	       LIBSSH2_KNOWNHOST_CHECK_NOTFOUND;
}

void ssh2_check_host(struct ssh2 *s)
{
	size_t len;
	int type, known = LIBSSH2_KNOWNHOST_KEY_UNKNOWN;
	const char *key = libssh2_session_hostkey(s->session, &len, &type);

	for (size_t i = 0; i < TYPES; i++)
		if (types[i].host == type)
			known = types[i].known;
	if (!key || look_up(s, key, len, known | LIBSSH2_KNOWNHOST_KEYENC_RAW) !=
			    LIBSSH2_KNOWNHOST_CHECK_MATCH)
		ssh2_die(s, SSH2_FAILED,
			 "Host key verification failed: %s shows another key than known_hosts has "
			 "for "
			 "it",
			 s->name);
}

/* ---- what both sides speak ---- */

/*
 * What libssh2 has of the list, without what is open to the Terrapin attack: no version of libssh2 in use can
 * refuse a server that has it and no strict key exchange. Given a name that it does not have, libssh2
 * 1.10 shortens the list with a memcpy onto itself; so it gets none.
 */
static void add_common(const struct ssh2 *s, int method, const char *list, struct inlay_buf *b)
{
	const char **ours = NULL;
	int count = libssh2_session_supported_algs(s->session, method, &ours);

	while (*list) {
		size_t n = strcspn(list, ",");
		bool bad = memmem(list, n, "chacha20", 8) || memmem(list, n, "-etm@", 5);
		for (int i = 0; !bad && i < count; i++) {
			if (strlen(ours[i]) != n || memcmp(ours[i], list, n) != 0)
				continue;
			inlay_buf_printf(b, "%s%s", b->len ? "," : "", ours[i]);
			break;
		}
		list += n + (list[n] == ',');
	}
	if (count > 0)
		libssh2_free(s->session, ours);
}

/* False when nothing of the list is left. */
static bool prefer(const struct ssh2 *s, int method, const char *list)
{
	auto_buf struct inlay_buf b = {0};

	add_common(s, method, list, &b);
	return b.len > 0 &&
	       libssh2_session_method_pref(s->session, method, inlay_buf_cstr(&b)) == 0;
}

/* The server shall show a key of a type that known_hosts has for it. */
static void prefer_host_keys(const struct ssh2 *s)
{
	auto_buf struct inlay_buf b = {0};
	bool some = false;

	for (size_t i = 0; i < TYPES; i++) {
		if (!has_type(s, types[i].known))
			continue;
		some = true;
		if (sshconf_lists(s->conf.host_keys, types[i].name))
			inlay_buf_printf(&b, "%s%s", b.len ? "," : "", types[i].name);
	}
	if (!some)
		ssh2_die(s, SSH2_UNFIT,
			 "%s is not in known_hosts. Connect once with ssh and check its key",
			 s->name);
	if (!prefer(s, LIBSSH2_METHOD_HOSTKEY, inlay_buf_cstr(&b)))
		ssh2_die(s, SSH2_UNFIT,
			 "known_hosts has keys of %s of types only that libssh2 %s cannot check",
			 s->name, libssh2_version(0));
}

void ssh2_prefer(struct ssh2 *s)
{
	const struct {
		int method;
		const char *list, *what;
	} lists[] = {
		{LIBSSH2_METHOD_KEX, s->conf.kex, "key exchange"},
		{LIBSSH2_METHOD_CRYPT_CS, s->conf.ciphers, "cipher"},
		{LIBSSH2_METHOD_CRYPT_SC, s->conf.ciphers, "cipher"},
		{LIBSSH2_METHOD_MAC_CS, s->conf.macs, "MAC"},
		{LIBSSH2_METHOD_MAC_SC, s->conf.macs, "MAC"},
	};

	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
		if (!prefer(s, lists[i].method, lists[i].list))
			ssh2_die(s, SSH2_UNFIT,
				 "libssh2 %s has no %s of those that your ssh configuration allows",
				 libssh2_version(0), lists[i].what);
	prefer_host_keys(s);
}

/* ---- identities ---- */

/* The type is the first string of a public key. */
static bool type_of_blob(const uint8_t *blob, size_t len, char ret[static 48])
{
	if (len < 4)
		return false;
	size_t n = (size_t)blob[0] << 24 | (size_t)blob[1] << 16 | (size_t)blob[2] << 8 | blob[3];
	if (n == 0 || n > 47 || n > len - 4 || memchr(blob + 4, 0, n))
		return false;
	memcpy(ret, blob + 4, n);
	ret[n] = 0;
	return true;
}

static bool from_base64(const char *text, size_t len, struct inlay_buf *ret)
{
	EVP_ENCODE_CTX *ctx = EVP_ENCODE_CTX_new();
	uint8_t *room = inlay_buf_reserve(ret, len + 4);
	int n = 0, more = 0;
	bool ok = ctx && room;

	if (ok) {
		EVP_DecodeInit(ctx);
		ok = EVP_DecodeUpdate(ctx, room, &n, (const uint8_t *)text, (int)len) >= 0 &&
		     EVP_DecodeFinal(ctx, room + n, &more) >= 0;
	}
	EVP_ENCODE_CTX_free(ctx);
	if (ok)
		ret->len += (size_t)(n + more);
	return ok;
}

/* "ssh-ed25519 AAAA... comment" */
static void take_public(struct ssh2_key *k, const struct inlay_buf *text)
{
	const char *p = (const char *)text->data, *end = p + text->len;
	const char *space = text->len ? memchr(p, ' ', text->len) : NULL;

	if (!space)
		return;
	const char *from = space + 1, *to = from;
	while (to<end && * to> ' ')
		to++;
	if (!from_base64(from, (size_t)(to - from), &k->blob) ||
	    !type_of_blob(k->blob.data, k->blob.len, k->type))
		inlay_buf_clear(&k->blob);
}

static const uint8_t *be_string(struct inlay_cursor *c, size_t *ret_len)
{
	uint8_t n[4] = {0};
	const uint8_t *p = inlay_cursor_bytes(c, 4);

	if (p)
		memcpy(n, p, 4);
	*ret_len = (size_t)n[0] << 24 | (size_t)n[1] << 16 | (size_t)n[2] << 8 | n[3];
	return inlay_cursor_bytes(c, *ret_len);
}

/* OpenSSH's own form tells without a passphrase which key it is. Gives false when one is needed. */
static bool take_openssh(struct ssh2_key *k, const char *text, size_t len)
{
	static const char begin[] = "-----BEGIN OPENSSH PRIVATE KEY-----";
	static const char magic[] = "openssh-key-v1";
	auto_buf struct inlay_buf b = {0};
	const char *from = memmem(text, len, begin, sizeof begin - 1);
	size_t n;

	if (!from)
		return true;
	from += sizeof begin - 1;
	const char *end = memmem(from, len - (size_t)(from - text), "-----END", 8);
	if (!end || !from_base64(from, (size_t)(end - from), &b))
		return true;
	struct inlay_cursor c = inlay_cursor_of(b.data, b.len);
	const uint8_t *p = inlay_cursor_bytes(&c, sizeof magic);
	if (!p || memcmp(p, magic, sizeof magic) != 0)
		return true;
	p = be_string(&c, &n);
	bool plain = p && n == 4 && memcmp(p, "none", 4) == 0;
	(void)be_string(&c, &n);
	(void)be_string(&c, &n);
	(void)inlay_cursor_bytes(&c, 4);
	p = be_string(&c, &n);
	if (p && !c.failed && k->blob.len == 0 && type_of_blob(p, n, k->type))
		inlay_buf_add(&k->blob, p, n);
	OPENSSL_cleanse(b.data, b.len);
	return plain;
}

static bool usable(const struct ssh2 *s, const char *type)
{
	if (*type == 0)
		return true;
	if (strcmp(type, "ssh-rsa") == 0)
		return libssh2_version(RSA_SHA2_VERSION) != NULL &&
		       (sshconf_lists(s->conf.user_keys, "rsa-sha2-512") ||
			sshconf_lists(s->conf.user_keys, "rsa-sha2-256"));
	for (size_t i = 0; i < TYPES; i++)
		if (strcmp(type, types[i].name) == 0)
			return !s->conf.user_keys || sshconf_lists(s->conf.user_keys, type);
	return false;
}

static void set_aside(struct ssh2 *s, const char *path, const char *why)
{
	inlay_buf_printf(&s->not_usable, "%s%s (%s)", s->not_usable.len ? ", " : "", path, why);
}

/* The secret stays empty where libssh2 could not use it. */
static void take_secret(struct ssh2 *s, struct ssh2_key *k)
{
	const char *text = (const char *)k->secret.data;
	size_t len = k->secret.len;
	bool plain = take_openssh(k, text, len) && !memmem(text, len, "ENCRYPTED", 9);
	const char *why = NULL;

	if (memmem(text, len, "BEGIN RSA PRIVATE KEY", 21))
		(void)snprintf(k->type, sizeof k->type, "ssh-rsa");
	if (!plain)
		why = "has a passphrase";
	else if (!usable(s, k->type))
		why = *k->type ? k->type : "of a type that it does not know";
	if (!why)
		return;
	set_aside(s, k->path, why);
	OPENSSL_cleanse(k->secret.data, len);
	inlay_buf_fini(&k->secret);
}

static void read_key(struct ssh2 *s, const char *path)
{
	struct ssh2_key *k = &s->keys[s->key_count];
	auto_buf struct inlay_buf name = {0}, text = {0};

	*k = (struct ssh2_key){.path = path};
	sshconf_path(path, &name);
	size_t len = name.len;
	int r = inlay_read_file(AT_FDCWD, inlay_buf_cstr(&name), SSH2_KEY_BYTES_MAX, &k->secret,
				NULL);
	inlay_buf_printf(&name, ".pub");
	if (inlay_read_file(AT_FDCWD, inlay_buf_cstr(&name), SSH2_KEY_BYTES_MAX, &text, NULL) == 0)
		take_public(k, &text);
	name.len = len;
	inlay_buf_printf(&name, "-cert.pub");
	if (access(inlay_buf_cstr(&name), F_OK) == 0)
		set_aside(s, path, "has a certificate");
	if (r == 0 && k->secret.len > 0)
		take_secret(s, k);
	else
		inlay_buf_fini(&k->secret);
	if (k->secret.len || k->blob.len)
		s->key_count++;
}

/* NULL: no agent. "$NAME" and SSH_AUTH_SOCK are names of variables. */
static const char *agent_path(const struct ssh2 *s, struct inlay_buf *b)
{
	const char *given = s->conf.identity_agent;

	if (!given || strcmp(given, "SSH_AUTH_SOCK") == 0)
		return getenv("SSH_AUTH_SOCK");
	if (strcmp(given, "none") == 0)
		return NULL;
	if (*given == '$')
		return getenv(given + 1);
	sshconf_path(given, b);
	return inlay_buf_cstr(b);
}

void ssh2_read_keys(struct ssh2 *s)
{
	auto_buf struct inlay_buf b = {0};
	const char *path = agent_path(s, &b);

	for (size_t i = 0; s->conf.identity[i]; i++)
		read_key(s, s->conf.identity[i]);
	if (!path || !*path)
		return;
	s->agent = libssh2_agent_init(s->session);
	if (!s->agent)
		return;
	libssh2_agent_set_identity_path(s->agent, path);
	if (libssh2_agent_connect(s->agent) != 0 || libssh2_agent_list_identities(s->agent) != 0) {
		libssh2_agent_free(s->agent);
		s->agent = NULL;
	}
}

/* ---- authentication ---- */

static const struct ssh2_key *configured(const struct ssh2 *s, const uint8_t *blob, size_t len)
{
	for (size_t i = 0; i < s->key_count; i++)
		if (s->keys[i].blob.len == len && memcmp(s->keys[i].blob.data, blob, len) == 0)
			return &s->keys[i];
	return NULL;
}

static void note_tried(struct ssh2 *s, const char *what, const char *where)
{
	inlay_buf_printf(&s->tried, "%s%s%s", s->tried.len ? ", " : "", what, where);
}

static bool is_in(const struct ssh2 *s, int r)
{
	if (r == LIBSSH2_ERROR_SOCKET_DISCONNECT || r == LIBSSH2_ERROR_SOCKET_RECV ||
	    r == LIBSSH2_ERROR_SOCKET_SEND)
		ssh2_die(s, SSH2_FAILED,
			 "%s closed the connection during the authentication. Tried: %s", s->name,
			 inlay_buf_cstr((struct inlay_buf *)&s->tried));
	return r == 0;
}

/* As ssh: the agent's keys that are configured, then its others, then files. */
static bool try_agent(struct ssh2 *s, bool want_configured)
{
	struct libssh2_agent_publickey *id = NULL, *previous = NULL;
	char type[48];
	int r;

	while (s->agent && libssh2_agent_get_identity(s->agent, &id, previous) == 0) {
		previous = id;
		if ((configured(s, id->blob, id->blob_len) != NULL) != want_configured)
			continue;
		if (!type_of_blob(id->blob, id->blob_len, type))
			continue;
		if (!usable(s, type)) {
			set_aside(s, "a key in the agent", type);
			continue;
		}
		note_tried(s, type, " in the agent");
		while ((r = libssh2_agent_userauth(s->agent, s->conf.user, id)) ==
		       LIBSSH2_ERROR_EAGAIN)
			ssh2_wait(s);
		if (is_in(s, r))
			return true;
	}
	return false;
}

static bool try_files(struct ssh2 *s)
{
	int r;

	for (size_t i = 0; i < s->key_count; i++) {
		const struct ssh2_key *k = &s->keys[i];
		if (k->secret.len == 0)
			continue;
		note_tried(s, k->path, "");
		while ((r = libssh2_userauth_publickey_frommemory(
				s->session, s->conf.user, strlen(s->conf.user), NULL, 0,
				(const char *)k->secret.data, k->secret.len, NULL)) ==
		       LIBSSH2_ERROR_EAGAIN)
			ssh2_wait(s);
		if (is_in(s, r))
			return true;
	}
	return false;
}

static void forget_secrets(struct ssh2 *s)
{
	for (size_t i = 0; i < s->key_count; i++) {
		if (s->keys[i].secret.data)
			OPENSSL_cleanse(s->keys[i].secret.data, s->keys[i].secret.cap);
		inlay_buf_fini(&s->keys[i].secret);
		inlay_buf_fini(&s->keys[i].blob);
	}
	if (s->agent) {
		(void)libssh2_agent_disconnect(s->agent);
		libssh2_agent_free(s->agent);
	}
}

void ssh2_authenticate(struct ssh2 *s)
{
	bool in = try_agent(s, true) || (!s->conf.identities_only && try_agent(s, false)) ||
		  try_files(s);

	forget_secrets(s);
	if (in)
		return;
	if (s->not_usable.len)
		ssh2_die(s, SSH2_UNFIT, "libssh2 %s cannot use your keys: %s", libssh2_version(0),
			 inlay_buf_cstr(&s->not_usable));
	ssh2_die(s, SSH2_FAILED, "%s@%s: Permission denied (publickey). Tried: %s", s->conf.user,
		 s->name, s->tried.len ? inlay_buf_cstr(&s->tried) : "nothing, there is no key");
}
