/* SPDX-License-Identifier: Apache-2.0 */
#include "store/layout.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "inlay/bytes.h"

static const uint8_t pack_magic[8] = {'i', 'n', 'l', 'a', 'y', 'p', 'a', 'k'};
static const uint8_t index_magic[8] = {'i', 'n', 'l', 'a', 'y', 'i', 'd', 'x'};
static const uint8_t record_magic[4] = {0xf5, 'r', 'e', 'c'};
static const uint8_t loose_magic[4] = {0xf5, 'l', 's', 'e'};

#define SIZE_MASK    ((1ull << 48) - 1)
#define FLAG_DROPPED (1ull << 48)

/* The bytes were found undamaged: so a version and an algorithm that we do not know are newer. */
static int check_version(uint32_t version, uint8_t algorithm, const char *what,
			 struct inlay_error *err)
{
	if (version != LAYOUT_VERSION)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "%s has version %u, this inlay reads version %d", what,
				       version, LAYOUT_VERSION);
	if (algorithm != INLAY_DIGEST_SHA256)
		return inlay_error_set(err, -EPROTONOSUPPORT,
				       "%s has hash algorithm %u, this inlay reads algorithm %d",
				       what, algorithm, INLAY_DIGEST_SHA256);
	return 0;
}

void layout_pack_encode(uint32_t number, uint8_t out[static PACK_HEADER_BYTES])
{
	struct disk_pack_header h = {.version = htole32(LAYOUT_VERSION),
				     .number = htole32(number),
				     .algorithm = INLAY_DIGEST_SHA256};

	memcpy(h.magic, pack_magic, sizeof h.magic);
	h.check = htole64(inlay_xxh3(&h, offsetof(struct disk_pack_header, check)));
	memcpy(out, &h, sizeof h);
}

int layout_pack_check(const uint8_t in[static PACK_HEADER_BYTES], uint32_t number, const char *name,
		      struct inlay_error *err)
{
	struct disk_pack_header h;

	memcpy(&h, in, sizeof h);
	if (memcmp(h.magic, pack_magic, sizeof h.magic) != 0 ||
	    le64toh(h.check) != inlay_xxh3(&h, offsetof(struct disk_pack_header, check)))
		return inlay_error_set(err, -EBADMSG, "the header of pack %s is damaged", name);
	int r = check_version(le32toh(h.version), h.algorithm, name, err);
	if (r < 0)
		return r;
	if (le32toh(h.number) != number)
		return inlay_error_set(err, -EBADMSG, "pack %s says that it is number %u", name,
				       le32toh(h.number));
	return 0;
}

/* Fills in the header of a record whose payload lies behind it, and the checksum over both. */
static void seal_record(uint8_t *out, struct disk_record *h, size_t bytes)
{
	memcpy(h->magic, record_magic, sizeof h->magic);
	h->algorithm = INLAY_DIGEST_SHA256;
	memcpy(out, h, sizeof *h);
	inlay_put_le64(out, inlay_xxh3(out + sizeof h->check, bytes - sizeof h->check));
}

void layout_record_encode(const struct record *r, uint8_t *out)
{
	size_t bytes = layout_record_bytes(r->size);
	struct disk_record h = {.kind = (uint8_t)r->kind,
				.size = htole64(r->size),
				.put_ns = (int64_t)htole64((uint64_t)r->put_ns)};

	memcpy(h.digest, r->id.b, sizeof h.digest);
	if (r->size > 0)
		memcpy(out + RECORD_HEADER_BYTES, r->payload, r->size);
	memset(out + RECORD_HEADER_BYTES + r->size, 0, bytes - RECORD_HEADER_BYTES - r->size);
	seal_record(out, &h, bytes);
}

void layout_record_pad(uint8_t *out, uint32_t size)
{
	struct disk_record h = {.kind = RECORD_PAD, .size = htole64(size)};

	seal_record(out, &h, layout_record_bytes(size));
}

bool layout_record_likely(const uint8_t *in)
{
	return memcmp(in + offsetof(struct disk_record, magic), record_magic,
		      sizeof record_magic) == 0;
}

bool layout_record_decode(const uint8_t *in, size_t len, struct record *ret)
{
	struct disk_record h;

	if (len < sizeof h || !layout_record_likely(in))
		return false;
	memcpy(&h, in, sizeof h);
	uint64_t size = le64toh(h.size);
	if ((h.kind != RECORD_OBJECT && h.kind != RECORD_PAD) ||
	    h.algorithm != INLAY_DIGEST_SHA256 || h.zero != 0 || size >= INLAY_STORE_LOOSE_MIN)
		return false;
	size_t bytes = layout_record_bytes((size_t)size);
	if (bytes > len ||
	    le64toh(h.check) != inlay_xxh3(in + sizeof h.check, bytes - sizeof h.check))
		return false;
	*ret = (struct record){.kind = (enum record_kind)h.kind,
			       .size = (uint32_t)size,
			       .put_ns = (int64_t)le64toh((uint64_t)h.put_ns),
			       .payload = in + sizeof h};
	memcpy(ret->id.b, h.digest, sizeof h.digest);
	return true;
}

void layout_index_encode(const struct index_head *head, uint8_t out[static INDEX_HEADER_BYTES])
{
	struct disk_index_header h = {.version = htole32(LAYOUT_VERSION),
				      .algorithm = INLAY_DIGEST_SHA256,
				      .epoch = htole64(head->epoch),
				      .point_entries = htole64(head->point.entries),
				      .point_pack = htole32(head->point.pack),
				      .point_off = htole64(head->point.off)};

	memcpy(h.magic, index_magic, sizeof h.magic);
	h.check = htole64(inlay_xxh3(&h, offsetof(struct disk_index_header, check)));
	memcpy(out, &h, sizeof h);
}

int layout_index_check(const uint8_t in[static INDEX_HEADER_BYTES], struct index_head *ret,
		       struct inlay_error *err)
{
	struct disk_index_header h;

	memcpy(&h, in, sizeof h);
	if (memcmp(h.magic, index_magic, sizeof h.magic) != 0 ||
	    le64toh(h.check) != inlay_xxh3(&h, offsetof(struct disk_index_header, check)))
		return inlay_error_set(err, -EBADMSG, "the header of the index is damaged");
	int r = check_version(le32toh(h.version), h.algorithm, "the index", err);
	if (r < 0)
		return r;
	uint64_t epoch = le64toh(h.epoch);
	*ret = (struct index_head){.epoch = epoch,
				   .point = {.pack = le32toh(h.point_pack),
					     .off = le64toh(h.point_off),
					     .epoch = epoch,
					     .entries = le64toh(h.point_entries)}};
	return 0;
}

void layout_entry_encode(const struct place *place, uint8_t out[static INDEX_ENTRY_BYTES])
{
	struct disk_index_entry e = {
		.put_ns = (int64_t)htole64((uint64_t)place->put_ns),
		.size_flags = htole64(place->size | (place->dropped ? FLAG_DROPPED : 0)),
		.pack = htole32(place->pack),
		.off8 = htole32((uint32_t)(place->off / LAYOUT_ALIGN))};

	memcpy(e.digest, place->id.b, sizeof e.digest);
	e.check = htole64(inlay_xxh3(&e, offsetof(struct disk_index_entry, check)));
	memcpy(out, &e, sizeof e);
}

bool layout_entry_decode(const uint8_t in[static INDEX_ENTRY_BYTES], struct place *ret)
{
	struct disk_index_entry e;

	memcpy(&e, in, sizeof e);
	if (le64toh(e.check) != inlay_xxh3(&e, offsetof(struct disk_index_entry, check)))
		return false;
	uint64_t size_flags = le64toh(e.size_flags);
	struct place p = {.size = size_flags & SIZE_MASK,
			  .off = (uint64_t)le32toh(e.off8) * LAYOUT_ALIGN,
			  .put_ns = (int64_t)le64toh((uint64_t)e.put_ns),
			  .pack = le32toh(e.pack),
			  .dropped = size_flags & FLAG_DROPPED};
	if ((size_flags & ~(SIZE_MASK | FLAG_DROPPED)) != 0 || p.size > INLAY_OBJECT_MAX)
		return false;
	/* Small objects lie in packs behind the header, large ones are loose. */
	if (p.size >= INLAY_STORE_LOOSE_MIN ? p.pack != 0 || p.off != 0
					    : p.pack == 0 || p.off < PACK_HEADER_BYTES)
		return false;
	memcpy(p.id.b, e.digest, sizeof e.digest);
	*ret = p;
	return true;
}

void layout_loose_encode(const struct place *place, uint8_t out[static LOOSE_FOOTER_BYTES])
{
	struct disk_loose_footer f = {.size = htole64(place->size),
				      .put_ns = (int64_t)htole64((uint64_t)place->put_ns),
				      .version = htole16(LAYOUT_VERSION),
				      .algorithm = INLAY_DIGEST_SHA256};

	memcpy(f.digest, place->id.b, sizeof f.digest);
	memcpy(f.magic, loose_magic, sizeof f.magic);
	f.check = htole64(inlay_xxh3(&f, offsetof(struct disk_loose_footer, check)));
	memcpy(out, &f, sizeof f);
}

int layout_loose_check(const uint8_t in[static LOOSE_FOOTER_BYTES], struct place *ret,
		       struct inlay_error *err)
{
	struct disk_loose_footer f;

	memcpy(&f, in, sizeof f);
	if (memcmp(f.magic, loose_magic, sizeof f.magic) != 0 ||
	    le64toh(f.check) != inlay_xxh3(&f, offsetof(struct disk_loose_footer, check)))
		return inlay_error_set(err, -EBADMSG, "its footer is damaged");
	int r = check_version(le16toh(f.version), f.algorithm, "its file", err);
	if (r < 0)
		return r;
	uint64_t size = le64toh(f.size);
	if (size < INLAY_STORE_LOOSE_MIN || size > INLAY_OBJECT_MAX || f.zero != 0)
		return inlay_error_set(err, -EBADMSG, "its footer says what cannot be");
	*ret = (struct place){.size = size, .put_ns = (int64_t)le64toh((uint64_t)f.put_ns)};
	memcpy(ret->id.b, f.digest, sizeof f.digest);
	return 0;
}
