/* SPDX-License-Identifier: Apache-2.0 */
/* What a workspace runs in: the file ws/<id>/root (docs/format.md). */
#include <errno.h>
#include <stdio.h>

#include "inlay/container.h"
#include "inlay/io.h"
#include "inlay/run.h"
#include "run/speclists.h"

#define CONTAINER_MAGIC "iCNT"

enum { CONTAINER_VERSION = 1 };

void inlay_container_spec_encode(const struct inlay_container_spec *spec, struct inlay_buf *b)
{
	size_t start = b->len;

	inlay_buf_add(b, CONTAINER_MAGIC, 4);
	inlay_buf_u8(b, CONTAINER_VERSION);
	inlay_buf_u8(b, (uint8_t)spec->runtime);
	inlay_buf_add(b, spec->image.b, INLAY_DIGEST_BYTES);
	inlay_buf_string(b, spec->user ? spec->user : "", spec->user ? strlen(spec->user) : 0);
	speclist_put(b, spec->env);
	speclist_put(b, spec->entrypoint);
	if (!b->failed)
		inlay_buf_u64(b, inlay_xxh3(b->data + start, b->len - start));
}

int inlay_container_spec_decode(const void *bytes, size_t len, struct inlay_container_spec *ret,
				struct inlay_error *err)
{
	struct inlay_cursor c = inlay_cursor_of(bytes, len);
	struct inlay_container_spec s = {0};

	if (len > INLAY_RUN_SPEC_MAX)
		return inlay_error_set(err, -E2BIG, "a root's description of %zu bytes", len);
	const uint8_t *magic = inlay_cursor_bytes(&c, 4);
	uint8_t version = inlay_cursor_u8(&c);
	if (magic && memcmp(magic, CONTAINER_MAGIC, 4) == 0 && version > CONTAINER_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "the root was described by a newer inlay (version %u)",
				       version);
	s.runtime = inlay_cursor_u8(&c);
	const uint8_t *image = inlay_cursor_bytes(&c, INLAY_DIGEST_BYTES);
	if (!image || memcmp(magic, CONTAINER_MAGIC, 4) != 0 || version != CONTAINER_VERSION ||
	    s.runtime > INLAY_RUNTIME_PODMAN)
		return inlay_error_set(err, -EBADMSG, "a bad description of a root");
	memcpy(s.image.b, image, INLAY_DIGEST_BYTES);
	s.user = speclist_get_text(&c);
	int r = speclist_get(&c, &s.env, err);
	if (r == 0)
		r = speclist_get(&c, &s.entrypoint, err);
	uint64_t sum = inlay_cursor_u64(&c);
	if (r == 0 && (!inlay_cursor_done(&c) || !s.user || sum != inlay_xxh3(bytes, len - 8) ||
		       strlen(s.user) > INLAY_CONTAINER_USER_MAX || !speclist_are_vars(s.env)))
		r = inlay_error_set(err, -EBADMSG, "a bad description of a root");
	if (r < 0)
		inlay_container_spec_fini(&s);
	else
		*ret = s;
	return r;
}

void inlay_container_spec_fini(struct inlay_container_spec *spec)
{
	inlay_run_strings_free(spec->env);
	inlay_run_strings_free(spec->entrypoint);
	free(spec->user);
	*spec = (struct inlay_container_spec){0};
}

int inlay_container_read(int ws_fd, struct inlay_container_spec *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};
	int r = inlay_read_file(ws_fd, INLAY_CONTAINER_NOW, INLAY_RUN_SPEC_MAX, &b, err);

	if (r == INLAY_IO_MISSING)
		return INLAY_CONTAINER_NONE;
	return r < 0 ? r : inlay_container_spec_decode(b.data, b.len, ret, err);
}

void inlay_container_root(const struct inlay_digest *image, char *ret, size_t size)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(image, hex);
	(void)snprintf(ret, size, INLAY_CONTAINER_ROOTS "/%s/m", hex);
}
