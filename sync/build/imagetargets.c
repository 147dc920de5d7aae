/* SPDX-License-Identifier: Apache-2.0 */
#include "build/imagetargets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

enum { RECORD_MAX = 64 << 20, RECORD_NAME = 40, TARGETS_MAX = 64 };

static void record_name(const struct inlay_image_key *key, char ret[static RECORD_NAME])
{
	char text[512], hex[INLAY_DIGEST_HEX];
	struct inlay_digest d;
	int n = snprintf(text, sizeof text, "%s %s %s", key->name, key->variant, key->platform);

	inlay_digest_of(text, (size_t)n, &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, RECORD_NAME, "%.32s", hex);
}

static int read_record(struct image_targets *t, struct image_target *one, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	char name[RECORD_NAME], hex[INLAY_DIGEST_HEX];

	record_name(&one->key, name);
	int r = inlay_read_file(t->builds, name, RECORD_MAX, &b, err);
	if (r != 0)
		return r < 0 ? r : 0;
	const char *text = inlay_buf_cstr(&b), *end = strchr(text, '\n');
	if (strlen(text) != b.len || !end || strncmp(text, "manifest ", 9) != 0)
		return 0;
	(void)snprintf(hex, sizeof hex, "%.*s", (int)(end - text - 9), text + 9);
	if (!inlay_digest_from_hex(hex, &one->manifest) || text[b.len - 1] != '\n')
		return 0;
	inlay_buf_add(&one->before, end + 1, strlen(end + 1));
	return inlay_buf_check(&one->before, err);
}

int image_target_remember(struct image_targets *t, const struct image_target *one,
			  const struct inlay_digest *manifest, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	char name[RECORD_NAME], hex[INLAY_DIGEST_HEX];

	record_name(&one->key, name);
	inlay_digest_hex(manifest, hex);
	inlay_buf_printf(&b, "manifest %s\n", hex);
	inlay_buf_add(&b, one->inputs.data, one->inputs.len);
	int r = inlay_buf_check(&b, err);
	return r < 0 ? r : inlay_replace_file(t->builds, name, b.data, b.len, 0600, 0, err);
}

bool image_target_same(const struct image_target *t)
{
	return t->before.len == t->inputs.len &&
	       memcmp(t->before.data, t->inputs.data, t->inputs.len) == 0;
}

/* ---- opening ---- */

struct adding {
	struct image_targets *t;
	const struct image_targets_options *o;
	const char *name, *platform;
};

static int add_target(void *ctx, const char *variant, struct inlay_error *err)
{
	struct adding *a = ctx;
	struct image_targets *t = a->t;

	struct inlay_image_key key;
	int r = inlay_image_key_make(a->name, variant, a->platform, &key, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t->count; i++)
		if (memcmp(&t->items[i].key, &key, sizeof key) == 0)
			return 0;
	if (t->count == TARGETS_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d images of one recipe",
				       TARGETS_MAX);
	t->items[t->count++].key = key;
	return 0;
}

static int add_platform(struct adding *a, struct inlay_error *err)
{
	size_t before = a->t->count;
	int r = 0;

	for (size_t i = 0; r == 0 && i < a->o->variant_count; i++)
		r = add_target(a, a->o->variants[i], err);
	if (r == 0 && a->o->variant_count == 0)
		r = recipe_variants(&a->t->recipe, add_target, a, err);
	return r == 0 && a->t->count == before ? add_target(a, "", err) : r;
}

static int add_targets(struct image_targets *t, const struct image_targets_options *o,
		       struct inlay_error *err)
{
	char host[INLAY_IMAGE_PLATFORM_MAX + 1], *resolved = realpath(o->dir, NULL);
	const char *base = resolved ? strrchr(resolved, '/') : NULL;
	struct adding a = {.t = t, .o = o, .name = o->name ? o->name : base ? base + 1 : ""};
	int r = 0;

	if (o->on)
		(void)snprintf(host, sizeof host, "%s", o->on->machine);
	else
		inlay_image_host_platform(host);
	t->items = calloc(TARGETS_MAX, sizeof *t->items);
	if (!t->items)
		r = inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; r == 0 && (i < o->platform_count || i == 0); i++) {
		a.platform = o->platform_count ? o->platforms[i] : host;
		r = add_platform(&a, err);
	}
	free(resolved);
	return r;
}

static int read_inputs(struct image_targets *t, struct image_target *one,
		       const struct image_targets_options *o, struct inlay_error *err)
{
	struct build_bases_options bases = {.platform = one->key.platform,
					    .args = o->args,
					    .arg_count = o->arg_count,
					    .refresh = o->refresh,
					    .offline = o->offline};
	int r = build_bases_resolve(t->dirfd, &t->recipe, &bases, &one->bases, err);

	if (r == 0)
		r = build_inputs(&t->recipe, &t->context, one->key.platform, one->key.variant,
				 o->args, o->arg_count, inlay_buf_cstr(&one->bases.lines),
				 &one->inputs, err);
	return r == 0 ? read_record(t, one, err) : r;
}

int image_targets_open(struct image_targets *t, const struct image_targets_options *o,
		       struct inlay_error *err)
{
	auto_close int state = -1;

	*t = (struct image_targets){.dirfd = -1,
				    .builds = -1,
				    .dir = o->dir,
				    .args = o->args,
				    .arg_count = o->arg_count};
	t->dirfd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dirfd < 0)
		return inlay_error_sys(err, -errno, "the recipe's directory %s", o->dir);
	int r = inlay_open_dir(AT_FDCWD, o->state, 0700, &state, err);
	if (r == 0)
		r = inlay_open_dir(state, "images/builds", 0700, &t->builds, err);
	if (r == 0)
		r = recipe_open(t->dirfd, o->builder, o->on, &t->recipe, err);
	if (r == 0)
		r = build_context_read(t->dirfd, &t->recipe, &t->context, err);
	if (r == 0)
		r = add_targets(t, o, err);
	for (size_t i = 0; r == 0 && i < t->count; i++)
		r = read_inputs(t, &t->items[i], o, err);
	if (r < 0) {
		image_targets_close(t);
		return inlay_error_prefix(err, r, "%s", o->dir);
	}
	return 0;
}

void image_targets_close(struct image_targets *t)
{
	for (size_t i = 0; i < t->count; i++) {
		struct image_target *one = &t->items[i];
		if (*one->out)
			(void)unlink(one->out);
		if (*one->recipe)
			(void)unlink(one->recipe);
		inlay_buf_fini(&one->inputs);
		inlay_buf_fini(&one->before);
		inlay_buf_fini(&one->words);
		build_bases_fini(&one->bases);
		bootstrap_fini(&one->bootstrap);
		child_args_fini(&one->there);
		if (one->context_fd)
			(void)close(one->context_fd);
		if (one->out_fd)
			(void)close(one->out_fd);
	}
	free(t->items);
	recipe_fini(&t->recipe);
	build_context_fini(&t->context);
	inlay_cleanup_close(&t->builds);
	inlay_cleanup_close(&t->dirfd);
	*t = (struct image_targets){.dirfd = -1, .builds = -1};
}

/* ---- how a builder is called ---- */

/* argv keeps offsets while the texts grow, and gets pointers at the end. */
struct line {
	struct image_target *one;
	size_t offs[BUILD_ARGV_MAX];
	size_t count;
};

static void word(struct line *l, const char *before, const char *text)
{
	if (l->count + 1 >= BUILD_ARGV_MAX) {
		l->one->words.failed = true;
		return;
	}
	l->offs[l->count++] = l->one->words.len;
	inlay_buf_add(&l->one->words, before, strlen(before));
	inlay_buf_add(&l->one->words, text, strlen(text) + 1);
}

static int end_line(struct line *l, struct inlay_error *err)
{
	int r = inlay_buf_check(&l->one->words, err);

	for (size_t i = 0; r == 0 && i < l->count; i++)
		l->one->argv[i] = (const char *)l->one->words.data + l->offs[i];
	return r < 0 ? inlay_error_set(err, -E2BIG, "too many arguments for a build") : 0;
}

static const char *out_name(const struct image_targets *t, const struct image_target *one)
{
	return t->recipe.on ? BUILD_HOST_OUT : one->out;
}

/* "linux/arm64" as dpkg calls it. */
static const char *debian_architecture(const char *platform)
{
	const char *arch = strchr(platform, '/') + 1;

	return strcmp(arch, "386") == 0 ? "i386" : strcmp(arch, "arm/v7") == 0 ? "armhf" : arch;
}

static int prepare_bootstrap(struct image_targets *t, struct image_target *one, struct line *l,
			     struct inlay_error *err)
{
	struct bootstrap *b = &one->bootstrap;
	int r = recipe_bootstrap(&t->recipe, one->key.variant, b, err);

	if (r < 0)
		return r;
	word(l, "", t->recipe.program);
	word(l, "--variant=", inlay_buf_cstr(&b->style));
	word(l, "--architectures=", debian_architecture(one->key.platform));
	if (b->packages.len > 0)
		word(l, "--include=", inlay_buf_cstr(&b->packages));
	word(l, "--format=", "tar");
	word(l, "", inlay_buf_cstr(&b->suite));
	word(l, "", out_name(t, one));
	if (b->mirror.len > 0)
		word(l, "", inlay_buf_cstr(&b->mirror));
	(void)snprintf(one->epoch, sizeof one->epoch, "SOURCE_DATE_EPOCH=%s",
		       inlay_buf_cstr(&b->epoch));
	one->env[0] = one->epoch;
	return 0;
}

/*
 * buildah and podman build into their own storage and write the archive from there: buildah 1.28 fails with "image not
 * known" where it is told to build an archive and has all of it in its cache.
 */
static const char build_and_save[] =
	"builder=$1 out=$2; shift 2; "
	"\"$builder\" build --layers --iidfile \"$out.id\" \"$@\" && "
	"\"$builder\" push -q \"$(cat \"$out.id\")\" \"oci-archive:$out\"; "
	"r=$?; rm -f \"$out.id\"; exit $r";

static int prepare_container(struct image_targets *t, struct image_target *one, struct line *l,
			     struct inlay_error *err)
{
	enum builder_kind kind = t->recipe.kind;
	const struct inlay_buf *text = &one->bases.text;

	auto_close int fd =
		open(one->recipe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return inlay_error_sys(err, -errno, "create %s", one->recipe);
	int r = inlay_write_all(fd, text->data, text->len, one->recipe, err);
	if (r < 0)
		return r;
	if (kind == BUILDER_DOCKER) {
		word(l, "", t->recipe.program);
		word(l, "", "buildx");
		word(l, "", "build");
		word(l, "--output=type=oci,dest=", out_name(t, one));
	} else {
		word(l, "", "/bin/sh");
		word(l, "", "-c");
		word(l, "", build_and_save);
		word(l, "", "inlay");
		word(l, "", t->recipe.program);
		word(l, "", out_name(t, one));
	}
	word(l, "--platform=", one->key.platform);
	if (*one->key.variant)
		word(l, "--target=", one->key.variant);
	for (size_t i = 0; i < t->arg_count; i++)
		word(l, "--build-arg=", t->args[i]);
	word(l, "--file=", t->recipe.on ? BUILD_HOST_RECIPE : one->recipe);
	word(l, "", t->recipe.on ? BUILD_HOST_CONTEXT : t->dir);
	return 0;
}

/* ---- on a host ---- */

/* The recipe and its directory as a tar in an unnamed file; mmdebstrap needs neither. */
static int pack_context(struct image_targets *t, struct image_target *one, struct inlay_error *err)
{
	auto_free char *dir = realpath(t->dir, NULL), *work = realpath(t->work, NULL);
	const char *recipe = strrchr(one->recipe, '/') + 1;
	const char *with_recipe[] = {"tar", "-c", "-C", work, recipe, "-C", dir, ".", NULL};
	const char *nothing[] = {"tar", "-c", "-T", "/dev/null", NULL};

	if (!dir || !work)
		return inlay_error_sys(err, -errno, "find %s", dir ? t->work : t->dir);
	one->context_fd = open(t->work, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (one->context_fd < 0) {
		one->context_fd = 0;
		return inlay_error_sys(err, -errno, "make a file in %s", t->work);
	}
	bool container = t->recipe.kind != BUILDER_MMDEBSTRAP;
	int r = build_job_to(container ? with_recipe : nothing, one->context_fd, err);
	if (r == 0 && lseek(one->context_fd, 0, SEEK_SET) < 0)
		r = inlay_error_sys(err, -errno, "read the packed context");
	return r;
}

static int prepare_there(struct image_targets *t, struct image_target *one, struct inlay_error *err)
{
	const char *recipe =
		t->recipe.kind == BUILDER_MMDEBSTRAP ? NULL : strrchr(one->recipe, '/') + 1;
	int r = pack_context(t, one, err);

	if (r == 0)
		r = build_host_build(t->recipe.on, one->argv, one->env, recipe, &one->there, err);
	if (r < 0)
		return r;
	one->out_fd = open(one->out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (one->out_fd < 0) {
		one->out_fd = 0;
		return inlay_error_sys(err, -errno, "create %s", one->out);
	}
	return 0;
}

int image_target_prepare(struct image_targets *t, struct image_target *one, struct build_job *ret,
			 struct inlay_error *err)
{
	struct line l = {.one = one};
	char name[RECORD_NAME];

	record_name(&one->key, name);
	(void)snprintf(one->out, sizeof one->out, "%s/%s-%d.tar", t->work, name, (int)getpid());
	(void)snprintf(one->recipe, sizeof one->recipe, "%s/%s-%d.recipe", t->work, name,
		       (int)getpid());
	int r = t->recipe.kind == BUILDER_MMDEBSTRAP ? prepare_bootstrap(t, one, &l, err)
						     : prepare_container(t, one, &l, err);
	if (r == 0)
		r = end_line(&l, err);
	*ret = (struct build_job){.argv = one->argv, .env = one->env, .fd = -1};
	if (r < 0 || !t->recipe.on)
		return r;
	r = prepare_there(t, one, err);
	*ret = (struct build_job){.argv = (const char *const *)one->there.argv,
				  .in_fd = one->context_fd,
				  .out_fd = one->out_fd,
				  .fd = -1};
	return r;
}
