/* SPDX-License-Identifier: Apache-2.0 */
/* The description of a program: any bytes are refused, or encode to the same bytes again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/digest.h"
#include "inlay/run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct inlay_buf in = {0}, out = {0};
	struct inlay_run_spec spec;

	/* The checksum is put right, so that the rest is reached. */
	inlay_buf_add(&in, data, size);
	inlay_buf_u64(&in, inlay_xxh3(data, size));
	if (inlay_run_spec_decode(in.data, in.len, &spec, NULL) == 0) {
		inlay_run_spec_encode(&spec, &out);
		if (out.len != in.len || memcmp(out.data, in.data, in.len) != 0)
			abort();
		inlay_run_spec_fini(&spec);
	}
	inlay_buf_fini(&in);
	inlay_buf_fini(&out);
	return 0;
}
