/*
 * ltx: what we write we read back; what the format forbids neither side lets
 * through; and what a real LiteFS wrote (tests/vectors) means what it should.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <endian.h>
#include <errno.h>
#include <lz4frame.h>

#include "format/crc64.h"
#include "format/ltx.h"

#define PRE UINT64_C(0x8123456789abcdef)
#define POST UINT64_C(0xfedcba9876543210)

/* ---- a file in memory, as sink and as source that can be made to fail ---- */

struct file {
	uint8_t *data;
	size_t len, cap;
	size_t pos, chunk; /* source: given so far; at most so much at a time, 0: all */
	long calls, fail_at; /* the call that fails, from 1; 0: none */
};

static int sink(void *ctx, const void *data, size_t len)
{
	struct file *f = ctx;

	assert_true(len > 0);
	if (++f->calls == f->fail_at)
		return -ENOSPC;
	if (f->len + len > f->cap) {
		f->cap = (f->len + len) * 2;
		f->data = realloc(f->data, f->cap);
		assert_non_null(f->data);
	}
	memcpy(f->data + f->len, data, len);
	f->len += len;
	return 0;
}

static ptrdiff_t source(void *ctx, void *buf, size_t len)
{
	struct file *f = ctx;
	size_t n = f->len - f->pos;

	assert_true(len > 0);
	if (++f->calls == f->fail_at)
		return -EPIPE;
	if (n > len)
		n = len;
	if (f->chunk && n > f->chunk)
		n = f->chunk;
	if (n)
		memcpy(buf, f->data + f->pos, n);
	f->pos += n;
	return (ptrdiff_t)n;
}

static void file_free(struct file *f)
{
	free(f->data);
	*f = (struct file){0};
}

/* ---- pages whose content follows from their number: half noise, half zero ---- */

static void make_page(uint32_t pgno, uint8_t *page, uint32_t size)
{
	uint64_t x = pgno * UINT64_C(0x9e3779b97f4a7c15) + size;

	memset(page, 0, size);
	for (uint32_t i = 0; i < size / 2; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page[i] = (uint8_t)(x >> 24);
	}
}

static struct ltx_header change_header(uint32_t page_size, uint32_t flags)
{
	return (struct ltx_header){
		.flags = flags,
		.page_size = page_size,
		.commit = 9,
		.min_txid = 5,
		.max_txid = 5,
		.timestamp_ms = 1700000000123,
		.pre_apply = PRE,
		.node_id = UINT64_C(0xfeedfacecafebeef),
	};
}

static struct ltx_header snapshot_header(uint32_t page_size, uint32_t flags, uint32_t commit)
{
	struct ltx_header h = change_header(page_size, flags);

	h.commit = commit;
	h.min_txid = 1;
	h.pre_apply = 0;
	return h;
}

static uint64_t xor_of_pages(uint32_t page_size, const uint32_t *pgnos)
{
	uint8_t page[65536];
	uint64_t sum = 0;

	for (; *pgnos; pgnos++) {
		make_page(*pgnos, page, page_size);
		sum ^= ltx_page_checksum(*pgnos, page, page_size);
	}
	return sum | LTX_CHECKSUM_FLAG;
}

/* pgnos ends with 0. The first error, or 0. */
static int encode(struct file *f, const struct ltx_header *h, const uint32_t *pgnos, uint64_t post,
		  struct ltx_trailer *ret)
{
	uint8_t page[65536];
	struct ltx_encoder enc;
	int err = ltx_encoder_init(&enc, h, sink, f);

	for (; !err && *pgnos; pgnos++) {
		make_page(*pgnos, page, h->page_size);
		err = ltx_encoder_page(&enc, *pgnos, page);
	}
	if (!err)
		err = ltx_encoder_finish(&enc, post, ret);
	if (!err)
		assert_int_equal(enc.bytes, f->len);
	ltx_encoder_fini(&enc);
	ltx_encoder_fini(&enc);
	return err;
}

static struct file encoded(const struct ltx_header *h, const uint32_t *pgnos, uint64_t post)
{
	struct file f = {0};
	struct ltx_trailer trailer;

	assert_int_equal(encode(&f, h, pgnos, post, &trailer), 0);
	return f;
}

static bool same_header(const struct ltx_header *a, const struct ltx_header *b)
{
	uint8_t buf[2][LTX_HEADER_SIZE];

	ltx_header_encode(a, buf[0]);
	ltx_header_encode(b, buf[1]);
	return !memcmp(buf[0], buf[1], LTX_HEADER_SIZE);
}

/* The first error, or 0; *ret_same: header, pages and post-apply are what the others say. */
static int decode(struct file *f, const struct ltx_header *h, const uint32_t *pgnos, uint64_t post, bool *ret_same)
{
	static uint8_t page[65536], want[65536];
	struct ltx_decoder dec;
	struct ltx_trailer trailer;
	uint32_t pgno;
	bool same;
	int more = ltx_decoder_init(&dec, source, f);

	same = !more && same_header(&dec.header, h);
	while (!more) {
		more = ltx_decoder_page(&dec, &pgno, page);
		if (more != 1)
			break;
		more = 0;
		if (!*pgnos || pgno != *pgnos) {
			same = false;
			continue;
		}
		pgnos++;
		make_page(pgno, want, dec.header.page_size);
		same = same && !memcmp(page, want, dec.header.page_size);
	}
	if (!more) {
		assert_int_equal(ltx_decoder_page(&dec, &pgno, page), 0);
		more = ltx_decoder_finish(&dec, &trailer);
		same = same && !more && !*pgnos && trailer.post_apply == post;
	}
	ltx_decoder_fini(&dec);
	ltx_decoder_fini(&dec);
	*ret_same = same && !more;
	return more;
}

static void rewind_file(struct file *f, size_t chunk)
{
	f->pos = 0;
	f->calls = 0;
	f->chunk = chunk;
}

static const uint32_t change_pages[] = {1, 2, 7, 9, 0};
static const uint32_t snapshot_pages[] = {1, 2, 3, 0};
static const uint32_t no_pages[] = {0};

/* ---- both directions ---- */

static void round_trip(const struct ltx_header *h, const uint32_t *pgnos, uint64_t post)
{
	static const size_t chunks[] = {0, 1, 3, 4096, 65537};
	struct file f = encoded(h, pgnos, post);

	for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
		bool same;

		rewind_file(&f, chunks[i]);
		assert_int_equal(decode(&f, h, pgnos, post, &same), 0);
		assert_true(same);
		assert_int_equal(f.pos, f.len);
	}
	file_free(&f);
}

static void ltx__every_page_size_plain_and_compressed__round_trip(void **state)
{
	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2)
		for (uint32_t flags = 0; flags <= 1; flags++) {
			struct ltx_header change = change_header(size, flags);
			struct ltx_header snapshot = snapshot_header(size, flags, 3);
			struct ltx_header drop = change_header(size, flags);

			drop.commit = 0;
			round_trip(&change, change_pages, POST);
			round_trip(&snapshot, snapshot_pages, xor_of_pages(size, snapshot_pages));
			round_trip(&drop, no_pages, LTX_CHECKSUM_FLAG);
		}
}

static void ltx__header_extremes__round_trip(void **state)
{
	struct ltx_header h = change_header(512, 0);

	(void)state;
	h.commit = UINT32_MAX;
	h.min_txid = h.max_txid = UINT64_MAX;
	h.timestamp_ms = -1;
	h.pre_apply = h.node_id = UINT64_MAX;
	h.wal_offset = h.wal_size = INT64_MAX;
	h.wal_salt[0] = h.wal_salt[1] = UINT32_MAX;
	round_trip(&h, (uint32_t[]){UINT32_MAX, 0}, POST);
}

static void ltx_encoder__plain_file__exact_layout(void **state)
{
	struct ltx_header h = change_header(512, 0);
	struct file f = {0};
	struct ltx_trailer t;
	uint8_t page[512];
	uint64_t be;

	(void)state;
	h.wal_offset = 32;
	h.wal_size = 0x1122334455;
	h.wal_salt[0] = 0xa1a2a3a4;
	h.wal_salt[1] = 0xb1b2b3b4;
	assert_int_equal(encode(&f, &h, (uint32_t[]){7, 0}, POST, &t), 0);
	assert_int_equal(f.len, 100 + 4 + 512 + 4 + 16);
	assert_memory_equal(f.data,
			    "LTX1\0\0\0\0\0\0\2\0\0\0\0\11\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\5\0\0\1\x8b\xcf\xe5\x68\x7b"
			    "\x81\x23\x45\x67\x89\xab\xcd\xef\0\0\0\0\0\0\0\x20\0\0\0\x11\x22\x33\x44\x55"
			    "\xa1\xa2\xa3\xa4\xb1\xb2\xb3\xb4\xfe\xed\xfa\xce\xca\xfe\xbe\xef"
			    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\7",
			    104);
	make_page(7, page, sizeof page);
	assert_memory_equal(f.data + 104, page, sizeof page);
	assert_memory_equal(f.data + 616, "\0\0\0\0\xfe\xdc\xba\x98\x76\x54\x32\x10", 12);
	assert_true(t.file_checksum == (crc64_iso(0, f.data, f.len - 8) | LTX_CHECKSUM_FLAG));
	be = htobe64(t.file_checksum);
	assert_memory_equal(f.data + 628, &be, 8);
	file_free(&f);
}

static void ltx_encoder__compressible_pages__smaller_with_lz4(void **state)
{
	struct ltx_header plain = change_header(65536, 0), lz4 = change_header(65536, 1);
	struct file a = encoded(&plain, change_pages, POST), b = encoded(&lz4, change_pages, POST);

	(void)state;
	assert_true(b.len < a.len * 3 / 4);
	file_free(&a);
	file_free(&b);
}

/* ---- what the format forbids ---- */

static void assert_header_bad(const struct ltx_header *h)
{
	uint8_t buf[LTX_HEADER_SIZE];
	struct ltx_header out = {.commit = 77};
	struct ltx_encoder enc;
	struct file f = {0};

	assert_int_equal(ltx_header_check(h), -EINVAL);
	ltx_header_encode(h, buf);
	assert_int_equal(ltx_header_decode(buf, &out), -EBADMSG);
	assert_int_equal(out.commit, 77);
	assert_int_equal(ltx_encoder_init(&enc, h, sink, &f), -EINVAL);
	ltx_encoder_fini(&enc);
	assert_int_equal(f.calls, 0);
}

#define WITH(assignment)                                                                                              \
	do {                                                                                                          \
		struct ltx_header h = change_header(4096, 0);                                                         \
		assert_int_equal(ltx_header_check(&h), 0);                                                            \
		assignment;                                                                                           \
		assert_header_bad(&h);                                                                                \
	} while (0)

static void ltx_header__each_forbidden_value__refused(void **state)
{
	(void)state;
	WITH(h.flags = 2);
	WITH(h.flags = 0x80000001);
	WITH(h.page_size = 0);
	WITH(h.page_size = 256);
	WITH(h.page_size = 131072);
	WITH(h.page_size = 4097);
	WITH(h.page_size = 0x80000000);
	WITH(h.min_txid = 0);
	WITH(h.max_txid = 0);
	WITH(h.max_txid = h.min_txid - 1);
	WITH(h.pre_apply = 0);
	WITH(h.pre_apply = PRE & ~LTX_CHECKSUM_FLAG);
	WITH(h.min_txid = 1);
	WITH((h.wal_offset = -1, h.wal_size = 1));
	WITH((h.wal_offset = 1, h.wal_size = -1));
	WITH(h.wal_offset = 32);
	WITH(h.wal_size = 32);
	WITH(h.wal_salt[0] = 1);
	WITH(h.wal_salt[1] = 1);
}

static void ltx_header_decode__magic_or_padding_changed__refused(void **state)
{
	struct ltx_header h = change_header(4096, 0), out;
	uint8_t buf[LTX_HEADER_SIZE];

	(void)state;
	for (size_t at = 0; at < LTX_HEADER_SIZE; at++) {
		if (at >= 4 && at < 80)
			continue;
		ltx_header_encode(&h, buf);
		assert_int_equal(ltx_header_decode(buf, &out), 0);
		buf[at] ^= 1;
		assert_int_equal(ltx_header_decode(buf, &out), -EBADMSG);
	}
}

/* Like the encoder, but asking nothing: for files that are wrong and carry right checksums. */
static struct file forged(const struct ltx_header *h, const uint32_t *pgnos, uint64_t post)
{
	struct file f = {0};
	uint8_t page[65536], buf[LTX_HEADER_SIZE];
	uint32_t be32;
	uint64_t be64;

	ltx_header_encode(h, buf);
	sink(&f, buf, sizeof buf);
	for (; *pgnos; pgnos++) {
		be32 = htobe32(*pgnos);
		make_page(*pgnos, page, h->page_size);
		sink(&f, &be32, sizeof be32);
		sink(&f, page, h->page_size);
	}
	be32 = 0;
	sink(&f, &be32, sizeof be32);
	be64 = htobe64(post);
	sink(&f, &be64, sizeof be64);
	be64 = htobe64(crc64_iso(0, f.data, f.len) | LTX_CHECKSUM_FLAG);
	sink(&f, &be64, sizeof be64);
	return f;
}

static void assert_both_refuse(const struct ltx_header *h, const uint32_t *pgnos, uint64_t post)
{
	struct file f = {0}, bad = forged(h, pgnos, post);
	struct ltx_trailer t;
	bool same;

	assert_int_equal(encode(&f, h, pgnos, post, &t), -EINVAL);
	assert_int_equal(decode(&bad, h, pgnos, post, &same), -EBADMSG);
	file_free(&f);
	file_free(&bad);
}

/* The same way leads to a good file when nothing is wrong: the refusals below are not by accident. */
static void ltx__forged_without_fault__accepted(void **state)
{
	struct ltx_header h = snapshot_header(512, 0, 3);
	uint64_t post = xor_of_pages(512, snapshot_pages);
	struct file f = forged(&h, snapshot_pages, post);
	bool same;

	(void)state;
	assert_int_equal(decode(&f, &h, snapshot_pages, post, &same), 0);
	assert_true(same);
	file_free(&f);
}

static void ltx__page_numbers_against_the_rules__both_sides_refuse(void **state)
{
	struct ltx_header h = change_header(512, 0);

	(void)state;
	assert_both_refuse(&h, (uint32_t[]){10, 0}, POST);
	assert_both_refuse(&h, (uint32_t[]){1, 9, 10, 0}, POST);
	assert_both_refuse(&h, (uint32_t[]){2, 2, 0}, POST);
	assert_both_refuse(&h, (uint32_t[]){2, 1, 0}, POST);
	h.commit = 0;
	assert_both_refuse(&h, (uint32_t[]){1, 0}, LTX_CHECKSUM_FLAG);
}

static void ltx__snapshot_with_a_gap_or_wrong_sum__both_sides_refuse(void **state)
{
	static const uint32_t missing[][4] = {{0}, {1, 0}, {1, 2, 0}, {2, 3, 0}, {1, 3, 0}};
	struct ltx_header h = snapshot_header(512, 0, 3);
	uint64_t post = xor_of_pages(512, snapshot_pages);

	(void)state;
	for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
		assert_both_refuse(&h, missing[i], xor_of_pages(512, missing[i]));
	assert_both_refuse(&h, snapshot_pages, post ^ 1);
	assert_both_refuse(&h, snapshot_pages, LTX_CHECKSUM_FLAG);
}

static void ltx__post_apply_without_flag_or_drop_with_content__both_sides_refuse(void **state)
{
	struct ltx_header h = change_header(512, 0);

	(void)state;
	assert_both_refuse(&h, change_pages, POST & ~LTX_CHECKSUM_FLAG);
	assert_both_refuse(&h, change_pages, 0);
	h.commit = 0;
	assert_both_refuse(&h, no_pages, POST);
}

static void ltx_encoder_page__zero__refused(void **state)
{
	struct ltx_header h = change_header(512, 0);
	struct ltx_encoder enc;
	struct file f = {0};
	uint8_t page[512] = {0};

	(void)state;
	assert_int_equal(ltx_encoder_init(&enc, &h, sink, &f), 0);
	assert_int_equal(ltx_encoder_page(&enc, 0, page), -EINVAL);
	ltx_encoder_fini(&enc);
	file_free(&f);
}

static void ltx_decoder_finish__before_the_last_page__refused(void **state)
{
	struct ltx_header h = change_header(512, 0);
	struct file f = encoded(&h, change_pages, POST);
	struct ltx_decoder dec;
	struct ltx_trailer t;

	(void)state;
	assert_int_equal(ltx_decoder_init(&dec, source, &f), 0);
	assert_int_equal(ltx_decoder_finish(&dec, &t), -EINVAL);
	ltx_decoder_fini(&dec);
	file_free(&f);
}

/* ---- the lock page ---- */

static void ltx__lock_page__neither_sent_nor_accepted(void **state)
{
	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		uint32_t lock = ltx_lock_pgno(size);
		struct ltx_header h = change_header(size, 0);

		assert_int_equal(((uint64_t)lock - 1) * size, 0x40000000);
		h.commit = lock + 5;
		assert_both_refuse(&h, (uint32_t[]){lock, 0}, POST);
		assert_both_refuse(&h, (uint32_t[]){lock - 1, lock, lock + 1, 0}, POST);
		round_trip(&h, (uint32_t[]){1, lock - 1, lock + 1, lock + 5, 0}, POST);
	}
}

static void ltx_snapshot__around_the_lock_page__skips_it_and_nothing_else(void **state)
{
	(void)state;
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		uint32_t lock = ltx_lock_pgno(size);
		struct ltx_header h = snapshot_header(size, 0, lock + 1);

		assert_true(ltx_pgno_fits(&h, lock - 2, lock - 1));
		assert_false(ltx_pgno_fits(&h, lock - 1, lock));
		assert_true(ltx_pgno_fits(&h, lock - 1, lock + 1));
		assert_false(ltx_pgno_fits(&h, lock - 2, lock + 1));
		assert_false(ltx_pgno_fits(&h, lock + 1, lock + 2));
		assert_true(ltx_block_complete(&h, lock + 1));
		assert_false(ltx_block_complete(&h, lock - 1));
		h.commit = lock;
		assert_true(ltx_block_complete(&h, lock - 1));
		assert_false(ltx_block_complete(&h, lock - 2));
	}
}

/* More than 1 GiB of database, for real; zero pages, so that the file is small. */
static void ltx_snapshot__beyond_the_lock_page__round_trip(void **state)
{
	static uint8_t page[65536];
	const uint32_t lock = ltx_lock_pgno(sizeof page), commit = lock + 2;
	struct ltx_header h = snapshot_header(sizeof page, LTX_FLAG_COMPRESS_LZ4, commit);
	struct ltx_encoder enc;
	struct ltx_decoder dec;
	struct ltx_trailer t;
	struct file f = {0};
	uint64_t sum = 0;
	uint32_t pgno, seen = 0;

	(void)state;
	assert_int_equal(ltx_encoder_init(&enc, &h, sink, &f), 0);
	for (pgno = 1; pgno <= commit; pgno++) {
		if (pgno == lock)
			continue;
		sum ^= ltx_page_checksum(pgno, page, sizeof page);
		assert_int_equal(ltx_encoder_page(&enc, pgno, page), 0);
	}
	assert_int_equal(ltx_encoder_finish(&enc, sum | LTX_CHECKSUM_FLAG, &t), 0);
	ltx_encoder_fini(&enc);
	assert_int_equal(ltx_decoder_init(&dec, source, &f), 0);
	while (ltx_decoder_page(&dec, &pgno, page) == 1) {
		seen++;
		assert_int_equal(pgno, seen < lock ? seen : seen + 1);
	}
	assert_int_equal(seen, commit - 1);
	assert_int_equal(ltx_decoder_finish(&dec, &t), 0);
	ltx_decoder_fini(&dec);
	file_free(&f);
}

/* ---- damage ---- */

static struct file small_file(uint32_t flags, struct ltx_header *ret_header)
{
	*ret_header = change_header(512, flags);
	return encoded(ret_header, change_pages, POST);
}

static void ltx_decoder__every_bit_flipped__never_accepted(void **state)
{
	struct ltx_header h;
	struct file f = small_file(0, &h);
	bool same;

	(void)state;
	for (size_t bit = 0; bit < f.len * 8; bit++) {
		f.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		rewind_file(&f, 0);
		assert_int_equal(decode(&f, &h, change_pages, POST, &same), -EBADMSG);
		f.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	rewind_file(&f, 0);
	assert_int_equal(decode(&f, &h, change_pages, POST, &same), 0);
	file_free(&f);
}

/* LZ4 can say the same in two ways: a flip that still decodes must decode to the very same. */
static void ltx_decoder__every_bit_flipped_compressed__refused_or_same_content(void **state)
{
	struct ltx_header h;
	struct file f = small_file(LTX_FLAG_COMPRESS_LZ4, &h);
	size_t refused = 0;
	bool same;

	(void)state;
	for (size_t bit = 0; bit < f.len * 8; bit++) {
		int err;

		f.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		rewind_file(&f, 0);
		err = decode(&f, &h, change_pages, POST, &same);
		if (err)
			assert_int_equal(err, -EBADMSG);
		else
			assert_true(same);
		refused += err != 0;
		f.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_true(refused >= f.len * 8 - 64);
	file_free(&f);
}

static void ltx_decoder__truncated_at_each_byte__refused(void **state)
{
	(void)state;
	for (uint32_t flags = 0; flags <= 1; flags++) {
		struct ltx_header h;
		struct file f = small_file(flags, &h);
		size_t full = f.len;
		bool same;

		for (f.len = 0; f.len < full; f.len++) {
			rewind_file(&f, f.len % 2 ? 0 : 100);
			assert_int_equal(decode(&f, &h, change_pages, POST, &same), -EBADMSG);
		}
		rewind_file(&f, 0);
		assert_int_equal(decode(&f, &h, change_pages, POST, &same), 0);
		file_free(&f);
	}
}

static void ltx_decoder__something_follows__refused(void **state)
{
	(void)state;
	for (uint32_t flags = 0; flags <= 1; flags++)
		for (size_t chunk = 0; chunk <= 1; chunk++) {
			struct ltx_header h;
			struct file f = small_file(flags, &h);
			bool same;

			sink(&f, "", 1);
			rewind_file(&f, chunk);
			assert_int_equal(decode(&f, &h, change_pages, POST, &same), -EBADMSG);
			file_free(&f);
		}
}

/* ---- LZ4 frames that our encoder would not write ---- */

enum frame_kind {
	FRAME_AS_OURS,
	FRAME_LINKED_4M,
	FRAME_LONGER,
	FRAME_SHORTER,
	FRAME_TWICE,
	FRAME_SPLIT, /* the content in two frames */
	FRAME_SKIPPABLE,
};

/* A compressed file of one page made by hand around LZ4F itself. */
static struct file with_frame(const struct ltx_header *h, enum frame_kind kind)
{
	static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0};
	LZ4F_preferences_t prefs = {.frameInfo.blockMode = LZ4F_blockIndependent};
	uint8_t plain[4 + 512 + 4 + 1] = {0, 0, 0, 1}, packed[4096], head[LTX_HEADER_SIZE];
	size_t len = sizeof plain - 1, packed_len;
	uint64_t be[2] = {htobe64(POST)};
	uint64_t crc;
	struct file f = {0};

	make_page(1, plain + 4, 512);
	ltx_header_encode(h, head);
	crc = crc64_iso(crc64_iso(crc64_iso(0, head, sizeof head), plain, len), be, 8);
	be[1] = htobe64(crc | LTX_CHECKSUM_FLAG);
	if (kind == FRAME_LONGER)
		len++;
	if (kind == FRAME_SHORTER)
		len -= 4;
	if (kind == FRAME_LINKED_4M)
		prefs.frameInfo = (LZ4F_frameInfo_t){.blockSizeID = LZ4F_max4MB, .contentSize = len};
	packed_len = LZ4F_compressFrame(packed, sizeof packed, plain, kind == FRAME_SPLIT ? len / 2 : len, &prefs);
	if (kind == FRAME_SPLIT)
		packed_len += LZ4F_compressFrame(packed + packed_len, sizeof packed - packed_len, plain + len / 2,
						 len - len / 2, &prefs);
	assert_false(LZ4F_isError(packed_len));
	sink(&f, head, sizeof head);
	if (kind == FRAME_SKIPPABLE)
		sink(&f, skippable, sizeof skippable);
	sink(&f, packed, packed_len);
	if (kind == FRAME_TWICE)
		sink(&f, packed, packed_len);
	sink(&f, be, sizeof be);
	return f;
}

static void ltx_decoder__foreign_frames__legal_ones_only(void **state)
{
	struct ltx_header h = change_header(512, LTX_FLAG_COMPRESS_LZ4);

	(void)state;
	for (int kind = FRAME_AS_OURS; kind <= FRAME_SKIPPABLE; kind++)
		for (size_t chunk = 0; chunk <= 1; chunk++) {
			struct file f = with_frame(&h, (enum frame_kind)kind);
			bool same;

			rewind_file(&f, chunk);
			assert_int_equal(decode(&f, &h, (uint32_t[]){1, 0}, POST, &same),
					 kind <= FRAME_LINKED_4M ? 0 : -EBADMSG);
			assert_int_equal(same, kind <= FRAME_LINKED_4M);
			file_free(&f);
		}
}

/* ---- failing callbacks ---- */

static void ltx_encoder__sink_fails_at_each_call__its_error(void **state)
{
	(void)state;
	for (uint32_t flags = 0; flags <= 1; flags++) {
		struct ltx_header h = change_header(4096, flags);
		struct file f = encoded(&h, change_pages, POST);
		long calls = f.calls;

		file_free(&f);
		assert_true(calls > 3);
		for (long at = 1; at <= calls; at++) {
			struct ltx_trailer t;

			f.fail_at = at;
			assert_int_equal(encode(&f, &h, change_pages, POST, &t), -ENOSPC);
			assert_int_equal(f.calls, at);
			file_free(&f);
		}
	}
}

static void ltx_decoder__source_fails_at_each_call__its_error(void **state)
{
	(void)state;
	for (uint32_t flags = 0; flags <= 1; flags++) {
		struct ltx_header h;
		struct file f = small_file(flags, &h);
		long calls;
		bool same;

		rewind_file(&f, 1);
		assert_int_equal(decode(&f, &h, change_pages, POST, &same), 0);
		calls = f.calls;
		assert_true(calls > (long)f.len);
		for (f.fail_at = 1; f.fail_at <= calls; f.fail_at++) {
			rewind_file(&f, 1);
			assert_int_equal(decode(&f, &h, change_pages, POST, &same), -EPIPE);
			assert_int_equal(f.calls, f.fail_at);
		}
		file_free(&f);
	}
}

/* ---- what a real LiteFS wrote ---- */

static struct file vector(const char *what, uint32_t page_size, const char *suffix)
{
	const char *srcdir = getenv("srcdir");
	struct file f = {0};
	char path[512];
	uint8_t buf[4096];
	size_t n;
	FILE *in;

	snprintf(path, sizeof path, "%s/tests/vectors/%s-%u-%s.ltx", srcdir ? srcdir : ".", what, page_size, suffix);
	in = fopen(path, "rb");
	if (!in)
		fail_msg("cannot open %s", path);
	while ((n = fread(buf, 1, sizeof buf, in)) > 0)
		sink(&f, buf, n);
	fclose(in);
	return f;
}

struct database {
	uint64_t sums[16]; /* page checksums, 0: no page */
	uint64_t txid, checksum;
};

/* Applies the file to *db by the rules, not by believing its post-apply checksum; writes it again to out. */
static void apply(struct database *db, struct file *f, struct file *out, uint32_t out_flags)
{
	static uint8_t page[65536];
	struct ltx_decoder dec;
	struct ltx_encoder enc;
	struct ltx_header h;
	struct ltx_trailer t, t_out;
	uint64_t sum = 0;
	uint32_t pgno;

	assert_int_equal(ltx_decoder_init(&dec, source, f), 0);
	h = dec.header;
	h.flags = out_flags;
	assert_int_equal(ltx_encoder_init(&enc, &h, sink, out), 0);
	if (h.min_txid != 1) {
		assert_int_equal(h.min_txid, db->txid + 1);
		assert_true(h.pre_apply == db->checksum);
	}
	assert_true(h.commit < 16);
	while (ltx_decoder_page(&dec, &pgno, page) == 1) {
		db->sums[pgno] = ltx_page_checksum(pgno, page, h.page_size);
		assert_int_equal(ltx_encoder_page(&enc, pgno, page), 0);
	}
	assert_int_equal(ltx_decoder_finish(&dec, &t), 0);
	for (uint32_t i = 1; i < 16; i++) {
		if (i > h.commit)
			db->sums[i] = 0;
		sum ^= db->sums[i];
	}
	assert_true(t.post_apply == (sum | LTX_CHECKSUM_FLAG));
	assert_int_equal(ltx_encoder_finish(&enc, t.post_apply, &t_out), 0);
	if (h.flags == dec.header.flags)
		assert_true(t_out.file_checksum == t.file_checksum);
	db->txid = h.max_txid;
	db->checksum = t.post_apply;
	ltx_decoder_fini(&dec);
	ltx_encoder_fini(&enc);
}

static void one_vector(struct database *db, const char *what, uint32_t page_size, const char *suffix)
{
	struct database before = *db, again = *db;
	struct file f = vector(what, page_size, suffix), plain = {0}, lz4 = {0}, plain2 = {0};

	apply(db, &f, &plain, 0);
	if (!strcmp(suffix, "plain")) {
		assert_int_equal(plain.len, f.len);
		assert_memory_equal(plain.data, f.data, f.len);
	}
	apply(&again, &plain, &lz4, LTX_FLAG_COMPRESS_LZ4);
	again = before;
	apply(&again, &lz4, &plain2, 0);
	assert_memory_equal(&again, db, sizeof again);
	assert_int_equal(plain2.len, plain.len);
	assert_memory_equal(plain2.data, plain.data, plain.len);
	file_free(&f);
	file_free(&plain);
	file_free(&lz4);
	file_free(&plain2);
}

static void vectors__life_of_a_database__applies_and_reencodes(void **state)
{
	static const struct {
		uint32_t page_size;
		const char *suffix;
	} lives[] = {{512, "plain"}, {512, "lz4"}, {4096, "lz4"}, {65536, "lz4"}};
	static const char *const steps[] = {"create", "journal", "towal", "wal", "grow", "delete", "truncate", "drop"};

	(void)state;
	for (size_t l = 0; l < sizeof lives / sizeof lives[0]; l++) {
		struct database db = {0};

		for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++)
			one_vector(&db, steps[s], lives[l].page_size, lives[l].suffix);
		assert_int_equal(db.txid, 8);
		assert_true(db.checksum == LTX_CHECKSUM_FLAG);
	}
}

/* What LiteFS sent to a late replica is what its single transactions lead to. */
static void vectors__snapshot_of_several_transactions__equals_their_sum(void **state)
{
	static const char *const steps[] = {"create", "journal", "towal", "wal", "grow", "delete", "truncate"};
	static const char *const suffixes[] = {"plain", "lz4"};

	(void)state;
	for (size_t x = 0; x < 2; x++) {
		struct database full = {0}, single = {0};

		one_vector(&full, "full", 512, suffixes[x]);
		for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++)
			one_vector(&single, steps[s], 512, suffixes[x]);
		assert_memory_equal(&full, &single, sizeof full);
	}
}

/* LiteFS' library has to read our frames: same version, block mode, checksums and block size as its own. */
static void vectors__lz4_frame_descriptor__as_ours(void **state)
{
	struct ltx_header h = change_header(4096, LTX_FLAG_COMPRESS_LZ4);
	struct file theirs = vector("wal", 4096, "lz4"), ours = encoded(&h, change_pages, POST);

	(void)state;
	assert_memory_equal(ours.data + LTX_HEADER_SIZE, theirs.data + LTX_HEADER_SIZE, 7);
	file_free(&theirs);
	file_free(&ours);
}

/* Some bytes overwritten or cut out; on plain files the file checksum is then made right again. */
static void damage(struct file *f, uint64_t *x, bool fix)
{
	uint64_t be;

	for (int n = 0; n < 3; n++) {
		*x ^= *x << 13;
		*x ^= *x >> 7;
		*x ^= *x << 17;
		if (*x % 5 == 0 && f->len > 200) {
			size_t at = (*x >> 8) % (f->len - 64), cut = (*x >> 40) % 64;

			memmove(f->data + at, f->data + at + cut, f->len - at - cut);
			f->len -= cut;
		} else {
			size_t range = *x % 3 ? f->len : LTX_HEADER_SIZE + 20;

			f->data[(*x >> 8) % (range < f->len ? range : f->len)] = (uint8_t)(*x >> 56);
		}
	}
	if (fix) {
		be = htobe64(crc64_iso(0, f->data, f->len - 8) | LTX_CHECKSUM_FLAG);
		memcpy(f->data + f->len - 8, &be, 8);
	}
}

/* Accepted only if it is a file that we would write ourselves. */
static void decode_damaged(struct file *f, size_t *ret_accepted)
{
	static uint8_t page[65536];
	struct ltx_decoder dec;
	struct ltx_encoder enc = {0};
	struct ltx_trailer t, t_out;
	struct file out = {0};
	uint32_t pgno;
	int more = ltx_decoder_init(&dec, source, f);

	if (!more)
		assert_int_equal(ltx_encoder_init(&enc, &dec.header, sink, &out), 0);
	while (!more && (more = ltx_decoder_page(&dec, &pgno, page)) == 1) {
		assert_int_equal(ltx_encoder_page(&enc, pgno, page), 0);
		more = 0;
	}
	if (!more)
		more = ltx_decoder_finish(&dec, &t);
	if (!more) {
		assert_int_equal(ltx_encoder_finish(&enc, t.post_apply, &t_out), 0);
		assert_true(t.file_checksum == t_out.file_checksum);
		++*ret_accepted;
	} else {
		assert_int_equal(more, -EBADMSG);
	}
	ltx_decoder_fini(&dec);
	ltx_encoder_fini(&enc);
	file_free(&out);
}

static void vectors__random_damage__refused_or_a_file_that_we_would_write(void **state)
{
	static const char *const whats[] = {"create", "wal", "grow", "truncate", "drop", "full"};
	uint64_t x = 88172645463325252;
	size_t accepted_lz4 = 0, accepted_fixed = 0;

	(void)state;
	for (size_t w = 0; w < sizeof whats / sizeof whats[0]; w++)
		for (int lz4 = 0; lz4 <= 1; lz4++) {
			struct file good = vector(whats[w], 512, lz4 ? "lz4" : "plain");

			for (int round = 0; round < 2000; round++) {
				struct file bad = {.data = malloc(good.len), .len = good.len, .cap = good.len};

				assert_non_null(bad.data);
				memcpy(bad.data, good.data, good.len);
				damage(&bad, &x, !lz4);
				decode_damaged(&bad, lz4 ? &accepted_lz4 : &accepted_fixed);
				file_free(&bad);
			}
			file_free(&good);
		}
	/* damage that only touches pages or free header fields, with a right checksum, is another good file */
	assert_true(accepted_fixed > 100 && accepted_fixed < 9000);
	assert_true(accepted_lz4 < 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ltx__every_page_size_plain_and_compressed__round_trip),
		cmocka_unit_test(ltx__header_extremes__round_trip),
		cmocka_unit_test(ltx_encoder__plain_file__exact_layout),
		cmocka_unit_test(ltx_encoder__compressible_pages__smaller_with_lz4),
		cmocka_unit_test(ltx_header__each_forbidden_value__refused),
		cmocka_unit_test(ltx_header_decode__magic_or_padding_changed__refused),
		cmocka_unit_test(ltx__forged_without_fault__accepted),
		cmocka_unit_test(ltx__page_numbers_against_the_rules__both_sides_refuse),
		cmocka_unit_test(ltx__snapshot_with_a_gap_or_wrong_sum__both_sides_refuse),
		cmocka_unit_test(ltx__post_apply_without_flag_or_drop_with_content__both_sides_refuse),
		cmocka_unit_test(ltx_encoder_page__zero__refused),
		cmocka_unit_test(ltx_decoder_finish__before_the_last_page__refused),
		cmocka_unit_test(ltx__lock_page__neither_sent_nor_accepted),
		cmocka_unit_test(ltx_snapshot__around_the_lock_page__skips_it_and_nothing_else),
		cmocka_unit_test(ltx_snapshot__beyond_the_lock_page__round_trip),
		cmocka_unit_test(ltx_decoder__every_bit_flipped__never_accepted),
		cmocka_unit_test(ltx_decoder__every_bit_flipped_compressed__refused_or_same_content),
		cmocka_unit_test(ltx_decoder__truncated_at_each_byte__refused),
		cmocka_unit_test(ltx_decoder__something_follows__refused),
		cmocka_unit_test(ltx_decoder__foreign_frames__legal_ones_only),
		cmocka_unit_test(ltx_encoder__sink_fails_at_each_call__its_error),
		cmocka_unit_test(ltx_decoder__source_fails_at_each_call__its_error),
		cmocka_unit_test(vectors__life_of_a_database__applies_and_reencodes),
		cmocka_unit_test(vectors__snapshot_of_several_transactions__equals_their_sum),
		cmocka_unit_test(vectors__lz4_frame_descriptor__as_ours),
		cmocka_unit_test(vectors__random_damage__refused_or_a_file_that_we_would_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
