/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcrypto's SHA256_* calls are marked as old since 3.0. They are taken on purpose: they cannot
 * fail and need no memory and no lookup of a provider, which for objects of a few hundred bytes
 * would cost more than the hash. The code behind them is the same (SHA extensions where the machine
 * has them).
 */
#define OPENSSL_API_COMPAT 0x10101000L
#include <assert.h>

#include "inlay/digest.h"

#include <openssl/sha.h>
#include <xxhash.h>

static_assert(sizeof(SHA256_CTX) <= sizeof(((struct inlay_hasher *)0)->state),
	      "the opaque state holds the library's");
static_assert(SHA256_DIGEST_LENGTH == INLAY_DIGEST_BYTES, "digest length");

void inlay_hasher_init(struct inlay_hasher *h)
{
	SHA256_Init((SHA256_CTX *)h->state);
}

void inlay_hasher_add(struct inlay_hasher *h, const void *bytes, size_t len)
{
	SHA256_Update((SHA256_CTX *)h->state, bytes, len);
}

void inlay_hasher_end(struct inlay_hasher *h, struct inlay_digest *ret)
{
	SHA256_Final(ret->b, (SHA256_CTX *)h->state);
}

void inlay_digest_of(const void *bytes, size_t len, struct inlay_digest *ret)
{
	struct inlay_hasher h;

	inlay_hasher_init(&h);
	inlay_hasher_add(&h, bytes, len);
	inlay_hasher_end(&h, ret);
}

bool inlay_digest_is_zero(const struct inlay_digest *d)
{
	static const struct inlay_digest zero;

	return inlay_digest_equal(d, &zero);
}

void inlay_digest_hex(const struct inlay_digest *d, char ret[static INLAY_DIGEST_HEX])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < INLAY_DIGEST_BYTES; i++) {
		ret[2 * i] = digits[d->b[i] >> 4];
		ret[2 * i + 1] = digits[d->b[i] & 15];
	}
	ret[2 * INLAY_DIGEST_BYTES] = 0;
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool inlay_digest_from_hex(const char *hex, struct inlay_digest *ret)
{
	struct inlay_digest d;

	if (strnlen(hex, INLAY_DIGEST_HEX) != INLAY_DIGEST_HEX - 1)
		return false;
	for (int i = 0; i < INLAY_DIGEST_BYTES; i++) {
		int high = nibble(hex[2 * i]), low = nibble(hex[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		d.b[i] = (uint8_t)(high << 4 | low);
	}
	*ret = d;
	return true;
}

uint64_t inlay_xxh3(const void *bytes, size_t len)
{
	return XXH3_64bits(bytes, len);
}

uint64_t inlay_xxh3_seeded(const void *bytes, size_t len, uint64_t seed)
{
	return XXH3_64bits_withSeed(bytes, len, seed);
}
