/* SPDX-License-Identifier: Apache-2.0 */
#include "build/buildlock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build/buildinputs.h"
#include "build/buildjobs.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"

enum { LOCK_MAX = 1 << 20, OUTPUT_MAX = 64 << 10, DIGEST_TEXT = 7 + INLAY_DIGEST_HEX };

struct resolving {
	int dirfd;
	const struct recipe *recipe;
	const struct build_bases_options *o;
	struct build_bases *ret;
	struct inlay_buf lock;
	size_t copied; /* of the recipe's text */
	bool changed;
};

/* The digest of a lock's line, or false. */
static bool find_locked(struct resolving *s, const char *image, char ret[static DIGEST_TEXT])
{
	const char *text = inlay_buf_cstr(&s->lock), *platform = s->o->platform;
	size_t n = strlen(image), p = strlen(platform);
	struct inlay_digest id;

	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		if (strncmp(line, image, n) != 0 || line[n] != ' ' ||
		    strncmp(line + n + 1, platform, p) != 0 || line[n + 1 + p] != ' ')
			continue;
		(void)snprintf(ret, DIGEST_TEXT, "%.*s", DIGEST_TEXT - 1, line + n + p + 2);
		return strncmp(ret, "sha256:", 7) == 0 && inlay_digest_from_hex(ret + 7, &id);
	}
	return false;
}

static int run(const struct recipe *recipe, const char *const *argv, struct inlay_buf *ret,
	       struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};

	if (!recipe->on)
		return build_job_output(argv, OUTPUT_MAX, ret, err);
	int r = build_host_command(recipe->on, argv, &a, err);
	return r < 0 ? r : build_job_output((const char *const *)a.argv, OUTPUT_MAX, ret, err);
}

/* The builder gets the image and says what it is. */
static int ask_builder(struct resolving *s, const char *image, char ret[static DIGEST_TEXT],
		       struct inlay_error *err)
{
	const char *program = s->recipe->program;
	bool buildah = s->recipe->kind == BUILDER_BUILDAH,
	     docker = s->recipe->kind == BUILDER_DOCKER;
	const char *pull[] = {program, "pull", "--platform", s->o->platform, image, NULL};
	const char *show[] = {program,
			      buildah ? "inspect" : "image",
			      buildah ? "--type" : "inspect",
			      buildah ? "image" : "--format",
			      buildah  ? "--format"
			      : docker ? "{{index .RepoDigests 0}}"
				       : "{{.Digest}}",
			      buildah ? "{{.FromImageDigest}}" : image,
			      buildah ? image : NULL,
			      NULL};
	auto_buf struct inlay_buf out = {0};
	struct inlay_digest id;
	int r = 0;

	/* What was built on this machine cannot be fetched from anywhere. */
	if (strncmp(image, "localhost/", 10) != 0)
		r = run(s->recipe, pull, &out, err);
	inlay_buf_clear(&out);
	if (r == 0)
		r = run(s->recipe, show, &out, err);
	if (r < 0)
		return inlay_error_prefix(err, r, "resolve %s", image);
	const char *digest = strstr(inlay_buf_cstr(&out), "sha256:");
	(void)snprintf(ret, DIGEST_TEXT, "%.*s", DIGEST_TEXT - 1, digest ? digest : "");
	if (!digest || !inlay_digest_from_hex(ret + 7, &id))
		return inlay_error_set(err, -EREMOTEIO, "%s does not say what %s is",
				       s->recipe->builder, image);
	return 0;
}

/* Takes the lines for that image and platform out: a new one comes. */
static void unlock(struct resolving *s, const char *image)
{
	struct inlay_buf kept = {0};
	char start[1024];
	int n = snprintf(start, sizeof start, "%s %s ", image, s->o->platform);
	const char *line = inlay_buf_cstr(&s->lock);

	while (*line) {
		size_t len = strcspn(line, "\n");
		if (n > 0 && strncmp(line, start, (size_t)n) != 0) {
			inlay_buf_add(&kept, line, len);
			inlay_buf_u8(&kept, '\n');
		}
		line += len + (line[len] == '\n');
	}
	inlay_buf_fini(&s->lock);
	s->lock = kept;
}

static int resolve(struct resolving *s, const char *image, char ret[static DIGEST_TEXT],
		   struct inlay_error *err)
{
	if (!s->o->refresh && find_locked(s, image, ret))
		return 0;
	if (s->o->offline) {
		(void)snprintf(ret, DIGEST_TEXT, "-");
		return 0;
	}
	int r = ask_builder(s, image, ret, err);
	if (r < 0)
		return r;
	unlock(s, image);
	inlay_buf_printf(&s->lock, "%s %s %s\n", image, s->o->platform, ret);
	s->changed = true;
	return inlay_buf_check(&s->lock, err);
}

/* "debian:bookworm" as "debian@sha256:..." */
static void pin(struct inlay_buf *text, const char *image, const char *digest)
{
	const char *slash = strrchr(image, '/');
	const char *tag = strchr(slash ? slash : image, ':');

	inlay_buf_add(text, image, tag ? (size_t)(tag - image) : strlen(image));
	inlay_buf_printf(text, "@%s", digest);
}

static int take_base(void *ctx, const char *image, size_t off, size_t len, struct inlay_error *err)
{
	struct resolving *s = ctx;
	struct build_bases *b = s->ret;
	char digest[DIGEST_TEXT];

	if (!image || !*image)
		return inlay_error_set(err, -EINVAL, "%s: FROM nothing: give the argument",
				       s->recipe->file);
	inlay_buf_add(&b->text, s->recipe->text.data + s->copied, off - s->copied);
	s->copied = off + len;
	if (strstr(image, "@sha256:")) {
		size_t n = strlen(image);
		inlay_buf_printf(&b->lines, "base ");
		inlay_buf_add(&b->lines, image, n);
		inlay_buf_u8(&b->lines, '\n');
		inlay_buf_add(&b->text, image, n);
		return 0;
	}
	int r = resolve(s, image, digest, err);
	if (r < 0)
		return r;
	inlay_buf_printf(&b->lines, "base %s %s\n", image, digest);
	pin(&b->text, image, digest);
	return 0;
}

int build_bases_resolve(int dirfd, const struct recipe *recipe, const struct build_bases_options *o,
			struct build_bases *ret, struct inlay_error *err)
{
	struct resolving s = {.dirfd = dirfd, .recipe = recipe, .o = o, .ret = ret};

	*ret = (struct build_bases){0};
	int r = inlay_read_file(dirfd, BUILD_LOCK_FILE, LOCK_MAX, &s.lock, err);
	if (r >= 0)
		r = recipe_bases(recipe, o->args, o->arg_count, take_base, &s, err);
	if (r == 0 && s.changed)
		r = inlay_replace_file(dirfd, BUILD_LOCK_FILE, s.lock.data, s.lock.len, 0644,
				       INLAY_REPLACE_DURABLE, err);
	if (r == 0) {
		inlay_buf_add(&ret->text, recipe->text.data + s.copied,
			      recipe->text.len - s.copied);
		r = inlay_buf_check(&ret->text, err);
	}
	inlay_buf_fini(&s.lock);
	if (r < 0)
		build_bases_fini(ret);
	return r;
}

void build_bases_fini(struct build_bases *b)
{
	inlay_buf_fini(&b->lines);
	inlay_buf_fini(&b->text);
}
