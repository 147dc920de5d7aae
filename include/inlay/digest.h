/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_DIGEST_H
#define INLAY_DIGEST_H

/*
 * What identifies content: SHA-256 (FIPS 180-4), from libcrypto. XXH3 is the index only: it finds,
 * it checks against bit rot, and it never decides alone that two contents are the same.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	INLAY_DIGEST_BYTES = 32,
	INLAY_DIGEST_HEX = 2 * INLAY_DIGEST_BYTES + 1, /* with the NUL */
	INLAY_DIGEST_SHA256 = 1, /* the algorithm byte in every format; the only one today */
};

struct inlay_digest {
	uint8_t b[INLAY_DIGEST_BYTES];
};

/* Incremental; lives on the stack, needs no fini. */
struct inlay_hasher {
	_Alignas(16) uint8_t state[128];
};

void inlay_digest_of(const void *bytes, size_t len, struct inlay_digest *ret);
void inlay_hasher_init(struct inlay_hasher *h);
void inlay_hasher_add(struct inlay_hasher *h, const void *bytes, size_t len);
void inlay_hasher_end(struct inlay_hasher *h, struct inlay_digest *ret);

static inline bool inlay_digest_equal(const struct inlay_digest *a, const struct inlay_digest *b)
{
	return memcmp(a->b, b->b, INLAY_DIGEST_BYTES) == 0;
}

/* The first eight bytes: as good as a hash for tables, and the wire's short name of an object. */
static inline uint64_t inlay_digest_prefix(const struct inlay_digest *d)
{
	uint64_t v;
	memcpy(&v, d->b, sizeof v);
	return v;
}

bool inlay_digest_is_zero(const struct inlay_digest *d);
void inlay_digest_hex(const struct inlay_digest *d, char ret[static INLAY_DIGEST_HEX]);
/* False when it is not 64 hexadecimal digits. */
bool inlay_digest_from_hex(const char *hex, struct inlay_digest *ret);

/* XXH3-64 (xxHash 0.8 and later give the same value on every machine), seed 0. */
uint64_t inlay_xxh3(const void *bytes, size_t len);
/* The same with a seed: a checksum that also covers eight bytes that lie elsewhere. */
uint64_t inlay_xxh3_seeded(const void *bytes, size_t len, uint64_t seed);

#endif
