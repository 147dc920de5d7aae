/* SPDX-License-Identifier: Apache-2.0 */
#include "run/users.h"

#include <errno.h>
#include <stdbool.h>

#include "inlay/container.h"

struct field {
	const char *text;
	size_t len;
};

enum { FIELDS_MAX = 7 };

/* One line of passwd or group: its fields between colons, missing ones empty. */
struct line {
	struct field fields[FIELDS_MAX];
};

/* Steps to the next line; false at the end. */
static bool next_line(const char **at, const char *end, struct line *ret)
{
	if (*at >= end)
		return false;
	const char *newline = memchr(*at, '\n', (size_t)(end - *at));
	const char *stop = newline ? newline : end, *p = *at;

	*ret = (struct line){0};
	for (size_t i = 0; i < FIELDS_MAX && p <= stop; i++) {
		const char *colon = memchr(p, ':', (size_t)(stop - p));
		const char *to = colon ? colon : stop;
		ret->fields[i] = (struct field){p, (size_t)(to - p)};
		p = to + 1;
	}
	*at = stop + 1;
	return true;
}

static bool is(const struct field *f, const char *text, size_t len)
{
	return f->len == len && (len == 0 || memcmp(f->text, text, len) == 0);
}

static bool number(const char *text, size_t len, uint32_t *ret)
{
	uint64_t n = 0;

	if (len == 0 || len > 10)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(text[i] - '0');
	}
	*ret = (uint32_t)n;
	return n <= USERS_ID_MAX;
}

/* The line whose first field is the name, or whose third is the number. */
static bool find(const struct inlay_buf *file, const char *name, size_t len, struct line *ret)
{
	const char *at = (const char *)file->data, *end = at + file->len;
	uint32_t wanted = 0, id;
	bool numeric = number(name, len, &wanted);

	while (file->len && next_line(&at, end, ret)) {
		const struct field *f = ret->fields;
		if (f[0].len == 0 || !number(f[2].text, f[2].len, &id))
			continue;
		if (is(&f[0], name, len) || (numeric && id == wanted))
			return true;
	}
	return false;
}

/* "a,b,c" has the name. */
static bool lists(const struct field *members, const struct field *name)
{
	const char *at = members->text, *end = at + members->len;

	while (members->len && at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		const char *to = comma ? comma : end;
		if (is(name, at, (size_t)(to - at)))
			return true;
		at = to + 1;
	}
	return false;
}

static int add_others(const struct inlay_buf *group, const struct field *name, struct users_id *id,
		      struct inlay_error *err)
{
	const char *at = (const char *)group->data, *end = at + group->len;
	struct line line;
	uint32_t gid;

	while (group->len && next_line(&at, end, &line)) {
		if (!number(line.fields[2].text, line.fields[2].len, &gid) ||
		    !lists(&line.fields[3], name))
			continue;
		if (id->extra_count == USERS_EXTRA_MAX)
			return inlay_error_set(err, -E2BIG, "'%.*s' is in more than %d groups",
					       (int)name->len, name->text, USERS_EXTRA_MAX);
		id->extra[id->extra_count++] = gid;
	}
	return 0;
}

static int unknown(const char *what, const char *name, size_t len, struct inlay_error *err)
{
	return inlay_error_set(err, -ENOENT, "the image has no %s '%.*s'", what, (int)len, name);
}

int users_find(const char *user, const struct inlay_buf *passwd, const struct inlay_buf *group,
	       struct users_id *ret, struct inlay_error *err)
{
	const char *colon = strchr(user, ':'), *name = *user ? user : "0";
	size_t len = colon && *user ? (size_t)(colon - user) : strlen(name);
	struct line line = {0};

	*ret = (struct users_id){0};
	if (strlen(user) > INLAY_CONTAINER_USER_MAX)
		return inlay_error_set(err, -E2BIG, "the name of a user is too long");
	bool known = find(passwd, name, len, &line);
	if (known) {
		(void)number(line.fields[2].text, line.fields[2].len, &ret->uid);
		if (!number(line.fields[3].text, line.fields[3].len, &ret->gid))
			return inlay_error_set(err, -EBADMSG, "the image's passwd is damaged");
	} else if (!number(name, len, &ret->uid)) {
		return unknown("user", name, len, err);
	}
	if (!colon)
		return known ? add_others(group, &line.fields[0], ret, err) : 0;
	name = colon + 1;
	len = strlen(name);
	if (find(group, name, len, &line))
		(void)number(line.fields[2].text, line.fields[2].len, &ret->gid);
	else if (!number(name, len, &ret->gid))
		return unknown("group", name, len, err);
	return 0;
}
