/* SPDX-License-Identifier: Apache-2.0 */
/* Workspaces: how they are found, made, remembered, owned, and given new generations. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "inlay/io.h"
#include "inlay/text.h"
#include "keep/host.h"
#include "keep/root.h"
#include "keep/written.h"
#include "upper/upper.h"

#define WORKSPACE_FILE  "workspace"
#define WORKSPACE_MAGIC "iWSP"
#define SCRATCH_DIR     "hooks"
#define STEAL_WAIT_NS   INT64_C(10000000000) /* for the one that is robbed */

enum {
	WORKSPACE_VERSION = 1,
	SAVED_MOUNT = 1 << 0,
	SAVED_UPPER_SHIFT = 1, /* two bits: enum inlay_upper_policy */
	SAVED_UPPER_MASK = 3,
	SAVED_XATTRS = 1 << 3,
	SAVED_OWNERS = 1 << 4,
	SAVED_BITS = 31,
	WORKSPACE_FILE_MAX =
		2 * INLAY_HOST_PATH_MAX + INLAY_REDIRECTS_MAX * (INLAY_REDIRECT_PATH_MAX + 1),
};

/* ---- the description on the disk ---- */

static uint8_t saved_flags(const struct inlay_workspace *ws)
{
	const struct inlay_mount_policy *p = &ws->state.policy;

	return (uint8_t)((ws->state.mount_wanted ? SAVED_MOUNT : 0) |
			 p->upper << SAVED_UPPER_SHIFT | (p->xattrs ? SAVED_XATTRS : 0) |
			 (p->keep_owners ? SAVED_OWNERS : 0));
}

int workspace_save(struct inlay_workspace *ws, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	inlay_buf_add(&b, WORKSPACE_MAGIC, 4);
	inlay_buf_u8(&b, WORKSPACE_VERSION);
	inlay_buf_u8(&b, saved_flags(ws));
	inlay_buf_string(&b, ws->state.path, strlen(ws->state.path));
	inlay_buf_string(&b, ws->redirects.data ? ws->redirects.data : (const uint8_t *)"",
			 ws->redirects.len);
	inlay_buf_u64(&b, inlay_xxh3(b.data, b.len));
	int r = inlay_buf_check(&b, err);
	if (r == 0)
		r = inlay_replace_file(ws->dir_fd, WORKSPACE_FILE, b.data, b.len, 0600,
				       INLAY_REPLACE_DURABLE, err);
	return r < 0 ? inlay_error_prefix(err, r, "remember %s", ws->state.path) : 0;
}

static int parse_description(struct inlay_workspace *ws, const struct inlay_buf *b,
			     struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(b->data, b->len);
	size_t len;

	const uint8_t *magic = inlay_cursor_bytes(&c, 4);
	uint8_t version = inlay_cursor_u8(&c), flags = inlay_cursor_u8(&c);
	if (magic && memcmp(magic, WORKSPACE_MAGIC, 4) == 0 && version > WORKSPACE_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "it was written by a newer inlay (version %u, known: %d)",
				       version, WORKSPACE_VERSION);
	const uint8_t *path = inlay_cursor_string(&c, INLAY_HOST_PATH_MAX - 1, &len);
	workspace_decode_redirects(ws, &c);
	uint64_t sum = inlay_cursor_u64(&c);
	if (!inlay_cursor_done(&c) || memcmp(magic, WORKSPACE_MAGIC, 4) != 0 ||
	    version != WORKSPACE_VERSION || len == 0 || (flags & ~SAVED_BITS) ||
	    (flags >> SAVED_UPPER_SHIFT & SAVED_UPPER_MASK) > INLAY_UPPER_READ_ONLY ||
	    path[0] != '/' || memchr(path, 0, len) || sum != inlay_xxh3(b->data, b->len - 8))
		return inlay_error_set(err, -EBADMSG, "it is damaged");
	memcpy(ws->state.path, path, len);
	ws->state.mount_wanted = flags & SAVED_MOUNT;
	ws->state.policy =
		(struct inlay_mount_policy){.upper = flags >> SAVED_UPPER_SHIFT & SAVED_UPPER_MASK,
					    .xattrs = flags & SAVED_XATTRS,
					    .keep_owners = flags & SAVED_OWNERS};
	return 0;
}

/* ---- objects ---- */

INLAY_DEFINE_CLEANUP(struct inlay_workspace, workspace_free)

static struct inlay_workspace *new_workspace(struct inlay_host *host, const char *id)
{
	struct inlay_workspace *ws = calloc(1, sizeof *ws);

	if (!ws)
		return NULL;
	(void)pthread_mutex_init(&ws->change, NULL);
	(void)pthread_mutex_init(&ws->programs, NULL);
	(void)pthread_mutex_init(&ws->lock, NULL);
	(void)pthread_cond_init(&ws->unowned, NULL);
	(void)pthread_cond_init(&ws->raised, NULL);
	ws->host = host;
	ws->dir_fd = ws->fuse_fd = ws->watch_fd = -1;
	(void)snprintf(ws->state.id, sizeof ws->state.id, "%.16s", id);
	return ws;
}

static int open_workspace_dir(struct inlay_workspace *ws, struct inlay_error *err)
{
	char name[32];

	(void)snprintf(name, sizeof name, "ws/%s", ws->state.id);
	return inlay_open_dir(ws->host->state_fd, name, 0700, &ws->dir_fd, err);
}

/* What the store knows of it. */
static int load_history(struct inlay_workspace *ws, struct inlay_error *err)
{
	struct inlay_history *history;
	int r = inlay_store_history(ws->host->store, ws->state.id, &history, err);

	if (r == INLAY_STORE_MISSING)
		return 0;
	if (r < 0)
		return r;
	if (history->count > 0) {
		ws->state.live = history->gens[0];
		ws->state.durable = history->gens[0].number;
	}
	/* After an unclean end some numbers may have been shown and lost: they are not given again. */
	ws->reserved =
		inlay_store_was_unclean(ws->host->store) ? history->reserved : ws->state.durable;
	free(history);
	return 0;
}

static int add_to_host(struct inlay_host *host, struct inlay_workspace *ws, struct inlay_error *err)
{
	if (host->count == host->cap) {
		size_t cap = host->cap ? host->cap * 2 : 8;
		struct inlay_workspace **more =
			reallocarray(host->workspaces, cap, sizeof(struct inlay_workspace *));
		if (!more)
			return inlay_error_set(err, -ENOMEM, "out of memory");
		host->workspaces = more;
		host->cap = cap;
	}
	host->workspaces[host->count++] = ws;
	ws->refs = 1;
	return 0;
}

static int load_workspace(struct inlay_host *host, const char *id, struct inlay_error *err)
{
	auto_of(workspace_free) struct inlay_workspace *ws = new_workspace(host, id);
	auto_buf struct inlay_buf b = {0};

	if (!ws)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = open_workspace_dir(ws, err);
	if (r == 0)
		r = inlay_read_file(ws->dir_fd, WORKSPACE_FILE, WORKSPACE_FILE_MAX, &b, err);
	if (r == INLAY_IO_MISSING)
		return 0; /* it was being made when the keeper ended */
	if (r == 0)
		r = parse_description(ws, &b, err);
	if (r == 0)
		r = load_history(ws, err);
	if (r == 0)
		r = add_to_host(host, ws, err);
	if (r == 0)
		(void)take_ptr(ws);
	return r;
}

int host_load_workspaces(struct inlay_host *host, struct inlay_error *err)
{
	int fd;
	int r = inlay_open_dir(host->state_fd, "ws", 0700, &fd, err);

	if (r < 0)
		return r;
	DIR *dir = fdopendir(fd);
	if (!dir) {
		r = inlay_error_sys(err, -errno, "list workspaces");
		inlay_cleanup_close(&fd);
		return r;
	}
	struct dirent *d;
	while ((d = readdir(dir))) {
		struct inlay_error one = {0};
		if (d->d_name[0] == '.' || strlen(d->d_name) != 16)
			continue;
		/* One damaged workspace must not keep the others from being served. */
		if (load_workspace(host, d->d_name, &one) < 0)
			host_log(host, "workspace %s is left out: %s", d->d_name, one.text);
	}
	(void)closedir(dir);
	return 0;
}

int inlay_workspace_scratch(struct inlay_workspace *ws, int *ret_fd, char *path, size_t size,
			    struct inlay_error *err)
{
	(void)snprintf(path, size, "%s/ws/%s/" SCRATCH_DIR, ws->host->state_path, ws->state.id);
	return inlay_open_dir(ws->dir_fd, SCRATCH_DIR, 0700, ret_fd, err);
}

/* ---- by path ---- */

/*
 * One name for one place: the parent directory is resolved, the last component is not followed. A directory
 * that cannot be resolved because it does not exist is made when `create` says so.
 */
int workspace_canonical_path(const char *path, bool create, char ret[static INLAY_HOST_PATH_MAX],
			     struct inlay_error *err)
{
	auto_buf struct inlay_buf full = {0};
	int r = 0;

	if (path[0] != '/') {
		const char *home = getenv("HOME");
		if (!home || home[0] != '/')
			return inlay_error_set(err, -ENOENT,
					       "HOME is not set; give an absolute path");
		inlay_buf_printf(&full, "%s/%s", home,
				 strncmp(path, "~/", 2) == 0 ? path + 2
				 : strcmp(path, "~") == 0    ? ""
							     : path);
	} else {
		inlay_buf_printf(&full, "%s", path);
	}
	char *text = (char *)inlay_buf_cstr(&full);
	if (r == 0)
		r = inlay_buf_check(&full, err);
	if (r < 0)
		return r;
	for (size_t len = strlen(text); len > 1 && text[len - 1] == '/'; len--)
		text[len - 1] = 0;
	char *slash = strrchr(text, '/');
	const char *last = slash + 1;
	if (!*last || !strcmp(last, ".") || !strcmp(last, ".."))
		return inlay_error_set(err, -EINVAL, "'%s' cannot be a workspace", path);
	auto_free char *name = strdup(last);
	slash[slash == text] = 0;
	if (!name)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	if (create) {
		int fd = -1;
		r = inlay_open_dir(AT_FDCWD, text, 0777, &fd, err);
		if (r == -ENOTDIR || r == -ELOOP)
			r = 0; /* a symlink in the middle: realpath says whether it is good */
		inlay_cleanup_close(&fd);
		if (r < 0)
			return r;
	}
	auto_free char *parent = realpath(text, NULL);
	if (!parent)
		return inlay_error_sys(err, -errno, "resolve %s", text);
	int n = snprintf(ret, INLAY_HOST_PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "",
			 name);
	if (n < 0 || n >= INLAY_HOST_PATH_MAX)
		return inlay_error_set(err, -ENAMETOOLONG, "the path '%s' is too long", path);
	return 0;
}

void workspace_id_of_path(const char *path, char ret[static 17])
{
	struct inlay_digest d;
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_of(path, strlen(path), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, 17, "%.16s", hex);
}

/* Nobody's files may disappear under a mount: the directory is new or empty. */
static int check_empty(const char *path, struct inlay_error *err)
{
	auto_close int fd = -1;
	int r = inlay_open_dir(AT_FDCWD, path, 0755, &fd, err);

	if (r < 0)
		return r;
	DIR *dir = fdopendir(fd);
	if (!dir)
		return inlay_error_sys(err, -errno, "list %s", path);
	(void)take_fd(fd);
	struct dirent *d;
	unsigned count = 0;
	while (count == 0 && (d = readdir(dir)))
		count += strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
	(void)closedir(dir);
	if (count == 0)
		return 0;
	r = inlay_error_set(
		err, -ENOTEMPTY,
		"%s is not empty: mounting there would hide what is in it. Move it away, "
		"take it over with --adopt, or give another target",
		path);
	(void)inlay_error_set_exit(err, INLAY_EXIT_HALT);
	return r;
}

static struct inlay_workspace *find(struct inlay_host *host, const char *id)
{
	for (size_t i = 0; i < host->count; i++)
		if (strcmp(host->workspaces[i]->state.id, id) == 0)
			return host->workspaces[i];
	return NULL;
}

static int make_workspace(struct inlay_host *host, const char *id, const char *path,
			  struct inlay_workspace **ret, struct inlay_error *err)
{
	auto_of(workspace_free) struct inlay_workspace *ws = new_workspace(host, id);

	if (!ws)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	(void)snprintf(ws->state.path, sizeof ws->state.path, "%s", path);
	int r = check_empty(path, err);
	if (r == 0)
		r = open_workspace_dir(ws, err);
	if (r == 0)
		r = workspace_save(ws, err);
	if (r == 0)
		r = load_history(ws, err);
	if (r == 0)
		r = add_to_host(host, ws, err);
	if (r == 0)
		*ret = take_ptr(ws);
	return r;
}

int inlay_host_workspace(struct inlay_host *host, const char *path, bool create,
			 struct inlay_workspace **ret, struct inlay_error *err)
{
	char canonical[INLAY_HOST_PATH_MAX], id[17];
	int r = workspace_canonical_path(path, create, canonical, err);

	if (r == -ENOENT && !create)
		return INLAY_HOST_MISSING;
	if (r < 0)
		return r;
	workspace_id_of_path(canonical, id);
	scope_lock(&host->lock);
	struct inlay_workspace *ws = find(host, id);
	if (!ws && !create)
		return INLAY_HOST_MISSING;
	if (!ws) {
		r = make_workspace(host, id, canonical, &ws, err);
		if (r < 0)
			return r;
	}
	ws->refs++;
	*ret = ws;
	return 0;
}

/* ---- who may change it ---- */

static int locked(struct inlay_workspace *ws, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int64_t age = inlay_now_ns() - ws->state.owner_since_ns;

	inlay_text_escape(&b, ws->state.owner, strlen(ws->state.owner));
	inlay_buf_printf(&b, ", since ");
	inlay_text_duration(&b, age);
	(void)inlay_error_set(err, -EWOULDBLOCK,
			      "%s is held by %s. It can be taken over with --steal", ws->state.path,
			      inlay_buf_cstr(&b));
	(void)inlay_error_set_exit(err, INLAY_EXIT_LOCKED);
	return INLAY_HOST_LOCKED;
}

static void wake_owner(struct inlay_workspace *ws)
{
	uint64_t one = 1;

	if (ws->watch_fd >= 0)
		(void)!write(ws->watch_fd, &one, sizeof one);
}

static void tell_to_go(struct inlay_workspace *ws, const char *thief)
{
	ws->taken_over = true;
	(void)snprintf(ws->thief, sizeof ws->thief, "%s", thief);
	wake_owner(ws);
}

int inlay_workspace_lock(struct inlay_workspace *ws, const struct inlay_lock_ask *ask,
			 struct inlay_error *err)
{
	/* A session that is in the middle of a COMMIT ends behind it. */
	int64_t wait_ns = ask->steal && ask->wait_ns < STEAL_WAIT_NS ? STEAL_WAIT_NS : ask->wait_ns;
	int64_t until = inlay_now_ns() + wait_ns;
	struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
	int r = 0;

	scope_lock(&ws->lock);
	if (ws->state.owner[0] && ask->lease && ask->lease == ws->lease)
		tell_to_go(ws, "");
	else if (ws->state.owner[0] && ask->steal)
		tell_to_go(ws, *ask->owner ? ask->owner : "?");
	while (ws->state.owner[0] && r == 0)
		r = pthread_cond_timedwait(&ws->unowned, &ws->lock, &ts);
	if (ws->state.owner[0])
		return locked(ws, err);
	(void)snprintf(ws->state.owner, sizeof ws->state.owner, "%s",
		       *ask->owner ? ask->owner : "?");
	ws->state.owner_since_ns = inlay_now_ns();
	ws->lease = ask->lease;
	return 0;
}

bool inlay_workspace_taken_over(struct inlay_workspace *ws)
{
	scope_lock(&ws->lock);
	return ws->taken_over;
}

void inlay_workspace_thief(struct inlay_workspace *ws, char ret[static INLAY_HOST_OWNER_MAX])
{
	scope_lock(&ws->lock);
	(void)snprintf(ret, INLAY_HOST_OWNER_MAX, "%s", ws->thief);
}

void inlay_workspace_unlock(struct inlay_workspace *ws)
{
	scope_lock(&ws->lock);
	ws->state.owner[0] = 0;
	ws->lease = 0;
	ws->taken_over = false;
	(void)pthread_cond_broadcast(&ws->unowned);
}

void inlay_workspace_state(struct inlay_workspace *ws, struct inlay_workspace_state *ret)
{
	scope_lock(&ws->lock);
	*ret = ws->state;
	ret->damaged = ws->damaged.count;
}

void inlay_workspace_watch(struct inlay_workspace *ws, int eventfd)
{
	scope_lock(&ws->lock);
	ws->watch_fd = eventfd;
	/* It came between the lock and this. */
	if (ws->taken_over && eventfd >= 0)
		wake_owner(ws);
}

/* ---- generations ---- */

static int next_generation(struct inlay_workspace *ws, const struct inlay_commit *commit,
			   struct inlay_generation *ret, struct inlay_error *err)
{
	struct inlay_dir dir;
	int r = inlay_dir_open(ws->host->trees, &commit->root.tree, &dir, err);

	if (r != 0)
		return r < 0 ? r : inlay_error_set(err, -EIO, "the root's tree went away");
	const struct inlay_tree *t = inlay_dir_tree(&dir);
	*ret = (struct inlay_generation){.root = commit->root,
					 .rollback_of = commit->rollback_of,
					 .time_ns = inlay_now_ns(),
					 .entries = t->below.entries,
					 .bytes = t->below.bytes,
					 .changed = commit->changed};
	inlay_dir_close(&dir);
	(void)snprintf(ret->origin, sizeof ret->origin, "%s", commit->origin);
	scope_lock(&ws->lock);
	ret->parent = ws->state.live.number;
	uint64_t last = ret->parent > ws->reserved ? ret->parent : ws->reserved;
	ret->number = last + 1;
	return 0;
}

/* Objects that were damaged and are whole again need not be remembered. */
static int forget_mended(struct inlay_workspace *ws, struct inlay_error *err)
{
	struct inlay_idset left = {0};
	int r = 0;

	scope_lock(&ws->lock);
	for (size_t i = 0; r >= 0 && i < ws->damaged.count; i++)
		if (!inlay_store_has(ws->host->store, &ws->damaged.members[i]))
			r = inlay_idset_add(&left, &ws->damaged.members[i], err);
	inlay_idset_fini(&ws->damaged);
	ws->damaged = left;
	return r < 0 ? r : 0;
}

static int check_commit(struct inlay_workspace *ws, const struct inlay_commit *commit,
			struct inlay_idset *missing, struct inlay_error *err)
{
	struct inlay_digest live;
	{
		scope_lock(&ws->lock);
		live = ws->state.live.root.tree;
	}
	if (!inlay_digest_equal(&live, &commit->expect))
		return INLAY_HOST_STALE;
	int r = host_missing(ws->host, &live, &commit->root.tree, missing, err);
	if (r < 0)
		return r;
	return missing->count > 0 ? INLAY_HOST_INCOMPLETE : 0;
}

int inlay_workspace_try(struct inlay_workspace *ws, const struct inlay_commit *commit,
			struct inlay_idset *missing, struct inlay_error *err)
{
	scope_lock(&ws->change);
	return check_commit(ws, commit, missing, err);
}

static bool same_as_live(struct inlay_workspace *ws, const struct inlay_commit *commit)
{
	scope_lock(&ws->lock);
	const struct inlay_root *live = &ws->state.live.root;
	return ws->state.live.number > 0 && commit->rollback_of == 0 &&
	       inlay_digest_equal(&live->tree, &commit->root.tree) &&
	       live->mode == commit->root.mode && live->mtime_ns == commit->root.mtime_ns;
}

/* The live generation once more, because objects of it were sent again: no new one is made. */
static int mended(struct inlay_workspace *ws, struct inlay_generation *ret, struct inlay_error *err)
{
	int r = forget_mended(ws, err);

	if (r == 0)
		r = inlay_store_sync(ws->host->store, err);
	if (r < 0)
		return r;
	scope_lock(&ws->lock);
	*ret = ws->state.live;
	return 0;
}

int inlay_workspace_commit(struct inlay_workspace *ws, const struct inlay_commit *commit,
			   struct inlay_generation *ret, struct inlay_idset *missing,
			   struct inlay_error *err)
{
	struct inlay_generation gen;

	scope_lock(&ws->change);
	int r = check_commit(ws, commit, missing, err);
	if (r == 0)
		r = inlay_store_flush(ws->host->store, err);
	if (r == 0 && same_as_live(ws, commit))
		return mended(ws, ret, err);
	if (r == 0)
		r = next_generation(ws, commit, &gen, err);
	if (r == 0)
		r = forget_mended(ws, err);
	if (r == 0)
		r = workspace_show(ws, &gen, err);
	if (r != 0)
		return r;
	scope_lock(&ws->lock);
	ws->state.live = gen;
	workspace_want_durable(ws);
	*ret = gen;
	return 0;
}

int inlay_workspace_history(struct inlay_workspace *ws, struct inlay_history **ret,
			    struct inlay_error *err)
{
	struct inlay_history *stored = NULL;
	int r = inlay_store_history(ws->host->store, ws->state.id, &stored, err);

	if (r < 0)
		return r;
	size_t count = r == 0 ? stored->count : 0;
	struct inlay_history *h = malloc(sizeof *h + (count + 1) * sizeof h->gens[0]);
	if (!h) {
		free(stored);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	*h = (struct inlay_history){0};
	scope_lock(&ws->lock);
	if (ws->state.live.number && (count == 0 || stored->gens[0].number < ws->state.live.number))
		h->gens[h->count++] = ws->state.live;
	for (size_t i = 0; i < count; i++)
		h->gens[h->count++] = stored->gens[i];
	free(stored);
	*ret = h;
	return 0;
}

int inlay_workspace_damaged(struct inlay_workspace *ws, struct inlay_idset *ret,
			    struct inlay_error *err)
{
	int r = forget_mended(ws, err);

	scope_lock(&ws->lock);
	for (size_t i = 0; r >= 0 && i < ws->damaged.count; i++)
		r = inlay_idset_add(ret, &ws->damaged.members[i], err);
	return r < 0 ? r : 0;
}

int inlay_workspace_remove(struct inlay_workspace *ws, struct inlay_error *err)
{
	int r = workspace_forget_programs(ws, err);

	if (r == 0)
		r = inlay_workspace_umount(ws, false, err);
	if (r < 0)
		return r;
	scope_lock(&ws->change);
	r = inlay_store_remove_ref(ws->host->store, ws->state.id, err);
	if (r == 0 && unlinkat(ws->dir_fd, WORKSPACE_FILE, 0) < 0 && errno != ENOENT)
		r = inlay_error_sys(err, -errno, "forget %s", ws->state.path);
	/* Nobody would keep from gc what it refers to; the next workspace of that path begins without. */
	if (r == 0 && unlinkat(ws->dir_fd, UPPER_JOURNAL, 0) < 0 && errno != ENOENT)
		r = inlay_error_sys(err, -errno, "forget what was written to %s", ws->state.path);
	if (r == 0)
		r = inlay_remove_tree(ws->dir_fd, UPPER_FILES, err);
	if (r == 0)
		r = workspace_forget_root(ws, err);
	if (r < 0)
		return r;
	{
		scope_lock(&ws->lock);
		ws->removed = true;
	}
	scope_lock(&ws->host->lock);
	for (size_t i = 0; i < ws->host->count; i++) {
		if (ws->host->workspaces[i] != ws)
			continue;
		ws->host->workspaces[i] = ws->host->workspaces[--ws->host->count];
		ws->refs--; /* the caller has another one */
		break;
	}
	return 0;
}
