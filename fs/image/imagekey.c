/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "image/imageref.h"

static bool all_of(const char *s, const char *more)
{
	for (; *s; s++)
		if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
		      (*s >= '0' && *s <= '9') || strchr(more, *s)))
			return false;
	return true;
}

/* What uname and builders say, and what the OCI specification calls it. */
static const char *architecture(const char *name, size_t len)
{
	static const char *const same[][2] = {
		{"x86_64", "amd64"}, {"x86-64", "amd64"}, {"aarch64", "arm64"},
		{"i386", "386"},     {"i686", "386"},
	};

	for (size_t i = 0; i < sizeof same / sizeof *same; i++)
		if (strlen(same[i][0]) == len && memcmp(same[i][0], name, len) == 0)
			return same[i][1];
	return NULL;
}

static int normalise(const char *platform, char ret[static INLAY_IMAGE_PLATFORM_MAX + 1],
		     struct inlay_error *err)
{
	const char *slash = strchr(platform, '/');
	const char *arch = slash ? slash + 1 : platform;
	int os_len = slash ? (int)(slash - platform) : 5;
	size_t arch_len = strcspn(arch, "/");
	const char *variant = arch[arch_len] ? arch + arch_len + 1 : "";
	const char *name = architecture(arch, arch_len);

	if (!all_of(platform, "/._-") || strchr(variant, '/') || arch_len == 0 || os_len == 0)
		return inlay_error_set(err, -EINVAL,
				       "'%.100s' is not a platform such as linux/arm64", platform);
	/* v8 is the only arm64 there is; some writers leave it out. */
	if (arch_len == 5 && memcmp(arch, "arm64", 5) == 0 && strcmp(variant, "v8") == 0)
		variant = "";
	int n = snprintf(ret, INLAY_IMAGE_PLATFORM_MAX + 1, "%.*s/%.*s%s%s", os_len,
			 slash ? platform : "linux", name ? (int)strlen(name) : (int)arch_len,
			 name ? name : arch, *variant ? "/" : "", variant);
	if (n > INLAY_IMAGE_PLATFORM_MAX)
		return inlay_error_set(err, -EINVAL, "the platform's name is too long");
	return 0;
}

int inlay_image_key_make(const char *name, const char *variant, const char *platform,
			 struct inlay_image_key *ret, struct inlay_error *err)
{
	struct inlay_image_key key = {0};

	if (strlen(name) > INLAY_IMAGE_NAME_MAX || !*name || strchr("._/:@-", name[0]) ||
	    !all_of(name, "._/:@-"))
		return inlay_error_set(err, -EINVAL,
				       "'%.200s' cannot be an image's name: 1 to %d of "
				       "[A-Za-z0-9._/:@-], beginning with a letter or digit",
				       name, INLAY_IMAGE_NAME_MAX);
	if (strlen(variant) > INLAY_IMAGE_VARIANT_MAX || !all_of(variant, "._-"))
		return inlay_error_set(err, -EINVAL, "'%.200s' cannot be a variant's name",
				       variant);
	(void)snprintf(key.name, sizeof key.name, "%s", name);
	(void)snprintf(key.variant, sizeof key.variant, "%s", variant);
	int r = *platform ? normalise(platform, key.platform, err) : 0;
	if (r == 0)
		*ret = key;
	return r;
}

void inlay_image_host_platform(char ret[static INLAY_IMAGE_PLATFORM_MAX + 1])
{
	struct utsname u;
	const char *name = uname(&u) == 0 ? architecture(u.machine, strlen(u.machine)) : NULL;

	(void)snprintf(ret, INLAY_IMAGE_PLATFORM_MAX + 1, "linux/%.50s", name ? name : u.machine);
}

/* The origin of a generation: three words; a variant that is not there is "-". */
void inlay_image_key_text(const struct inlay_image_key *key, char ret[static INLAY_ORIGIN_MAX + 1])
{
	(void)snprintf(ret, INLAY_ORIGIN_MAX + 1, "%s %s %s", key->name,
		       *key->variant ? key->variant : "-", key->platform);
}

bool inlay_image_key_parse(const char *origin, struct inlay_image_key *ret)
{
	char text[INLAY_ORIGIN_MAX + 1], *variant, *platform;

	(void)snprintf(text, sizeof text, "%s", origin);
	variant = strchr(text, ' ');
	platform = variant ? strchr(variant + 1, ' ') : NULL;
	if (!platform)
		return false;
	*variant++ = 0;
	*platform++ = 0;
	return inlay_image_key_make(text, strcmp(variant, "-") == 0 ? "" : variant, platform, ret,
				    NULL) == 0;
}

void imageref_name(const struct inlay_image_key *key, char ret[static IMAGEREF_NAME])
{
	char origin[INLAY_ORIGIN_MAX + 1], hex[INLAY_DIGEST_HEX];
	struct inlay_digest d;

	inlay_image_key_text(key, origin);
	inlay_digest_of(origin, strlen(origin), &d);
	inlay_digest_hex(&d, hex);
	(void)snprintf(ret, IMAGEREF_NAME, "%s%.32s", IMAGEREF_PREFIX, hex);
}
