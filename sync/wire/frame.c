/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/frame.h"

#include <errno.h>
#include <string.h>

#include "inlay/bytes.h"
#include "inlay/digest.h"

/* Not text, and no byte of a usual shell's output: a high bit first, CR LF to show a terminal's
 * translation, then bytes from a random source. */
const uint8_t frame_magic[FRAME_MAGIC_BYTES] = {0x89, 'i',  'n',  'l',  'a',  'y',  '\r', '\n',
						0xd3, 0x5e, 0x91, 0xc6, 0x2f, 0xb8, 0x04, 0x7a};

static uint64_t checksum(const uint8_t *header, const void *payload, size_t len)
{
	return inlay_xxh3_seeded(payload, len, inlay_get_le64(header));
}

void frame_seal(uint8_t header[static FRAME_HEADER_BYTES], uint8_t type, const void *payload,
		size_t len)
{
	memset(header, 0, FRAME_HEADER_BYTES);
	inlay_put_le32(header, (uint32_t)len);
	header[4] = type;
	inlay_put_le64(header + 8, checksum(header, payload, len));
}

int frame_open(const uint8_t *bytes, size_t len, struct frame *ret, size_t *ret_used,
	       struct inlay_error *err)
{
	if (len < FRAME_HEADER_BYTES)
		return FRAME_MORE;
	uint32_t payload = inlay_get_le32(bytes);
	if (payload > INLAY_FRAME_MAX)
		return inlay_error_set(err, -EPROTO, "a frame of %u bytes; at most %d are allowed",
				       payload, INLAY_FRAME_MAX);
	if (bytes[5] || bytes[6] || bytes[7])
		return inlay_error_set(err, -EPROTO, "a frame with unknown flags");
	if (len - FRAME_HEADER_BYTES < payload)
		return FRAME_MORE;
	if (inlay_get_le64(bytes + 8) != checksum(bytes, bytes + FRAME_HEADER_BYTES, payload))
		return inlay_error_set(err, -EPROTO, "a frame was damaged on its way");
	*ret = (struct frame){
		.type = bytes[4], .len = payload, .payload = bytes + FRAME_HEADER_BYTES};
	*ret_used = FRAME_HEADER_BYTES + payload;
	return 0;
}

int frame_find_magic(const uint8_t *bytes, size_t len, size_t *ret_used)
{
	const uint8_t *at = len ? memmem(bytes, len, frame_magic, FRAME_MAGIC_BYTES) : NULL;

	if (at) {
		*ret_used = (size_t)(at - bytes) + FRAME_MAGIC_BYTES;
		return 0;
	}
	*ret_used = len < FRAME_MAGIC_BYTES ? 0 : len - (FRAME_MAGIC_BYTES - 1);
	return FRAME_MORE;
}
