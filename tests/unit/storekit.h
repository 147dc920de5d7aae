/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_STOREKIT_H
#define INLAY_TESTS_STOREKIT_H

/* What the tests of the store share: scratch directories, objects that can be made again from their
 * number, looking at and damaging files. Failures are cmocka's. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "unit.h"

#include "inlay/store.h"

extern struct inlay_error err;

/* cmocka setup and teardown: *state is a pointer to the descriptor of an empty directory. */
int kit_setup(void **state);
int kit_teardown(void **state);
static inline int kit_dir(void **state)
{
	return *(int *)*state;
}

/* Fails the test unless it opens. */
struct inlay_store *kit_open(int dir, const char *name, enum inlay_store_flags flags);
#define KIT_WRITE ((enum inlay_store_flags)(INLAY_STORE_CREATE | INLAY_STORE_WRITE))
#define KIT_READ  ((enum inlay_store_flags)0)

/* Object `number` with `size` bytes: always the same, and different from all others. */
uint8_t *kit_bytes(uint64_t number, size_t size);
struct inlay_digest kit_id(uint64_t number, size_t size);
struct inlay_digest kit_put(struct inlay_store *store, uint64_t number, size_t size);
/* True when the object is there and has its bytes; fails the test on wrong bytes. -EBADMSG is
 * "not there" when `damaged` is allowed. */
bool kit_has(struct inlay_store *store, uint64_t number, size_t size, bool damaged);
#define kit_assert_has(store, number, size) assert_true(kit_has(store, number, size, false))

/* publish of generation `number` in ref "w", after a sync. */
void kit_publish(struct inlay_store *store, uint64_t number);

/* Findings of a verify; each is printed when `quiet` is false. */
struct kit_findings {
	size_t count;
	size_t with_id;
	struct inlay_digest last_id;
	char last[300];
};
struct kit_findings kit_verify(struct inlay_store *store, bool quiet);
#define kit_assert_clean(store) assert_int_equal(kit_verify(store, false).count, 0)

/* Files. */
void kit_copy_tree(int from, const char *from_name, int to, const char *to_name);
uint8_t *kit_read(int dir, const char *path, size_t *ret_len);
void kit_write(int dir, const char *path, const void *bytes, size_t len);
void kit_flip(int dir, const char *path, uint64_t bit);
void kit_truncate(int dir, const char *path, uint64_t bytes);
uint64_t kit_size(int dir, const char *path);
bool kit_exists(int dir, const char *path);
/* Regular files below a directory, relative to it, sorted. */
struct kit_files {
	size_t count;
	char **paths;
};
struct kit_files kit_files(int dir, const char *name);
void kit_files_free(struct kit_files *f);
/* No file whose name begins with a dot. */
void kit_assert_no_leftovers(int dir, const char *name);
size_t kit_open_fds(void);

/* The seed of a random test: `seed`, or INLAY_SEED from the environment. Printed. */
uint64_t kit_seed(uint64_t seed);
/* xorshift64*, so that the seed is enough. */
uint64_t kit_random(uint64_t *seed);

#endif
