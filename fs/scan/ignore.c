/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A struct inlay_ignore is a directory's reference to the set of rules in force there, and its name,
 * which is needed only to tell where a file of rules lies.
 */
#include "inlay/ignore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inlay/bytes.h"
#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/limits.h"
#include "inlay/text.h"
#include "scan/ruleset.h"

struct inlay_ignore {
	unsigned refs; /* atomic */
	struct inlay_ignore *parent;
	struct rule_set *set;
	bool no_gitignore;
	uint16_t depth;
	uint8_t name_len;
	char name[];
};

/* Compose's list of what editors leave behind for moments (its pkg/watch), without .idea: that is a
 * folder of settings, which people share. */
static const char builtin_lines[] = ".git\n"
				    "*~\n"
				    ".*.swp\n"
				    ".*.swx\n"
				    ".*.swo\n"
				    ".*.swn\n"
				    "4913\n"
				    ".#*\n"
				    "\\#*#\n"
				    ".*.kate-swp\n"
				    "*___jb_old___\n"
				    "*___jb_tmp___\n"
				    "*-go-tmp-umask\n";

static const char builtin_source[] = "built-in";
static const char own_name[] = ".inlay";
static const char own_pattern[] = "/.inlay";

static int no_memory(struct inlay_error *err)
{
	return inlay_error_set(err, -ENOMEM, "out of memory");
}

/* ---- files ---- */

enum { FILES = 2 }; /* .gitignore, .inlayignore: the later one is stronger */

/* The lists of one directory's own files. */
struct own_files {
	struct rule_list *lists[FILES];
	uint32_t which[FILES]; /* of the two files */
	uint32_t count;
};

static void own_files_fini(struct own_files *own)
{
	for (uint32_t i = 0; i < own->count; i++)
		rules_unref(own->lists[i]);
}
INLAY_DEFINE_FINI(struct own_files, own_files_fini)

/* The path of `name` in the directory of `dir`, and `last` in it. */
static void path_of(struct inlay_buf *path, const struct inlay_ignore *dir, const char *last)
{
	const struct inlay_ignore *up[INLAY_DEPTH_MAX + 2];
	size_t depth = 0;

	for (; dir && dir->parent && depth < INLAY_DEPTH_MAX + 2; dir = dir->parent)
		up[depth++] = dir;
	while (depth-- > 0) {
		inlay_buf_add(path, up[depth]->name, up[depth]->name_len);
		inlay_buf_u8(path, '/');
	}
	inlay_buf_add(path, last, strlen(last));
}

/* Positive: INLAY_IO_MISSING. */
static int read_rules(int dirfd, const char *name, struct inlay_buf *text, struct inlay_error *err)
{
	struct stat st;
	size_t got;
	auto_close int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return INLAY_IO_MISSING;
	if (fd < 0 && errno == ELOOP)
		return inlay_error_set(err, -ELOOP, "a file of ignore rules may not be a symlink");
	if (fd < 0)
		return inlay_error_sys(err, -errno, "open the ignore rules");
	if (fstat(fd, &st) < 0)
		return inlay_error_sys(err, -errno, "stat the ignore rules");
	if (!S_ISREG(st.st_mode))
		return inlay_error_set(err, -EINVAL, "the ignore rules are not a regular file");
	/* One byte more than allowed tells a file that is too large, and that it has ended. */
	size_t room = (size_t)st.st_size < INLAY_IGNORE_FILE_MAX ? (size_t)st.st_size + 1
								 : INLAY_IGNORE_FILE_MAX + 1;
	do {
		uint8_t *at = inlay_buf_reserve(text, room);
		if (!at)
			return inlay_buf_check(text, err);
		int r = inlay_read_full(fd, at, room, &got, "the ignore rules", err);
		if (r < 0)
			return r;
		text->len += got;
	} while (got == room && text->len <= INLAY_IGNORE_FILE_MAX);
	return 0;
}

static int add_file(const struct inlay_ignore *dir, int dirfd, uint32_t which,
		    struct own_files *own, struct inlay_error *err)
{
	static const char *const names[FILES] = {".gitignore", ".inlayignore"};
	auto_buf struct inlay_buf text = {0}, path = {0}, shown = {0};
	const char *name = names[which];

	path_of(&path, dir, name);
	const char *source = inlay_buf_cstr(&path);
	int r = inlay_buf_check(&path, err);
	if (r == 0)
		r = read_rules(dirfd, name, &text, err);
	if (r == INLAY_IO_MISSING)
		return 0;
	if (r == 0)
		r = rules_compile(source, text.len ? (const void *)text.data : "", text.len,
				  RULES_FILE, &own->lists[own->count], err);
	if (r < 0) {
		inlay_text_escape(&shown, source, strlen(source));
		return inlay_error_prefix(err, r, "%s", inlay_buf_cstr(&shown));
	}
	own->which[own->count++] = which;
	return 0;
}

static int add_files(const struct inlay_ignore *dir, int dirfd, bool has_gitignore,
		     bool has_inlayignore, struct own_files *own, struct inlay_error *err)
{
	int r = 0;

	if (has_gitignore && !dir->no_gitignore)
		r = add_file(dir, dirfd, 0, own, err);
	if (r == 0 && has_inlayignore)
		r = add_file(dir, dirfd, 1, own, err);
	return r;
}

/* Changes with every list, its place and their order; without own lists it is the parent's. */
static uint64_t fingerprint_with(uint64_t above, const struct own_files *own, uint32_t depth)
{
	for (uint32_t i = 0; i < own->count; i++) {
		uint64_t parts[] = {above, own->lists[i]->hash};
		above = inlay_xxh3_seeded(parts, sizeof parts, depth * FILES + own->which[i]);
	}
	return above;
}

/* ---- directories ---- */

struct inlay_ignore *inlay_ignore_ref(struct inlay_ignore *rules)
{
	(void)__atomic_add_fetch(&rules->refs, 1, __ATOMIC_RELAXED);
	return rules;
}

void inlay_ignore_unref(struct inlay_ignore *rules)
{
	/* Not recursive: a chain is as long as the tree is deep. */
	while (rules && __atomic_sub_fetch(&rules->refs, 1, __ATOMIC_ACQ_REL) == 0) {
		struct inlay_ignore *parent = rules->parent;
		ruleset_unref(rules->set);
		free(rules);
		rules = parent;
	}
}

uint64_t inlay_ignore_fingerprint(const struct inlay_ignore *rules)
{
	return rules->set->fingerprint;
}

static struct inlay_ignore *new_dir(struct inlay_ignore *parent, const char *name, size_t len)
{
	struct inlay_ignore *dir = calloc(1, sizeof *dir + len);

	if (!dir)
		return NULL;
	dir->refs = 1;
	dir->name_len = (uint8_t)len;
	memcpy(dir->name, name, len);
	if (parent) {
		dir->parent = inlay_ignore_ref(parent);
		dir->depth = (uint16_t)(parent->depth + 1);
		dir->no_gitignore = parent->no_gitignore;
	}
	return dir;
}

/* The options' patterns as one text. */
static int compile_options(const struct inlay_ignore_options *options, struct rule_list **ret,
			   struct inlay_error *err)
{
	auto_buf struct inlay_buf text = {0};

	for (size_t i = 0; options && i < options->pattern_count; i++) {
		inlay_buf_add(&text, options->patterns[i], strlen(options->patterns[i]));
		inlay_buf_u8(&text, '\n');
	}
	int r = inlay_buf_check(&text, err);
	if (r == 0)
		r = rules_compile("--exclude", text.len ? (const void *)text.data : "", text.len, 0,
				  ret, err);
	return r < 0 ? inlay_error_prefix(err, r, "exclude patterns") : 0;
}

static int make_root_set(struct inlay_ignore *dir, const struct inlay_ignore_options *options,
			 const struct own_files *own, struct inlay_error *err)
{
	auto_of(rules_unref) struct rule_list *chosen = NULL;
	auto_of(rules_unref) struct rule_list *builtin = NULL;
	struct rule_list *lists[FILES + 2];
	uint32_t count = 1;
	int r = compile_options(options, &chosen, err);

	if (r < 0)
		return r;
	lists[0] = chosen;
	for (uint32_t i = own->count; i-- > 0;)
		lists[count++] = own->lists[i];
	if (!options || !options->no_builtin) {
		r = rules_compile(builtin_source, builtin_lines, sizeof builtin_lines - 1, 0,
				  &builtin, err);
		if (r < 0)
			return r;
		lists[count++] = builtin;
	}
	uint64_t bare[] = {chosen->hash, builtin != NULL, dir->no_gitignore};
	uint64_t fingerprint = fingerprint_with(inlay_xxh3(bare, sizeof bare), own, 0);
	return ruleset_new(lists, count, fingerprint, &dir->set, err);
}

int inlay_ignore_root(int rootfd, const struct inlay_ignore_options *options,
		      struct inlay_ignore **ret, struct inlay_error *err)
{
	auto_of(own_files_fini) struct own_files own = {0};
	auto_of(inlay_ignore_unref) struct inlay_ignore *dir = new_dir(NULL, "", 0);

	if (!dir)
		return no_memory(err);
	dir->no_gitignore = options && options->no_gitignore;
	int r = add_files(dir, rootfd, true, true, &own, err);
	if (r == 0)
		r = make_root_set(dir, options, &own, err);
	if (r < 0)
		return r;
	*ret = take_ptr(dir);
	return 0;
}

static int make_set(struct inlay_ignore *dir, const struct own_files *own, struct inlay_error *err)
{
	struct rule_set *above = dir->parent->set;
	struct rule_list *lists[FILES];

	for (uint32_t i = 0; i < own->count; i++)
		lists[i] = own->lists[own->count - 1 - i];
	return ruleset_below(above, lists, own->count,
			     fingerprint_with(above->fingerprint, own, dir->depth), dir->name,
			     dir->name_len, &dir->set, err);
}

int inlay_ignore_enter(struct inlay_ignore *parent, int dirfd, const char *name, size_t len,
		       bool has_gitignore, bool has_inlayignore, struct inlay_ignore **ret,
		       struct inlay_error *err)
{
	auto_of(own_files_fini) struct own_files own = {0};

	if (len > INLAY_NAME_MAX || parent->depth > INLAY_DEPTH_MAX)
		return inlay_error_set(err, -E2BIG, "more than %d directories deep",
				       INLAY_DEPTH_MAX);
	auto_of(inlay_ignore_unref) struct inlay_ignore *dir = new_dir(parent, name, len);
	if (!dir)
		return no_memory(err);
	int r = add_files(dir, dirfd, has_gitignore, has_inlayignore, &own, err);
	if (r == 0)
		r = make_set(dir, &own, err);
	if (r < 0)
		return r;
	*ret = take_ptr(dir);
	return 0;
}

bool inlay_ignore_match(const struct inlay_ignore *rules, const char *name, size_t len, bool is_dir,
			struct inlay_ignore_why *why)
{
	const struct rule_list *list;

	if (why)
		*why = (struct inlay_ignore_why){0};
	if (!rules->parent && len == sizeof own_name - 1 && memcmp(name, own_name, len) == 0) {
		if (why)
			*why = (struct inlay_ignore_why){builtin_source, 0, own_pattern, false};
		return true;
	}
	const struct rule *r = ruleset_match(rules->set, name, len, is_dir, &list);
	if (r && why)
		*why = (struct inlay_ignore_why){list->source, list->numbered ? r->line : 0,
						 (const char *)list->text + r->text, r->negated};
	return r && !r->negated;
}

int inlay_ignore_match_path(struct inlay_ignore *root, const char *path, size_t len, bool is_dir,
			    struct inlay_error *err)
{
	struct inlay_ignore *rules = inlay_ignore_ref(root);
	int r = 0;

	for (const char *end = path + len; r == 0 && path < end;) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);
		struct inlay_ignore *inner;
		if (inlay_ignore_match(rules, path, n, slash || is_dir, NULL)) {
			r = 1;
		} else if (slash) {
			r = inlay_ignore_enter(rules, -1, path, n, false, false, &inner, err);
			if (r == 0) {
				inlay_ignore_unref(rules);
				rules = inner;
			}
		}
		path += n + 1;
	}
	inlay_ignore_unref(rules);
	return r;
}
