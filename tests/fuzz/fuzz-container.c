/* SPDX-License-Identifier: Apache-2.0 */
/* What a workspace runs in, and an image's passwd and group: any bytes are refused, or mean one thing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/container.h"
#include "run/users.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void describe(const uint8_t *data, size_t size)
{
	struct inlay_buf in = {0}, out = {0};
	struct inlay_container_spec spec;

	/* The checksum is put right, so that the rest is reached. */
	inlay_buf_add(&in, data, size);
	inlay_buf_u64(&in, inlay_xxh3(data, size));
	if (inlay_container_spec_decode(in.data, in.len, &spec, NULL) == 0) {
		inlay_container_spec_encode(&spec, &out);
		if (out.len != in.len || memcmp(out.data, in.data, in.len) != 0)
			abort();
		inlay_container_spec_fini(&spec);
	}
	inlay_buf_fini(&in);
	inlay_buf_fini(&out);
}

/* user NUL passwd NUL group */
static void look_up(const uint8_t *data, size_t size)
{
	char *user = inlay_dup(data, size);
	struct inlay_buf passwd = {0}, group = {0};
	struct users_id id;

	if (!user)
		return;
	size_t n = strlen(user);
	const uint8_t *at = data + (n < size ? n + 1 : size), *end = data + size;
	const uint8_t *zero = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
	inlay_buf_add(&passwd, at, (size_t)((zero ? zero : end) - at));
	if (zero)
		inlay_buf_add(&group, zero + 1, (size_t)(end - zero - 1));
	if (users_find(user, &passwd, &group, &id, NULL) == 0 &&
	    (id.uid > USERS_ID_MAX || id.gid > USERS_ID_MAX || id.extra_count > USERS_EXTRA_MAX))
		abort();
	inlay_buf_fini(&passwd);
	inlay_buf_fini(&group);
	free(user);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	(*data & 1 ? describe : look_up)(data + 1, size - 1);
	return 0;
}
