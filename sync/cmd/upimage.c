/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/upimage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "cmd/images.h"
#include "inlay/cleanup.h"
#include "inlay/container.h"
#include "inlay/host.h"
#include "transport/children.h"

/* One image as a site needs it: of one platform. */
struct up_image {
	struct inlay_image_key key;
	struct inlay_digest manifest;
	json_t *doc, *config; /* image.json; of it `config` */
	struct config_texts command;
	const char **words; /* of command */
};

/* A site while it gets its root. */
struct rooting {
	struct up_image *image;
	char platform[INLAY_IMAGE_PLATFORM_MAX + 1]; /* the host's; "" = not asked yet */
	bool needs_push, failed;
};

struct raising {
	const struct common *c;
	struct up *up;
	struct up_images *images;
	struct images store;
	struct rooting *sites; /* as up->sites.list */
	struct site *now;
	bool quiet; /* children say only what goes wrong */
};

void up_images_fini(struct up_images *images)
{
	for (size_t i = 0; i < images->count; i++) {
		json_decref(images->list[i].doc);
		free(images->list[i].words);
	}
	free(images->list);
	if (images->next)
		up_images_fini(images->next);
	free(images->next);
	*images = (struct up_images){0};
}

static size_t number(const struct raising *r, const struct site *p)
{
	return (size_t)(p - r->up->sites.list);
}

static struct rooting *rooting_of(const struct raising *r, const struct site *p)
{
	return &r->sites[number(r, p)];
}

static void fail(struct raising *r, struct site *p, struct inlay_error *err)
{
	(void)inlay_error_prefix(err, err->code, "%s on %s", p->component->head.name,
				 p->host->head.name);
	(void)common_fail(r->c, err);
	rooting_of(r, p)->failed = true;
}

/* ---- children ---- */

/* What they print is for people: it goes to standard error, which is not what --json is about. */
static int run_child(struct child_args *a, const char *what, struct inlay_error *err)
{
	struct child_fds fds = {.in = 0, .out = 2, .err = 2};
	int status;
	pid_t pid;
	int e = child_spawn(a, &fds, &pid, err);

	if (e < 0)
		return e;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return inlay_error_sys(err, -errno, "wait for a child");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	e = inlay_error_set(err, -ECHILD, "%s did not go well", what);
	if (WIFEXITED(status))
		(void)inlay_error_set_exit(err, (enum inlay_exit)WEXITSTATUS(status));
	return e;
}

static void add_option(struct child_args *a, const char *name, const char *value)
{
	if (value) {
		child_add(a, name);
		child_add(a, value);
	}
}

static void begin_args(const struct raising *r, struct child_args *a, const char *verb)
{
	child_add(a, "/proc/self/exe");
	child_add(a, "image");
	child_add(a, verb);
	add_option(a, "--state", r->up->o->state);
	if (r->c->verbose < 0 || r->quiet)
		child_add(a, "--quiet");
}

/* ---- building ---- */

static int learn_machine(void *ctx, struct client *client, struct inlay_error *err)
{
	struct raising *r = ctx;
	struct rooting *s = rooting_of(r, r->now);
	const struct config_image *base = r->now->component->base;
	struct inlay_image_key key;
	int e = inlay_image_key_make(base->name, base->variant ? base->variant : "",
				     client->machine, &key, err);

	if (e == 0)
		(void)snprintf(s->platform, sizeof s->platform, "%s", key.platform);
	return e;
}

/* What the hosts of an image that is built here are; the same host is asked once. */
static int ask_platform(struct raising *r, struct site *p, struct inlay_error *err)
{
	struct message_open open = {.flags = MESSAGE_OPEN_CREATE,
				    .path = message_text_of(p->target.path)};

	for (size_t i = 0; i < number(r, p); i++) {
		if (r->up->sites.list[i].host != p->host || !*r->sites[i].platform)
			continue;
		memcpy(rooting_of(r, p)->platform, r->sites[i].platform,
		       sizeof r->sites[i].platform);
		return 0;
	}
	r->now = p;
	return common_talk(r->c, &p->target, &open, learn_machine, r, err);
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_build(const struct site *a, const struct site *b)
{
	return a->component->build_path && b->component->build_path &&
	       strcmp(a->component->build_path, b->component->build_path) == 0 &&
	       same_text(a->component->base->variant, b->component->base->variant) &&
	       same_text(a->component->base->name, b->component->base->name);
}

/* The image of this site, for all platforms that its hosts are. */
static int build(struct raising *r, struct site *p, struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};
	auto_buf struct inlay_buf platforms = {0};
	const struct config_image *base = p->component->base;

	for (size_t i = 0; i < r->up->sites.count; i++) {
		const char *one = r->sites[i].platform;
		if (!same_build(p, &r->up->sites.list[i]) || !*one ||
		    (platforms.len && strstr(inlay_buf_cstr(&platforms), one)))
			continue;
		inlay_buf_printf(&platforms, "%s%s", platforms.len ? "," : "", one);
	}
	begin_args(r, &a, "build");
	child_add(&a, "--name");
	child_add(&a, base->name);
	child_add(&a, "--platform");
	child_add(&a, inlay_buf_cstr(&platforms));
	add_option(&a, "--variant", base->variant);
	child_add(&a, "--");
	child_add(&a, p->component->build_path);
	return run_child(&a, "building the image", err);
}

static int build_all(struct raising *r, struct inlay_error *err)
{
	struct sites *all = &r->up->sites;

	for (size_t i = 0; i < all->count; i++) {
		struct inlay_error why = {0};
		if (all->list[i].component->build_path && ask_platform(r, &all->list[i], &why) < 0)
			fail(r, &all->list[i], &why);
	}
	for (size_t i = 0; i < all->count; i++) {
		bool done = !all->list[i].component->build_path || r->sites[i].failed;
		for (size_t k = 0; k < i && !done; k++)
			done = !r->sites[k].failed && same_build(&all->list[k], &all->list[i]);
		int e = done ? 0 : build(r, &all->list[i], err);
		if (e < 0)
			return e;
	}
	return 0;
}

/* ---- which image ---- */

static int take_texts(struct up_image *u, const char *key, struct inlay_error *err)
{
	const json_t *list = json_object_get(u->config, key);
	size_t count = json_array_size(list);

	u->words = calloc(count + 1, sizeof *u->words);
	if (!u->words)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++)
		u->words[i] = json_string_value(json_array_get(list, i));
	u->command = (struct config_texts){u->words, count};
	return 0;
}

static int load_image(struct raising *r, struct up_image *u, struct inlay_error *err)
{
	auto_buf struct inlay_buf json = {0};
	struct image_list list = {0};
	struct inlay_entry root;
	int e = r->store.store ? images_find(&r->store, &u->key, &list, err) : 0;

	if (e == 0 && list.count == 0)
		e = inlay_error_set(err, -ENOENT,
				    "there is no image %s%s%s for %s here; 'inlay image list' says "
				    "what there is",
				    u->key.name, *u->key.variant ? ", variant " : "",
				    u->key.variant, u->key.platform);
	if (e == 0) {
		u->manifest = list.items[0].generation.root.tree;
		e = inlay_image_open(r->store.trees, r->store.store, &u->manifest, &root, &json,
				     err);
	}
	free(list.items);
	if (e > 0)
		return inlay_error_set(err, -EBADMSG, "the image's tree is not complete");
	if (e < 0)
		return e;
	u->doc = json_loadb((const char *)json.data, json.len, 0, NULL);
	u->config = json_object_get(u->doc, "config");
	return u->config ? take_texts(u, "Cmd", err)
			 : inlay_error_set(err, -EBADMSG, "image.json is not what it should be");
}

/* Of the platform that the host is; each is looked up once. */
static int find_image(struct raising *r, const struct config_image *base, const char *machine,
		      struct up_image **ret, struct inlay_error *err)
{
	struct up_image u = {0};
	int e = inlay_image_key_make(base->name, base->variant ? base->variant : "", machine,
				     &u.key, err);

	for (size_t i = 0; e == 0 && i < r->images->count; i++) {
		*ret = &r->images->list[i];
		if (memcmp(&(*ret)->key, &u.key, sizeof u.key) == 0)
			return 0;
	}
	if (e == 0)
		e = load_image(r, &u, err);
	if (e < 0) {
		json_decref(u.doc);
		free(u.words);
		return e;
	}
	*ret = &r->images->list[r->images->count++];
	**ret = u;
	return 0;
}

/* ---- the root ---- */

/* The image's variables, and the component's over them. */
static size_t collect_env(const struct up_image *u, const struct config_texts *own,
			  const char **ret)
{
	const json_t *list = json_object_get(u->config, "Env");
	size_t n = 0;

	for (size_t i = 0; i < json_array_size(list) && n < INLAY_RUN_STRINGS_MAX; i++) {
		const char *var = json_string_value(json_array_get(list, i));
		const char *sign = var ? strchr(var, '=') : NULL;
		bool over = !sign || sign == var;
		for (size_t k = 0; k < own->count && !over; k++)
			over = strncmp(own->items[k], var, (size_t)(sign + 1 - var)) == 0;
		if (!over)
			ret[n++] = var;
	}
	for (size_t k = 0; k < own->count && n < INLAY_RUN_STRINGS_MAX; k++)
		ret[n++] = own->items[k];
	return n;
}

static int encode_spec(const struct up_image *u, const struct config_component *c,
		       struct inlay_buf *b, struct inlay_error *err)
{
	auto_free const char **env = calloc(INLAY_RUN_STRINGS_MAX + 1, sizeof *env);
	const json_t *list = json_object_get(u->config, "Entrypoint");
	auto_free const char **entry = calloc(json_array_size(list) + 1, sizeof *entry);
	const char *user = json_string_value(json_object_get(u->config, "User"));

	if (!env || !entry)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)collect_env(u, &c->env, env);
	for (size_t i = 0; i < json_array_size(list); i++)
		entry[i] = json_string_value(json_array_get(list, i));
	struct inlay_container_spec spec = {
		.image = u->manifest,
		.runtime = c->runtime ? (enum inlay_runtime)(c->runtime - 1) : INLAY_RUNTIME_AUTO,
		.user = (char *)(c->user ? c->user : user),
		.env = (char **)env,
		.entrypoint = (char **)(c->entrypoint.items ? (const char **)c->entrypoint.items
							    : entry)};
	inlay_container_spec_encode(&spec, b);
	return b->len > INLAY_MESSAGE_TEXT_MAX
		       ? inlay_error_set(err, -E2BIG, "the image's variables are too long")
		       : inlay_buf_check(b, err);
}

static int set_root(void *ctx, struct client *client, struct inlay_error *err)
{
	struct raising *r = ctx;
	struct rooting *s = rooting_of(r, r->now);
	auto_buf struct inlay_buf spec = {0};
	int e = find_image(r, r->now->component->base, client->machine, &s->image, err);

	if (e == 0)
		e = encode_spec(s->image, r->now->component, &spec, err);
	if (e < 0)
		return e;
	struct message_request m = {.verb = MESSAGE_VERB_ROOT,
				    .body = {(const char *)spec.data, spec.len}};
	e = client_request(client, &m, NULL, NULL, err);
	s->needs_push = e == CLIENT_FAILED && err->code == -ENOENT;
	return e;
}

/* Opening makes the workspace where there is none, so that its first generation finds the root. */
static void give_root(struct raising *r, struct site *p, bool again)
{
	struct message_open open = {.flags = MESSAGE_OPEN_CREATE,
				    .path = message_text_of(p->target.path)};
	struct rooting *s = rooting_of(r, p);
	struct inlay_error why = {0};

	r->now = p;
	s->needs_push = false;
	int e = common_talk(r->c, &p->target, &open, set_root, r, &why);
	if (e < 0 && (again || !s->needs_push)) {
		s->needs_push = false;
		fail(r, p, &why);
	}
	if (e < 0)
		return;
	p->image_command = s->image->command;
	p->image_dir = json_string_value(json_object_get(s->image->config, "WorkingDir"));
	if (!p->image_dir)
		p->image_dir = "/";
}

static void add_host(struct child_args *a, const struct target *t)
{
	auto_buf struct inlay_buf b = {0};

	inlay_buf_printf(&b, "%s%s%s%s", t->port ? "ssh://" : "", t->host ? t->host : "local",
			 t->port ? ":" : "", t->port ? t->port : "");
	child_add(a, inlay_buf_cstr(&b));
}

/* To all hosts that lack it, in one go; their sites are tried again. */
static void push(struct raising *r, struct up_image *u)
{
	auto_of(child_args_fini) struct child_args a = {0};
	struct sites *all = &r->up->sites;
	struct inlay_error why = {0};

	begin_args(r, &a, "push");
	add_option(&a, "--rsh", r->up->o->rsh);
	add_option(&a, "--transport", r->up->o->transport);
	add_option(&a, "--remote-state", r->c->remote_state);
	add_option(&a, "--platform", u->key.platform);
	add_option(&a, "--variant", *u->key.variant ? u->key.variant : NULL);
	child_add(&a, "--");
	child_add(&a, u->key.name);
	for (size_t i = 0; i < all->count; i++) {
		bool there = !r->sites[i].needs_push || r->sites[i].image != u;
		for (size_t k = 0; k < i && !there; k++)
			there = r->sites[k].needs_push && r->sites[k].image == u &&
				all->list[k].host == all->list[i].host;
		if (!there)
			add_host(&a, &all->list[i].target);
	}
	/* Hosts that did not get it are told about by the child; some may have. */
	if (run_child(&a, "pushing the image", &why) < 0 && r->c->verbose > 0)
		(void)common_fail(r->c, &why);
	for (size_t i = 0; i < all->count; i++)
		if (r->sites[i].needs_push && r->sites[i].image == u)
			give_root(r, &all->list[i], true);
}

/* Leaves out what failed. */
static size_t drop_failed(struct raising *r)
{
	struct sites *all = &r->up->sites;
	size_t kept = 0, failed = 0;

	for (size_t i = 0; i < all->count; i++) {
		if (r->sites[i].failed) {
			site_fini(&all->list[i]);
			failed++;
		} else {
			all->list[kept++] = all->list[i];
		}
	}
	all->count = kept;
	return failed;
}

/* What another component on that host was told to lack need not be asked for again. */
static bool lacks_already(struct raising *r, struct site *p)
{
	for (size_t i = 0; i < number(r, p); i++) {
		const struct site *o = &r->up->sites.list[i];
		const struct config_image *a = p->component->base, *b = o->component->base;
		if (!r->sites[i].needs_push || o->host != p->host || !same_text(a->name, b->name) ||
		    !same_text(a->variant, b->variant))
			continue;
		rooting_of(r, p)->image = r->sites[i].image;
		rooting_of(r, p)->needs_push = true;
		return true;
	}
	return false;
}

static int raise_all(struct raising *r, struct inlay_error *err)
{
	struct sites *all = &r->up->sites;
	int e = build_all(r, err);

	if (e == 0)
		e = images_open(&r->store, r->c, false, err);
	/* None at all: each site says which one it misses. */
	if (e < 0)
		return e;
	for (size_t i = 0; i < all->count; i++)
		if (all->list[i].component->base && !r->sites[i].failed &&
		    !lacks_already(r, &all->list[i]))
			give_root(r, &all->list[i], false);
	for (size_t i = 0; i < r->images->count; i++) {
		bool needed = false;
		for (size_t k = 0; k < all->count && !needed; k++)
			needed = r->sites[k].needs_push && r->sites[k].image == &r->images->list[i];
		if (needed)
			push(r, &r->images->list[i]);
	}
	return 0;
}

int up_images(const struct common *c, struct up *up, struct up_images *ret, size_t *ret_failed,
	      struct inlay_error *err)
{
	struct raising r = {.c = c, .up = up, .images = ret, .store = {.fd = -1}};
	bool any = false;

	*ret_failed = 0;
	for (size_t i = 0; i < up->sites.count; i++)
		any |= up->sites.list[i].component->base != NULL;
	if (!any)
		return 0;
	auto_free struct rooting *sites = calloc(up->sites.count + 1, sizeof *sites);
	ret->list = calloc(up->sites.count + 1, sizeof *ret->list);
	if (!sites || !ret->list)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	r.sites = sites;
	int e = raise_all(&r, err);
	images_close(&r.store);
	if (e < 0)
		return e;
	*ret_failed = drop_failed(&r);
	if (up->sites.count == 0) {
		e = inlay_error_set(err, -EHOSTDOWN, "no component got its image");
		(void)inlay_error_set_exit(err, INLAY_EXIT_FAILURE);
	}
	return e;
}

int up_image_again(const struct common *c, const struct up *up, struct site *p,
		   struct up_images *images, struct inlay_error *err)
{
	struct site copy = *p;
	struct up one = {.o = up->o, .sites = {.list = &copy, .count = 1}};
	struct rooting rooting = {0};
	struct up_images *fresh = calloc(1, sizeof *fresh);
	struct raising r = {.c = c,
			    .up = &one,
			    .images = fresh,
			    .store = {.fd = -1},
			    .sites = &rooting,
			    .quiet = true};

	if (fresh)
		fresh->list = calloc(1, sizeof *fresh->list);
	if (!fresh || !fresh->list) {
		free(fresh);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	fresh->next = images->next;
	images->next = fresh;
	int e = raise_all(&r, err);
	images_close(&r.store);
	if (e < 0)
		return e;
	if (rooting.failed)
		return inlay_error_set(err, -ECHILD, "the image is not there as it should be");
	p->image_command = copy.image_command;
	p->image_dir = copy.image_dir;
	return 0;
}
