/* SPDX-License-Identifier: Apache-2.0 */
#include "build/buildrecipe.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

enum { WORDS_MAX = 256, NAME_MAX_BYTES = 512, STAGES_MAX = 64 };

static const char *const builders[] = {"buildah", "podman", "docker", "mmdebstrap"};

/* ---- finding ---- */

/* Another version of the builder is another file. Hashing its tens of megabytes would cost more than all else here. */
static bool take_version(struct recipe *r)
{
	struct stat st;

	if (access(r->program, X_OK) < 0 || stat(r->program, &st) < 0)
		return false;
	(void)snprintf(r->version, sizeof r->version, " %lld %lld.%09ld", (long long)st.st_size,
		       (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return true;
}

static bool find_builder(const char *name, struct recipe *r)
{
	const char *path = getenv("PATH");

	if (r->on)
		return build_host_builder(r->on, name, r->program, sizeof r->program, r->version,
					  sizeof r->version);

	while (path && *path) {
		size_t n = strcspn(path, ":");
		int len = snprintf(r->program, sizeof r->program, "%.*s/%s", (int)n, path, name);
		if (len > 0 && (size_t)len < sizeof r->program && take_version(r))
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

static int read_recipe(int dirfd, enum builder_kind kind, struct recipe *ret,
		       struct inlay_error *err)
{
	static const char *const files[] = {"Containerfile", "Dockerfile", "mmdebstrap"};
	size_t from = kind == BUILDER_MMDEBSTRAP ? 2 : 0, to = kind == BUILDER_MMDEBSTRAP ? 3 : 2;

	for (size_t i = from; i < to; i++) {
		int r = inlay_read_file(dirfd, files[i], RECIPE_MAX, &ret->text, err);
		if (r == 0)
			(void)snprintf(ret->file, sizeof ret->file, "%s", files[i]);
		if (r != INLAY_IO_MISSING)
			return r;
	}
	return INLAY_IO_MISSING;
}

int recipe_open(int dirfd, const char *builder, const struct build_host *on, struct recipe *ret,
		struct inlay_error *err)
{
	bool known = false, recipe_there = false;

	*ret = (struct recipe){.on = on};
	for (size_t i = 0; i < sizeof builders / sizeof *builders; i++) {
		if (builder && strcmp(builder, builders[i]) != 0)
			continue;
		known = true;
		ret->kind = (enum builder_kind)i;
		ret->builder = builders[i];
		int r = read_recipe(dirfd, ret->kind, ret, err);
		recipe_there |= r == 0;
		if (r < 0)
			return r;
		if (r == 0 && find_builder(builders[i], ret))
			return inlay_buf_check(&ret->text, err);
		inlay_buf_clear(&ret->text);
	}
	recipe_fini(ret);
	if (!known)
		return inlay_error_set(err, -EINVAL,
				       "'%s' is no builder: buildah, podman, docker "
				       "or mmdebstrap",
				       builder);
	return inlay_error_set(err, -ENOENT,
			       recipe_there
				       ? "none of the programs that could build it is there: "
					 "buildah, podman, docker, or mmdebstrap for a file of "
					 "that name"
				       : "no Containerfile, Dockerfile or mmdebstrap in it%s%s",
			       builder ? " for " : "", builder ? builder : "");
}

void recipe_fini(struct recipe *r)
{
	inlay_buf_fini(&r->text);
}

/* ---- lines ---- */

/* A line without its end; *at is the offset of the next one. Lines that go on are several. */
static bool next_line(const struct inlay_buf *text, size_t *at, const char **ret, size_t *ret_len)
{
	if (*at >= text->len)
		return false;
	const uint8_t *line = text->data + *at;
	const uint8_t *end = memchr(line, '\n', text->len - *at);
	*ret = (const char *)line;
	*ret_len = end ? (size_t)(end - line) : text->len - *at;
	*at += *ret_len + 1;
	return true;
}

struct word {
	const char *s;
	size_t len;
};

static size_t split(const char *line, size_t len, struct word *words)
{
	size_t count = 0, at = 0;

	while (count < WORDS_MAX) {
		while (at < len && (line[at] == ' ' || line[at] == '\t' || line[at] == '\r'))
			at++;
		if (at == len || (count == 0 && line[at] == '#'))
			break;
		size_t start = at;
		while (at < len && line[at] != ' ' && line[at] != '\t' && line[at] != '\r')
			at++;
		words[count++] = (struct word){line + start, at - start};
	}
	return count;
}

static bool is(struct word w, const char *text)
{
	return w.len == strlen(text) && strncasecmp(w.s, text, w.len) == 0;
}

static bool copy_name(struct word w, char ret[static NAME_MAX_BYTES])
{
	if (w.len >= NAME_MAX_BYTES)
		return false;
	memcpy(ret, w.s, w.len);
	ret[w.len] = 0;
	return true;
}

/* FROM [--platform=P] IMAGE [AS NAME]: the words of image and name. */
static bool from_line(const struct word *words, size_t count, struct word *image, struct word *name)
{
	size_t at = 1;

	if (count < 2 || !is(words[0], "FROM"))
		return false;
	while (at < count && words[at].len > 2 && memcmp(words[at].s, "--", 2) == 0)
		at++;
	if (at >= count)
		return false;
	*image = words[at];
	*name = at + 2 < count && is(words[at + 1], "AS") ? words[at + 2] : (struct word){"", 0};
	return true;
}

/* "include[dev]" -> "dev" */
static bool bracket(struct word w, struct word *ret)
{
	if (w.len < 10 || memcmp(w.s, "include[", 8) != 0 || w.s[w.len - 1] != ']')
		return false;
	*ret = (struct word){w.s + 8, w.len - 9};
	return true;
}

int recipe_variants(const struct recipe *r,
		    int (*fn)(void *ctx, const char *name, struct inlay_error *err), void *ctx,
		    struct inlay_error *err)
{
	struct word words[WORDS_MAX], image, name;
	size_t at = 0, len;
	const char *line;
	int result = 0;

	while (result == 0 && next_line(&r->text, &at, &line, &len)) {
		size_t count = split(line, len, words);
		char text[NAME_MAX_BYTES];
		bool found = r->kind == BUILDER_MMDEBSTRAP
				     ? count > 0 && bracket(words[0], &name)
				     : from_line(words, count, &image, &name) && name.len > 0;
		if (found && copy_name(name, text))
			result = fn(ctx, text, err);
	}
	return result;
}

/* ---- bases ---- */

struct variables {
	struct word names[STAGES_MAX], values[STAGES_MAX];
	size_t count;
	const char *const *args;
	size_t arg_count;
};

static struct word value_of(const struct variables *v, struct word name)
{
	for (size_t i = v->arg_count; i-- > 0;)
		if (strncmp(v->args[i], name.s, name.len) == 0 && v->args[i][name.len] == '=')
			return (struct word){v->args[i] + name.len + 1,
					     strlen(v->args[i] + name.len + 1)};
	for (size_t i = v->count; i-- > 0;)
		if (v->names[i].len == name.len && memcmp(v->names[i].s, name.s, name.len) == 0)
			return v->values[i];
	return (struct word){"", 0};
}

/* Puts values in for $NAME and ${NAME}. */
static int expand(const struct variables *v, struct word w, struct inlay_buf *b,
		  struct inlay_error *err)
{
	for (size_t i = 0; i < w.len;) {
		bool braces = i + 1 < w.len && w.s[i + 1] == '{';
		size_t start = i + 1 + braces, n = 0;
		if (w.s[i] != '$') {
			inlay_buf_u8(b, (uint8_t)w.s[i++]);
			continue;
		}
		while (start + n < w.len &&
		       (isalnum((unsigned char)w.s[start + n]) || w.s[start + n] == '_'))
			n++;
		if (n == 0 || (braces && (start + n >= w.len || w.s[start + n] != '}')))
			return inlay_error_set(err, -EINVAL,
					       "FROM %.*s: only $NAME and ${NAME} are understood",
					       (int)w.len, w.s);
		struct word value = value_of(v, (struct word){w.s + start, n});
		inlay_buf_add(b, value.s, value.len);
		i = start + n + braces;
	}
	return inlay_buf_check(b, err);
}

static bool is_stage(const struct word *stages, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (is(stages[i], name))
			return true;
	return strcmp(name, "scratch") == 0;
}

static void take_arg(struct variables *v, struct word w)
{
	const char *eq = memchr(w.s, '=', w.len);

	if (!eq || v->count == STAGES_MAX)
		return;
	size_t n = (size_t)(eq - w.s);
	v->names[v->count] = (struct word){w.s, n};
	v->values[v->count++] = (struct word){eq + 1, w.len - n - 1};
}

int recipe_bases(const struct recipe *r, const char *const *args, size_t arg_count,
		 int (*fn)(void *ctx, const char *image, size_t off, size_t len,
			   struct inlay_error *err),
		 void *ctx, struct inlay_error *err)
{
	struct variables v = {.args = args, .arg_count = arg_count};
	struct word words[WORDS_MAX], stages[STAGES_MAX], image, name;
	size_t stage_count = 0, at = 0, len;
	const char *line;
	int result = 0;

	while (result == 0 && r->kind != BUILDER_MMDEBSTRAP &&
	       next_line(&r->text, &at, &line, &len)) {
		auto_buf struct inlay_buf b = {0};
		size_t count = split(line, len, words);
		if (count > 1 && is(words[0], "ARG"))
			take_arg(&v, words[1]);
		if (!from_line(words, count, &image, &name))
			continue;
		result = expand(&v, image, &b, err);
		if (result == 0 && !is_stage(stages, stage_count, inlay_buf_cstr(&b)))
			result = fn(ctx, inlay_buf_cstr(&b),
				    (size_t)(image.s - (const char *)r->text.data), image.len, err);
		if (name.len > 0 && stage_count < STAGES_MAX)
			stages[stage_count++] = name;
	}
	return result;
}

/* ---- mmdebstrap ---- */

static int take_line(struct bootstrap *b, const struct word *words, size_t count,
		     const char *variant, unsigned line, struct inlay_error *err)
{
	static const char *const keys[] = {"suite", "epoch", "style"};
	struct inlay_buf *to[] = {&b->suite, &b->epoch, &b->style};
	struct word in;

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		if (!is(words[0], keys[i]) || count != 2)
			continue;
		inlay_buf_clear(to[i]);
		inlay_buf_add(to[i], words[1].s, words[1].len);
		return 0;
	}
	if (is(words[0], "mirror") && count > 1) {
		inlay_buf_clear(&b->mirror);
		inlay_buf_add(&b->mirror, words[1].s,
			      (size_t)(words[count - 1].s + words[count - 1].len - words[1].s));
		return 0;
	}
	bool bracketed = bracket(words[0], &in);
	if (!bracketed && !is(words[0], "include"))
		return inlay_error_set(err, -EINVAL, "line %u: '%.*s' is not understood", line,
				       (int)words[0].len, words[0].s);
	if (bracketed && !is(in, variant))
		return 0;
	for (size_t i = 1; i < count; i++) {
		if (words[i].s[0] == '-' || memchr(words[i].s, ',', words[i].len))
			return inlay_error_set(err, -EINVAL, "line %u: '%.*s' is no package", line,
					       (int)words[i].len, words[i].s);
		if (b->packages.len > 0)
			inlay_buf_u8(&b->packages, ',');
		inlay_buf_add(&b->packages, words[i].s, words[i].len);
	}
	return 0;
}

int recipe_bootstrap(const struct recipe *r, const char *variant, struct bootstrap *ret,
		     struct inlay_error *err)
{
	struct word words[WORDS_MAX];
	size_t at = 0, len;
	const char *line;
	unsigned number = 0;
	int result = 0;

	*ret = (struct bootstrap){0};
	inlay_buf_printf(&ret->style, "minbase");
	inlay_buf_printf(&ret->epoch, "0");
	while (result == 0 && next_line(&r->text, &at, &line, &len)) {
		size_t count = split(line, len, words);
		number++;
		if (count > 0)
			result = take_line(ret, words, count, variant, number, err);
	}
	if (result == 0 && ret->suite.len == 0)
		result = inlay_error_set(err, -EINVAL, "it names no suite");
	if (result < 0) {
		bootstrap_fini(ret);
		return inlay_error_prefix(err, result, "%s", r->file);
	}
	return 0;
}

void bootstrap_fini(struct bootstrap *b)
{
	inlay_buf_fini(&b->suite);
	inlay_buf_fini(&b->epoch);
	inlay_buf_fini(&b->packages);
	inlay_buf_fini(&b->mirror);
	inlay_buf_fini(&b->style);
}
