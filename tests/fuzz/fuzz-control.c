/* SPDX-License-Identifier: Apache-2.0 */
/* Packets on a watch's control socket: what is decoded is encoded as the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/bytes.h"
#include "watch/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(struct inlay_buf *b, const uint8_t *data, size_t size)
{
	if (b->failed || b->len != size || memcmp(b->data, data, size) != 0)
		abort();
	inlay_buf_fini(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct control_request request;
	static struct control_packet packet;
	struct inlay_buf b = {0};

	if (control_decode_request(data, size, &request, NULL) == 0) {
		control_encode_request(&b, &request);
		same(&b, data, size);
	}
	if (control_decode(data, size, &packet, NULL) == 0) {
		control_encode(&b, &packet);
		same(&b, data, size);
	}
	return 0;
}
