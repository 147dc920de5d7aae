/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/run.h"
#include "inlay/text.h"
#include "run/speclists.h"

#define SPEC_MAGIC "iRUN"

enum { SPEC_VERSION = 1, SPEC_WANTED = 1 << 0, STOP_TIMEOUT_MAX_S = 86400 };

bool inlay_run_name_valid(const char *name, size_t len)
{
	if (len == 0 || len > INLAY_RUN_NAME_MAX || name[0] == '.')
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
		if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-')
			return false;
	}
	return true;
}

void speclist_put(struct inlay_buf *b, char *const *list)
{
	size_t count = 0;

	while (list && list[count])
		count++;
	inlay_buf_varint(b, count);
	for (size_t i = 0; i < count; i++)
		inlay_buf_string(b, list[i], strlen(list[i]));
}

void inlay_run_spec_encode(const struct inlay_run_spec *spec, struct inlay_buf *b)
{
	size_t start = b->len;

	inlay_buf_add(b, SPEC_MAGIC, 4);
	inlay_buf_u8(b, SPEC_VERSION);
	inlay_buf_u8(b, spec->wanted ? SPEC_WANTED : 0);
	inlay_buf_u8(b, (uint8_t)spec->restart);
	inlay_buf_u8(b, (uint8_t)spec->stop_signal);
	inlay_buf_u64(b, (uint64_t)spec->stop_timeout_ns);
	inlay_buf_string(b, spec->name, strlen(spec->name));
	inlay_buf_string(b, spec->dir ? spec->dir : "", spec->dir ? strlen(spec->dir) : 0);
	speclist_put(b, spec->argv);
	speclist_put(b, spec->env);
	speclist_put(b, spec->devices);
	if (!b->failed)
		inlay_buf_u64(b, inlay_xxh3(b->data + start, b->len - start));
}

char *speclist_get_text(struct inlay_cursor *c)
{
	size_t len;
	const uint8_t *p = inlay_cursor_string(c, INLAY_RUN_SPEC_MAX, &len);

	if (!p || memchr(p, 0, len)) {
		c->failed = true;
		return NULL;
	}
	return inlay_dup((const char *)p, len);
}

int speclist_get(struct inlay_cursor *c, char ***ret, struct inlay_error *err)
{
	uint64_t count = inlay_cursor_varint(c);

	if (c->failed || count > INLAY_RUN_STRINGS_MAX || count > c->left)
		return inlay_error_set(err, -EBADMSG, "too many arguments or variables");
	char **list = calloc(count + 1, sizeof *list);
	if (!list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	*ret = list;
	for (uint64_t i = 0; i < count; i++) {
		list[i] = speclist_get_text(c);
		if (c->failed)
			return inlay_error_set(err, -EBADMSG, "a bad argument or variable");
		if (!list[i])
			return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

bool speclist_are_vars(char *const *list)
{
	for (; *list; list++)
		if (**list == '=' || !strchr(*list, '='))
			return false;
	return true;
}

static bool plausible(const struct inlay_run_spec *s)
{
	for (char **d = s->devices; *d; d++)
		if (**d != '/')
			return false;
	return s->argv[0] && *s->argv[0] && speclist_are_vars(s->env) &&
	       s->restart <= INLAY_RUN_NEVER && s->stop_signal > 0 && s->stop_signal < NSIG &&
	       s->stop_timeout_ns >= 0 && s->stop_timeout_ns <= STOP_TIMEOUT_MAX_S * 1000000000ll;
}

int inlay_run_spec_decode(const void *bytes, size_t len, struct inlay_run_spec *ret,
			  struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	struct inlay_run_spec s = {0};
	size_t name_len;

	if (len > INLAY_RUN_SPEC_MAX)
		return inlay_error_set(err, -E2BIG, "a program's description of %zu bytes", len);
	const uint8_t *magic = inlay_cursor_bytes(&c, 4);
	uint8_t version = inlay_cursor_u8(&c), flags = inlay_cursor_u8(&c);
	if (magic && memcmp(magic, SPEC_MAGIC, 4) == 0 && version > SPEC_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "the program was described by a newer inlay (version %u)",
				       version);
	s.wanted = flags & SPEC_WANTED;
	s.restart = inlay_cursor_u8(&c);
	s.stop_signal = inlay_cursor_u8(&c);
	s.stop_timeout_ns = (int64_t)inlay_cursor_u64(&c);
	const uint8_t *name = inlay_cursor_string(&c, INLAY_RUN_NAME_MAX, &name_len);
	if (!name || memcmp(magic, SPEC_MAGIC, 4) != 0 || version != SPEC_VERSION ||
	    flags > SPEC_WANTED || !inlay_run_name_valid((const char *)name, name_len))
		return inlay_error_set(err, -EBADMSG, "a bad description of a program");
	memcpy(s.name, name, name_len);
	s.dir = speclist_get_text(&c);
	int r = speclist_get(&c, &s.argv, err);
	if (r == 0)
		r = speclist_get(&c, &s.env, err);
	if (r == 0)
		r = speclist_get(&c, &s.devices, err);
	uint64_t sum = inlay_cursor_u64(&c);
	if (r == 0 && (!inlay_cursor_done(&c) || !s.dir || sum != inlay_xxh3(bytes, len - 8) ||
		       !plausible(&s)))
		r = inlay_error_set(err, -EBADMSG, "a bad description of a program");
	if (r < 0)
		inlay_run_spec_fini(&s);
	else
		*ret = s;
	return r;
}

void inlay_run_strings_free(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
	free(list);
}

void inlay_run_spec_fini(struct inlay_run_spec *spec)
{
	inlay_run_strings_free(spec->argv);
	inlay_run_strings_free(spec->env);
	inlay_run_strings_free(spec->devices);
	free(spec->dir);
	*spec = (struct inlay_run_spec){0};
}

int inlay_run_parse_signal(const char *text, int *ret, struct inlay_error *err)
{
	const char *name = strncmp(text, "SIG", 3) == 0 ? text + 3 : text;
	uint64_t number;

	for (int i = 1; i < NSIG; i++) {
		const char *abbrev = sigabbrev_np(i);
		if (abbrev && strcmp(abbrev, name) == 0) {
			*ret = i;
			return 0;
		}
	}
	if (inlay_parse_u64(text, &number, NULL) < 0 || number == 0 || number >= NSIG)
		return inlay_error_set(err, -EINVAL, "'%s' is no signal", text);
	*ret = (int)number;
	return 0;
}

const char *inlay_run_state_name(enum inlay_run_state state)
{
	switch (state) {
	case INLAY_RUN_STOPPED:
		return "stopped";
	case INLAY_RUN_RUNNING:
		return "running";
	case INLAY_RUN_STOPPING:
		return "stopping";
	case INLAY_RUN_WAITING:
		return "waiting";
	case INLAY_RUN_ENDED:
		return "ended";
	default:
		return "?";
	}
}
