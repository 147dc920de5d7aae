/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <zstd.h>

#include "inlay/digest.h"
#include "wire/conn.h"
#include "wire/imagemessage.h"
#include "wire/message.h"
#include "wire/objects.h"

static struct inlay_error err;

/* ---- frames ---- */

static void frame_bytes_are_pinned(void **state)
{
	static const uint8_t want[] = {5, 0, 0, 0, 3, 0, 0, 0};
	uint8_t bytes[FRAME_HEADER_BYTES + 5];
	struct frame f;
	size_t used;

	(void)state;
	frame_seal(bytes, 3, "hello", 5);
	memcpy(bytes + FRAME_HEADER_BYTES, "hello", 5);
	assert_memory_equal(bytes, want, sizeof want);
	/* XXH3-64 of "hello" with the first eight bytes as the seed */
	assert_true(inlay_get_le64(bytes + 8) == 0x9b54a757a549ecac);
	assert_ok(frame_open(bytes, sizeof bytes, &f, &used, &err));
	assert_int_equal(f.type, 3);
	assert_int_equal(f.len, 5);
	assert_int_equal(used, sizeof bytes);
}

static void every_flipped_bit_is_found(void **state)
{
	uint8_t bytes[FRAME_HEADER_BYTES + 40];
	struct frame f;
	size_t used;

	(void)state;
	memset(bytes, 'x', sizeof bytes);
	frame_seal(bytes, 9, bytes + FRAME_HEADER_BYTES, 40);
	for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int r = frame_open(bytes, sizeof bytes, &f, &used, &err);
		/* A length that grew may wait for more; it is never taken for a frame. */
		assert_true(r == -EPROTO || (r == FRAME_MORE && bit < 32));
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t cut = 0; cut < sizeof bytes; cut++)
		assert_int_equal(frame_open(bytes, cut, &f, &used, &err), FRAME_MORE);
}

static void a_frame_that_is_too_long_is_refused_at_once(void **state)
{
	uint8_t header[FRAME_HEADER_BYTES] = {0};
	struct frame f;
	size_t used;

	(void)state;
	inlay_put_le32(header, INLAY_FRAME_MAX + 1);
	assert_result(frame_open(header, sizeof header, &f, &used, &err), -EPROTO);
	inlay_put_le32(header, INLAY_FRAME_MAX);
	assert_result(frame_open(header, sizeof header, &f, &used, &err), FRAME_MORE);
}

static void magic_is_found_behind_noise(void **state)
{
	uint8_t bytes[100];
	size_t used;

	(void)state;
	memset(bytes, 0x89, sizeof bytes);
	memcpy(bytes + 50, frame_magic, FRAME_MAGIC_BYTES);
	assert_int_equal(frame_find_magic(bytes, 100, &used), 0);
	assert_int_equal(used, 66);
	/* Cut inside the magic: what may be its start is kept. */
	for (size_t cut = 0; cut < 66; cut++) {
		assert_int_equal(frame_find_magic(bytes, cut, &used), FRAME_MORE);
		assert_true(cut - used <= FRAME_MAGIC_BYTES - 1 && used <= 50);
	}
}

/* ---- connections ---- */

static void pair(struct conn *a, struct conn *b)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_ok(conn_init(a, fds[0], fds[0], &err));
	assert_ok(conn_init(b, fds[1], fds[1], &err));
}

static void large_flows_in_both_directions_do_not_block(void **state)
{
	enum { FRAMES = 40 };
	struct conn a, b;
	static uint8_t payload[INLAY_FRAME_MAX];
	int got_a = 0, got_b = 0;
	struct frame f;

	(void)state;
	pair(&a, &b);
	for (int i = 0; i < FRAMES; i++) {
		assert_ok(conn_send(&a, 1, payload, sizeof payload, &err));
		assert_ok(conn_send(&b, 2, payload, sizeof payload, &err));
	}
	while (got_a < FRAMES || got_b < FRAMES) {
		assert_true(conn_pump(&a, &err) == 0 && conn_pump(&b, &err) == 0);
		int r;
		while ((r = conn_next(&a, &f, &err)) == 0)
			got_a += f.type == 2 && f.len == sizeof payload;
		assert_int_equal(r, CONN_NOTHING);
		while ((r = conn_next(&b, &f, &err)) == 0)
			got_b += f.type == 1 && f.len == sizeof payload;
		assert_int_equal(r, CONN_NOTHING);
	}
	conn_fini(&a);
	assert_int_equal(conn_recv(&b, 0, &f, &err), CONN_END);
	conn_fini(&b);
}

static void a_cut_inside_a_frame_is_an_error(void **state)
{
	struct conn a;
	struct frame f;
	uint8_t header[FRAME_HEADER_BYTES];
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_ok(conn_init(&a, fds[0], fds[0], &err));
	frame_seal(header, 1, "hello", 5);
	assert_int_equal(write(fds[1], "noise", 5), 5);
	assert_int_equal(write(fds[1], frame_magic, FRAME_MAGIC_BYTES), FRAME_MAGIC_BYTES);
	assert_int_equal(write(fds[1], header, sizeof header), sizeof header);
	close(fds[1]);
	assert_result(conn_recv(&a, 0, &f, &err), -EPIPE);
	conn_fini(&a);
}

static void waiting_ends_with_its_deadline(void **state)
{
	struct conn a, b;
	struct frame f;

	(void)state;
	pair(&a, &b);
	assert_result(conn_recv(&a, 1, &f, &err), -ETIMEDOUT);
	conn_fini(&a);
	conn_fini(&b);
}

/* ---- messages ---- */

static void messages_come_back(void **state)
{
	struct inlay_buf b = {0};
	struct message_open open = {.flags = MESSAGE_OPEN_CREATE | MESSAGE_OPEN_BOOT,
				    .path = message_text_of("/ws\n"),
				    .owner = message_text_of("me"),
				    .origin = message_text_of(""),
				    .lock_wait_ms = 1234,
				    .lease = 0x1122334455667788,
				    .config = {.upper = 3,
					       .xattrs = 2,
					       .owner = 1,
					       .set_redirects = true,
					       .redirects = {"a\0b\0", 4}}},
			    open_back;
	struct inlay_generation g = {.number = 7,
				     .parent = 6,
				     .time_ns = -5,
				     .entries = 1ull << 40,
				     .root = {.mode = 0755, .mtime_ns = 99},
				     .origin = "who"},
				g_back;

	(void)state;
	message_encode_open(&b, &open);
	assert_ok(message_decode_open(b.data, b.len, &open_back, &err));
	assert_int_equal(open_back.path.len, 4);
	assert_memory_equal(open_back.path.bytes, "/ws\n", 4);
	assert_int_equal(open_back.lock_wait_ms, 1234);
	assert_true(open_back.lease == 0x1122334455667788);
	assert_int_equal(open_back.config.upper, 3);
	assert_int_equal(open_back.config.xattrs, 2);
	assert_int_equal(open_back.config.owner, 1);
	assert_true(open_back.config.set_redirects && open_back.config.redirects.len == 4);
	for (size_t cut = 0; cut < b.len; cut++)
		assert_result(message_decode_open(b.data, cut, &open_back, &err), -EPROTO);
	inlay_buf_u8(&b, 0);
	assert_result(message_decode_open(b.data, b.len, &open_back, &err), -EPROTO);
	inlay_buf_clear(&b);
	message_encode_generation(&b, &g);
	assert_ok(message_decode_generation(b.data, b.len, &g_back, &err));
	assert_memory_equal(&g, &g_back, sizeof g);
	inlay_buf_fini(&b);
}

static void outcomes_come_back_and_stand_in_a_row(void **state)
{
	struct inlay_buf b = {0}, row = {0};
	struct message_outcome m = {.name = message_text_of("nav.build"),
				    .has_good = true,
				    .good = {{9}},
				    .time_ns = 5,
				    .took_ns = 1ull << 40,
				    .generation = 7,
				    .status = 3 << 8,
				    .timed_out = true},
			       back;
	struct message_text rest, one;
	size_t count = 0;

	(void)state;
	message_encode_outcome(&b, &m);
	assert_ok(message_decode_outcome(b.data, b.len, &back, &err));
	assert_true(back.name.len == 9 && back.has_good && back.timed_out && back.generation == 7);
	assert_true(back.took_ns == 1ull << 40 && back.status == 3 << 8 && back.time_ns == 5);
	assert_true(inlay_digest_equal(&m.good, &back.good));
	for (size_t cut = 0; cut < b.len; cut++)
		assert_result(message_decode_outcome(b.data, cut, &back, &err), -EPROTO);
	for (int i = 0; i < 3; i++)
		message_add_text(&row, b.data, b.len);
	rest = (struct message_text){(const char *)row.data, row.len};
	for (; message_next_text(&rest, &one); count++)
		assert_int_equal(one.len, b.len);
	assert_int_equal(count, 3);
	/* One that is cut ends it. */
	rest = (struct message_text){(const char *)row.data, b.len};
	assert_false(message_next_text(&rest, &one));
	inlay_buf_fini(&row);
	inlay_buf_fini(&b);
}

static void messages_of_the_upper_come_back(void **state)
{
	struct inlay_buf b = {0};
	struct message_upper u = {.kind = 2,
				  .shadows = true,
				  .has_synced = true,
				  .mode = 0100644,
				  .size = 1ull << 40,
				  .mtime_ns = -1,
				  .synced = {{7}},
				  .path = message_text_of("d/f"),
				  .target = message_text_of("")},
			     u_back;
	struct message_pulled p[] =
		{{.step = MESSAGE_PULLED_BEGIN,
		  .index = 3,
		  .size = 9,
		  .mode = 0100755,
		  .mtime_ns = 5},
		 {.step = MESSAGE_PULLED_BYTES, .bytes = message_text_of("bytes")},
		 {.step = MESSAGE_PULLED_END, .code = -2, .bytes = message_text_of("why")}},
			      p_back;

	(void)state;
	message_encode_upper(&b, &u);
	assert_ok(message_decode_upper(b.data, b.len, &u_back, &err));
	assert_true(u_back.kind == 2 && u_back.shadows && u_back.has_synced &&
		    u_back.mode == 0100644);
	assert_true(u_back.size == 1ull << 40 && u_back.mtime_ns == -1 && u_back.path.len == 3);
	assert_true(inlay_digest_equal(&u.synced, &u_back.synced));
	for (size_t cut = 0; cut < b.len; cut++)
		assert_result(message_decode_upper(b.data, cut, &u_back, &err), -EPROTO);
	b.data[0] = 0x80 | 63; /* a kind that there is not */
	assert_result(message_decode_upper(b.data, b.len, &u_back, &err), -EPROTO);
	for (size_t i = 0; i < 3; i++) {
		inlay_buf_clear(&b);
		message_encode_pulled(&b, &p[i]);
		assert_ok(message_decode_pulled(b.data, b.len, &p_back, &err));
		assert_true(p_back.step == p[i].step && p_back.index == p[i].index &&
			    p_back.size == p[i].size);
		assert_true(p_back.code == p[i].code && p_back.bytes.len == p[i].bytes.len);
		for (size_t cut = 0; cut < b.len; cut++)
			assert_result(message_decode_pulled(b.data, cut, &p_back, &err), -EPROTO);
	}
	b.data[0] = 4;
	assert_result(message_decode_pulled(b.data, b.len, &p_back, &err), -EPROTO);
	inlay_buf_fini(&b);
}

static void a_longer_hello_is_understood(void **state)
{
	struct inlay_buf b = {0};
	struct message_hello m = {.version = 9,
				  .version_min = 1,
				  .program = message_text_of("inlay 9"),
				  .machine = message_text_of("x86_64")},
			     back;

	(void)state;
	message_encode_hello(&b, &m);
	inlay_buf_printf(&b, "what version 9 adds");
	assert_ok(message_decode_hello(b.data, b.len, &back, &err));
	assert_int_equal(back.version, 9);
	inlay_buf_fini(&b);
}

/* ---- the object stream ---- */

struct received {
	struct inlay_buf blob;
	struct inlay_digest blobs[8];
	size_t blob_count, dropped, tree_count, op_count;
	struct objects_op ops[8];
	char names[8][16];
	bool has_basis;
	const char *old; /* what the receiver has as the old content; NULL = nothing */
	struct inlay_buf patch;
	struct inlay_digest patch_basis, patch_result;
	uint64_t patch_size;
	int patches_kept, patches_dropped;
};

static int on_begin(void *ctx, uint64_t size, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)size;
	(void)e;
	inlay_buf_clear(&r->blob);
	return 0;
}

static int on_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)e;
	inlay_buf_add(&r->blob, bytes, len);
	return 0;
}

static int on_end(void *ctx, bool keep, struct inlay_digest *ret, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)e;
	if (!keep) {
		r->dropped++;
		return 0;
	}
	inlay_digest_of(r->blob.data, r->blob.len, ret);
	r->blobs[r->blob_count++ % 8] = *ret;
	return 0;
}

static int on_tree(void *ctx, const uint64_t *basis, struct objects_op *ops, size_t count,
		   struct inlay_tree_built *ret, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)e;
	r->has_basis = basis;
	r->op_count = count;
	for (size_t i = 0; i < count && i < 8; i++) {
		r->ops[i] = ops[i];
		(void)snprintf(r->names[i], 16, "%.*s", ops[i].entry.name_len, ops[i].entry.name);
	}
	*ret = (struct inlay_tree_built){.below = {.entries = 5}, .subdirs = 2};
	memset(ret->id.b, 0xee, sizeof ret->id.b);
	r->tree_count++;
	return 0;
}

static int on_basis(void *ctx, uint64_t prefix, size_t max, struct inlay_buf *to,
		    struct inlay_error *e)
{
	struct received *r = ctx;

	(void)prefix;
	if (!r->old || strlen(r->old) > max)
		return inlay_error_set(e, -ESTALE, "not here");
	inlay_buf_add(to, r->old, strlen(r->old));
	return 0;
}

static int on_patch_begin(void *ctx, const struct inlay_digest *basis,
			  const struct inlay_digest *id, uint64_t size, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)e;
	inlay_buf_clear(&r->patch);
	r->patch_basis = *basis;
	r->patch_result = *id;
	r->patch_size = size;
	return 0;
}

static int on_patch_bytes(void *ctx, const void *bytes, size_t len, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)e;
	inlay_buf_add(&r->patch, bytes, len);
	return 0;
}

static int on_patch_end(void *ctx, bool keep, struct inlay_error *e)
{
	struct received *r = ctx;

	(void)e;
	r->patches_kept += keep;
	r->patches_dropped += !keep;
	return 0;
}

static const struct objects_sink sink = {on_begin,       on_bytes,       on_end,       on_basis,
					 on_patch_begin, on_patch_bytes, on_patch_end, on_tree};

static int collect(void *ctx, const void *bytes, size_t len, struct inlay_error *e)
{
	(void)e;
	inlay_buf_add(ctx, bytes, len);
	return 0;
}

static void send_blob(struct objects_out *o, const char *text, struct inlay_digest *ret)
{
	inlay_digest_of(text, strlen(text), ret);
	assert_ok(objects_out_blob_begin(o, strlen(text), &err));
	assert_ok(objects_out_blob_bytes(o, text, strlen(text), &err));
	assert_ok(objects_out_blob_end(o, ret, &err));
}

static struct objects_op op(const char *name, uint32_t mode, const struct inlay_digest *id)
{
	struct objects_op o = {.entry = {.name = name,
					 .name_len = (uint8_t)strlen(name),
					 .mode = mode,
					 .mtime_ns = 1700000000000000001,
					 .size = 3}};

	if (id)
		o.entry.id = *id;
	return o;
}

/* A stream with one of everything. */
static void make_stream(struct inlay_buf *wire, struct inlay_digest ids[2])
{
	struct objects_out o;
	struct inlay_digest sub, elsewhere, top;

	assert_ok(objects_out_init(&o, collect, wire, &err));
	send_blob(&o, "one", &ids[0]);
	assert_ok(objects_out_blob_begin(&o, 4, &err));
	assert_ok(objects_out_blob_bytes(&o, "torn", 4, &err));
	assert_ok(objects_out_blob_end(&o, NULL, &err));
	send_blob(&o, "two", &ids[1]);
	struct objects_op inner[] = {op("b", S_IFREG | 0644, &ids[1]),
				     op("a", S_IFREG | 0600, &ids[0])};
	memset(sub.b, 0xee, sizeof sub.b);
	assert_ok(objects_out_tree(&o, NULL, inner, 2, &sub, &err));
	assert_true(objects_out_has(&o, &sub));
	inlay_digest_of("elsewhere", 9, &elsewhere);
	inlay_digest_of("top", 3, &top);
	struct objects_op outer[] = {op("sub", S_IFDIR | 0755, &sub), op("gone", 0, NULL),
				     op("known", S_IFREG | 0644, &elsewhere),
				     op("link", S_IFLNK | 0777, NULL),
				     op("touched", S_IFREG, &ids[0])};
	outer[1].remove = true;
	outer[3].entry.target = "sub/a";
	outer[3].entry.target_len = 5;
	outer[4].inherit = OBJECTS_SAME_CONTENT | OBJECTS_SAME_MODE;
	assert_ok(objects_out_tree(&o, &elsewhere, outer, 5, &top, &err));
	assert_ok(objects_out_end(&o, &err));
	objects_out_fini(&o);
}

static void check_received(const struct received *r, const struct inlay_digest ids[2])
{
	assert_int_equal(r->blob_count, 2);
	assert_int_equal(r->dropped, 1);
	assert_int_equal(r->tree_count, 2);
	assert_true(inlay_digest_equal(&r->blobs[0], &ids[0]));
	assert_true(inlay_digest_equal(&r->blobs[1], &ids[1]));
	assert_true(r->has_basis);
	assert_int_equal(r->op_count, 5);
	assert_string_equal(r->names[0], "gone");
	assert_true(r->ops[0].remove);
	assert_string_equal(r->names[1], "known");
	assert_int_equal(r->ops[1].entry.size, 3);
	assert_string_equal(r->names[3], "sub");
	assert_true(r->ops[3].below_known);
	assert_int_equal(r->ops[3].entry.below.entries, 5);
	assert_int_equal(r->ops[3].entry.mode, S_IFDIR | 0755);
	assert_int_equal(r->ops[3].entry.mtime_ns, 1700000000000000001);
	assert_string_equal(r->names[4], "touched");
	assert_int_equal(r->ops[4].inherit, OBJECTS_SAME_CONTENT | OBJECTS_SAME_MODE);
}

static void objects_come_back(void **state)
{
	static const size_t pieces[] = {1, 2, 7, 100000};
	struct inlay_buf wire = {0};
	struct inlay_digest ids[2];

	(void)state;
	make_stream(&wire, ids);
	/* However the stream is cut into frames, the same comes out. */
	for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
		struct received r = {0};
		struct objects_in *in;
		assert_ok(objects_in_new(&sink, &r, &in, &err));
		for (size_t at = 0; at < wire.len; at += pieces[p]) {
			size_t n = wire.len - at < pieces[p] ? wire.len - at : pieces[p];
			assert_ok(objects_in_feed(in, wire.data + at, n, &err));
		}
		assert_true(objects_in_idle(in));
		check_received(&r, ids);
		objects_in_free(in);
		inlay_buf_fini(&r.blob);
	}
	inlay_buf_fini(&wire);
}

static void a_broken_stream_is_refused(void **state)
{
	struct inlay_buf wire = {0};
	struct inlay_digest ids[2];
	unsigned refused = 0;

	(void)state;
	make_stream(&wire, ids);
	for (size_t bit = 0; bit < wire.len * 8; bit += 3) {
		struct received r = {0};
		struct objects_in *in;
		assert_ok(objects_in_new(&sink, &r, &in, &err));
		wire.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int result = objects_in_feed(in, wire.data, wire.len, &err);
		assert_true(result == 0 || result == -EPROTO);
		refused += result == -EPROTO;
		wire.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		objects_in_free(in);
		inlay_buf_fini(&r.blob);
		inlay_buf_fini(&r.patch);
	}
	assert_true(refused > 50);
	inlay_buf_fini(&wire);
}

/* ---- differences ---- */

static const char old_text[] = "It was the best of times, it was the worst of times, it was the "
			       "age of wisdom, it was the age of "
			       "foolishness, it was the epoch of belief, it was the epoch of "
			       "incredulity, it was the season of Light";
static const char new_text[] = "It was the best of times, it was the worst of times, it was the "
			       "age of wisdom, it was the age of "
			       "foolish men, it was the epoch of belief, it was the epoch of "
			       "incredulity, it was the season of Light";

/* A blob before, one as a difference, one patch, one patch that is dropped, one blob behind the end. */
static void make_deltas(struct inlay_buf *wire, struct inlay_digest ids[4])
{
	struct objects_out o;
	struct inlay_buf prefix = {0};
	struct inlay_idset bases = {0};
	struct inlay_digest old;

	assert_ok(objects_out_init(&o, collect, wire, &err));
	send_blob(&o, "before", &ids[0]);
	inlay_digest_of(old_text, strlen(old_text), &old);
	inlay_buf_add(&prefix, old_text, strlen(old_text));
	assert_ok(inlay_idset_add(&bases, &old, &err));
	struct objects_frame f = {
		.level = 3, .bytes = strlen(new_text), .prefix = &prefix, .bases = &bases};
	assert_ok(objects_out_frame(&o, &f, &err));
	assert_null(prefix.data);
	send_blob(&o, new_text, &ids[1]);
	inlay_digest_of("patched", 7, &ids[2]);
	assert_ok(objects_out_patch_begin(&o, &old, &ids[2], 7, &err));
	assert_ok(objects_out_patch_bytes(&o, "abcdef", 6, &err));
	assert_ok(objects_out_patch_bytes(&o, "gh", 2, &err));
	assert_ok(objects_out_patch_end(&o, &ids[2], &err));
	assert_ok(objects_out_patch_begin(&o, &old, &ids[3], 7, &err));
	assert_ok(objects_out_patch_end(&o, NULL, &err));
	assert_true(objects_out_has(&o, &ids[2]) && !objects_out_has(&o, &ids[3]));
	assert_ok(objects_out_end(&o, &err));
	assert_int_equal(o.ended.count, 3);
	send_blob(&o, "behind", &ids[3]);
	assert_ok(objects_out_end(&o, &err));
	objects_out_fini(&o);
	inlay_idset_fini(&bases);
}

static void differences_come_back(void **state)
{
	static const size_t pieces[] = {1, 3, 100000};
	struct inlay_buf wire = {0};
	struct inlay_digest ids[4];

	(void)state;
	make_deltas(&wire, ids);
	for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
		struct received r = {.old = old_text};
		struct objects_in *in;
		assert_ok(objects_in_new(&sink, &r, &in, &err));
		for (size_t at = 0; at < wire.len; at += pieces[p]) {
			size_t n = wire.len - at < pieces[p] ? wire.len - at : pieces[p];
			assert_ok(objects_in_feed(in, wire.data + at, n, &err));
		}
		assert_int_equal(r.blob_count, 3);
		assert_true(inlay_digest_equal(&r.blobs[0], &ids[0]));
		assert_true(inlay_digest_equal(&r.blobs[1], &ids[1]));
		assert_true(inlay_digest_equal(&r.blobs[2], &ids[3]));
		assert_int_equal(r.patches_kept, 1);
		assert_int_equal(r.patches_dropped, 1);
		assert_int_equal(r.patch_size, 7);
		objects_in_free(in);
		inlay_buf_fini(&r.blob);
		inlay_buf_fini(&r.patch);
	}
	/* 200 bytes of text that differ in a few: most of it is what the basis gives. */
	assert_true(wire.len < 260);
	inlay_buf_fini(&wire);
}

static void feed_deltas(const char *old, int want, size_t want_bases)
{
	struct inlay_buf wire = {0};
	struct inlay_digest ids[4];
	struct received r = {.old = old};
	struct objects_in *in;
	size_t count;

	make_deltas(&wire, ids);
	assert_ok(objects_in_new(&sink, &r, &in, &err));
	assert_result(objects_in_feed(in, wire.data, wire.len, &err), want);
	/* What came before is counted, so that it need not be sent again. */
	assert_int_equal(objects_in_count(in), 1);
	const uint64_t *bases = objects_in_bases(in, &count);
	assert_int_equal(count, want_bases);
	struct inlay_digest id;
	inlay_digest_of(old_text, strlen(old_text), &id);
	assert_true(bases[0] == inlay_digest_prefix(&id));
	objects_in_free(in);
	inlay_buf_fini(&r.blob);
	inlay_buf_fini(&r.patch);
	inlay_buf_fini(&wire);
}

static void a_missing_basis_is_told(void **state)
{
	(void)state;
	feed_deltas(NULL, -ESTALE, 1);
}

/* The wrong basis gives bytes, but never a result that is taken for good. */
static void a_wrong_basis_is_noticed(void **state)
{
	char wrong[sizeof old_text];

	(void)state;
	(void)snprintf(wrong, sizeof wrong, "%s", old_text);
	wrong[20] ^= 1;
	struct inlay_buf wire = {0};
	struct inlay_digest ids[4];
	struct received r = {.old = wrong};
	struct objects_in *in;
	make_deltas(&wire, ids);
	assert_ok(objects_in_new(&sink, &r, &in, &err));
	assert_result(objects_in_feed(in, wire.data, wire.len, &err), -ESTALE);
	objects_in_free(in);
	inlay_buf_fini(&r.blob);
	inlay_buf_fini(&r.patch);
	inlay_buf_fini(&wire);
	/* one that is much shorter than it was */
	feed_deltas("It", -ESTALE, 1);
}

static int feed_items(const void *items, size_t len)
{
	uint8_t packed[512];
	struct received r = {.old = old_text};
	struct objects_in *in;

	size_t n = ZSTD_compress(packed, sizeof packed, items, len, 1);
	assert_ok(objects_in_new(&sink, &r, &in, &err));
	int result = objects_in_feed(in, packed, n, &err);
	/* What follows bases or a whole item is another frame. */
	if (result == 0)
		result = objects_in_feed(in, packed, n, &err);
	objects_in_free(in);
	inlay_buf_fini(&r.blob);
	inlay_buf_fini(&r.patch);
	return result;
}

static void items_of_differences_are_pinned(void **state)
{
	static const uint8_t bases[] = {4, 1, 1, 2, 3, 4, 5, 6, 7, 8};
	static const uint8_t none[] = {4, 0};
	static const uint8_t many[] = {4, 0x81, 0x20}; /* 4097 */
	static const uint8_t behind[] = {4, 1, 1, 2, 3, 4, 5, 6, 7, 8, 3};
	static const uint8_t patch[] = {
		5, 0xb0, 1, 1, 1, 1, 1, 1, 1,    1, 1, 1,    1,    1,    1,    1,    1, 1, 1,
		1, 1,    1, 1, 1, 1, 1, 1, 1,    1, 1, 1,    1,    1,    0xd0, 2,    2, 2, 2,
		2, 2,    2, 2, 2, 2, 2, 2, 2,    2, 2, 2,    2,    2,    2,    2,    2, 2, 2,
		2, 2,    2, 2, 2, 2, 2, 2, 0x80, 1, 3, 0x61, 0x62, 0x63, 1,    0x64, 0, 0};
	uint8_t bad[sizeof patch];

	(void)state;
	/* The second frame has a prefix then, and is none that was made for it: without a checksum of its
	 * own it may still be read. */
	assert_ok(feed_items(bases, sizeof bases));
	assert_result(feed_items(none, sizeof none), -EPROTO);
	assert_result(feed_items(many, sizeof many), -EPROTO);
	assert_result(feed_items(behind, sizeof behind), -EPROTO);
	assert_ok(feed_items(patch, sizeof patch));
	memcpy(bad, patch, sizeof bad);
	bad[sizeof bad - 1] = 2;
	assert_result(feed_items(bad, sizeof bad), -EPROTO);
	memcpy(bad, patch, sizeof bad);
	memcpy(bad + 67, "\xff\xff\xff\x01", 4); /* a piece of 4 MiB */
	assert_result(feed_items(bad, sizeof bad), -EPROTO);
}

static void a_nak_comes_back(void **state)
{
	struct inlay_buf b = {0};
	static const uint8_t prefixes[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
	struct message_nak m = {.taken = 300, .count = 2, .prefixes = prefixes}, back;

	(void)state;
	message_encode_nak(&b, &m);
	assert_int_equal(b.len, 18);
	assert_memory_equal(b.data, "\xac\x02\x01\x02", 4);
	assert_ok(message_decode_nak(b.data, b.len, &back, &err));
	assert_int_equal(back.taken, 300);
	assert_int_equal(back.count, 2);
	assert_memory_equal(back.prefixes, prefixes, 16);
	assert_result(message_decode_nak(b.data, b.len - 1, &back, &err), -EPROTO);
	assert_result(message_decode_nak(b.data, 1, &back, &err), -EPROTO);
	inlay_buf_fini(&b);
}

static void numbers_start_anew_behind_an_end(void **state)
{
	struct inlay_buf wire = {0};
	struct objects_out o;
	struct inlay_digest a, b, tree;
	struct received r = {0};
	struct objects_in *in;

	(void)state;
	assert_ok(objects_out_init(&o, collect, &wire, &err));
	send_blob(&o, "first", &a);
	assert_ok(objects_out_end(&o, &err));
	assert_false(objects_out_has(&o, &a));
	send_blob(&o, "second", &b);
	inlay_digest_of("t", 1, &tree);
	struct objects_op ops[] = {op("a", S_IFREG | 0644, &a), op("b", S_IFREG | 0644, &b)};
	assert_ok(objects_out_tree(&o, NULL, ops, 2, &tree, &err));
	assert_ok(objects_out_end(&o, &err));
	assert_ok(objects_in_new(&sink, &r, &in, &err));
	assert_ok(objects_in_feed(in, wire.data, wire.len, &err));
	assert_true(inlay_digest_equal(&r.ops[0].entry.id, &a));
	assert_true(inlay_digest_equal(&r.ops[1].entry.id, &b));
	objects_in_free(in);
	objects_out_fini(&o);
	inlay_buf_fini(&wire);
	inlay_buf_fini(&r.blob);
}

static void messages_of_images_come_back(void **state)
{
	struct inlay_buf b = {0};
	const struct message_image image = {
		.newest = true,
		.in_use = true,
		.generation = {.number = 3, .origin = "robot - linux/any"}};
	const struct message_image_push push = {.manifest = {{1}},
						.basis = {{2}},
						.emulate = true,
						.origin = message_text_of("robot dev linux/arm64"),
						.owner = message_text_of("u@h pid 1")};
	const struct message_image_done done = {.end = MESSAGE_IMAGE_DONE,
						.number = 7,
						.changed = true,
						.entries = 1ull << 33,
						.shared = 5,
						.sync_ns = 9};
	struct message_image image_back;
	struct message_image_push push_back;
	struct message_image_done back;

	(void)state;
	message_encode_image(&b, &image);
	assert_ok(message_decode_image(b.data, b.len, &image_back, &err));
	assert_true(image_back.newest && !image_back.whole && image_back.in_use);
	assert_string_equal(image_back.generation.origin, image.generation.origin);
	for (size_t cut = 0; cut < b.len; cut++)
		assert_result(message_decode_image(b.data, cut, &image_back, &err), -EPROTO);
	b.data[0] = 8;
	assert_result(message_decode_image(b.data, b.len, &image_back, &err), -EPROTO);
	inlay_buf_clear(&b);
	message_encode_image_push(&b, &push);
	assert_ok(message_decode_image_push(b.data, b.len, &push_back, &err));
	assert_true(push_back.emulate && !push_back.squash && push_back.origin.len == 21);
	assert_true(inlay_digest_equal(&push_back.basis, &push.basis));
	for (size_t cut = 0; cut < b.len; cut++)
		assert_result(message_decode_image_push(b.data, cut, &push_back, &err), -EPROTO);
	inlay_buf_clear(&b);
	message_encode_image_done(&b, &done);
	assert_ok(message_decode_image_done(b.data, b.len, &back, &err));
	assert_true(back.number == 7 && back.changed && back.entries == 1ull << 33 &&
		    back.sync_ns == 9);
	for (size_t cut = 0; cut < b.len; cut++)
		assert_result(message_decode_image_done(b.data, cut, &back, &err), -EPROTO);
	/* Ids come whole. */
	assert_result(message_decode_image_done("\2abc", 4, &back, &err), -EPROTO);
	assert_ok(message_decode_image_done("\0031234567812345678", 17, &back, &err));
	assert_true(back.end == MESSAGE_IMAGE_REFUSED && back.ids.len == 16);
	assert_result(message_decode_image_done("\4", 1, &back, &err), -EPROTO);
	inlay_buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frame_bytes_are_pinned),
		cmocka_unit_test(every_flipped_bit_is_found),
		cmocka_unit_test(a_frame_that_is_too_long_is_refused_at_once),
		cmocka_unit_test(magic_is_found_behind_noise),
		cmocka_unit_test(large_flows_in_both_directions_do_not_block),
		cmocka_unit_test(a_cut_inside_a_frame_is_an_error),
		cmocka_unit_test(waiting_ends_with_its_deadline),
		cmocka_unit_test(messages_come_back),
		cmocka_unit_test(outcomes_come_back_and_stand_in_a_row),
		cmocka_unit_test(messages_of_the_upper_come_back),
		cmocka_unit_test(messages_of_images_come_back),
		cmocka_unit_test(a_longer_hello_is_understood),
		cmocka_unit_test(objects_come_back),
		cmocka_unit_test(a_broken_stream_is_refused),
		cmocka_unit_test(differences_come_back),
		cmocka_unit_test(a_missing_basis_is_told),
		cmocka_unit_test(a_wrong_basis_is_noticed),
		cmocka_unit_test(items_of_differences_are_pinned),
		cmocka_unit_test(a_nak_comes_back),
		cmocka_unit_test(numbers_start_anew_behind_an_end),
	};

	(void)signal(SIGPIPE, SIG_IGN); /* as both programs do */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
