/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/setup.h"

#include <string.h>

#include "inlay/written.h"

static const char *const upper_words[] = {"", "keep", "source-wins", "read-only"};
static const char *const switch_words[] = {"", "off", "on"};
static const char *const owner_words[] = {"", "squash", "keep"};

static bool pick(const char *value, const char *const *words, size_t count, uint8_t *ret)
{
	for (size_t i = 1; i < count; i++) {
		if (strcmp(value, words[i]) == 0) {
			*ret = (uint8_t)i;
			return true;
		}
	}
	return false;
}

#define PICK(value, words, ret) pick(value, words, sizeof(words) / sizeof *(words), ret)

/* "./build/" is "build". */
static bool add_redirect(struct setup *s, const char *path)
{
	while (strncmp(path, "./", 2) == 0)
		path += 2;
	size_t len = strlen(path);
	while (len > 0 && path[len - 1] == '/')
		len--;
	if (len == 0 || len > INLAY_REDIRECT_PATH_MAX || *path == '/')
		return false;
	inlay_buf_add(&s->redirects, path, len);
	inlay_buf_u8(&s->redirects, 0);
	s->config.set_redirects = true;
	return true;
}

bool setup_take(struct setup *s, int option, const char *value, const char **ret_why)
{
	bool good = true;

	switch (option) {
	case SETUP_UPPER:
		good = PICK(value, upper_words, &s->config.upper);
		*ret_why = good ? NULL : "--upper is keep, source-wins or read-only";
		return true;
	case SETUP_XATTRS:
		good = PICK(value, switch_words, &s->config.xattrs);
		*ret_why = good ? NULL : "--xattrs is on or off";
		return true;
	case SETUP_OWNER:
		good = PICK(value, owner_words, &s->config.owner);
		*ret_why = good ? NULL : "--owner is squash or keep";
		return true;
	case SETUP_REDIRECT:
		good = add_redirect(s, value);
		*ret_why = good ? NULL : "--redirect takes a path inside the workspace";
		return true;
	case SETUP_NO_REDIRECT:
		s->config.set_redirects = true;
		return true;
	default:
		return false;
	}
}

const struct message_config *setup_finish(struct setup *s)
{
	s->config.redirects =
		(struct message_text){(const char *)s->redirects.data, s->redirects.len};
	return &s->config;
}

void setup_fini(struct setup *s)
{
	inlay_buf_fini(&s->redirects);
}

const char *setup_upper_word(const struct message_config *c)
{
	return upper_words[c->upper];
}

const char *setup_owner_word(const struct message_config *c)
{
	return owner_words[c->owner];
}
