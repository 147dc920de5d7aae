/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's bytes: the search for the magic, frames, and the decoder of every message. */
#include <stdint.h>
#include <stdlib.h>

#include "wire/frame.h"
#include "wire/imagemessage.h"
#include "wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DECODE(name)                                                        \
	do {                                                                \
		struct message_##name m;                                    \
		(void)!message_decode_##name(f->payload, f->len, &m, NULL); \
	} while (0)

static void decode_all(const struct frame *f)
{
	struct inlay_generation g;
	struct inlay_idset set = {0};

	DECODE(hello);
	DECODE(open);
	DECODE(channel);
	DECODE(opened);
	DECODE(commit);
	DECODE(visible);
	DECODE(durable);
	DECODE(request);
	DECODE(status);
	DECODE(change);
	DECODE(finding);
	DECODE(check);
	DECODE(gc);
	DECODE(program);
	DECODE(log);
	DECODE(hook);
	DECODE(order);
	DECODE(outcome);
	DECODE(upper);
	DECODE(reset);
	DECODE(pulled);
	DECODE(failed);
	DECODE(image);
	DECODE(image_push);
	DECODE(image_done);
	(void)!message_decode_generation(f->payload, f->len, &g, NULL);
	(void)!message_decode_want(f->payload, f->len, &set, NULL);
	inlay_idset_fini(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame f;
	size_t used;

	/* A checksum would keep the fuzzer away from what lies behind it: the bytes are payloads too. */
	f = (struct frame){.len = (uint32_t)size, .payload = data};
	decode_all(&f);
	if (frame_find_magic(data, size, &used) != 0)
		used = 0;
	data += used;
	size -= used;
	while (frame_open(data, size, &f, &used, NULL) == 0) {
		if (used > size || f.len > INLAY_FRAME_MAX)
			abort();
		decode_all(&f);
		data += used;
		size -= used;
	}
	return 0;
}
