/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker tells of the upper, and the list of what was pulled. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/limits.h"
#include "keep/upperlist.h"
#include "session/landing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void list_upper(const uint8_t *data, size_t size)
{
	struct inlay_upper_list list = {0};

	if (size == 0)
		return;
	/* The first byte is the count that the message says. */
	if (upper_list_parse(data + 1, size - 1, data[0], &list, NULL) == 0)
		for (size_t i = 0; i < list.count; i++)
			if (list.entries[i].path_len == 0 ||
			    list.entries[i].path_len > INLAY_PATH_MAX ||
			    memchr(list.entries[i].path, 0, list.entries[i].path_len))
				abort();
	free(list.entries);
}

static void list_pulled(const uint8_t *data, size_t size)
{
	struct landing l = {.root = -1, .state_fd = -1};
	struct inlay_buf b = {0};

	/* One encoding for each list, as long as no path is named twice. */
	if (landing_decode(&l, data, size, NULL) == 0)
		landing_encode(&l, &b);
	inlay_buf_fini(&b);
	landing_close(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	list_upper(data, size);
	list_pulled(data, size);
	return 0;
}
