/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/agents.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"

static const char *canonical_machine(const char *machine)
{
	if (strcmp(machine, "arm64") == 0)
		return "aarch64";
	if (strcmp(machine, "amd64") == 0)
		return "x86_64";
	return machine;
}

/* Directories where the binaries may lie, one after the other; false behind the last. */
static bool agents_dir(const char *given, int i, char ret[static 4096])
{
	char self[4000];

	if (given) {
		(void)snprintf(ret, 4096, "%s", given);
		return i == 0;
	}
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n <= 0 || i > 1)
		return false;
	self[n] = 0;
	*strrchr(self, '/') = 0;
	(void)snprintf(ret, 4096, "%s%s", self, i == 0 ? "" : "/../libexec/inlay");
	return true;
}

static int hash_file(int fd, const char *path, struct inlay_digest *ret, struct inlay_error *err)
{
	auto_free uint8_t *buf = malloc(1 << 20);
	struct inlay_hasher h;
	size_t n = 0;

	if (!buf)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	inlay_hasher_init(&h);
	do {
		int r = inlay_read_full(fd, buf, 1 << 20, &n, path, err);
		if (r < 0)
			return r;
		inlay_hasher_add(&h, buf, n);
	} while (n == 1 << 20);
	inlay_hasher_end(&h, ret);
	return 0;
}

/* The digest of a file that did not change since it was last computed. Losing the cache costs some
 * milliseconds, so nothing about it is an error. */
static bool cached(int cache_fd, const char *name, const char *key, struct inlay_digest *ret)
{
	auto_buf struct inlay_buf b = {0};

	if (cache_fd < 0 || inlay_read_file(cache_fd, name, 1024, &b, NULL) != 0)
		return false;
	const char *text = inlay_buf_cstr(&b);
	size_t len = strlen(key);
	return strncmp(text, key, len) == 0 && text[len] == ' ' &&
	       inlay_digest_from_hex(text + len + 1, ret);
}

static int identify(int fd, const struct stat *st, const char *cache_dir, struct agent *a,
		    const char *machine, struct inlay_error *err)
{
	char key[160], name[64], hex[INLAY_DIGEST_HEX], line[256];
	auto_close int cache_fd =
		cache_dir ? open(cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	(void)snprintf(key, sizeof key, "%llu %llu %lld.%09ld", (unsigned long long)st->st_dev,
		       (unsigned long long)st->st_ino, (long long)st->st_mtim.tv_sec,
		       st->st_mtim.tv_nsec);
	(void)snprintf(name, sizeof name, "agent-%.32s", machine);
	if (cached(cache_fd, name, key, &a->id))
		return 0;
	int r = hash_file(fd, a->path, &a->id, err);
	if (r < 0)
		return r;
	inlay_digest_hex(&a->id, hex);
	int n = snprintf(line, sizeof line, "%s %s", key, hex);
	if (cache_fd >= 0 && n > 0)
		(void)!inlay_replace_file(cache_fd, name, line, (size_t)n, 0600, 0, NULL);
	return 0;
}

int agent_find(const char *given, const char *cache_dir, const char *machine, struct agent *ret,
	       struct inlay_error *err)
{
	char dir[4096];
	struct stat st;

	machine = canonical_machine(machine);
	for (int i = 0; agents_dir(given, i, dir); i++) {
		int n = snprintf(ret->path, sizeof ret->path, "%s/inlayd-%.32s", dir, machine);
		if (n < 0 || (size_t)n >= sizeof ret->path)
			continue;
		auto_close int fd = open(ret->path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st) < 0)
			continue;
		ret->size = (uint64_t)st.st_size;
		return identify(fd, &st, cache_dir, ret, machine, err);
	}
	return AGENT_NONE;
}

void agent_name(const struct agent *a, char ret[static AGENT_NAME_BYTES])
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&a->id, hex);
	(void)snprintf(ret, AGENT_NAME_BYTES, "inlayd-%.24s", hex);
}
